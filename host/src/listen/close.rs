//! Short answers to connections that are not served, and closes that let the last answer arrive.
//!
//! Closing a socket with unread bytes in it resets the connection, and a reset destroys what the peer has
//! not read yet: our answer. So the sending side closes first, and what still comes in is thrown away.

use std::time::Duration;

use http::header;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::error::Error;

/// How long a peer may go on sending what nobody reads; then it is reset.
const LINGER: Duration = Duration::from_secs(2);

/// Most bytes that a peer which is not served may send before it is reset.
const REFUSED_BYTES: usize = 256 * 1024;

/// Sends `error` as an HTTP/1.1 answer without reading a request, and closes.
pub(super) async fn refuse(mut stream: TcpStream, error: &Error) {
    let answer = answer(error);
    let answered = timeout(LINGER, stream.write_all(&answer)).await;
    if matches!(answered, Ok(Ok(()))) {
        drain(stream, REFUSED_BYTES).await;
    }
}

/// The bytes of an answer that is the last one on its connection.
pub(super) fn answer(error: &Error) -> Vec<u8> {
    let body = error.json();
    let retry =
        error.retry_after.map(|after| format!("{}: {}\r\n", header::RETRY_AFTER, after.as_secs().max(1)));
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}\
         x-request-id: req_{:016x}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n{body}",
        error.status.as_str(),
        error.status.canonical_reason().unwrap_or_default(),
        body.len(),
        retry.unwrap_or_default(),
        crate::gateway::random(),
    )
    .into_bytes()
}

/// Closes a connection whose peer may still be sending.
pub(super) async fn linger(stream: TcpStream) {
    drain(stream, usize::MAX).await;
}

async fn drain(mut stream: TcpStream, most: usize) {
    let drained = timeout(LINGER, async {
        stream.shutdown().await?;
        let mut rest = vec![0; 16 * 1024];
        let mut count = 0_usize;
        while count < most {
            match stream.read(&mut rest).await? {
                0 => break,
                read => count = count.saturating_add(read),
            }
        }
        Ok::<_, std::io::Error>(())
    });
    // The peer is gone, or the time is up: either way the socket is dropped.
    let _ = drained.await;
}
