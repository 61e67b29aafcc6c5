//! DeepSeek: OpenAI's format with a switch for thinking, which its models do unless told otherwise.
//!
//! Source: api-docs.deepseek.com (read 2026-10-27), @ai-sdk/deepseek 2.0.69, litellm 1.109.1.

#![deny(unsafe_code)] // Not `forbid`: the export macro at the foot writes the plugin's one symbol.

use provider_api::{
    Call, Config, Event, Fault, FaultKind, HttpRequest, Out, Provider, Reply,
    error::public_text,
    openai::{self, Edit},
};
use serde::Deserialize;

/// The finish reason of an answer that broke off because the servers are busy.
const BROKEN_OFF: &str = "insufficient_system_resource";

/// The provider.
pub struct DeepSeek {
    base: String,
}

impl Provider for DeepSeek {
    type State = ();

    const MANIFEST: &'static str = concat!(
        r#"{"schema":1,"api":"1.0","id":"deepseek","name":"DeepSeek","version":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","license":""#,
        env!("CARGO_PKG_LICENSE"),
        r#"","homepage":"https://api-docs.deepseek.com","operations":["chat"],"#,
        r#""dialect":{"request":"openai","response":"openai","stream":"openai"},"#,
        r#""stream":{"usage":"option","wake":["\"error\"","insufficient_system_resource"]},"offer":"listed","#,
        // A request that waits for its turn is kept for ten minutes.
        r#""timeouts":{"request_secs":600,"stream_idle_secs":600},"#,
        r#""auth":{"kind":"bearer","env":["DEEPSEEK_API_KEY"]},"#,
        r#""base_url":"https://api.deepseek.com"}"#,
        "\n",
        include_str!("../models.csv"),
    );

    fn new(config: &Config) -> Result<Self, Fault> {
        Ok(Self { base: config.base_url().to_owned() })
    }

    fn request(&self, call: &Call<'_>, _state: &mut ()) -> Result<HttpRequest, Fault> {
        if call.operation != "chat" {
            let text = format!("deepseek cannot do `{}`; it has chat", call.operation);
            return Err(Fault::new(FaultKind::UNSUPPORTED, text));
        }
        let mut edit = Edit::new(call)?;
        edit.model_row(call);
        edit.developer_to_system();
        edit.rename("max_completion_tokens", "max_tokens");
        if edit.value("thinking").is_none() && edit.value("reasoning_effort") == Some("\"none\"") {
            edit.drop_quietly("reasoning_effort");
            edit.set("thinking", r#"{"type":"disabled"}"#);
        } else if let Some(effort) = edit.value("reasoning_effort").and_then(effort) {
            edit.set("reasoning_effort", effort);
        }
        if edit.kind("thinking").as_deref() != Some("disabled") {
            edit.fill_reasoning();
        }
        Ok(edit.request(HttpRequest::post(format!("{}/chat/completions", self.base))))
    }

    fn response(&self, _state: &mut (), reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        complete(reply.body)?;
        openai::pass(reply.body, out, understood)
    }

    fn event(&self, _state: &mut (), event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        complete(&event.data)?;
        openai::pass(&event.data, out, understood)
    }

    fn fault(&self, reply: &Reply<'_>) -> Fault {
        understood(openai::fault(reply))
    }
}

/// OpenAI's efforts that DeepSeek has no word for.
fn effort(value: &str) -> Option<&'static str> {
    match value {
        "\"minimal\"" => Some("\"low\""),
        "\"medium\"" | "\"xhigh\"" => Some("\"high\""),
        _ => None,
    }
}

/// An answer that says that it broke off is none.
fn complete(json: &[u8]) -> Result<(), Fault> {
    #[derive(Deserialize)]
    struct Answer {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        finish_reason: Option<String>,
    }
    let answer = serde_json::from_slice(json).unwrap_or(Answer { choices: Vec::new() });
    if answer.choices.iter().any(|choice| choice.finish_reason.as_deref() == Some(BROKEN_OFF)) {
        let text = "the answer broke off because the provider's servers are busy";
        return Err(Fault::new(FaultKind::OVERLOADED, text));
    }
    Ok(())
}

/// An error's words without what no caller may see.
fn understood(mut fault: Fault) -> Fault {
    fault.message = public_text(&fault.message);
    fault
}

provider_api::export_provider!(DeepSeek);
