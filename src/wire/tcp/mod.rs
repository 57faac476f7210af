//! NVMe/TCP PDUs (NVMe/TCP Transport 1.x, section 3.6).
//!
//! Every PDU is: common header (8 bytes), type specific header, header digest when negotiated,
//! padding up to PDO, data, data digest when negotiated.
//!
//! - `pdu`: the structs, byte for byte.
//! - `header`: validates a received common header and says how the rest of the PDU is cut.
//! - `assembly`: puts a received PDU together from pieces of the stream.
//! - `digest`: CRC32C.
//! - `transmit`: headers and data in the order they leave, as segments for one `sendmsg`.

pub mod assembly;
pub mod digest;
pub mod header;
pub mod pdu;
pub mod transmit;

pub use assembly::{Assembly, PayloadEnd, check_prologue};
pub use digest::{DIGEST_BYTES, DataDigest, crc32c};
pub use header::{FatalError, LinkRules, PduError, PduHeader, Receiver};
pub use pdu::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Flags, H2cData, IcReq, IcResp, PduType, R2t,
    TermReq,
};
pub use transmit::{Segment, TransmitQueue, TransmitVec};
