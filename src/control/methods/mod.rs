//! The JSON-RPC methods, by SPDK's names where SPDK has them: one file a group, one function a
//! method.

mod bdev;
mod config;
mod framework;
mod keyring;
mod notify;
mod nvmf;
mod nvmf_auth;
mod nvmf_paths;
mod nvmf_stats;
mod params;
mod raid;
mod raid_members;
mod raid_scrub;
mod raid_start;
mod sock;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::control::rpc::message::Dispatch;
use crate::control::rpc::{METHOD_NOT_FOUND, RpcError};
use crate::control::target::{AbsentBdev, Target};

/// What a method gets and returns.
type Method = fn(&mut Target, Option<Value>) -> Result<Value, RpcError>;

/// All methods by name.
const METHODS: &[(&str, Method)] = &[
    ("bdev_delay_create", bdev::delay_create),
    ("bdev_delay_delete", bdev::delay_delete),
    ("bdev_delay_update_latency", bdev::delay_update_latency),
    ("bdev_error_create", bdev::error_create),
    ("bdev_error_delete", bdev::error_delete),
    ("bdev_error_inject_error", bdev::error_inject_error),
    ("bdev_error_resume_pending", bdev::error_resume_pending),
    ("bdev_examine", bdev::examine),
    ("bdev_get_bdevs", bdev::get_bdevs),
    ("bdev_malloc_create", bdev::malloc_create),
    ("bdev_malloc_delete", bdev::malloc_delete),
    ("bdev_null_create", bdev::null_create),
    ("bdev_null_delete", bdev::null_delete),
    ("bdev_null_resize", bdev::null_resize),
    ("bdev_passthru_create", bdev::passthru_create),
    ("bdev_passthru_delete", bdev::passthru_delete),
    ("bdev_raid_add_base_bdev", raid_members::add),
    ("bdev_raid_add_spare", raid_members::add_spare),
    ("bdev_raid_create", raid::create),
    ("bdev_raid_delete", raid::delete),
    ("bdev_raid_fail_base_bdev", raid_members::fail),
    ("bdev_raid_get_bdevs", raid::get_bdevs),
    ("bdev_raid_get_bitmap", raid::get_bitmap),
    ("bdev_raid_get_scrub", raid_scrub::get_scrub),
    ("bdev_raid_get_spares", raid_members::get_spares),
    ("bdev_raid_grow", raid_start::grow),
    ("bdev_raid_grow_base_bdev", raid_start::grow_base_bdev),
    ("bdev_raid_remove_base_bdev", raid_members::remove),
    ("bdev_raid_remove_spare", raid_members::remove_spare),
    ("bdev_raid_replace_base_bdev", raid_members::replace),
    ("bdev_raid_scrub", raid_scrub::scrub),
    ("bdev_raid_set_bitmap", raid::set_bitmap),
    ("bdev_raid_set_errors", raid_members::set_errors),
    ("bdev_raid_set_options", raid_start::set_options),
    ("bdev_raid_set_scrub_schedule", raid_scrub::set_schedule),
    ("bdev_raid_set_start_policy", raid_start::set_start_policy),
    ("bdev_raid_set_sync", raid_members::set_sync),
    ("bdev_raid_start", raid_start::start),
    ("bdev_set_options", bdev::set_options),
    ("bdev_uring_create", bdev::uring_create),
    ("bdev_uring_delete", bdev::uring_delete),
    ("bdev_uring_rescan", bdev::uring_rescan),
    ("bdev_wait_for_examine", bdev::wait_for_examine),
    ("framework_get_config", config::get_config),
    ("framework_get_reactors", framework::get_reactors),
    ("framework_get_subsystems", config::get_subsystems),
    ("framework_wait_init", framework::wait_init),
    ("keyring_file_add_key", keyring::add_key),
    ("keyring_file_remove_key", keyring::remove_key),
    ("keyring_get_keys", keyring::get_keys),
    ("notify_get_notifications", notify::get),
    ("notify_get_types", notify::get_types),
    ("nvmf_create_subsystem", nvmf::create_subsystem),
    ("nvmf_create_transport", nvmf::create_transport),
    ("nvmf_delete_subsystem", nvmf::delete_subsystem),
    ("nvmf_discovery_add_referral", nvmf_paths::add_referral),
    ("nvmf_discovery_get_referrals", nvmf_paths::get_referrals),
    ("nvmf_discovery_remove_referral", nvmf_paths::remove_referral),
    ("nvmf_get_stats", nvmf_stats::get_stats),
    ("nvmf_get_subsystems", nvmf::get_subsystems),
    ("nvmf_get_transports", nvmf::get_transports),
    ("nvmf_ns_add_host", nvmf_paths::ns_add_host),
    ("nvmf_ns_remove_host", nvmf_paths::ns_remove_host),
    ("nvmf_set_config", nvmf_auth::set_config),
    ("nvmf_subsystem_add_host", nvmf_auth::add_host),
    ("nvmf_subsystem_add_listener", nvmf::subsystem_add_listener),
    ("nvmf_subsystem_add_ns", nvmf::subsystem_add_ns),
    ("nvmf_subsystem_allow_any_host", nvmf::subsystem_allow_any_host),
    ("nvmf_subsystem_get_controllers", nvmf_stats::get_controllers),
    ("nvmf_subsystem_get_listeners", nvmf_paths::get_listeners),
    ("nvmf_subsystem_get_qpairs", nvmf_stats::get_qpairs),
    ("nvmf_subsystem_listener_set_ana_state", nvmf_paths::set_ana_state),
    ("nvmf_subsystem_remove_host", nvmf::subsystem_remove_host),
    ("nvmf_subsystem_remove_listener", nvmf::subsystem_remove_listener),
    ("nvmf_subsystem_remove_ns", nvmf::subsystem_remove_ns),
    ("nvmf_subsystem_set_keys", nvmf_auth::set_keys),
    ("nvmf_subsystem_set_ns_ana_group", nvmf_paths::set_ns_ana_group),
    ("rpc_get_methods", framework::get_methods),
    ("sock_impl_get_options", sock::get_options),
    ("sock_impl_set_options", sock::set_options),
    ("spdk_get_version", framework::get_version),
    ("spdk_kill_instance", framework::kill_instance),
];

/// Whether a method changes nothing.
pub(super) fn only_reads(method: &str) -> bool {
    method.contains("_get_") || method.contains("_wait_")
}

/// Whether there is such a method.
pub(super) fn exists(method: &str) -> bool {
    METHODS.iter().any(|(name, _)| *name == method)
}

/// The calls that make the target as it is.
pub(super) fn all_entries(target: &Target) -> Vec<Value> {
    let parts = config::SUBSYSTEMS.iter();
    parts.flat_map(|(name, _)| config::entries(target, name).unwrap_or_default()).collect()
}

/// What a call would make, if it is one that makes a bdev on a file or another bdev.
pub(super) fn bdev_spec(method: &str, params: &Value) -> Option<AbsentBdev> {
    bdev::spec(method, params)
}

impl Dispatch for Target {
    fn call(&mut self, method: &str, params: Option<Value>) -> Result<Value, RpcError> {
        let found = METHODS.iter().find(|(name, _)| *name == method);
        let Some((_, function)) = found else {
            return Err(RpcError::new(METHOD_NOT_FOUND, format!("Method not found: {method}")));
        };
        // What has ended meanwhile is not in the way of what is asked for now.
        self.take_events();
        self.look_at_ends();
        let result = function(self, params);
        if let Err(error) = &result {
            tracing::debug!("RPC {method} failed: {error}");
        }
        result
    }
}
