//! Reads single values, from the file or from text (environment, flags), with their allowed ranges.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::{Range, RangeInclusive},
    path::PathBuf,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};
use toml::{Spanned, de::DeValue};

use super::{Level, problem::nearest};

/// A value that is still to be read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input<'a> {
    /// From the file.
    Toml(&'a Spanned<DeValue<'a>>),
    /// From the environment.
    Text(&'a str),
}

/// What is wrong with a value, and where in the file if it is only a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) text: String,
    pub(super) span: Option<Range<usize>>,
}

/// A value, or all that is wrong with it.
pub(super) type Read<T> = Result<T, Vec<Wrong>>;

impl Input<'_> {
    /// This whole value is wrong.
    pub(super) fn wrong<T>(self, text: impl Into<String>) -> Read<T> {
        let span = match self {
            Self::Toml(value) => Some(value.span()),
            Self::Text(_) => None,
        };
        Err(vec![Wrong { text: text.into(), span }])
    }

    /// What was written, for a message.
    fn said(self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Toml(value) => match value.get_ref() {
                DeValue::String(text) => format!("{text:?}"),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.to_string(),
                other => format!("this {}", other.type_str()),
            },
        }
    }

    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.trim().to_owned()),
            Self::Toml(value) => value.get_ref().as_str().map(str::to_owned),
        }
    }

    fn number(self) -> Option<f64> {
        let number = match self {
            Self::Text(text) => text.trim().replace('_', "").parse().ok(),
            Self::Toml(value) => match value.get_ref() {
                #[expect(clippy::cast_precision_loss, reason = "checked against ranges far below 2^53")]
                DeValue::Integer(number) => {
                    i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number as f64)
                }
                DeValue::Float(number) => number.as_str().parse().ok(),
                _ => None,
            },
        };
        number.filter(|number: &f64| number.is_finite())
    }

    /// Through a function that reads text and says what is wrong with it.
    pub(super) fn parse<T>(self, what: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Read<T> {
        match self.text() {
            Some(text) => parse(&text).or_else(|wrong| self.wrong(wrong)),
            None => self.wrong(format!("{} is not {what}; write a string in quotes", self.said())),
        }
    }

    /// A list of such texts; in the environment separated by commas.
    pub(super) fn list<T>(self, what: &str, parse: impl Fn(&str) -> Result<T, String>) -> Read<Vec<T>> {
        let mut good = Vec::new();
        let mut bad = Vec::new();
        let mut each = |input: Input<'_>| match input.parse(what, &parse) {
            Ok(value) => good.push(value),
            Err(wrong) => bad.extend(wrong),
        };
        match self {
            Self::Text(text) => {
                text.split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .for_each(|part| each(Input::Text(part)));
            }
            Self::Toml(value) => match value.get_ref() {
                DeValue::Array(array) => array.iter().for_each(|item| each(Input::Toml(item))),
                _ => return self.wrong(format!("{} is not a list; write [\"…\", \"…\"]", self.said())),
            },
        }
        if bad.is_empty() { Ok(good) } else { Err(bad) }
    }

    /// A whole number in a range.
    pub(super) fn count<T: TryFrom<u64>>(self, range: RangeInclusive<u64>) -> Read<T> {
        let text = |input: Self| {
            format!("{} is not a whole number from {} to {}", input.said(), range.start(), range.end())
        };
        let number = self.number().filter(|number| number.fract() == 0.0 && *number >= 0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and not negative")]
        let number = number.map(|number| number as u64).filter(|number| range.contains(number));
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(number),
            None => self.wrong(text(self)),
        }
    }

    /// Seconds, also fractions of them.
    pub(super) fn seconds(self, range: RangeInclusive<f64>) -> Read<Duration> {
        match self.number().filter(|number| range.contains(number)) {
            Some(number) => Ok(Duration::from_secs_f64(number)),
            None => self.wrong(format!(
                "{} is not a number of seconds from {} to {}",
                self.said(),
                range.start(),
                range.end()
            )),
        }
    }

    /// A number of bytes, or a text such as `64 MiB`.
    pub(super) fn bytes(self, range: RangeInclusive<u64>) -> Read<usize> {
        let written = match self {
            Self::Toml(value) if !value.get_ref().is_str() => self.count::<u64>(0..=1 << 52).ok(),
            _ => self.text().and_then(|text| size(&text)),
        };
        match written.filter(|number| range.contains(number)).and_then(|number| usize::try_from(number).ok())
        {
            Some(number) => Ok(number),
            None => self.wrong(format!(
                "{} is not a size from {} to {}; write bytes or a text such as \"64 MiB\"",
                self.said(),
                size_text(*range.start()),
                size_text(*range.end())
            )),
        }
    }

    /// `true` or `false`.
    pub(super) fn truth(self) -> Read<bool> {
        let value = match self {
            Self::Toml(value) => value.get_ref().as_bool(),
            Self::Text(text) => boolean(text).ok(),
        };
        match value {
            Some(value) => Ok(value),
            None => self.wrong(format!("{} is not true or false", self.said())),
        }
    }
}

const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("k", 1 << 10),
    ("m", 1 << 20),
];

/// Reads `67108864`, `64 MiB`, `1.5MB`.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = UNITS.iter().find(|(name, _)| unit.trim().eq_ignore_ascii_case(name))?.1;
    let number: f64 = number.replace('_', "").parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "a unit is a small number")]
    let bytes = number * factor as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, below 2^53")]
    (bytes.fract() == 0.0 && (0.0..9e15).contains(&bytes)).then_some(bytes as u64)
}

/// Writes a size with the largest unit that needs no fraction.
pub(super) fn size_text(bytes: u64) -> String {
    let unit = UNITS[5..8].iter().rev().zip(["GiB", "MiB", "KiB"]);
    for ((_, factor), name) in unit {
        if bytes > 0 && bytes.is_multiple_of(*factor) {
            return format!("{} {name}", bytes / factor);
        }
    }
    format!("{bytes} byte{}", if bytes == 1 { "" } else { "s" })
}

/// Reads a truth value as Go's flags do.
///
/// # Errors
/// Another word.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Ok(true),
        "false" | "f" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is not true or false")),
    }
}

/// Reads a port.
///
/// # Errors
/// Anything but 0 to 65535.
pub fn port(text: &str) -> Result<u16, String> {
    text.trim().parse().map_err(|_| format!("{text:?} is not a port; give a number from 0 to 65535"))
}

/// Reads a level of the log.
///
/// # Errors
/// Another word, with the one that was probably meant.
pub fn level(text: &str) -> Result<Level, String> {
    Ok(match text.trim().to_ascii_lowercase().as_str() {
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" | "warning" => Level::Warn,
        "error" | "fatal" => Level::Error,
        other => {
            let meant = nearest(other, ["debug", "info", "warn", "error"]);
            let meant = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            return Err(format!("{text:?} is not one of debug, info, warn, error{meant}"));
        }
    })
}

/// A path that is not empty.
///
/// # Errors
/// An empty text.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.trim().is_empty() {
        return Err("the path is empty".into());
    }
    Ok(PathBuf::from(text))
}

/// Reads `10.0.0.0/8` or a single address; IPv4 written as IPv6 becomes IPv4.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let net = bare.parse::<IpAddr>().map(IpNet::from).or_else(|_| bare.parse::<IpNet>()).map_err(|_| {
        format!("{text:?} is not an address or a network; write 192.168.1.20 or 192.168.0.0/16")
    })?;
    Ok(match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(net, IpNet::V4),
            None => net,
        },
        net => net,
    }
    .trunc())
}

/// Writes a network as people do: a single address without its length.
pub(super) fn network_text(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// Reads an address to listen on.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text.trim());
    bare.parse().map_err(|_| {
        format!("{text:?} is not an IP address; write it without a port, such as 127.0.0.1 or ::1")
    })
}

/// Reads a host name as it stands in a `Host` header, without its port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let v6 = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
    if let Ok(address) = v6.parse::<Ipv6Addr>() {
        return Ok(address.to_string());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
        return Err(format!("{text:?} is not a host name; write it alone, such as llm.example.org"));
    }
    Ok(name)
}

/// Reads a web origin as browsers send it.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not an origin; write https://app.example, or * for all");
    let name = text.trim().trim_end_matches('/').to_ascii_lowercase();
    if name == "*" || name == "null" {
        return Ok(name);
    }
    let (scheme, authority) = name.split_once("://").ok_or_else(wrong)?;
    let scheme_ok = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let authority_ok =
        !authority.bytes().any(|byte| b"/?#@*\\".contains(&byte) || byte <= b' ' || byte > b'~');
    if scheme.is_empty() || authority.is_empty() || !scheme_ok || !authority_ok {
        return Err(wrong());
    }
    // Browsers leave the scheme's own port out.
    let own_port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return Ok(name),
    };
    Ok(name.strip_suffix(own_port).map_or(name.clone(), str::to_owned))
}

/// Reads a base URL: absolute http or https, without credentials, query or fragment.
///
/// # Errors
/// What about it is wrong; the text is not repeated where it may hold a password.
pub fn url(text: &str) -> Result<String, String> {
    let text = text.trim();
    let uri: http::Uri = text.parse().map_err(|_| {
        "this is not a URL; write an absolute one such as https://api.example.com/v1".to_owned()
    })?;
    let host = uri.host().filter(|host| !host.is_empty());
    if !matches!(uri.scheme_str(), Some("http" | "https")) || host.is_none() {
        return Err("this is not an absolute http or https URL; write https://host/path".into());
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("the URL holds a user name or password; put the key into the environment".into());
    }
    if uri.query().is_some() || text.contains('#') {
        return Err("the URL holds a query or a fragment; leave out everything from ? or #".into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(size(text), expected, "{text}");
        check("64 MiB", Some(64 << 20));
        check("1.5mb", Some(1_500_000));
        check("1_000", Some(1000));
        check("2k", Some(2048));
        check("0.3 b", None);
        check("x MiB", None);
        check("5 apples", None);
        assert_eq!(size_text(64 << 20), "64 MiB");
        assert_eq!(size_text(100), "100 bytes");
    }

    #[test]
    fn networks_hosts_and_origins() {
        let net = |text: &str| network(text).map(|net| network_text(&net)).map_err(|_| ());
        assert_eq!(net("192.168.1.20"), Ok("192.168.1.20".into()));
        assert_eq!(net("192.168.1.20/16"), Ok("192.168.0.0/16".into()));
        assert_eq!(net("::ffff:10.0.0.0/104"), Ok("10.0.0.0/8".into()));
        assert_eq!(net("::ffff:10.1.2.3"), Ok("10.1.2.3".into()));
        assert_eq!(net("::1"), Ok("::1".into()));
        assert_eq!(net("10.0.0.0/33"), Err(()));
        assert_eq!(host("LLM.Example.org."), Ok("llm.example.org".into()));
        assert_eq!(host("[::1]"), Ok("::1".into()));
        assert!(host("https://a").is_err() && host("a:80").is_err() && host("").is_err());
        assert_eq!(origin("HTTPS://App.example:443/"), Ok("https://app.example".into()));
        assert_eq!(origin("http://localhost:3000"), Ok("http://localhost:3000".into()));
        assert!(origin("app.example").is_err() && origin("https://a/b").is_err());
    }

    #[test]
    fn base_urls() {
        assert_eq!(url("http://localhost:8080/v1/"), Ok("http://localhost:8080/v1".into()));
        for wrong in
            ["localhost:80", "ftp://a/", "https://", "https://u:p@a/", "https://a/?x=1", "https://a/#f", ""]
        {
            let message = url(wrong).expect_err(wrong);
            assert!(!message.contains("u:p"), "{message}");
        }
    }
}
