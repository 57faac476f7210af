//! Hosts that take nothing, send nothing, send a byte at a time, or flood: each costs itself only.
//! The hosts beside them get their buffers and their turn; figures are in `perf/PROMISES.md`.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

#[path = "load/rig.rs"]
#[allow(dead_code, reason = "several tests share it and use parts of it")]
mod rig;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mdof::initiator::{Client, Data, QueuePair};
use mdof::reactor::buf::BufPool;
use mdof::wire::nvme::{Sqe, opcode};
use rig::{Door, LIMIT, Rig};
use rustix::fs::{OFlags, fcntl_setfl};
use zerocopy::{FromZeros, IntoBytes};

const LARGE_BYTES: u32 = 128 << 10;
const LARGE_BLOCKS: u16 = 256;

/// A capsule with a read or a write of 128 KiB, whose data travel by themselves.
fn large_command(opcode: u8, cid: u16) -> Vec<u8> {
    let mut sqe = Sqe::new_zeroed();
    (sqe.opcode, sqe.flags) = (opcode, 0x40);
    sqe.cid.set(cid);
    sqe.nsid.set(1);
    sqe.cdw12.set(u32::from(LARGE_BLOCKS) - 1);
    sqe.sgl_length.set(LARGE_BYTES);
    sqe.sgl_type = 0x5a;
    let mut pdu = vec![4, 0, 72, 0, 72, 0, 0, 0];
    pdu.extend(sqe.as_bytes());
    pdu
}

/// Sends 100 large commands on each queue and does nothing for them.
fn neglect(queues: &mut [QueuePair], opcode: u8) {
    for queue in queues {
        let commands: Vec<u8> = (0..100).flat_map(|cid| large_command(opcode, cid)).collect();
        let mut stream = queue.stream().try_clone().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.write_all(&commands).unwrap();
    }
}

/// Large and small commands of a host that behaves.
fn work(queue: &mut QueuePair, pool: BufPool, rounds: u8) {
    for round in 0..rounds {
        let lba = u64::from(round % 8) * 1024;
        let mut large = pool.get(LARGE_BYTES as usize).unwrap();
        large.as_mut_slice().fill(round);
        queue.submit_write(1, lba, LARGE_BLOCKS, large, 0);
        let done = queue.wait("a large write", LIMIT).unwrap();
        assert!(done.status().is_success());
        queue.submit_read(1, lba, LARGE_BLOCKS, pool.get(LARGE_BYTES as usize).unwrap(), 0);
        let done = queue.wait("a large read", LIMIT).unwrap();
        assert!(done.buf.unwrap().as_slice().iter().all(|&byte| byte == round));
        queue.submit_read(1, lba, 8, pool.get(4096).unwrap(), 0);
        assert!(queue.wait("a small read", LIMIT).unwrap().status().is_success());
    }
}

/// Hosts hold all that they can get while another works; then the target ends them.
fn neglected(name: &str, opcode: u8) -> String {
    let Some(rig) = Rig::start_on_one_core(name, 200) else { return String::new() };
    let pool = BufPool::on_heap([64, 0, 8, 0]);
    let (mut client, mut queues) = rig.host(1, 16, pool);
    // They are ended after 10 s. Whoever had to wait for that would never see them all still there
    // when it has done its work; a machine that is slow for once may have another try.
    let were_there = (0..3).any(|_| {
        let (_idler, mut idle) = rig.host(4, 128, pool);
        neglect(&mut idle, opcode);
        rig.wait_until("they hold buffers", |total| total.held() > 0);
        work(&mut queues[0], pool, 10);
        client.keep_alive().unwrap();
        let total = rig.total();
        // Of five hosts each leaves the others as much as it has.
        assert!(total.held() <= total.buffers() * 5 / 6 + u64::from(LARGE_BYTES), "{total:?}");
        let all_there = total.io == 5;
        rig.wait_until("they are ended", |total| total.io == 1);
        drop(idle);
        all_there
    });
    assert!(were_there, "the host beside had to wait until they were ended");
    work(&mut queues[0], pool, 5);
    drop((client, queues));
    rig.stop()
}

#[test]
fn hosts_that_take_nothing_leave_buffers_to_others() {
    let text = neglected("takers", opcode::nvm::READ);
    assert!(text.is_empty() || text.contains("takes no data any more"), "{text}");
}

#[test]
fn hosts_that_send_nothing_leave_buffers_to_others() {
    let text = neglected("senders", opcode::nvm::WRITE);
    assert!(text.is_empty() || text.contains("does not send the data it was asked for"), "{text}");
}

#[test]
fn hosts_that_send_a_byte_at_a_time_are_ended() {
    let Some(rig) = Rig::start_on_one_core("slow", 200) else { return };
    let pool = BufPool::on_heap([64, 0, 8, 0]);
    let (client, mut queues) = rig.host(1, 16, pool);
    // One never comes to its Connect, the other never to the end of its write's data.
    let mut hello = rig.raw();
    let (_writer, idle) = rig.host(1, 16, pool);
    let mut writer = idle[0].stream().try_clone().unwrap();
    writer.write_all(&large_command(opcode::nvm::WRITE, 1)).unwrap();
    rig.wait_until("the write has its buffer", |total| total.held() > 0);
    let h2c_data_header = {
        let mut header = [0; 24];
        (header[0], header[1], header[2], header[3]) = (6, 4, 24, 24);
        header[4..8].copy_from_slice(&(24 + LARGE_BYTES).to_le_bytes());
        header[8] = 1;
        // The transfer tag is the slot; the only command has the lowest.
        header[16..20].copy_from_slice(&LARGE_BYTES.to_le_bytes());
        header
    };
    writer.write_all(&h2c_data_header).unwrap();
    let since = Instant::now();
    let (mut hello_ended, mut writer_ended) = (false, false);
    while !(hello_ended && writer_ended) {
        hello_ended |= hello.write_all(&[0]).is_err();
        writer_ended |= writer.write_all(&[0]).is_err();
        work(&mut queues[0], pool, 1);
        std::thread::sleep(Duration::from_millis(100));
        assert!(since.elapsed() < LIMIT, "{hello_ended} {writer_ended}");
    }
    rig.wait_until("they are gone", |total| total.all() == 3 || total.all() == 2);
    drop((client, queues, idle));
    let text = rig.stop();
    assert!(text.contains("does not send the data it was asked for"), "{text}");
}

/// Keeps sending what `make` gives, on new connections when the target ends them.
fn flood(door: Door, ended: &AtomicBool, bytes: &[u8]) -> u32 {
    let mut connections = 0;
    while !ended.load(Ordering::Relaxed) {
        let mut stream = door.raw();
        connections += 1;
        while stream.write_all(bytes).is_ok() && !ended.load(Ordering::Relaxed) {}
    }
    connections
}

/// A host that sends commands as fast as it can, and takes all answers.
fn hurry(mut queue: QueuePair, pool: BufPool, ended: &AtomicBool) -> u64 {
    let mut done = 0;
    let mut tags: Vec<u64> = (0..127).collect();
    while !ended.load(Ordering::Relaxed) || tags.len() < 127 {
        if !ended.load(Ordering::Relaxed) {
            while let Some(tag) = tags.pop() {
                queue.submit_read(1, tag * 8, 8, pool.get(4096).unwrap(), tag);
            }
        }
        queue.poll().unwrap();
        while let Some(completion) = queue.next_completion() {
            tags.push(completion.tag);
            done += 1;
        }
    }
    done
}

/// A host that aborts what is not there, many times at once.
fn abort_in_vain(client: &mut Client, ended: &AtomicBool) -> u64 {
    let mut done = 0;
    let mut sqe = Sqe::new_zeroed();
    sqe.opcode = opcode::admin::ABORT;
    while !ended.load(Ordering::Relaxed) {
        let admin = client.admin();
        while admin.can_submit() {
            sqe.cdw10.set(0x1234_0001);
            admin.submit(sqe, Data::None, 0);
        }
        admin.poll().unwrap();
        while admin.next_completion().is_some() {
            done += 1;
        }
    }
    done
}

#[test]
fn floods_leave_others_their_turn() {
    let Some(rig) = Rig::start_on_one_core("flood", 400) else { return };
    let pool = BufPool::on_heap([64, 0, 8, 0]);
    let (mut client, mut queues) = rig.host(1, 16, pool);
    let ended = AtomicBool::new(false);
    let mut icreq = [0; 128];
    (icreq[2], icreq[4]) = (128, 128);
    let out_of_order = [icreq, icreq].concat();
    let garbage = vec![0xa5; 64 * 1024];
    std::thread::scope(|scope| {
        let floods = [&garbage[..], &out_of_order[..], &icreq[..40]].map(|bytes| {
            let (door, ended) = (*rig, &ended);
            scope.spawn(move || flood(door, ended, bytes))
        });
        let (door, ended_ref) = (*rig, &ended);
        let hurrying = scope.spawn(move || {
            let pool = BufPool::on_heap([256, 0, 0, 0]);
            let (_client, mut queues) = door.host(1, 128, pool);
            hurry(queues.remove(0), pool, ended_ref)
        });
        let aborting = scope.spawn(move || {
            let pool = BufPool::on_heap([64, 0, 0, 0]);
            let (mut client, _queues) = door.host(1, 16, pool);
            abort_in_vain(&mut client, ended_ref)
        });
        for _ in 0..20 {
            work(&mut queues[0], pool, 3);
            client.keep_alive().unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        let floods: Vec<u32> = floods.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(floods.iter().all(|&count| count > 0), "{floods:?}");
        assert!(hurrying.join().unwrap() > 0 && aborting.join().unwrap() > 0);
    });
    drop((client, queues));
    rig.wait_until_alone();
    let text = rig.stop();
    // At most 50 lines a second, whatever comes.
    assert!(text.lines().count() < 3000, "the log is flooded");
    assert!(text.contains("broke the NVMe/TCP protocol"), "{text}");
}

#[test]
fn answers_to_a_host_that_closed_its_sending_side_are_not_waited_for() {
    let Some(rig) = Rig::start_on_one_core("half", 200) else { return };
    let mut stream = rig.raw();
    let mut icreq = [0; 128];
    (icreq[2], icreq[4]) = (128, 128);
    stream.write_all(&icreq).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    // ICResp or nothing, and then the end.
    assert!(answer.is_empty() || answer.len() == 128, "{}", answer.len());
    rig.wait_until_alone();
    rig.stop();
}

#[test]
fn a_log_that_nobody_reads_stops_no_host() {
    let (reader, mut log) = std::io::pipe().unwrap();
    // Full from the start.
    fcntl_setfl(&log, OFlags::NONBLOCK).unwrap();
    while log.write(&[b'.'; 4096]).is_ok() {}
    fcntl_setfl(&log, OFlags::empty()).unwrap();
    let Some(rig) = Rig::start_logging_to("unread", 200, log) else { return };
    let pool = BufPool::on_heap([64, 0, 8, 0]);
    for _ in 0..20 {
        let (client, mut queues) = rig.host(1, 16, pool);
        rig.raw().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        work(&mut queues[0], pool, 1);
        client.disconnect().unwrap();
    }
    rig.stop();
    drop(reader);
}
