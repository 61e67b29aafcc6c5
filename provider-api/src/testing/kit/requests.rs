//! What goes to the upstream: only where the manifest says, only what a plugin may set.

use super::{Bench, Case, Found, Miss, Outcome, Runner, calm, ensure, kind_name, wire};
use crate::{
    abi::FaultKind,
    exchange::Begin,
    http::GATEWAY_HEADERS,
    testing::{Request, kit::manifest::origin},
};

pub(super) fn checks(runner: &mut Runner<'_>, bench: &Bench<'_>) {
    runner.check("requests: allowed", || allowed(bench));
    runner.check("requests: any body", || any_body(bench));
    runner.check("requests: unknown operation", || unknown_operation(bench));
}

fn allowed(bench: &Bench<'_>) -> Found {
    if !bench.upstream {
        return Err(Miss::Skipped("it sends no requests".into()));
    }
    let mut asked = Vec::new();
    for stream in [false, true] {
        let case = bench.question(stream);
        let exchange = bench
            .start(&case)
            .map_err(|fault| format!("a short question is refused ({}): {fault}", kind_name(fault.kind)))?;
        for request in exchange.requests() {
            request_is_fine(bench, request)?;
        }
        asked
            .extend(exchange.requests().first().map(|request| format!("{} {}", request.method, request.url)));
    }
    asked.dedup();
    Ok(asked.join(", "))
}

fn request_is_fine(bench: &Bench<'_>, request: &Request) -> Result<(), Miss> {
    let Request { method, url, headers, body } = request;
    ensure(!method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase()), || {
        format!("the method {method:?} is none")
    })?;
    let target = origin(url).ok_or_else(|| format!("{url:?} is not an absolute http or https URL"))?;
    let base =
        if bench.manifest.base_url.is_empty() { "http://127.0.0.1:9" } else { &bench.manifest.base_url };
    let named = std::iter::once(base).chain(bench.manifest.egress.iter().map(String::as_str));
    // The author's own settings may name another address.
    let own = bench.driver.manifest.base_url.is_empty();
    ensure(own || named.filter_map(origin).any(|known| known == target), || {
        format!("it asks for {target}, which is neither the base URL's origin nor in `egress`")
    })?;
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let key = bench
            .manifest
            .auth
            .as_ref()
            .is_some_and(|auth| auth.kind == "header" && auth.name.eq_ignore_ascii_case(name));
        let key = key || lower == "authorization";
        ensure(!key && !GATEWAY_HEADERS.contains(&lower.as_str()), || {
            format!("the header `{name}` is the gateway's to set")
        })?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&byte);
        let plain = !name.is_empty() && name.bytes().all(token) && !value.chars().any(char::is_control);
        ensure(plain, || format!("the header {name:?}: {value:?} cannot be sent"))?;
    }
    let json = headers.iter().any(|(name, value)| name == "content-type" && value.contains("json"));
    let broken = json && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err();
    ensure(!broken, || "the body says that it is JSON, but it is not".into())
}

/// Calls that a gateway would refuse, and strange ones that it would not.
fn any_body(bench: &Bench<'_>) -> Found {
    let nested = wire::nested(10_000);
    let long = "x".repeat(1 << 20);
    let bodies: Vec<Vec<u8>> = [
        "",
        " ",
        "{}",
        "[]",
        "null",
        "7",
        "{",
        "<html>",
        r#"{"messages":null}"#,
        r#"{"messages":7,"input":7}"#,
        r#"{"messages":[],"input":[]}"#,
        r#"{"messages":[null,7,"x",[],{}],"input":[null,{}]}"#,
        r#"{"messages":[{"role":7,"content":7},{"role":"user"},{"role":"x","content":null}]}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}},{"type":"y"},{},7]}]}"#,
        r#"{"messages":[{"role":"tool","tool_call_id":"none","content":"x"},{"role":"assistant","tool_calls":[{}]}]}"#,
        r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":-1,"temperature":"hot","tools":7,"stop":{},"n":0}"#,
        r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":1e400,"seed":123456789012345678901234567890}"#,
    ]
    .iter()
    .map(|body| body.as_bytes().to_vec())
    .chain([
        b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}".to_vec(),
        format!(r#"{{"messages":[{{"role":"user","content":"x"}}],"tools":{nested}}}"#).into_bytes(),
        format!(r#"{{"messages":{nested},"input":{nested}}}"#).into_bytes(),
        format!(r#"{{"messages":[{{"role":"user","content":"{long}"}}],"input":"{long}"}}"#).into_bytes(),
    ])
    .collect();
    let mut served = 0;
    for body in &bodies {
        for stream in [false, true] {
            let Case { operation, model, .. } = bench.question(stream);
            let begin = Begin { operation, model: &model, stream, body, ..bench.driver.call() };
            let outcome = match bench.driver.begin(&begin) {
                Ok(exchange) => exchange.finish(),
                Err(fault) => Outcome { fault: Some(fault), ..Outcome::default() },
            };
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
            calm(&outcome, &format!("asked {shown:?}"))?;
            served += usize::from(outcome.fault.is_none());
        }
    }
    Ok(format!("{} strange calls, {served} of them served, no panic", bodies.len() * 2))
}

fn unknown_operation(bench: &Bench<'_>) -> Found {
    let begin = Begin { operation: "no-such-operation", body: b"{}", model: "x", ..bench.driver.call() };
    match bench.driver.begin(&begin) {
        Err(fault) if fault.kind == FaultKind::UNSUPPORTED => Ok("refused as unsupported".into()),
        Err(fault) => {
            Err(Miss::Failed(format!("refused as {} instead of UNSUPPORTED: {fault}", kind_name(fault.kind))))
        }
        Ok(_) => Err(Miss::Failed("it is served; refuse it with FaultKind::UNSUPPORTED".into())),
    }
}
