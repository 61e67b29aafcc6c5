//! `Origin`: which web pages may call us, and the CORS answers that let them.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::{
    Door,
    host::{self, Authority},
};
use crate::body::Body;

/// What a page may read of an answer beside the body; the star covers the rest, as no credentials are used.
const EXPOSED: &str = "x-request-id, retry-after, x-should-retry, x-sigorest-dropped, *";

/// The origins whose pages may call us from another site.
#[derive(Debug)]
pub(super) struct Origins {
    any: bool,
    named: Vec<String>,
}

impl Origins {
    pub(super) fn new(configured: &[String]) -> Self {
        let named = configured.iter().map(|origin| origin.trim().trim_end_matches('/').to_owned());
        Self { any: configured.iter().any(|origin| origin.trim() == "*"), named: named.collect() }
    }

    /// Whether a request with this `Origin` is welcome wherever it comes from.
    pub(super) fn admit(&self, origin: Option<&HeaderValue>) -> bool {
        let known = |origin: &HeaderValue| {
            self.named.iter().any(|named| named.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
        };
        self.any || origin.is_some_and(known)
    }

    pub(super) fn preflight(&self, head: &Parts) -> Option<Response<Body>> {
        if head.method != Method::OPTIONS {
            return None;
        }
        let origin = head.headers.get(header::ORIGIN)?;
        head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let host = host::named(head).and_then(Authority::parse);
        let welcome = self.admit(Some(origin)) || same(origin, host, Door::Http, true);
        welcome.then(|| allow(head, origin))
    }

    pub(super) fn expose(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        let closed = !self.any && self.named.is_empty();
        // The answer to a preflight says it all.
        if closed || answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = asked.get(header::ORIGIN).filter(|origin| self.admit(Some(origin))) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

/// Whether a page of this origin was served by the server that `Host` names.
///
/// Behind a proxy the page may have come over HTTPS although we see plain HTTP.
pub(super) fn same(origin: &HeaderValue, host: Option<Authority>, door: Door, proxied: bool) -> bool {
    let parts = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let (Some((scheme, authority)), Some(host)) = (parts, host) else { return false };
    let known = scheme == door.scheme() || proxied && matches!(scheme, "http" | "https");
    known && Authority::parse(authority).is_some_and(|origin| origin.same(host, scheme))
}

/// The answer that lets a page of this origin send what it asks for.
fn allow(head: &Parts, origin: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS"),
    );
    if let Some(asked) = head.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    if head.headers.contains_key("access-control-request-private-network") {
        headers.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    headers.insert(
        header::VARY,
        HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    );
    response
}
