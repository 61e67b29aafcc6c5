//! Upstream connections: pooled HTTP/1.1 of our own, so that one read of a socket is one write to the
//! caller, and that a caller who leaves closes the upstream's socket at once.
//!
//! Nothing is followed, decoded or repeated here; every oddity of an answer is an error.

use std::{
    cell::RefCell,
    collections::HashMap,
    io::IoSlice,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use rustls::{ClientConfig, pki_types::ServerName};
use rustls_platform_verifier::ConfigVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

mod io;
mod response;

use io::Io;
pub use response::Response;

/// Upstreams drop idle connections at 60 s; ours are retired first, or requests would meet the close.
const MAX_IDLE: Duration = Duration::from_secs(50);

/// Idle connections kept for one origin; a further one is closed.
const MAX_IDLE_PER_ORIGIN: usize = 256;

/// More than a machine of this kind has cores.
const SHARDS: usize = 16;

/// Most that one read brings.
const READ_BYTES: usize = 16 << 10;

/// Requests up to this size are sent as one buffer: one system call, one small copy.
const COALESCE_BYTES: usize = 4 << 10;

thread_local! {
    /// Where sockets are read into: who waits for an upstream holds no memory for what may come.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// What went wrong below HTTP. The texts name no address and no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection.
    #[error("the upstream cannot be reached: {0}")]
    Connect(String),
    /// No connection in time.
    #[error("connecting to the upstream took too long")]
    ConnectTimeout,
    /// The connection broke.
    #[error("the upstream closed the connection early: {0}")]
    Closed(String),
    /// What came is not HTTP/1.1 as it must be.
    #[error("the upstream's answer is not valid HTTP: {0}")]
    Malformed(&'static str),
    /// More than anyone should send.
    #[error("the upstream's answer is too large: {0}")]
    TooLarge(&'static str),
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whether TLS is spoken.
    pub secure: bool,
    /// A name, or an address without brackets; lower case.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Origin {
    /// Splits an absolute `http` or `https` URL into its origin and the rest, which starts with `/` or
    /// `?` or is empty. `None` for any other URL, one with credentials, or one with odd characters.
    pub fn split(url: &str) -> Option<(Self, &str)> {
        let (secure, rest) = match url.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("http://")?),
        };
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) || url.contains(['\\', '#', '"', '<', '>']) {
            return None;
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return None;
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some(""))?)
            }
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        let default = if secure { 443 } else { 80 };
        let port = if port.is_empty() { default } else { port.parse().ok().filter(|port| *port > 0)? };
        if host.is_empty() {
            return None;
        }
        Some((Self { secure, host: host.to_ascii_lowercase(), port }, path))
    }

    /// The `Host` header for it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let default = if self.secure { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether it is this machine by its address or name.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        address.map_or(self.host == "localhost", |address| address.is_loopback())
    }
}

/// One request, ready to be sent and sent again.
#[derive(Debug, Clone)]
pub struct Request {
    /// Request line and headers with the blank line. Holds the key: never logged.
    pub head: Bytes,
    /// The body, piece by piece.
    pub body: Vec<Bytes>,
}

/// A connection that an answer may give back.
struct Connection {
    io: Io,
    buffer: BytesMut,
    origin: Arc<Origin>,
    pool: Arc<Pool>,
}

/// Idle connections by the thread that opened them: a socket's reactor is its thread's.
#[derive(Default)]
struct Pool {
    shards: [Mutex<Shard>; SHARDS],
}

type Shard = HashMap<Arc<Origin>, Vec<Idle>>;

struct Idle {
    io: Io,
    since: Instant,
}

impl Pool {
    /// The shard of this thread. Threads that share one use each other's connections, which is right,
    /// only slower.
    fn shard(&self) -> MutexGuard<'_, Shard> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed));
        let index = THREAD.with(|thread| thread % SHARDS);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last that is still open.
    fn take(&self, origin: &Arc<Origin>) -> Option<Io> {
        loop {
            let Idle { io, since } = self.shard().get_mut(origin)?.pop()?;
            if since.elapsed() < MAX_IDLE && io.is_quiet() {
                return Some(io);
            }
        }
    }

    fn give(&self, connection: Connection) {
        let mut idle = self.shard();
        let list = idle.entry(connection.origin).or_default();
        if list.len() < MAX_IDLE_PER_ORIGIN {
            list.push(Idle { io: connection.io, since: Instant::now() });
        }
    }
}

/// The client: all pools and the TLS settings.
#[derive(Default)]
pub struct Upstream {
    pool: Arc<Pool>,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Upstream {
    /// Sends a request and reads the head of its answer. Dropping the future closes the connection.
    ///
    /// # Errors
    /// No connection within `connect`, a broken one, or an answer that is not HTTP.
    pub async fn send(
        &self,
        origin: &Arc<Origin>,
        request: &Request,
        connect: Duration,
    ) -> Result<Response, TransportError> {
        let io = match self.pool.take(origin) {
            Some(kept) => kept,
            None => {
                // Boxed: most requests find a connection, and each would carry the room to open one.
                let opened = tokio::time::timeout(connect, Box::pin(self.open(origin))).await;
                opened.map_err(|_| TransportError::ConnectTimeout)??
            }
        };
        let (origin, pool) = (Arc::clone(origin), Arc::clone(&self.pool));
        let mut connection = Connection { io, buffer: BytesMut::new(), origin, pool };
        let written = write(&mut connection.io, request).await;
        // An upstream may refuse a body that it has not read to its end: its answer says why.
        match (Response::read(connection).await, written) {
            (Ok(response), Ok(())) => Ok(response),
            (Ok(response), Err(_)) => Ok(response.not_kept()),
            (Err(_), Err(error)) => Err(TransportError::Closed(error.kind().to_string())),
            (Err(error), Ok(())) => Err(error),
        }
    }

    /// Closes connections that were idle for too long.
    pub fn sweep(&self) {
        for shard in &self.pool.shards {
            let mut idle = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for list in idle.values_mut() {
                list.retain(|kept| kept.since.elapsed() < MAX_IDLE);
            }
            idle.retain(|_, list| !list.is_empty());
        }
    }

    async fn open(&self, origin: &Origin) -> Result<Io, TransportError> {
        let failed = |error: std::io::Error| TransportError::Connect(error.kind().to_string());
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((origin.host.as_str(), origin.port)).await.map_err(failed)?.collect();
        let mut last = TransportError::Connect("its name has no address".into());
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(failed)?;
                    return if origin.secure {
                        self.secure(origin, stream).await
                    } else {
                        Ok(Io::Plain(stream))
                    };
                }
                Err(error) => last = failed(error),
            }
        }
        Err(last)
    }

    async fn secure(&self, origin: &Origin, stream: TcpStream) -> Result<Io, TransportError> {
        let failed = |text: String| TransportError::Connect(text);
        let config = match self.tls.get() {
            Some(config) => Arc::clone(config),
            None => {
                // Reads the system's certificates: off the reactor.
                let built = tokio::task::spawn_blocking(client_config).await;
                let built = built.map_err(|_| failed("the TLS settings cannot be made".into()))?;
                Arc::clone(self.tls.get_or_init(|| built))
            }
        };
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|_| failed("its name is not valid for TLS".into()))?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream =
            connector.connect(name, stream).await.map_err(|error| failed(format!("TLS: {error}")))?;
        Ok(Io::Tls(Box::new(stream)))
    }
}

fn client_config() -> Arc<ClientConfig> {
    let made = ClientConfig::with_platform_verifier();
    Arc::new(made.unwrap_or_else(|error| {
        tracing::error!(%error, "the system's certificates cannot be read; TLS upstreams will be refused");
        ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    }))
}

async fn write(io: &mut Io, request: &Request) -> std::io::Result<()> {
    let total = request.head.len() + request.body.iter().map(Bytes::len).sum::<usize>();
    if total <= COALESCE_BYTES {
        let mut whole = Vec::with_capacity(total);
        whole.extend_from_slice(&request.head);
        for piece in &request.body {
            whole.extend_from_slice(piece);
        }
        io.write_all(&whole).await?;
    } else {
        let mut pieces: Vec<Bytes> = Vec::with_capacity(1 + request.body.len());
        pieces.push(request.head.clone());
        pieces.extend(request.body.iter().cloned());
        write_pieces(io, pieces).await?;
    }
    io.flush().await
}

async fn write_pieces(io: &mut Io, mut pieces: Vec<Bytes>) -> std::io::Result<()> {
    let mut first = 0;
    loop {
        while pieces.get(first).is_some_and(Bytes::is_empty) {
            first += 1;
        }
        if first == pieces.len() {
            return Ok(());
        }
        let mut sent = std::future::poll_fn(|cx| {
            let slices: Vec<IoSlice<'_>> =
                pieces[first..].iter().take(32).map(|piece| IoSlice::new(piece)).collect();
            Pin::new(&mut *io).poll_write_vectored(cx, &slices)
        })
        .await?;
        if sent == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while sent > 0 {
            let step = sent.min(pieces[first].len());
            pieces[first].advance(step);
            sent -= step;
            if pieces[first].is_empty() {
                first += 1;
            }
        }
    }
}

impl Connection {
    /// Reads once; 0 is the end.
    async fn fill(&mut self) -> Result<usize, TransportError> {
        let Self { io, buffer, .. } = self;
        read(io, |bytes| buffer.extend_from_slice(bytes)).await
    }
}

/// Reads once and shows what came; 0 is the end.
async fn read(io: &mut Io, mut take: impl FnMut(&[u8])) -> Result<usize, TransportError> {
    let read = std::future::poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut read))?;
            take(read.filled());
            Poll::Ready(std::io::Result::Ok(read.filled().len()))
        })
    });
    read.await.map_err(|error| TransportError::Closed(error.kind().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_strictly() {
        let check = |url: &str, expected: Option<(bool, &str, u16, &str)>| {
            let split = Origin::split(url);
            let found = split.as_ref().map(|(o, path)| (o.secure, o.host.as_str(), o.port, *path));
            assert_eq!(found, expected, "{url}");
        };
        check("https://API.x.com/v1/chat", Some((true, "api.x.com", 443, "/v1/chat")));
        check("http://127.0.0.1:11434", Some((false, "127.0.0.1", 11434, "")));
        check("http://[::1]:80/a?b", Some((false, "::1", 80, "/a?b")));
        for url in [
            "ftp://x/",
            "https://u:p@x/",
            "https://x.com@evil/",
            "http://x:0/",
            "http://x:99999/",
            "http:///a",
            "http://x/a b",
            "http://x/\r\nhost: y",
            "http://x\\@y/",
            "//x",
        ] {
            check(url, None);
        }
    }
}
