//! OpenAI's chat request as Anthropic's: nothing is sent that the caller did not send but what Anthropic
//! insists on, and what it has no place for is named to the caller.

use std::borrow::Cow;

use provider_api::{Call, Fault, answer::quoted, request::Members};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    errors::wrong,
    message::Conversation,
    thinking::{self, Thinking},
};

mod tools;

/// A request's body.
pub struct Body {
    /// JSON.
    pub text: String,
    /// Fields that were left out.
    pub dropped: Vec<String>,
}

/// Fields that Anthropic calls by the same name and takes as they are.
const SAME: [&str; 6] =
    ["cache_control", "container", "context_management", "inference_geo", "mcp_servers", "thinking"];

/// The body for a chat; `default_max_tokens` is what Anthropic is told if the caller sets no limit.
pub fn body(call: &Call<'_>, default_max_tokens: u64) -> Result<Body, Fault> {
    let members = Members::parse(call.body)
        .map_err(|error| Fault::bad_request(format!("the request cannot be read: {error}")))?;
    let messages = members.value("messages").ok_or_else(|| wrong("messages", "`messages` is missing"))?;
    let conversation = Conversation::read(messages)?;
    let mut native = Native { call, members: &members, fields: Vec::new(), dropped: Vec::new() };
    let max_tokens = native.max_tokens(default_max_tokens)?;
    let thinking = native.thinking(max_tokens, conversation.bare_turn);
    native.sampling(thinking.on);
    native.stop()?;
    native.tools(thinking.on)?;
    native.output(&thinking)?;
    native.about_the_caller();
    native.others();

    let mut text = format!("{{\"model\":{},\"max_tokens\":{max_tokens}", quoted(call.model));
    if !conversation.system.is_empty() {
        text.push_str(",\"system\":[");
        text.push_str(&conversation.system.join(","));
        text.push(']');
    }
    text.push_str(",\"messages\":");
    conversation.turns(&mut text);
    for (name, value) in &native.fields {
        for piece in [",\"", name, "\":", value] {
            text.push_str(piece);
        }
    }
    text.push_str(if call.stream { ",\"stream\":true}" } else { "}" });
    Ok(Body { text, dropped: native.dropped })
}

/// The fields beside model, messages and stream.
struct Native<'c, 'm> {
    call: &'c Call<'c>,
    members: &'m Members<'c>,
    fields: Vec<(&'static str, Cow<'c, str>)>,
    dropped: Vec<String>,
}

impl<'c> Native<'c, '_> {
    /// A field's value, unless the model's row says that it is rejected.
    fn value(&self, name: &str) -> Option<&'c str> {
        let rejected = self.call.drops.split_ascii_whitespace().any(|field| field == name);
        self.members.value(name).filter(|_| !rejected)
    }

    fn set(&mut self, name: &'static str, value: impl Into<Cow<'c, str>>) {
        self.fields.push((name, value.into()));
    }

    fn drop(&mut self, name: &str) {
        if self.members.value(name).is_some() && !self.dropped.iter().any(|known| known == name) {
            self.dropped.push(name.to_owned());
        }
    }

    fn max_tokens(&self, default: u64) -> Result<u64, Fault> {
        for name in ["max_completion_tokens", "max_tokens"] {
            if let Some(value) = self.value(name) {
                let tokens = value.parse().ok().filter(|tokens| *tokens > 0);
                return tokens.ok_or_else(|| wrong(name, format!("`{name}` must be a whole number above 0")));
            }
        }
        Ok(default)
    }

    /// The caller's own `thinking` goes before OpenAI's effort.
    fn thinking(&mut self, max_tokens: u64, bare_turn: bool) -> Thinking {
        #[derive(Deserialize)]
        struct Own<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
        }
        let always = thinking::always(self.call.model);
        if let Some(own) = self.value("thinking") {
            let kind = serde_json::from_str::<Own<'_>>(own).map(|own| own.kind);
            self.drop("reasoning_effort");
            let on = always || kind.is_ok_and(|kind| kind != "disabled");
            return Thinking { on, ..Thinking::default() };
        }
        let effort =
            self.value("reasoning_effort").and_then(|effort| serde_json::from_str::<String>(effort).ok());
        let known =
            effort.and_then(|effort| thinking::of_effort(self.call.model, &effort, max_tokens, bare_turn));
        let mut thinking = known.unwrap_or(Thinking { ignored: true, ..Thinking::default() });
        if thinking.ignored {
            self.drop("reasoning_effort");
        }
        thinking.on |= always;
        if let Some(field) = thinking.field.take() {
            self.set("thinking", field);
        }
        thinking
    }

    fn sampling(&mut self, thinks: bool) {
        for name in ["temperature", "top_p", "top_k"] {
            let Some(value) = self.value(name) else {
                self.drop(name);
                continue;
            };
            // Older models take one of the two.
            let second = name == "top_p" && self.value("temperature").is_some();
            if thinks || second {
                self.drop(name);
            } else if name == "temperature" && value.parse::<f64>().is_ok_and(|value| value > 1.0) {
                // OpenAI's scale goes to 2.
                self.set(name, "1");
                self.drop(name);
            } else {
                self.set(name, value);
            }
        }
    }

    fn stop(&mut self) -> Result<(), Fault> {
        let Some(value) = self.value("stop") else { return Ok(()) };
        let list: Result<Vec<Cow<'_, str>>, _> = match value.starts_with('"') {
            true => serde_json::from_str(value).map(|one| vec![one]),
            false => serde_json::from_str(value),
        };
        let mut list = list.map_err(|_| wrong("stop", "`stop` must be a text or a list of texts"))?;
        let count = list.len();
        // White space alone is a 400.
        list.retain(|text| !text.trim().is_empty());
        if list.len() < count {
            self.drop("stop");
        }
        if !list.is_empty() {
            let list: Vec<String> = list.iter().map(|text| quoted(text)).collect();
            self.set("stop_sequences", format!("[{}]", list.join(",")));
        }
        Ok(())
    }

    /// `output_config`: the effort, and the schema that the answer must follow.
    fn output(&mut self, thinking: &Thinking) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Format<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
            #[serde(borrow)]
            json_schema: Option<Schema<'a>>,
        }
        #[derive(Deserialize)]
        struct Schema<'a> {
            #[serde(borrow)]
            schema: Option<&'a RawValue>,
        }
        if let Some(own) = self.value("output_config") {
            self.set("output_config", own);
            self.drop("response_format");
            return Ok(());
        }
        let mut parts = Vec::new();
        parts.extend(thinking.effort.map(|effort| format!("\"effort\":\"{effort}\"")));
        if let Some(format) = self.value("response_format") {
            let format: Format<'_> = serde_json::from_str(format).map_err(|error| {
                wrong("response_format", format!("`response_format` cannot be read: {error}"))
            })?;
            match (format.kind.as_ref(), format.json_schema.and_then(|outer| outer.schema)) {
                ("text", _) => {}
                ("json_schema", Some(schema)) => {
                    parts.push(format!(r#""format":{{"type":"json_schema","schema":{}}}"#, schema.get()));
                }
                ("json_schema", None) => {
                    let text = "`response_format.json_schema.schema` is missing";
                    return Err(wrong("response_format", text));
                }
                // There is no JSON without a schema.
                _ => self.drop("response_format"),
            }
        }
        if !parts.is_empty() {
            self.set("output_config", format!("{{{}}}", parts.join(",")));
        }
        Ok(())
    }

    /// Who asks, and how fast it shall go.
    fn about_the_caller(&mut self) {
        #[derive(Deserialize)]
        struct Own<'a> {
            #[serde(borrow)]
            user_id: Option<&'a RawValue>,
        }
        let own = self.value("metadata").and_then(|own| serde_json::from_str::<Own<'_>>(own).ok()?.user_id);
        let user = own.map(RawValue::get).or(self.value("safety_identifier")).or(self.value("user"));
        if let Some(user) = user.filter(|user| user.starts_with('"')) {
            self.set("metadata", format!("{{\"user_id\":{user}}}"));
        }
        if own.is_none() {
            self.drop("metadata");
        }
        match self.value("service_tier") {
            Some(tier @ ("\"auto\"" | "\"standard_only\"")) => self.set("service_tier", tier),
            Some("\"default\"") => self.set("service_tier", "\"standard_only\""),
            _ => self.drop("service_tier"),
        }
    }

    /// What is taken as it is; all that is left has no place.
    fn others(&mut self) {
        const READ: [&str; 21] = [
            "model",
            "messages",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "reasoning_effort",
            "temperature",
            "top_p",
            "top_k",
            "stop",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "response_format",
            "output_config",
            "metadata",
            "user",
            "safety_identifier",
            "service_tier",
            // Without a number it is one.
            "n",
        ];
        for name in SAME {
            if let Some(value) = self.value(name) {
                self.set(name, value);
            }
        }
        if self.members.value("n").is_some_and(|n| n != "1") {
            self.drop("n");
        }
        for member in &self.members.0 {
            let key = member.key.as_ref();
            let rejected = self.value(key).is_none();
            if rejected || !(READ.contains(&key) || SAME.contains(&key)) {
                self.drop(key);
            }
        }
    }
}
