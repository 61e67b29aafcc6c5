//! Bounds on a request before its work begins: how much body, how slowly, and how many at once.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header, request::Parts};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::{config::Limits, error::Error};

mod places;

use places::Places;

/// Reads a request's body whole.
///
/// A body in one piece is handed on as it came; one in several is copied together once.
///
/// # Errors
/// 413 over the limit, before reading if `Content-Length` tells; 408 if it came too slowly, see `Pace`; 400
/// if the body broke off or its framing is wrong.
pub async fn read_body<B>(mut body: B, head: &Parts, limits: &Limits) -> Result<Bytes, Error>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let max = limits.max_body_bytes;
    let declared = body.size_hint().exact().or_else(|| declared(head));
    if declared.is_some_and(|length| length > max as u64) {
        return Err(too_large(max));
    }
    let mut pace = Pace::new(limits.body_idle);
    let Some(first) = next(&mut body, &mut pace).await? else { return Ok(Bytes::new()) };
    if first.len() > max {
        return Err(too_large(max));
    }
    let Some(second) = next_unless_ended(&mut body, &mut pace).await? else { return Ok(first) };
    let mut whole = BytesMut::new();
    let mut piece = first;
    let mut next = Some(second);
    loop {
        let length = whole.len() + piece.len();
        if length > max {
            return Err(too_large(max));
        }
        if length > whole.capacity() {
            whole.reserve(room(declared, length) - whole.len());
        }
        whole.extend_from_slice(&piece);
        piece = match next.take() {
            Some(next) => next,
            None => match next_unless_ended(&mut body, &mut pace).await? {
                Some(next) => next,
                None => return Ok(whole.freeze()),
            },
        };
    }
}

/// Room that is left behind a body for what the gateway will put into it.
const SPARE_ROOM: usize = 16 << 10;

/// How much room to make for a body of which `length` bytes came. A length is believed only so far: a
/// caller who announces much and sends little must not hold memory.
fn room(declared: Option<u64>, length: usize) -> usize {
    let believed = (length * 8).max(1 << 20);
    let expected = declared.map_or(length * 2, |declared| believed.min(declared as usize));
    expected.max(length) + SPARE_ROOM
}

fn declared(head: &Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Bytes of a body that must come within each `body_idle`, unless it ends before.
const LEAST_PROGRESS: usize = 1 << 10;

/// How fast a body comes. Silence alone is no measure: a byte now and then, or pieces with nothing in them,
/// would hold a request open for days.
struct Pace {
    idle: Duration,
    until: Instant,
    came: usize,
}

impl Pace {
    fn new(idle: Duration) -> Self {
        Self { idle, until: Instant::now() + idle, came: 0 }
    }

    fn note(&mut self, bytes: usize) {
        self.came += bytes;
        if self.came >= LEAST_PROGRESS {
            *self = Self::new(self.idle);
        }
    }

    fn too_slow(&self) -> Error {
        let secs = self.idle.as_secs();
        let text = format!("hardly anything of the body came for {secs} s; send it again");
        Error::new(StatusCode::REQUEST_TIMEOUT, text)
    }
}

async fn next_unless_ended<B>(body: &mut B, pace: &mut Pace) -> Result<Option<Bytes>, Error>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if body.is_end_stream() { Ok(None) } else { next(body, pace).await }
}

/// The next piece that is not empty.
async fn next<B>(body: &mut B, pace: &mut Pace) -> Result<Option<Bytes>, Error>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    loop {
        let frame = timeout_at(pace.until, body.frame()).await.map_err(|_| pace.too_slow())?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(Error::bad_request("the body broke off; send it again")),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => {
                    pace.note(data.len());
                    return Ok(Some(data));
                }
                _ if pace.until <= Instant::now() => return Err(pace.too_slow()),
                _ => {}
            },
        }
    }
}

fn too_large(max: usize) -> Error {
    Error::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is larger than {max} bytes; send less, or raise `max_body_bytes` under [limits] in sigorest.toml"),
    )
    .code("request_too_large")
}

/// Counts the requests that run and refuses more than a number.
#[derive(Debug, Clone)]
pub struct InFlight(Arc<Places>);

/// The right to run one request; dropping it gives the place back.
#[derive(Debug)]
pub struct Permit(Arc<Places>);

impl InFlight {
    /// At most `max` at once.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Places::new(max)))
    }

    /// Takes a place.
    ///
    /// # Errors
    /// 503 with `Retry-After` if all are taken.
    pub fn enter(&self) -> Result<Permit, Error> {
        if self.0.take() {
            return Ok(Permit(Arc::clone(&self.0)));
        }
        Err(Error::unavailable("too many requests run at once; try again", Duration::from_secs(1))
            .code("overloaded"))
    }

    /// How many run now.
    pub fn count(&self) -> usize {
        self.0.taken()
    }

    /// Changes the bound for those who come from now on.
    pub fn set_max(&self, max: usize) {
        self.0.set_max(max);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    use http_body::Frame;

    use super::*;

    fn limits(max_body_bytes: usize) -> Limits {
        Limits {
            max_body_bytes,
            header: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keepalive: Duration::from_secs(120),
            connect: Duration::from_secs(5),
            stream_idle: Duration::from_secs(180),
            heartbeat: Duration::from_secs(15),
            drain: Duration::from_secs(120),
            max_in_flight: 16,
            max_connections_per_peer: 16,
        }
    }

    fn head(length: &str) -> Parts {
        let request = http::Request::post("/").header("content-length", length);
        request.body(()).unwrap().into_parts().0
    }

    /// These pieces, then the end, or silence.
    struct Pieces {
        left: Vec<Bytes>,
        hangs: bool,
    }

    fn pieces(pieces: &[&'static str]) -> Pieces {
        Pieces {
            left: pieces.iter().rev().map(|piece| Bytes::from_static(piece.as_bytes())).collect(),
            hangs: false,
        }
    }

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.left.pop() {
                None if self.hangs => Poll::Pending,
                piece => Poll::Ready(piece.map(|piece| Ok(Frame::data(piece)))),
            }
        }
    }

    #[tokio::test]
    async fn bodies_come_whole_or_not_at_all() {
        let limits = limits(8);
        for (parts, length, expected) in [
            (&[][..], "", Ok("")),
            (&["abc"], "3", Ok("abc")),
            (&["abc"], "", Ok("abc")),
            (&["", "abc", "", "defgh"], "", Ok("abcdefgh")),
            (&["ab", "cd", "ef"], "6", Ok("abcdef")),
            (&["abcdefghi"], "", Err(413)),
            (&["abcdefgh", "i"], "", Err(413)),
            (&[], "9", Err(413)),
            (&[], "99999999999", Err(413)),
        ] {
            let result = read_body(pieces(parts), &head(length), &limits).await;
            let result = result.map_err(|error| error.status.as_u16());
            assert_eq!(
                result.as_deref(),
                expected.as_ref().map(|text| text.as_bytes()),
                "{parts:?} {length}"
            );
        }
    }

    #[tokio::test]
    async fn one_piece_is_not_copied() {
        let body = pieces(&["abc"]);
        let start = body.left[0].as_ptr();
        assert_eq!(read_body(body, &head("3"), &limits(8)).await.unwrap().as_ptr(), start);
    }

    #[tokio::test]
    async fn a_silent_body_is_given_up() {
        let body = Pieces { hangs: true, ..pieces(&["abc"]) };
        let limits = Limits { body_idle: Duration::from_millis(20), ..limits(8) };
        assert_eq!(read_body(body, &head("8"), &limits).await.unwrap_err().status, 408);
    }

    #[test]
    fn as_many_run_as_may() {
        let running = InFlight::new(2);
        let (one, _two) = (running.enter().unwrap(), running.enter().unwrap());
        let error = running.enter().unwrap_err();
        assert_eq!((error.status.as_u16(), error.retry_after), (503, Some(Duration::from_secs(1))));
        drop(one);
        assert_eq!(running.count(), 1);
        let _again = running.enter().unwrap();
        running.set_max(1);
        assert!(running.enter().is_err());
    }
}
