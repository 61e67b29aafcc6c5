//! Ollama over its native API, which can do more than its OpenAI form: the context's size, keep-alive,
//! thinking, and no defaults in place of the model's own.
//!
//! Source: Ollama 0.33.0, docs/api.md and its server, read 2026-11-23.

#![deny(unsafe_code)] // Not `forbid`: the export macro at the foot writes the plugin's one symbol.

mod answer;
mod embed;
mod message;
mod models;
mod request;

use answer::Chat;
use embed::Embed;
use models::Discovery;
use provider_api::{Call, Config, Event, Fault, FaultKind, Framing, HttpRequest, Out, Provider, Reply};

/// The provider.
pub struct Ollama {
    base: String,
}

/// What an exchange remembers.
#[derive(Default)]
pub enum State {
    /// Nothing yet.
    #[default]
    New,
    /// A chat.
    Chat(Box<Chat>),
    /// Embeddings.
    Embed(Embed),
    /// The models on this machine.
    Models(Discovery),
}

impl Provider for Ollama {
    type State = State;
    const MANIFEST: &'static str = include_str!("../manifest.json");
    const FRAMING: Framing = Framing::Lines;

    fn new(config: &Config) -> Result<Self, Fault> {
        Ok(Self { base: config.base_url().to_owned() })
    }

    fn request(&self, call: &Call<'_>, state: &mut State) -> Result<HttpRequest, Fault> {
        match call.operation {
            "chat" => {
                *state = State::Chat(Box::new(Chat::new(call)));
                request::chat(&self.base, call)
            }
            "embeddings" => {
                *state = State::Embed(Embed::new(call)?);
                embed::request(&self.base, call)
            }
            "models" => {
                *state = State::Models(Discovery::default());
                Ok(HttpRequest::get(format!("{}/api/tags", self.base)))
            }
            other => {
                let text = format!("ollama cannot do `{other}`; it has chat, embeddings and models");
                Err(Fault::new(FaultKind::UNSUPPORTED, text))
            }
        }
    }

    fn response(&self, state: &mut State, reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        match state {
            State::New => Err(Fault::new(FaultKind::INTERNAL, "an answer without a request")),
            State::Chat(chat) => chat.whole(reply.body, out),
            State::Embed(embed) => embed.answer(reply.body, out),
            State::Models(discovery) => discovery.answer(&self.base, reply, out),
        }
    }

    fn event(&self, state: &mut State, event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        match state {
            State::Chat(chat) => chat.row(&event.data, out),
            _ => Err(Fault::new(FaultKind::INTERNAL, "a stream that was not asked for")),
        }
    }

    /// A model whose facts cannot be had is offered without them.
    fn failed(&self, state: &mut State, reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        match state {
            State::Models(discovery) => discovery.next(&self.base, out),
            _ => Err(self.fault(reply)),
        }
    }
}

provider_api::export_provider!(Ollama);

#[cfg(test)]
mod tests;
