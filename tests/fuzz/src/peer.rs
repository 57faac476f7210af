//! Builds what a host sends, and reads what it is sent.

use mdof::target::tcp::Connection;
use mdof::wire::tcp::header::{LinkRules, PduHeader, Receiver};
use mdof::wire::tcp::{CommonHeader, crc32c};
use zerocopy::FromBytes;

/// A write that waits for data: what its R2T said, and how much the host has sent.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    pub cid: u16,
    pub ttag: u16,
    pub bytes: u32,
    pub sent_bytes: u32,
}

/// The host's end of the conversation.
#[derive(Debug, Default)]
pub struct Peer {
    /// Bytes on their way to the target.
    pub outgoing: Vec<u8>,
    /// Bytes from the target that are no whole PDU yet.
    incoming: Vec<u8>,
    pub transfers: Vec<Transfer>,
}

impl Peer {
    pub fn send_ic_req(&mut self, hpda: u8, dgst: u8) {
        let mut bytes = [0; 128];
        bytes[2] = 128;
        bytes[4] = 128;
        bytes[10] = hpda;
        bytes[11] = dgst;
        self.outgoing.extend(bytes);
    }

    /// A PDU with this header, PDO, PLEN and digests as the link has them.
    fn send(&mut self, header: &[u8], data: &[u8], alignment: usize, digests: (bool, bool)) {
        let mut bytes = header.to_vec();
        let prologue = header.len() + if digests.0 { 4 } else { 0 };
        let pdo = if data.is_empty() { prologue } else { prologue.next_multiple_of(alignment) };
        let tail = if digests.1 && !data.is_empty() { 4 } else { 0 };
        bytes[1] |= u8::from(digests.0) | (u8::from(tail > 0) << 1);
        bytes[3] = if data.is_empty() { 0 } else { u8::try_from(pdo).unwrap_or(0) };
        let plen = u32::try_from(pdo + data.len() + tail).unwrap_or(0);
        bytes[4..8].copy_from_slice(&plen.to_le_bytes());
        if digests.0 {
            bytes.extend(crc32c(&bytes).to_le_bytes());
        }
        bytes.resize(pdo, 0);
        bytes.extend(data);
        if tail > 0 {
            bytes.extend(crc32c(data).to_le_bytes());
        }
        self.outgoing.extend(bytes);
    }

    /// A command. `fuse` is its FUSE field, `sgl` the descriptor's type, `length` what it says.
    pub fn send_command(
        &mut self,
        (opcode, fuse, cid): (u8, u8, u16),
        (sgl, length): (u8, u32),
        data: &[u8],
        digests: (bool, bool),
    ) {
        let mut header = [0; 72];
        header[0] = 4;
        header[2] = 72;
        header[8] = opcode;
        header[9] = 0x40 | fuse;
        header[10..12].copy_from_slice(&cid.to_le_bytes());
        header[40..44].copy_from_slice(&length.to_le_bytes());
        header[47] = sgl;
        // SGL descriptor: address at 24 of the SQE, length at 32, type at 39.
        self.send(&header, data, 4, digests);
    }

    /// The next data of a transfer, `bytes` of them, or all that is left. A bold host sends more
    /// than it was asked for.
    pub fn send_data(&mut self, index: usize, bytes: u32, is_bold: bool, digests: (bool, bool)) {
        let transfer = &mut self.transfers[index];
        let left = transfer.bytes.saturating_sub(transfer.sent_bytes);
        let bytes = if is_bold { bytes.min(0x1_ffff) } else { bytes.min(left).min(0x2_0000) };
        let mut header = [0; 24];
        header[0] = 6;
        header[1] = if bytes >= left { 4 } else { 0 };
        header[2] = 24;
        header[8..10].copy_from_slice(&transfer.cid.to_le_bytes());
        header[10..12].copy_from_slice(&transfer.ttag.to_le_bytes());
        header[12..16].copy_from_slice(&transfer.sent_bytes.to_le_bytes());
        header[16..20].copy_from_slice(&bytes.to_le_bytes());
        transfer.sent_bytes += bytes;
        if bytes >= left {
            self.transfers.swap_remove(index);
        }
        let data = vec![0x5a; bytes as usize];
        self.send(&header, &data, 4, digests);
    }

    /// Bytes from the target: every PDU must be one that a host accepts.
    pub fn receive(&mut self, bytes: &[u8], conn: &Connection) {
        self.incoming.extend_from_slice(bytes);
        while let Ok((common, _)) = CommonHeader::read_from_prefix(&self.incoming) {
            let plen = common.plen.get() as usize;
            if self.incoming.len() < plen {
                return;
            }
            let (header_digest, data_digest) = conn.digests();
            let rules = LinkRules {
                receiver: Receiver::Host,
                header_digest,
                data_digest,
                alignment_bytes: 4,
                capsule_data_bytes_max: 0,
                data_bytes_max: u32::MAX,
            };
            let header = PduHeader::parse(&common, &rules).expect("the target keeps the protocol");
            let pdu: Vec<u8> = self.incoming.drain(..plen).collect();
            if header.prologue_bytes > header.header_bytes {
                let (head, digest) = pdu.split_at(usize::from(header.header_bytes));
                assert_eq!(digest[..4], crc32c(head).to_le_bytes(), "header digest");
            }
            if common.pdu_type == 9 {
                let word = |at: usize| u16::from_le_bytes([pdu[at], pdu[at + 1]]);
                let bytes = u32::from(word(16)) | (u32::from(word(18)) << 16);
                let transfer = Transfer { cid: word(8), ttag: word(10), bytes, sent_bytes: 0 };
                self.transfers.push(transfer);
            }
        }
    }
}
