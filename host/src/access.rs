//! Who may come in: by the peer's address, then by `Host`, `Origin` and content type.
//!
//! The peer rule holds for a connection before anything is read; the rest for each request. Nobody logs in
//! here, so a browser on an admitted machine is the way in for strangers: a page that points its own name
//! at us (DNS rebinding) is told by `Host`, one that calls us from its own origin by `Origin` and
//! `Sec-Fetch-Site`, and a form by its content type.

mod host;
mod machine;
mod origin;

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Response, StatusCode, header, request::Parts};
use ipnet::IpNet;

use self::host::{Authority, Hosts};
pub use self::machine::Machine;
use self::origin::Origins;
use crate::{body::Body, config::AccessSettings, error::Error};

/// Which door a connection came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Plain HTTP.
    Http,
    /// HTTPS.
    Https,
}

impl Door {
    /// `http` or `https`: the scheme, and the key in `[access]` and `[listen]`.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address; IPv4-mapped IPv6 addresses are unmapped.
    pub address: SocketAddr,
    /// Our end of the connection, unmapped too.
    pub local: IpAddr,
    /// The door it came through.
    pub door: Door,
}

/// Who asks: the peer, or whom a trusted proxy names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Unmapped address.
    pub address: IpAddr,
}

/// The rules in force; a reload swaps them.
#[derive(Debug)]
pub struct Access {
    http: Vec<IpNet>,
    https: Vec<IpNet>,
    admin: Vec<IpNet>,
    memory_write: Option<Vec<IpNet>>,
    trusted_proxies: Vec<IpNet>,
    hosts: Hosts,
    origins: Origins,
}

impl Access {
    /// The rules of these settings on this machine.
    pub fn new(settings: &AccessSettings, machine: &Machine) -> Self {
        Self {
            http: settings.http.clone(),
            https: settings.https.clone(),
            admin: settings.admin.clone(),
            memory_write: settings.memory_write.clone(),
            trusted_proxies: settings.trusted_proxies.clone(),
            hosts: Hosts::new(&settings.hosts, machine),
            origins: Origins::new(&settings.origins),
        }
    }

    /// Whether this address may use this door. IPv4-mapped addresses count as IPv4.
    pub fn admits(&self, door: Door, address: IpAddr) -> bool {
        let list = match door {
            Door::Http => &self.http,
            Door::Https => &self.https,
        };
        within(list, address.to_canonical())
    }

    /// What a peer reads that may not use its door.
    pub fn refusal(door: Door, address: IpAddr) -> Error {
        let scheme = door.scheme();
        Error::forbidden(format!(
            "{address} may not use the {scheme} door; add it to `{scheme}` under [access] in sigorest.toml"
        ))
        .code("address_not_allowed")
    }

    /// Checks one request: the forwarded address, `Host`, `Origin` and `Sec-Fetch-Site`, and, if it has a
    /// body, its type and coding.
    ///
    /// # Errors
    /// 403 for who or where from, 400 for a `Host` that is missing or given twice, 415 for the body.
    pub fn check(&self, peer: &Peer, head: &Parts, has_body: bool) -> Result<Caller, Error> {
        let caller = self.caller(peer, &head.headers)?;
        let host = self.hosts.check(peer, head)?;
        self.cross_site(peer, &head.headers, host)?;
        if has_body {
            json_body(&head.headers)?;
        }
        Ok(caller)
    }

    /// Whether this caller may administrate.
    ///
    /// # Errors
    /// 403 naming the setting.
    pub fn admin(&self, caller: &Caller) -> Result<(), Error> {
        allowed(&self.admin, caller, "administrate", "admin")
    }

    /// Whether this caller may write the memory block: all who are admitted, unless the settings narrow it.
    ///
    /// # Errors
    /// 403 naming the setting.
    pub fn memory_write(&self, caller: &Caller) -> Result<(), Error> {
        self.memory_write
            .as_deref()
            .map_or(Ok(()), |list| allowed(list, caller, "write the memory", "memory_write"))
    }

    /// The answer to a CORS preflight of a page that may call us; `None` for all else. [`Access::check`] comes
    /// first, so that neither a foreign `Host` nor a proxy that hides its caller learns which pages may.
    pub fn preflight(&self, head: &Parts) -> Option<Response<Body>> {
        self.origins.preflight(head)
    }

    /// Lets the page that asked read this answer, if its origin is one of the configured ones.
    pub fn cors(&self, head: &Parts, answer: &mut HeaderMap) {
        self.origins.expose(&head.headers, answer);
    }

    fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Error> {
        let address = peer.address.ip();
        // A reload may have closed the door since this connection came in.
        if !self.admits(peer.door, address) {
            return Err(Self::refusal(peer.door, address));
        }
        if !within(&self.trusted_proxies, address) {
            return Ok(Caller { address });
        }
        let address = self.forwarded(headers).ok_or_else(|| {
            Error::forbidden(format!(
                "the proxy {address} did not say whom it asks for; let it add the client's address to \
                 X-Forwarded-For, or take it out of `trusted_proxies` under [access] in sigorest.toml"
            ))
            .code("forwarded_for_missing")
        })?;
        if self.admits(peer.door, address) {
            Ok(Caller { address })
        } else {
            Err(Self::refusal(peer.door, address))
        }
    }

    /// The rightmost forwarded address that is not a proxy. What stands left of it was written by the
    /// client and proves nothing; a proxy that wrote no readable address leaves us without one.
    fn forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        headers
            .get_all("x-forwarded-for")
            .iter()
            .rev()
            .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
            .map(forwarded_address)
            .find(|address| address.is_none_or(|address| !within(&self.trusted_proxies, address)))?
    }

    fn cross_site(&self, peer: &Peer, headers: &HeaderMap, host: Option<Authority>) -> Result<(), Error> {
        let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
        let origin = headers.get(header::ORIGIN);
        if origin.is_none() && site.is_none() || self.origins.admit(origin) {
            return Ok(());
        }
        let near = matches!(site, None | Some(b"same-origin" | b"none"));
        let proxied = within(&self.trusted_proxies, peer.address.ip());
        if near && origin.is_none_or(|origin| origin::same(origin, host, peer.door, proxied)) {
            return Ok(());
        }
        let named = origin.and_then(|origin| origin.to_str().ok()).unwrap_or("another site");
        Err(Error::forbidden(format!(
            "web pages of {named} may not call this server; add that origin to `origins` under [access] in \
             sigorest.toml"
        ))
        .code("origin_not_allowed"))
    }
}

fn within(list: &[IpNet], address: IpAddr) -> bool {
    list.iter().any(|net| net.contains(&address))
}

fn allowed(list: &[IpNet], caller: &Caller, what: &str, key: &str) -> Result<(), Error> {
    if within(list, caller.address) {
        return Ok(());
    }
    let address = caller.address;
    Err(Error::forbidden(format!(
        "{address} may not {what}; add it to `{key}` under [access] in sigorest.toml"
    ))
    .code("address_not_allowed"))
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn forwarded_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let address = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

/// A form or a script from another site can send a body without asking first, but not one of this type.
fn json_body(headers: &HeaderMap) -> Result<(), Error> {
    let unsupported = |message: &str| {
        Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).code("unsupported_media_type")
    };
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let json = types.next().is_some_and(|value| is_json(value.as_bytes())) && types.next().is_none();
    if !json {
        return Err(unsupported("a body must be JSON; send it with `Content-Type: application/json`"));
    }
    // `identity` too: it has no place there, and whoever means it leaves the header out.
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(unsupported("compressed bodies are not supported; send it without Content-Encoding"));
    }
    Ok(())
}

fn is_json(value: &[u8]) -> bool {
    if value == b"application/json" {
        return true;
    }
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let Some((kind, subtype)) = essence.split_at_checked("application/".len()) else { return false };
    let json = subtype.eq_ignore_ascii_case(b"json")
        || subtype.len() > 5 && subtype[subtype.len() - 5..].eq_ignore_ascii_case(b"+json");
    json && kind.eq_ignore_ascii_case(b"application/") && !subtype.contains(&b',')
}

#[cfg(test)]
mod tests;
