//! OpenAI's format, ready to use: requests with small edits, usage, errors.
//!
//! Source: openai 3.54.0 (PyPI) and the providers' own pages, read 2026-11-23.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    abi::{FaultKind, FaultScope},
    error::Fault,
    event::{Out, Usage},
    http::{HttpRequest, Reply},
    request::Call,
};

mod edit;

pub use edit::Edit;

/// The path of an operation below the base URL.
///
/// # Errors
/// An operation that OpenAI's format does not have.
pub fn path(operation: &str) -> Result<&'static str, Fault> {
    match operation {
        "chat" => Ok("/chat/completions"),
        "embeddings" => Ok("/embeddings"),
        other => {
            let text = format!("the operation `{other}` is not supported by this provider");
            Err(Fault::new(FaultKind::UNSUPPORTED, text))
        }
    }
}

/// The call's request as it stands, with what the model's row asks for: rejected fields left out,
/// `max_tokens` renamed.
///
/// # Errors
/// An unknown operation, or a body that is not a JSON object.
pub fn forward(base: &str, call: &Call<'_>) -> Result<HttpRequest, Fault> {
    let request = HttpRequest::post(format!("{base}{}", path(call.operation)?));
    if call.drops.is_empty() && !call.requires_completion_tokens {
        return Ok(request.forward(call));
    }
    let mut edit = Edit::new(call)?;
    edit.model_row(call);
    Ok(edit.request(request))
}

/// Usage as OpenAI writes it, with the places where others put cached tokens.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: Option<Count>,
    completion_tokens: Option<Count>,
    cached_tokens: Option<Count>,
    prompt_cache_hit_tokens: Option<Count>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<Count>,
    cache_write_tokens: Option<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Option<Count>,
}

/// A number of tokens; negative, fractional or absurd values count as unknown.
#[derive(Debug, Clone, Copy)]
struct Count(Option<u64>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(de)?;
        // No model has seen a trillion tokens in one request.
        Ok(Self(value.as_u64().filter(|count| *count < 1_000_000_000_000)))
    }
}

/// Reads a `usage` object; what cannot be read is unknown.
pub fn usage(json: &str) -> Usage {
    let wire: WireUsage = serde_json::from_str(json).unwrap_or_default();
    let count = |value: Option<Count>| value.and_then(|count| count.0);
    let prompt = wire.prompt_tokens_details.unwrap_or_default();
    Usage {
        input: count(wire.prompt_tokens),
        output: count(wire.completion_tokens),
        cache_read: count(prompt.cached_tokens)
            .or(count(wire.cached_tokens))
            .or(count(wire.prompt_cache_hit_tokens)),
        cache_write: count(prompt.cache_write_tokens),
        cache_write_1h: None,
        reasoning: count(wire.completion_tokens_details.unwrap_or_default().reasoning_tokens),
    }
}

/// The `usage` of an answer or of an event, at the top or, as Moonshot has it, in a choice; the top counts.
pub fn usage_in(json: &[u8]) -> Option<Usage> {
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
    answer.usage.or_else(inner).map(|value| usage(value.get()))
}

/// Hands a whole answer or an event on as it stands and reports its usage, unless it is an error: then
/// `understood` may say more than [`fault_in_answer`] about what that means.
///
/// # Errors
/// The error.
pub fn pass(
    json: &[u8],
    out: &mut Out<'_, '_>,
    understood: impl FnOnce(Fault) -> Fault,
) -> Result<(), Fault> {
    if let Some(fault) = fault_in_answer(json) {
        return Err(understood(fault));
    }
    if let Some(usage) = usage_in(json) {
        out.usage(usage);
    }
    out.pass();
    Ok(())
}

/// An error as upstreams write it: `{"error":{…}}`, `{"error":"text"}`, `{"detail":…}`, `{"message":…}`.
#[derive(Debug, Default)]
pub struct WireError<'a> {
    /// For people.
    pub message: Cow<'a, str>,
    /// OpenAI's `type`.
    pub kind: String,
    /// OpenAI's `param`.
    pub param: Option<String>,
    /// OpenAI's `code`, numbers as text.
    pub code: Option<String>,
}

impl WireError<'_> {
    /// Reads an error body; `None` if it is JSON without an error, or no JSON at all.
    pub fn parse(body: &[u8]) -> Option<WireError<'static>> {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let text = |value: Option<&serde_json::Value>| match value {
            Some(serde_json::Value::String(text)) => Some(text.clone()),
            Some(serde_json::Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let error = value.get("error").filter(|error| !error.is_null());
        let plain = |message: String| WireError { message: Cow::Owned(message), ..WireError::default() };
        match error {
            Some(serde_json::Value::Object(error)) => Some(WireError {
                message: Cow::Owned(text(error.get("message")).unwrap_or_default()),
                kind: text(error.get("type")).unwrap_or_default(),
                param: text(error.get("param")),
                code: text(error.get("code")),
            }),
            Some(error) => Some(plain(text(Some(error)).unwrap_or_else(|| error.to_string()))),
            None if value.get("choices").is_some() || value.get("data").is_some() => None,
            None => text(value.get("detail")).or_else(|| text(value.get("message"))).map(plain),
        }
    }
}

/// What the words of an error say about money rather than speed. Source: the clients of OpenAI,
/// LiteLLM (Mammouth) and Moonshot.
fn is_quota(kind: &str, code: &str) -> bool {
    const WORDS: [&str; 6] = [
        "insufficient_quota",
        "budget_exceeded",
        "exceeded_current_quota_error",
        "credit_balance_exhausted",
        "billing_error",
        "billing_hard_limit_reached",
    ];
    [kind, code].iter().any(|word| {
        WORDS.contains(word)
            || word.ends_with("spend_limit_exceeded")
            || word.ends_with("usage_limit_exceeded")
    })
}

/// Phrases with which upstreams say that the prompt is too long.
const CONTEXT_PHRASES: [&str; 12] = [
    "context_length_exceeded",
    "context length exceeded",
    "context window exceeded",
    "maximum context length",
    "token limit exceeded",
    "exceeded model token limit",
    "input token length too long",
    "prompt is too long",
    "too many tokens",
    "context limit",
    "maximum token",
    "exceeds the context window",
];

/// Says what an answer that is not the expected one means, reading its body as OpenAI's error form.
pub fn fault(reply: &Reply<'_>) -> Fault {
    let error = WireError::parse(reply.body);
    let (kind, scope) = classify(reply.status, error.as_ref());
    let error = error.unwrap_or_else(|| WireError {
        message: Cow::Owned(format!(
            "the upstream answered HTTP {} with {}",
            reply.status,
            reply.header("content-type").unwrap_or("no content type")
        )),
        ..WireError::default()
    });
    let mut fault = Fault::new(kind, error.message).status(reply.status).detail(
        &error.kind,
        error.param.as_deref(),
        error.code.as_deref(),
    );
    fault.scope = scope.unwrap_or(fault.scope);
    fault.retry_after_ms = reply.retry_after_ms().unwrap_or(0);
    fault
}

/// An error inside an answer with status 200: a whole one, or an event of a stream. `None` if there is
/// none. Which status it would have had is read from its `code` or, in words, from its `type`.
pub fn fault_in_answer(body: &[u8]) -> Option<Fault> {
    let status = status_in_answer(body)?;
    let reply = Reply { id: 1, status, headers: &[], body, now_unix_ms: 0 };
    Some(fault(&reply).status(0))
}

/// The status that an error inside an answer would have had by itself; `None` if there is no error.
pub(crate) fn status_in_answer(body: &[u8]) -> Option<u16> {
    let error = WireError::parse(body)?;
    let code = error.code.as_deref().unwrap_or("");
    let status = code.parse().ok().filter(|status| (400..600).contains(status));
    Some(status.unwrap_or_else(|| implied_status(&error.kind, code)))
}

fn implied_status(kind: &str, code: &str) -> u16 {
    const WORDS: [(&str, u16); 10] = [
        ("authentication", 401),
        ("api_key", 401),
        ("permission", 403),
        ("not_found", 404),
        ("rate_limit", 429),
        ("engine_overloaded", 429),
        ("overloaded", 503),
        ("invalid_request", 400),
        ("content_", 400),
        ("context_length", 400),
    ];
    if is_quota(kind, code) {
        return 429;
    }
    let found = WORDS.iter().find(|(word, _)| kind.contains(word) || code.contains(word));
    found.map_or(500, |(_, status)| *status)
}

fn classify(status: u16, error: Option<&WireError<'_>>) -> (FaultKind, Option<FaultScope>) {
    let empty = WireError::default();
    let error = error.unwrap_or(&empty);
    let code = error.code.as_deref().unwrap_or("");
    let lower = error.message.to_ascii_lowercase();
    let too_long =
        || code == "context_length_exceeded" || CONTEXT_PHRASES.iter().any(|text| lower.contains(text));
    let filtered = || {
        let words = [error.kind.as_str(), code];
        words.iter().any(|word| word.starts_with("content_filter") || word.starts_with("content_policy"))
    };
    let kind = match status {
        401 | 403 => FaultKind::AUTH,
        402 => FaultKind::QUOTA,
        404 => FaultKind::NOT_FOUND,
        408 | 504 => FaultKind::TIMEOUT,
        // LiteLLM's older versions answer 400 for a spent budget.
        400 | 429 if is_quota(&error.kind, code) => FaultKind::QUOTA,
        429 => FaultKind::RATE_LIMIT,
        409 | 425 => FaultKind::UPSTREAM,
        _ if (status < 300 || (400..500).contains(&status)) && too_long() => FaultKind::CONTEXT_LENGTH,
        _ if (status < 300 || (400..500).contains(&status)) && filtered() => FaultKind::CONTENT_FILTER,
        400..=499 => FaultKind::BAD_REQUEST,
        503 | 529 => FaultKind::OVERLOADED,
        _ => FaultKind::UPSTREAM,
    };
    let engine = error.kind == "engine_overloaded_error";
    (kind, engine.then_some(FaultScope::MODEL))
}

/// Turns what [`fault`] made of a whole answer into the fault of a stream that never came.
pub(crate) fn not_a_stream(mut fault: Fault) -> Fault {
    if fault.kind == FaultKind::UPSTREAM && fault.detail.is_empty() {
        fault.message = "the upstream answered with a whole body where a stream was due".into();
    }
    fault
}

/// A plugin for an upstream that speaks OpenAI's format, in about five lines.
///
/// `models` is a table embedded in the file, see [`crate::model::models_from_csv`].
#[macro_export]
macro_rules! openai_compat {
    (id: $id:literal, name: $name:literal, base_url: $base:literal, key_env: $key:literal, models: $models:literal $(,)?) => {
        /// The provider.
        pub struct Compat {
            base: String,
        }

        impl $crate::Provider for Compat {
            type State = ();
            const MANIFEST: &'static str = concat!(
                r#"{"schema":1,"api":"1.0","id":""#,
                $id,
                r#"","name":""#,
                $name,
                r#"","version":""#,
                env!("CARGO_PKG_VERSION"),
                r#"","license":""#,
                env!("CARGO_PKG_LICENSE"),
                r#"","operations":["chat","embeddings"],"#,
                r#""dialect":{"request":"openai","response":"openai","stream":"openai"},"#,
                r#""stream":{"usage":"option"},"auth":{"kind":"bearer","env":[""#,
                $key,
                r#""]},"base_url":""#,
                $base,
                "\"}\n",
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $models)),
            );

            fn new(config: &$crate::Config) -> Result<Self, $crate::Fault> {
                Ok(Self { base: config.base_url().to_owned() })
            }

            fn request(
                &self,
                call: &$crate::Call<'_>,
                _state: &mut (),
            ) -> Result<$crate::HttpRequest, $crate::Fault> {
                $crate::openai::forward(&self.base, call)
            }
        }

        $crate::export_provider!(Compat);
    };
}
