use super::*;
use proptest::prelude::*;

fn sqe_of(bytes: [[u8; 32]; 2], opcode: Option<u8>) -> Sqe {
    let mut sqe = Sqe::new_zeroed();
    sqe.as_mut_bytes()[..32].copy_from_slice(&bytes[0]);
    sqe.as_mut_bytes()[32..].copy_from_slice(&bytes[1]);
    if let Some(opcode) = opcode {
        sqe.opcode = opcode;
        sqe.flags = 0x40;
        // Fields of few bits, so that valid values are met often.
        sqe.nsid.set(sqe.nsid.get() % 5);
        sqe.cdw10.set(sqe.cdw10.get() & 0x00ff_839f);
        sqe.cdw11.set(sqe.cdw11.get() & 0x0003_001f);
        sqe.cdw12.set(sqe.cdw12.get() & 0x00ff_7ffc);
    }
    sqe
}

fn bytes64() -> impl Strategy<Value = [[u8; 32]; 2]> {
    prop::array::uniform2(prop::array::uniform32(any::<u8>()))
}

fn opcodes() -> impl Strategy<Value = Option<u8>> {
    prop::option::of(prop::sample::select(vec![2_u8, 6, 8, 9, 10, 12, 0x18, 0x7f]))
}

proptest! {
    /// Whatever a host sends: an answer that keeps to the buffer, and no panic.
    #[test]
    fn any_admin_commands_in_any_order(
        commands in prop::collection::vec((bytes64(), opcodes(), 0_usize..5000), 1..20),
        discovery in any::<bool>(),
        change_at in 0_usize..20,
    ) {
        let mut table = table_with(&[geometry(512), geometry(4096)]);
        let mut controller =
            if discovery { ready_discovery(&table) } else { ready(&table, NQN) };
        let mut held = 0_i32;
        for (index, (bytes, opcode, len)) in commands.into_iter().enumerate() {
            if index == change_at {
                add_ns(&mut table, 9, &geometry(512));
                prop_assert_eq!(controller.table_changed(&table), TableChange::Admitted);
            }
            let mut data = vec![0; len];
            let sqe = sqe_of(bytes, opcode);
            match controller.admin(&at(&table, 5), &sqe, &mut data) {
                AdminOutcome::Complete { status, data_len_bytes, .. } => {
                    prop_assert!(data_len_bytes <= len);
                    prop_assert!(status.is_success() || data_len_bytes == 0);
                }
                AdminOutcome::HoldAsyncEvent => held += 1,
                AdminOutcome::Reservation { nsid, .. } => {
                    prop_assert!(controller.subsystem().namespace(nsid).is_some());
                }
                AdminOutcome::PersistAll(_) => panic!("no namespace can persist"),
                AdminOutcome::ControllerList { .. } => {
                    assert_eq!(sqe.opcode, 0x06, "only Identify lists controllers");
                }
                AdminOutcome::Abort { .. } => panic!("there is no I/O queue to look in"),
            }
            while controller.next_async_event().is_some() {
                held -= 1;
            }
            prop_assert!((0..=4).contains(&held), "{} requests held", held);
        }
    }

    /// Whatever Connect says: a controller or a refusal, and no panic.
    #[test]
    fn any_connect(
        bytes in bytes64(),
        data in prop::collection::vec(any::<u8>(), 1024),
        good_names in any::<bool>(),
        qid in 0_u16..200,
        cut in 0_usize..1100,
    ) {
        let table = table_with(&[]);
        let mut sqe = sqe_of(bytes, None);
        sqe.cdw10.set(u32::from(qid) << 16);
        let mut data = data;
        if good_names {
            data[256..].fill(0);
            data[256..256 + NQN.len()].copy_from_slice(NQN.as_bytes());
            data[512..512 + HOST.len()].copy_from_slice(HOST.as_bytes());
        }
        let data = &data[..cut.min(1024)];
        if let Ok(request) = ConnectRequest::parse(&sqe, data) {
            prop_assert!(data.len() == 1024 && (2..=128).contains(&request.queue_depth));
            if request.qid == 0 {
                let made = Controller::connect(&request, &connect_context(&table));
                prop_assert_eq!(made.is_ok(), request.subnqn.as_str() == NQN);
            } else {
                let mut controller = ready(&table, NQN);
                let _ = controller.attach_io_queue(&request);
            }
        }
    }
}
