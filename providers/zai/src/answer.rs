//! What differs from OpenAI's format in answers and events: edited in place, every other byte stays.

use std::ops::Range;

use provider_api::{Fault, Out, openai};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::errors;

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<Turn<'a>>,
    #[serde(borrow)]
    delta: Option<Turn<'a>>,
}

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Reads a whole answer or an event and reports its usage. Returns it in OpenAI's form if it differs.
///
/// # Errors
/// It says that the upstream failed.
pub(crate) fn read(json: &[u8], out: &mut Out<'_, '_>) -> Result<Option<Vec<u8>>, Fault> {
    if let Some(fault) = errors::in_answer(json) {
        return Err(fault);
    }
    if let Some(usage) = openai::usage_in(json) {
        out.usage(usage);
    }
    // What cannot be read is passed on: the gateway judges it.
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(json) else { return Ok(None) };
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut replace = |value: &RawValue, text: String| {
        let start = value.get().as_ptr() as usize - json.as_ptr() as usize;
        edits.push((start..start + value.get().len(), text));
    };
    for choice in answer.choices.unwrap_or_default() {
        if let Some(reason) = choice.finish_reason {
            match reason.get() {
                "\"sensitive\"" => replace(reason, "\"content_filter\"".into()),
                "\"model_context_window_exceeded\"" => replace(reason, "\"length\"".into()),
                "\"network_error\"" => return Err(Fault::upstream("the model's inference failed")),
                _ => {}
            }
        }
        let turns = choice.message.into_iter().chain(choice.delta);
        for call in turns.flat_map(|turn| turn.tool_calls.unwrap_or_default()) {
            // The reference shows an object where the SDKs read a string.
            if let Some(arguments) = call.function.and_then(|function| function.arguments)
                && arguments.get().starts_with('{')
            {
                replace(arguments, serde_json::Value::from(arguments.get()).to_string());
            }
        }
    }
    if edits.is_empty() {
        return Ok(None);
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut text = Vec::with_capacity(json.len() + 64);
    let mut at = 0;
    for (range, new) in edits {
        text.extend_from_slice(&json[at..range.start]);
        text.extend_from_slice(new.as_bytes());
        at = range.end;
    }
    text.extend_from_slice(&json[at..]);
    Ok(Some(text))
}
