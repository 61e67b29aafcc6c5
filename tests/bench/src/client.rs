//! The driver's side of HTTP: just enough to send a prepared request and see its answer's end.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection that sends one prepared request again and again.
pub struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

/// Makes a request with a JSON body.
pub fn post(port: u16, path: &str, body: &str) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

impl Client {
    /// Connects.
    pub async fn new(port: u16, request: Vec<u8>) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request, buffer: Vec::with_capacity(64 << 10) })
    }

    /// Sends the request and reads its answer to the end; the time that took.
    pub async fn exchange(&mut self) -> std::io::Result<Duration> {
        let began = Instant::now();
        self.stream.write_all(&self.request).await?;
        let body = self.head().await?;
        self.rest(body).await?;
        Ok(began.elapsed())
    }

    /// Sends the request and reads the answer's head and first bytes.
    pub async fn open(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.request).await?;
        self.head().await.map(|_| ())
    }

    /// Reads until some of the body is there; where the body begins.
    async fn head(&mut self) -> std::io::Result<usize> {
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end.filter(|end| self.buffer.len() > end + 4) {
                if !self.buffer.starts_with(b"HTTP/1.1 200") {
                    return Err(std::io::Error::other(String::from_utf8_lossy(&self.buffer).into_owned()));
                }
                return Ok(end + 4);
            }
        }
    }

    async fn rest(&mut self, body: usize) -> std::io::Result<()> {
        let head = String::from_utf8_lossy(&self.buffer[..body]).to_ascii_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.lines().next()?.trim().parse::<usize>().ok());
        if let Some(length) = length {
            let mut left = (body + length) - self.buffer.len();
            while left > 0 {
                self.buffer.clear();
                left -= self.read().await?;
            }
            return Ok(());
        }
        while !self.buffer.ends_with(b"0\r\n\r\n") {
            let kept = self.buffer.len().saturating_sub(8);
            self.buffer.drain(..kept);
            self.read().await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> std::io::Result<usize> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}
