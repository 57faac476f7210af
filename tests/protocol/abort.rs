//! Abort: commands that wait are taken back, those that a device has are not.

use mdof::bdev::Device;
use mdof::bdev::delay::DelayDevice;
use mdof::wire::nvme::Status;
use uuid::Uuid;

use crate::rig::{BLOCK, Rig, command, io, malloc};

const ABORT: u8 = 0x08;
/// The largest command: a core of this target has two buffers for it.
const BLOCKS: u32 = 256;

#[test]
fn a_waiting_command_is_aborted_and_an_executing_one_is_not() {
    let rig = Rig::new([16, 2, 2, 0], |engine| {
        let base = malloc(engine, "m0", 4096);
        let geometry = engine.geometry(base).unwrap().clone();
        let slow = DelayDevice::new("slow", Uuid::new_v4(), base, &geometry, [800_000; 4]);
        vec![engine.add_bdev(Device::Delay(slow)).unwrap()]
    });
    let mut host = rig.host();
    host.client.request_queues(2).unwrap();
    let mut queues = [host.queue(1), host.queue(2)];
    for (qid, queue) in (1..).zip(&mut queues) {
        let mut cids = Vec::new();
        for tag in 0..3 {
            let room = queue.room(BLOCKS as usize * BLOCK);
            cids.push(u32::from(queue.pair.submit(io(0x02, 0, BLOCKS), room, tag)));
        }
        while queue.pair.poll().unwrap() {}
        // The target has them once it has answered another command of the queue's connection.
        std::thread::sleep(std::time::Duration::from_millis(100));
        let mut abort = |cid: u32| host.admin(command(ABORT, 0, cid << 16 | qid, 0, 0));
        assert_eq!(abort(cids[0]), (Status::SUCCESS, 1), "the device has it");
        assert_eq!(abort(cids[2]), (Status::SUCCESS, 0), "it waits for a buffer");
        assert_eq!(abort(cids[2]), (Status::SUCCESS, 1), "it is gone");
        let first = queue.pair.wait("the aborted read", crate::rig::LIMIT).unwrap();
        assert_eq!((first.tag, first.status()), (2, Status::ABORT_REQUESTED));
        for _ in 0..2 {
            let done = queue.pair.wait("the slow reads", crate::rig::LIMIT).unwrap();
            assert_eq!(done.status(), Status::SUCCESS, "read {}", done.tag);
        }
    }
    drop((queues, host));
    rig.stop();
}
