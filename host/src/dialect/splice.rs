//! Edits to a JSON text by byte ranges: every byte that no edit names stays as it is.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use provider_api::request::Members;

use crate::error::Error;

/// Deepest nesting that is accepted; no API that is served here needs a tenth of it.
const MAX_DEPTH: usize = 256;

/// One edit: this range becomes these bytes.
pub type Edit<'a> = (Range<usize>, Cow<'a, [u8]>);

/// Applies edits that do not overlap.
pub fn apply(body: &[u8], mut edits: Vec<Edit<'_>>) -> Bytes {
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut at = 0;
    for (range, text) in &edits {
        out.extend_from_slice(&body[at..range.start.max(at)]);
        out.extend_from_slice(text);
        at = range.end.max(at);
    }
    out.extend_from_slice(&body[at..]);
    out.into()
}

/// Reads a request's outermost object.
///
/// # Errors
/// 400: no JSON object, a key twice, too deep, not UTF-8.
pub fn members(body: &[u8]) -> Result<Members<'_>, Error> {
    if body.is_empty() {
        return Err(Error::bad_request("the request has no body; send a JSON object"));
    }
    check_depth(body)?;
    Members::parse(body)
        .map_err(|error| Error::bad_request(format!("the body is not a valid JSON object: {error}")))
}

fn check_depth(body: &[u8]) -> Result<(), Error> {
    // Only a text with that many openings can be that deep; few are.
    if memchr::memchr2_iter(b'{', b'[', body).take(MAX_DEPTH + 1).count() <= MAX_DEPTH {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            let text = format!("the body is nested more than {MAX_DEPTH} levels deep; send a flatter one");
            return Err(Error::bad_request(text));
        }
    }
    Ok(())
}

/// A JSON string's text; `None` if `json` is no string.
pub fn string(json: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<provider_text::Text<'_>>(json).ok().map(|text| text.0)
}

/// Borrows a string where it has no escapes.
mod provider_text {
    use std::borrow::Cow;

    #[derive(serde::Deserialize)]
    pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_leave_every_other_byte() {
        let edits: Vec<Edit<'_>> = vec![(6..7, "9".into()).to_bytes(), (1..1, "x".into()).to_bytes()];
        assert_eq!(apply(b"{ \"a\":1}", edits), &b"{x \"a\":9}"[..]);
    }

    trait ToBytes<'a> {
        fn to_bytes(self) -> Edit<'a>;
    }
    impl<'a> ToBytes<'a> for (Range<usize>, Cow<'a, str>) {
        fn to_bytes(self) -> Edit<'a> {
            (self.0, Cow::Owned(self.1.as_bytes().to_vec()))
        }
    }

    #[test]
    fn deep_nesting_is_refused_but_not_in_strings() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(members(deep.as_bytes()).is_err());
        let text = format!("{{\"a\":\"{}\"}}", "[".repeat(1000));
        assert!(members(text.as_bytes()).is_ok());
    }
}
