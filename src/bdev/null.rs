//! A bdev that stores nothing, for measuring everything else.

use std::sync::Arc;

use uuid::Uuid;

use super::device::{DeviceError, check_shape};
use super::{BdevIo, Geometry, IoOp, IoQueue, IoStatus};
use crate::reactor::buf::{IoBuf, Lender};
use crate::reactor::dma;

/// The shared part.
#[derive(Debug)]
pub struct NullDevice {
    geometry: Geometry,
    /// What is read; `None`: whatever the buffer held.
    zeroes: Option<&'static [u8]>,
}

impl NullDevice {
    /// A null bdev. With `zero_reads` off a read leaves its buffer as it is, which may show one
    /// host what another sent: for measurements only.
    pub fn new(
        name: &str,
        uuid: Uuid,
        block_size_bytes: u32,
        blocks: u64,
        zero_reads: bool,
    ) -> Result<Arc<Self>, DeviceError> {
        let size_bytes = check_shape(name, block_size_bytes, blocks)?;
        let no_memory = |source| DeviceError::Memory { name: name.to_owned(), size_bytes, source };
        let zeroes = zero_reads.then(dma::zeroes).transpose().map_err(no_memory)?;
        let geometry = Geometry {
            name: name.to_owned(),
            product_name: "Null disk",
            uuid,
            block_size_bytes,
            blocks,
            optimal_io_blocks: 0,
            io_boundary_blocks: 0,
            write_unit_blocks: 0,
            unmap_unit_blocks: 0,
            volatile_write_cache: false,
            unmap: true,
            cheap_zeroes: true,
        };
        Ok(Arc::new(Self { geometry, zeroes }))
    }

    /// The same bdev with so many blocks, for [`super::Channel::resize`].
    ///
    /// # Errors
    /// If there can't be so many.
    pub fn resized(&self, blocks: u64) -> Result<Arc<Self>, DeviceError> {
        check_shape(&self.geometry.name, self.geometry.block_size_bytes, blocks)?;
        let geometry = Geometry { blocks, ..self.geometry.clone() };
        Ok(Arc::new(Self { geometry, zeroes: self.zeroes }))
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

/// One core's channel. Every request ends at once.
#[derive(Debug)]
pub struct NullChannel {
    device: Arc<NullDevice>,
}

impl NullChannel {
    pub(super) fn new(device: Arc<NullDevice>) -> Self {
        Self { device }
    }

    pub(super) fn resize(&mut self, device: Arc<NullDevice>) {
        self.device = device;
    }

    pub(super) fn submit(&mut self, io: BdevIo, out: &mut IoQueue) {
        let status = match self.device.geometry.check(&io) {
            Ok(()) => self.execute(&io),
            Err(status) => status,
        };
        io.complete(status, out);
    }

    fn execute(&self, io: &BdevIo) -> IoStatus {
        match (io.op, &io.buf) {
            (IoOp::Read, Some(buf)) => {
                if let Some(zeroes) = self.device.zeroes {
                    read(zeroes, buf);
                }
            }
            // What it holds are zeroes.
            (IoOp::Compare, Some(buf)) if buf.as_slice().iter().any(|&byte| byte != 0) => {
                return IoStatus::CompareMismatch;
            }
            _ => {}
        }
        IoStatus::Ok
    }
}

/// Lends zeroes to those who may read them where they are, and writes them for others.
fn read(zeroes: &'static [u8], buf: &IoBuf) {
    assert!(buf.len() <= zeroes.len(), "a request is longer than any may be");
    // SAFETY: that many zeroes are there, for ever.
    if !unsafe { buf.borrow_from(Lender::Bdev, zeroes.as_ptr()) } {
        buf.zero_range(0, buf.len());
    }
}
