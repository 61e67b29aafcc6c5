//! Orders from the command line to the server that runs on a data directory.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use crate::files;

/// For connecting, and for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Largest answer, and largest `run.json`.
const MAX_BYTES: u64 = 16 << 20;

/// What a running server says about itself in its data directory.
#[derive(Deserialize)]
struct Run {
    #[serde(default)]
    http: Vec<SocketAddr>,
}

/// `plugin rollback NAME`: the line to print.
///
/// # Errors
/// There is no server, or what it answers.
pub fn rollback(data_dir: &Path, name: &str) -> Result<String, String> {
    checked(name)?;
    let shown = post(data_dir, &format!("/api/plugins/{name}/rollback"))?;
    let text = |member: &str| shown[member].as_str().unwrap_or("?").to_owned();
    let number = &shown["generation"];
    Ok(format!("{} serves generation {number} again, version {}\n", text("id"), text("version")))
}

/// `plugin record NAME`: waits for the next exchange of a provider; its trace.
///
/// # Errors
/// There is no server, or what it answers.
pub fn record(data_dir: &Path, name: &str) -> Result<String, String> {
    checked(name)?;
    loop {
        let answer = post(data_dir, &format!("/api/plugins/{name}/record"))?;
        if let Some(trace) = answer["trace"].as_str() {
            return Ok(trace.to_owned());
        }
    }
}

fn checked(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(format!("{name:?} is not the name of a plugin; GET /api/plugins lists them"));
    }
    Ok(())
}

/// Sends an order without a body to the server of this data directory.
///
/// # Errors
/// There is no server, or the message of its refusal.
pub fn post(data_dir: &Path, path: &str) -> Result<Value, String> {
    let address = address(data_dir)?;
    let failed = |error: std::io::Error| format!("the server at {address} does not answer: {error}");
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    socket.write_all(head.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    socket.take(MAX_BYTES).read_to_end(&mut answer).map_err(failed)?;
    parse(&answer).ok_or_else(|| format!("the server at {address} sent something else than an answer"))?
}

/// The body of an answer; the message of an error.
fn parse(answer: &[u8]) -> Option<Result<Value, String>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(answer).ok()? else { return None };
    let body: Value = serde_json::from_slice(answer.get(start..)?).ok()?;
    let message = || body["error"]["message"].as_str().unwrap_or("it refused").to_owned();
    Some(if head.code? < 300 { Ok(body) } else { Err(message()) })
}

/// Where the server of this data directory listens for plain HTTP.
fn address(data_dir: &Path) -> Result<SocketAddr, String> {
    let path = data_dir.join("run.json");
    let none = || {
        format!("no server runs on the data directory {}; name its own with -data-dir", data_dir.display())
    };
    let bytes = files::read(&path, MAX_BYTES).map_err(|error| format!("{}: {error}", path.display()))?;
    let run: Run = serde_json::from_slice(&bytes.ok_or_else(none)?).map_err(|_| none())?;
    let mut address = *run
        .http
        .first()
        .ok_or("the server listens at no plain HTTP address; POST the order to its HTTPS one")?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_refusals_and_from_noise() {
        let check = |answer: &str, expected: Option<Result<Value, String>>| {
            assert_eq!(parse(answer.as_bytes()), expected, "{answer}");
        };
        check("HTTP/1.1 200 OK\r\na: b\r\n\r\n{\"a\":1}", Some(Ok(serde_json::json!({"a": 1}))));
        check("HTTP/1.1 404 No\r\n\r\n{\"error\":{\"message\":\"none\"}}", Some(Err("none".into())));
        check("HTTP/1.1 200 OK\r\na: b\r\n\r\nhello", None);
        check("SSH-2.0\r\n", None);
        check("HTTP/1.1 200 OK\r\n", None);
    }
}
