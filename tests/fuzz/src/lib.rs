//! What is fuzzed: each target takes any bytes, feeds them to a parser or machine that a stranger
//! can reach, and checks what must hold whatever came in.

pub mod auth;
pub mod bitmap;
pub mod config;
pub mod conn;
pub mod peer;
pub mod ppl;
pub mod rpc;
pub mod session;
pub mod superblock;
pub mod tls;

/// Reads numbers off the input; zeroes when it has ended.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// At most `max` bytes.
    pub fn take(&mut self, max: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(max.min(self.0.len()));
        self.0 = rest;
        head
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let head = self.take(N);
        array[..head.len()].copy_from_slice(head);
        array
    }
}
