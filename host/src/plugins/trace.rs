//! Traces: what one exchange was told and what it handed out, step by step, so that the same can be played
//! to any version of the plugin later.
//!
//! A provider is a function of its inputs: its clock and its randomness come with the call. What is
//! recorded here is therefore all that it takes to see again, on another machine, what went wrong. The
//! provider's key is not in it, wherever an upstream may have repeated it; prompts and answers are.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use memchr::memmem;
use provider_api::{
    Fault, Usage,
    exchange::{Asked, Begin, BodyPart, Input, Sink},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

/// Version of the form.
pub const FORM: u32 = 1;

/// A longer exchange is recorded up to here, and its trace says so.
const MAX_BYTES: usize = 16 << 20;

/// Most that wait for a provider's exchange at once; who comes later is refused.
const MAX_WAITING: usize = 16;

/// Headers of an answer that may hold what only the gateway shall know.
const PRIVATE_HEADERS: [&str; 6] =
    ["set-cookie", "authorization", "www-authenticate", "x-api-key", "cookie", "proxy-authenticate"];

/// Settings with such words in their names are not written down.
const PRIVATE_WORDS: [&str; 5] = ["key", "token", "secret", "password", "credential"];

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Head(Head),
    /// What the caller wanted.
    Call(Call),
    /// What the plugin was told.
    In(Told),
    /// What it handed out.
    Out(Given),
    /// What the upstream sent that went past the plugin.
    Past(Text),
    /// The exchange was longer than what is recorded.
    Cut,
}

/// Whose exchange it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// [`FORM`].
    pub trace: u32,
    /// The plugin's id.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// Of its file.
    pub sha256: String,
    /// The provider's name.
    pub provider: String,
    /// What the provider was made with.
    pub settings: Map<String, Value>,
}

/// A call, as `begin` got it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// `chat`, …
    pub operation: String,
    /// The upstream's id of the model.
    pub model: String,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// 0 for the first attempt.
    pub attempt: u32,
    /// The exchange's clock.
    pub now_unix_ms: u64,
    /// The exchange's randomness.
    pub seed: u64,
    /// Facts of the model's row.
    pub attrs: BTreeMap<String, String>,
    /// The canonical request.
    pub body: Text,
}

/// What happened since the last step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names of `provider_api::exchange::Input`")]
pub enum Told {
    Start,
    Head { id: u64, status: u16, headers: Vec<(String, Text)> },
    Body { id: u64, data: Text },
    End { id: u64 },
    TransportError { id: u64, text: String },
    Timer { id: u64 },
    Cancel,
}

/// What a step handed out. `go_on` and the ids are what the gateway answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names of `provider_api::exchange::Sink`")]
pub enum Given {
    Http { id: u64, method: String, url: String, headers: Vec<(String, Text)>, body: Text },
    Emit { data: Text, go_on: bool },
    Pass { go_on: bool },
    Usage { tokens: BTreeMap<String, u64> },
    Sleep { id: u64, ms: u64 },
    Done { body: Text, go_on: bool },
    Dropped { field: String },
    Fault { kind: u32, scope: u32, status: u16, retry_after_ms: u64, message: String, detail: Text },
}

/// Bytes that are nearly always text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// They are.
    Plain(String),
    /// They are not: two digits a byte.
    Hex {
        /// The digits.
        hex: String,
    },
    /// None.
    #[default]
    Empty,
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.to_owned()),
            Err(_) => Self::Hex { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() },
        }
    }
}

impl Text {
    /// The bytes; wrong digits count as none.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Plain(text) => text.clone().into_bytes(),
            Self::Empty => Vec::new(),
            Self::Hex { hex } => {
                let pair = |at| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
                (0..hex.len()).step_by(2).filter_map(pair).collect()
            }
        }
    }
}

/// Who waits for the next exchange of which provider.
#[derive(Default)]
pub struct Recordings {
    count: AtomicUsize,
    waiting: Mutex<HashMap<String, VecDeque<oneshot::Sender<String>>>>,
}

impl Recordings {
    /// Waits for the next exchange of this provider that begins from now on; gives its lines. `None` if
    /// too many wait already.
    pub fn wait(&self, provider: &str) -> Option<oneshot::Receiver<String>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let list = waiting.entry(provider.to_owned()).or_default();
        list.retain(|sender| !sender.is_closed());
        if list.len() >= MAX_WAITING {
            return None;
        }
        let (send, receive) = oneshot::channel();
        list.push_back(send);
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(receive)
    }

    /// The recorder for an exchange that begins, if somebody waits for it. Costs one load if nobody does.
    pub fn begin(
        &self,
        head: impl FnOnce() -> Head,
        provider: &str,
        keys: impl FnOnce() -> Vec<String>,
    ) -> Option<Box<Trace>> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut to = waiting.remove(provider).unwrap_or_default();
        self.count.store(waiting.values().map(VecDeque::len).sum(), Ordering::Relaxed);
        drop(waiting);
        to.retain(|sender| !sender.is_closed());
        if to.is_empty() {
            return None;
        }
        let mut trace = Trace { text: String::new(), cut: false, keys: keys(), to };
        trace.add(&Line::Head(head()));
        Some(Box::new(trace))
    }
}

/// The settings without what their names say is secret.
pub fn public_settings(config: &[u8]) -> Map<String, Value> {
    let mut settings: Map<String, Value> = serde_json::from_slice(config).unwrap_or_default();
    for (name, value) in &mut settings {
        let lower = name.to_ascii_lowercase();
        if PRIVATE_WORDS.iter().any(|word| lower.contains(word)) {
            *value = "***".into();
        }
    }
    settings
}

/// Records one exchange; hands it over when it is dropped, however the exchange ended.
pub struct Trace {
    text: String,
    cut: bool,
    keys: Vec<String>,
    to: VecDeque<oneshot::Sender<String>>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        for to in self.to.drain(..) {
            let _ = to.send(self.text.clone());
        }
    }
}

impl Trace {
    /// The call.
    pub fn call(&mut self, begin: &Begin<'_>) {
        let attrs = begin.attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let call = Call {
            operation: begin.operation.to_owned(),
            model: begin.model.to_owned(),
            stream: begin.stream,
            attempt: begin.attempt,
            now_unix_ms: begin.now_unix_ms,
            seed: begin.seed,
            attrs: attrs.collect(),
            body: self.hide(begin.body),
        };
        self.add(&Line::Call(call));
    }

    /// What the plugin is told.
    pub fn told(&mut self, input: &Input<'_>) {
        let told = match input {
            Input::Start => Told::Start,
            Input::Head { id, status, headers } => {
                let headers = headers.iter().map(|(name, value)| {
                    let private = PRIVATE_HEADERS.iter().any(|known| known.eq_ignore_ascii_case(name));
                    ((*name).to_owned(), if private { Text::Plain("***".into()) } else { self.hide(value) })
                });
                Told::Head { id: *id, status: *status, headers: headers.collect() }
            }
            Input::Body { id, data } => Told::Body { id: *id, data: self.hide(data) },
            Input::End { id } => Told::End { id: *id },
            Input::TransportError { id, text } => Told::TransportError { id: *id, text: (*text).to_owned() },
            Input::Timer { id } => Told::Timer { id: *id },
            Input::Cancel => Told::Cancel,
        };
        self.add(&Line::In(told));
    }

    /// What the upstream sent that the plugin is not shown.
    pub fn past(&mut self, bytes: &[u8]) {
        let text = self.hide(bytes);
        self.add(&Line::Past(text));
    }

    /// How `begin` or a step ended.
    pub fn ended<T>(&mut self, result: &Result<T, Fault>) {
        if let Err(fault) = result {
            let mut given = Given::from(fault);
            if let Given::Fault { message, .. } = &mut given
                && let Text::Plain(text) = self.hide(message.as_bytes())
            {
                *message = text;
            }
            self.add(&Line::Out(given));
        }
    }

    /// A sink that records what goes through to another.
    pub fn tee<'a, S: Sink>(&'a mut self, sink: &'a mut S, call_body: &'a [u8]) -> Tee<'a, S> {
        Tee { trace: self, sink, call_body }
    }

    /// The bytes without the provider's keys.
    fn hide(&self, bytes: &[u8]) -> Text {
        let mut hidden = Cow::Borrowed(bytes);
        for key in self.keys.iter().filter(|key| !key.is_empty()) {
            if let Some(without) = replaced(&hidden, key.as_bytes()) {
                hidden = Cow::Owned(without);
            }
        }
        (&*hidden).into()
    }

    fn add(&mut self, line: &Line) {
        if self.cut {
            return;
        }
        let text = serde_json::to_string(line).unwrap_or_default();
        self.cut = self.text.len() + text.len() > MAX_BYTES;
        self.text.push_str(if self.cut { "\"cut\"" } else { &text });
        self.text.push('\n');
    }
}

impl From<&Fault> for Given {
    fn from(fault: &Fault) -> Self {
        Self::Fault {
            kind: fault.kind.0,
            scope: fault.scope.0,
            status: fault.status,
            retry_after_ms: fault.retry_after_ms,
            message: fault.message.clone(),
            detail: fault.detail.as_slice().into(),
        }
    }
}

/// The tokens that are known, by name.
pub fn tokens(usage: &Usage) -> BTreeMap<String, u64> {
    let all = [
        ("input", usage.input),
        ("output", usage.output),
        ("cache_read", usage.cache_read),
        ("cache_write", usage.cache_write),
        ("cache_write_1h", usage.cache_write_1h),
        ("reasoning", usage.reasoning),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// A request as it was asked for, its body put together; parts that are not there are left out.
pub fn request(asked: &Asked<'_>, call_body: &[u8], id: u64) -> Given {
    let mut body = Vec::new();
    for part in asked.body().flatten() {
        match part {
            BodyPart::Literal(bytes) => body.extend_from_slice(bytes),
            BodyPart::CallBody { offset, len } => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
                body.extend_from_slice(call_body.get(start..end).unwrap_or_default());
            }
        }
    }
    let headers = asked.headers().map(|(name, value)| (name.to_owned(), Text::from(value)));
    Given::Http {
        id,
        method: asked.method.to_owned(),
        url: asked.url.to_owned(),
        headers: headers.collect(),
        body: body.as_slice().into(),
    }
}

/// Records what a step hands out, with what the gateway answers.
pub struct Tee<'a, S: Sink> {
    trace: &'a mut Trace,
    sink: &'a mut S,
    call_body: &'a [u8],
}

impl<S: Sink> Sink for Tee<'_, S> {
    fn http(&mut self, asked: Asked<'_>) -> u64 {
        let given = request(&asked, self.call_body, 0);
        let id = self.sink.http(asked);
        if let Given::Http { method, url, headers, body, .. } = given {
            let body = self.trace.hide(&body.bytes());
            self.trace.add(&Line::Out(Given::Http { id, method, url, headers, body }));
        }
        id
    }

    fn emit(&mut self, chunk: &[u8]) -> bool {
        let (data, go_on) = (self.trace.hide(chunk), self.sink.emit(chunk));
        self.trace.add(&Line::Out(Given::Emit { data, go_on }));
        go_on
    }

    fn pass(&mut self) -> bool {
        let go_on = self.sink.pass();
        self.trace.add(&Line::Out(Given::Pass { go_on }));
        go_on
    }

    fn usage(&mut self, usage: Usage) {
        self.trace.add(&Line::Out(Given::Usage { tokens: tokens(&usage) }));
        self.sink.usage(usage);
    }

    fn sleep(&mut self, ms: u64) -> u64 {
        let id = self.sink.sleep(ms);
        self.trace.add(&Line::Out(Given::Sleep { id, ms }));
        id
    }

    fn done(&mut self, body: &[u8]) -> bool {
        let (text, go_on) = (self.trace.hide(body), self.sink.done(body));
        self.trace.add(&Line::Out(Given::Done { body: text, go_on }));
        go_on
    }

    fn dropped(&mut self, field: &str) {
        self.trace.add(&Line::Out(Given::Dropped { field: field.to_owned() }));
        self.sink.dropped(field);
    }
}

/// Reads a trace.
///
/// # Errors
/// The line that cannot be read, or what is missing.
pub fn parse(text: &str) -> Result<(Head, Call, Vec<Line>), String> {
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line =
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))?;
        lines.push(line);
    }
    let mut lines = lines.into_iter();
    let (Some(Line::Head(head)), Some(Line::Call(call))) = (lines.next(), lines.next()) else {
        return Err("it does not start with a head and a call; record it with `plugin record`".into());
    };
    if head.trace != FORM {
        return Err(format!("it has form {}, this program reads form {FORM}", head.trace));
    }
    let rest: Vec<Line> = lines.collect();
    if rest.contains(&Line::Cut) {
        return Err("the exchange was too long to be recorded whole".into());
    }
    Ok((head, call, rest))
}

/// The bytes with stars for each `key`; `None` if it is not in them.
fn replaced(bytes: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let mut next = memmem::find(bytes, key)?;
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    loop {
        out.extend_from_slice(&rest[..next]);
        out.extend_from_slice(b"***");
        rest = &rest[next + key.len()..];
        match memmem::find(rest, key) {
            Some(at) => next = at,
            None => break,
        }
    }
    out.extend_from_slice(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl Sink for Deaf {
        fn http(&mut self, _: Asked<'_>) -> u64 {
            1
        }
        fn emit(&mut self, _: &[u8]) -> bool {
            true
        }
        fn pass(&mut self) -> bool {
            false
        }
        fn usage(&mut self, _: Usage) {}
        fn sleep(&mut self, _: u64) -> u64 {
            2
        }
        fn done(&mut self, _: &[u8]) -> bool {
            true
        }
        fn dropped(&mut self, _: &str) {}
    }

    #[test]
    fn a_trace_has_all_but_the_key_and_can_be_read_again() {
        let recordings = Recordings::default();
        let head = || Head { trace: FORM, provider: "acme".into(), ..Head::default() };
        assert!(recordings.begin(head, "acme", Vec::new).is_none(), "nobody waits");
        let mut receiver = recordings.wait("acme").expect("room");
        assert!(recordings.begin(head, "other", Vec::new).is_none());
        let mut trace = recordings.begin(head, "acme", || vec!["sk-1".into()]).expect("somebody waits");
        assert!(recordings.begin(head, "acme", Vec::new).is_none(), "only one exchange");
        trace.call(&Begin { operation: "chat", body: b"{\"a\":\"\xff\"}", ..Begin::default() });
        let headers: [(&str, &[u8]); 2] = [("set-cookie", b"a=b"), ("x", b"sk-1")];
        trace.told(&Input::Head { id: 1, status: 401, headers: &headers });
        trace.told(&Input::Body { id: 1, data: b"bad key sk-1, really sk-1" });
        let mut sink = Deaf;
        let mut tee = trace.tee(&mut sink, b"");
        tee.emit(b"sk-1");
        tee.pass();
        trace.ended(&Err::<(), _>(Fault::upstream("no sk-1")));
        drop(trace);
        let text = receiver.try_recv().expect("the trace");
        assert!(!text.contains("sk-1") && !text.contains("a=b"), "{text}");
        let (head, call, lines) = parse(&text).expect("a trace");
        assert_eq!((head.provider.as_str(), call.body.bytes()), ("acme", b"{\"a\":\"\xff\"}".to_vec()));
        assert_eq!(
            lines[1],
            Line::In(Told::Body { id: 1, data: Text::Plain("bad key ***, really ***".into()) })
        );
        assert_eq!(lines[3], Line::Out(Given::Pass { go_on: false }));
        assert!(matches!(&lines[4], Line::Out(Given::Fault { message, .. }) if message == "no ***"));
    }

    #[test]
    fn what_is_no_trace_is_said() {
        for (text, expected) in [("", "does not start"), ("{}", "line 1"), ("\"cut\"", "does not start")] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
        let settings = public_settings(br#"{"base_url":"https://a","api_token":"t"}"#);
        assert_eq!((&settings["base_url"], &settings["api_token"]), (&"https://a".into(), &"***".into()));
    }
}
