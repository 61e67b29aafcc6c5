//! Writes answers in OpenAI's form, for providers whose upstream speaks another or that have none.
//!
//! Values are given as JSON text, so that what the upstream wrote can be taken over as it stands.
//! Source: openai 3.54.0 (PyPI), read 2026-11-23.

use std::fmt::Write as _;

use crate::{event::Usage, request::Call};

/// Members of a JSON object: names and values, the values as JSON text.
pub type Fields<'a> = &'a [(&'a str, &'a str)];

/// Text as a JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes one chat answer, whole or chunk by chunk.
#[derive(Debug, Default)]
pub struct ChatAnswer {
    /// `"id":…,"created":…,"model":…`, the same in every chunk.
    head: String,
    chunk: String,
    started: bool,
}

impl ChatAnswer {
    /// The answer to a call: its id from the call's randomness, its time from the call's clock.
    pub fn new(call: &Call<'_>) -> Self {
        let (created, model) = (call.now_unix_ms / 1000, quoted(call.model));
        let head = format!("\"id\":\"chatcmpl-{:016x}\",\"created\":{created},\"model\":{model}", call.seed);
        Self { head, chunk: String::with_capacity(512), started: false }
    }

    /// A chunk with these members of `delta`; the first one says the role too.
    pub fn delta(&mut self, delta: Fields<'_>) -> &[u8] {
        self.chunk(delta, &[("finish_reason", "null")])
    }

    /// The chunk that ends the answer: `stop`, `length`, `tool_calls` or `content_filter`.
    pub fn finish(&mut self, reason: &str) -> &[u8] {
        self.chunk(&[], &[("finish_reason", &quoted(reason))])
    }

    /// A chunk with these members of `delta` and, beside it, of the choice.
    pub fn chunk(&mut self, delta: Fields<'_>, choice: Fields<'_>) -> &[u8] {
        self.open("chat.completion.chunk");
        self.chunk.push_str(",\"choices\":[{\"index\":0,\"delta\":{");
        if !self.started {
            self.started = true;
            self.chunk.push_str("\"role\":\"assistant\"");
            self.chunk.push_str(if delta.is_empty() { "" } else { "," });
        }
        members(&mut self.chunk, delta);
        self.chunk.push_str("},");
        members(&mut self.chunk, choice);
        self.chunk.push_str("}]}");
        self.chunk.as_bytes()
    }

    /// The chunk behind the last one, for callers that ask for `stream_options.include_usage`.
    pub fn usage(&mut self, usage: &Usage) -> &[u8] {
        self.open("chat.completion.chunk");
        let _ = write!(self.chunk, ",\"choices\":[],\"usage\":{}}}", usage_json(usage));
        self.chunk.as_bytes()
    }

    /// The whole answer: the members of its message and of its choice, and the tokens if known.
    pub fn whole(&mut self, message: Fields<'_>, choice: Fields<'_>, usage: &Usage) -> &[u8] {
        self.open("chat.completion");
        self.chunk.push_str(",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",");
        members(&mut self.chunk, message);
        self.chunk.push_str("},");
        members(&mut self.chunk, choice);
        self.chunk.push_str("}]");
        if usage.input.is_some() || usage.output.is_some() {
            let _ = write!(self.chunk, ",\"usage\":{}", usage_json(usage));
        }
        self.chunk.push('}');
        self.chunk.as_bytes()
    }

    fn open(&mut self, object: &str) {
        self.chunk.clear();
        for text in ["{", &self.head, ",\"object\":\"", object, "\""] {
            self.chunk.push_str(text);
        }
    }
}

fn members(out: &mut String, fields: Fields<'_>) {
    for (index, (name, value)) in fields.iter().enumerate() {
        for text in [if index == 0 { "\"" } else { ",\"" }, name, "\":", value] {
            out.push_str(text);
        }
    }
}

/// Tokens as OpenAI's `usage` object; unknown ones count as 0, details appear where they are known.
pub fn usage_json(usage: &Usage) -> String {
    let (input, output) = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
    let mut text = format!(
        "{{\"prompt_tokens\":{input},\"completion_tokens\":{output},\"total_tokens\":{}",
        input.saturating_add(output)
    );
    let written = usage.cache_write.map(|short| short.saturating_add(usage.cache_write_1h.unwrap_or(0)));
    let details = [("cached_tokens", usage.cache_read), ("cache_write_tokens", written)];
    let details: Vec<String> =
        details.iter().filter_map(|(name, value)| Some(format!("\"{name}\":{}", (*value)?))).collect();
    if !details.is_empty() {
        let _ = write!(text, ",\"prompt_tokens_details\":{{{}}}", details.join(","));
    }
    if let Some(reasoning) = usage.reasoning {
        let _ = write!(text, ",\"completion_tokens_details\":{{\"reasoning_tokens\":{reasoning}}}");
    }
    text.push('}');
    text
}

/// An embeddings answer; each vector is JSON text: an array of numbers, or what [`base64_floats`] makes.
pub fn embeddings(model: &str, vectors: &[impl AsRef<str>], prompt_tokens: u64) -> Vec<u8> {
    let mut out = String::from("{\"object\":\"list\",\"data\":[");
    for (index, vector) in vectors.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let head = format!("{comma}{{\"object\":\"embedding\",\"index\":{index},\"embedding\":");
        for text in [&head, vector.as_ref(), "}"] {
            out.push_str(text);
        }
    }
    let usage = format!("{{\"prompt_tokens\":{prompt_tokens},\"total_tokens\":{prompt_tokens}}}");
    let _ = write!(out, "],\"model\":{},\"usage\":{usage}}}", quoted(model));
    out.into_bytes()
}

/// Numbers as OpenAI's `encoding_format: "base64"`: little-endian 32-bit floats, as a JSON string.
pub fn base64_floats(numbers: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let mut out = String::with_capacity(bytes.len() / 3 * 4 + 6);
    out.push('"');
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call<'static> {
        Call {
            operation: "chat",
            model: "a\"b",
            stream: true,
            body: b"{}",
            attempt: 0,
            now_unix_ms: 5_000,
            seed: 255,
            drops: "",
            requires_completion_tokens: false,
        }
    }

    #[test]
    fn chunks_and_answers_are_json_in_openais_form() {
        let head =
            r#"{"id":"chatcmpl-00000000000000ff","created":5,"model":"a\"b","object":"chat.completion"#;
        let check = |text: &[u8], rest: &str| {
            assert_eq!(std::str::from_utf8(text).unwrap(), format!("{head}{rest}"));
            serde_json::from_slice::<serde_json::Value>(text).unwrap();
        };
        let usage = Usage { input: Some(2), output: Some(3), reasoning: Some(1), ..Usage::default() };
        let counts = r#"{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5,"completion_tokens_details":{"reasoning_tokens":1}}"#;
        let mut answer = ChatAnswer::new(&call());
        let first = r#".chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"x"},"finish_reason":null}]}"#;
        check(answer.delta(&[("content", "\"x\"")]), first);
        check(answer.finish("stop"), r#".chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        check(answer.usage(&usage), &format!(".chunk\",\"choices\":[],\"usage\":{counts}}}"));
        let whole = answer.whole(&[("content", "null")], &[("finish_reason", "\"length\"")], &usage);
        let rest = r#"","choices":[{"index":0,"message":{"role":"assistant","content":null},"finish_reason":"length"}],"usage":"#;
        check(whole, &format!("{rest}{counts}}}"));
    }

    #[test]
    fn floats_are_base64_as_python_reads_them() {
        // base64.b64encode(struct.pack("<2f", 1.0, -0.5)) and of three floats.
        assert_eq!(base64_floats(&[1.0, -0.5]), "\"AACAPwAAAL8=\"");
        assert_eq!(base64_floats(&[1.0]), "\"AACAPw==\"");
        assert_eq!(base64_floats(&[1.0, 2.0, 3.0]), "\"AACAPwAAAEAAAEBA\"");
        let answer = embeddings("m", &["[1,2]", "\"AA==\""], 7);
        let expected = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1,2]},{"object":"embedding","index":1,"embedding":"AA=="}],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}"#;
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
    }
}
