//! Who may come in: by the peer's address, then by `Host` and `Origin`.

use std::net::SocketAddr;

/// Which door a connection came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Plain HTTP.
    Http,
    /// HTTPS.
    Https,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address; IPv4-mapped IPv6 addresses are unmapped.
    pub address: SocketAddr,
    /// The door it came through.
    pub door: Door,
}
