//! Runs a provider without a gateway: bytes in, what it asks for and hands out recorded.
//!
//! Everything goes through the real adapter and the real ABI, so that what holds here holds for the
//! plugin file. [`Driver::new`] takes a [`Provider`], [`Driver::around`] a loaded plugin's instance.
//!
//! ```
//! # use provider_api::{Call, Config, Fault, HttpRequest, Provider, testing::Driver};
//! # struct Acme;
//! # impl Provider for Acme {
//! #     type State = ();
//! #     const MANIFEST: &'static str = r#"{"schema":1,"id":"acme","api":"1.0","base_url":"https://acme.example/v1"}"#;
//! #     fn new(_: &Config) -> Result<Self, Fault> { Ok(Self) }
//! #     fn request(&self, call: &Call<'_>, _: &mut ()) -> Result<HttpRequest, Fault> {
//! #         Ok(HttpRequest::post("https://acme.example/v1/chat/completions").forward(call))
//! #     }
//! # }
//! let driver = Driver::new::<Acme>("{}").unwrap();
//! let exchange = driver.chat("acme-1", r#"{"messages":[]}"#, false, &[]).unwrap();
//! assert_eq!(exchange.request().body, br#"{"messages":[]}"#);
//! let outcome = exchange.answer(200, &[("content-type", "application/json")], &[b"{\"choices\":", b"[]}"]);
//! assert_eq!(outcome.output, br#"{"choices":[]}"#);
//! ```

use std::time::{Duration, Instant};

use abi_stable::std_types::RResult;

use crate::{
    error::Fault,
    event::Usage,
    exchange::{self, Begin, Input, Instance, host_box},
    model::Manifest,
    openai,
    provider::{self, Provider},
    request::Members,
    sse,
};

mod fixture;
mod kit;
mod recorder;
mod report;
mod wire;

use recorder::{Item, Recorder};

pub use fixture::{Answer, Fixture, Fixtures};
pub use kit::{Progress, Subject, conformance, run};
pub use report::{Check, Report, Verdict};

/// The time that exchanges are told: 2026-11-24, 00:00 UTC.
pub const NOW_UNIX_MS: u64 = 1_795_478_400_000;

/// A provider to be driven.
pub struct Driver {
    instance: Instance,
    manifest: Manifest,
    /// The clock of its exchanges, Unix milliseconds.
    pub now_unix_ms: u64,
    /// The randomness of its exchanges.
    pub seed: u64,
}

impl Driver {
    /// Makes a provider with these settings (a JSON object); `base_url` is the manifest's unless given.
    ///
    /// # Errors
    /// What the provider says about its settings.
    ///
    /// # Panics
    /// If the manifest or the settings are not what a gateway would accept.
    pub fn new<P: Provider>(config: &str) -> Result<Self, Fault> {
        let manifest = Manifest::parse(P::MANIFEST).expect("the manifest is valid");
        let config = with_base_url(config, &manifest);
        Ok(Self::around(create::<P>(config.as_bytes())?, manifest))
    }

    /// Drives an instance that was made elsewhere, for example of a loaded file.
    pub fn around(instance: Instance, manifest: Manifest) -> Self {
        Self { instance, manifest, now_unix_ms: NOW_UNIX_MS, seed: 0x00c0_ffee }
    }

    /// Begins a chat; `attrs` are facts of the model's row (`drops`, `requires_completion_tokens`).
    ///
    /// # Errors
    /// What the provider says about the call.
    pub fn chat(
        &self,
        model: &str,
        body: &str,
        stream: bool,
        attrs: &[(&str, &str)],
    ) -> Result<Exchange, Fault> {
        self.begin(&Begin { model, stream, attrs, body: body.as_bytes(), operation: "chat", ..self.call() })
    }

    /// Begins any operation that is not streamed; `body` may be empty.
    ///
    /// # Errors
    /// What the provider says about the call.
    pub fn call_operation(&self, operation: &str, model: &str, body: &str) -> Result<Exchange, Fault> {
        self.begin(&Begin { operation, model, body: body.as_bytes(), ..self.call() })
    }

    /// A call with this driver's clock and randomness.
    pub fn call(&self) -> Begin<'static> {
        Begin { now_unix_ms: self.now_unix_ms, seed: self.seed, ..Begin::default() }
    }

    /// Begins an exchange and runs it until it waits for an answer.
    ///
    /// # Errors
    /// What the provider says about the call.
    pub fn begin(&self, begin: &Begin<'_>) -> Result<Exchange, Fault> {
        let forwards = begin.stream && self.manifest.dialect.stream == "openai";
        let mut exchange = Exchange {
            inner: self.instance.begin(begin)?,
            record: Recorder { body: begin.body.to_vec(), ..Recorder::default() },
            stream: begin.stream,
            wake: forwards.then(|| self.manifest.stream.wake.clone()),
            answered: 0,
            fault: None,
            times: Vec::new(),
        };
        exchange.step(Input::Start);
        exchange.run_timers();
        match exchange.fault.take() {
            Some(fault) if exchange.record.untouched() => Err(fault),
            fault => {
                exchange.fault = fault;
                Ok(exchange)
            }
        }
    }
}

/// Makes an instance as a gateway does, with the settings as they are given.
fn create<P: Provider>(config: &[u8]) -> Result<Instance, Fault> {
    match provider::create::<P>(config.into(), host_box(Box::new(|_, _| ()))) {
        RResult::ROk(provider) => Ok(Instance(provider)),
        RResult::RErr(fault) => Err(fault.into()),
    }
}

fn with_base_url(config: &str, manifest: &Manifest) -> String {
    let members = Members::parse(config.as_bytes()).expect("the settings are a JSON object");
    if members.get("base_url").is_some() || manifest.base_url.is_empty() {
        return config.to_owned();
    }
    let rest = config.trim_start().strip_prefix('{').unwrap_or("}");
    let comma = if members.0.is_empty() { "" } else { "," };
    format!("{{\"base_url\":{}{comma}{rest}", serde_json::Value::from(manifest.base_url.as_str()))
}

/// A request that a provider asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// Absolute URL.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body, its parts put together.
    pub body: Vec<u8>,
}

impl Request {
    /// The body as text; empty if it is none.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or("")
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An exchange that waits for the answer to what it asked for.
pub struct Exchange {
    inner: exchange::Exchange,
    record: Recorder,
    stream: bool,
    /// Where the stream is OpenAI's already, as a gateway does: only events that hold one of these go
    /// through the provider.
    wake: Option<Vec<String>>,
    answered: usize,
    fault: Option<Fault>,
    /// How long each step took.
    times: Vec<Duration>,
}

impl Exchange {
    /// The oldest request that is not answered yet.
    ///
    /// # Panics
    /// If there is none.
    pub fn request(&self) -> &Request {
        self.record.requests.get(self.answered).expect("the provider asks for a request")
    }

    /// All requests so far.
    pub fn requests(&self) -> &[Request] {
        &self.record.requests
    }

    /// Whether a request waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.fault.is_none() && self.record.done.is_none() && self.answered < self.record.requests.len()
    }

    /// Answers the oldest open request with a body that comes in these pieces, and ends the exchange.
    pub fn answer(mut self, status: u16, headers: &[(&str, &str)], pieces: &[&[u8]]) -> Outcome {
        self.reply(status, headers, pieces);
        self.finish()
    }

    /// Answers the oldest open request; the exchange may go on.
    pub fn reply(&mut self, status: u16, headers: &[(&str, &str)], pieces: &[&[u8]]) {
        self.request();
        self.answered += 1;
        let id = self.answered as u64;
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        self.record.received.clear();
        self.step(Input::Head { id, status, headers: &headers });
        if id == 1 && status < 300 && self.wake.is_some() {
            self.forward(pieces);
        } else {
            for data in pieces.iter().filter(|data| !data.is_empty()) {
                self.body(id, data);
            }
            self.step(Input::End { id });
        }
        self.run_timers();
    }

    /// Fails the oldest open request below HTTP.
    pub fn fail(&mut self, text: &str) {
        self.request();
        self.answered += 1;
        self.step(Input::TransportError { id: self.answered as u64, text });
        self.run_timers();
    }

    /// Tells the provider that the caller left.
    pub fn cancel(&mut self) {
        self.step(Input::Cancel);
    }

    /// What came of it.
    pub fn finish(self) -> Outcome {
        let Recorder { requests, items, usage, dropped, done, sleeps, .. } = self.record;
        let pick = |passed: bool| {
            let picked = items.iter().filter(|item| item.passed == passed);
            picked.map(|item| item.bytes.clone()).collect()
        };
        let mut output = Vec::new();
        for item in &items {
            match (item.passed, self.stream) {
                (true, _) | (false, false) => output.extend_from_slice(&item.bytes),
                (false, true) => output.extend([b"data: ", &*sse::one_line(&item.bytes), b"\n\n"].concat()),
            }
        }
        match &done {
            Some(body) if !self.stream => output.extend_from_slice(body),
            Some(_) if self.wake.is_none() => output.extend_from_slice(b"data: [DONE]\n\n"),
            _ => {}
        }
        let (chunks, passed) = (pick(false), pick(true));
        let stream = self.stream;
        Outcome { requests, chunks, passed, output, usage, dropped, done, sleeps, fault: self.fault, stream }
    }

    fn body(&mut self, id: u64, data: &[u8]) {
        self.record.received.extend_from_slice(data);
        self.record.piece = Some(data.to_vec());
        self.step(Input::Body { id, data });
        self.record.piece = None;
    }

    /// What a gateway does with a stream that is in the caller's dialect already.
    fn forward(&mut self, pieces: &[&[u8]]) {
        let wake = self.wake.clone().unwrap_or_default();
        let mut buffer = Vec::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(end) = sse::event_end(&buffer, 0) {
                let raw: Vec<u8> = buffer.drain(..end).collect();
                let data = sse::parse(&raw).data.map(|data| data.into_owned()).unwrap_or_default();
                if self.fault.is_some() || self.record.done.is_some() {
                    return;
                }
                if wake.iter().any(|word| memchr::memmem::find(&raw, word.as_bytes()).is_some()) {
                    self.body(1, &raw);
                    continue;
                }
                let members = Members::parse(&data).unwrap_or_default();
                if let Some(usage) = members.value("usage") {
                    self.record.usage.update(openai::usage(usage));
                }
                self.record.items.push(Item { passed: true, bytes: raw });
                if data == b"[DONE]" {
                    self.record.done = Some(Vec::new());
                }
            }
        }
        if self.record.done.is_none() && self.fault.is_none() {
            self.fault = Some(Fault::upstream("the upstream's stream ended before it was complete"));
        }
    }

    fn step(&mut self, input: Input<'_>) {
        if self.fault.is_none() && self.record.done.is_none() {
            let began = Instant::now();
            let stepped = self.inner.step(input, &mut self.record);
            self.times.push(began.elapsed());
            self.fault = self.record.refused.take().or(stepped.err());
        }
    }

    /// Runs timers as long as nothing waits for an answer.
    fn run_timers(&mut self) {
        while self.answered >= self.record.requests.len() {
            let Some(id) = self.record.timers.pop_front() else { return };
            self.step(Input::Timer { id });
        }
    }
}

/// What came of an exchange.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The requests it asked for.
    pub requests: Vec<Request>,
    /// The chunks it handed out.
    pub chunks: Vec<Vec<u8>>,
    /// The pieces of the upstream's answer that it (or the gateway for it) forwarded as they came.
    pub passed: Vec<Vec<u8>>,
    /// The answer's body as a caller gets it.
    pub output: Vec<u8>,
    /// Tokens.
    pub usage: Usage,
    /// Request fields left out.
    pub dropped: Vec<String>,
    /// The whole answer, or an empty one behind a stream; `None` if it did not end by itself.
    pub done: Option<Vec<u8>>,
    /// Why it failed.
    pub fault: Option<Fault>,
    /// The timers it asked for, in milliseconds.
    pub sleeps: Vec<u64>,
    stream: bool,
}

impl Outcome {
    /// The output as text; for snapshots.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.output).expect("answers are UTF-8")
    }

    /// The data of the caller's events, without framing; for an answer that is not streamed, that one.
    pub fn events(&self) -> Vec<Vec<u8>> {
        if !self.stream {
            return vec![self.output.clone()];
        }
        let mut events = Vec::new();
        let mut rest = self.output.as_slice();
        while let Some(end) = sse::event_end(rest, 0) {
            events.extend(sse::parse(&rest[..end]).data.map(|data| data.into_owned()));
            rest = &rest[end..];
        }
        events
    }
}

/// Replays an upstream's answer whole, cut in two at every byte and byte by byte, with LF and with CRLF
/// line ends, and hands out what came of it the first time.
///
/// # Panics
/// If any replay comes out differently.
pub fn cuts(start: impl Fn() -> Exchange, status: u16, headers: &[(&str, &str)], stream: &[u8]) -> Outcome {
    let text = stream.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines: Vec<&[u8]> = text.collect();
    let seen = |outcome: &Outcome| {
        let Outcome { usage, dropped, done, fault, .. } = outcome.clone();
        (outcome.events(), usage, dropped, done, fault)
    };
    let whole = start().answer(status, headers, &[&lines.join(&b"\n"[..])]);
    let expected = seen(&whole);
    for (name, end) in [("LF", &b"\n"[..]), ("CRLF", b"\r\n")] {
        let text = lines.join(end);
        for at in 0..=text.len() {
            let outcome = start().answer(status, headers, &[&text[..at], &text[at..]]);
            assert_eq!(seen(&outcome), expected, "with {name}, cut at {at} of {}", text.len());
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(seen(&start().answer(status, headers, &bytes)), expected, "with {name}, byte by byte");
    }
    whole
}

#[cfg(test)]
mod tests;
