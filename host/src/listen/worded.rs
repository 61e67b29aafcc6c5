//! Words for the refusals that hyper sends by itself: a head that it cannot read gets a status from it, but
//! no body. Callers expect the JSON error with every status, so it is put in where the bytes pass by. What
//! comes in is looked at here too, for what hyper would hide.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{close, framing::Framing, pulse::Pulse};
use crate::error::Error;

/// A connection below HTTP/1.1, with or without TLS.
pub(super) struct Worded<I> {
    io: I,
    pulse: Arc<Pulse>,
    framing: Framing,
    ours: Option<Ours>,
}

/// Our answer on its way in place of hyper's.
struct Ours {
    bytes: Vec<u8>,
    written: usize,
    /// Length of what it stands for.
    instead_of: usize,
}

impl<I> Worded<I> {
    pub(super) fn new(io: I, pulse: Arc<Pulse>) -> Self {
        Self { io, pulse, framing: Framing::default(), ours: None }
    }

    pub(super) fn into_inner(self) -> I {
        self.io
    }

    /// Where hyper's own refusal starts. While a request runs there is none: then nothing is searched.
    fn refusal(&self, bytes: &[u8]) -> Option<(usize, StatusCode)> {
        if self.pulse.busy() { None } else { bare_refusal(bytes) }
    }
}

/// The head of an answer without a body at the end of `bytes` that refuses a request.
///
/// No answer of ours looks like this: each refusal has a body, and no JSON or event holds a bare CR.
fn bare_refusal(bytes: &[u8]) -> Option<(usize, StatusCode)> {
    let rest = bytes.strip_suffix(b"\r\n\r\n")?;
    let start = memchr::memmem::rfind(rest, b"HTTP/1.1 4")?;
    let head = &rest[start..];
    let bare = memchr::memmem::find(head, b"\r\n\r\n").is_none()
        && memchr::memmem::find(head, b"\r\ncontent-length: 0").is_some();
    let status = StatusCode::from_bytes(head.get(9..12)?).ok().filter(|_| bare)?;
    Some((start, status))
}

fn words(status: StatusCode) -> Error {
    let text = match status {
        StatusCode::URI_TOO_LONG => "the request's target is too long; put what is long into the body",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the request's head is over 64 KiB or has more than 100 headers; send fewer"
        }
        _ => "the request is not valid HTTP/1.1; check its first line, its headers and their line ends",
    };
    Error::new(status, text)
}

impl<I: AsyncWrite + Unpin> Worded<I> {
    fn poll_ours(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some(ours) = &mut self.ours {
            if ours.written == ours.bytes.len() {
                let length = ours.instead_of;
                self.ours = None;
                return Poll::Ready(Ok(length));
            }
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &ours.bytes[ours.written..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            ours.written += sent;
        }
        Poll::Ready(Ok(0))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Worded<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.ours.is_none() {
            match self.refusal(bytes) {
                None => return Pin::new(&mut self.io).poll_write(cx, bytes),
                Some((0, status)) => {
                    let answer = close::answer(&words(status));
                    self.ours = Some(Ours { bytes: answer, written: 0, instead_of: bytes.len() });
                }
                // The end of the answer before it goes first.
                Some((start, _)) => return Pin::new(&mut self.io).poll_write(cx, &bytes[..start]),
            }
        }
        self.poll_ours(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let at = pieces.iter().position(|piece| self.ours.is_some() || self.refusal(piece).is_some());
        match at {
            None => Pin::new(&mut self.io).poll_write_vectored(cx, pieces),
            Some(0) => self.poll_write(cx, &pieces[0]),
            Some(at) => Pin::new(&mut self.io).poll_write_vectored(cx, &pieces[..at]),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Worded<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Self { io, pulse, framing, .. } = &mut *self;
        let read = Pin::new(io).poll_read(cx, buffer);
        framing.read(&buffer.filled()[before..], pulse);
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_without_a_body_are_found() {
        let bare = "HTTP/1.1 431 Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let found = |text: &str| bare_refusal(text.as_bytes()).map(|(at, status)| (at, status.as_u16()));
        assert_eq!(found(bare), Some((0, 431)));
        assert_eq!(found(&format!("0\r\n\r\n{bare}")), Some((5, 431)));
        assert_eq!(found("0\r\n\r\n"), None);
        assert_eq!(found("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None);
        assert_eq!(found("HTTP/1.1 404 Not Found\r\ncontent-length: 12\r\n\r\n"), None);
        assert_eq!(found(&format!("{bare}{{}}")), None);
    }
}
