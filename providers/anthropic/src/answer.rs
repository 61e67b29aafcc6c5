//! Anthropic's whole answer as OpenAI's, and what whole answers and events have in common.

use std::borrow::Cow;

use provider_api::{
    Call, Fault, FaultKind, Out, Usage,
    answer::{ChatAnswer, quoted},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::errors;

/// Tokens as Anthropic counts them: what came from the cache or went there is not in the input.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(default)]
pub struct Tokens {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<Creation>,
    output_tokens_details: Option<Details>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(default)]
struct Creation {
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(default)]
struct Details {
    #[serde(alias = "reasoning_tokens")]
    thinking_tokens: Option<u64>,
}

impl Tokens {
    /// Takes over what a later event knows; all its counts are totals.
    pub fn update(&mut self, later: Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.cache_read_input_tokens = later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens =
            later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_creation = later.cache_creation.or(self.cache_creation);
        self.output_tokens_details = later.output_tokens_details.or(self.output_tokens_details);
    }

    /// As the gateway counts them.
    pub fn usage(&self) -> Usage {
        let written = self.cache_creation_input_tokens;
        let for_an_hour = self.cache_creation.unwrap_or_default().ephemeral_1h_input_tokens;
        let cached = [self.cache_read_input_tokens, written].into_iter().flatten();
        Usage {
            input: self.input_tokens.map(|fresh| cached.fold(fresh, u64::saturating_add)),
            output: self.output_tokens,
            cache_read: self.cache_read_input_tokens,
            cache_write: written.map(|all| all.saturating_sub(for_an_hour.unwrap_or(0))),
            cache_write_1h: for_an_hour.filter(|tokens| *tokens > 0),
            reasoning: self.output_tokens_details.unwrap_or_default().thinking_tokens,
        }
    }
}

/// OpenAI's word for why an answer ended.
pub fn finish_reason(stop_reason: &str) -> &'static str {
    match stop_reason {
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

/// A thought with what its model wants back with it, under the name that LiteLLM gave it.
pub const THOUGHTS: &str = "thinking_blocks";

/// Says that an answer cannot be read.
pub fn unreadable(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(FaultKind::DECODE, format!("Anthropic's answer cannot be read: {error}"))
}

/// A chat whose answer comes as a whole.
pub struct Whole {
    form: ChatAnswer,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Vec<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    usage: Tokens,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

impl Whole {
    /// For the answer to this call.
    pub fn new(call: &Call<'_>) -> Self {
        Self { form: ChatAnswer::new(call) }
    }

    /// The answer in OpenAI's form.
    pub fn answer(&mut self, body: &[u8], out: &mut Out<'_, '_>) -> Result<(), Fault> {
        if let Some(fault) = errors::in_answer(body) {
            return Err(fault);
        }
        let message: Message<'_> = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
        let (mut text, mut thinking) = (None::<String>, String::new());
        let (mut thoughts, mut calls) = (Vec::new(), Vec::new());
        for raw in &message.content {
            let block: Block<'_> = serde_json::from_str(raw.get()).map_err(|error| unreadable(&error))?;
            match block.kind.as_ref() {
                "text" => text.get_or_insert_default().push_str(block.text.as_deref().unwrap_or_default()),
                "thinking" => {
                    thinking.push_str(block.thinking.as_deref().unwrap_or_default());
                    thoughts.push(raw.get());
                }
                "redacted_thinking" => thoughts.push(raw.get()),
                "tool_use" => calls.push(tool_call(&block)),
                // What Anthropic's own tools did is in the text behind it.
                _ => {}
            }
        }
        let content = match text {
            Some(text) => quoted(&text),
            None if calls.is_empty() => "\"\"".into(),
            None => "null".into(),
        };
        let (thinking, thoughts, calls) =
            (quoted(&thinking), format!("[{}]", thoughts.join(",")), format!("[{}]", calls.join(",")));
        let mut fields = vec![("content", content.as_str())];
        fields.extend((thinking.len() > 2).then_some(("reasoning_content", thinking.as_str())));
        fields.extend((thoughts.len() > 2).then_some((THOUGHTS, thoughts.as_str())));
        fields.extend((calls.len() > 2).then_some(("tool_calls", calls.as_str())));
        let reason = quoted(finish_reason(message.stop_reason.as_deref().unwrap_or_default()));
        let usage = message.usage.usage();
        out.usage(usage);
        out.done(self.form.whole(&fields, &[("finish_reason", &reason)], &usage));
        Ok(())
    }
}

fn tool_call(block: &Block<'_>) -> String {
    let id = quoted(block.id.as_deref().unwrap_or_default());
    let name = quoted(block.name.as_deref().unwrap_or_default());
    let arguments = quoted(block.input.map_or("{}", RawValue::get));
    format!(r#"{{"id":{id},"type":"function","function":{{"name":{name},"arguments":{arguments}}}}}"#)
}
