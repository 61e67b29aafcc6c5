//! Anthropic's errors: `{"type":"error","error":{"type","message"}}`, under a status or inside a stream.

use provider_api::{Fault, FaultKind, FaultScope, Reply, error::public_text, openai};

/// What an answer with an error's status means.
pub fn fault(reply: &Reply<'_>) -> Fault {
    understood(openai::fault(reply))
}

/// What an error where the status said 200 means; `None` if it is none.
pub fn in_answer(json: &[u8]) -> Option<Fault> {
    openai::fault_in_answer(json).map(understood)
}

/// A caller's field that cannot be translated.
pub fn wrong(param: &str, text: impl Into<String>) -> Fault {
    Fault::bad_request(text).detail("invalid_request_error", Some(param), None)
}

fn understood(mut fault: Fault) -> Fault {
    let text = fault.message.to_ascii_lowercase();
    // An empty account is a 400, a spent limit a 403 or 429: no sibling key of the account helps.
    let spent = ["credit balance is too low", "spend limit", "usage limits"];
    if matches!(fault.status, 400 | 403 | 429) && spent.iter().any(|words| text.contains(words)) {
        (fault.kind, fault.scope) = (FaultKind::QUOTA, FaultScope::ACCOUNT);
    }
    if fault.kind == FaultKind::CONTEXT_LENGTH {
        fault = fault.detail("invalid_request_error", Some("messages"), Some("context_length_exceeded"));
    }
    fault.message = public_text(&fault.message);
    fault
}
