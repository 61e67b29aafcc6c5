//! Whole answers and errors: each status becomes the fault that a gateway can act on.

use super::{Answer, Bench, Case, Found, Miss, Outcome, Runner, calm, ensure, form, kind_name, seen, wire};
use crate::abi::FaultKind;

/// Statuses with the kinds that fit them, the usual one first.
const STATUSES: [(u16, &[FaultKind]); 14] = [
    (302, &[FaultKind::UPSTREAM, FaultKind::DECODE]),
    (400, &[FaultKind::BAD_REQUEST]),
    (401, &[FaultKind::AUTH]),
    (402, &[FaultKind::QUOTA]),
    (403, &[FaultKind::AUTH, FaultKind::QUOTA]),
    (404, &[FaultKind::NOT_FOUND]),
    (408, &[FaultKind::TIMEOUT, FaultKind::OVERLOADED]),
    (413, &[FaultKind::BAD_REQUEST, FaultKind::CONTEXT_LENGTH]),
    (422, &[FaultKind::BAD_REQUEST]),
    (429, &[FaultKind::RATE_LIMIT, FaultKind::OVERLOADED]),
    (500, &[FaultKind::UPSTREAM]),
    (502, &[FaultKind::UPSTREAM]),
    (503, &[FaultKind::OVERLOADED, FaultKind::UPSTREAM]),
    (529, &[FaultKind::OVERLOADED]),
];

pub(super) fn checks(runner: &mut Runner<'_>, bench: &Bench<'_>) {
    for (status, kinds) in STATUSES {
        runner.check(format!("errors: HTTP {status}"), || error(bench, status, kinds));
    }
    runner.check("errors: Retry-After", || retry_after(bench));
    runner.check("errors: no connection", || no_connection(bench));
    runner.check("answers: garbage", || garbage(bench));
    let whole = bench.cases.iter().filter(|case| !case.stream);
    for case in whole {
        runner.check(format!("answer {}: form", case.name), || whole_answer(bench, case));
        runner.check(format!("answer {}: cut anywhere", case.name), || cut(bench, case));
    }
    if bench.cases.iter().all(|case| case.stream) {
        runner.check("answers: whole", || {
            Err(Miss::Skipped(
                "no fixture has one; add fixtures/NAME.upstream.http with a whole answer".into(),
            ))
        });
    }
}

fn error(bench: &Bench<'_>, status: u16, kinds: &[FaultKind]) -> Found {
    let mut found = Vec::new();
    for (kind, body) in [("text/html", wire::HTML), ("application/json", wire::ERROR), ("text/plain", "")] {
        for stream in [false, true] {
            let case = bench.question(stream).answered(Answer::new(status, kind, body));
            let outcome = bench.whole(&case);
            let when = format!("HTTP {status} with {kind}{}", if stream { ", streamed" } else { "" });
            calm(&outcome, &when)?;
            let fault = outcome.fault.ok_or_else(|| format!("{when} is taken for an answer"))?;
            ensure(kinds.contains(&fault.kind), || {
                let kinds: Vec<String> = kinds.iter().map(|kind| kind_name(*kind)).collect();
                format!("{when} became {} instead of {}", kind_name(fault.kind), kinds.join(" or "))
            })?;
            ensure(fault.status == status, || format!("{when}: the fault's status is {}", fault.status))?;
            let lower = fault.message.to_ascii_lowercase();
            ensure(!lower.contains("<html") && !lower.contains("<!doctype"), || {
                format!("{when}: the fault's message is the page; say what the status means")
            })?;
            ensure(!fault.message.trim().is_empty(), || format!("{when}: the fault has no message"))?;
            ensure(outcome.output.is_empty(), || format!("{when}: something was handed to the caller"))?;
            found.push(kind_name(fault.kind));
        }
    }
    found.dedup();
    Ok(found.join(", "))
}

fn retry_after(bench: &Bench<'_>) -> Found {
    // 2026-11-24, 00:00:30: the driver's clock stands at 00:00:00.
    let forms = [
        ("retry-after", "7", 7_000),
        ("retry-after", "Tue, 24 Nov 2026 00:00:30 GMT", 30_000),
        ("retry-after-ms", "250", 250),
        ("retry-after", "soon", u64::MAX),
        ("retry-after", "-5", u64::MAX),
        ("retry-after", "99999999999999999999", u64::MAX),
    ];
    for (name, value, expected) in forms {
        let answer = Answer::new(429, "application/json", wire::ERROR).header(name, value);
        let outcome = bench.whole(&bench.question(true).answered(answer));
        calm(&outcome, &format!("{name}: {value}"))?;
        let found = outcome.fault.map(|fault| fault.retry_after_ms);
        ensure(found == Some(expected) || expected == u64::MAX, || {
            format!("`{name}: {value}` became {found:?} ms instead of {expected}")
        })?;
    }
    Ok("seconds, a date, milliseconds".into())
}

fn no_connection(bench: &Bench<'_>) -> Found {
    for stream in [false, true] {
        let mut exchange = bench.start(&bench.question(stream)).map_err(|fault| fault.message)?;
        if !exchange.is_waiting() {
            continue;
        }
        exchange.fail("the connection was refused");
        let outcome = exchange.finish();
        calm(&outcome, "without a connection")?;
        let fault = outcome.fault.ok_or_else(|| "it goes on without an answer".to_owned())?;
        let fits = [FaultKind::UPSTREAM, FaultKind::TIMEOUT, FaultKind::OVERLOADED].contains(&fault.kind);
        ensure(fits, || format!("it became {} instead of UPSTREAM", kind_name(fault.kind)))?;
    }
    Ok("UPSTREAM".into())
}

/// Answers with status 200 that are none.
fn garbage(bench: &Bench<'_>) -> Found {
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("application/json", Vec::new()),
        ("text/html", wire::HTML.into()),
        ("application/json", b"{\"choices\":\"\xff\xfe\"}".to_vec()),
        ("application/json", b"null".to_vec()),
        ("application/json", b"[]".to_vec()),
        ("application/json", b"{}".to_vec()),
        ("application/json", b"{\"choices\":7,\"message\":7,\"content\":7,\"data\":7,\"usage\":7}".to_vec()),
        ("application/json", format!("{{\"choices\":{}}}", wire::nested(100)).into()),
        ("application/json", wire::nested(10_000).into()),
        ("application/json", format!("{{\"error\":{}}}", wire::nested(10_000)).into()),
        ("application/json", wire::ERROR.into()),
    ];
    let mut operations = vec![bench.operation()];
    operations.extend(["embeddings", "models"].iter().filter(|name| bench.manifest.offers_operation(name)));
    for (kind, body) in &bodies {
        for operation in &operations {
            for stream in [false, *operation == "chat"] {
                let case = Case { operation, ..bench.question(stream) };
                let outcome = bench.whole(&case.answered(Answer::new(200, kind, body.clone())));
                let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
                calm(&outcome, &format!("{operation} answered with {shown:?}"))?;
                let nonsense =
                    kind == &"text/html" && (bench.manifest.dialect.response != "openai" || stream);
                ensure(!nonsense || outcome.fault.is_some(), || {
                    format!("{operation}: a page with status 200 is taken for an answer")
                })?;
            }
        }
    }
    Ok(format!("{} answers that are none, no panic", bodies.len()))
}

fn whole_answer(bench: &Bench<'_>, case: &Case) -> Found {
    let outcome = bench.whole(case);
    calm(&outcome, "whole")?;
    if let Some(fault) = &outcome.fault {
        ensure(case.fixture.is_some(), || format!("it fails: {fault}"))?;
        return Ok(format!("fails with {}: {fault}", kind_name(fault.kind)));
    }
    form::whole(case, &outcome)?;
    if case.fixture.is_none() && bench.upstream {
        built_in(case, &outcome)?;
    }
    Ok(form::summary(&outcome))
}

/// What the kit's own whole answers hold comes through.
fn built_in(case: &Case, outcome: &Outcome) -> Result<(), Miss> {
    let sent: serde_json::Value =
        serde_json::from_slice(case.body_of_first()).map_err(|error| error.to_string())?;
    let got: serde_json::Value =
        serde_json::from_slice(&outcome.output).map_err(|error| error.to_string())?;
    let places: &[&str] = match case.operation {
        "embeddings" => &["/data/0/embedding"],
        _ => &["/choices/0/message/content", "/choices/0/message/tool_calls/0/function"],
    };
    for place in places {
        ensure(sent.pointer(place) == got.pointer(place), || format!("{place} does not come through"))?;
    }
    ensure(sent["usage"]["prompt_tokens"] == got["usage"]["prompt_tokens"], || {
        "`usage` does not come through".into()
    })
}

fn cut(bench: &Bench<'_>, case: &Case) -> Found {
    let body = case.body_of_first();
    let expected = seen(&bench.whole(case));
    for at in super::streams::places(body) {
        let outcome = bench.play(case, &[&body[..at], &body[at..]]);
        ensure(seen(&outcome) == expected, || format!("cut at byte {at} it comes out differently"))?;
    }
    Ok(format!("{} bytes", body.len()))
}
