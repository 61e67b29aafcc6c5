//! Edits to a JSON text by byte ranges: every byte that no edit names stays as it is.

use std::{borrow::Cow, ops::Range};

use bytes::{Bytes, BytesMut};
use provider_api::request::Members;

use crate::error::Error;

/// Deepest nesting that is accepted; no API that is served here needs a tenth of it.
const MAX_DEPTH: usize = 256;

/// One edit: this range becomes these bytes.
pub type Edit<'a> = (Range<usize>, Cow<'a, [u8]>);

/// Bodies from this size on are edited where they are, if nobody else holds them. Below it, copying costs
/// less than moving what stands behind each edit.
const IN_PLACE: usize = 64 << 10;

/// Applies edits that do not overlap. A large body that is the caller's alone is not held twice.
pub fn apply(body: Bytes, mut edits: Vec<Edit<'_>>) -> Bytes {
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    if body.len() < IN_PLACE {
        return copied(&body, &edits);
    }
    match body.try_into_mut() {
        Ok(body) => in_place(body, &edits),
        Err(body) => copied(&body, &edits),
    }
}

fn copied(body: &[u8], edits: &[Edit<'_>]) -> Bytes {
    let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut at = 0;
    for (range, text) in edits {
        out.extend_from_slice(&body[at..range.start.max(at)]);
        out.extend_from_slice(text);
        at = range.end.max(at);
    }
    out.extend_from_slice(&body[at..]);
    out.into()
}

/// Moves what stays to where it will be, then writes what is new between.
fn in_place(mut body: BytesMut, edits: &[Edit<'_>]) -> Bytes {
    let old = body.len();
    let (mut kept, mut new) = (Vec::with_capacity(edits.len() + 1), Vec::with_capacity(edits.len()));
    let (mut from, mut to) = (0, 0);
    for (range, text) in edits {
        let end = range.start.max(from);
        kept.push((from..end, to));
        to += end - from;
        new.push((to, text));
        to += text.len();
        from = range.end.max(from);
    }
    kept.push((from..old, to));
    let length = to + (old - from);
    body.resize(length.max(old), 0);
    // What moves to the front goes first to last, what moves to the back last to first: in this order
    // nothing lands on what has yet to move.
    kept.iter()
        .filter(|(from, to)| *to < from.start)
        .for_each(|(from, to)| body.copy_within(from.clone(), *to));
    let back = kept.iter().rev().filter(|(from, to)| *to > from.start);
    back.for_each(|(from, to)| body.copy_within(from.clone(), *to));
    for (to, text) in new {
        body[to..to + text.len()].copy_from_slice(text);
    }
    body.truncate(length);
    body.freeze()
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
        assert_eq!(apply(Bytes::from_static(b"{ \"a\":1}"), edits), &b"{x \"a\":9}"[..]);
    }

    proptest::proptest! {
        #[test]
        fn a_body_edited_in_place_is_the_same_as_a_copy(
            body in proptest::collection::vec(proptest::num::u8::ANY, 0..60),
            edits in proptest::collection::vec((0usize..60, 0usize..20, "[a-z]{0,30}"), 0..6),
        ) {
            let bounded = |at: usize| at.min(body.len());
            let mut edits: Vec<Edit<'_>> = edits.iter().map(|(start, length, text)| {
                (bounded(*start)..bounded(start + length), Cow::Borrowed(text.as_bytes()))
            }).collect();
            edits.sort_by_key(|(range, _)| (range.start, range.end));
            proptest::prop_assert_eq!(in_place(BytesMut::from(&body[..]), &edits), copied(&body, &edits));
        }
    }

    #[test]
    fn a_large_body_that_nobody_else_holds_stays_where_it_is() {
        let mut body = BytesMut::with_capacity(IN_PLACE + 100);
        body.resize(IN_PLACE, b'x');
        let body = body.freeze();
        let start = body.as_ptr();
        let edited = apply(body, vec![(1..1, b"new"[..].into())]);
        assert_eq!((edited.as_ptr(), edited.len(), &edited[..5]), (start, IN_PLACE + 3, &b"xnewx"[..]));
        let kept = apply(edited.clone(), vec![(0..1, b""[..].into())]);
        assert_eq!((kept.len(), edited.len()), (IN_PLACE + 2, IN_PLACE + 3));
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
