//! The assistant's message of an answer, whole or put together from a stream: what a session keeps.

use std::borrow::Cow;

use bytes::Bytes;
use provider_api::request::{Members, elements};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

/// Most bytes of a streamed answer that are kept for a session; a longer one is not stored.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Most tool calls of one answer.
const MAX_TOOL_CALLS: usize = 1024;

/// The message of a whole answer's first choice, byte by byte.
pub fn message(body: &[u8]) -> Option<Bytes> {
    let answer = Members::parse(body).ok()?;
    let (_, first) = elements(body, answer.value("choices")?).ok()?.into_iter().next()?;
    let choice = Members::parse(first.get().as_bytes()).ok()?;
    choice.value("message").map(|message| Bytes::copy_from_slice(message.as_bytes()))
}

/// Puts the first choice of a stream together.
#[derive(Debug, Default)]
pub struct Assembly {
    content: Option<String>,
    reasoning: Option<String>,
    refusal: Option<String>,
    tools: Vec<ToolCall>,
    size: usize,
}

#[derive(Debug, Default)]
struct ToolCall {
    id: String,
    kind: String,
    name: String,
    arguments: String,
}

/// The whole message in the order that people read.
#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct ToolDelta<'a> {
    #[serde(default)]
    index: usize,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    function: Option<FunctionDelta<'a>>,
}

#[derive(Deserialize)]
struct FunctionDelta<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    arguments: Option<Cow<'a, str>>,
}

impl Assembly {
    /// Takes in one chunk; what is no chunk is passed over.
    pub fn add(&mut self, chunk: &[u8]) {
        self.size += chunk.len();
        if self.size > MAX_ANSWER_BYTES {
            return;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(chunk) else { return };
        let Some(delta) = chunk.choices.into_iter().find(|choice| choice.index == 0).and_then(|c| c.delta)
        else {
            return;
        };
        append(&mut self.content, delta.content);
        append(&mut self.reasoning, delta.reasoning_content);
        append(&mut self.refusal, delta.refusal);
        for raw in delta.tool_calls.into_iter().flatten() {
            if let Ok(tool) = serde_json::from_str::<ToolDelta<'_>>(raw.get()) {
                self.tool(tool);
            }
        }
    }

    fn tool(&mut self, delta: ToolDelta<'_>) {
        if delta.index >= MAX_TOOL_CALLS {
            return;
        }
        if self.tools.len() <= delta.index {
            self.tools.resize_with(delta.index + 1, ToolCall::default);
        }
        let call = &mut self.tools[delta.index];
        let set = |field: &mut String, text: Option<Cow<'_, str>>| {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                *field = text.into_owned();
            }
        };
        set(&mut call.id, delta.id);
        set(&mut call.kind, delta.kind);
        if let Some(function) = delta.function {
            set(&mut call.name, function.name);
            call.arguments.push_str(&function.arguments.unwrap_or_default());
        }
    }

    /// The whole message; `None` if there was none or it is too long to keep.
    pub fn message(self) -> Option<Bytes> {
        let empty = self.content.is_none() && self.tools.is_empty() && self.refusal.is_none();
        if self.size > MAX_ANSWER_BYTES || empty {
            return None;
        }
        let calls = self.tools.into_iter().map(|call| {
            let kind = if call.kind.is_empty() { "function".into() } else { call.kind };
            json!({"id": call.id, "type": kind, "function": {"name": call.name, "arguments": call.arguments}})
        });
        let message = Message {
            role: "assistant",
            content: self.content,
            reasoning_content: self.reasoning,
            refusal: self.refusal,
            tool_calls: calls.collect(),
        };
        serde_json::to_vec(&message).ok().map(Bytes::from)
    }
}

fn append(text: &mut Option<String>, more: Option<Cow<'_, str>>) {
    if let Some(more) = more {
        text.get_or_insert_default().push_str(&more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_message_keeps_its_bytes() {
        let body = br#"{"choices":[{"index":0,"message":{ "role":"assistant","n":1.0 }}]}"#;
        assert_eq!(message(body).as_deref(), Some(&br#"{ "role":"assistant","n":1.0 }"#[..]));
        assert_eq!(message(b"{}"), None);
    }

    #[test]
    fn a_stream_becomes_one_message() {
        let mut assembly = Assembly::default();
        for chunk in [
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":"hm"}}]}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"other"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"a\n"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"b","tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"{\"x\""}}]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}}]}"#,
            r#"{"choices":[],"usage":{}}"#,
            "nonsense",
        ] {
            assembly.add(chunk.as_bytes());
        }
        let message: Value = serde_json::from_slice(&assembly.message().expect("a message")).expect("JSON");
        assert_eq!(
            message,
            json!({"role":"assistant","content":"a\nb","reasoning_content":"hm",
                "tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]})
        );
        assert_eq!(Assembly::default().message(), None);
    }
}
