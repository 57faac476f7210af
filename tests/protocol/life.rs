//! What shows that a host is alive, and what it is told to have done.

use std::time::{Duration, Instant};

use mdof::wire::nvme::Status;

use crate::rig::{BLOCK, HOST, Queue, Rig, command, io};

/// Dataset Management of one range.
fn deallocate(queue: &mut Queue, attributes: u32, blocks: u32) -> Status {
    let mut range = [0; 16];
    range[4..8].copy_from_slice(&blocks.to_le_bytes());
    queue.send(command(0x09, 1, 0, attributes, 0), &range)
}

/// Traffic Based Keep Alive: a host whose commands are answered sends no Keep Alive, whatever
/// these commands are and whatever became of them.
#[test]
fn every_command_shows_that_its_host_is_alive() {
    const DEALLOCATE: u32 = 1 << 2;
    const READ_HINT: u32 = 1;
    let rig = Rig::plain();
    let kinds: [fn(&mut Queue) -> Status; 4] = [
        |queue| deallocate(queue, DEALLOCATE, 8),
        |queue| deallocate(queue, DEALLOCATE, 0),
        |queue| deallocate(queue, READ_HINT, 8),
        |queue| queue.plain(io(0x0c, 4096, 1)),
    ];
    let mut hosts: Vec<_> = kinds
        .into_iter()
        .map(|kind| {
            let mut options = rig.options(HOST);
            options.kato_ms = 1000;
            let mut host = rig.connect(options);
            let queue = host.queue(1);
            (host, queue, kind)
        })
        .collect();
    let end = Instant::now() + Duration::from_millis(4500);
    while Instant::now() < end {
        for (at, (_, queue, kind)) in hosts.iter_mut().enumerate() {
            let refused = Status::LBA_OUT_OF_RANGE.dnr();
            let expected = if at == 3 { refused } else { Status::SUCCESS };
            assert_eq!(kind(queue), expected, "kind {at}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(hosts);
    rig.stop();
}

/// `completed_nvme_io` counts each command of an I/O queue once.
#[test]
fn each_io_command_is_counted_once() {
    let mut rig = Rig::plain();
    let mut host = rig.host();
    let mut queue = host.queue(1);
    let mut said = 0;
    let mut counted = |rig: &mut Rig, what: &str, commands: u64| {
        said += commands;
        let done: u64 = rig.engine.reports().iter().map(|core| core.counts.io_commands).sum();
        assert_eq!(done, said, "{what}");
    };
    counted(&mut rig, "nothing yet", 0);
    queue.write(0, &[1; BLOCK]);
    queue.read(0, 1);
    counted(&mut rig, "Write and Read", 2);
    assert_eq!(queue.plain(io(0x0c, 0, 4096)), Status::SUCCESS);
    counted(&mut rig, "Verify, which is several reads", 1);
    assert_eq!(deallocate(&mut queue, 1 << 2, 8), Status::SUCCESS);
    assert_eq!(deallocate(&mut queue, 1 << 2, 0), Status::SUCCESS);
    assert_eq!(deallocate(&mut queue, 1, 8), Status::SUCCESS);
    counted(&mut rig, "Dataset Management: a range, an empty one, a hint", 3);
    assert_eq!(queue.plain(io(0x0c, 4096, 1)), Status::LBA_OUT_OF_RANGE.dnr());
    assert_eq!(queue.plain(command(0x55, 1, 0, 0, 0)), Status::INVALID_OPCODE.dnr());
    counted(&mut rig, "commands that are refused", 2);
    let mut report = command(0x0e, 1, 15, 1, 0);
    report.nsid.set(1);
    assert!(queue.get(report, 64).is_ok());
    counted(&mut rig, "Reservation Report", 1);
    drop((queue, host));
    rig.stop();
}
