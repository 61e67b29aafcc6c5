//! Whether what a caller gets is in OpenAI's form.

use serde_json::Value;

use super::{Case, Miss, Outcome, ensure};

const REASONS: [&str; 5] = ["stop", "length", "tool_calls", "content_filter", "function_call"];

/// What the chunks of a stream say when they are put together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) content: String,
    pub(super) reasoning: String,
    /// Id, name and arguments of each call.
    pub(super) calls: Vec<(String, String, String)>,
    pub(super) finish: String,
}

/// A whole answer that ended well.
pub(super) fn whole(case: &Case, outcome: &Outcome) -> Result<(), Miss> {
    let json: Value = serde_json::from_slice(&outcome.output)
        .map_err(|error| format!("the answer is not JSON ({error})"))?;
    if case.operation == "embeddings" {
        let vectors =
            json["data"].as_array().is_some_and(|list| list.iter().all(|row| !row["embedding"].is_null()));
        return ensure(vectors, || "the answer has no `data` with an `embedding` in each row".into());
    }
    let choices = json["choices"].as_array().ok_or_else(|| "the answer has no `choices`".to_owned())?;
    for choice in choices {
        ensure(choice["message"].is_object(), || "a choice has no `message`".into())?;
        reason(&choice["finish_reason"])?;
        for call in choice["message"]["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            ensure(
                call["id"].is_string() && function["name"].is_string() && function["arguments"].is_string(),
                || "a tool call needs `id`, `function.name` and `function.arguments` as texts".into(),
            )?;
        }
    }
    ensure(!choices.is_empty(), || "`choices` is empty".into())
}

/// A stream's chunks; its end mark too, if it ended well.
pub(super) fn stream(outcome: &Outcome) -> Result<Told, Miss> {
    let events = outcome.events();
    let mut told = Told::default();
    for (number, event) in events.iter().enumerate() {
        if event == b"[DONE]" {
            ensure(number + 1 == events.len(), || "something comes behind [DONE]".into())?;
            continue;
        }
        let chunk: Value =
            serde_json::from_slice(event).map_err(|error| format!("chunk {number} is not JSON ({error})"))?;
        let choices =
            chunk["choices"].as_array().ok_or_else(|| format!("chunk {number} has no `choices`"))?;
        for choice in choices {
            ensure(choice["delta"].is_object(), || format!("a choice of chunk {number} has no `delta`"))?;
            reason(&choice["finish_reason"])?;
            told.add(choice).map_err(|what| format!("chunk {number}: {what}"))?;
        }
    }
    let ended = events.last().is_some_and(|last| last == b"[DONE]");
    ensure(outcome.fault.is_some() || ended, || "the stream does not end with [DONE]".into())?;
    Ok(told)
}

fn reason(value: &Value) -> Result<(), Miss> {
    let fine = value.is_null() || value.as_str().is_some_and(|word| REASONS.contains(&word));
    ensure(fine, || {
        format!("`finish_reason` is {value}, which no client knows; use {}", REASONS[..4].join(", "))
    })
}

impl Told {
    fn add(&mut self, choice: &Value) -> Result<(), String> {
        let delta = &choice["delta"];
        self.content.push_str(delta["content"].as_str().unwrap_or(""));
        self.reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or(""));
        if let Some(word) = choice["finish_reason"].as_str() {
            word.clone_into(&mut self.finish);
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().and_then(|index| usize::try_from(index).ok());
            let index = index.ok_or("a tool call has no `index`")?;
            if index == self.calls.len() {
                let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
                self.calls.push((text(&call["id"]), text(&call["function"]["name"]), String::new()));
            }
            let known = self.calls.get_mut(index).ok_or("tool calls are not numbered 0, 1, 2, …")?;
            known.2.push_str(call["function"]["arguments"].as_str().unwrap_or(""));
        }
        let named = self.calls.iter().all(|(id, name, _)| !id.is_empty() && !name.is_empty());
        if named { Ok(()) } else { Err("a tool call begins without `id` or `function.name`".into()) }
    }
}

/// A line on what came of an exchange.
pub(super) fn summary(outcome: &Outcome) -> String {
    let tokens = |count: Option<u64>| count.map_or_else(|| "?".into(), |count| count.to_string());
    let usage = &outcome.usage;
    let events = outcome.events().len();
    let what = if events == 1 { "1 piece".to_owned() } else { format!("{events} pieces") };
    format!("{what}, {} tokens in, {} out", tokens(usage.input), tokens(usage.output))
}
