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
//! # The life of an exchange
//! `begin` builds the request, `START` sends it, `HEAD`, `BODY` and `END` bring the answer, `TIMER` what
//! was asked for with `sleep`. [`Provider`] hides this behind `request`, `response`, `event` and `fault`.
//! Each attempt is a new exchange. A panic anywhere becomes a [`Fault`] of that one request.
//!
//! # The compatibility promise
//! A gateway of API 1.n loads plugins of every 1.m: [`abi`] only ever grows at its ends.

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
