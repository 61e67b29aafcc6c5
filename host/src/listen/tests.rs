//! Real sockets: who is refused and how, every deadline, HTTP/2, and the end.

use std::{net::Ipv4Addr, time::Instant as Clock};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{access::Machine, config::Settings, tls};

/// Longer than any deadline of these tests; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

const SHORT: Duration = Duration::from_millis(200);

struct Running {
    http: SocketAddr,
    https: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
    /// `begun`, and `dropped` when a request that hangs is dropped or its body is.
    events: mpsc::UnboundedReceiver<&'static str>,
    roots: RootCertStore,
    _data: tempfile::TempDir,
}

struct Guard(mpsc::UnboundedSender<&'static str>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

async fn handle(request: Request<Incoming>, events: mpsc::UnboundedSender<&'static str>) -> Response<Body> {
    let guard = Guard(events.clone());
    match request.uri().path() {
        "/count" => {
            let length = request.into_body().collect().await.unwrap().to_bytes().len();
            Response::new(Body::from(length.to_string()))
        }
        "/refuse" => {
            let mut response = Response::new(Body::from("refused"));
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        }
        "/hang" => {
            let _ = events.send("begun");
            std::future::pending::<()>().await;
            unreachable!()
        }
        "/wait" => {
            let _ = events.send("begun");
            tokio::time::sleep(SHORT * 3).await;
            Response::new(Body::from("waited"))
        }
        "/endless" => Response::new(Body::stream(|mut yielder| async move {
            let _guard = guard;
            loop {
                yielder.send(Bytes::from_static(&[b'x'; 16 * 1024])).await;
            }
        })),
        _ => Response::new(Body::from("hello")),
    }
}

async fn start(change: impl FnOnce(&mut Settings)) -> Running {
    let data = tempfile::tempdir().unwrap();
    let mut settings =
        Settings { http_port: 0, https_port: 0, data_dir: data.path().to_owned(), ..Settings::default() };
    settings.listen.https = vec![Ipv4Addr::LOCALHOST.into()];
    settings.access.https = vec!["127.0.0.0/8".parse().unwrap()];
    change(&mut settings);
    let tls = tls::load(&settings).unwrap();
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(data.path().join(&settings.cert)).unwrap();
    roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(&pem).unwrap()).unwrap();
    let access = Access::new(&settings.access, &Machine::here());
    let shared = Arc::new(Shared::new(access, settings.limits.clone()));
    shared.tls.store(Some(tls));
    let sockets = bind(&settings).unwrap();
    let find = |door| sockets.addresses().iter().find(|(other, _)| *other == door).unwrap().1;
    let (http, https) = (find(Door::Http), find(Door::Https));
    let (sender, events) = mpsc::unbounded_channel();
    let handler = move |_peer, request| handle(request, sender.clone());
    let serving = tokio::spawn(serve(sockets, Arc::clone(&shared), handler));
    Running { http, https, shared, serving, events, roots, _data: data }
}

impl Running {
    async fn event(&mut self, expected: &str) {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await.expect("an event").unwrap();
            if event == expected {
                return;
            }
        }
    }

    async fn tls(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.https).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

/// Sends `bytes` and reads to the end; panics on a reset.
async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    rest(&mut stream).await
}

async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed in time").expect("no reset");
    String::from_utf8(answer).unwrap()
}

/// Reads one answer, which ends with `body`.
async fn one(stream: &mut (impl tokio::io::AsyncRead + Unpin), body: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(body.as_bytes()) {
        let mut piece = [0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut piece)).await.expect("an answer in time").unwrap();
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(answer).unwrap()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
const LAST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn requests_share_a_connection_and_may_be_pipelined() {
    let running = start(|_| {}).await;
    let answer = talk(running.http, &[GET, GET, LAST].concat()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
}

#[tokio::test]
async fn a_peer_outside_the_list_reads_why_over_http() {
    let running = start(|settings| settings.access.http = vec!["10.0.0.0/8".parse().unwrap()]).await;
    let body = "x".repeat(100_000);
    let request = format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n{body}");
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), running.http.port());
    let answer = talk(address, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{head}");
    assert!(head.contains("connection: close"), "{head}");
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(json["error"]["message"].as_str().unwrap().contains("127.0.0.1"), "{json}");
    assert_eq!(json["error"]["type"], "permission_error");
}

#[tokio::test]
async fn a_peer_outside_the_list_gets_no_handshake() {
    let running = start(|settings| settings.access.https = vec!["10.0.0.0/8".parse().unwrap()]).await;
    let mut stream = TcpStream::connect(running.https).await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_reload_opens_and_closes_a_door() {
    let running = start(|_| {}).await;
    let mut settings = Settings::default().access;
    settings.http = vec!["10.0.0.0/8".parse().unwrap()];
    running.shared.access.store(Arc::new(Access::new(&settings, &Machine::default())));
    assert!(talk(running.http, LAST).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn a_silent_peer_and_a_slow_head_are_cut_off() {
    let running = start(|settings| settings.limits.header = SHORT).await;
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\nhost:"] {
        let start = Clock::now();
        assert_eq!(talk(running.http, bytes).await, "");
        assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT * 10, "{:?}", start.elapsed());
        let mut stream = TcpStream::connect(running.https).await.unwrap();
        assert_eq!(rest(&mut stream).await, "", "no handshake");
    }
    // Each byte that comes does not buy another deadline.
    let stream = TcpStream::connect(running.http).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let dripping = tokio::spawn(async move {
        writer.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        while writer.write_all(b"y").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let start = Clock::now();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut answer)).await.expect("closed in time");
    assert!(start.elapsed() < SHORT * 10);
    dripping.abort();
}

#[tokio::test]
async fn an_idle_connection_lives_for_keepalive_and_no_longer() {
    let running = start(|settings| {
        settings.limits.header = SHORT;
        settings.limits.keepalive = SHORT * 8;
    })
    .await;
    let mut stream = TcpStream::connect(running.http).await.unwrap();
    for _ in 0..2 {
        stream.write_all(GET).await.unwrap();
        one(&mut stream, "hello").await;
        // Idle for longer than a head may take.
        tokio::time::sleep(SHORT * 2).await;
    }
    stream.write_all(GET).await.unwrap();
    one(&mut stream, "hello").await;
    let start = Clock::now();
    assert_eq!(rest(&mut stream).await, "");
    assert!(start.elapsed() >= SHORT * 6 && start.elapsed() < SHORT * 25, "{:?}", start.elapsed());
}

#[tokio::test]
async fn the_next_head_has_the_deadline_of_a_head() {
    let running = start(|settings| settings.limits.header = SHORT).await;
    let mut stream = TcpStream::connect(running.http).await.unwrap();
    stream.write_all(GET).await.unwrap();
    one(&mut stream, "hello").await;
    let start = Clock::now();
    stream.write_all(b"GET /").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
    assert!(start.elapsed() < SHORT * 25, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_running_request_outlives_the_deadlines_of_heads() {
    let running = start(|settings| {
        settings.limits.header = SHORT;
        settings.limits.keepalive = SHORT;
    })
    .await;
    let mut stream = TcpStream::connect(running.http).await.unwrap();
    stream.write_all(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    one(&mut stream, "waited").await;
    // A body that takes its time.
    let mut stream = TcpStream::connect(running.http).await.unwrap();
    stream.write_all(b"POST /count HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n").await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(SHORT).await;
        stream.write_all(b"x").await.unwrap();
    }
    one(&mut stream, "3").await;
}

#[tokio::test]
async fn a_caller_who_leaves_ends_its_request() {
    let mut running = start(|_| {}).await;
    let mut stream = TcpStream::connect(running.http).await.unwrap();
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    running.event("begun").await;
    let start = Clock::now();
    drop(stream);
    running.event("dropped").await;
    assert!(start.elapsed() < SHORT * 5, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_reader_who_takes_nothing_is_dropped() {
    let mut running = start(|settings| settings.limits.stream_idle = SHORT).await;
    let request = b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut plain = TcpStream::connect(running.http).await.unwrap();
    plain.write_all(request).await.unwrap();
    running.event("dropped").await;

    let mut encrypted = running.tls(b"http/1.1").await;
    encrypted.write_all(request).await.unwrap();
    running.event("dropped").await;

    // Over HTTP/2 the stream stalls by its window while the connection lives.
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(running.tls(b"h2").await)).await.unwrap();
    tokio::spawn(connection);
    let ask =
        |path: &str| Request::get(format!("https://localhost{path}")).body(Empty::<Bytes>::new()).unwrap();
    let stalled = sender.send_request(ask("/endless")).await.unwrap();
    running.event("dropped").await;
    assert_eq!(sender.send_request(ask("/")).await.unwrap().status(), 200, "the connection lives");
    drop(stalled);
}

#[tokio::test]
async fn an_early_answer_arrives_although_the_body_goes_on() {
    let running = start(|_| {}).await;
    let mut request = b"POST /refuse HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8000000\r\n\r\n".to_vec();
    request.resize(request.len() + 8_000_000, b'x');
    let answer = talk(running.http, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("refused"), "{answer}");

    let mut stream = running.tls(b"http/1.1").await;
    stream.write_all(&request).await.unwrap();
    stream.flush().await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("refused"), "{answer}");
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_closed() {
    let running = start(|_| {}).await;
    assert!(talk(running.http, b"nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let huge = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(500_000));
    assert!(talk(running.http, huge.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert!(talk(running.http, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn https_speaks_both_versions_of_http() {
    let running = start(|_| {}).await;
    let mut stream = running.tls(b"http/1.1").await;
    stream.write_all(LAST).await.unwrap();
    assert!(rest(&mut stream).await.ends_with("hello"));

    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(running.tls(b"h2").await)).await.unwrap();
    tokio::spawn(connection);
    let body = Full::new(Bytes::from(vec![b'x'; 3_000_000]));
    let request = Request::post("https://localhost/count").body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "3000000");
}

#[tokio::test]
async fn draining_finishes_what_runs_and_closes_what_is_idle() {
    let mut running = start(|_| {}).await;
    let mut idle = TcpStream::connect(running.http).await.unwrap();
    idle.write_all(GET).await.unwrap();
    one(&mut idle, "hello").await;
    let mut fresh = TcpStream::connect(running.http).await.unwrap();
    let mut busy = TcpStream::connect(running.http).await.unwrap();
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(running.tls(b"h2").await)).await.unwrap();
    tokio::spawn(connection);
    let ask =
        |path: &str| Request::get(format!("https://localhost{path}")).body(Empty::<Bytes>::new()).unwrap();
    let stream = tokio::spawn(sender.send_request(ask("/wait")));
    running.event("begun").await;
    running.event("begun").await;

    running.shared.drain.begin();
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut fresh).await, "");
    let answer = rest(&mut busy).await;
    assert!(answer.contains("connection: close") && answer.ends_with("waited"), "{answer}");
    let body = stream.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "waited");
    timeout(PATIENCE, running.serving).await.expect("served to the end").unwrap();
    assert!(TcpStream::connect(running.http).await.is_err(), "the door is closed");
}

#[tokio::test]
async fn draining_has_an_end() {
    let mut running = start(|settings| settings.limits.drain = SHORT).await;
    let mut plain = TcpStream::connect(running.http).await.unwrap();
    plain.write_all(b"GET /hang HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(running.tls(b"h2").await)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://localhost/hang").body(Empty::<Bytes>::new()).unwrap();
    let _stream = tokio::spawn(sender.send_request(request));
    running.event("begun").await;
    running.event("begun").await;
    let start = Clock::now();
    running.shared.drain.begin();
    running.event("dropped").await;
    running.event("dropped").await;
    timeout(PATIENCE, running.serving).await.expect("served to the end").unwrap();
    let most = SHORT * 5 + AFTER_DRAIN * 2;
    assert!(start.elapsed() >= SHORT && start.elapsed() < most, "{:?}", start.elapsed());
}

#[tokio::test]
async fn too_many_connections_are_turned_away() {
    // Beyond the requests that may run, 1024 connections may be open.
    let running = start(|settings| settings.limits.max_in_flight = 0).await;
    let mut open = Vec::new();
    for _ in 0..1024 {
        open.push(TcpStream::connect(running.http).await.unwrap());
    }
    let answer = talk(running.http, LAST).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    drop(open);
}

#[test]
fn one_peer_has_its_share_of_connections() {
    let gate = Arc::new(Gate::default());
    let limits = Limits { max_connections_per_peer: 2, ..Limits::default() };
    let [peer, other, loopback] = ["192.168.1.7", "192.168.1.8", "127.0.0.1"].map(|ip| ip.parse().unwrap());
    let held: Vec<_> = (0..2).map(|_| gate.enter(peer, &limits).expect("a place")).collect();
    assert!(gate.enter(peer, &limits).is_none());
    assert!(gate.enter(other, &limits).is_some());
    let many: Vec<_> = (0..5).map(|_| gate.enter(loopback, &limits).expect("a place")).collect();
    drop((held, many));
    assert!(gate.enter(peer, &limits).is_some());
}

#[test]
fn warnings_do_not_flood() {
    let hush = Hush::new();
    assert_eq!(hush.pass(), Some(1));
    assert!((0..100).filter_map(|_| hush.pass()).count() < 3);
}

#[test]
fn both_loopback_sockets_share_a_free_port() {
    let settings = Settings { http_port: 0, https_port: 0, ..Settings::default() };
    let sockets = bind(&settings).unwrap();
    let addresses = sockets.addresses();
    let http: Vec<_> = addresses.iter().filter(|(door, _)| *door == Door::Http).collect();
    assert!(http.iter().all(|(_, address)| address.ip().is_loopback() && address.port() == http[0].1.port()));
    assert!(http[0].1.is_ipv4());
    let https: Vec<_> = addresses.iter().filter(|(door, _)| *door == Door::Https).collect();
    assert_eq!(https[0].1.ip(), Ipv4Addr::UNSPECIFIED);

    let socket = &sockets.0[0].socket;
    let _client = std::net::TcpStream::connect(http[0].1).unwrap();
    socket.set_nonblocking(false).unwrap();
    assert!(socket.accept().unwrap().0.nodelay().unwrap(), "inherited");

    let taken = Settings { http_port: http[0].1.port(), ..Settings::default() };
    let error = bind(&taken).unwrap_err().to_string();
    let expected = format!(
        "cannot listen on {}: it is in use by another program; choose another port with -http-port",
        http[0].1
    );
    assert_eq!(error, expected);

    let mut open = Settings { http_port: 0, https_port: 0, ..Settings::default() };
    open.access.http.push("192.168.0.0/16".parse().unwrap());
    assert!(bind(&open).unwrap().addresses().iter().all(|(_, address)| address.ip().is_unspecified()));
}
