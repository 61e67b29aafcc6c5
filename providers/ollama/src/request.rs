//! OpenAI's chat request as Ollama's: nothing is sent that the caller did not send, and what Ollama has
//! no place for is named to the caller.

use provider_api::{
    Call, Fault, HttpRequest,
    answer::quoted,
    request::{Member, Members},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::message;

/// A request that the caller got wrong, with the field's name.
pub fn wrong(param: &str, text: impl Into<String>) -> Fault {
    Fault::bad_request(text).detail("invalid_request_error", Some(param), None)
}

/// Reads a body's members.
pub fn members<'a>(call: &Call<'a>) -> Result<Members<'a>, Fault> {
    Members::parse(call.body)
        .map_err(|error| Fault::bad_request(format!("the request cannot be read: {error}")))
}

/// The request for a chat call.
pub fn chat(base: &str, call: &Call<'_>) -> Result<HttpRequest, Fault> {
    let members = members(call)?;
    let messages = members.value("messages").ok_or_else(|| wrong("messages", "`messages` is missing"))?;
    let mut native = Native::default();
    for member in members.0.iter().filter(|member| member.value != "null") {
        if call.drops.split_ascii_whitespace().any(|field| field == member.key) {
            native.dropped.push(member.key.to_string());
        } else {
            native.field(member, &members)?;
        }
    }
    let mut body = format!("{{\"model\":{},\"messages\":", quoted(call.model));
    message::translate(messages, &mut body)?;
    // Ollama streams unless it is told not to.
    body.push_str(if call.stream { ",\"stream\":true" } else { ",\"stream\":false" });
    native.write(&mut body);
    let mut request = HttpRequest::post(format!("{base}/api/chat")).json(body);
    request.dropped = native.dropped;
    Ok(request)
}

/// What becomes of the fields beside model, messages and stream.
#[derive(Default)]
struct Native<'a> {
    fields: Vec<(&'a str, String)>,
    /// Sampling and runner options; the caller's own `options` come first and win.
    options: Vec<(String, String)>,
    dropped: Vec<String>,
}

impl Native<'_> {
    fn field(&mut self, member: &Member<'_>, all: &Members<'_>) -> Result<(), Fault> {
        let (key, value) = (member.key.as_ref(), member.value);
        let absent = |other: &str| all.value(other).is_none();
        match key {
            "model" | "messages" | "stream" | "stream_options" => {}
            "tools" if all.value("tool_choice") == Some("\"none\"") => {}
            "tools" => self.set("tools", value),
            "tool_choice" if matches!(value, "\"auto\"" | "\"none\"") => {}
            "n" if value == "1" => {}
            "parallel_tool_calls" if value == "true" => {}
            "response_format" => self.format(value)?,
            "format" if !absent("response_format") => {}
            "format" => self.set("format", value),
            "reasoning_effort" if !absent("think") => {}
            "reasoning_effort" => self.set("think", effort(value)?),
            "keep_alive" => self.set("keep_alive", value),
            "think" => self.set("think", value),
            "truncate" => self.set("truncate", value),
            "shift" => self.set("shift", value),
            "logprobs" => self.set("logprobs", value),
            "top_logprobs" => self.set("top_logprobs", value),
            "options" => self.own_options(value)?,
            "max_tokens" if !absent("max_completion_tokens") => {}
            "max_tokens" | "max_completion_tokens" => self.option("num_predict", value),
            // Ollama takes a list only.
            "stop" if value.starts_with('"') => self.option("stop", &format!("[{value}]")),
            "temperature" | "top_p" | "top_k" | "min_p" | "seed" | "stop" | "presence_penalty"
            | "frequency_penalty" | "repeat_penalty" | "num_ctx" => self.option(key, value),
            other => self.dropped.push(other.to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.fields.push((name, value.to_owned()));
    }

    fn option(&mut self, name: &str, value: &str) {
        if !self.options.iter().any(|(known, _)| known == name) {
            self.options.push((name.to_owned(), value.to_owned()));
        }
    }

    fn own_options(&mut self, value: &str) -> Result<(), Fault> {
        let own = Members::parse(value.as_bytes())
            .map_err(|error| wrong("options", format!("`options` must be an object: {error}")))?;
        let own = own.0.iter().map(|member| (member.key.to_string(), member.value.to_owned()));
        let own: Vec<(String, String)> = own.collect();
        self.options.retain(|(name, _)| !own.iter().any(|(known, _)| known == name));
        self.options.extend(own);
        Ok(())
    }

    fn format(&mut self, value: &str) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct ResponseFormat<'a> {
            #[serde(rename = "type")]
            kind: String,
            #[serde(borrow)]
            json_schema: Option<JsonSchema<'a>>,
        }
        #[derive(Deserialize)]
        struct JsonSchema<'a> {
            #[serde(borrow)]
            schema: Option<&'a RawValue>,
        }
        let format: ResponseFormat<'_> = serde_json::from_str(value).map_err(|error| {
            wrong("response_format", format!("`response_format` cannot be read: {error}"))
        })?;
        match format.kind.as_str() {
            "text" => {}
            "json_object" => self.set("format", "\"json\""),
            "json_schema" => {
                let schema = format.json_schema.and_then(|outer| outer.schema).ok_or_else(|| {
                    wrong("response_format", "`response_format.json_schema.schema` is missing")
                })?;
                self.set("format", schema.get());
            }
            _ => self.dropped.push("response_format".into()),
        }
        Ok(())
    }

    fn write(&self, body: &mut String) {
        for (name, value) in &self.fields {
            for text in [",\"", name, "\":", value] {
                body.push_str(text);
            }
        }
        for (index, (name, value)) in self.options.iter().enumerate() {
            body.push_str(if index == 0 { ",\"options\":{" } else { "," });
            for text in [&quoted(name), ":", value] {
                body.push_str(text);
            }
        }
        body.push_str(if self.options.is_empty() { "}" } else { "}}" });
    }
}

/// OpenAI's effort as Ollama's `think`, as Ollama's own OpenAI form has it.
fn effort(value: &str) -> Result<&'static str, Fault> {
    Ok(match value {
        "\"none\"" => "false",
        "\"minimal\"" | "\"low\"" => "\"low\"",
        "\"medium\"" => "\"medium\"",
        "\"high\"" => "\"high\"",
        "\"xhigh\"" | "\"max\"" => "\"max\"",
        _ => {
            let text = "`reasoning_effort` must be none, minimal, low, medium, high or xhigh";
            return Err(wrong("reasoning_effort", text));
        }
    })
}
