//! Finds where one JSON value ends and the next begins: there is no delimiter between them.
//!
//! Only braces, brackets and strings matter for that; whether what lies between is JSON, the
//! parser decides. The scan goes on where it stopped, so that a value that arrives in many pieces
//! costs its length once.

/// Largest request in bytes (SPDK's receive buffer).
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// What [`Framer::next_frame`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// One complete value, an object or an array by its outermost brackets.
    Complete(Vec<u8>),
    /// More bytes are needed.
    Incomplete,
    /// The stream cannot be understood from here on.
    Broken(&'static str),
}

/// The receive buffer of one connection.
#[derive(Debug, Default)]
pub struct Framer {
    bytes: Vec<u8>,
    /// Bytes that have been looked at.
    scanned: usize,
    /// Open brackets.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Framer {
    /// How many more bytes the buffer takes before the request is too large.
    #[must_use]
    pub fn room(&self) -> usize {
        REQUEST_BYTES_MAX - self.bytes.len()
    }

    /// Adds received bytes, at most [`Self::room`] of them.
    pub fn push(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "received more than there is room for");
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether bytes of an unfinished value are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes the next complete value out.
    pub fn next_frame(&mut self) -> Frame {
        if self.depth == 0 {
            self.skip_blanks();
            match self.bytes.first() {
                None => return Frame::Incomplete,
                Some(b'{' | b'[') => {}
                Some(_) => return Frame::Broken("a request begins with { or ["),
            }
        }
        while let Some(&byte) = self.bytes.get(self.scanned) {
            self.scanned += 1;
            if self.step(byte) {
                let rest = self.bytes.split_off(self.scanned);
                let frame = std::mem::replace(&mut self.bytes, rest);
                self.scanned = 0;
                return Frame::Complete(frame);
            }
        }
        if self.room() == 0 {
            return Frame::Broken("the request is larger than 262144 bytes");
        }
        Frame::Incomplete
    }

    fn skip_blanks(&mut self) {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let count = self.bytes.iter().take_while(|byte| blank(byte)).count();
        self.bytes.drain(..count);
        self.scanned = 0;
    }

    /// Looks at one byte; true when it ends the value.
    fn step(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

const _: () = assert!(REQUEST_BYTES_MAX == 262_144, "the message above names the number");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(pieces: &[&[u8]]) -> (Vec<String>, Frame) {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        for piece in pieces {
            framer.push(piece);
            loop {
                match framer.next_frame() {
                    Frame::Complete(frame) => {
                        found.push(String::from_utf8_lossy(&frame).into_owned());
                    }
                    Frame::Incomplete => break,
                    broken @ Frame::Broken(_) => return (found, broken),
                }
            }
        }
        (found, Frame::Incomplete)
    }

    #[test]
    fn values_back_to_back() {
        let (found, end) = frames(&[b" {\"a\":1}[{}]\n{\"b\":\"}\\\"]\"} {\"c\""]);
        assert_eq!(found, ["{\"a\":1}", "[{}]", "{\"b\":\"}\\\"]\"}"]);
        assert_eq!(end, Frame::Incomplete);
    }

    #[test]
    fn garbage_is_broken_at_once() {
        assert!(matches!(frames(&[b"GET / HTTP/1.1"]).1, Frame::Broken(_)));
        assert!(matches!(frames(&[b"{} 7"]).1, Frame::Broken(_)));
        assert!(matches!(frames(&[b"}"]).1, Frame::Broken(_)));
    }

    #[test]
    fn json_that_never_ends_is_bounded() {
        let mut framer = Framer::default();
        framer.push(b"[");
        while framer.room() > 0 {
            assert_eq!(framer.next_frame(), Frame::Incomplete);
            let room = framer.room().min(1000);
            framer.push(&b"[".repeat(room));
        }
        assert!(matches!(framer.next_frame(), Frame::Broken(_)));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            strings in proptest::collection::vec(any::<String>(), 1..6),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let values: Vec<String> = strings
                .iter()
                .map(|text| serde_json::json!({ text: [text, { "x": text }] }).to_string())
                .collect();
            let stream = values.join(" ");
            let bytes = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(frames(&pieces).0, values);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = frames(&[&bytes]);
        }
    }
}
