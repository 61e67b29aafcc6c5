//! `POST /v1/chat/completions`: the envelope of a request, and the canonical bytes made from it.

use std::{borrow::Cow, ops::Range, time::Duration};

use bytes::Bytes;
use provider_api::request::{Members, elements};

use crate::{
    dialect::splice::{self, Edit},
    error::Error,
};

/// The gateway's own fields; they never reach an upstream.
const OWN_FIELDS: [&str; 4] = ["session_id", "timeout", "retries", "system_prompt"];

/// A chat request as the caller sent it, with where its parts stand.
#[derive(Debug)]
pub struct Chat {
    /// The caller's bytes.
    pub body: Bytes,
    /// What the caller asks for: a shortcode, an id, or `provider/id`.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether the caller wants the extra chunk with the usage.
    pub include_usage: bool,
    /// The gateway's own fields.
    pub options: Options,
    model_span: Range<usize>,
    messages_span: Range<usize>,
    stream_options_span: Option<Range<usize>>,
    own_cuts: Vec<Range<usize>>,
    end: usize,
}

/// The gateway's own fields of a request.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Which stored conversation it belongs to.
    pub session_id: Option<String>,
    /// For the whole call, or for silence in a stream.
    pub timeout: Option<Duration>,
    /// Further attempts.
    pub retries: Option<u32>,
    /// A system message behind the memory block.
    pub system_prompt: Option<String>,
}

/// What is put into a request on its way.
#[derive(Debug, Default)]
pub struct Insert {
    /// The memory block as a message.
    pub memory: Option<Bytes>,
    /// The stored conversation, a message each.
    pub history: Vec<Bytes>,
    /// Ask the upstream for the usage of a stream.
    pub ask_usage: bool,
}

/// One message of a request: where it stands and whether it is a system message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its bytes in the body.
    pub span: Range<usize>,
    /// `system` or `developer`.
    pub system: bool,
}

impl Chat {
    /// Reads the envelope.
    ///
    /// # Errors
    /// 400 naming the field that is wrong.
    pub fn parse(body: Bytes) -> Result<Self, Error> {
        let members = splice::members(&body)?;
        let model = text(&members, "model")?.filter(|model| !model.is_empty()).ok_or_else(|| {
            Error::bad_request("`model` is missing; name one from GET /v1/models").param("model")
        })?;
        let messages_span = messages_span(&members)?;
        let stream = flag(&members, "stream")?;
        let options = Options {
            session_id: text(&members, "session_id")?,
            timeout: number(&members, "timeout", 1..=3600)?.map(Duration::from_secs),
            retries: number(&members, "retries", 0..=10)?.map(|count| count as u32),
            system_prompt: text(&members, "system_prompt")?.filter(|text| !text.is_empty()),
        };
        let span = |key: &str| members.get(key).map(|member| member.value_span());
        let own_cuts = members.cuts(&OWN_FIELDS);
        let include_usage = stream && usage_wanted(&members);
        let (model_span, stream_options_span) = (span("model").unwrap_or(0..0), span("stream_options"));
        let end = body.iter().rposition(|byte| *byte == b'}').unwrap_or(body.len());
        drop(members);
        Ok(Self {
            model,
            stream,
            include_usage,
            options,
            model_span,
            messages_span,
            stream_options_span,
            own_cuts,
            end,
            body,
        })
    }

    /// The messages with their spans.
    ///
    /// # Errors
    /// 400: a message is no object with a role.
    pub fn messages(&self) -> Result<Vec<Message>, Error> {
        #[derive(serde::Deserialize)]
        struct Role<'a> {
            #[serde(borrow)]
            role: Cow<'a, str>,
        }
        let wrong = |error: serde_json::Error| {
            Error::bad_request(format!("`messages` must be objects with a `role`: {error}")).param("messages")
        };
        let array = std::str::from_utf8(&self.body[self.messages_span.clone()]).unwrap_or("[]");
        let list = elements(&self.body, array).map_err(wrong)?;
        list.into_iter()
            .map(|(span, raw)| {
                let role = serde_json::from_str::<Role<'_>>(raw.get()).map_err(wrong)?.role;
                Ok(Message { span, system: matches!(&*role, "system" | "developer") })
            })
            .collect()
    }

    /// The bytes for an upstream: `model` under its own name, what is inserted, without our own fields.
    ///
    /// # Errors
    /// 400: see [`Chat::messages`]; only asked for where a history is inserted.
    pub fn encode(&self, model: &str, insert: &Insert) -> Result<Bytes, Error> {
        Ok(splice::apply(self.body.clone(), self.edits(model, insert)?))
    }

    /// The same where it is needed no more: a large body is edited where it is, and `body` is empty then.
    ///
    /// # Errors
    /// As [`Chat::encode`].
    pub fn encode_last(&mut self, model: &str, insert: &Insert) -> Result<Bytes, Error> {
        let edits = self.edits(model, insert)?;
        Ok(splice::apply(std::mem::take(&mut self.body), edits))
    }

    fn edits(&self, model: &str, insert: &Insert) -> Result<Vec<Edit<'static>>, Error> {
        let mut edits: Vec<Edit<'static>> = Vec::with_capacity(6);
        edits.extend(self.own_cuts.iter().map(|cut| (cut.clone(), Cow::Borrowed(&b""[..]))));
        let name = serde_json::to_vec(model).unwrap_or_default();
        edits.push((self.model_span.clone(), name.into()));
        if insert.ask_usage {
            edits.extend(self.usage_edit());
        }
        self.insert_messages(insert, &mut edits)?;
        Ok(edits)
    }

    /// Memory and `system_prompt` first, then the caller's leading system messages, then the history.
    fn insert_messages(&self, insert: &Insert, edits: &mut Vec<Edit<'static>>) -> Result<(), Error> {
        let mut first: Vec<u8> = Vec::new();
        let at = self.messages_span.start + 1;
        if let Some(memory) = &insert.memory {
            first.extend_from_slice(memory);
            first.push(b',');
        }
        if let Some(text) = &self.options.system_prompt {
            let json = serde_json::to_string(text).unwrap_or_default();
            first.extend_from_slice(format!("{{\"role\":\"system\",\"content\":{json}}},").as_bytes());
        }
        if insert.history.is_empty() {
            if !first.is_empty() {
                edits.push((at..at, first.into()));
            }
            return Ok(());
        }
        let messages = self.messages()?;
        if let Some(next) = messages.iter().find(|message| !message.system) {
            let place = next.span.start;
            if place == at || self.body[at..place].trim_ascii().is_empty() {
                join(&insert.history, &mut first, Comma::Behind);
            } else {
                let mut history = Vec::new();
                join(&insert.history, &mut history, Comma::Behind);
                edits.push((place..place, history.into()));
            }
        } else if let Some(last) = messages.last() {
            let mut history = Vec::new();
            join(&insert.history, &mut history, Comma::Before);
            edits.push((last.span.end..last.span.end, history.into()));
        }
        edits.push((at..at, first.into()));
        Ok(())
    }

    /// Makes the upstream send the usage of a stream.
    fn usage_edit(&self) -> Option<Edit<'static>> {
        const ASK: &[u8] = b"\"include_usage\":true";
        let Some(span) = self.stream_options_span.clone() else {
            let text = [b",\"stream_options\":{" as &[u8], ASK, b"}"].concat();
            return Some((self.end..self.end, text.into()));
        };
        let value = &self.body[span.clone()];
        let Ok(members) = Members::parse(value) else {
            // `null`, or something that the upstream will refuse with its own words.
            return (value == b"null").then(|| (span, [b"{" as &[u8], ASK, b"}"].concat().into()));
        };
        if let Some(member) = members.get("include_usage") {
            let inner = member.value_span();
            return Some((span.start + inner.start..span.start + inner.end, b"true"[..].into()));
        }
        let comma: &[u8] = if members.0.is_empty() { b"" } else { b"," };
        let at = span.start + 1;
        Some((at..at, [ASK, comma].concat().into()))
    }
}

/// On which side of each message a comma goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comma {
    Before,
    Behind,
}

fn join(messages: &[Bytes], out: &mut Vec<u8>, comma: Comma) {
    out.reserve(messages.iter().map(|message| message.len() + 1).sum());
    for message in messages {
        if comma == Comma::Before {
            out.push(b',');
        }
        out.extend_from_slice(message);
        if comma == Comma::Behind {
            out.push(b',');
        }
    }
}

fn wrong(key: &str, expected: &str) -> Error {
    Error::bad_request(format!("`{key}` must be {expected}")).param(key)
}

fn text(members: &Members<'_>, key: &str) -> Result<Option<String>, Error> {
    let Some(value) = members.value(key) else { return Ok(None) };
    splice::string(value).map(|text| Some(text.into_owned())).ok_or_else(|| wrong(key, "a string"))
}

fn flag(members: &Members<'_>, key: &str) -> Result<bool, Error> {
    match members.value(key) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(wrong(key, "true or false")),
    }
}

fn number(
    members: &Members<'_>,
    key: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, Error> {
    let Some(value) = members.value(key) else { return Ok(None) };
    let read = value.parse::<u64>().ok().filter(|number| range.contains(number));
    read.map(Some)
        .ok_or_else(|| wrong(key, &format!("a whole number from {} to {}", range.start(), range.end())))
}

fn messages_span(members: &Members<'_>) -> Result<Range<usize>, Error> {
    let missing = || Error::bad_request("`messages` is missing; send an array of messages").param("messages");
    let member = members.get("messages").ok_or_else(missing)?;
    let inner = member.value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let inner = inner.ok_or_else(|| wrong("messages", "an array of messages"))?;
    if inner.trim().is_empty() {
        return Err(wrong("messages", "an array with at least one message"));
    }
    Ok(member.value_span())
}

fn usage_wanted(members: &Members<'_>) -> bool {
    let options = members.value("stream_options").and_then(|text| Members::parse(text.as_bytes()).ok());
    options.is_some_and(|options| options.value("include_usage") == Some("true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(text: &str) -> Chat {
        Chat::parse(Bytes::copy_from_slice(text.as_bytes())).expect("valid")
    }

    fn encoded(text: &str, insert: &Insert) -> String {
        let bytes = chat(text).encode("id-1", insert).expect("valid");
        assert_eq!(chat(text).encode_last("id-1", insert).expect("valid"), bytes);
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    #[test]
    fn every_byte_but_the_named_ones_reaches_the_upstream() {
        let text = r#"{ "model" : "x", "retries":0,"big":12345678901234567890123,"a":1.10,"messages":[ {"role":"user","content":"h"} ] ,"timeout":5}"#;
        let expected = r#"{ "model" : "id-1","big":12345678901234567890123,"a":1.10,"messages":[ {"role":"user","content":"h"} ]}"#;
        assert_eq!(encoded(text, &Insert::default()), expected);
    }

    #[test]
    fn messages_are_inserted_in_order() {
        let insert = Insert {
            memory: Some(Bytes::from_static(b"{M}")),
            history: vec![Bytes::from_static(b"{H1}"), Bytes::from_static(b"{H2}")],
            ask_usage: false,
        };
        let check = |messages: &str, expected: &str| {
            let text = format!(r#"{{"model":"m","system_prompt":"S","messages":[{messages}]}}"#);
            let prompt = r#"{"role":"system","content":"S"}"#;
            let expected = format!(r#"{{"model":"id-1","messages":[{}]}}"#, expected.replace("{S}", prompt));
            assert_eq!(encoded(&text, &insert), expected);
        };
        let user = r#"{"role":"user"}"#;
        let system = r#"{"role":"system"}"#;
        let developer = r#"{"role":"developer"}"#;
        check(user, &format!("{{M}},{{S}},{{H1}},{{H2}},{user}"));
        check(
            &format!("{system}, {developer} , {user},{system}"),
            &format!("{{M}},{{S}},{system}, {developer} , {{H1}},{{H2}},{user},{system}"),
        );
        check(system, &format!("{{M}},{{S}},{system},{{H1}},{{H2}}"));
    }

    #[test]
    fn usage_is_asked_for_in_every_form() {
        let insert = Insert { ask_usage: true, ..Insert::default() };
        let check = |options: &str, expected: &str| {
            let text = format!(r#"{{"model":"m","messages":[1]{options}}}"#);
            assert_eq!(encoded(&text, &insert), format!(r#"{{"model":"id-1","messages":[1]{expected}}}"#));
        };
        check("", r#","stream_options":{"include_usage":true}"#);
        check(r#","stream_options":null"#, r#","stream_options":{"include_usage":true}"#);
        check(r#","stream_options":{}"#, r#","stream_options":{"include_usage":true}"#);
        check(
            r#","stream_options":{"include_obfuscation":false}"#,
            r#","stream_options":{"include_usage":true,"include_obfuscation":false}"#,
        );
        check(r#","stream_options":{"include_usage":false}"#, r#","stream_options":{"include_usage":true}"#);
    }

    #[test]
    fn wrong_fields_are_named() {
        let check = |text: &str, param: &str| {
            let error = Chat::parse(Bytes::copy_from_slice(text.as_bytes())).expect_err(text);
            assert_eq!(error.param.as_deref(), Some(param), "{text}: {}", error.message);
            assert_eq!(error.status, 400);
        };
        check(r#"{"messages":[1]}"#, "model");
        check(r#"{"model":5,"messages":[1]}"#, "model");
        check(r#"{"model":"m"}"#, "messages");
        check(r#"{"model":"m","messages":{}}"#, "messages");
        check(r#"{"model":"m","messages":[ ]}"#, "messages");
        check(r#"{"model":"m","messages":[1],"stream":"yes"}"#, "stream");
        for timeout in ["0", "3601", "-1", "1.5", "\"5\"", "1e3"] {
            check(&format!(r#"{{"model":"m","messages":[1],"timeout":{timeout}}}"#), "timeout");
        }
        for retries in ["11", "-1", "true"] {
            check(&format!(r#"{{"model":"m","messages":[1],"retries":{retries}}}"#), "retries");
        }
        check(r#"{"model":"m","messages":[1],"session_id":7}"#, "session_id");
        check(r#"{"model":"m","messages":[1],"system_prompt":[]}"#, "system_prompt");
    }
}
