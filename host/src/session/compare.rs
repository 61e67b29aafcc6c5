//! Whether a request already holds the stored history.

use std::{borrow::Cow, ops::Range};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::trim::Line;

/// What makes two messages the same; clients leave out the rest when they send an answer back, or add
/// nulls and empty lists.
#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_call_id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
}

/// A message, parsed when it is needed.
struct Lazy<'a> {
    text: &'a [u8],
    parsed: std::cell::OnceCell<Option<Message<'a>>>,
}

impl<'a> Lazy<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, parsed: std::cell::OnceCell::new() }
    }

    fn parsed(&self) -> Option<&Message<'a>> {
        self.parsed.get_or_init(|| serde_json::from_slice(self.text).ok()).as_ref()
    }

    fn equals(&self, other: &Lazy<'_>) -> bool {
        if self.text == other.text {
            return true;
        }
        let (Some(a), Some(b)) = (self.parsed(), other.parsed()) else { return false };
        a.role == b.role
            && same(a.content, b.content)
            && same(a.tool_calls, b.tool_calls)
            && same(a.function_call, b.function_call)
            && same(a.tool_call_id, b.tool_call_id)
            && same(a.name, b.name)
    }
}

/// Where all of `history` stands in `messages`, in order and without a gap; the last place counts, since
/// new messages come at the end.
pub(super) fn run(history: &[Line], messages: &[&[u8]]) -> Option<Range<usize>> {
    if history.is_empty() || history.len() > messages.len() {
        return None;
    }
    let history: Vec<Lazy> = history.iter().map(|line| Lazy::new(&line.text)).collect();
    let messages: Vec<Lazy> = messages.iter().map(|message| Lazy::new(message)).collect();
    let starts = (0..=messages.len() - history.len()).rev();
    let mut runs = starts.map(|start| start..start + history.len());
    runs.find(|run| history.iter().zip(&messages[run.clone()]).all(|(a, b)| a.equals(b)))
}

fn same(a: Option<&RawValue>, b: Option<&RawValue>) -> bool {
    let (a, b) = (a.map_or("null", RawValue::get), b.map_or("null", RawValue::get));
    if a == b {
        return true;
    }
    if a.starts_with('"') && b.starts_with('"') {
        return string(a).is_some_and(|text| Some(text) == string(b));
    }
    match (serde_json::from_str(a), serde_json::from_str(b)) {
        (Ok(a), Ok(b)) => plain(a) == plain(b),
        _ => false,
    }
}

fn string(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text>(json).ok().map(|text| text.0)
}

/// A value without what carries no meaning: members that are null or empty, marks for caching, a delta's
/// index; and a single text part is its text.
fn plain(value: Value) -> Value {
    match value {
        Value::String(text) if text.is_empty() => Value::Null,
        Value::Array(list) => {
            let mut list: Vec<Value> = list.into_iter().map(plain).collect();
            match list.as_mut_slice() {
                [] => Value::Null,
                [Value::Object(part)]
                    if part.get("type").is_some_and(|kind| kind == "text") && part.len() == 2 =>
                {
                    part.remove("text").unwrap_or_default()
                }
                _ => Value::Array(list),
            }
        }
        Value::Object(members) => {
            let members = members.into_iter().filter(|(key, _)| key != "cache_control" && key != "index");
            let members = members.map(|(key, value)| (key, plain(value)));
            Value::Object(members.filter(|(_, value)| !value.is_null()).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(history: &[&str], messages: &[&str], expected: Option<Range<usize>>) {
        let line = |text: &&str| Line::new(bytes::Bytes::copy_from_slice(text.as_bytes()));
        let history: Vec<Line> = history.iter().map(line).collect();
        let messages: Vec<&[u8]> = messages.iter().map(|message| message.as_bytes()).collect();
        assert_eq!(run(&history, &messages), expected, "{history:?} in {messages:?}");
    }

    #[test]
    fn a_history_is_found_as_one_run() {
        let (a, b, c) = (
            r#"{"role":"user","content":"a"}"#,
            r#"{"role":"assistant","content":"b"}"#,
            r#"{"role":"user","content":"c"}"#,
        );
        check(&[], &[a], None);
        check(&[a, b], &[a], None);
        check(&[a, b], &[c], None);
        check(&[a, b], &[a, b, c], Some(0..2));
        check(&[a, b], &[c, a, b], Some(1..3));
        check(&[a, b], &[a, c, b], None);
        check(&[a, b], &[a, b, a, b, c], Some(2..4));
    }

    #[test]
    fn messages_are_compared_by_what_they_mean() {
        let call = r#"{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}],"reasoning_content":"hm"}"#;
        let pairs = [
            (r#"{"role":"user","content":"a\u00e4"}"#, r#"{ "content" : "aä", "role":"user" }"#, true),
            (
                r#"{"role":"assistant","content":"x","refusal":null,"annotations":[],"tool_calls":[]}"#,
                r#"{"role":"assistant","content":"x"}"#,
                true,
            ),
            (
                call,
                r#"{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]}"#,
                true,
            ),
            (
                call,
                r#"{"role":"assistant","content":"","tool_calls":[{"function":{"arguments":"{}","name":"f"},"id":"1","type":"function"}]}"#,
                true,
            ),
            (
                call,
                r#"{"role":"assistant","tool_calls":[{"id":"2","type":"function","function":{"name":"f","arguments":"{}"}}]}"#,
                false,
            ),
            (
                r#"{"role":"user","content":"x"}"#,
                r#"{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}"#,
                true,
            ),
            (r#"{"role":"user","content":"x"}"#, r#"{"role":"assistant","content":"x"}"#, false),
            (r#"{"role":"user","content":"x"}"#, r#"{"role":"user","content":"x","name":"bob"}"#, false),
            (
                r#"{"role":"tool","tool_call_id":"1","content":"x"}"#,
                r#"{"role":"tool","tool_call_id":"2","content":"x"}"#,
                false,
            ),
            (r#"{"role":"user","content":"x"}"#, r#"{"role":"user","content":"x "}"#, false),
        ];
        for (a, b, equal) in pairs {
            check(&[a], &[b], equal.then_some(0..1));
            check(&[b], &[a], equal.then_some(0..1));
        }
    }
}
