//! One connection: handshake, HTTP/1.1 or HTTP/2, deadlines, and a close that loses no answer.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Request;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{
    Closing, Shared, answer::answer, close, io::Watched, pulse::Expired, pulse::Pulse, streams::Streams,
    worded::Worded,
};
use crate::{
    access::{Door, Peer},
    body::Body,
};

/// Most bytes that a connection buffers of what it writes, and of a head.
const BUFFER: usize = 64 * 1024;

/// When to look again at a connection that has no deadline.
const FAR: Duration = Duration::from_secs(24 * 3600);

/// What a connection needs of its server.
pub(super) struct Server<H> {
    pub(super) shared: Arc<Shared>,
    pub(super) handler: H,
    pub(super) closing: Arc<Closing>,
    pub(super) tasks: TaskTracker,
}

impl<H: Clone> Clone for Server<H> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            handler: self.handler.clone(),
            closing: Arc::clone(&self.closing),
            tasks: self.tasks.clone(),
        }
    }
}

impl<H, F> Server<H>
where
    H: Fn(Peer, Request<Incoming>) -> F + Clone + Send + Unpin + 'static,
    F: Future<Output = http::Response<Body>> + Send + 'static,
{
    /// Serves a connection of an admitted peer to its end.
    pub(super) async fn connection(self, stream: TcpStream, peer: Peer) {
        let limits = self.shared.limits.load();
        let header = limits.header;
        let pulse = Arc::new(Pulse::new(&limits));
        drop(limits);
        let stream = Watched::new(stream, Arc::clone(&pulse));
        if peer.door == Door::Http {
            return self.http1(stream, peer, pulse, |stream| stream).await;
        }
        // Boxed: a plain connection would carry the room for TLS and HTTP/2.
        Box::pin(self.secure(stream, peer, pulse, header)).await;
    }

    /// Shakes hands within `header` and serves what was agreed on.
    async fn secure(self, stream: Watched, peer: Peer, pulse: Arc<Pulse>, header: Duration) {
        let Some(tls) = self.shared.tls.load_full() else { return };
        let acceptor = TlsAcceptor::from(tls);
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(header, acceptor.accept(stream)) => accepted,
            () = self.closing.told.cancelled() => return,
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(peer = %peer.address, %error, "a TLS handshake failed"),
            Err(_) => return debug!(peer = %peer.address, "a TLS handshake took too long"),
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(stream, peer, pulse).await;
        } else {
            self.http1(stream, peer, pulse, |stream| stream.into_inner().0).await;
        }
    }

    async fn http1<I>(self, io: I, peer: Peer, pulse: Arc<Pulse>, socket: fn(I) -> Watched)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        pulse.opened(false);
        let Self { handler, closing, shared, .. } = self;
        let requests = Arc::clone(&pulse);
        let service = service_fn(move |request| answer(&handler, peer, &requests, &shared.drain, request));
        // No timer: hyper's header deadline counts idle time too and allocates for each request.
        let mut connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_buf_size(BUFFER)
            .max_header_size(BUFFER)
            .serve_connection(TokioIo::new(Worded::new(io, Arc::clone(&pulse))), service);
        let driver = Driver { pulse: &pulse, closing: &closing };
        let ended = driver.run(&mut connection, http1::Connection::graceful_shutdown).await;
        let socket = move || socket(connection.into_parts().io.into_inner().into_inner()).into_inner();
        match ended {
            Some(Ok(())) if pulse.unread() => close::linger(socket()).await,
            Some(Err(error)) if error.is_parse() => {
                debug!(peer = %peer.address, %error, "a request could not be read");
                close::linger(socket()).await;
            }
            Some(Err(error)) => debug!(peer = %peer.address, %error, "a connection broke off"),
            None => debug!(peer = %peer.address, "a connection was dropped: nothing moved in time"),
            Some(Ok(())) => {}
        }
    }

    async fn http2(self, io: tokio_rustls::server::TlsStream<Watched>, peer: Peer, pulse: Arc<Pulse>) {
        pulse.opened(true);
        let Self { handler, closing, tasks, shared } = self;
        let requests = Arc::clone(&pulse);
        let drain = Arc::clone(&shared.drain);
        let service = service_fn(move |request| answer(&handler, peer, &requests, &drain, request));
        let stall = shared.limits.load().stream_idle;
        let mut connection = http2::Builder::new(Streams { tasks, stall })
            .timer(TokioTimer::new())
            .max_concurrent_streams(256)
            .max_header_list_size(BUFFER as u32)
            .max_send_buf_size(BUFFER)
            .max_pending_accept_reset_streams(64)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(TokioIo::new(io), service);
        let driver = Driver { pulse: &pulse, closing: &closing };
        match driver.run(&mut connection, http2::Connection::graceful_shutdown).await {
            Some(Ok(())) => {}
            Some(Err(error)) => debug!(peer = %peer.address, %error, "a connection broke off"),
            None => debug!(peer = %peer.address, "a connection was dropped: nothing moved in time"),
        }
    }
}

/// Runs a connection under its deadlines.
struct Driver<'a> {
    pulse: &'a Pulse,
    closing: &'a Closing,
}

impl Driver<'_> {
    /// Until the connection ends; `None` if its time was up and it must be dropped.
    async fn run<C>(&self, connection: &mut C, farewell: fn(Pin<&mut C>)) -> Option<C::Output>
    where
        C: Future + Unpin,
    {
        let mut timer = pin!(sleep_until(self.due().unwrap_or_else(|| Instant::now() + FAR)));
        let mut told = pin!(self.closing.told.cancelled());
        let (mut registered, mut leaving) = (false, false);
        poll_fn(|cx| {
            // Polling `told` locks a mutex that all connections share; one poll leaves our waker there.
            if !leaving && (!registered || self.closing.begun()) {
                registered = true;
                // Who has just connected gets an answer, which closes the connection.
                if told.as_mut().poll(cx).is_ready() && !self.pulse.opening() {
                    leaving = true;
                    farewell(Pin::new(connection));
                }
            }
            loop {
                if let Poll::Ready(output) = Pin::new(&mut *connection).poll(cx) {
                    return Poll::Ready(Some(output));
                }
                match ready!(self.expired(timer.as_mut(), cx)) {
                    Expired::Farewell => farewell(Pin::new(connection)),
                    Expired::Drop => return Poll::Ready(None),
                }
            }
        })
        .await
    }

    /// Ready once the deadline has passed.
    fn expired(&self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Expired> {
        let due = self.due();
        if let Some(due) = due.filter(|due| *due < timer.deadline()) {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            match due {
                Some(due) if due > now => timer.as_mut().reset(due),
                Some(_) if self.closing_at().is_some_and(|end| end <= now) => {
                    return Poll::Ready(Expired::Drop);
                }
                Some(_) => return Poll::Ready(self.pulse.expire()),
                None => timer.as_mut().reset(now + FAR),
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.pulse.due().into_iter().chain(self.closing_at()).min()
    }

    fn closing_at(&self) -> Option<Instant> {
        let deadline = self.closing.deadline(self.pulse.is_stuck())?;
        Some(self.pulse.expected().map_or(deadline, |expected| expected.min(deadline)))
    }
}
