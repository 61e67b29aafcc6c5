//! Streams: the same wherever they are cut, a fault if they break off, calm whatever is in them.

use super::{Bench, Case, Found, Miss, Outcome, Runner, calm, ensure, form, kind_name, seen, wire};
use crate::{abi::FaultKind, exchange::Input, sse, testing::fixture::transcript};

/// Streams up to this size are cut at every byte; of longer ones, about as many places are tried.
const EVERY_BYTE: usize = 8 << 10;

pub(super) fn checks(runner: &mut Runner<'_>, bench: &Bench<'_>) {
    for case in bench.cases.iter().filter(|case| case.stream) {
        let name = &case.name;
        runner.check(format!("stream {name}: form"), || told(bench, case));
        if case.streams() {
            runner.check(format!("stream {name}: cut anywhere"), || cut(bench, case));
            runner.check(format!("stream {name}: truncated"), || truncated(bench, case));
            runner.check(format!("stream {name}: unknown events"), || unknown(bench, case));
            runner.check(format!("stream {name}: not UTF-8"), || not_utf8(bench, case));
            runner.check(format!("stream {name}: 1 MB event"), || large(bench, case));
            runner.check(format!("stream {name}: nested JSON"), || deep(bench, case));
        }
        runner.check(format!("stream {name}: caller leaves"), || cancelled(bench, case));
    }
    for case in bench.cases.iter().filter(|case| case.fixture.is_some()) {
        runner.check(format!("fixture {}: transcript", case.name), || expected(bench, case));
    }
    if !bench.upstream || bench.operation() != "chat" {
        return;
    }
    shown(runner, bench);
}

/// Whether what matters in a stream comes through in at least one of the cases.
fn shown(runner: &mut Runner<'_>, bench: &Bench<'_>) {
    let outcomes: Vec<Outcome> =
        bench.cases.iter().filter(|case| case.streams()).map(|case| bench.whole(case)).collect();
    let told: Vec<form::Told> = outcomes.iter().filter_map(|outcome| form::stream(outcome).ok()).collect();
    let mut show = |what: &str, there: bool, hint: &str| {
        runner.check(format!("streams: {what}"), || {
            if there { Ok(String::new()) } else { Err(Miss::Skipped(format!("no fixture shows {hint}"))) }
        });
    };
    show("text", told.iter().any(|told| !told.content.is_empty()), "a streamed text");
    show("usage", outcomes.iter().any(|outcome| outcome.usage.output.is_some()), "tokens in a stream");
    show("reasoning", told.iter().any(|told| !told.reasoning.is_empty()), "streamed reasoning");
    show("tool calls", told.iter().any(|told| !told.calls.is_empty()), "a streamed tool call");
    show("parallel tool calls", told.iter().any(|told| told.calls.len() > 1), "two tool calls in one answer");
}

/// The places where a text is cut: at every byte if it is short.
pub(super) fn places(text: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let stride = text.len() / EVERY_BYTE + 1;
    let near_line_end = |at: usize| {
        text[at.saturating_sub(2)..(at + 2).min(text.len())].iter().any(|byte| b"\r\n".contains(byte))
    };
    (0..=text.len()).filter(move |at| at % stride == 0 || near_line_end(*at))
}

/// The text with each of its line ends replaced.
fn with_line_end(text: &[u8], end: &[u8]) -> Vec<u8> {
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.collect::<Vec<_>>().join(end)
}

/// The events or lines of a stream, each with its end.
fn pieces<'t>(case: &Case, text: &'t [u8]) -> Vec<&'t [u8]> {
    let lines = case.answers.first().is_some_and(|answer| answer.kind().contains("ndjson"));
    let mut rest = text;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let end = if lines { memchr::memchr(b'\n', rest).map(|at| at + 1) } else { sse::event_end(rest, 0) };
        let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn is_lines(case: &Case) -> bool {
    case.answers.first().is_some_and(|answer| answer.kind().contains("ndjson"))
}

/// The stream with this event behind its first one.
fn with_event(case: &Case, data: &[u8]) -> Vec<u8> {
    let text = case.body_of_first();
    let first = pieces(case, text).first().map_or(0, |piece| piece.len());
    let event = match is_lines(case) {
        true => [data, b"\n"].concat(),
        false => [b"data: ", data, b"\n\n"].concat(),
    };
    [&text[..first], &event, &text[first..]].concat()
}

fn speaks_openai(bench: &Bench<'_>) -> bool {
    bench.manifest.dialect.stream == "openai"
}

fn told(bench: &Bench<'_>, case: &Case) -> Found {
    let outcome = bench.whole(case);
    calm(&outcome, "whole")?;
    let told = form::stream(&outcome)?;
    if let Some(fault) = &outcome.fault {
        ensure(case.fixture.is_some(), || format!("it fails ({}): {fault}", kind_name(fault.kind)))?;
        return Ok(format!("fails with {}: {fault}", kind_name(fault.kind)));
    }
    if case.fixture.is_none() && bench.upstream {
        built_in(case, &told, &outcome)?;
    }
    Ok(form::summary(&outcome))
}

/// What the kit's own streams hold comes through.
fn built_in(case: &Case, told: &form::Told, outcome: &Outcome) -> Result<(), Miss> {
    let call = |id: &str, name: &str, arguments: &str| (id.to_owned(), name.to_owned(), arguments.to_owned());
    let (expected, input, output) = if case.body_of_first() == wire::TEXT.as_bytes() {
        let content = "Grüße 🌍 \"x\"\n".to_owned();
        (form::Told { content, finish: "stop".into(), ..form::Told::default() }, 11, 7)
    } else {
        let calls = vec![call("call_a", "look", "{\"q\":\"x\"}"), call("call_b", "rest", "{}")];
        let (reasoning, finish) = ("Two calls".to_owned(), "tool_calls".to_owned());
        (form::Told { reasoning, calls, finish, ..form::Told::default() }, 20, 30)
    };
    ensure(*told == expected, || format!("{expected:?} became {told:?}"))?;
    let usage = &outcome.usage;
    ensure((usage.input, usage.output) == (Some(input), Some(output)), || {
        format!("{input} tokens in and {output} out became {:?} and {:?}", usage.input, usage.output)
    })
}

fn cut(bench: &Bench<'_>, case: &Case) -> Found {
    let lf = with_line_end(case.body_of_first(), b"\n");
    let expected = seen(&bench.play(case, &[&lf]));
    let mut count = 0;
    for (name, end) in [("LF", &b"\n"[..]), ("CRLF", b"\r\n")] {
        let text = with_line_end(&lf, end);
        for at in places(&text) {
            let outcome = bench.play(case, &[&text[..at], &text[at..]]);
            calm(&outcome, &format!("cut at byte {at}"))?;
            ensure(seen(&outcome) == expected, || {
                format!("with {name} line ends, cut at byte {at} of {}, it comes out differently", text.len())
            })?;
            count += 1;
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        ensure(seen(&bench.play(case, &bytes)) == expected, || {
            format!("with {name} line ends, byte by byte, it comes out differently")
        })?;
    }
    Ok(format!("{count} cuts, LF and CRLF"))
}

/// A stream that breaks off fails, unless all of it was there.
fn truncated(bench: &Bench<'_>, case: &Case) -> Found {
    let text = case.body_of_first();
    let whole = bench.whole(case);
    let mut faults = 0;
    for at in places(text).filter(|at| *at < text.len()) {
        let outcome = bench.play(case, &[&text[..at]]);
        calm(&outcome, &format!("cut off at byte {at}"))?;
        match &outcome.fault {
            Some(_) => faults += 1,
            None => ensure(outcome.events() == whole.events(), || {
                format!("cut off at byte {at} of {}, it ends as if that were the whole answer", text.len())
            })?,
        }
    }
    ensure(faults > 0, || "no cut makes it fail".into())?;
    Ok(format!("{faults} ends too early, all of them faults"))
}

fn unknown(bench: &Bench<'_>, case: &Case) -> Found {
    let data: &[u8] = if speaks_openai(bench) {
        br#"{"id":"x","object":"x.unknown","choices":[],"x_unknown":{"a":[1,{}]}}"#
    } else {
        br#"{"type":"x_unknown","x_unknown":{"a":[1,{}]}}"#
    };
    let mut texts = vec![with_event(case, data)];
    if !is_lines(case) {
        let text = case.body_of_first();
        texts.push([b": a comment\n\n", text].concat());
        texts.push([b"event: x_unknown\nid: 7\nretry: 10\n\n", text].concat());
    }
    let whole = bench.whole(case);
    for text in &texts {
        let outcome = bench.play(case, &[text]);
        calm(&outcome, "with an unknown event")?;
        let same = outcome.fault == whole.fault && outcome.usage == whole.usage;
        let same = same && (speaks_openai(bench) || outcome.events() == whole.events());
        ensure(same, || match &outcome.fault {
            Some(fault) => format!("an event of an unknown type makes it fail: {fault}"),
            None => "an event of an unknown type changes what the caller gets".into(),
        })?;
    }
    Ok("ignored or passed on".into())
}

fn not_utf8(bench: &Bench<'_>, case: &Case) -> Found {
    for data in [
        &b"{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xff\xfe\"}}]}"[..],
        b"\xff\xfe",
        b"\0",
        b"\xc3",
    ] {
        let outcome = bench.play(case, &[&with_event(case, data)]);
        calm(&outcome, "with bytes that are not UTF-8")?;
        let broken = outcome.chunks.iter().any(|chunk| std::str::from_utf8(chunk).is_err());
        ensure(!broken || speaks_openai(bench), || "it hands out a chunk that is not UTF-8".into())?;
    }
    Ok("no panic".into())
}

fn large(bench: &Bench<'_>, case: &Case) -> Found {
    let long = "x".repeat(1 << 20);
    let openai = speaks_openai(bench);
    let data = if openai {
        format!(
            r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{{"content":"{long}"}},"finish_reason":null}}]}}"#
        )
    } else {
        format!(r#"{{"type":"x_unknown","x_unknown":"{long}"}}"#)
    };
    let text = with_event(case, data.as_bytes());
    let whole = bench.whole(case);
    let began = std::time::Instant::now();
    let outcome = bench.play(case, &text.chunks(16 << 10).collect::<Vec<_>>());
    calm(&outcome, "with an event of 1 MB")?;
    if openai {
        let through = memchr::memmem::find(&outcome.output, long.as_bytes()).is_some();
        ensure(through && outcome.fault == whole.fault, || "it does not come through".into())?;
    }
    ensure(began.elapsed().as_secs() < 10, || format!("it takes {:?}", began.elapsed()))?;
    Ok(format!("{} ms", began.elapsed().as_millis()))
}

fn deep(bench: &Bench<'_>, case: &Case) -> Found {
    let whole = bench.whole(case);
    for depth in [100, 10_000] {
        let nested = wire::nested(depth);
        let data = if speaks_openai(bench) {
            format!(
                r#"{{"choices":[{{"index":0,"delta":{{"content":"x"}},"x":{nested}}}],"usage":null,"x":{nested}}}"#
            )
        } else {
            format!(r#"{{"type":"x_unknown","x_unknown":{nested}}}"#)
        };
        let outcome = bench.play(case, &[&with_event(case, data.as_bytes())]);
        calm(&outcome, &format!("{depth} levels deep"))?;
        ensure(depth > 100 || outcome.fault == whole.fault, || match &outcome.fault {
            Some(fault) => format!("{depth} levels make it fail: {fault}"),
            None => format!("{depth} levels make it end well where it should fail"),
        })?;
    }
    Ok("100 and 10,000 levels".into())
}

/// Cancels, or just drops, behind each event.
fn cancelled(bench: &Bench<'_>, case: &Case) -> Found {
    let text = case.body_of_first();
    let pieces = pieces(case, text);
    for count in 0..=pieces.len() {
        for cancels in [false, true] {
            let Ok(mut exchange) = bench.start(case) else { break };
            if let Some(answer) = case.answers.first().filter(|_| exchange.is_waiting()) {
                let headers: Vec<(&str, &[u8])> =
                    answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
                exchange.step(Input::Head { id: 1, status: answer.status, headers: &headers });
                for data in &pieces[..count] {
                    exchange.step(Input::Body { id: 1, data });
                }
            }
            if cancels {
                exchange.step(Input::Cancel);
                // What was under way may still arrive.
                exchange.step(Input::Body { id: 1, data: b"data: {}\n\n" });
                exchange.step(Input::End { id: 1 });
            }
            let panicked = exchange.fault.as_ref().filter(|fault| fault.kind == FaultKind::PANIC);
            if let Some(fault) = panicked {
                return Err(Miss::Failed(format!("behind {count} events it panicked: {fault}")));
            }
        }
    }
    Ok(format!("behind each of {} events", pieces.len()))
}

fn expected(bench: &Bench<'_>, case: &Case) -> Found {
    let Some(fixture) = &case.fixture else { return Ok(String::new()) };
    let found = transcript(&bench.whole(case));
    if bench.bless {
        std::fs::write(&fixture.expected_path, &found)
            .map_err(|error| format!("{} cannot be written: {error}", fixture.expected_path.display()))?;
        return Ok("written".into());
    }
    let Some(expected) = &fixture.expected else {
        return Err(Miss::Skipped(format!("no {}.expected.txt; bless to write it", fixture.name)));
    };
    let expected = expected.replace("\r\n", "\n");
    let differs = expected.lines().zip(found.lines()).position(|(expected, found)| expected != found);
    let at = differs.unwrap_or_else(|| expected.lines().count().min(found.lines().count()));
    ensure(expected == found, || {
        let line =
            |text: &str| text.lines().nth(at).unwrap_or("(its end)").chars().take(120).collect::<String>();
        format!("line {} is {:?} instead of {:?}", at + 1, line(&found), line(&expected))
    })?;
    Ok(String::new())
}
