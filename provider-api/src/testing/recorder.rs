//! The gateway's place in a test: records all that a provider hands out.

use std::collections::VecDeque;

use crate::{
    abi::FaultKind,
    error::Fault,
    event::Usage,
    exchange::{Asked, BodyPart, Sink},
};

use super::Request;

/// As many requests and timers as a gateway allows in one exchange; more are refused with the id 0.
const MAX_ASKED: usize = 4096;

/// Something that was handed out.
pub(super) struct Item {
    /// Whether it was forwarded as it came.
    pub(super) passed: bool,
    pub(super) bytes: Vec<u8>,
}

/// What was handed out so far.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) body: Vec<u8>,
    /// The input of this step, where `pass` would forward it.
    pub(super) piece: Option<Vec<u8>>,
    /// The answer so far, which `pass` forwards at its end.
    pub(super) received: Vec<u8>,
    pub(super) requests: Vec<Request>,
    pub(super) items: Vec<Item>,
    pub(super) usage: Usage,
    pub(super) dropped: Vec<String>,
    pub(super) done: Option<Vec<u8>>,
    pub(super) sleeps: Vec<u64>,
    pub(super) timers: VecDeque<u64>,
    /// Why the gateway would end the exchange here.
    pub(super) refused: Option<Fault>,
}

impl Recorder {
    fn is_full(&self) -> bool {
        self.requests.len() + self.sleeps.len() >= MAX_ASKED
    }

    /// The body's parts; `None` if one lies outside the call's body.
    fn put_together(&self, asked: &Asked<'_>) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        for part in asked.body() {
            match part? {
                BodyPart::Literal(data) => body.extend_from_slice(data),
                BodyPart::CallBody { offset, len } => {
                    let start = usize::try_from(offset).ok()?;
                    let end = usize::try_from(offset.checked_add(len)?).ok()?;
                    body.extend_from_slice(self.body.get(start..end)?);
                }
            }
        }
        Some(body)
    }

    pub(super) fn untouched(&self) -> bool {
        self.requests.is_empty() && self.items.is_empty() && self.sleeps.is_empty()
    }
}

impl Sink for Recorder {
    fn http(&mut self, asked: Asked<'_>) -> u64 {
        if self.is_full() {
            return 0;
        }
        let Some(body) = self.put_together(&asked) else {
            self.refused = Some(Fault::new(FaultKind::INTERNAL, "the request has a body that is not there"));
            return 0;
        };
        let headers = asked.headers();
        let headers = headers.map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into()));
        self.requests.push(Request {
            method: asked.method.to_owned(),
            url: asked.url.to_owned(),
            headers: headers.collect(),
            body,
        });
        self.requests.len() as u64
    }

    fn emit(&mut self, chunk: &[u8]) -> bool {
        self.items.push(Item { passed: false, bytes: chunk.to_vec() });
        true
    }

    fn pass(&mut self) -> bool {
        let whole = self.piece.is_none();
        let bytes = self.piece.clone().unwrap_or_else(|| self.received.clone());
        self.items.push(Item { passed: true, bytes });
        if whole {
            self.done = Some(Vec::new());
        }
        true
    }

    fn usage(&mut self, usage: Usage) {
        self.usage.update(usage);
    }

    fn sleep(&mut self, ms: u64) -> u64 {
        if self.is_full() {
            return 0;
        }
        self.sleeps.push(ms);
        let id = self.sleeps.len() as u64;
        self.timers.push_back(id);
        id
    }

    fn done(&mut self, body: &[u8]) -> bool {
        self.done = Some(body.to_vec());
        true
    }

    fn dropped(&mut self, field: &str) {
        self.dropped.push(field.to_owned());
    }
}
