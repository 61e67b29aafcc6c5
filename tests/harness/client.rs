//! A caller that has every byte in its hands: raw requests, and answers read as they come.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// No answer takes longer than this; a test that waits for one fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body, chunks joined.
    pub body: Vec<u8>,
}

impl Reply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The body as the `data` of its server-sent events; comments are left out.
    pub fn events(&self) -> Vec<String> {
        let text = self.text().replace("\r\n", "\n");
        text.split("\n\n").filter_map(data_of).collect()
    }

    /// The text of a streamed answer.
    pub fn streamed_text(&self) -> String {
        let chunks = self.events();
        let parsed = chunks.iter().filter_map(|data| serde_json::from_str::<Value>(data).ok());
        parsed
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect()
    }

    /// Fails unless this is an error in OpenAI's shape with this status; gives its `error` member.
    #[track_caller]
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        assert!(error["message"].is_string(), "{}", self.text());
        assert!(error["type"].is_string(), "{}", self.text());
        for member in ["param", "code"] {
            assert!(error.get(member).is_some_and(|value| value.is_null() || value.is_string()), "{error}");
        }
        assert_eq!(self.header("content-type"), Some("application/json"));
        error
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

fn data_of(event: &str) -> Option<String> {
    let lines: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data:")).collect();
    (!lines.is_empty()).then(|| lines.iter().map(|line| line.trim_start()).collect::<Vec<_>>().join("\n"))
}

/// What a connection is made of: a socket, or TLS on one.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A connection to the gateway.
pub struct Connection {
    wire: BufReader<Box<dyn Wire>>,
    socket: TcpStream,
    host: String,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("connect");
        Self::over(socket, address)
    }

    /// Connects from an address of this machine's own, for rules about peers.
    pub fn open_from(source: IpAddr, address: SocketAddr) -> std::io::Result<Self> {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = socket(family, SocketType::STREAM, None)?;
        bind(&fd, &SocketAddr::new(source, 0))?;
        connect(&fd, &address)?;
        Ok(Self::over(TcpStream::from(fd), address))
    }

    fn over(socket: TcpStream, address: SocketAddr) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_nodelay(true).expect("no delay");
        let wire: Box<dyn Wire> = Box::new(socket.try_clone().expect("a second handle"));
        Self { wire: BufReader::new(wire), socket, host: address.to_string() }
    }

    /// Puts TLS on it, trusting exactly `certificate` (PEM).
    pub fn tls(self, config: rustls::ClientConfig, name: &str) -> Self {
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a server name");
        let session = rustls::ClientConnection::new(config.into(), name).expect("a client");
        let stream = rustls::StreamOwned::new(session, self.socket.try_clone().expect("a second handle"));
        Self { wire: BufReader::new(Box::new(stream)), ..self }
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_write(bytes).expect("write");
        self
    }

    /// Writes bytes as they are; the other side may have gone.
    pub fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.wire.get_mut().write_all(bytes.as_ref())?;
        self.wire.get_mut().flush()
    }

    /// Sends a request without a body.
    pub fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    /// Sends a JSON body.
    pub fn post(&mut self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[], body.to_string().as_bytes())
    }

    /// Sends a request and reads the whole answer. A body is JSON unless a header says otherwise.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.start(method, path, headers, body);
        self.reply_to(method)
    }

    /// Sends a request and leaves the answer to be read.
    pub fn start(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> &mut Self {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let has = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if !has("host") {
            head += &format!("host: {}\r\n", self.host);
        }
        if !body.is_empty() {
            if !has("content-type") {
                head += "content-type: application/json\r\n";
            }
            if !has("content-length") {
                head += &format!("content-length: {}\r\n", body.len());
            }
        }
        // An empty value leaves a header out that would be there by itself.
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.write(bytes)
    }

    /// Reads a whole answer.
    pub fn reply(&mut self) -> Reply {
        self.reply_to("GET")
    }

    fn reply_to(&mut self, method: &str) -> Reply {
        let mut reply = self.head();
        if method != "HEAD" {
            reply.body = self.rest(&reply);
        }
        reply
    }

    /// Reads an answer's status and headers; informational ones are skipped.
    pub fn head(&mut self) -> Reply {
        loop {
            let status_line = self.line();
            let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status: u16 = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
            let mut headers = Vec::new();
            loop {
                let line = self.line();
                let Some((name, value)) = line.split_once(':') else { break };
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            if status >= 200 {
                return Reply { status, headers, body: Vec::new() };
            }
        }
    }

    fn rest(&mut self, head: &Reply) -> Vec<u8> {
        if head.status == 204 || head.status == 304 {
            return Vec::new();
        }
        let mut body = Vec::new();
        if head.header("transfer-encoding") == Some("chunked") {
            while let Some(piece) = self.chunk() {
                body.extend(piece);
            }
        } else if let Some(length) = head.header("content-length") {
            body.resize(length.parse().expect("a length"), 0);
            self.wire.read_exact(&mut body).expect("the body");
        } else {
            self.wire.read_to_end(&mut body).expect("the body");
        }
        body
    }

    /// Reads one chunk of a chunked body; `None` at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        self.try_chunk().expect("a chunk")
    }

    /// Reads one chunk of a chunked body; `None` at its end, an error if the connection breaks.
    pub fn try_chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = String::new();
        self.wire.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(|_| {
            std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("chunk head {line:?}"))
        })?;
        let mut piece = vec![0; size + 2];
        self.wire.read_exact(&mut piece)?;
        piece.truncate(size);
        Ok((size > 0).then_some(piece))
    }

    /// Reads chunks until the text read contains `mark`; gives all of it.
    pub fn read_until(&mut self, mark: &str) -> String {
        let mut text = String::new();
        while !text.contains(mark) {
            let piece = self.chunk().unwrap_or_else(|| panic!("the body ended without {mark:?}: {text}"));
            text.push_str(&String::from_utf8_lossy(&piece));
        }
        text
    }

    /// Reads what is there, at most `most` bytes; empty at the end.
    pub fn some(&mut self, most: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let read = self.wire.read(&mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Reads exactly this many bytes.
    pub fn exactly(&mut self, count: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.wire.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads everything up to the end; what came before a reset counts too.
    pub fn all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.wire.read_to_end(&mut bytes);
        bytes
    }

    /// Whether the other side has closed, after all that it still sends was read.
    pub fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.wire.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => {
                !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            }
        }
    }

    /// Closes at once.
    pub fn hang_up(self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Sets how long a read waits.
    pub fn patience(&mut self, patience: Duration) -> &mut Self {
        self.socket.set_read_timeout(Some(patience)).expect("a timeout");
        self
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.wire.read_line(&mut line).expect("a line");
        assert!(line.ends_with('\n'), "the connection ended inside {line:?}");
        line.trim_end().to_owned()
    }
}
