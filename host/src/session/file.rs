//! The content of a session's file: `{"model","session_id","messages":[…]}`, one message a line.

use bytes::Bytes;
use provider_api::request::{Members, elements};
use serde_json::{json, value::RawValue};

use super::{Key, trim::Line};

/// What stands under a name.
#[derive(Debug)]
pub(super) enum Stored {
    /// No file.
    Missing,
    /// Another session's file.
    Foreign,
    /// The session's messages.
    Messages(Vec<Bytes>),
    /// A file that cannot be understood, and why.
    Broken(String),
}

/// Reads what was found under one of the names of `key`. A file that names no session, as the
/// original's, belongs to whoever asks, and so does a copy under a name that its own session never has.
pub(super) fn parse(bytes: Bytes, key: &Key) -> Stored {
    if bytes.is_empty() {
        // A crash of the original leaves such files; there is nothing to keep.
        return Stored::Messages(Vec::new());
    }
    match read(&bytes) {
        Ok((Some((model, session_id)), _)) if is_foreign(&model, &session_id, key) => Stored::Foreign,
        Ok((_, messages)) => Stored::Messages(messages),
        Err(why) => Stored::Broken(why),
    }
}

/// Reads a file that only the original can have written: one that names no session.
pub(super) fn parse_former(bytes: Bytes) -> Stored {
    match read(&bytes) {
        Ok((None, messages)) => Stored::Messages(messages),
        _ => Stored::Missing,
    }
}

/// Which session a file names, and how many messages it holds.
pub(super) fn outline(bytes: Bytes) -> Option<(Option<(String, String)>, usize)> {
    read(&bytes).ok().map(|(names, messages)| (names, messages.len()))
}

/// The file's text into `text`, whose room is used again: readable, and every message as it came.
pub(super) fn render(key: &Key, lines: &[Line], text: &mut Vec<u8>) {
    text.clear();
    text.reserve(lines.iter().map(|line| line.text.len() + 6).sum::<usize>() + 512);
    let head = format!(
        "{{\n  \"model\": {},\n  \"session_id\": {},\n  \"messages\": [",
        json!(key.model()),
        json!(key.session_id())
    );
    text.extend_from_slice(head.as_bytes());
    for (index, line) in lines.iter().enumerate() {
        text.extend_from_slice(if index == 0 { b"\n    " } else { b",\n    " });
        text.extend_from_slice(&line.text);
    }
    text.extend_from_slice(if lines.is_empty() { b"]\n}\n" } else { b"\n  ]\n}\n" });
}

type Names = Option<(String, String)>;

fn read(bytes: &Bytes) -> Result<(Names, Vec<Bytes>), String> {
    let members = Members::parse(bytes).map_err(|error| error.to_string())?;
    let text = |key| members.value(key).and_then(|value| serde_json::from_str::<String>(value).ok());
    let names = text("model").zip(text("session_id"));
    // The original called them `history`.
    let Some(list) = members.get("messages").or_else(|| members.get("history")) else {
        return Err("it has no `messages`".to_owned());
    };
    let list = if list.value == "null" { "[]" } else { list.value };
    let list = elements(bytes, list).map_err(|error| format!("`messages` is not a list: {error}"))?;
    let messages = list.into_iter().map(|(span, value)| message(value).map(|()| bytes.slice(span)));
    Ok((names, messages.collect::<Result<_, _>>()?))
}

fn message(value: &RawValue) -> Result<(), String> {
    if value.get().starts_with('{') { Ok(()) } else { Err("a message is not a JSON object".to_owned()) }
}

fn is_foreign(model: &str, session_id: &str, key: &Key) -> bool {
    (model, session_id) != (key.model(), key.session_id())
        && Key::new(model, session_id).is_ok_and(|other| other.plain() == key.plain())
}
