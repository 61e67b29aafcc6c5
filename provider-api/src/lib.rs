//! Write a model provider for the sigoREST gateway: bytes in, bytes out.
//!
//! A provider is a state machine without I/O. The gateway owns sockets, TLS, keys, timeouts and
//! retries; a provider says which HTTP request to send and what the answer means. What it is given and
//! what it gives back is OpenAI's chat JSON, as bytes.
//!
//! ```
//! use provider_api::{Call, Config, Fault, HttpRequest, Provider};
//!
//! /// A backend that speaks OpenAI's format under its own path.
//! struct Acme {
//!     base: String,
//! }
//!
//! impl Provider for Acme {
//!     type State = ();
//!     const MANIFEST: &'static str = r#"{
//!         "schema": 1, "id": "acme", "name": "Acme", "version": "1.0.0", "license": "MIT", "api": "1.0",
//!         "operations": ["chat"],
//!         "dialect": {"request": "openai", "response": "openai", "stream": "openai"},
//!         "auth": {"kind": "bearer", "env": ["ACME_API_KEY"]},
//!         "base_url": "https://api.acme.example/v1",
//!         "models": [{"shortcode": "acme-1", "id": "acme-large-1"}]
//!     }"#;
//!
//!     fn new(config: &Config) -> Result<Self, Fault> {
//!         Ok(Self { base: config.base_url().to_owned() })
//!     }
//!
//!     fn request(&self, call: &Call<'_>, _state: &mut ()) -> Result<HttpRequest, Fault> {
//!         Ok(HttpRequest::post(format!("{}/chat/completions", self.base)).forward(call))
//!     }
//! }
//!
//! provider_api::export_provider!(Acme);
//! ```
//!
//! # Start
//! `sigoREST plugin new acme` writes a crate with this as its one dependency, with fixtures and a test that
//! tries all a gateway relies on ([`testing::conformance`]); `sigoREST plugin check FILE` does the same with
//! the built file. An upstream that speaks OpenAI's format takes five lines, [`openai_compat!`]; where it is
//! an operator's own, no code at all, but a `[provider.NAME]` section with `plugin = "openai-compatible"`.
//! All of an author's code can be under `#![deny(unsafe_code)]`.
//!
//! # The life of an exchange
//! Each attempt to answer a caller is a new exchange with a new [`Provider::State`].
//!
//! | the gateway | calls | which may |
//! |---|---|---|
//! | has a call | [`Provider::request`] (or [`Provider::begin`]) | build the upstream's request, or refuse |
//! | sends it with the key | | |
//! | got a whole answer, status below 300 | [`Provider::response`] | [`Out::done`] with the caller's answer, or [`Out::pass`] |
//! | got an event of a stream | [`Provider::event`] | hand out [`Out::chunk`]s, [`Out::usage`], [`Out::done`] |
//! | got an answer with status 300 or more | [`Provider::fault`] | say what it means |
//! | reached the end of a stream that was not done | [`Provider::end`] | fail, which is the default |
//! | is at a timer that [`Out::sleep`] asked for | [`Provider::timer`] | go on |
//! | got the answer to a further [`Out::http`] | [`Provider::response`], or [`Provider::failed`] | go on |
//!
//! A caller may leave at any point: then the exchange is dropped. None of these waits or does I/O, and all
//! of it is a function of what it is given: the clock is [`Call::now_unix_ms`], the randomness
//! [`Call::seed`]. So a recorded exchange can be played again on any version (`sigoREST plugin replay`).
//!
//! Where the manifest's `dialect` says that the upstream speaks OpenAI's format, answers go past the
//! provider byte for byte, except for stream events that hold one of `stream.wake`'s texts.
//!
//! # Faults
//! An error is a [`Fault`]: its kind decides what the gateway does (retry elsewhere, rest a key, tell the
//! caller), its scope how far that reaches. [`openai::fault`] reads status, `Retry-After` and the usual
//! error bodies. A panic becomes a fault of that one request.
//!
//! # A translator
//! A whole provider for an upstream with a format of its own, and one exchange with it:
//!
//! ```
//! use provider_api::{
//!     Call, Config, Event, Fault, HttpRequest, Out, Provider, Reply, Usage,
//!     answer::{ChatAnswer, quoted},
//!     openai,
//!     serde_json::{Value, from_slice, json},
//!     testing::Driver,
//! };
//!
//! struct Acme(String);
//!
//! impl Provider for Acme {
//!     type State = ChatAnswer;
//!     const MANIFEST: &'static str = r#"{
//!         "schema": 1, "id": "acme", "name": "Acme", "version": "1.0.0", "license": "MIT", "api": "1.0",
//!         "operations": ["chat"], "stream": {"usage": "always"},
//!         "auth": {"kind": "header", "name": "x-acme-key", "env": ["ACME_API_KEY"]},
//!         "base_url": "https://api.acme.example"
//!     }"#;
//!
//!     fn new(config: &Config) -> Result<Self, Fault> {
//!         Ok(Self(config.base_url().to_owned()))
//!     }
//!
//!     fn request(&self, call: &Call<'_>, answer: &mut ChatAnswer) -> Result<HttpRequest, Fault> {
//!         openai::path(call.operation)?; // Refuses what it does not know.
//!         *answer = ChatAnswer::new(call);
//!         let body: Value = from_slice(call.body)?;
//!         let native = json!({"model": call.model, "lines": body["messages"], "stream": call.stream});
//!         Ok(HttpRequest::post(format!("{}/generate", self.0)).json(native.to_string()))
//!     }
//!
//!     fn response(&self, answer: &mut ChatAnswer, reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
//!         let body: Value = from_slice(reply.body)?;
//!         let text = quoted(body["text"].as_str().ok_or_else(|| Fault::upstream("no `text`"))?);
//!         out.done(answer.whole(&[("content", &text)], &[("finish_reason", "\"stop\"")], &Usage::default()));
//!         Ok(())
//!     }
//!
//!     fn event(&self, answer: &mut ChatAnswer, event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
//!         let body: Value = from_slice(&event.data)?;
//!         if let Some(text) = body["text"].as_str() {
//!             out.chunk(answer.delta(&[("content", &quoted(text))]));
//!         }
//!         if body["end"] == true {
//!             out.chunk(answer.finish("stop"));
//!             out.usage(Usage { output: body["tokens"].as_u64(), ..Usage::default() });
//!             out.done(b"");
//!         }
//!         Ok(())
//!     }
//! }
//!
//! provider_api::export_provider!(Acme);
//!
//! let driver = Driver::new::<Acme>("{}").unwrap();
//! let exchange = driver.chat("acme-1", r#"{"messages":[]}"#, true, &[]).unwrap();
//! assert_eq!(exchange.request().url, "https://api.acme.example/generate");
//! let stream = b"data: {\"text\":\"Hi\"}\n\ndata: {\"end\":true,\"tokens\":1}\n\n";
//! let outcome = exchange.answer(200, &[("content-type", "text/event-stream")], &[stream]);
//! assert!(outcome.text().contains(r#""content":"Hi""#) && outcome.text().ends_with("data: [DONE]\n\n"));
//! assert_eq!((outcome.usage.output, outcome.fault), (Some(1), None));
//! ```
//!
//! # The compatibility promise
//! This crate's version is the ABI's, apart from the gateway's. A gateway of API 1.n loads plugins of every
//! 1.m, newer and older ones, whatever compiler built them: [`abi`] only ever grows at its ends, and a test
//! compares it with a committed layout. Default methods may be added to [`Provider`], which never crosses.
//! Another major version is refused in words. Depend on `provider-api = "1"`.

pub mod abi;
pub mod answer;
pub mod error;
pub mod event;
pub mod exchange;
mod guard;
pub mod http;
#[cfg(feature = "loader")]
pub mod loader;
pub mod model;
pub mod openai;
pub mod provider;
pub mod request;
pub mod sse;
pub mod testing;

pub use abi::{FaultKind, FaultScope};
pub use error::Fault;
pub use event::{Event, Framing, Out, Usage};
pub use http::{HttpRequest, Part, Reply};
pub use model::{Manifest, Model};
pub use provider::{Config, Provider, Start};
pub use request::Call;

/// The JSON that everything here is made of, so that authors need no other dependency. With
/// `#[serde(crate = "provider_api::serde")]` the derives work too.
pub use {serde, serde_json};

/// What the export macro needs; not for authors.
#[doc(hidden)]
pub mod __private {
    pub use abi_stable::{
        StableAbi,
        library::{__call_root_module_loader as call_root, CheckTypeLayout, LibHeader, RootModuleResult},
        prefix_type::PrefixTypeTrait,
        std_types::{RResult, RSlice, RStr},
    };
    /// The compiler that builds this crate, as `rustc --version` says it.
    pub const RUSTC: &str = env!("PROVIDER_API_RUSTC");
    /// The target triple.
    pub const TARGET: &str = env!("PROVIDER_API_TARGET");
    /// The version of this crate, which is the version of the ABI.
    pub const VERSION: &str = env!("CARGO_PKG_VERSION");
}
