//! Mammouth: a LiteLLM proxy in front of the models of many vendors, in OpenAI's format.
//!
//! Source: info.mammouth.ai and the answers of api.mammouth.ai, read 2026-02 to 2026-10; the forms of
//! LiteLLM's errors from litellm 1.109.1.

#![deny(unsafe_code)] // Not `forbid`: the export macro at the foot writes the plugin's one symbol.

use provider_api::{
    Call, Config, Event, Fault, FaultKind, FaultScope, HttpRequest, Out, Provider, Reply,
    error::public_text,
    openai::{self, Edit, WireError},
};

/// The provider.
pub struct Mammouth {
    base: String,
}

impl Provider for Mammouth {
    type State = ();

    const MANIFEST: &'static str = concat!(
        r#"{"schema":1,"api":"1.0","id":"mammouth","name":"Mammouth","version":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","license":""#,
        env!("CARGO_PKG_LICENSE"),
        r#"","homepage":"https://mammouth.ai","operations":["chat","embeddings"],"#,
        r#""dialect":{"request":"openai","response":"openai","stream":"openai"},"#,
        r#""stream":{"usage":"option","wake":["\"error\""]},"offer":"listed","#,
        r#""auth":{"kind":"bearer","env":["MAMMOUTH_API_KEY"]},"#,
        r#""base_url":"https://api.mammouth.ai/v1"}"#,
        "\n",
        include_str!("../models.csv"),
    );

    fn new(config: &Config) -> Result<Self, Fault> {
        Ok(Self { base: config.base_url().to_owned() })
    }

    fn request(&self, call: &Call<'_>, _state: &mut ()) -> Result<HttpRequest, Fault> {
        if call.operation != "chat" || speaks_developer(call.model) {
            return openai::forward(&self.base, call);
        }
        let mut edit = Edit::new(call)?;
        edit.model_row(call);
        edit.developer_to_system();
        Ok(edit.request(HttpRequest::post(format!("{}/chat/completions", self.base))))
    }

    fn response(&self, _state: &mut (), reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        pass(reply.body, out)
    }

    fn event(&self, _state: &mut (), event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        pass(&event.data, out)
    }

    fn fault(&self, reply: &Reply<'_>) -> Fault {
        let error = WireError::parse(reply.body).unwrap_or_default();
        understood(openai::fault(reply), &error)
    }
}

/// OpenAI's own models know the role `developer`; LiteLLM hands it on to the others, which refuse it.
fn speaks_developer(model: &str) -> bool {
    let mut rest = model.strip_prefix('o').unwrap_or("").bytes();
    model.starts_with("gpt-")
        || model.starts_with("chatgpt-")
        || rest.next().is_some_and(|b| b.is_ascii_digit())
}

/// LiteLLM also reports failures inside answers whose head said 200.
fn pass(json: &[u8], out: &mut Out<'_, '_>) -> Result<(), Fault> {
    openai::pass(json, out, |fault| understood(fault, &WireError::parse(json).unwrap_or_default()))
}

/// Reads what only LiteLLM says, and cleans the words that a caller may see.
fn understood(mut fault: Fault, error: &WireError<'_>) -> Fault {
    let text = error.message.as_ref();
    let class = text.strip_prefix("litellm.").and_then(|rest| rest.split([':', ' ']).next()).unwrap_or("");
    let meant = match class {
        "ContextWindowExceededError" => Some(FaultKind::CONTEXT_LENGTH),
        "ContentPolicyViolationError" => Some(FaultKind::CONTENT_FILTER),
        "Timeout" => Some(FaultKind::TIMEOUT),
        // The vendor refused the proxy's key, not ours.
        "AuthenticationError" | "PermissionDeniedError" => Some(FaultKind::UPSTREAM),
        _ if text.contains("ExceededBudget") || text.contains("Budget has been exceeded") => {
            Some(FaultKind::QUOTA)
        }
        _ if text.contains("Invalid model name passed in model=") => Some(FaultKind::NOT_FOUND),
        _ => None,
    };
    if let Some(kind) = meant.filter(|kind| *kind != fault.kind) {
        fault.kind = kind;
        fault.scope = Fault::new(kind, "").scope;
    }
    // All keys of one account share its budget: no sibling key helps.
    if fault.kind == FaultKind::QUOTA {
        fault.scope = FaultScope::ACCOUNT;
    }
    fault.message = public_text(plain(&fault.message));
    fault
}

/// The vendor's own words, without what LiteLLM wraps around them.
fn plain(text: &str) -> &str {
    const TAILS: [&str; 5] = [
        ". Received Model Group=",
        " Received Model Group=",
        "\nReceived Model Group=",
        " Available Model Group Fallbacks=",
        " LiteLLM Retried: ",
    ];
    let end = TAILS.iter().filter_map(|tail| text.find(tail)).min().unwrap_or(text.len());
    let mut text = text[..end].trim();
    while let Some((class, rest)) = text.split_once(": ") {
        let wrapper = class.starts_with("litellm.") && !class.contains(' ');
        if !wrapper {
            break;
        }
        text = rest.trim_start();
    }
    match text.split_once(" - ") {
        Some((class, rest)) if class.ends_with("Exception") && !class.contains(' ') => rest.trim_start(),
        _ => text,
    }
}

provider_api::export_provider!(Mammouth);
