//! What `sigoE` prints: the answer as it comes, the JSON line, and what went wrong.

use std::{
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::ask::{Answer, Failure};

/// What is said of the question in the JSON line.
pub(super) struct Asked {
    /// As it was given.
    pub(super) model: String,
    /// Whether the answer is to be one line of JSON.
    pub(super) json: bool,
    pub(super) at: SystemTime,
    pub(super) started: Instant,
}

/// Standard output, to which an answer is written in pieces.
pub(super) struct Screen {
    terminal: bool,
    written: bool,
    /// Why nothing more can be written.
    broken: Option<io::Error>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), written: false, broken: None }
    }

    /// Writes a piece at once.
    pub(super) fn say(&mut self, text: &str) -> ControlFlow<()> {
        self.written |= !text.is_empty();
        let mut out = io::stdout().lock();
        let written = match self.terminal {
            true => out.write_all(shown(text).as_bytes()),
            false => out.write_all(text.as_bytes()),
        };
        match written.and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.broken = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Ends the line of an answer, or of what there is of it.
    ///
    /// # Errors
    /// Something could not be written; a reader that left early is none.
    pub(super) fn finish(mut self, whole: bool) -> io::Result<()> {
        if self.broken.is_none() && (whole || self.written) {
            let _ = self.say("\n");
        }
        match self.broken {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

/// An answer may not steer the terminal: control characters other than line ends and tabs are shown as
/// what they are.
fn shown(text: &str) -> String {
    let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t' | '\r');
    text.chars().map(|c| if plain(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// One line of JSON: the original's members, then ours.
#[derive(Serialize)]
struct Line<'a> {
    model: &'a str,
    pid: u32,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(flatten)]
    cost: Option<Cost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// Tokens, under OpenAI's names.
#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    cached_tokens: u64,
    reasoning_tokens: u64,
    /// Whether nobody counted.
    estimated: bool,
}

#[derive(Serialize)]
struct Cost {
    /// `null` if the price is unknown.
    cost_usd: Option<f64>,
}

impl<'a> Line<'a> {
    fn new(asked: &'a Asked) -> Self {
        Self {
            model: &asked.model,
            pid: std::process::id(),
            timestamp: asked.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            prompt: None,
            response: "",
            error: None,
            duration_ms: u64::try_from(asked.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            finish_reason: None,
            usage: None,
            cost: None,
            error_type: None,
            status: None,
            retry_after: None,
        }
    }

    fn text(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// The JSON line of an answer.
pub(super) fn line(asked: &Asked, prompt: &str, answer: &Answer) -> String {
    let total = answer.total;
    let usage = Usage {
        prompt_tokens: total.input_tokens,
        completion_tokens: total.output_tokens,
        total_tokens: total.input_tokens + total.output_tokens,
        cached_tokens: total.cached_input_tokens,
        reasoning_tokens: total.reasoning_tokens,
        estimated: total.estimated,
    };
    Line {
        prompt: Some(prompt),
        response: &answer.text,
        finish_reason: answer.finish_reason.as_deref(),
        usage: Some(usage),
        cost: Some(Cost { cost_usd: total.cost_usd }),
        ..Line::new(asked)
    }
    .text()
}

/// The JSON line of a failure.
pub(super) fn failed_line(asked: &Asked, failure: &Failure) -> String {
    Line {
        error: Some(&failure.message),
        error_type: Some(failure.kind.name()),
        status: failure.status,
        retry_after: seconds(failure),
        ..Line::new(asked)
    }
    .text()
}

/// Says on stderr what went wrong.
pub(super) fn complain(failure: &Failure) {
    let mut text = format!("\nError [{}]: {}\n", failure.kind.name(), shown(&failure.message));
    if let Some(status) = failure.status {
        text += &format!("HTTP status: {status}\n");
    }
    if let Some(hint) = failure.kind.hint() {
        text += &format!("Hint: {hint}\n");
    }
    if let Some(seconds) = seconds(failure) {
        text += &format!("Retry-After: {seconds} seconds\n");
    }
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Rounded up, as the header is.
fn seconds(failure: &Failure) -> Option<u64> {
    failure.retry_after.map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0))
}
