//! External pre-shared keys of TLS 1.3: the part of OpenSSL's interface that its Rust binding does
//! not have. Nothing else in this station is unsafe.

use std::ffi::{c_int, c_uchar, c_uint, c_void};
use std::sync::{Arc, Mutex, OnceLock};

use foreign_types::{ForeignType, ForeignTypeRef};
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslRef};

use zerocopy::big_endian::U16;

use super::FindPsk;
use super::traffic::{KeyLog, Traffic};
use crate::secure::Hash;
use crate::secure::psk::TlsPsk;

type RawSsl = <Ssl as ForeignType>::CType;

/// OpenSSL's SSL_SESSION.
type Session = c_void;

// SAFETY: whoever calls one keeps to what <openssl/ssl.h> says of it: only OpenSSL does.
type FindCallback =
    unsafe extern "C" fn(*mut RawSsl, *const c_uchar, usize, *mut *mut Session) -> c_int;
// SAFETY: as above.
type UseCallback = unsafe extern "C" fn(
    *mut RawSsl,
    *const c_void,
    *mut *const c_uchar,
    *mut usize,
    *mut *mut Session,
) -> c_int;

// SAFETY: as in <openssl/ssl.h>; each has been there since OpenSSL 1.1.1.
unsafe extern "C" {
    fn SSL_set_psk_find_session_callback(ssl: *mut RawSsl, callback: Option<FindCallback>);
    fn SSL_set_psk_use_session_callback(ssl: *mut RawSsl, callback: Option<UseCallback>);
    fn SSL_SESSION_new() -> *mut Session;
    fn SSL_SESSION_free(session: *mut Session);
    fn SSL_SESSION_set1_master_key(session: *mut Session, key: *const c_uchar, len: usize)
    -> c_int;
    fn SSL_SESSION_set_cipher(session: *mut Session, cipher: *const c_void) -> c_int;
    fn SSL_SESSION_set_protocol_version(session: *mut Session, version: c_int) -> c_int;
    fn SSL_client_hello_get0_ext(
        ssl: *mut RawSsl,
        extension: c_uint,
        out: *mut *const c_uchar,
        len: *mut usize,
    ) -> c_int;
    fn SSL_CIPHER_find(ssl: *mut RawSsl, id: *const c_uchar) -> *const c_void;
    fn SSL_key_update(ssl: *mut RawSsl, kind: c_int) -> c_int;
}

/// TLS 1.3 on the wire.
const TLS_1_3: c_int = 0x0304;

/// What a connection of OpenSSL's carries for us.
struct Attached {
    /// Where a server looks for keys, until the handshake is over.
    keys: Mutex<Option<Arc<dyn FindPsk>>>,
    is_server: bool,
    offered: Option<TlsPsk>,
    /// The identity whose key was found.
    found: Mutex<Option<String>>,
    /// Secrets of a channel that somebody else is to take over.
    log: Mutex<KeyLog>,
}

fn slot() -> Result<Index<Ssl, Attached>, ErrorStack> {
    static SLOT: OnceLock<Index<Ssl, Attached>> = OnceLock::new();
    if let Some(slot) = SLOT.get() {
        return Ok(*slot);
    }
    let new = Ssl::new_ex_index()?;
    Ok(*SLOT.get_or_init(|| new))
}

fn attached(ssl: &SslRef) -> Option<&Attached> {
    ssl.ex_data(slot().ok()?)
}

/// Has the server look for keys here.
pub(super) fn serve(ssl: &mut Ssl, keys: Arc<dyn FindPsk>) -> Result<(), ErrorStack> {
    let (found, log, keys) = (Mutex::default(), Mutex::default(), Mutex::new(Some(keys)));
    ssl.set_ex_data(slot()?, Attached { keys, is_server: true, offered: None, found, log });
    // SAFETY: the connection is alive, and the callback keeps to what OpenSSL expects of it.
    unsafe { SSL_set_psk_find_session_callback(ssl.as_ptr(), Some(find)) };
    Ok(())
}

/// Has the client offer this key.
pub(super) fn offer(ssl: &mut Ssl, key: TlsPsk) -> Result<(), ErrorStack> {
    let (found, log, keys) = Default::default();
    ssl.set_ex_data(slot()?, Attached { keys, is_server: false, offered: Some(key), found, log });
    // SAFETY: as above.
    unsafe { SSL_set_psk_use_session_callback(ssl.as_ptr(), Some(use_offered)) };
    Ok(())
}

impl Attached {
    fn keys(&self) -> Option<Arc<dyn FindPsk>> {
        self.keys.lock().ok()?.clone()
    }
}

/// The handshake is over: no key is looked for any more, and those that are known now need not
/// stay as long as the connection.
pub(super) fn forget_keys(ssl: &SslRef) {
    if let Some(mut keys) = attached(ssl).and_then(|attached| attached.keys.lock().ok()) {
        *keys = None;
    }
}

/// The identity whose key a server has found.
pub(super) fn identity(ssl: &SslRef) -> Option<String> {
    attached(ssl)?.found.lock().ok()?.clone()
}

/// OpenSSL tells a secret, as a line of its key log.
pub(super) fn note_secret(ssl: &SslRef, line: &str) {
    if let Some(mut log) = attached(ssl).and_then(|attached| attached.log.lock().ok()) {
        log.note(line);
    }
}

/// The secrets that it has told. They are not kept here.
pub(super) fn take_traffic(ssl: &SslRef) -> Option<Traffic> {
    attached(ssl)?.log.lock().ok()?.take()
}

/// Has the next record sent follow a change of the key; `asks`: the peer is to change its own, too.
pub(super) fn update_key(ssl: &SslRef, asks: bool) -> bool {
    // SSL_KEY_UPDATE_NOT_REQUESTED and SSL_KEY_UPDATE_REQUESTED.
    // SAFETY: the connection is alive; OpenSSL refuses where it is not the time for it.
    unsafe { SSL_key_update(ssl.as_ptr(), c_int::from(asks)) == 1 }
}

/// The extension pre_shared_key (RFC 8446, section 4.2.11).
const PRE_SHARED_KEY: c_uint = 41;

/// The hash function of the first known key that a client offers. To be asked when its greeting is
/// there, and nothing of it has been looked at.
pub(super) fn hash_of_offered(ssl: &SslRef) -> Option<Hash> {
    let (mut start, mut len) = (std::ptr::null(), 0);
    // SAFETY: the connection is alive, and the answer goes to two places of ours.
    let found = unsafe {
        SSL_client_hello_get0_ext(ssl.as_ptr(), PRE_SHARED_KEY, &raw mut start, &raw mut len)
    };
    if found != 1 || start.is_null() {
        return None;
    }
    // SAFETY: the greeting is kept as long as it is being looked at, which is longer than this.
    let extension = unsafe { std::slice::from_raw_parts(start, len) };
    let keys = attached(ssl)?.keys()?;
    offered_identities(extension)
        .filter_map(|identity| std::str::from_utf8(identity).ok())
        .find_map(|identity| keys.find_psk(identity))
        .map(|key| key.hash)
}

/// Identities looked at of one greeting at most: each costs a few hash values.
const IDENTITIES_MAX: usize = 4;

/// The identities in the extension's `PskIdentity identities<7..2^16-1>`: each has a length, so
/// many bytes and the age of a ticket.
pub(super) fn offered_identities(extension: &[u8]) -> impl Iterator<Item = &[u8]> {
    let listed = split_length(extension).map_or(&[][..], |(list, _)| list);
    let mut rest = listed;
    std::iter::from_fn(move || {
        let (identity, behind) = split_length(rest)?;
        rest = behind.get(4..)?;
        Some(identity)
    })
    .take(IDENTITIES_MAX)
}

/// Bytes behind their length in two bytes, and what follows.
fn split_length(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(U16::from_bytes(*head).get()))
}

/// A server has found no key.
pub(super) fn was_asked_in_vain(ssl: &SslRef) -> bool {
    let Some(attached) = attached(ssl) else { return false };
    attached.is_server && attached.found.lock().is_ok_and(|found| found.is_none())
}

/// A session that stands for a key, as OpenSSL takes external keys.
fn session(ssl: *mut RawSsl, key: &TlsPsk) -> Option<*mut Session> {
    // TLS_AES_128_GCM_SHA256 and TLS_AES_256_GCM_SHA384.
    let suite: [c_uchar; 2] = if key.hash == Hash::Sha256 { [0x13, 0x01] } else { [0x13, 0x02] };
    // SAFETY: the connection is alive; an identifier has two bytes.
    let cipher = unsafe { SSL_CIPHER_find(ssl, suite.as_ptr()) };
    if cipher.is_null() {
        return None;
    }
    // SAFETY: the call has no conditions.
    let session = unsafe { SSL_SESSION_new() };
    if session.is_null() {
        return None;
    }
    let bytes = key.key.bytes();
    // SAFETY: the session is ours and new; the key is copied.
    let with_key = unsafe { SSL_SESSION_set1_master_key(session, bytes.as_ptr(), bytes.len()) };
    // SAFETY: the session is ours; ciphers live as long as the library.
    let with_cipher = unsafe { SSL_SESSION_set_cipher(session, cipher) };
    // SAFETY: the session is ours.
    let with_version = unsafe { SSL_SESSION_set_protocol_version(session, TLS_1_3) };
    if with_key & with_cipher & with_version == 1 {
        return Some(session);
    }
    // SAFETY: the session is ours, and nobody else has it.
    unsafe { SSL_SESSION_free(session) };
    None
}

/// OpenSSL's question to a server. 1 without a session: no such key.
// SAFETY: only OpenSSL calls it.
unsafe extern "C" fn find(
    ssl: *mut RawSsl,
    identity: *const c_uchar,
    len: usize,
    out: *mut *mut Session,
) -> c_int {
    // SAFETY: OpenSSL asks for a connection that is alive.
    let own = unsafe { SslRef::from_ptr(ssl) };
    // SAFETY: OpenSSL gives the identity with its length.
    let identity = unsafe { std::slice::from_raw_parts(identity, len) };
    let found = attached(own).and_then(|attached| {
        let text = std::str::from_utf8(identity).ok()?;
        let key = attached.keys()?.find_psk(text)?;
        let session = session(ssl, &key)?;
        *attached.found.lock().ok()? = Some(text.to_owned());
        Some(session)
    });
    // SAFETY: OpenSSL wants the answer there.
    unsafe { *out = found.unwrap_or(std::ptr::null_mut()) };
    1
}

/// OpenSSL's question to a client. A digest other than the key's: it asks again with another.
// SAFETY: only OpenSSL calls it.
unsafe extern "C" fn use_offered(
    ssl: *mut RawSsl,
    digest: *const c_void,
    identity: *mut *const c_uchar,
    len: *mut usize,
    out: *mut *mut Session,
) -> c_int {
    // SAFETY: OpenSSL asks for a connection that is alive.
    let own = unsafe { SslRef::from_ptr(ssl) };
    // After a HelloRetryRequest only a key of the chosen digest may be offered, and there is one
    // key: OpenSSL leaves it out itself if it does not fit.
    let _ = digest;
    let offered = attached(own).and_then(|attached| attached.offered.as_ref());
    let made = offered.and_then(|key| session(ssl, key).map(|session| (key, session)));
    let Some((key, session)) = made else { return 0 };
    // SAFETY: OpenSSL wants the answers there; the identity lives as long as the connection.
    unsafe { *identity = key.identity.as_ptr() };
    // SAFETY: as above.
    unsafe { *len = key.identity.len() };
    // SAFETY: as above; the session is OpenSSL's from now on.
    unsafe { *out = session };
    1
}
