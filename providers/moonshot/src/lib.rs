//! Moonshot: the Kimi models, in OpenAI's format with fixed sampling values and usage inside a choice.
//!
//! Source: platform.kimi.ai, kimi.com's error reference and @ai-sdk/moonshotai 2.0.61, read 2026-10/11.

#![deny(unsafe_code)] // Not `forbid`: the export macro at the foot writes the plugin's one symbol.

use provider_api::{
    Call, Config, Event, Fault, FaultKind, FaultScope, HttpRequest, Out, Provider, Reply,
    error::public_text,
    openai::{self, Edit},
};

/// An overloaded engine wants a longer wait than a rate limit, and does not say how long.
const OVERLOAD_WAIT_MS: u64 = 2000;

/// The provider.
pub struct Moonshot {
    base: String,
}

impl Provider for Moonshot {
    type State = ();

    const MANIFEST: &'static str = concat!(
        r#"{"schema":1,"api":"1.0","id":"moonshot","name":"Moonshot","version":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","license":""#,
        env!("CARGO_PKG_LICENSE"),
        r#"","homepage":"https://platform.kimi.ai","operations":["chat"],"#,
        r#""dialect":{"request":"openai","response":"openai","stream":"openai"},"#,
        r#""stream":{"usage":"option","wake":["\"usage\"","\"error\""]},"offer":"listed","#,
        r#""auth":{"kind":"bearer","env":["MOONSHOT_API_KEY"]},"#,
        r#""base_url":"https://api.moonshot.ai/v1"}"#,
        "\n",
        include_str!("../models.csv"),
    );

    fn new(config: &Config) -> Result<Self, Fault> {
        Ok(Self { base: config.base_url().to_owned() })
    }

    fn request(&self, call: &Call<'_>, _state: &mut ()) -> Result<HttpRequest, Fault> {
        let url = format!("{}{}", self.base, openai::path(call.operation)?);
        let mut edit = Edit::new(call)?;
        edit.model_row(call);
        edit.developer_to_system();
        let switched_off = edit.kind("thinking").as_deref() == Some("disabled");
        if call.model.starts_with("kimi-k2.7") && switched_off {
            // This one always thinks.
            edit.drop_field("thinking");
        }
        let free = matches!(edit.value("tool_choice"), None | Some("\"auto\"" | "\"none\""));
        if call.model.starts_with("kimi-k2") && !free {
            edit.drop_field("tool_choice");
        }
        if thinks(call.model, switched_off) {
            edit.fill_reasoning();
        }
        Ok(edit.request(HttpRequest::post(url)))
    }

    fn response(&self, _state: &mut (), reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        openai::pass(reply.body, out, understood)
    }

    fn event(&self, _state: &mut (), event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        openai::pass(&event.data, out, understood)
    }

    fn fault(&self, reply: &Reply<'_>) -> Fault {
        understood(openai::fault(reply))
    }
}

/// Whether the model thinks in this call, and so wants its earlier thoughts back.
fn thinks(model: &str, switched_off: bool) -> bool {
    let always = ["kimi-k2.7", "kimi-k3", "kimi-k2-thinking"].iter().any(|start| model.starts_with(start));
    let usually = model.starts_with("kimi-k2.5") || model.starts_with("kimi-k2.6");
    always || (usually && !switched_off)
}

/// Reads what only Moonshot says.
fn understood(mut fault: Fault) -> Fault {
    // The help centre files an empty balance under 403.
    if fault.kind == FaultKind::AUTH && fault.message.to_ascii_lowercase().contains("insufficient balance") {
        fault.kind = FaultKind::QUOTA;
        fault.scope = FaultScope::ACCOUNT;
    }
    let overloaded = fault.kind == FaultKind::RATE_LIMIT && fault.scope == FaultScope::MODEL;
    if overloaded && fault.retry_after_ms == 0 {
        fault.retry_after_ms = OVERLOAD_WAIT_MS;
    }
    fault.message = public_text(&fault.message);
    fault
}

provider_api::export_provider!(Moonshot);
