//! What an upstream's answer must be to be taken at all.

use provider_api::{Fault, FaultKind, Usage, openai, request::Members};

use crate::upstream::Response;

pub(super) fn too_large() -> Fault {
    Fault::upstream("the upstream's answer is over 64 MiB")
}

/// We ask for no coding and decode none.
pub(super) fn check_encoding(response: &Response) -> Result<(), Fault> {
    match response.header("content-encoding").unwrap_or("identity").trim() {
        "" | "identity" => Ok(()),
        other => Err(Fault::upstream(format!("the upstream sent the content coding {other:?}, unasked"))),
    }
}

/// Checks that a passing answer is what callers expect, and reads its usage.
pub(super) fn checked_answer(operation: &str, body: &[u8]) -> Result<Usage, Fault> {
    let Ok(members) = Members::parse(body) else {
        return Err(Fault::new(FaultKind::DECODE, "the upstream's answer is not a JSON object"));
    };
    if members.value("error").is_some() {
        let fault = openai::fault_in_answer(body);
        return Err(fault.unwrap_or_else(|| Fault::upstream("the upstream answered with an error")));
    }
    let expected = if operation == "embeddings" { "data" } else { "choices" };
    if !members.value(expected).is_some_and(|value| value.starts_with('[')) {
        let text = format!("the upstream's answer has no `{expected}`");
        return Err(Fault::new(FaultKind::DECODE, text));
    }
    Ok(members.value("usage").map(openai::usage).unwrap_or_default())
}
