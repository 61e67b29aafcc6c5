//! What a step hands out: requests, timers, events for the caller.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use provider_api::{
    Fault, FaultKind, Usage,
    exchange::{Asked, Sink},
    openai, sse,
};

use super::{Call, MAX_ANSWER_BYTES, Queue};
use crate::{
    channel::Channel,
    dialect::{
        answer::Assembly,
        events::{self, Kind},
    },
    plugins::Provider,
    upstream::{Origin, Request},
};

/// Most requests and timers that one exchange may ask for.
const MAX_ASKED: u64 = 4096;

/// Where a step's results go.
pub(super) struct Outbox {
    pub(super) provider: Arc<Provider>,
    /// Whose key the requests carry.
    pub(super) channel: Arc<Channel>,
    pub(super) operation: &'static str,
    pub(super) requests: Queue<(u64, Arc<Origin>, Request)>,
    pub(super) timers: Queue<(u64, Duration)>,
    /// Whole events that the caller has not got yet.
    pub(super) out: BytesMut,
    /// Whether an event that is not a comment was accepted.
    pub(super) ready: bool,
    pub(super) finished: bool,
    /// A whole answer.
    pub(super) answer: Option<Bytes>,
    pub(super) usage: Usage,
    /// Chunks so far: about one token each, for the estimate if no usage comes.
    pub(super) chunks: u64,
    pub(super) dropped: Vec<String>,
    pub(super) assembly: Option<Assembly>,
    /// What `pass` forwards.
    pub(super) current: Option<Bytes>,
    /// Whether the upstream's stream is in server-sent events.
    pub(super) framed: bool,
    /// Whether whole answers may go past the plugin.
    pub(super) whole_passes: bool,
    pub(super) refused: Option<Fault>,
    stream: bool,
    include_usage: bool,
    pub(super) call_body: Bytes,
    last_id: u64,
}

impl Outbox {
    pub(super) fn new(provider: Arc<Provider>, channel: Arc<Channel>, call: &Call) -> Self {
        let whole_passes = provider.passes_response && call.operation != "models";
        Self {
            provider,
            channel,
            operation: call.operation,
            requests: Queue::new(),
            timers: Queue::new(),
            out: BytesMut::new(),
            ready: false,
            finished: false,
            answer: None,
            usage: Usage::default(),
            chunks: 0,
            dropped: Vec::new(),
            assembly: call.keep_answer.then(Assembly::default),
            current: None,
            framed: false,
            whole_passes,
            refused: None,
            stream: call.stream,
            include_usage: call.include_usage,
            call_body: call.body.clone(),
            last_id: 0,
        }
    }

    /// Whether an event must go through the plugin.
    pub(super) fn wakes(&self, event: &[u8]) -> bool {
        self.provider.wake.iter().any(|text| text.find(event).is_some())
    }

    /// Whether a whole answer can go past the plugin.
    pub(super) fn passes_whole(&self, body: &[u8]) -> bool {
        self.whole_passes && !self.wakes(body)
    }

    /// Everything that waits for the caller.
    pub(super) fn take(&mut self) -> Bytes {
        self.out.split().freeze()
    }

    /// Takes one whole event in the caller's format.
    pub(super) fn accept(&mut self, event: BytesMut) -> Result<(), Fault> {
        match events::look(&event) {
            Kind::Comment => {}
            Kind::Done if self.chunks == 0 => {
                return Err(Fault::upstream("the upstream's stream ended before anything was in it"));
            }
            Kind::Done => {
                self.finished = true;
                return Ok(());
            }
            Kind::Garbage => {
                return Err(Fault::new(
                    FaultKind::DECODE,
                    "the upstream's stream holds an event that is no JSON",
                ));
            }
            Kind::Error(data) => {
                let fault = openai::fault_in_answer(&data);
                return Err(
                    fault.unwrap_or_else(|| Fault::upstream("the upstream reported an error in its stream"))
                );
            }
            Kind::Chunk { usage, extra } => {
                if let Some(usage) = usage {
                    self.usage.update(usage);
                }
                if extra && !self.include_usage {
                    return Ok(());
                }
                self.ready = true;
                self.chunks += 1;
                if let Some(assembly) = &mut self.assembly
                    && let Some(data) = events::data(&event)
                {
                    assembly.add(&data);
                }
            }
        }
        if self.out.is_empty() {
            self.out = event;
        } else {
            // Events of one read lie side by side: this joins them without a copy.
            self.out.unsplit(event);
        }
        Ok(())
    }

    fn next_id(&mut self) -> u64 {
        if self.last_id >= MAX_ASKED {
            return 0;
        }
        self.last_id += 1;
        self.last_id
    }

    /// Frames a chunk that the plugin made.
    fn frame(&mut self, chunk: &[u8]) -> bool {
        let chunk = sse::one_line(chunk);
        let mut event = BytesMut::with_capacity(chunk.len() + 8);
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&chunk);
        event.extend_from_slice(b"\n\n");
        match self.accept(event) {
            Ok(()) => true,
            Err(fault) => {
                self.refused = Some(fault);
                false
            }
        }
    }
}

impl Sink for Outbox {
    fn http(&mut self, asked: Asked<'_>) -> u64 {
        let id = self.next_id();
        if id == 0 {
            return 0;
        }
        match self.provider.prepare(&self.channel, &asked, &self.call_body) {
            Ok((origin, request)) => {
                self.requests.push_back((id, origin, request));
                id
            }
            Err(fault) => {
                self.refused = Some(fault);
                0
            }
        }
    }

    fn emit(&mut self, chunk: &[u8]) -> bool {
        if self.finished {
            return false;
        }
        if self.stream {
            return self.frame(chunk);
        }
        self.refused =
            Some(Fault::new(FaultKind::INTERNAL, "the plugin streams an answer that is not streamed"));
        false
    }

    fn pass(&mut self) -> bool {
        let Some(current) = self.current.take() else { return true };
        if !self.stream {
            self.answer = Some(current);
            self.finished = true;
            return true;
        }
        if !self.framed {
            return self.frame(&current);
        }
        match self.accept(BytesMut::from(current)) {
            Ok(()) => !self.finished,
            Err(fault) => {
                self.refused = Some(fault);
                false
            }
        }
    }

    fn usage(&mut self, usage: Usage) {
        self.usage.update(usage);
    }

    fn sleep(&mut self, ms: u64) -> u64 {
        let id = self.next_id();
        if id > 0 {
            self.timers.push_back((id, Duration::from_millis(ms)));
        }
        id
    }

    fn done(&mut self, body: &[u8]) -> bool {
        if !self.stream && body.len() <= MAX_ANSWER_BYTES {
            self.answer = Some(Bytes::copy_from_slice(body));
        }
        self.finished = true;
        true
    }

    fn dropped(&mut self, field: &str) {
        if self.dropped.len() < 64 && !self.dropped.iter().any(|known| known == field) {
            self.dropped.push(field.to_owned());
        }
    }
}
