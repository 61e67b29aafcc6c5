//! Z.ai: the GLM models, in OpenAI's format with its own finish reasons and business error codes.
//!
//! Source: docs.z.ai and docs.bigmodel.cn (read 2025-10 to 2026-10), zai-rs 0.6.0, litellm 1.109.1.

#![deny(unsafe_code)] // Not `forbid`: the export macro at the foot writes the plugin's one symbol.

use provider_api::{
    Call, Config, Event, Fault, HttpRequest, Out, Provider, Reply,
    openai::{self, Edit},
};

mod answer;
mod errors;

/// The provider.
pub struct Zai {
    base: String,
}

impl Provider for Zai {
    type State = ();

    const MANIFEST: &'static str = concat!(
        r#"{"schema":1,"api":"1.0","id":"zai","name":"Z.ai","version":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","license":""#,
        env!("CARGO_PKG_LICENSE"),
        r#"","homepage":"https://docs.z.ai","operations":["chat"],"#,
        r#""dialect":{"request":"openai","response":"openai","stream":"openai"},"#,
        r#""stream":{"usage":"always","wake":["\"error\"","\"sensitive\"","\"network_error\"","#,
        r#""\"model_context_window_exceeded\"","\"arguments\":{","\"arguments\": {"]},"offer":"listed","#,
        r#""auth":{"kind":"bearer","env":["ZAI_API_KEY"]},"#,
        r#""base_url":"https://api.z.ai/api/paas/v4"}"#,
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
        edit.rename("max_completion_tokens", "max_tokens");
        if !matches!(edit.value("tool_choice"), None | Some("\"auto\"")) {
            edit.drop_field("tool_choice");
        }
        keep_one_stop(&mut edit);
        let latest = call.model.to_ascii_lowercase().starts_with("glm-5.3");
        if latest && edit.kind("thinking").as_deref() == Some("disabled") {
            // This generation always thinks; `disabled` is a 400.
            edit.drop_field("thinking");
        }
        if !latest && edit.kind("response_format").as_deref() == Some("json_schema") {
            // The older ones know only that the answer is JSON, not which.
            edit.set("response_format", r#"{"type":"json_object"}"#);
            edit.name_dropped("response_format");
        }
        Ok(edit.request(HttpRequest::post(url)))
    }

    fn response(&self, _state: &mut (), reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        let rewritten = answer::read(reply.body, out)?;
        match rewritten {
            Some(body) => out.done(&body),
            None => out.pass(),
        }
        Ok(())
    }

    fn event(&self, _state: &mut (), event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        let rewritten = answer::read(&event.data, out)?;
        match rewritten {
            Some(chunk) => out.chunk(&chunk),
            None => out.pass(),
        }
        Ok(())
    }

    fn fault(&self, reply: &Reply<'_>) -> Fault {
        errors::fault(reply)
    }
}

/// Only the first stop string is taken.
fn keep_one_stop(edit: &mut Edit<'_>) {
    let Some(stops) = edit.value("stop") else { return };
    let Ok(stops) = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(stops) else { return };
    if let [first, _, ..] = stops.as_slice() {
        edit.set("stop", &format!("[{}]", first.get()));
        edit.name_dropped("stop");
    }
}

provider_api::export_provider!(Zai);
