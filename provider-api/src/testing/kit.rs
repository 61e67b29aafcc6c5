//! The conformance kit: everything a gateway relies on, tried on a plugin through the real ABI.
//!
//! [`conformance`] is the one line for an author's tests; `sigoREST plugin check` runs the same against a
//! plugin file, in a process of its own.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Instant,
};

use super::{
    Answer, Check, Driver, Exchange, Fixture, Fixtures, Outcome, Report, Verdict, wire, with_base_url,
};
use crate::{
    Manifest, Provider,
    abi::FaultKind,
    error::Fault,
    exchange::{Begin, Instance},
    model::Mode,
    request::Members,
};

mod answers;
mod form;
mod load;
mod manifest;
mod requests;
mod settings;
mod streams;

/// Makes an instance with these settings, as they are.
pub type Create<'a> = &'a (dyn Fn(&[u8]) -> Result<Instance, Fault> + Sync);

/// What is tried.
pub struct Subject<'a> {
    /// What it says about itself.
    pub manifest: Manifest,
    /// Makes an instance.
    pub create: Create<'a>,
    /// What its author recorded.
    pub fixtures: Fixtures,
    /// Whether transcripts are written rather than compared.
    pub bless: bool,
}

/// What a run tells while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// This check begins: if the process dies, it was this one.
    Begun(&'a str),
    /// It ended.
    Ended(&'a Check),
}

/// Tries a provider with the fixtures of a directory; for an author's tests, where the working directory
/// is the crate. With `BLESS=1` in the environment the fixtures' transcripts are written.
///
/// ```no_run
/// # use provider_api::{Config, Fault, Provider};
/// # struct Acme;
/// # impl Provider for Acme {
/// #     type State = ();
/// #     const MANIFEST: &'static str = r#"{"schema":1,"id":"acme","api":"1.0"}"#;
/// #     fn new(_: &Config) -> Result<Self, Fault> { Ok(Self) }
/// # }
/// provider_api::testing::conformance::<Acme>("fixtures");
/// ```
///
/// # Panics
/// If a check fails, with the table of all of them.
pub fn conformance<P: Provider>(fixtures: impl AsRef<Path>) {
    let manifest = Manifest::parse(P::MANIFEST).unwrap_or_else(|error| panic!("{error}"));
    let fixtures = Fixtures::read(fixtures.as_ref()).unwrap_or_else(|error| panic!("{error}"));
    let bless = std::env::var_os("BLESS").is_some_and(|value| value == "1");
    let report = run(&Subject { manifest, create: &super::create::<P>, fixtures, bless }, &mut |_| ());
    assert!(report.passed(), "\n{}", report.table(false));
    println!("{}", report.table(false));
}

/// Runs every check.
pub fn run(subject: &Subject<'_>, watch: &mut dyn FnMut(Progress<'_>)) -> Report {
    let manifest = &subject.manifest;
    let report = Report {
        plugin: manifest.id.clone(),
        version: manifest.version.clone(),
        checks: Vec::with_capacity(64),
    };
    let mut runner = Runner { report, watch };
    manifest::checks(&mut runner, manifest);
    let good = settings::good(subject);
    settings::checks(&mut runner, subject, &good);
    let Ok(instance) = (subject.create)(good.as_bytes()) else { return runner.report };
    let bench = Bench::new(subject, Driver::around(instance, manifest.clone()));
    requests::checks(&mut runner, &bench);
    if bench.upstream {
        answers::checks(&mut runner, &bench);
    }
    streams::checks(&mut runner, &bench);
    load::checks(&mut runner, &bench, &good);
    runner.report
}

/// What a check found: a detail, or why it did not pass.
type Found = Result<String, Miss>;

/// Why a check did not pass.
enum Miss {
    Failed(String),
    Skipped(String),
}

impl From<String> for Miss {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

/// Ends a check with what is wrong if `holds` is false.
fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Result<(), Miss> {
    if holds { Ok(()) } else { Err(Miss::Failed(wrong())) }
}

/// Runs checks one by one and keeps what they found.
struct Runner<'w> {
    report: Report,
    watch: &'w mut dyn FnMut(Progress<'_>),
}

impl Runner<'_> {
    fn check(&mut self, name: impl Into<String>, run: impl FnOnce() -> Found) {
        let (name, began) = (name.into(), Instant::now());
        (self.watch)(Progress::Begun(&name));
        let found = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
            Err(Miss::Failed(format!("a panic outside of the plugin's entries: {}", words(&*payload))))
        });
        let (verdict, detail) = match found {
            Ok(detail) => (Verdict::Pass, detail),
            Err(Miss::Failed(detail)) => (Verdict::Fail, detail),
            Err(Miss::Skipped(detail)) => (Verdict::Skip, detail),
        };
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let check = Check { name, verdict, detail, millis };
        (self.watch)(Progress::Ended(&check));
        self.report.checks.push(check);
    }
}

fn words(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// One call with the upstream's answers to it.
#[derive(Clone)]
struct Case {
    name: String,
    operation: &'static str,
    model: String,
    stream: bool,
    body: String,
    answers: Vec<Answer>,
    /// What the author says comes of it.
    fixture: Option<Fixture>,
}

/// A provider with the cases that fit it.
struct Bench<'a> {
    manifest: &'a Manifest,
    create: Create<'a>,
    driver: Driver,
    cases: Vec<Case>,
    bless: bool,
    /// Whether it asks an upstream at all.
    upstream: bool,
}

impl<'a> Bench<'a> {
    fn new(subject: &'a Subject<'_>, driver: Driver) -> Self {
        let mut bench = Self {
            manifest: &subject.manifest,
            create: subject.create,
            driver,
            cases: Vec::new(),
            bless: subject.bless,
            upstream: true,
        };
        let asks = |stream| {
            let begun = bench.start(&bench.question(stream));
            begun.is_ok_and(|exchange| !exchange.requests().is_empty())
        };
        bench.upstream = asks(false) || asks(true);
        bench.cases = bench.built_in();
        let own: Vec<Case> = subject.fixtures.list.iter().map(|fixture| bench.case(fixture)).collect();
        bench.cases.extend(own);
        bench
    }

    /// The operation that the kit asks for.
    fn operation(&self) -> &'static str {
        let offers = |name| self.manifest.offers_operation(name);
        if !offers("chat") && offers("embeddings") { "embeddings" } else { "chat" }
    }

    /// A short question without an answer yet.
    fn question(&self, stream: bool) -> Case {
        let operation = self.operation();
        let stream = stream && operation == "chat";
        let model = self.model(if operation == "chat" { Mode::Chat } else { Mode::Embedding });
        let quoted = serde_json::Value::from(model.as_str());
        let body = match (operation, stream) {
            ("embeddings", _) => format!("{{\"model\":{quoted},\"input\":\"Say hello\"}}"),
            (_, false) => {
                format!(
                    "{{\"model\":{quoted},\"messages\":[{{\"role\":\"user\",\"content\":\"Say hello\"}}]}}"
                )
            }
            (_, true) => format!(
                "{{\"model\":{quoted},\"messages\":[{{\"role\":\"user\",\"content\":\"Say hello\"}}],\"stream\":true,\"stream_options\":{{\"include_usage\":true}}}}"
            ),
        };
        let (name, answers, fixture) = ("question".into(), Vec::new(), None);
        Case { name, operation, model, stream, body, answers, fixture }
    }

    fn model(&self, mode: Mode) -> String {
        let found = self.manifest.models.iter().find(|model| model.mode == mode);
        found.map_or_else(|| "any-model".into(), |model| model.id.clone())
    }

    /// The kit's own cases, for upstreams that speak OpenAI's format and for providers without one.
    fn built_in(&self) -> Vec<Case> {
        let dialect = &self.manifest.dialect;
        let case = |name: &str, stream: bool, answer: Option<(&str, &str)>| {
            let answers = answer.map(|(kind, body)| Answer::new(200, kind, body)).into_iter().collect();
            Case { name: name.into(), answers, ..self.question(stream) }
        };
        if !self.upstream {
            return vec![case("built-in whole", false, None), case("built-in stream", true, None)];
        }
        let mut cases = Vec::new();
        if dialect.stream == "openai" && self.operation() == "chat" {
            cases.push(case("openai text", true, Some(("text/event-stream", wire::TEXT))));
            cases.push(case("openai tools", true, Some(("text/event-stream", wire::TOOLS))));
        }
        if dialect.response == "openai" && self.operation() == "chat" {
            cases.push(case("openai whole", false, Some(("application/json", wire::WHOLE))));
        }
        if dialect.response == "openai" && self.manifest.offers_operation("embeddings") {
            let model = self.model(Mode::Embedding);
            let body = format!("{{\"model\":{},\"input\":\"x\"}}", serde_json::Value::from(model.as_str()));
            let case = case("openai embeddings", false, Some(("application/json", wire::EMBEDDINGS)));
            cases.push(Case { operation: "embeddings", model, body, ..case });
        }
        cases
    }

    fn case(&self, fixture: &Fixture) -> Case {
        let first = fixture.answers.first();
        let mut case = self.question(first.is_some_and(Answer::is_stream));
        if let Ok(members) = Members::parse(fixture.request.as_bytes()) {
            let text = |key| members.value(key).and_then(|text| serde_json::from_str::<String>(text).ok());
            case.body = fixture.request.clone();
            case.stream = members.value("stream") == Some("true");
            case.model = text("model").unwrap_or(case.model);
            let embeds = members.get("input").is_some() && members.get("messages").is_none();
            case.operation = if embeds { "embeddings" } else { "chat" };
        }
        case.name.clone_from(&fixture.name);
        case.answers.clone_from(&fixture.answers);
        case.fixture = Some(fixture.clone());
        case
    }

    fn start(&self, case: &Case) -> Result<Exchange, Fault> {
        self.start_with(&self.driver, case)
    }

    fn start_with(&self, driver: &Driver, case: &Case) -> Result<Exchange, Fault> {
        let row = self.manifest.models.iter().find(|model| model.id == case.model);
        let drops = row.map(|row| row.drops.join(" ")).unwrap_or_default();
        let requires = row.and_then(|row| row.requires_completion_tokens).unwrap_or(false);
        let attrs = [
            ("drops", drops.as_str()),
            ("requires_completion_tokens", if requires { "true" } else { "false" }),
        ];
        driver.begin(&Begin {
            operation: case.operation,
            model: &case.model,
            stream: case.stream,
            body: case.body.as_bytes(),
            attrs: &attrs,
            ..driver.call()
        })
    }

    /// Runs a case to its end, the first answer's body cut into these pieces.
    fn play(&self, case: &Case, pieces: &[&[u8]]) -> Outcome {
        self.play_with(&self.driver, case, pieces)
    }

    /// Runs a case with its answers as they are.
    fn whole(&self, case: &Case) -> Outcome {
        self.play(case, &[case.body_of_first()])
    }

    fn play_with(&self, driver: &Driver, case: &Case, pieces: &[&[u8]]) -> Outcome {
        let mut exchange = match self.start_with(driver, case) {
            Ok(exchange) => exchange,
            Err(fault) => return Outcome { fault: Some(fault), ..Outcome::default() },
        };
        let mut number = 0;
        while exchange.is_waiting() && number < 64 {
            match case.answers.get(number) {
                Some(answer) if number == 0 => exchange.reply(answer.status, &answer.heads(), pieces),
                Some(answer) => exchange.reply(answer.status, &answer.heads(), &[&answer.body]),
                None => exchange.reply(404, &[("content-type", "application/json")], &[b"{}"]),
            }
            number += 1;
        }
        exchange.finish()
    }
}

impl Case {
    fn body_of_first(&self) -> &[u8] {
        self.answers.first().map_or(&[], |answer| answer.body.as_slice())
    }

    /// The same call with another answer.
    fn answered(&self, answer: Answer) -> Self {
        Self { answers: vec![answer], ..self.clone() }
    }

    /// Whether the answer is read as a stream.
    fn streams(&self) -> bool {
        self.stream && self.answers.first().is_some_and(|answer| answer.status < 300)
    }
}

/// What two runs must have in common.
fn seen(outcome: &Outcome) -> impl PartialEq + use<> {
    let Outcome { usage, dropped, done, fault, requests, .. } = outcome.clone();
    (outcome.events(), usage, dropped, done, fault, requests)
}

/// No panic, and not both an end and a fault.
fn calm(outcome: &Outcome, when: &str) -> Result<(), Miss> {
    if let Some(fault) = &outcome.fault {
        ensure(fault.kind != FaultKind::PANIC, || format!("{when}: it panicked: {}", fault.message))?;
        ensure(outcome.done.is_none(), || format!("{when}: it says that it is done and fails: {fault}"))?;
    }
    Ok(())
}

/// The word for a kind of fault.
pub(super) fn kind_name(kind: FaultKind) -> String {
    const NAMES: [&str; 15] = [
        "INTERNAL",
        "PANIC",
        "BAD_REQUEST",
        "AUTH",
        "RATE_LIMIT",
        "OVERLOADED",
        "UPSTREAM",
        "CONTEXT_LENGTH",
        "DECODE",
        "UNSUPPORTED",
        "QUOTA",
        "CONTENT_FILTER",
        "CANCELLED",
        "NOT_FOUND",
        "TIMEOUT",
    ];
    let known = usize::try_from(kind.0).ok().and_then(|kind| NAMES.get(kind));
    known.map_or_else(|| format!("kind {}", kind.0), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests;
