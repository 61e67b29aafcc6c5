//! A provider's server that a test scripts: a real socket, each request recorded, each answer as told.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use serde_json::Value;

use super::client::PATIENCE;

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its method.
    pub method: String,
    /// Its path with the query.
    pub path: String,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// How many came before it, on any connection.
    pub number: usize,
    /// The connection that it came on, counted from 0.
    pub connection: usize,
}

impl Recorded {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The roles and texts of the messages, for short comparisons.
    pub fn messages(&self) -> Vec<(String, String)> {
        let body = self.json();
        let messages = body["messages"].as_array().expect("messages").clone();
        let text = |content: &Value| content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        messages.iter().map(|m| (m["role"].as_str().unwrap_or("").to_owned(), text(&m["content"]))).collect()
    }
}

/// Answers one request.
pub struct Answer<'a> {
    socket: &'a mut TcpStream,
    alive: bool,
}

impl Answer<'_> {
    /// A whole JSON answer.
    pub fn json(&mut self, status: u16, body: &Value) {
        self.whole(status, &[("content-type", "application/json")], body.to_string().as_bytes());
    }

    /// A whole answer.
    pub fn whole(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let mut bytes = head(status, headers);
        bytes += &format!("content-length: {}\r\n\r\n", body.len());
        let mut bytes = bytes.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes);
    }

    /// The head of an event stream.
    pub fn stream(&mut self) -> &mut Self {
        self.open(200, &[("content-type", "text/event-stream")])
    }

    /// The head of an answer whose body comes in pieces.
    pub fn open(&mut self, status: u16, headers: &[(&str, &str)]) -> &mut Self {
        let bytes = head(status, headers) + "transfer-encoding: chunked\r\n\r\n";
        self.raw(bytes.as_bytes())
    }

    /// One piece of the body.
    pub fn piece(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
        framed.extend_from_slice(bytes);
        framed.extend_from_slice(b"\r\n");
        self.raw(&framed)
    }

    /// One event.
    pub fn event(&mut self, data: &Value) -> &mut Self {
        self.piece(format!("data: {data}\n\n"))
    }

    /// `data: [DONE]` and the end of the body.
    pub fn done(&mut self) {
        self.piece("data: [DONE]\n\n").end();
    }

    /// The end of the body.
    pub fn end(&mut self) {
        self.raw(b"0\r\n\r\n");
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.alive = self.alive && self.socket.write_all(bytes).and_then(|()| self.socket.flush()).is_ok();
        self
    }

    /// Whether the other side took all that was written so far.
    pub fn alive(&self) -> bool {
        self.alive
    }

    /// Closes the connection where it stands.
    pub fn close(&mut self) {
        self.alive = false;
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Closes the connection with a reset.
    pub fn reset(&mut self) {
        self.alive = false;
        rustix::net::sockopt::set_socket_linger(&*self.socket, Some(Duration::ZERO)).expect("linger");
        // The reset goes out when the last handle closes, which is when the connection's thread ends.
    }

    /// Waits until the other side closes; true if it did.
    pub fn wait_for_hang_up(&mut self) -> bool {
        self.alive = false;
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut byte = [0];
        match self.socket.read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => {
                !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            }
        }
    }
}

fn head(status: u16, headers: &[(&str, &str)]) -> String {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Scripted\r\n{lines}")
}

type Script = dyn Fn(&Recorded, &mut Answer<'_>) + Send + Sync;

#[derive(Default)]
struct Log {
    requests: Mutex<Vec<Recorded>>,
    arrived: Condvar,
    forgets: bool,
}

/// The server.
pub struct Upstream {
    address: SocketAddr,
    log: Arc<Log>,
}

impl Upstream {
    /// Starts one that answers every request by `script`, each connection in its own thread.
    pub fn start(script: impl Fn(&Recorded, &mut Answer<'_>) + Send + Sync + 'static) -> Self {
        Self::serving(script, Log::default())
    }

    /// The same, but it remembers no request: for millions of them.
    pub fn forgetful(script: impl Fn(&Recorded, &mut Answer<'_>) + Send + Sync + 'static) -> Self {
        Self::serving(script, Log { forgets: true, ..Log::default() })
    }

    fn serving(script: impl Fn(&Recorded, &mut Answer<'_>) + Send + Sync + 'static, log: Log) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let log = Arc::new(log);
        let (shared, script): (_, Arc<Script>) = (Arc::clone(&log), Arc::new(script));
        std::thread::spawn(move || {
            for (connection, socket) in listener.incoming().enumerate() {
                let (log, script) = (Arc::clone(&shared), Arc::clone(&script));
                let Ok(socket) = socket else { continue };
                std::thread::spawn(move || serve(socket, connection, &log, &*script));
            }
        });
        Self { address, log }
    }

    /// One that answers every request with this JSON.
    pub fn json(status: u16, body: Value) -> Self {
        Self::start(move |_, answer| answer.json(status, &body))
    }

    /// One that answers chats with this text, streamed where asked.
    pub fn saying(text: &'static str) -> Self {
        Self::start(move |request, answer| say(request, answer, text))
    }

    /// An address at which nobody listens.
    pub fn nobody() -> String {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        format!("http://{}/v1", address.expect("a port"))
    }

    /// Its URL with a path behind it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.log.requests.lock().expect("the log").clone()
    }

    /// The last request so far.
    pub fn last(&self) -> Recorded {
        self.requests().pop().expect("a request")
    }

    /// Waits for the request number `index` (from 0).
    pub fn wait_for(&self, index: usize) -> Recorded {
        let requests = self.log.requests.lock().expect("the log");
        let waited =
            self.log.arrived.wait_timeout_while(requests, PATIENCE, |requests| requests.len() <= index);
        let (requests, _) = waited.expect("the log");
        requests.get(index).unwrap_or_else(|| panic!("request {index} did not come")).clone()
    }
}

fn serve(socket: TcpStream, connection: usize, log: &Log, script: &Script) {
    let mut reader = BufReader::new(socket.try_clone().expect("a second handle"));
    let mut socket = socket;
    socket.set_nodelay(true).expect("no delay");
    while let Some(mut request) = read(&mut reader) {
        if !log.forgets {
            let mut requests = log.requests.lock().expect("the log");
            (request.number, request.connection) = (requests.len(), connection);
            requests.push(request.clone());
            drop(requests);
            log.arrived.notify_all();
        }
        let mut answer = Answer { socket: &mut socket, alive: true };
        script(&request, &mut answer);
        if !answer.alive {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Recorded> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if value("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut piece = vec![0; size + 2];
            reader.read_exact(&mut piece).ok()?;
            body.extend_from_slice(&piece[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = value("content-length") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    }
    Some(Recorded { method, path, headers, body, number: 0, connection: 0 })
}

/// A whole answer in OpenAI's form.
pub fn completion(text: &str) -> Value {
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_790_000_000, "model": "upstream-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    })
}

/// A chunk of a streamed answer in OpenAI's form.
pub fn chunk(delta: Value, finish: Option<&str>) -> Value {
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_790_000_000,
        "model": "upstream-model", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    })
}

/// The chunk with usage that comes last if it was asked for.
pub fn usage_chunk() -> Value {
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_790_000_000,
        "model": "upstream-model", "choices": [],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    })
}

/// Answers a chat with this text, streamed word by word where asked.
pub fn say(request: &Recorded, answer: &mut Answer<'_>, text: &str) {
    let body = request.json();
    if body["stream"] != true {
        return answer.json(200, &completion(text));
    }
    answer.stream().event(&chunk(serde_json::json!({"role": "assistant", "content": ""}), None));
    for word in text.split_inclusive(' ') {
        answer.event(&chunk(serde_json::json!({"content": word}), None));
    }
    answer.event(&chunk(serde_json::json!({}), Some("stop")));
    if body["stream_options"]["include_usage"] == true {
        answer.event(&usage_chunk());
    }
    answer.done();
}
