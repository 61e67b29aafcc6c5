//! `Host` and `:authority`: the name a client used for us. A stranger's name that resolves to our address
//! (DNS rebinding) would make the stranger's page same-origin with us, so only known names count.

use std::net::IpAddr;

use http::{Version, header, request::Parts};

use super::{Door, Machine, Peer};
use crate::error::Error;

/// A host with its port, as in `Host: localhost:9080`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Authority<'a> {
    name: Name<'a>,
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
enum Name<'a> {
    Address(IpAddr),
    /// As written, without a trailing dot.
    Domain(&'a str),
}

impl<'a> Authority<'a> {
    /// Reads `name`, `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            let address: std::net::Ipv6Addr = address.parse().ok()?;
            let port = if rest.is_empty() { None } else { Some(parse_port(rest.strip_prefix(':')?)?) };
            return Some(Self { name: Name::Address(IpAddr::V6(address).to_canonical()), port });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(parse_port(port)?)),
            None => (text, None),
        };
        // Takes canonical dotted quads only; other spellings of an address end in a number and are no name.
        if let Ok(address) = name.parse::<std::net::Ipv4Addr>() {
            return Some(Self { name: Name::Address(IpAddr::V4(address)), port });
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        is_domain(name).then_some(Self { name: Name::Domain(name), port })
    }

    /// Whether both name the same server for someone who uses this scheme.
    pub(super) fn same(self, other: Self, scheme: &str) -> bool {
        let names = match (self.name, other.name) {
            (Name::Address(one), Name::Address(two)) => one == two,
            (Name::Domain(one), Name::Domain(two)) => one.eq_ignore_ascii_case(two),
            _ => false,
        };
        let default = if scheme == Door::Https.scheme() { 443 } else { 80 };
        names && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }
}

fn parse_port(text: &str) -> Option<u16> {
    // `u16::from_str` takes a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn is_domain(name: &str) -> bool {
    let mut last = "";
    for label in name.split('.') {
        let fits = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if label.is_empty() || !fits {
            return false;
        }
        last = label;
    }
    // Browsers read a name that ends in a number as an address: 127.1, 2130706433, 0x7f000001, 0177.0.0.1.
    let hex = last.len() > 1 && last.as_bytes()[..2].eq_ignore_ascii_case(b"0x");
    !last.bytes().all(|byte| byte.is_ascii_digit()) && !hex
}

/// The names that a client may use for us.
#[derive(Debug)]
pub(super) struct Hosts {
    any: bool,
    domains: Vec<String>,
    /// Endings with their dot, from `*.example.org`.
    endings: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Hosts {
    pub(super) fn new(configured: &[String], machine: &Machine) -> Self {
        let mut hosts = Self {
            any: false,
            domains: machine.name.iter().cloned().collect(),
            endings: vec![".localhost".into()],
            addresses: machine.addresses.clone(),
        };
        for entry in configured {
            let entry = entry.trim().trim_end_matches('.').to_ascii_lowercase();
            let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&entry);
            if entry == "*" {
                hosts.any = true;
            } else if let Ok(address) = bare.parse::<IpAddr>() {
                hosts.addresses.push(address.to_canonical());
            } else if let Some(ending) = entry.strip_prefix('*') {
                hosts.endings.push(ending.to_owned());
            } else {
                hosts.domains.push(entry);
            }
        }
        hosts
    }

    /// Checks the name that a request uses for us and returns it; `None` only for HTTP/1.0 without one.
    pub(super) fn check<'a>(&self, peer: &Peer, head: &'a Parts) -> Result<Option<Authority<'a>>, Error> {
        let mut lines = head.headers.get_all(header::HOST).iter();
        let line = lines.next();
        if lines.next().is_some() {
            return Err(Error::bad_request("Host is given twice; send it once"));
        }
        let line = match line {
            Some(line) => Some(line.to_str().map_err(|_| refused("what is not ASCII"))?),
            None => None,
        };
        // An absolute target, or `:authority` of HTTP/2, takes the place of `Host` and must agree with it.
        let target = head.uri.authority().map(|target| target.as_str());
        let Some(text) = target.or(line) else {
            return match head.version {
                Version::HTTP_09 | Version::HTTP_10 => Ok(None),
                _ => Err(Error::bad_request("Host is missing; send the name of this server in it")),
            };
        };
        let named = Authority::parse(text).filter(|named| self.know(peer, named));
        let Some(named) = named else { return Err(refused(text)) };
        if let (Some(_), Some(line)) = (target, line) {
            let agrees = Authority::parse(line).is_some_and(|line| named.same(line, peer.door.scheme()));
            if !agrees {
                return Err(refused(line));
            }
        }
        Ok(Some(named))
    }

    fn know(&self, peer: &Peer, named: &Authority) -> bool {
        match named.name {
            Name::Address(address) => {
                address.is_loopback()
                    || address == peer.local
                    || self.addresses.contains(&address)
                    || self.any
            }
            Name::Domain(name) => {
                name.eq_ignore_ascii_case("localhost")
                    || self.any
                    || self.domains.iter().any(|known| known.eq_ignore_ascii_case(name))
                    || self.endings.iter().any(|ending| ends_with(name, ending))
            }
        }
    }
}

fn ends_with(name: &str, ending: &str) -> bool {
    name.len() > ending.len()
        && name.as_bytes()[name.len() - ending.len()..].eq_ignore_ascii_case(ending.as_bytes())
}

/// What a request calls us, unchecked.
pub(super) fn named(head: &Parts) -> Option<&str> {
    let target = head.uri.authority().map(|target| target.as_str());
    target.or_else(|| head.headers.get(header::HOST)?.to_str().ok())
}

fn refused(text: &str) -> Error {
    let shown: String = text.chars().filter(|char| !char.is_control()).take(255).collect();
    Error::forbidden(format!(
        "Host names `{shown}`, which is not this server; use localhost or this machine's name or address, or \
         add the name to `hosts` under [access] in sigorest.toml"
    ))
    .code("host_not_allowed")
}
