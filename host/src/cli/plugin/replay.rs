//! `sigoREST plugin replay FILE TRACE`: what a plugin file makes of a recorded exchange, against what was
//! handed out then.

use std::{fmt::Write as _, path::Path};

use provider_api::{
    Usage,
    exchange::{Asked, Begin, Input, Instance, Sink},
    loader,
};

use super::Done;
use crate::{
    cli::inspect::printable,
    plugins::trace::{self, Call, Given, Line, Told},
};

/// Largest trace.
const MAX_TRACE_BYTES: u64 = 64 << 20;

/// Differences that are shown.
const MAX_SHOWN: usize = 20;

/// Plays the trace to the file.
///
/// # Errors
/// Either of them cannot be read.
pub(super) fn run(file: &Path, trace: &Path) -> Result<Done, String> {
    let text = crate::files::read(trace, MAX_TRACE_BYTES)
        .map_err(|error| format!("{}: {error}", trace.display()))?
        .ok_or_else(|| format!("{} is not there", trace.display()))?;
    let text = String::from_utf8(text).map_err(|_| format!("{} is not text", trace.display()))?;
    let (head, call, lines) = trace::parse(&text).map_err(|error| format!("{}: {error}", trace.display()))?;
    let failed = |refused: loader::Refused| format!("{}: {refused}", file.display());
    let bytes = loader::read(file).map_err(failed)?;
    let record = loader::vet(&bytes).map_err(failed)?;
    let module = loader::open(&bytes).map_err(failed)?;
    let settings = serde_json::to_vec(&head.settings).unwrap_or_default();
    let instance = module.create(&settings, Box::new(|_, _| ()));
    let instance = instance.map_err(|fault| format!("{} refuses the settings: {fault}", file.display()))?;
    let (mut recorded, mut told, mut past) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        match line {
            Line::Out(given) => recorded.push(given),
            Line::In(input) => told.push(input),
            Line::Past(_) => past += 1,
            _ => {}
        }
    }
    let given = play(&instance, &call, &told, &recorded);
    let manifest = &record.manifest;
    let mut out = format!(
        "{} {} on a trace of {} {}: {} steps, {} results",
        manifest.id,
        manifest.version,
        head.plugin,
        head.version,
        told.len(),
        given.len()
    );
    if past > 0 {
        let _ = write!(out, ", {past} pieces went past the plugin");
    }
    out.push('\n');
    let well = compare(&recorded, &given, &mut out);
    Ok(Done { text: out, well })
}

/// What the plugin hands out.
fn play(instance: &Instance, call: &Call, told: &[Told], recorded: &[Given]) -> Vec<Given> {
    let attrs: Vec<(&str, &str)> =
        call.attrs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = call.body.bytes();
    let begin = Begin {
        operation: &call.operation,
        model: &call.model,
        stream: call.stream,
        attempt: call.attempt,
        now_unix_ms: call.now_unix_ms,
        seed: call.seed,
        body: &body,
        attrs: &attrs,
    };
    let mut stage = Stage { body: &body, recorded, given: Vec::new(), last_id: 0 };
    let outcome = instance
        .begin(&begin)
        .and_then(|mut exchange| told.iter().try_for_each(|input| step(&mut exchange, input, &mut stage)));
    if let Err(fault) = outcome {
        stage.given.push(Given::from(&fault));
    }
    stage.given
}

fn step(
    exchange: &mut provider_api::exchange::Exchange,
    told: &Told,
    stage: &mut Stage<'_>,
) -> Result<(), provider_api::Fault> {
    match told {
        Told::Start => exchange.step(Input::Start, stage),
        Told::Head { id, status, headers } => {
            let owned: Vec<(&str, Vec<u8>)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.bytes())).collect();
            let headers: Vec<(&str, &[u8])> =
                owned.iter().map(|(name, value)| (*name, value.as_slice())).collect();
            exchange.step(Input::Head { id: *id, status: *status, headers: &headers }, stage)
        }
        Told::Body { id, data } => exchange.step(Input::Body { id: *id, data: &data.bytes() }, stage),
        Told::End { id } => exchange.step(Input::End { id: *id }, stage),
        Told::TransportError { id, text } => exchange.step(Input::TransportError { id: *id, text }, stage),
        Told::Timer { id } => exchange.step(Input::Timer { id: *id }, stage),
        Told::Cancel => exchange.step(Input::Cancel, stage),
    }
}

/// Writes what differs; `true` if nothing does.
fn compare(recorded: &[Given], given: &[Given], out: &mut String) -> bool {
    let count = recorded.len().max(given.len());
    let differing: Vec<usize> = (0..count).filter(|at| recorded.get(*at) != given.get(*at)).collect();
    if differing.is_empty() {
        out.push_str("equal\n");
        return true;
    }
    let show = |given: Option<&Given>| given.map(|given| serde_json::to_string(given).unwrap_or_default());
    for at in differing.iter().take(MAX_SHOWN) {
        let _ = writeln!(out, "result {}", at + 1);
        for (sign, text) in [('-', show(recorded.get(*at))), ('+', show(given.get(*at)))] {
            if let Some(text) = text {
                let _ = writeln!(out, "{sign} {}", printable(&text));
            }
        }
    }
    let _ = writeln!(out, "{} of {count} results differ (- as recorded, + now)", differing.len());
    false
}

/// The gateway's place: answers as it did then.
struct Stage<'a> {
    body: &'a [u8],
    recorded: &'a [Given],
    given: Vec<Given>,
    last_id: u64,
}

impl Stage<'_> {
    /// The id that was given at this place then, else the next one.
    fn id(&mut self) -> u64 {
        let then = match self.recorded.get(self.given.len()) {
            Some(Given::Http { id, .. } | Given::Sleep { id, .. }) => *id,
            _ => self.last_id + 1,
        };
        self.last_id = self.last_id.max(then);
        then
    }

    fn go_on(&self) -> bool {
        match self.recorded.get(self.given.len()) {
            Some(Given::Emit { go_on, .. } | Given::Pass { go_on } | Given::Done { go_on, .. }) => *go_on,
            _ => true,
        }
    }
}

impl Sink for Stage<'_> {
    fn http(&mut self, asked: Asked<'_>) -> u64 {
        let id = self.id();
        self.given.push(trace::request(&asked, self.body, id));
        id
    }

    fn emit(&mut self, chunk: &[u8]) -> bool {
        let go_on = self.go_on();
        self.given.push(Given::Emit { data: chunk.into(), go_on });
        go_on
    }

    fn pass(&mut self) -> bool {
        let go_on = self.go_on();
        self.given.push(Given::Pass { go_on });
        go_on
    }

    fn usage(&mut self, usage: Usage) {
        self.given.push(Given::Usage { tokens: trace::tokens(&usage) });
    }

    fn sleep(&mut self, ms: u64) -> u64 {
        let id = self.id();
        self.given.push(Given::Sleep { id, ms });
        id
    }

    fn done(&mut self, body: &[u8]) -> bool {
        let go_on = self.go_on();
        self.given.push(Given::Done { body: body.into(), go_on });
        go_on
    }

    fn dropped(&mut self, field: &str) {
        self.given.push(Given::Dropped { field: field.to_owned() });
    }
}
