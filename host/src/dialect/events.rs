//! Events of an OpenAI chat stream: which of them must be looked into, and what they say.

use std::{borrow::Cow, sync::LazyLock};

use memchr::memmem::Finder;
use provider_api::{Usage, openai, request::Members, sse};

/// The last event of a stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// A line that SSE parsers skip: shows that the connection lives.
pub const HEARTBEAT: &[u8] = b": keep-alive\n\n";

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// What an event is, as far as a gateway must know.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Comments or nothing: no news.
    Comment,
    /// The end mark.
    Done,
    /// An object that says that the upstream failed.
    Error(Cow<'a, [u8]>),
    /// A chunk.
    Chunk {
        /// The usage so far, if it is in there.
        usage: Option<Usage>,
        /// Whether it holds nothing but the usage (`choices` is empty).
        extra: bool,
    },
    /// Neither JSON nor the end mark.
    Garbage,
}

/// Looks at one whole event; all are checked for syntax, only those that may hold usage or an error are
/// taken apart.
pub fn look(event: &[u8]) -> Kind<'_> {
    let Some(data) = data(event) else { return Kind::Comment };
    let text = data.trim_ascii();
    if text == b"[DONE]" {
        return Kind::Done;
    }
    if !text.starts_with(b"{") || !is_json(text) {
        return Kind::Garbage;
    }
    let (has_usage, has_error) = (USAGE.find(text).is_some(), ERROR.find(text).is_some());
    if !has_usage && !has_error {
        return Kind::Chunk { usage: None, extra: false };
    }
    let Ok(members) = Members::parse(text) else { return Kind::Garbage };
    if has_error && members.value("error").is_some() {
        drop(members);
        return Kind::Error(data);
    }
    let usage = members.value("usage").map(openai::usage);
    let empty = |choices: &str| choices.strip_prefix('[').is_some_and(|rest| rest.trim_start() == "]");
    let extra = usage.is_some() && members.value("choices").is_some_and(empty);
    Kind::Chunk { usage, extra }
}

/// Whether the text is JSON: what is not would break the caller's parser rather than reach it as an error.
/// Nothing is built; 0.2 µs for the usual event.
fn is_json(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

/// The data of an event; the usual one-line event is borrowed without a search.
pub fn data(event: &[u8]) -> Option<Cow<'_, [u8]>> {
    if let Some(rest) = event.strip_prefix(b"data:") {
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        if rest[end..].iter().all(|byte| matches!(byte, b'\n' | b'\r')) {
            return Some(Cow::Borrowed(&rest[..end]));
        }
    }
    sse::parse(event).data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_is_looked_into() {
        let chunk = Kind::Chunk { usage: None, extra: false };
        assert_eq!(look(b": hello\n\n"), Kind::Comment);
        assert_eq!(look(b"data: [DONE]\r\n\r\n"), Kind::Done);
        assert_eq!(look(b"data:{\"choices\":[{}]}\n\n"), chunk);
        assert_eq!(look(b"event: x\ndata: {\"a\":\ndata: 1}\n\n"), chunk);
        assert_eq!(look(b"data: {\"usage\":null,\"choices\":[]}\n\n"), chunk);
        assert_eq!(look(b"data: {\"x\":\"\\\"error\\\"\"}\n\n"), chunk);
        assert_eq!(look(b"data: <html>\n\n"), Kind::Garbage);
        assert_eq!(look(b"data: {\"choices\":[}\n\n"), Kind::Garbage);
        assert_eq!(look(b"data: {\"a\":\"\xff\"}\n\n"), Kind::Garbage);
        assert!(matches!(look(b"data: {\"error\":{\"message\":\"m\"}}\n\n"), Kind::Error(_)));
        let usage = look(b"data: {\"choices\":[ ],\"usage\":{\"prompt_tokens\":3}}\n\n");
        let expected = Usage { input: Some(3), ..Usage::default() };
        assert_eq!(usage, Kind::Chunk { usage: Some(expected), extra: true });
    }
}
