//! Requests that give the length of their body twice, by `Content-Length` and by chunks.
//!
//! Two servers in a row may read such a request differently, and then one takes the rest of its body for a
//! request of its own (smuggling). hyper reads the chunks and drops the length before anybody sees it, so
//! the lines are looked at where the bytes pass by.

use super::pulse::Pulse;

/// The longer of the two names, with its colon.
const LONGEST: usize = b"transfer-encoding:".len();

/// What has come in of the head that is being read.
#[derive(Default)]
pub(super) struct Framing {
    /// The line that is being read, as far as it matters.
    line: [u8; LONGEST],
    /// How much of it there is; one more than fits if there is more.
    length: usize,
    sized: bool,
    chunked: bool,
}

impl Framing {
    /// Looks at bytes that came in, and tells the pulse of a head that has both lines. Bodies pass here too: a
    /// line of JSON begins with neither name.
    pub(super) fn read(&mut self, bytes: &[u8], pulse: &Pulse) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.more(&rest[..end]);
            self.line_ends();
            rest = &rest[end + 1..];
            if self.sized && self.chunked {
                pulse.framed_twice();
            }
        }
        self.more(rest);
    }

    fn more(&mut self, bytes: &[u8]) {
        let room = &mut self.line[self.length.min(LONGEST)..];
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.length = (self.length + bytes.len()).min(LONGEST + 1);
    }

    fn line_ends(&mut self) {
        let line = &self.line[..self.length.min(LONGEST)];
        let names =
            |name: &[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        if line.is_empty() || line == b"\r" {
            (self.sized, self.chunked) = (false, false);
        } else if names(b"content-length:") {
            self.sized = true;
        } else if names(b"transfer-encoding:") {
            self.chunked = true;
        }
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twice(pieces: &[&[u8]]) -> bool {
        let pulse = Pulse::new(&crate::config::Limits::default());
        let mut framing = Framing::default();
        pieces.iter().for_each(|piece| framing.read(piece, &pulse));
        pulse.is_framed_twice()
    }

    #[test]
    fn both_names_in_one_head_are_found_however_they_come() {
        let both = b"POST / HTTP/1.1\r\nContent-LENGTH: 5\nx: y\r\ntransfer-Encoding:chunked\r\n\r\n";
        for cut in 0..both.len() {
            assert!(twice(&[&both[..cut], &both[cut..]]), "{cut}");
        }
        assert!(twice(&both.chunks(1).collect::<Vec<_>>()));
        let first = "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";
        let second = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(!twice(&[first.as_bytes(), second.as_bytes()]), "one each in two heads");
        assert!(twice(&[first.as_bytes(), both]));
        assert!(!twice(&[b"x-content-length: 1\r\nx-transfer-encoding: chunked\r\ncontent-lengthy: 1\r\n"]));
    }
}
