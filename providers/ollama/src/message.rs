//! OpenAI's messages as Ollama's: content is one text, images stand beside it without their `data:`
//! head, arguments of tool calls are objects, a tool's answer names the tool.

use std::borrow::Cow;

use provider_api::{Fault, answer::quoted};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::request::wrong;

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow)]
    tool_call_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Writes the messages (a JSON array) in Ollama's form.
pub fn translate(messages: &str, out: &mut String) -> Result<(), Fault> {
    let messages: Vec<Message<'_>> = serde_json::from_str(messages)
        .map_err(|error| wrong("messages", format!("`messages` cannot be read: {error}")))?;
    out.push('[');
    for (index, message) in messages.iter().enumerate() {
        out.push_str(if index == 0 { "" } else { "," });
        write_message(message, index, &messages[..index], out)?;
    }
    out.push(']');
    Ok(())
}

fn write_message(
    message: &Message<'_>,
    index: usize,
    earlier: &[Message<'_>],
    out: &mut String,
) -> Result<(), Fault> {
    let role = match message.role.as_ref() {
        "developer" => "system",
        "function" => "tool",
        role => role,
    };
    let content = Content::read(message.content, index)?;
    let role = quoted(role);
    for text in ["{\"role\":", &role, ",\"content\":", &content.text] {
        out.push_str(text);
    }
    let mut field = |name: &str, value: &str| {
        for text in [",\"", name, "\":", value] {
            out.push_str(text);
        }
    };
    if !content.images.is_empty() {
        field("images", &format!("[{}]", content.images.join(",")));
    }
    if let Some(thinking) = message.reasoning_content {
        field("thinking", thinking.get());
    }
    if let Some(calls) = message.tool_calls.as_deref().filter(|calls| !calls.is_empty()) {
        let calls: Result<Vec<String>, Fault> = calls.iter().map(|call| tool_call(call, index)).collect();
        field("tool_calls", &format!("[{}]", calls?.join(",")));
    }
    if role == "\"tool\"" {
        let id = message.tool_call_id.as_deref();
        if let Some(name) = message.name.as_deref().or_else(|| tool_name(id?, earlier)) {
            field("tool_name", &quoted(name));
        }
        if let Some(id) = id {
            field("tool_call_id", &quoted(id));
        }
    }
    out.push('}');
    Ok(())
}

/// The tool that an earlier call with this id named.
fn tool_name<'m>(id: &str, earlier: &'m [Message<'_>]) -> Option<&'m str> {
    let mut calls = earlier.iter().rev().filter_map(|message| message.tool_calls.as_deref()).flatten();
    calls.find(|call| call.id.as_deref() == Some(id)).map(|call| call.function.name.as_ref())
}

fn tool_call(call: &ToolCall<'_>, index: usize) -> Result<String, Fault> {
    let arguments = call.function.arguments.map_or("", RawValue::get);
    let text: Cow<'_, str> = match arguments.starts_with('"') {
        true => serde_json::from_str::<String>(arguments)?.into(),
        false => arguments.into(),
    };
    let text = text.trim();
    let object = if text.is_empty() { "{}" } else { text };
    if !object.starts_with('{') || serde_json::from_str::<&RawValue>(object).is_err() {
        let name = &call.function.name;
        let text =
            format!("the arguments of the tool call `{name}` in message {index} are not a JSON object");
        return Err(wrong("messages", text));
    }
    let id = call.id.as_deref().map(|id| format!("\"id\":{},", quoted(id))).unwrap_or_default();
    let name = quoted(&call.function.name);
    Ok(format!("{{{id}\"function\":{{\"name\":{name},\"arguments\":{object}}}}}"))
}

/// A message's content in two: text as JSON, images as JSON strings.
struct Content<'a> {
    text: Cow<'a, str>,
    images: Vec<String>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    image_url: Option<ImageUrl<'a>>,
}

#[derive(Deserialize)]
struct ImageUrl<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
}

impl<'a> Content<'a> {
    fn read(content: Option<&'a RawValue>, index: usize) -> Result<Self, Fault> {
        let content = content.map_or("\"\"", RawValue::get);
        if content.starts_with('"') {
            return Ok(Self { text: content.into(), images: Vec::new() });
        }
        let parts: Vec<Part<'_>> = serde_json::from_str(content).map_err(|error| {
            wrong("messages", format!("the content of message {index} cannot be read: {error}"))
        })?;
        let mut texts = Vec::new();
        let mut images = Vec::new();
        for part in &parts {
            match (part.kind.as_ref(), &part.text, &part.image_url, &part.refusal) {
                ("text", Some(text), ..) | ("refusal", _, _, Some(text)) => texts.push(text.as_ref()),
                ("image_url", _, Some(image), _) => images.push(quoted(base64_of(&image.url, index)?)),
                (kind, ..) => {
                    let text = format!("ollama takes text and images; message {index} has a part `{kind}`");
                    return Err(wrong("messages", text));
                }
            }
        }
        Ok(Self { text: quoted(&texts.join("\n")).into(), images })
    }
}

/// The base64 text of a `data:` URL.
fn base64_of(url: &str, index: usize) -> Result<&str, Fault> {
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    data.map(|(_, data)| data).ok_or_else(|| {
        let text = format!(
            "ollama takes images as `data:` URLs with base64 only; message {index} has another URL: send the image itself"
        );
        wrong("messages", text)
    })
}
