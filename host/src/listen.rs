//! The doors: sockets, connections and their deadlines; the start of every request.
//!
//! A peer is checked once, before anything of it is read. From then on one timer per connection bounds
//! every wait: for the first byte, a head, the next request, a reader that takes nothing.

mod answer;
mod bind;
mod close;
mod connection;
mod cores;
mod framing;
mod gate;
mod io;
mod pulse;
mod streams;
mod worded;

use std::{
    future::Future,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

pub use self::bind::{BindError, Sockets, bind};
use self::{
    bind::Listening,
    connection::Server,
    cores::Cores,
    gate::{Gate, Hush},
};
use crate::{
    access::{Access, Door, Peer},
    body::Body,
    config::Limits,
    drain::Drain,
    error::Error,
};

/// Peers that are being refused at once; those beyond are dropped without words.
const REFUSALS: usize = 256;

/// How long to wait when a connection cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long requests may take to say that the time to drain is over, and connections to close.
const AFTER_DRAIN: Duration = Duration::from_secs(1);

/// What all connections use; a reload swaps it, and connections that come from then on see it.
pub struct Shared {
    /// Who may come in.
    pub access: ArcSwap<Access>,
    /// Deadlines and caps.
    pub limits: ArcSwap<Limits>,
    /// The certificate; none until one is loaded, and HTTPS connections are closed till then.
    pub tls: ArcSwapOption<rustls::ServerConfig>,
    /// How far the end of the service has come.
    pub drain: Arc<Drain>,
}

impl Shared {
    /// Starts with these, and without a certificate.
    pub fn new(access: Access, limits: Limits) -> Self {
        Self {
            access: ArcSwap::from_pointee(access),
            limits: ArcSwap::from_pointee(limits),
            tls: ArcSwapOption::empty(),
            drain: Arc::default(),
        }
    }
}

/// The end of the connections: no request runs any more, or the time is up.
#[derive(Debug, Default)]
struct Closing {
    /// When connections are dropped, and when those are that still send what their reader takes slowly.
    deadlines: OnceLock<(Instant, Instant)>,
    /// Wakes every connection; cancelled after `deadlines` is set.
    told: CancellationToken,
}

impl Closing {
    fn begin(&self, drained: Instant) {
        let soon = Instant::now() + AFTER_DRAIN;
        self.deadlines.get_or_init(|| (soon, drained.max(soon)));
        self.told.cancel();
    }

    fn begun(&self) -> bool {
        self.deadlines.get().is_some()
    }

    fn deadline(&self, sending: bool) -> Option<Instant> {
        self.deadlines.get().map(|(soon, last)| if sending { *last } else { *soon })
    }
}

/// Serves until `shared.drain` begins, then until no request runs or the `drain` limit passes; what runs then
/// is told by [`Drain::cut`].
///
/// While it drains, sockets of our own stay open, so that callers get an answer (the handler's); those that
/// systemd handed over are left to the next process.
///
/// Every request goes to `handler`. Its future is dropped when the caller leaves; the body it returns is
/// polled only while the caller takes it.
pub async fn serve<H, F>(sockets: Sockets, shared: Arc<Shared>, handler: H)
where
    H: Fn(Peer, Request<Incoming>) -> F + Clone + Send + Unpin + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let closing = Arc::new(Closing::default());
    let connections = TaskTracker::new();
    let gate = Arc::new(Gate::default());
    let cores = Arc::new(Cores::start());
    let doors = TaskTracker::new();
    for Listening { door, socket, handed_over } in sockets.0 {
        // Accepts where it serves: see there.
        let entered = cores.first().enter();
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, "a listening socket cannot be used");
                continue;
            }
        };
        drop(entered);
        let server = Server {
            shared: Arc::clone(&shared),
            handler: handler.clone(),
            closing: Arc::clone(&closing),
            tasks: connections.clone(),
        };
        let listener = Listener::new(door, &socket, (Arc::clone(&gate), Arc::clone(&cores)), server);
        let (drain, closing) = (Arc::clone(&shared.drain), Arc::clone(&closing));
        let end =
            async move { if handed_over { drain.told().await } else { closing.told.cancelled().await } };
        doors.spawn_on(listener.run(socket, end), cores.first());
    }
    doors.close();
    shared.drain.told().await;
    let drained = Instant::now() + shared.limits.load().drain;
    finish_requests(&shared.drain, drained).await;
    closing.begin(drained);
    doors.wait().await;
    connections.close();
    let last = closing.deadline(true).unwrap_or(drained) + AFTER_DRAIN;
    if tokio::time::timeout_at(last, connections.wait()).await.is_err() {
        warn!(open = connections.len(), "connections were still open at the end");
    }
}

/// Waits until no request runs; those that still run at `drained` are told that their time is up.
async fn finish_requests(drain: &Drain, drained: Instant) {
    tokio::select! {
        biased;
        () = drain.idle() => return,
        () = drain.time_is_up() => {}
        () = tokio::time::sleep_until(drained) => {
            warn!(requests = drain.running(), "the time to finish is over; open requests end now");
            drain.cut();
        }
    }
    let _ = tokio::time::timeout(AFTER_DRAIN, drain.idle()).await;
}

/// Accepts the connections of one socket.
struct Listener<H> {
    door: Door,
    /// Our end, if the socket has one address only.
    local: Option<IpAddr>,
    gate: Arc<Gate>,
    cores: Arc<Cores>,
    refusals: Arc<Semaphore>,
    refused: Hush,
    full: Hush,
    failed: Hush,
    server: Server<H>,
}

impl<H, F> Listener<H>
where
    H: Fn(Peer, Request<Incoming>) -> F + Clone + Send + Unpin + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    fn new(
        door: Door,
        socket: &TcpListener,
        (gate, cores): (Arc<Gate>, Arc<Cores>),
        server: Server<H>,
    ) -> Self {
        let local = socket.local_addr().ok().map(|address| address.ip());
        Self {
            door,
            local: local.filter(|address| !address.is_unspecified()),
            gate,
            cores,
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            refused: Hush::new(),
            full: Hush::new(),
            failed: Hush::new(),
            server,
        }
    }

    async fn run(self, socket: TcpListener, end: impl Future<Output = ()>) {
        let mut end = std::pin::pin!(end);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut end => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.arrived(stream, address),
                // The connection was gone before we took it: that one only.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    self.accept_failed(&error);
                    // Out of descriptors or memory. The connection stays in the queue and would fail again
                    // at once.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn arrived(&self, stream: TcpStream, address: SocketAddr) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let local = self.local.or_else(|| stream.local_addr().ok().map(|local| local.ip()));
        // Without our own address the connection is already gone.
        let Some(local) = local.map(|local| local.to_canonical()) else { return };
        let peer = Peer { address, local, door: self.door };
        if !self.server.shared.access.load().admits(self.door, address.ip()) {
            if let Some(count) = self.refused.pass() {
                warn!(door = self.door.scheme(), peer = %address.ip(), count, "a peer was refused; it is not in the access list");
            }
            return self.refuse(stream, Access::refusal(self.door, address.ip()));
        }
        let Some(place) = self.gate.enter(address.ip(), &self.server.shared.limits.load()) else {
            if let Some(count) = self.full.pass() {
                warn!(door = self.door.scheme(), peer = %address.ip(), count, "a peer was refused: too many connections");
            }
            let error =
                Error::unavailable("too many connections are open; try again", Duration::from_secs(1));
            return self.refuse(stream, error.code("overloaded"));
        };
        let server = self.server.clone();
        let (core, seat) = self.cores.seat();
        let Some(core) = core else {
            self.server.tasks.spawn(async move {
                server.connection(stream, peer).await;
                drop((place, seat));
            });
            return;
        };
        let Ok(stream) = stream.into_std() else { return };
        let connection = async move {
            // From here on the socket belongs to that core's reactor.
            match TcpStream::from_std(stream) {
                Ok(stream) => server.connection(stream, peer).await,
                Err(error) => warn!(%error, "a connection cannot be watched"),
            }
            drop((place, seat));
        };
        self.server.tasks.spawn_on(connection, core);
    }

    /// Tells the peer why over plain HTTP; over TLS it would cost a handshake, so the socket just closes.
    fn refuse(&self, stream: TcpStream, error: Error) {
        if self.door == Door::Https {
            return;
        }
        if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
            self.server.tasks.spawn(async move {
                close::refuse(stream, &error).await;
                drop(permit);
            });
        }
    }

    fn accept_failed(&self, error: &std::io::Error) {
        if let Some(count) = self.failed.pass() {
            warn!(
                door = self.door.scheme(),
                %error,
                count,
                "a connection cannot be accepted; if open files are at their limit, raise it"
            );
        }
    }
}

#[cfg(test)]
mod tests;
