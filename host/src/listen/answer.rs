//! A request inside its connection: the handler's answer, marked as running until its last byte is given.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::pulse::{Busy, Pulse};
use crate::{
    access::Peer,
    body::Body,
    drain::{Drain, Running},
    error::Error,
};

thread_local! {
    /// Whether the body that was polled last gave bytes away rather than waited for them; `None`: none was
    /// polled. Only read right after a poll by [`gave_bytes`], on the same thread.
    static GAVE: Cell<Option<bool>> = const { Cell::new(None) };
}

/// What the bodies polled inside `poll` did last.
pub(super) fn gave_bytes<T>(poll: impl FnOnce() -> T) -> (T, Option<bool>) {
    GAVE.set(None);
    (poll(), GAVE.take())
}

/// The body of an answer; its request runs until it is dropped.
pub(super) struct Tracked {
    body: Body,
    busy: Busy,
    _running: Running,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.busy.pulse().holds() {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        GAVE.set(Some(polled.is_ready()));
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.busy.pulse().gave(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs one request.
pub(super) fn answer<H, F>(
    handler: &H,
    peer: Peer,
    pulse: &Arc<Pulse>,
    drain: &Arc<Drain>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Tracked>, Infallible>> + use<H, F>
where
    H: Fn(Peer, Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let (busy, running) = (pulse.begin(), drain.enter());
    let drain = Arc::clone(drain);
    let one_request = request.version() < Version::HTTP_2;
    let has_body = !request.body().is_end_stream();
    // hyper ends the connection behind such a request by itself.
    let twice = pulse.is_framed_twice() && request.headers().contains_key(header::TRANSFER_ENCODING);
    // Boxed: hyper keeps room for this future as long as the connection lives.
    let answering = (!twice).then(|| Box::pin(handler(peer, request)));
    async move {
        let mut response = match answering {
            Some(answering) => answering.await,
            None => framed_twice(peer),
        };
        // The caller's next request belongs to the next process.
        if one_request && drain.begun() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if has_body && response.status().as_u16() >= 400 {
            busy.pulse().refused();
        }
        Ok(response.map(|body| Tracked { body, busy, _running: running }))
    }
}

/// What a request gets whose length is given twice.
fn framed_twice(peer: Peer) -> Response<Body> {
    tracing::info!(peer = %peer.address.ip(), status = 400, "a request with Content-Length and Transfer-Encoding was refused");
    let text = "the request has both Content-Length and Transfer-Encoding; send one of them";
    let mut response = Error::bad_request(text).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
