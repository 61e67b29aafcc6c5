//! Server-sent events: where an event ends, and what is in it.
//!
//! Tolerates LF, CRLF and CR line ends, comments, `data:` with or without a space, several data lines.
//! Source: HTML Living Standard, section 9.2.6 "Interpreting an event stream".

use std::borrow::Cow;

/// One event, with its bytes as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The `event` field; empty if there is none.
    pub name: &'a str,
    /// The data lines joined with LF; `None` for an event of comments only.
    pub data: Option<Cow<'a, [u8]>>,
}

/// Where the first event of `text` ends: the index behind its blank line. `from` is where an earlier
/// look at the same, shorter text stopped (its length); no byte is looked at twice.
pub fn event_end(text: &[u8], from: usize) -> Option<usize> {
    // A line end that the earlier look saw may be completed by the first new byte.
    let mut at = from.saturating_sub(3);
    while let Some(found) = memchr::memchr2(b'\n', b'\r', &text[at..]) {
        let ended = terminator(&text[at + found..]);
        let line_end = at + found + ended;
        match text.get(line_end) {
            // Half of a CRLF whose other half is on its way: it belongs to this event.
            Some(b'\r') if ended == 2 && line_end + 1 == text.len() => return None,
            Some(b'\n' | b'\r') => return Some(line_end + terminator(&text[line_end..])),
            _ => at = line_end,
        }
    }
    None
}

/// Length of the line end that `text` starts with.
fn terminator(text: &[u8]) -> usize {
    if text.starts_with(b"\r\n") { 2 } else { 1 }
}

/// Reads one whole event.
pub fn parse(event: &[u8]) -> SseEvent<'_> {
    let mut name = "";
    let mut data: Option<Cow<'_, [u8]>> = None;
    let mut rest = event;
    while !rest.is_empty() {
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = if end < rest.len() { &rest[end + terminator(&rest[end..])..] } else { &[] };
        if let Some(value) = field(line, b"data") {
            match &mut data {
                None => data = Some(Cow::Borrowed(value)),
                Some(text) => {
                    let text = text.to_mut();
                    text.push(b'\n');
                    text.extend_from_slice(value);
                }
            }
        } else if let Some(value) = field(line, b"event") {
            name = std::str::from_utf8(value).unwrap_or("");
        }
    }
    SseEvent { name, data }
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// JSON as the one line that an event's `data:` is: line breaks can only stand between its tokens, as spaces do,
/// and become spaces. Fast where there are none.
pub fn one_line(json: &[u8]) -> Cow<'_, [u8]> {
    let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n');
    if !json.iter().any(breaks) {
        return Cow::Borrowed(json);
    }
    json.iter().map(|byte| if breaks(byte) { b' ' } else { *byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All events of a text that arrives in two pieces.
    fn split(text: &[u8], cut: usize) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        let mut buffer = Vec::new();
        for piece in [&text[..cut], &text[cut..]] {
            let mut seen = buffer.len();
            buffer.extend_from_slice(piece);
            while let Some(end) = event_end(&buffer, seen) {
                let event: Vec<u8> = buffer.drain(..end).collect();
                if let Some(data) = parse(&event).data {
                    events.push(data.into_owned());
                }
                seen = 0;
            }
        }
        events
    }

    #[test]
    fn events_are_the_same_wherever_the_text_is_cut() {
        for end in ["\n", "\r\n", "\r"] {
            let text =
                ["data: {\"a\":1}", "", ": note", "", "event: x", "data:b", "data: c", "", "data", "", ""]
                    .join(end);
            for cut in 0..=text.len() {
                let events = split(text.as_bytes(), cut);
                assert_eq!(
                    events,
                    [b"{\"a\":1}".to_vec(), b"b\nc".to_vec(), b"".to_vec()],
                    "{end:?} at {cut}"
                );
            }
        }
    }

    #[test]
    fn the_second_half_of_a_crlf_is_waited_for() {
        assert_eq!(event_end(b"data: a\r\n\r", 0), None);
        assert_eq!(event_end(b"data: a\r\n\r\nx", 10), Some(11));
        assert_eq!(event_end(b"data: a\r\r", 0), Some(9));
    }

    #[test]
    fn a_name_and_joined_lines_are_read() {
        let event = parse(b"event: ping\r\nid: 7\r\ndata: a\r\ndata:  b\r\n\r\n");
        assert_eq!((event.name, event.data.as_deref()), ("ping", Some(&b"a\n b"[..])));
        assert_eq!(parse(b": keep-alive\n\n").data, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_split_without_loss(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut at = 0;
            while let Some(end) = event_end(&text[at..], 0) {
                prop_assert!(end > 0);
                parse(&text[at..at + end]);
                at += end;
            }
            prop_assert!(at <= text.len());
        }
    }

    #[test]
    fn json_with_line_breaks_is_one_line() {
        let check = |json: &[u8], expected: &[u8]| assert_eq!(*one_line(json), *expected);
        check(br#"{"a":"x\n"}"#, br#"{"a":"x\n"}"#);
        check(b"{\r\n\"a\":\r1\n}", b"{  \"a\": 1 }");
    }
}
