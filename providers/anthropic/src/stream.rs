//! Anthropic's events as OpenAI's chunks. Its blocks come one after another, each between a start and a stop.

use std::borrow::Cow;

use provider_api::{
    Call, Fault, Out,
    answer::{ChatAnswer, quoted},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    answer::{THOUGHTS, Tokens, finish_reason, unreadable},
    errors,
};

/// A chat whose answer comes in events.
pub struct Stream {
    form: ChatAnswer,
    tokens: Tokens,
    reason: &'static str,
    /// Tool calls so far.
    calls: usize,
    /// The tool call that is open.
    call: Option<Open>,
    /// The open thought, as the inside of a JSON string: its signature is worth nothing without it.
    thought: String,
}

/// Longest thought that is handed out with its signature; a longer one cannot be sent back.
const MAX_THOUGHT_BYTES: usize = 1 << 20;

/// A tool call between its start and its stop.
struct Open {
    /// The block's place in Anthropic's answer.
    block: u64,
    /// Its place among the tool calls.
    place: usize,
    /// The arguments, as long as no part of them came by itself.
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    index: u64,
    message: Option<Start>,
    #[serde(borrow)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Start {
    #[serde(default)]
    usage: Tokens,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// Of a block, or (with `stop_reason`) of the message.
#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    signature: Option<&'a RawValue>,
    #[serde(borrow)]
    partial_json: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Option<Cow<'a, str>>,
}

/// A text worth handing on: neither absent nor empty.
fn some(text: Option<&RawValue>) -> Option<&str> {
    text.map(RawValue::get).filter(|text| text.starts_with('"') && *text != "\"\"")
}

impl Stream {
    /// For the answer to this call.
    pub fn new(call: &Call<'_>) -> Self {
        Self {
            form: ChatAnswer::new(call),
            tokens: Tokens::default(),
            reason: "stop",
            calls: 0,
            call: None,
            thought: String::new(),
        }
    }

    /// One event. Those with names that nobody knows yet are passed over, as Anthropic asks for.
    pub fn event(&mut self, data: &[u8], out: &mut Out<'_, '_>) -> Result<(), Fault> {
        // Checked once as a whole, which is faster than string by string.
        let text = std::str::from_utf8(data).map_err(|error| unreadable(&error))?;
        let event: Wire<'_> = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        match event.kind.as_ref() {
            "message_start" => {
                // Nothing is handed out yet: an error that comes now can be tried again.
                self.tokens.update(event.message.map(|start| start.usage).unwrap_or_default());
                out.usage(self.tokens.usage());
            }
            "content_block_start" => {
                if let Some(block) = event.content_block {
                    self.open(event.index, block.get(), out)?;
                }
            }
            "content_block_delta" => {
                if let Some(delta) = &event.delta {
                    self.delta(event.index, delta, out);
                }
            }
            "content_block_stop" => self.close(event.index, out),
            "message_delta" => {
                if let Some(reason) = event.delta.and_then(|delta| delta.stop_reason) {
                    self.reason = finish_reason(&reason);
                }
                self.tokens.update(event.usage.unwrap_or_default());
                out.usage(self.tokens.usage());
            }
            "message_stop" => self.end(out),
            "error" => {
                let unknown = || Fault::upstream("the upstream's stream ended in an error without words");
                return Err(errors::in_answer(data).unwrap_or_else(unknown));
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, block: u64, raw: &str, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        let read: Block<'_> = serde_json::from_str(raw).map_err(|error| unreadable(&error))?;
        match read.kind.as_ref() {
            "text" => self.text("content", read.text, out),
            "thinking" => {
                self.thought.clear();
                self.think(read.thinking, out);
            }
            "redacted_thinking" => {
                out.chunk(self.form.delta(&[(THOUGHTS, &format!("[{raw}]"))]));
            }
            "tool_use" => {
                let place = self.calls;
                self.calls += 1;
                let (id, name) = (read.id.unwrap_or_default(), read.name.unwrap_or_default());
                let call = format!(
                    r#"[{{"index":{place},"id":{},"type":"function","function":{{"name":{},"arguments":""}}}}]"#,
                    quoted(&id),
                    quoted(&name)
                );
                out.chunk(self.form.delta(&[("tool_calls", &call)]));
                let arguments = Some(read.input.map_or("{}", RawValue::get).to_owned());
                self.call = Some(Open { block, place, arguments });
            }
            // What Anthropic's own tools do is in the text behind it.
            _ => {}
        }
        Ok(())
    }

    fn delta(&mut self, block: u64, delta: &Delta<'_>, out: &mut Out<'_, '_>) {
        match delta.kind.as_ref() {
            "text_delta" => self.text("content", delta.text, out),
            "thinking_delta" => self.think(delta.thinking, out),
            "signature_delta" => {
                let whole = self.thought.len() <= MAX_THOUGHT_BYTES;
                let text = std::mem::take(&mut self.thought);
                if let Some(signature) = some(delta.signature).filter(|_| whole) {
                    let thought =
                        format!(r#"[{{"type":"thinking","thinking":"{text}","signature":{signature}}}]"#);
                    out.chunk(self.form.delta(&[(THOUGHTS, &thought)]));
                }
            }
            "input_json_delta" => {
                let Some(call) = self.call.as_mut().filter(|call| call.block == block) else { return };
                let Some(part) = some(delta.partial_json) else { return };
                call.arguments = None;
                let place = call.place;
                self.arguments(place, part, out);
            }
            _ => {}
        }
    }

    fn close(&mut self, block: u64, out: &mut Out<'_, '_>) {
        let Some(call) = self.call.take_if(|call| call.block == block) else { return };
        if let Some(whole) = call.arguments {
            self.arguments(call.place, &quoted(&whole), out);
        }
    }

    fn think(&mut self, text: Option<&RawValue>, out: &mut Out<'_, '_>) {
        if let Some(more) = some(text).filter(|_| self.thought.len() <= MAX_THOUGHT_BYTES) {
            self.thought.push_str(&more[1..more.len() - 1]);
        }
        self.text("reasoning_content", text, out);
    }

    fn text(&mut self, name: &str, text: Option<&RawValue>, out: &mut Out<'_, '_>) {
        if let Some(text) = some(text) {
            out.chunk(self.form.delta(&[(name, text)]));
        }
    }

    /// A part of a tool call's arguments, as a JSON string.
    fn arguments(&mut self, place: usize, part: &str, out: &mut Out<'_, '_>) {
        let call = format!(r#"[{{"index":{place},"function":{{"arguments":{part}}}}}]"#);
        out.chunk(self.form.delta(&[("tool_calls", &call)]));
    }

    fn end(&mut self, out: &mut Out<'_, '_>) {
        out.chunk(self.form.finish(self.reason));
        let usage = self.tokens.usage();
        out.usage(usage);
        // Callers who did not ask for it do not get it.
        out.chunk(self.form.usage(&usage));
        out.done(b"");
    }
}
