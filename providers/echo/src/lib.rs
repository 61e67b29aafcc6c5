//! Answers offline with the last user message: the plugin to try a gateway with, and the one to copy
//! when writing another.
//!
//! This file is the provider: its settings and the steps of an exchange. `manifest.json` says what it
//! offers, `request.rs` reads what the caller sent, `words.rs` is the "model". A provider with an
//! upstream has `request` in place of `begin`, and `response` and `event` in place of `timer`.

#![deny(unsafe_code)] // Not `forbid`: the export macro at the foot writes the plugin's one symbol.

mod request;
mod words;

use std::time::Duration;

use provider_api::{
    Call, Config, Fault, FaultKind, Out, Provider, Start, Usage,
    answer::{ChatAnswer, quoted},
};
use request::Chat;

/// Hands out at most this much in one step, so that a long answer neither fills the gateway's buffer
/// nor keeps others waiting.
const STEP_BYTES: usize = 8 << 10;

/// The provider; it has no upstream.
pub struct Echo {
    /// Pause after each word of a streamed answer.
    delay: Duration,
}

impl Provider for Echo {
    type State = Option<Box<Answer>>;
    const MANIFEST: &'static str = include_str!("../manifest.json");

    fn new(config: &Config) -> Result<Self, Fault> {
        let delay_ms: u64 = config.setting("delay_ms")?.unwrap_or(0);
        Ok(Self { delay: Duration::from_millis(delay_ms) })
    }

    /// Nothing is sent anywhere: what the answer will be is decided here, `timer` hands it out.
    fn begin(&self, call: &Call<'_>, state: &mut Self::State) -> Result<Start, Fault> {
        if call.operation != "chat" {
            let text = format!("echo cannot do `{}`; it chats", call.operation);
            return Err(Fault::new(FaultKind::UNSUPPORTED, text));
        }
        *state = Some(Box::new(Answer::new(call)?));
        Ok(Start::Now)
    }

    fn timer(&self, state: &mut Self::State, _id: u64, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        if let Some(answer) = state {
            answer.step(self.delay, out);
        }
        Ok(())
    }
}

/// A chat answer on its way to the caller.
pub struct Answer {
    form: ChatAnswer,
    text: String,
    /// How much of the text was handed out.
    at: usize,
    /// The `tool_calls` member, if the caller wants a tool called.
    tool_calls: Option<String>,
    finish: &'static str,
    usage: Usage,
    stream: bool,
    include_usage: bool,
    ended: bool,
}

impl Answer {
    fn new(call: &Call<'_>) -> Result<Self, Fault> {
        let chat = Chat::parse(call.body)?;
        let mut text = chat.last_user_text()?.into_owned();
        let tool = chat.forced_tool()?;
        let mut finish = "stop";
        let tool_calls = tool.map(|name| {
            finish = "tool_calls";
            text.clear();
            let (id, name) = (quoted(&format!("call_{:016x}", call.seed)), quoted(&name));
            format!(
                "[{{\"index\":0,\"id\":{id},\"type\":\"function\",\"function\":{{\"name\":{name},\"arguments\":\"{{}}\"}}}}]"
            )
        });
        if let Some(end) = words::cut(&text, chat.max_words()) {
            text.truncate(end);
            finish = "length";
        }
        let usage = Usage {
            input: Some(chat.count_words()),
            // A tool call counts as its name and its arguments.
            output: Some(if tool_calls.is_some() { 2 } else { words::count(&text) }),
            ..Usage::default()
        };
        Ok(Self {
            form: ChatAnswer::new(call),
            text,
            at: 0,
            tool_calls,
            finish,
            usage,
            stream: call.stream,
            include_usage: chat.include_usage(),
            ended: false,
        })
    }

    /// Hands out what one step may.
    fn step(&mut self, delay: Duration, out: &mut Out<'_, '_>) {
        if !self.stream {
            return self.whole(out);
        }
        if let Some(calls) = self.tool_calls.take() {
            out.chunk(self.form.delta(&[("tool_calls", &calls)]));
        }
        let mut room = STEP_BYTES;
        while let Some(word) = words::first(&self.text[self.at..]) {
            let chunk = self.form.delta(&[("content", &quoted(word))]);
            self.at += word.len();
            room = room.saturating_sub(chunk.len());
            out.chunk(chunk);
            // A gateway refuses (0) to wait too often in one exchange; then the rest comes at once.
            if out.stopped() || ((room == 0 || !delay.is_zero()) && out.sleep(delay) != 0) {
                return;
            }
        }
        self.end(out);
    }

    fn end(&mut self, out: &mut Out<'_, '_>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        out.chunk(self.form.finish(self.finish));
        out.usage(self.usage);
        if self.include_usage {
            out.chunk(self.form.usage(&self.usage));
        }
        out.done(b"");
    }

    fn whole(&mut self, out: &mut Out<'_, '_>) {
        let finish = quoted(self.finish);
        let choice = [("finish_reason", finish.as_str())];
        // Only chunks number their calls.
        let calls = self.tool_calls.as_deref().map(|calls| calls.replacen("\"index\":0,", "", 1));
        out.usage(self.usage);
        out.done(match &calls {
            Some(calls) => {
                self.form.whole(&[("content", "null"), ("tool_calls", calls)], &choice, &self.usage)
            }
            None => self.form.whole(&[("content", &quoted(&self.text))], &choice, &self.usage),
        });
    }
}

provider_api::export_provider!(Echo);

#[cfg(test)]
mod tests;
