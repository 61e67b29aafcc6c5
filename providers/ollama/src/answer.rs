//! Ollama's chat rows as OpenAI's chunks, and its whole answer as OpenAI's.

use std::{borrow::Cow, fmt::Write as _};

use provider_api::{
    Call, Fault, FaultKind, Out, Usage,
    answer::{ChatAnswer, quoted},
    request::Members,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// A chat on its way back to the caller.
pub struct Chat {
    form: ChatAnswer,
    seed: u64,
    include_usage: bool,
    /// Tool calls so far.
    calls: usize,
}

/// A row of a stream, or the whole answer; values stay as they are written.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    message: Option<Message<'a>>,
    #[serde(default)]
    done: bool,
    #[serde(borrow)]
    done_reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    prompt_eval_count: Option<&'a RawValue>,
    #[serde(borrow)]
    eval_count: Option<&'a RawValue>,
    #[serde(borrow)]
    logprobs: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
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

impl<'a> Row<'a> {
    fn parse(data: &'a [u8]) -> Result<Self, Fault> {
        let not_read = |error: &dyn std::fmt::Display| {
            Fault::new(FaultKind::DECODE, format!("Ollama's answer cannot be read: {error}"))
        };
        // Checked once as a whole, which is faster than string by string.
        let text = std::str::from_utf8(data).map_err(|error| not_read(&error))?;
        let row: Self = serde_json::from_str(text).map_err(|error| not_read(&error))?;
        match row.error.map(RawValue::get) {
            Some(error) => {
                let text = serde_json::from_str::<String>(error).unwrap_or_else(|_| error.to_owned());
                Err(Fault::upstream(format!("Ollama failed: {text}")))
            }
            None => Ok(row),
        }
    }

    fn usage(&self) -> Usage {
        // Ollama leaves out counts that are zero. One that is none is unknown, and no reason to lose an answer.
        let count = |value: Option<&RawValue>| value.map_or(Some(0), |count| count.get().parse().ok());
        Usage { input: count(self.prompt_eval_count), output: count(self.eval_count), ..Usage::default() }
    }
}

/// A text worth handing on: neither absent nor empty.
fn some(text: Option<&RawValue>) -> Option<&str> {
    text.map(RawValue::get).filter(|text| *text != "\"\"")
}

impl Chat {
    /// Reads what the answer's form depends on.
    pub fn new(call: &Call<'_>) -> Self {
        let members = Members::parse(call.body).unwrap_or_default();
        let options = members.value("stream_options").unwrap_or("{}");
        let options = Members::parse(options.as_bytes()).unwrap_or_default();
        Self {
            form: ChatAnswer::new(call),
            seed: call.seed,
            include_usage: options.value("include_usage") == Some("true"),
            calls: 0,
        }
    }

    /// One row of a stream.
    pub fn row(&mut self, data: &[u8], out: &mut Out<'_, '_>) -> Result<(), Fault> {
        let row = Row::parse(data)?;
        let message = row.message.as_ref();
        let mut calls = String::new();
        if let Some(list) = message.and_then(|message| message.tool_calls.as_deref()) {
            calls = self.tool_calls(list, true);
        }
        let mut delta = [("", ""); 3];
        let mut len = 0;
        let fields = [
            ("reasoning_content", message.and_then(|message| some(message.thinking))),
            ("content", message.and_then(|message| some(message.content))),
            ("tool_calls", Some(calls.as_str()).filter(|calls| !calls.is_empty())),
        ];
        for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            delta[len] = (name, value);
            len += 1;
        }
        match row.logprobs.map(logprobs) {
            Some(logprobs) => {
                out.chunk(
                    self.form.chunk(&delta[..len], &[("logprobs", &logprobs), ("finish_reason", "null")]),
                );
            }
            None if len > 0 => out.chunk(self.form.delta(&delta[..len])),
            None => {}
        }
        if row.done {
            let usage = row.usage();
            out.chunk(self.form.finish(self.finish_reason(&row)));
            out.usage(usage);
            if self.include_usage {
                out.chunk(self.form.usage(&usage));
            }
            out.done(b"");
        }
        Ok(())
    }

    /// The whole answer.
    pub fn whole(&mut self, body: &[u8], out: &mut Out<'_, '_>) -> Result<(), Fault> {
        let mut row = Row::parse(body)?;
        let message = row
            .message
            .take()
            .ok_or_else(|| Fault::new(FaultKind::DECODE, "Ollama's answer has no `message`"))?;
        let calls =
            message.tool_calls.as_deref().map(|list| self.tool_calls(list, false)).unwrap_or_default();
        let content = match some(message.content) {
            Some(content) => content,
            None if calls.is_empty() => "\"\"",
            None => "null",
        };
        let mut fields = vec![("content", content)];
        fields.extend(some(message.thinking).map(|text| ("reasoning_content", text)));
        if !calls.is_empty() {
            fields.push(("tool_calls", &calls));
        }
        let reason = quoted(self.finish_reason(&row));
        let logprobs = row.logprobs.map(logprobs);
        let mut choice = vec![("finish_reason", reason.as_str())];
        choice.extend(logprobs.as_deref().map(|logprobs| ("logprobs", logprobs)));
        let usage = if row.done { row.usage() } else { Usage::default() };
        out.usage(usage);
        out.done(self.form.whole(&fields, &choice, &usage));
        Ok(())
    }

    fn finish_reason(&self, row: &Row<'_>) -> &'static str {
        match row.done_reason.as_deref() {
            Some("length") => "length",
            // Ollama says `stop` behind tool calls too.
            _ if self.calls > 0 => "tool_calls",
            _ => "stop",
        }
    }

    /// Tool calls in OpenAI's form, numbered in streams; empty if there are none.
    fn tool_calls(&mut self, list: &[ToolCall<'_>], numbered: bool) -> String {
        let mut text = String::new();
        for call in list {
            let own = || format!("call_{:016x}_{}", self.seed, self.calls).into();
            let id = quoted(&call.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(own));
            let index = if numbered { format!("\"index\":{},", self.calls) } else { String::new() };
            let arguments = match call.function.arguments.map_or("{}", RawValue::get) {
                text if text.starts_with('"') => text.to_owned(),
                object => quoted(object),
            };
            let (open, name) = (if text.is_empty() { "[" } else { "," }, quoted(&call.function.name));
            let _ = write!(
                text,
                "{open}{{{index}\"id\":{id},\"type\":\"function\",\"function\":{{\"name\":{name},\"arguments\":{arguments}}}}}"
            );
            self.calls += 1;
        }
        text.push_str(if text.is_empty() { "" } else { "]" });
        text
    }
}

/// Ollama's list is what OpenAI has under `content`.
fn logprobs(list: &RawValue) -> String {
    format!("{{\"content\":{}}}", list.get())
}
