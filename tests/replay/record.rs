//! Conversations as files: a proxy that records one, and the records.
//!
//! A file is a head and one record a PDU, in the order in which the proxy saw them: connection,
//! direction, length, bytes. What the host said is there as a whole, and of what the target said
//! the first 24 bytes of each PDU: its header, and the completion if it is one.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

const MAGIC: &[u8; 8] = b"MDOFCAP1";

/// Bytes of the target's PDUs that are kept.
pub(crate) const KEPT_BYTES: usize = 24;

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Host = 0,
    Target = 1,
}

/// A PDU, or the end of the host's stream, which has no bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) connection: u8,
    pub(crate) from: From,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn write_file(path: &Path, records: &[Record]) {
    let mut file = MAGIC.to_vec();
    for record in records {
        file.extend([record.connection, record.from as u8]);
        file.extend(u32::try_from(record.bytes.len()).unwrap().to_le_bytes());
        file.extend(&record.bytes);
    }
    std::fs::write(path, file).unwrap();
}

pub(crate) fn read_file(path: &Path) -> Vec<Record> {
    let file = std::fs::read(path).unwrap();
    let mut rest = file.strip_prefix(MAGIC).expect("a file of records");
    let mut records = Vec::new();
    while let [connection, from, a, b, c, d, tail @ ..] = rest {
        let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let from = if *from == 0 { From::Host } else { From::Target };
        let (bytes, next) = tail.split_at(len);
        records.push(Record { connection: *connection, from, bytes: bytes.to_vec() });
        rest = next;
    }
    records
}

/// Reads one PDU; `None`: the stream has ended.
pub(crate) fn read_pdu(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut pdu = vec![0; 8];
    stream.read_exact(&mut pdu).ok()?;
    let len = u32::from_le_bytes([pdu[4], pdu[5], pdu[6], pdu[7]]) as usize;
    pdu.resize(len.max(8), 0);
    stream.read_exact(&mut pdu[8..]).ok()?;
    Some(pdu)
}

/// What the proxy has seen.
pub(crate) type Records = Arc<Mutex<Vec<Record>>>;

/// Takes connections on a port of its own and carries them to the target.
pub(crate) fn proxy(target: SocketAddr) -> (u16, Records) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let records = Records::default();
    let all = records.clone();
    std::thread::spawn(move || {
        for (connection, host) in (0..).zip(listener.incoming()) {
            let (host, target) = (host.unwrap(), TcpStream::connect(target).unwrap());
            for (from, to, who) in [
                (host.try_clone().unwrap(), target.try_clone().unwrap(), From::Host),
                (target, host, From::Target),
            ] {
                let records = all.clone();
                std::thread::spawn(move || carry(from, to, connection, who, &records));
            }
        }
    });
    (port, records)
}

fn carry(
    mut source: TcpStream,
    mut sink: TcpStream,
    connection: u8,
    from: From,
    records: &Mutex<Vec<Record>>,
) {
    // Recorded before it is passed on: an answer never comes before its question.
    while let Some(pdu) = read_pdu(&mut source) {
        let kept = if from == From::Host { pdu.len() } else { pdu.len().min(KEPT_BYTES) };
        let record = Record { connection, from, bytes: pdu[..kept].to_vec() };
        records.lock().unwrap().push(record);
        if sink.write_all(&pdu).is_err() {
            break;
        }
    }
    if from == From::Host {
        records.lock().unwrap().push(Record { connection, from, bytes: Vec::new() });
    }
    // The peer may have been first.
    let _ = sink.shutdown(Shutdown::Write);
}
