//! What holds for all methods without a running target.

use serde_json::json;

use super::params::{NoParams, decode, hex};
use super::*;
use crate::control::rpc::INVALID_PARAMS;

#[test]
fn methods_are_sorted_and_those_that_the_contract_names_are_there() {
    let names: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "sorted, each once");
    for name in [
        "rpc_get_methods",
        "spdk_get_version",
        "bdev_get_bdevs",
        "bdev_malloc_create",
        "bdev_null_create",
        "bdev_uring_create",
        "bdev_raid_create",
        "bdev_raid_get_bdevs",
        "nvmf_create_transport",
        "nvmf_create_subsystem",
        "nvmf_subsystem_add_ns",
        "nvmf_subsystem_add_listener",
        "nvmf_get_subsystems",
        "bdev_raid_get_bitmap",
        "bdev_raid_set_bitmap",
        "bdev_raid_add_base_bdev",
        "bdev_raid_remove_base_bdev",
    ] {
        assert!(names.contains(&name), "{name} is missing");
    }
}

#[test]
fn parameters_that_do_not_fit() {
    assert!(decode::<NoParams>(None).is_ok());
    for params in [json!([]), json!({ "x": 1 })] {
        let error = decode::<NoParams>(Some(params)).unwrap_err();
        assert_eq!(error.code, INVALID_PARAMS);
    }
    assert_eq!(hex::<2>(Some("0aFF"), "x").unwrap(), Some([10, 255]));
    for bad in ["0aF", "0aFg", "+a+b", "é0"] {
        assert!(hex::<2>(Some(bad), "x").is_err(), "{bad} was taken");
    }
}
