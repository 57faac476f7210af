//! Completions that a healthy kernel rarely gives: the entries are never submitted, the test
//! answers in the kernel's place.

use super::super::{UringDevice, UringOptions};
use crate::bdev::rig::{Folder, Rig};
use crate::bdev::{Device, IoOp, IoStatus};
use crate::reactor::buf::IoBuf;

const LEN_BYTES: usize = 8 * 4096;

/// A request on a fresh channel, whose first op has handle 0.
struct Script {
    rig: Rig,
    pushed: u64,
    _folder: Folder,
}

impl Script {
    fn new(kind: IoOp, buf: bool, fua: bool) -> Self {
        let folder = Folder::new("scripted");
        let path = folder.file("disk", 1 << 20);
        let options = UringOptions {
            name: "Uring0".to_owned(),
            path,
            block_size_bytes: Some(4096),
            uuid: uuid::Uuid::nil(),
        };
        let rig = Rig::new(&[Device::Uring(UringDevice::open(options).unwrap())]);
        let mut script = Self { rig, pushed: 1, _folder: folder };
        let data: Option<IoBuf> = buf.then(|| script.rig.filled(LEN_BYTES, 1));
        script.rig.start_fua(0, 5, (kind, 0, 8), data.as_ref(), fua);
        let (bdev, io) = script.rig.out.next_submit().unwrap();
        assert_eq!(bdev.0, 0);
        script.rig.channels[0].submit(io, &mut script.rig.core, &mut script.rig.out);
        assert_eq!(script.rig.core.ring.pushed(), 1);
        script
    }

    /// The kernel answers `res`. Gives the end of the request, or `None` after one more push.
    fn answer(&mut self, res: i32) -> Option<IoStatus> {
        let rig = &mut self.rig;
        rig.channels[0].ring_done(0, res, &mut rig.core, &mut rig.out);
        let pushed = std::mem::replace(&mut self.pushed, rig.core.ring.pushed());
        match rig.out.next_done() {
            Some((tag, status)) => {
                assert_eq!((tag.op, pushed), (5, self.pushed), "an end and a push");
                assert_eq!(rig.channels[0].in_flight(), 0);
                Some(status)
            }
            None => {
                assert_eq!(pushed + 1, self.pushed, "neither an end nor a push");
                None
            }
        }
    }
}

#[test]
fn short_transfers_go_on_at_a_block() {
    for kind in [IoOp::Read, IoOp::Write] {
        let mut script = Script::new(kind, true, false);
        assert_eq!(script.answer(4096), None);
        assert_eq!(script.answer(2 * 4096 + 17), None, "the part of a block counts for nothing");
        assert_eq!(script.answer(5 * 4096), Some(IoStatus::Ok));
        let mut script = Script::new(kind, true, false);
        assert_eq!(script.answer(4096), None);
        assert_eq!(script.answer(0), Some(IoStatus::MediaError));
    }
}

#[test]
fn interrupted_requests_are_tried_again_but_not_for_ever() {
    let mut script = Script::new(IoOp::Write, true, true);
    assert_eq!(script.answer(-libc::EINTR), None);
    assert_eq!(script.answer(-libc::EAGAIN), None);
    assert_eq!(script.answer(8 * 4096), Some(IoStatus::Ok));
    let mut script = Script::new(IoOp::Flush, false, false);
    let tries = (0..1000).position(|_| script.answer(-libc::EAGAIN).is_some());
    assert_eq!(tries, Some(100));
}

#[test]
fn errors_keep_their_meaning() {
    for (errno, status) in [
        (libc::EIO, IoStatus::MediaError),
        (libc::ENOSPC, IoStatus::NoSpace),
        (libc::EDQUOT, IoStatus::NoSpace),
        (libc::ENODEV, IoStatus::Removed),
    ] {
        assert_eq!(Script::new(IoOp::Write, true, false).answer(-errno), Some(status));
        assert_eq!(Script::new(IoOp::Unmap, false, false).answer(-errno), Some(status));
    }
}

#[test]
fn zeroes_are_written_where_the_store_cannot_zero() {
    for (kind, ways) in [(IoOp::WriteZeroes, 2), (IoOp::Unmap, 1)] {
        let mut script = Script::new(kind, false, true);
        for _ in 0..ways {
            assert_eq!(script.answer(-libc::EOPNOTSUPP), None, "another way is tried");
        }
        assert_eq!(script.answer(4096), None, "a short write goes on");
        assert_eq!(script.answer(7 * 4096), None, "FUA asks for a sync");
        assert_eq!(script.answer(0), Some(IoStatus::Ok));
    }
    let mut script = Script::new(IoOp::WriteZeroes, false, true);
    assert_eq!(script.answer(0), None, "FUA asks for a sync");
    assert_eq!(script.answer(-libc::EIO), Some(IoStatus::MediaError));
    // A hole instead of a zeroed range has to be made durable just as well.
    let mut script = Script::new(IoOp::WriteZeroes, false, true);
    assert_eq!(script.answer(-libc::EOPNOTSUPP), None, "a hole is tried");
    assert_eq!(script.answer(0), None, "FUA asks for a sync");
    assert_eq!(script.answer(-libc::EIO), Some(IoStatus::MediaError));
    // What goes wrong for another reason is not hidden by trying another way.
    let mut script = Script::new(IoOp::WriteZeroes, false, true);
    assert_eq!(script.answer(-libc::EOPNOTSUPP), None, "a hole is tried");
    assert_eq!(script.answer(-libc::EIO), Some(IoStatus::MediaError));
}
