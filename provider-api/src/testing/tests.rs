//! The driver drives as a gateway does.

use super::*;
use crate::{Call, Config, Event, HttpRequest, Out, Start};

const HEAD: [(&str, &str); 1] = [("content-type", "text/event-stream")];

/// Translates a stream of its own and says what it was made with.
struct Plain(String);

impl Provider for Plain {
    type State = u64;
    const MANIFEST: &'static str =
        r#"{"schema":1,"id":"plain","api":"1.0","base_url":"https://plain.example/"}"#;

    fn new(config: &Config) -> Result<Self, Fault> {
        Ok(Self(config.base_url().to_owned()))
    }

    fn request(&self, call: &Call<'_>, _: &mut u64) -> Result<HttpRequest, Fault> {
        Ok(HttpRequest::post(self.0.clone()).header("x-one", "1").forward(call))
    }

    fn event(&self, state: &mut u64, event: &Event<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        *state += 1;
        match &*event.data {
            b"end" => out.done(b""),
            b"panic" => panic!("as asked"),
            data => out.chunk(&[data, state.to_string().as_bytes()].concat()),
        }
        Ok(())
    }
}

/// Forwards; waits twice before it starts.
struct Forward;

impl Provider for Forward {
    type State = ();
    const MANIFEST: &'static str =
        r#"{"schema":1,"id":"forward","api":"1.0","dialect":{"stream":"openai"},"stream":{"wake":["oops"]}}"#;

    fn new(_: &Config) -> Result<Self, Fault> {
        Ok(Self)
    }

    fn begin(&self, _: &Call<'_>, _: &mut ()) -> Result<Start, Fault> {
        Ok(Start::Now)
    }

    fn timer(&self, _: &mut (), id: u64, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        if id < 2 {
            out.sleep(std::time::Duration::from_millis(7));
        } else {
            out.http(&HttpRequest::get("https://forward.example"));
        }
        Ok(())
    }

    fn event(&self, _: &mut (), _: &Event<'_>, _: &mut Out<'_, '_>) -> Result<(), Fault> {
        Err(Fault::upstream("woken"))
    }
}

#[test]
fn a_translated_stream_is_recorded_and_comes_out_the_same_wherever_it_is_cut() {
    let driver = Driver::new::<Plain>("{}").expect("valid");
    let start = || driver.chat("m", "{\"a\":1}", true, &[]).expect("begins");
    let outcome = cuts(start, 200, &HEAD, b"data: a\n\n: note\n\ndata: b\n\ndata: end\n\n");
    assert_eq!(outcome.text(), "data: a1\n\ndata: b2\n\ndata: [DONE]\n\n");
    let request = &outcome.requests[0];
    assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", "https://plain.example"));
    assert_eq!((request.text(), request.header("x-one")), ("{\"a\":1}", Some("1")));
}

#[test]
fn panics_and_early_ends_are_faults() {
    let driver = Driver::new::<Plain>("{\"base_url\":\"x\"}").expect("valid");
    let start = || driver.chat("m", "{}", true, &[]).expect("begins");
    let fault = |stream: &[u8]| cuts(start, 200, &HEAD, stream).fault.expect("a fault");
    assert_eq!(fault(b"data: panic\n\n").kind, crate::FaultKind::PANIC);
    assert_eq!(fault(b"data: a\n\n").kind, crate::FaultKind::UPSTREAM);
    assert_eq!(start().answer(429, &[], &[b"{}"]).fault.expect("a fault").status, 429);
}

#[test]
fn a_stream_in_the_callers_dialect_is_forwarded_but_for_events_that_wake() {
    let driver = Driver::new::<Forward>("{}").expect("valid");
    let start = || driver.chat("m", "{}", true, &[]).expect("begins");
    let usage = "data: {\"usage\":{\"prompt_tokens\":3}}\n\ndata: [DONE]\n\n";
    let outcome = cuts(start, 200, &HEAD, usage.as_bytes());
    assert_eq!((outcome.text(), outcome.usage.input), (usage, Some(3)));
    assert_eq!(outcome.sleeps, [7, 7]);
    let outcome = cuts(start, 200, &HEAD, b"data: 1\n\ndata: oops\n\ndata: [DONE]\n\n");
    assert_eq!((outcome.passed.len(), outcome.fault.expect("a fault").message.as_str()), (1, "woken"));
}
