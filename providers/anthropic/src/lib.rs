//! Anthropic's Messages API: OpenAI's chats as its messages, its blocks and events as OpenAI's answers.
//!
//! Source: anthropic 2.12.0 (PyPI), platform.claude.com and litellm 1.109.1, read 2026-11-23.

#![deny(unsafe_code)] // Not `forbid`: the export macro at the foot writes the plugin's one symbol.

use std::collections::HashMap;

use provider_api::{Call, Config, Event, Fault, FaultKind, HttpRequest, Out, Provider, Reply, model};

mod answer;
mod content;
mod errors;
mod message;
mod request;
mod stream;
mod thinking;

use answer::Whole;
use stream::Stream;

const MODELS: &str = include_str!("../models.csv");

/// Where a model's own limit is not known, this is below all of them.
const DEFAULT_MAX_TOKENS: u64 = 4096;

/// The provider.
pub struct Anthropic {
    url: String,
    /// What is sent as `max_tokens`, which must be there, if the caller sets no limit.
    max_tokens: Option<u64>,
    /// The most that each model can answer.
    limits: HashMap<String, u64>,
}

/// What an exchange remembers.
#[derive(Default)]
pub enum State {
    /// Nothing yet.
    #[default]
    New,
    /// The answer comes as a whole.
    Whole(Whole),
    /// It comes in events.
    Stream(Box<Stream>),
}

impl Provider for Anthropic {
    type State = State;

    const MANIFEST: &'static str = concat!(
        r#"{"schema":1,"api":"1.0","id":"anthropic","name":"Anthropic","version":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","license":""#,
        env!("CARGO_PKG_LICENSE"),
        r#"","homepage":"https://platform.claude.com","operations":["chat"],"#,
        r#""stream":{"usage":"always"},"offer":"listed","#,
        r#""auth":{"kind":"header","name":"x-api-key","env":["ANTHROPIC_API_KEY"]},"#,
        r#""base_url":"https://api.anthropic.com","#,
        r#""config":{"type":"object","properties":{"max_tokens":{"type":"integer","minimum":1,"#,
        r#""description":"Most tokens of an answer whose caller sets no limit; else all that the model can"}}}}"#,
        "\n",
        include_str!("../models.csv"),
    );

    fn new(config: &Config) -> Result<Self, Fault> {
        let base = config.base_url();
        let version = if base.ends_with("/v1") { "" } else { "/v1" };
        let models = model::models_from_csv(MODELS)
            .map_err(|error| Fault::new(FaultKind::INTERNAL, error.to_string()))?;
        let max_tokens: Option<u64> = config.setting("max_tokens")?;
        if max_tokens == Some(0) {
            return Err(Fault::bad_request("the setting `max_tokens` must be at least 1"));
        }
        Ok(Self {
            url: format!("{base}{version}/messages"),
            max_tokens,
            limits: models.into_iter().filter_map(|row| Some((row.id, row.max_output_tokens?))).collect(),
        })
    }

    fn request(&self, call: &Call<'_>, state: &mut State) -> Result<HttpRequest, Fault> {
        if call.operation != "chat" {
            let text = format!("anthropic cannot do `{}`; it has chat", call.operation);
            return Err(Fault::new(FaultKind::UNSUPPORTED, text));
        }
        let own = || self.limits.get(call.model).copied().unwrap_or(DEFAULT_MAX_TOKENS);
        let body = request::body(call, self.max_tokens.unwrap_or_else(own))?;
        *state = match call.stream {
            true => State::Stream(Box::new(Stream::new(call))),
            false => State::Whole(Whole::new(call)),
        };
        let mut request =
            HttpRequest::post(self.url.as_str()).header("anthropic-version", "2023-06-01").json(body.text);
        request.dropped = body.dropped;
        Ok(request)
    }

    fn response(&self, state: &mut State, reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        match state {
            State::Whole(whole) => whole.answer(reply.body, out),
            _ => Err(Fault::new(FaultKind::INTERNAL, "a whole answer that was not asked for")),
        }
    }

    fn event(&self, state: &mut State, event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        match state {
            State::Stream(stream) => stream.event(&event.data, out),
            _ => Err(Fault::new(FaultKind::INTERNAL, "a stream that was not asked for")),
        }
    }

    fn fault(&self, reply: &Reply<'_>) -> Fault {
        errors::fault(reply)
    }
}

provider_api::export_provider!(Anthropic);
