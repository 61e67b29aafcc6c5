//! What arrives in a stream, and what a provider hands out in a step.

use std::{borrow::Cow, time::Duration};

use abi_stable::std_types::RStr;

use crate::{
    abi::{
        AbiAttr, AbiPart, AbiUsage, EXT_DROPPED_FIELD, OutboxMut, PartKind, USAGE_CACHE_READ,
        USAGE_CACHE_WRITE, USAGE_CACHE_WRITE_1H, USAGE_INPUT, USAGE_OUTPUT, USAGE_REASONING,
    },
    http::{HttpRequest, Part},
};

/// How an upstream separates the pieces of a streamed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events (`text/event-stream`).
    Sse,
    /// One JSON object a line (`application/x-ndjson`).
    Lines,
}

/// One piece of a streamed answer: a server-sent event or a line.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// The event's name; empty for lines and unnamed events.
    pub name: &'a str,
    /// Its data, UTF-8 JSON from any upstream that keeps to its own format.
    pub data: Cow<'a, [u8]>,
}

/// Tokens of one exchange so far; `None` is not known, not zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens, cache reads and writes included.
    pub input: Option<u64>,
    /// Answer tokens, reasoning included.
    pub output: Option<u64>,
    /// Prompt tokens read from a cache.
    pub cache_read: Option<u64>,
    /// Prompt tokens written to a cache for the short time.
    pub cache_write: Option<u64>,
    /// Prompt tokens written to a cache for an hour.
    pub cache_write_1h: Option<u64>,
    /// Answer tokens spent on reasoning.
    pub reasoning: Option<u64>,
}

impl Usage {
    const INDICES: [usize; 6] = [
        USAGE_INPUT,
        USAGE_OUTPUT,
        USAGE_CACHE_READ,
        USAGE_CACHE_WRITE,
        USAGE_CACHE_WRITE_1H,
        USAGE_REASONING,
    ];

    /// Takes over what `later` knows.
    pub fn update(&mut self, later: Self) {
        self.input = later.input.or(self.input);
        self.output = later.output.or(self.output);
        self.cache_read = later.cache_read.or(self.cache_read);
        self.cache_write = later.cache_write.or(self.cache_write);
        self.cache_write_1h = later.cache_write_1h.or(self.cache_write_1h);
        self.reasoning = later.reasoning.or(self.reasoning);
    }

    fn values(&self) -> [Option<u64>; 6] {
        [self.input, self.output, self.cache_read, self.cache_write, self.cache_write_1h, self.reasoning]
    }
}

impl From<Usage> for AbiUsage {
    fn from(usage: Usage) -> Self {
        let mut abi = Self::default();
        for (index, value) in Usage::INDICES.into_iter().zip(usage.values()) {
            if let Some(value) = value {
                abi.present |= 1 << index;
                abi.value[index] = value;
            }
        }
        abi
    }
}

impl From<AbiUsage> for Usage {
    fn from(abi: AbiUsage) -> Self {
        let value = |index: usize| (abi.present >> index & 1 == 1).then(|| abi.value[index]);
        Self {
            input: value(USAGE_INPUT),
            output: value(USAGE_OUTPUT),
            cache_read: value(USAGE_CACHE_READ),
            cache_write: value(USAGE_CACHE_WRITE),
            cache_write_1h: value(USAGE_CACHE_WRITE_1H),
            reasoning: value(USAGE_REASONING),
        }
    }
}

/// What a step hands to the gateway.
pub struct Out<'a, 'b> {
    pub(crate) outbox: &'a mut OutboxMut<'b>,
    /// The piece of the input that `pass` forwards; `None` if that is the input as a whole.
    pub(crate) piece: Option<&'a [u8]>,
    pub(crate) done: &'a mut bool,
    pub(crate) stop: &'a mut bool,
}

impl Out<'_, '_> {
    /// Asks for an HTTP request; the answer comes to `response` (or `fault`) with the returned id.
    pub fn http(&mut self, request: &HttpRequest) -> u64 {
        let headers: Vec<AbiAttr<'_>> = request
            .headers
            .iter()
            .map(|(name, value)| AbiAttr { name: RStr::from_str(name), value: value.as_bytes().into() })
            .collect();
        let body: Vec<AbiPart<'_>> = request.body.iter().map(abi_part).collect();
        for field in &request.dropped {
            self.outbox.ext(EXT_DROPPED_FIELD, field.as_bytes().into());
        }
        self.outbox.http(
            RStr::from_str(&request.method),
            RStr::from_str(&request.url),
            headers.as_slice().into(),
            body.as_slice().into(),
        )
    }

    /// Hands out one chunk of a streamed answer: canonical JSON, without framing.
    pub fn chunk(&mut self, json: &[u8]) {
        *self.stop |= self.outbox.emit(json.into()) != 0;
    }

    /// Forwards what the provider was just shown, untouched: the event, or the whole answer.
    pub fn pass(&mut self) {
        *self.stop |= match self.piece {
            None => self.outbox.pass(),
            Some(piece) => self.outbox.emit(piece.into()),
        } != 0;
    }

    /// Says how many tokens were used so far; the last word wins.
    pub fn usage(&mut self, usage: Usage) {
        self.outbox.usage(usage.into());
    }

    /// Asks for `timer` after this time; the id comes back with it.
    pub fn sleep(&mut self, time: Duration) -> u64 {
        self.outbox.sleep(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// Ends the exchange: the whole answer, or nothing behind a streamed one.
    pub fn done(&mut self, body: &[u8]) {
        *self.done = true;
        self.outbox.done(body.into());
    }

    /// Whether the gateway wants no more of this step: the caller left or a limit was reached.
    pub fn stopped(&self) -> bool {
        *self.stop
    }
}

fn abi_part(part: &Part) -> AbiPart<'_> {
    match part {
        Part::Literal(data) => AbiPart {
            kind: PartKind::LITERAL,
            offset: 0,
            len: data.len() as u64,
            data: data.as_slice().into(),
        },
        Part::CallBody(range) => AbiPart {
            kind: PartKind::CALL_BODY,
            offset: range.start as u64,
            len: range.len() as u64,
            data: (&[][..]).into(),
        },
    }
}
