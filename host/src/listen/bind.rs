//! The sockets of both doors: bound here, or handed over by systemd.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use listenfd::ListenFd;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind as bind_socket, listen, socket_with, sockopt},
};

use crate::{access::Door, config::Settings};

/// Connections that wait to be accepted; the kernel caps it (`net.core.somaxconn`), and drops what is over.
const BACKLOG: i32 = 4096;

/// How often to look for a free port that is free for both loopback addresses.
const TRIES: usize = 32;

/// Sockets that are bound and listen.
#[derive(Debug)]
pub struct Sockets(pub(super) Vec<Listening>);

/// One of them.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) door: Door,
    pub(super) socket: TcpListener,
    /// Whether it is systemd's, which keeps it open when we end.
    pub(super) handed_over: bool,
}

/// Why a socket cannot be had: one line that names the address and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {problem}")]
pub struct BindError {
    address: String,
    problem: String,
    #[source]
    source: io::Error,
}

/// Binds every socket of these settings. A door for which systemd hands over sockets uses those instead.
///
/// # Errors
/// An address that is taken or not ours.
pub fn bind(settings: &Settings) -> Result<Sockets, BindError> {
    let mut sockets = handed_over()?;
    for (door, port, configured) in [
        (Door::Http, settings.http_port, &settings.listen.http),
        (Door::Https, settings.https_port, &settings.listen.https),
    ] {
        if sockets.iter().any(|other| other.door == door) {
            continue;
        }
        let addresses = if configured.is_empty() { defaults(door, settings) } else { configured.clone() };
        let bound = bind_door(&addresses, port, configured.is_empty());
        let bound = bound.map_err(|(address, error)| explain(door, address, error))?;
        sockets.extend(bound.into_iter().map(|socket| Listening { door, socket, handed_over: false }));
    }
    Ok(Sockets(sockets))
}

impl Sockets {
    /// Where they listen.
    pub fn addresses(&self) -> Vec<(Door, SocketAddr)> {
        let address = |one: &Listening| Some((one.door, one.socket.local_addr().ok()?));
        self.0.iter().filter_map(address).collect()
    }
}

fn defaults(door: Door, settings: &Settings) -> Vec<IpAddr> {
    let beyond = |net: &ipnet::IpNet| !(net.network().is_loopback() && net.broadcast().is_loopback());
    match door {
        Door::Https => vec![Ipv4Addr::UNSPECIFIED.into()],
        Door::Http if settings.access.http.iter().any(beyond) => {
            vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        }
        Door::Http => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    }
}

/// Binds all addresses of one door to one port; port 0 finds one that is free on all of them.
fn bind_door(
    addresses: &[IpAddr],
    port: u16,
    optional_v6: bool,
) -> Result<Vec<TcpListener>, (SocketAddr, Errno)> {
    let mut tries = if port == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_all(addresses, port, optional_v6) {
            Err((_, Errno::ADDRINUSE)) if tries > 0 => {}
            result => return result,
        }
    }
}

fn bind_all(
    addresses: &[IpAddr],
    port: u16,
    optional_v6: bool,
) -> Result<Vec<TcpListener>, (SocketAddr, Errno)> {
    let mut port = port;
    let mut sockets = Vec::with_capacity(addresses.len());
    for address in addresses {
        let wanted = SocketAddr::new(*address, port);
        match bind_one(wanted) {
            Ok(socket) => {
                port = socket.local_addr().map_or(port, |address| address.port());
                sockets.push(socket);
            }
            // Many machines run without IPv6; nobody asked for it by name.
            Err(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT) if optional_v6 && address.is_ipv6() => {}
            Err(error) => return Err((wanted, error)),
        }
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // A restart must not wait for the old connections to time out.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Accepted sockets inherit it, which saves a call for each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind_socket(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

fn explain(door: Door, address: SocketAddr, error: Errno) -> BindError {
    let scheme = door.scheme();
    let problem = match error {
        Errno::ADDRINUSE => {
            format!("it is in use by another program; choose another port with -{scheme}-port")
        }
        Errno::ACCESS => format!(
            "this user may not use the port; choose one above 1023 with -{scheme}-port, or grant \
             CAP_NET_BIND_SERVICE"
        ),
        Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => format!(
            "this machine does not have that address; change `{scheme}` under [listen] in sigorest.toml"
        ),
        error => io::Error::from(error).to_string(),
    };
    BindError { address: address.to_string(), problem, source: error.into() }
}

/// Sockets from systemd (`LISTEN_FDS`): by their names `http` and `https`, those without such a name in order.
fn handed_over() -> Result<Vec<Listening>, BindError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut passed = ListenFd::from_env();
    let names: Vec<&str> = names.split(':').collect();
    let mut unnamed = [Door::Http, Door::Https].into_iter().filter(|door| !names.contains(&door.scheme()));
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let name = names.get(index).copied().unwrap_or_default();
        let refuse = |problem: &str, source: io::Error| BindError {
            address: format!("socket {index} of LISTEN_FDS (`{name}`)"),
            problem: problem.to_owned(),
            source,
        };
        let door = match name {
            "http" => Some(Door::Http),
            "https" => Some(Door::Https),
            _ => unnamed.next(),
        };
        let Some(door) = door else {
            return Err(refuse(
                "there is no door left for it; name it http or https with FileDescriptorName=",
                io::ErrorKind::InvalidInput.into(),
            ));
        };
        let socket = passed.take_tcp_listener(index).and_then(|socket| {
            let socket = socket.ok_or(io::ErrorKind::NotFound)?;
            socket.set_nonblocking(true)?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            Ok(socket)
        });
        let socket =
            socket.map_err(|error| refuse("it is no listening TCP socket; use ListenStream=", error))?;
        sockets.push(Listening { door, socket, handed_over: true });
    }
    Ok(sockets)
}
