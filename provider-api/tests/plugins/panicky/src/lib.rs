//! A plugin for tests: panics where the setting `panic` says (`new`, `request`, `event`, `response`,
//! `drop`), and counts its exchanges so that loaded copies can be told apart.

#![deny(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use provider_api::{Call, Config, Event, Fault, HttpRequest, Out, Provider, Reply};

/// How many exchanges this copy of the code began.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// The provider; holds the place to panic at.
pub struct Panicky(String);

impl Panicky {
    fn at(&self, place: &str) {
        assert!(self.0 != place, "asked to panic in {place}");
    }
}

impl Drop for Panicky {
    fn drop(&mut self) {
        self.at("drop");
    }
}

impl Provider for Panicky {
    type State = ();
    const MANIFEST: &'static str = r#"{
        "schema": 1, "id": "panicky", "name": "Panicky", "version": "1.0.0", "license": "MIT", "api": "1.0",
        "operations": ["chat"],
        "base_url": "https://panicky.example",
        "config": {"type": "object", "properties": {"panic": {"type": "string"}}},
        "models": [{"shortcode": "panicky", "id": "panicky"}]
    }"#;

    fn new(config: &Config) -> Result<Self, Fault> {
        let provider = Self(config.setting("panic")?.unwrap_or_default());
        assert!(provider.0 != "new", "asked to panic in new");
        Ok(provider)
    }

    fn request(&self, call: &Call<'_>, _state: &mut ()) -> Result<HttpRequest, Fault> {
        self.at("request");
        let begun = BEGUN.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(HttpRequest::post("https://panicky.example").header("x-begun", begun.to_string()).forward(call))
    }

    fn response(&self, _state: &mut (), _reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        self.at("response");
        out.pass();
        Ok(())
    }

    fn event(&self, _state: &mut (), event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        self.at("event");
        match &*event.data {
            b"[DONE]" => out.done(b""),
            data => out.chunk(data),
        }
        Ok(())
    }
}

provider_api::export_provider!(Panicky);
