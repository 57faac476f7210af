//! Bytes of NVMe, Fabrics and NVMe/TCP: zerocopy structs with their sizes and offsets proved.
//! No I/O, no allocation, no clock. All integers are little-endian types.

pub mod fabrics;
pub mod nvme;
pub mod tcp;
