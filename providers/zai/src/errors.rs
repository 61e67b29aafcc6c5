//! Business error codes, which stand beside the HTTP status and say more than it.
//!
//! Source: docs.z.ai/api-reference/api-code and zai-rs 0.6.0, read 2026-10.

use provider_api::{
    Fault, FaultKind, FaultScope, Reply,
    error::public_text,
    openai::{self, WireError},
};

/// What an answer with a status of 300 or more means.
pub(crate) fn fault(reply: &Reply<'_>) -> Fault {
    let code = WireError::parse(reply.body).and_then(|error| error.code).unwrap_or_default();
    understood(openai::fault(reply), &code)
}

/// An error where the status says 200: a whole answer or an event of a stream.
pub(crate) fn in_answer(json: &[u8]) -> Option<Fault> {
    let error = WireError::parse(json)?;
    let fault = openai::fault_in_answer(json)?;
    Some(understood(fault, error.code.as_deref().unwrap_or_default()))
}

fn understood(mut fault: Fault, code: &str) -> Fault {
    if let Some(kind) = meaning(code) {
        let scope = match code {
            // The model's servers are busy; others may not be.
            "1305" => FaultScope::MODEL,
            // Something is wrong with the account: its other keys fail as well.
            "1110" | "1111" | "1112" | "1120" | "1121" => FaultScope::ACCOUNT,
            _ => Fault::new(kind, "").scope,
        };
        (fault.kind, fault.scope) = (kind, scope);
        let words = match kind {
            FaultKind::CONTEXT_LENGTH => Some(("messages", "context_length_exceeded")),
            FaultKind::CONTENT_FILTER => Some(("messages", "content_filter")),
            FaultKind::NOT_FOUND => Some(("model", "model_not_found")),
            _ => None,
        };
        if let Some((param, code)) = words {
            fault = fault.detail("invalid_request_error", Some(param), Some(code));
        }
    }
    fault.message = public_text(&fault.message);
    fault
}

/// The kind of a business code; `None` leaves it to the HTTP status.
fn meaning(code: &str) -> Option<FaultKind> {
    let known = match code.parse::<u16>().ok()? {
        1000..=1005 | 1110..=1112 | 1120 | 1121 | 1220 => FaultKind::AUTH,
        // 1113 is an empty account or a coding plan's key; 1308 to 1321 are the plans' quotas and rules.
        1113 | 1308..=1321 => FaultKind::QUOTA,
        1211 => FaultKind::NOT_FOUND,
        1210 | 1212..=1215 | 1221 | 1222 | 1231 | 1400..=1499 => FaultKind::BAD_REQUEST,
        1261 => FaultKind::CONTEXT_LENGTH,
        1300 | 1301 => FaultKind::CONTENT_FILTER,
        1302 | 1303 | 1305 => FaultKind::RATE_LIMIT,
        500 | 1200 | 1230 | 1234 => FaultKind::UPSTREAM,
        _ => return None,
    };
    Some(known)
}
