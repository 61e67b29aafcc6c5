//! Moonshot: the Kimi models, in OpenAI's format with fixed sampling values and usage inside a choice.
//!
//! Source: platform.kimi.ai, kimi.com's error reference and @ai-sdk/moonshotai 2.0.61, read 2026-10/11.

#![deny(unsafe_code)] // Not `forbid`: the export macro at the foot writes the plugin's one symbol.

use provider_api::{
    Call, Config, Event, Fault, FaultKind, FaultScope, HttpRequest, Out, Provider, Reply, Usage,
    error::public_text,
    openai::{self, Edit},
    request::elements,
};
use serde::Deserialize;
use serde_json::value::RawValue;

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
        let thinking = thinking(call.model, edit.value("thinking"));
        if call.model.starts_with("kimi-k2.7") && switched_off(edit.value("thinking")) {
            // This one always thinks.
            edit.drop_field("thinking");
        }
        let free = matches!(edit.value("tool_choice"), None | Some("\"auto\"" | "\"none\""));
        if call.model.starts_with("kimi-k2") && !free {
            edit.drop_field("tool_choice");
        }
        if thinking {
            fill_reasoning(&mut edit, call);
        }
        Ok(edit.request(HttpRequest::post(url)))
    }

    fn response(&self, _state: &mut (), reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        answer(reply.body, out)
    }

    fn event(&self, _state: &mut (), event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        answer(&event.data, out)
    }

    fn fault(&self, reply: &Reply<'_>) -> Fault {
        understood(openai::fault(reply))
    }
}

/// Whether the model thinks in this call, and so wants its earlier thoughts back.
fn thinking(model: &str, switch: Option<&str>) -> bool {
    let always = ["kimi-k2.7", "kimi-k3", "kimi-k2-thinking"].iter().any(|start| model.starts_with(start));
    let usually = model.starts_with("kimi-k2.5") || model.starts_with("kimi-k2.6");
    always || (usually && !switched_off(switch))
}

fn switched_off(switch: Option<&str>) -> bool {
    #[derive(Deserialize)]
    struct Switch<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
    }
    let switch = switch.and_then(|text| serde_json::from_str::<Switch<'_>>(text).ok());
    switch.is_some_and(|switch| switch.kind == "disabled")
}

/// A turn with tool calls but without its `reasoning_content` is a 400 for a model that thinks. A space
/// is taken in its place; clients that talk OpenAI's format drop the field.
fn fill_reasoning<'a>(edit: &mut Edit<'a>, call: &Call<'a>) {
    #[derive(Deserialize)]
    struct Turn<'m> {
        #[serde(borrow)]
        role: Option<&'m RawValue>,
        #[serde(borrow)]
        tool_calls: Option<Vec<&'m RawValue>>,
        #[serde(borrow, default, deserialize_with = "present")]
        reasoning_content: Option<&'m RawValue>,
    }
    let Some(messages) = edit.value("messages") else { return };
    let Ok(messages) = elements(call.body, messages) else { return };
    for (span, message) in messages {
        let Ok(turn) = serde_json::from_str::<Turn<'_>>(message.get()) else { continue };
        let assistant = turn.role.is_some_and(|role| role.get() == "\"assistant\"");
        if !assistant || turn.tool_calls.is_none_or(|calls| calls.is_empty()) {
            continue;
        }
        match turn.reasoning_content.map(RawValue::get) {
            None => edit.replace(span.end - 1..span.end - 1, r#","reasoning_content":" ""#),
            Some(empty @ ("null" | "\"\"")) => {
                let start = empty.as_ptr() as usize - call.body.as_ptr() as usize;
                edit.replace(start..start + empty.len(), "\" \"");
            }
            Some(_) => {}
        }
    }
}

/// Keeps `null` apart from an absent member: only the latter has no place in the text.
fn present<'de, D: serde::Deserializer<'de>>(de: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(de).map(Some)
}

/// A whole answer or an event: forwarded as it stands, with its usage reported, unless it is an error.
fn answer(json: &[u8], out: &mut Out<'_, '_>) -> Result<(), Fault> {
    if let Some(fault) = openai::fault_in_answer(json) {
        return Err(understood(fault));
    }
    if let Some(usage) = usage(json) {
        out.usage(usage);
    }
    out.pass();
    Ok(())
}

/// Usage stands at the top level, or in the choice that finishes the stream; the top level counts.
fn usage(json: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
        #[serde(borrow)]
        choices: Option<Vec<Choice<'a>>>,
    }
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
    }
    let answer: Answer<'_> = serde_json::from_slice(json).ok()?;
    let inner = || answer.choices?.into_iter().find_map(|choice| choice.usage);
    answer.usage.or_else(inner).map(|usage| openai::usage(usage.get()))
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
