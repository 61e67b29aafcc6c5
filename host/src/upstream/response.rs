//! The head and the body of an upstream's answer (RFC 9112), read strictly.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use super::{Connection, TransportError};

/// Largest head, informational ones before it included.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Most header lines.
const MAX_HEADERS: usize = 128;

/// Longest line of a chunk's size with its extensions.
const MAX_CHUNK_LINE_BYTES: usize = 4 << 10;

/// Longest trailers.
const MAX_TRAILER_BYTES: usize = 16 << 10;

/// An answer whose head is read.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    head: Bytes,
    fields: Vec<(Range<usize>, Range<usize>)>,
    connection: Option<Connection>,
    keep: bool,
    framing: Framing,
}

/// How much body is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    UntilClose,
    Chunk(Chunk),
    Done,
}

/// Where the chunked decoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
}

impl Response {
    /// Reads the head.
    pub(super) async fn read(mut connection: Connection) -> Result<Self, TransportError> {
        let mut skipped = 0;
        loop {
            match parse_head(&connection.buffer)? {
                Some(head) if (100..200).contains(&head.status) => {
                    if head.status == 101 {
                        return Err(TransportError::Malformed("it switched protocols"));
                    }
                    skipped += head.len;
                    connection.buffer.advance(head.len);
                }
                Some(head) => return Ok(head.respond(connection)),
                None if connection.buffer.len() + skipped >= MAX_HEAD_BYTES => {
                    return Err(TransportError::TooLarge("its head is over 64 KiB"));
                }
                None => {
                    if connection.fill().await? == 0 {
                        return Err(TransportError::Closed("no whole answer came".into()));
                    }
                }
            }
            if skipped >= MAX_HEAD_BYTES {
                return Err(TransportError::TooLarge("its head is over 64 KiB"));
            }
        }
    }

    /// The headers, names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| {
            (std::str::from_utf8(&self.head[name.clone()]).unwrap_or(""), &self.head[value.clone()])
        })
    }

    /// The first header of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers().find(|(key, _)| *key == name);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// The length that the head announced and that is still to come.
    pub fn remaining(&self) -> Option<u64> {
        if let Framing::Length(left) = self.framing { Some(left) } else { None }
    }

    /// The same answer on a connection that is closed after it.
    pub(super) fn not_kept(mut self) -> Self {
        self.keep = false;
        self
    }

    /// Appends what comes next of the body to `out`; `false` at its end. Waits for one byte at least and
    /// takes what one read brings. Cancel-safe: what was read stays for the next call.
    ///
    /// # Errors
    /// A connection that breaks before the body's end, or a body that is framed wrongly.
    pub async fn read_body(&mut self, out: &mut BytesMut) -> Result<bool, TransportError> {
        let before = out.len();
        let Some(connection) = &mut self.connection else { return Ok(false) };
        let mut decoded = decode_buffer(&mut self.framing, &mut connection.buffer, out);
        loop {
            match decoded {
                // What came before the mistake is delivered; it is met again at the next call.
                Err(_) if out.len() > before => return Ok(true),
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            if self.framing == Framing::Done {
                self.finish();
                return Ok(out.len() > before);
            }
            if out.len() > before {
                return Ok(true);
            }
            let Some(Connection { io, buffer, .. }) = &mut self.connection else { return Ok(false) };
            let framing = &mut self.framing;
            let read = super::read(io, |bytes| {
                decoded = decode_read(framing, bytes, buffer, out);
            });
            if read.await? == 0 {
                if self.framing == Framing::UntilClose {
                    self.framing = Framing::Done;
                    self.keep = false;
                    self.connection = None;
                    return Ok(false);
                }
                return Err(TransportError::Closed("its body is incomplete".into()));
            }
        }
    }

    /// Gives the connection back, if nothing was sent behind the body.
    fn finish(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.keep
            && connection.buffer.is_empty()
        {
            let pool = std::sync::Arc::clone(&connection.pool);
            pool.give(connection);
        }
    }
}

/// Decodes what one read brought. Only what is no whole line of the framing yet is kept in `buffer`, so that a
/// body is copied once and a connection that waits holds nothing.
fn decode_read(
    framing: &mut Framing,
    mut bytes: &[u8],
    buffer: &mut BytesMut,
    out: &mut BytesMut,
) -> Result<(), TransportError> {
    if !buffer.is_empty() {
        buffer.extend_from_slice(bytes);
        return decode_buffer(framing, buffer, out);
    }
    let decoded = decode(framing, &mut bytes, out);
    buffer.extend_from_slice(bytes);
    decoded
}

fn decode_buffer(
    framing: &mut Framing,
    buffer: &mut BytesMut,
    out: &mut BytesMut,
) -> Result<(), TransportError> {
    let mut bytes = &buffer[..];
    let decoded = decode(framing, &mut bytes, out);
    let rest = bytes.len();
    if rest == 0 {
        // Not only emptied: its memory may be a whole read's.
        *buffer = BytesMut::new();
    } else {
        buffer.advance(buffer.len() - rest);
    }
    decoded
}

/// Moves the body's bytes out of what came, as far as they can be told from the framing.
fn decode(framing: &mut Framing, bytes: &mut &[u8], out: &mut BytesMut) -> Result<(), TransportError> {
    loop {
        match framing {
            Framing::Done => return Ok(()),
            Framing::UntilClose => {
                move_bytes(bytes, u64::MAX, out);
                return Ok(());
            }
            Framing::Length(left) => {
                *left -= move_bytes(bytes, *left, out);
                if *left == 0 {
                    *framing = Framing::Done;
                }
                return Ok(());
            }
            Framing::Chunk(Chunk::Data(left)) => {
                *left -= move_bytes(bytes, *left, out);
                if *left > 0 {
                    return Ok(());
                }
                *framing = Framing::Chunk(Chunk::DataEnd);
            }
            Framing::Chunk(state) => match chunk_line(bytes, *state)? {
                Some(next) => *framing = next,
                None => return Ok(()),
            },
        }
    }
}

fn move_bytes(from: &mut &[u8], at_most: u64, to: &mut BytesMut) -> u64 {
    let count = usize::try_from(at_most).unwrap_or(usize::MAX).min(from.len());
    let (now, rest) = from.split_at(count);
    to.extend_from_slice(now);
    *from = rest;
    count as u64
}

/// Reads a line of a chunked body's framing; `None` if it is not there as a whole yet.
fn chunk_line(buffer: &mut &[u8], state: Chunk) -> Result<Option<Framing>, TransportError> {
    let limit = if state == Chunk::Trailers { MAX_TRAILER_BYTES } else { MAX_CHUNK_LINE_BYTES };
    let Some(end) = memchr::memchr(b'\n', buffer) else {
        let long = buffer.len() > limit;
        return if long { Err(TransportError::Malformed("a chunk's line has no end")) } else { Ok(None) };
    };
    if end > limit || end == 0 || buffer[end - 1] != b'\r' {
        return Err(TransportError::Malformed("a chunk's line ends wrongly"));
    }
    let line = &buffer[..end - 1];
    let next = match state {
        Chunk::DataEnd if line.is_empty() => Framing::Chunk(Chunk::Size),
        Chunk::DataEnd => return Err(TransportError::Malformed("a chunk is longer than its size")),
        Chunk::Trailers if line.is_empty() => Framing::Done,
        Chunk::Trailers => Framing::Chunk(Chunk::Trailers),
        _ => match chunk_size(line)? {
            0 => Framing::Chunk(Chunk::Trailers),
            size => Framing::Chunk(Chunk::Data(size)),
        },
    };
    *buffer = &buffer[end + 1..];
    Ok(Some(next))
}

fn chunk_size(line: &[u8]) -> Result<u64, TransportError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or(line).trim_ascii();
    let valid = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| valid);
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or(TransportError::Malformed("a chunk's size is no number"))
}

/// A head that is there as a whole.
struct Head {
    status: u16,
    len: usize,
    fields: Vec<(Range<usize>, Range<usize>)>,
    framing: Framing,
    keep: bool,
}

impl Head {
    fn respond(self, mut connection: Connection) -> Response {
        // A copy: the head lives as long as the body, and would keep the memory of a whole read.
        let mut head = BytesMut::from(&connection.buffer[..self.len]);
        connection.buffer.advance(self.len);
        for (name, _) in &self.fields {
            head[name.clone()].make_ascii_lowercase();
        }
        let mut response = Response {
            status: self.status,
            head: head.freeze(),
            fields: self.fields,
            connection: Some(connection),
            keep: self.keep,
            framing: self.framing,
        };
        if response.framing == Framing::Done {
            response.finish();
        }
        response
    }
}

fn parse_head(buffer: &[u8]) -> Result<Option<Head>, TransportError> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let mut storage = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut storage);
    let len = match parsed.parse(buffer) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(TransportError::TooLarge("it has more than 128 headers"));
        }
        Err(_) => return Err(TransportError::Malformed("its head cannot be read")),
    };
    let status = parsed.code.unwrap_or(0);
    let mut keep = parsed.version == Some(1);
    let (mut length, mut chunked) = (None, false);
    let base = buffer.as_ptr() as usize;
    let span = |bytes: &[u8]| {
        let start = bytes.as_ptr() as usize - base;
        start..start + bytes.len()
    };
    let mut fields = Vec::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let value = header.value.trim_ascii();
        match header.name {
            name if name.eq_ignore_ascii_case("content-length") => {
                let number =
                    std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                let number = number.and_then(|text| text.parse::<u64>().ok());
                let number = number.ok_or(TransportError::Malformed("its length is no number"))?;
                if length.replace(number).is_some_and(|other| other != number) {
                    return Err(TransportError::Malformed("it has two lengths"));
                }
            }
            name if name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(TransportError::Malformed("its transfer coding is not known"));
                }
                chunked = true;
            }
            name if name.eq_ignore_ascii_case("connection") => {
                keep &= !value.to_ascii_lowercase().windows(5).any(|word| word == b"close");
            }
            _ => {}
        }
        fields.push((span(header.name.as_bytes()), span(value)));
    }
    let framing = match (status, chunked, length) {
        (_, true, Some(_)) => return Err(TransportError::Malformed("it has a length and chunks")),
        (100..=199 | 204 | 304, _, _) => Framing::Done,
        (_, true, None) => Framing::Chunk(Chunk::Size),
        (_, false, Some(0)) => Framing::Done,
        (_, false, Some(length)) => Framing::Length(length),
        (_, false, None) => Framing::UntilClose,
    };
    Ok(Some(Head { status, len, fields, framing, keep }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a chunked body that arrives in two pieces.
    fn decode(text: &[u8], cut: usize) -> Result<(Vec<u8>, bool), TransportError> {
        let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
        let mut framing = Framing::Chunk(Chunk::Size);
        for piece in [&text[..cut], &text[cut..]] {
            decode_read(&mut framing, piece, &mut buffer, &mut out)?;
        }
        Ok((out.to_vec(), framing == Framing::Done))
    }

    #[test]
    fn chunks_are_read_wherever_they_are_cut() {
        let text = b"5;ext=1\r\nhello\r\n00001\r\n \r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
        for cut in 0..=text.len() {
            assert_eq!(decode(text, cut), Ok((b"hello 0123456789".to_vec(), true)), "at {cut}");
        }
        for wrong in
            [&b"x\r\n"[..], b"5\nhello", b"-1\r\n", b"5\r\nhello!\r\n", b"fffffffffffffffff\r\n", b"\r\n"]
        {
            assert!(decode(wrong, 0).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn heads_decide_the_framing() {
        let framing = |headers: &str| {
            let head = format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
            parse_head(head.as_bytes()).map(|head| head.map(|head| (head.framing, head.keep)))
        };
        assert_eq!(framing("Content-Length: 5\r\n"), Ok(Some((Framing::Length(5), true))));
        assert_eq!(framing("Connection: Close\r\n"), Ok(Some((Framing::UntilClose, false))));
        assert_eq!(framing("transfer-encoding: chunked\r\n"), Ok(Some((Framing::Chunk(Chunk::Size), true))));
        for wrong in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: +5\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
        ] {
            assert!(framing(wrong).is_err(), "{wrong}");
        }
        assert!(parse_head(b"HELO\r\n").is_err());
        assert!(matches!(parse_head(b"HTTP/1.1 200 O"), Ok(None)));
    }
}
