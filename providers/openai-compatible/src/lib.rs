//! Any server that speaks OpenAI's format. The operator's settings make providers of it, each with an
//! address, a key and models of its own; without them it serves nothing.
//!
//! Source of the list's fields: vLLM 0.11, llama.cpp's server, Groq's, Mistral's and OpenRouter's pages,
//! as their clients on PyPI and npm read them, 2026-11-24.

#![deny(unsafe_code)] // Not `forbid`: the export macro at the foot writes the plugin's one symbol.

use provider_api::{Call, Config, Fault, HttpRequest, Out, Provider, Reply, Start, openai};

mod models;

/// The provider.
pub struct OpenAiCompatible {
    base: String,
    /// Whether the operator names the models, so that nobody need be asked.
    named: bool,
}

/// Whether an exchange asks for the models.
#[derive(Default)]
pub struct State {
    lists: bool,
}

impl Provider for OpenAiCompatible {
    type State = State;
    const MANIFEST: &'static str = include_str!("../manifest.json");

    fn new(config: &Config) -> Result<Self, Fault> {
        if config.base_url().is_empty() {
            return Err(Fault::bad_request("it has no `base_url`; write one, like \"https://HOST/v1\""));
        }
        Ok(Self { base: config.base_url().to_owned(), named: !config.models().is_empty() })
    }

    fn begin(&self, call: &Call<'_>, state: &mut State) -> Result<Start, Fault> {
        state.lists = call.operation == "models";
        if state.lists && self.named {
            return Ok(Start::Now);
        }
        self.request(call, state).map(Start::Http)
    }

    fn request(&self, call: &Call<'_>, state: &mut State) -> Result<HttpRequest, Fault> {
        match state.lists {
            true => Ok(HttpRequest::get(format!("{}/models", self.base))),
            false => openai::forward(&self.base, call),
        }
    }

    fn timer(&self, _state: &mut State, _id: u64, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        out.done(b"[]");
        Ok(())
    }

    fn response(&self, state: &mut State, reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        if state.lists {
            out.done(&serde_json::to_vec(&models::listed(reply.body)?)?);
        } else {
            out.pass();
        }
        Ok(())
    }
}

provider_api::export_provider!(OpenAiCompatible);
