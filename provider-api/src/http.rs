//! The HTTP requests that a provider asks for, and the answers it is shown.

use std::{borrow::Cow, ops::Range};

use crate::{abi::AbiAttr, request::Call};

/// One part of a request body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These bytes.
    Literal(Vec<u8>),
    /// This range of the call's body: not copied, and the gateway can send it again.
    CallBody(Range<usize>),
}

/// Headers that are the connection's or the gateway's; a request that sets one is refused. So is one that
/// sets `authorization` or the manifest's own header for the key.
pub const GATEWAY_HEADERS: [&str; 12] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "accept-encoding",
    "proxy-authorization",
    "user-agent",
];

/// An HTTP request to the provider's base URL or to an origin that its manifest names.
///
/// Keys are not in it: the gateway adds what the manifest's `auth` says when it sends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET`, `POST`, …
    pub method: Cow<'static, str>,
    /// Absolute URL.
    pub url: String,
    /// Names in lower case, with their values.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body, part by part.
    pub body: Vec<Part>,
    /// Request fields left out because the model rejects them: named to the caller in a header.
    pub dropped: Vec<String>,
}

impl HttpRequest {
    /// A POST without a body yet.
    pub fn post(url: impl Into<String>) -> Self {
        Self { method: "POST".into(), url: url.into(), ..Self::default() }
    }

    /// A GET.
    pub fn get(url: impl Into<String>) -> Self {
        Self { method: "GET".into(), url: url.into(), ..Self::default() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = vec![Part::Literal(body.into())];
        self.header("content-type", "application/json")
    }

    /// Sets the call's body, untouched, as the JSON body.
    #[must_use]
    pub fn forward(mut self, call: &Call<'_>) -> Self {
        self.body = vec![Part::CallBody(0..call.body.len())];
        self.header("content-type", "application/json")
    }
}

/// An upstream's answer. A streamed one is shown here only if it failed.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// Which request it answers: the id that [`crate::Out::http`] returned; the first is 1.
    pub id: u64,
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: &'a [(String, Vec<u8>)],
    /// The whole body.
    pub body: &'a [u8],
    /// Unix time in milliseconds at the start of the exchange.
    pub now_unix_ms: u64,
}

impl<'a> Reply<'a> {
    /// The first header of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// How long the upstream asks to wait, in milliseconds: `retry-after-ms`, or `Retry-After` in
    /// seconds or as an HTTP date.
    pub fn retry_after_ms(&self) -> Option<u64> {
        if let Some(ms) = self.header("retry-after-ms").and_then(|text| text.trim().parse::<f64>().ok()) {
            return Some(ms.clamp(0.0, 86_400_000.0) as u64);
        }
        let text = self.header("retry-after")?.trim();
        if let Ok(secs) = text.parse::<f64>() {
            return secs.is_finite().then_some((secs * 1000.0).clamp(0.0, 86_400_000.0) as u64);
        }
        Some(http_date_ms(text)?.saturating_sub(self.now_unix_ms).min(86_400_000))
    }
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7) as Unix milliseconds.
fn http_date_ms(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<i64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || hour > 24 || minute > 60 || second > 61 {
        return None;
    }
    // Days from civil date, with the year starting in March so that the leap day comes last.
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era_year = shifted_year.rem_euclid(400);
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = shifted_year.div_euclid(400) * 146_097 + era_year * 365 + era_year / 4 - era_year / 100
        + day_of_year
        - 719_468;
    u64::try_from((days * 86_400 + hour * 3600 + minute * 60 + second) * 1000).ok()
}

/// Copies headers out of the ABI's form.
pub(crate) fn owned_headers(attrs: &[AbiAttr<'_>]) -> Vec<(String, Vec<u8>)> {
    attrs.iter().map(|attr| (attr.name.to_string(), attr.value.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let check = |name: &str, value: &str, expected: Option<u64>| {
            let headers = [(name.to_owned(), value.as_bytes().to_vec())];
            let now_unix_ms = 784_111_777_000 - 5_000;
            let reply = Reply { id: 1, status: 429, headers: &headers, body: b"", now_unix_ms };
            assert_eq!(reply.retry_after_ms(), expected, "{name}: {value}");
        };
        check("retry-after", "2", Some(2000));
        check("retry-after", "0.5", Some(500));
        check("retry-after-ms", "250", Some(250));
        check("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT", Some(5000));
        check("retry-after", "Sat, 05 Nov 1994 08:49:37 GMT", Some(0));
        check("retry-after", "soon", None);
        check("retry-after", "-1", Some(0));
        check("retry-after", "inf", None);
        check("x-other", "2", None);
    }
}
