//! A bdev that stores nothing, for measuring everything else.

use std::sync::Arc;

use uuid::Uuid;

use super::device::{DeviceError, check_shape};
use super::{BdevIo, Geometry, IoOp, IoQueue, IoStatus};

/// The shared part.
#[derive(Debug)]
pub struct NullDevice {
    geometry: Geometry,
    zero_reads: bool,
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
        check_shape(name, block_size_bytes, blocks)?;
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
        Ok(Arc::new(Self { geometry, zero_reads }))
    }

    /// The same bdev with so many blocks, for [`super::Channel::resize`].
    ///
    /// # Errors
    /// If there can't be so many.
    pub fn resized(&self, blocks: u64) -> Result<Arc<Self>, DeviceError> {
        check_shape(&self.geometry.name, self.geometry.block_size_bytes, blocks)?;
        let geometry = Geometry { blocks, ..self.geometry.clone() };
        Ok(Arc::new(Self { geometry, zero_reads: self.zero_reads }))
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
            (IoOp::Read, Some(buf)) if self.device.zero_reads => {
                // SAFETY: the request's buffer is to be filled, and nobody reads it meanwhile.
                unsafe { buf.as_ptr().write_bytes(0, buf.len()) };
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
