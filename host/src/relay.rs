//! One run of a plugin for one attempt: its requests go to the upstream, the answers come back through
//! it, or past it where the upstream speaks the caller's format already.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use provider_api::{
    Fault, Usage,
    exchange::{Begin, Input},
    openai,
    request::Members,
    sse,
};
use tokio::time::Instant;

use crate::{
    channel::Channel,
    plugins::{
        Provider,
        meter::{Clock, InFlight},
        runner::Exchange,
        trace::Trace,
    },
    upstream::{Origin, Request, Response, TransportError, Upstream},
};

mod activity;
pub mod deliver;
pub mod ledger;
mod outbox;
mod rules;
mod step;

pub use activity::Activity;
use outbox::Outbox;
use rules::{check_encoding, checked_answer, too_large};
use step::count;

/// Largest whole answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Largest error body that is read for its words.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// Largest event of a stream, and most that may come without one's end.
const MAX_EVENT_BYTES: usize = 8 << 20;

/// Comments of an upstream after which a stream's head is sent though no event is there yet.
const MAX_COMMENT_BYTES: usize = 64 << 10;

/// What is asked of a provider; the same for each attempt.
#[derive(Debug, Clone)]
pub struct Call {
    /// `chat`, `embeddings`, `models`.
    pub operation: &'static str,
    /// The upstream's id of the model.
    pub model: Arc<str>,
    /// Request fields that the model rejects, separated by spaces.
    pub drops: Arc<str>,
    /// Whether the model takes `max_completion_tokens` and refuses `max_tokens`.
    pub requires_completion_tokens: bool,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// The canonical request.
    pub body: Bytes,
    /// Whether the caller wants the chunk with the usage.
    pub include_usage: bool,
    /// Whether the streamed answer is put together for a session.
    pub keep_answer: bool,
    /// For connecting.
    pub connect: Duration,
}

/// A whole answer.
#[derive(Debug)]
pub struct Whole {
    /// Its body.
    pub body: Bytes,
    /// Tokens.
    pub usage: Usage,
    /// Request fields that were left out because the model rejects them.
    pub dropped: Vec<String>,
}

/// What comes next of a stream.
#[derive(Debug)]
pub enum Next {
    /// Whole events; more will come.
    More(Bytes),
    /// The last events; behind them only the end mark.
    Last(Bytes),
}

type Sending = Pin<Box<dyn Future<Output = Result<Response, TransportError>> + Send>>;

/// One run of a plugin's state machine.
pub struct Run {
    upstream: Arc<Upstream>,
    connect: Duration,
    exchange: Exchange,
    /// Bytes that the plugin was given so far.
    fed: usize,
    outbox: Outbox,
    sending: Option<(u64, Sending)>,
    answering: Option<(u64, Response)>,
    timer: Option<(u64, Instant)>,
    buffer: BytesMut,
    /// How much of `buffer` was searched for the end of an event.
    seen: usize,
    /// Bytes that a plugin which frames for itself was given since the last line end.
    unframed: usize,
    failed: Option<Fault>,
    activity: Activity,
    /// If somebody waits for a record of it.
    trace: Option<Box<Trace>>,
    _in_flight: InFlight,
}

impl Run {
    /// Begins the exchange and takes its first step.
    ///
    /// # Errors
    /// What the plugin says about the call.
    pub async fn start(
        upstream: &Arc<Upstream>,
        (provider, channel): (&Arc<Provider>, &Arc<Channel>),
        call: &Call,
        attempt: u32,
    ) -> Result<Box<Self>, Fault> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now_unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let requires = if call.requires_completion_tokens { "true" } else { "false" };
        let begin = Begin {
            operation: call.operation,
            model: &call.model,
            stream: call.stream,
            attempt,
            now_unix_ms,
            seed: crate::gateway::random(),
            body: &call.body,
            attrs: &[("drops", &*call.drops), ("requires_completion_tokens", requires)],
        };
        let generation = &provider.generation;
        let in_flight = generation.meter.enter();
        let clock = Clock::start();
        let begun = provider.runner.begin(&begin);
        clock.stop(generation, call.body.len());
        let mut trace = provider.record(&begin);
        trace.iter_mut().for_each(|trace| trace.ended(&begun));
        let exchange = begun.inspect_err(|fault| count(provider, fault))?;
        // Boxed: it is handed on several times, and copying it costs more than its place.
        let mut run = Box::new(Self {
            upstream: Arc::clone(upstream),
            connect: call.connect,
            exchange,
            fed: call.body.len(),
            outbox: Outbox::new(Arc::clone(provider), Arc::clone(channel), call),
            sending: None,
            answering: None,
            timer: None,
            buffer: BytesMut::new(),
            seen: 0,
            unframed: 0,
            failed: None,
            activity: Activity::default(),
            trace,
            _in_flight: in_flight,
        });
        run.step(Input::Start).await?;
        Ok(run)
    }

    /// Runs to the whole answer. Dropping the future ends the upstream's work.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn whole(mut self: Box<Self>) -> Result<Whole, Fault> {
        while !self.outbox.finished {
            if let Some((id, origin, request)) = self.outbox.requests.pop_front() {
                match self.upstream.send(&origin, &request, self.connect).await {
                    Ok(response) => self.whole_answer(id, response).await?,
                    Err(error) => self.transport_failed(id, &error).await?,
                }
            } else if !self.wait_for_timer().await? {
                return Err(self.stuck());
            }
        }
        let Outbox { answer, mut usage, dropped, .. } = self.outbox;
        let body = answer.unwrap_or_default();
        if usage == Usage::default()
            && let Ok(members) = Members::parse(&body)
        {
            usage = members.value("usage").map(openai::usage).unwrap_or_default();
        }
        Ok(Whole { body, usage, dropped })
    }

    /// Reads an answer to its end and shows it to the plugin, unless it can pass.
    async fn whole_answer(&mut self, id: u64, mut response: Response) -> Result<(), Fault> {
        let failed = response.status >= 300;
        let limit = if failed { MAX_ERROR_BYTES } else { MAX_ANSWER_BYTES };
        let mut body = BytesMut::new();
        check_encoding(&response)?;
        if let Some(length) = response.remaining() {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > limit && !failed {
                return Err(too_large());
            }
            body.reserve(length.min(limit));
        }
        loop {
            match response.read_body(&mut body).await {
                Ok(true) if body.len() <= limit => {}
                Ok(true) if failed => break,
                Ok(true) => return Err(too_large()),
                Ok(false) => break,
                // The status says more than the missing end of its words.
                Err(_) if failed => break,
                Err(error) => return self.transport_failed(id, &error).await,
            }
        }
        let body = body.freeze();
        if !failed && id == 1 && self.outbox.passes_whole(&body) {
            self.trace.iter_mut().for_each(|trace| trace.past(&body));
            self.outbox.usage = checked_answer(self.outbox.operation, &body)?;
            self.outbox.answer = Some(body);
            self.outbox.finished = true;
            return Ok(());
        }
        self.head(id, &response).await?;
        self.outbox.current = Some(body.clone());
        self.step(Input::Body { id, data: &body }).await?;
        self.step(Input::End { id }).await?;
        self.outbox.current = None;
        Ok(())
    }

    /// Runs until the first event that is not an error is there, or, behind an upstream's 200, until
    /// `patience` is over. What is there is kept for [`Run::next`].
    ///
    /// # Errors
    /// Why there is no stream; nothing was sent to the caller yet.
    pub async fn opened(&mut self, patience: Duration) -> Result<(), Fault> {
        while !self.outbox.ready && !self.outbox.finished && self.answering.is_none() {
            self.advance().await?;
        }
        // Only reads are cut short: a step that was begun is always seen to its end.
        let until = Instant::now() + patience;
        while !self.outbox.ready && !self.outbox.finished && Instant::now() < until {
            let read =
                if self.answering.is_some() { self.read(Some(until)).await } else { self.advance().await };
            match read {
                // An event came in the same read: the head belongs to it, the fault comes behind.
                Err(fault) if self.outbox.ready => self.failed = Some(fault),
                Err(fault) => return Err(fault),
                Ok(()) if self.outbox.out.len() > MAX_COMMENT_BYTES => return Ok(()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Request fields that were left out so far because the model rejects them.
    pub fn dropped(&self) -> &[String] {
        &self.outbox.dropped
    }

    /// What comes next. Not cancel-safe: a step may be under way in another process, so whoever waits no
    /// longer drops the run as well.
    ///
    /// # Errors
    /// Why the stream breaks off; everything before was handed out.
    pub async fn next(&mut self) -> Result<Next, Fault> {
        loop {
            if self.outbox.finished {
                return Ok(Next::Last(self.outbox.take()));
            }
            if !self.outbox.out.is_empty() {
                return Ok(Next::More(self.outbox.take()));
            }
            if let Some(fault) = self.failed.take() {
                return Err(fault);
            }
            let advanced = self.advance().await;
            self.activity.note();
            if let Err(fault) = advanced {
                self.failed = Some(fault);
            }
        }
    }

    /// Tells, also while [`Run::next`] is under way, when anything came last.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Takes one step: sends what was asked for, reads once, or waits for a timer.
    async fn advance(&mut self) -> Result<(), Fault> {
        if self.answering.is_some() {
            return self.read(None).await;
        }
        if let Some((id, sending)) = &mut self.sending {
            let (id, sent) = (*id, sending.await);
            self.sending = None;
            return match sent {
                // Boxed: it happens once, and every stream would carry its room to the end.
                Ok(response) => Box::pin(self.stream_answer(id, response)).await,
                Err(error) => self.transport_failed(id, &error).await,
            };
        }
        if let Some((id, origin, request)) = self.outbox.requests.pop_front() {
            let (upstream, connect) = (Arc::clone(&self.upstream), self.connect);
            self.sending = Some((id, Box::pin(send(upstream, origin, request, connect))));
            return Ok(());
        }
        if self.wait_for_timer().await? { Ok(()) } else { Err(self.stuck()) }
    }

    /// The head of an answer: the caller's stream is read piece by piece, anything else as a whole.
    async fn stream_answer(&mut self, id: u64, response: Response) -> Result<(), Fault> {
        if id > 1 || response.status >= 300 {
            return self.whole_answer(id, response).await;
        }
        check_encoding(&response)?;
        let kind = response.header("content-type").unwrap_or("").to_ascii_lowercase();
        self.outbox.framed = kind.is_empty() || kind.starts_with("text/event-stream");
        if !self.outbox.framed && self.outbox.provider.passes_stream {
            return Err(self.no_stream(id, response).await);
        }
        if !self.outbox.provider.passes_stream || !self.outbox.provider.wake.is_empty() {
            self.head(id, &response).await?;
        }
        self.answering = Some((id, response));
        Ok(())
    }

    /// A whole body where a stream was due: an error, in the upstream's words if it has some.
    async fn no_stream(&mut self, id: u64, response: Response) -> Fault {
        let content = response.header("content-type").unwrap_or("").to_owned();
        let passes = std::mem::replace(&mut self.outbox.whole_passes, false);
        let seen = self.whole_answer(id, response).await;
        self.outbox.whole_passes = passes;
        let body = self.outbox.answer.take().unwrap_or_default();
        seen.err().or_else(|| openai::fault_in_answer(&body)).unwrap_or_else(|| {
            Fault::upstream(format!("the upstream answered with {content:?} where a stream was due"))
        })
    }

    /// Reads once from the upstream, up to a time if one is given, and handles all whole events that are
    /// there.
    async fn read(&mut self, until: Option<Instant>) -> Result<(), Fault> {
        let Some((id, response)) = &mut self.answering else { return Ok(()) };
        let (id, reading) = (*id, response.read_body(&mut self.buffer));
        let read = match until {
            None => reading.await,
            Some(until) => match tokio::time::timeout_at(until, reading).await {
                Ok(read) => read,
                Err(_) => return Ok(()),
            },
        };
        match read {
            Ok(true) if self.outbox.framed => self.events(id).await?,
            Ok(true) => self.unframed(id).await?,
            Ok(false) => {
                self.answering = None;
                return self.end(id).await;
            }
            Err(error) => {
                self.answering = None;
                return self.transport_failed(id, &error).await;
            }
        }
        if self.buffer.len() > MAX_EVENT_BYTES || self.unframed > MAX_EVENT_BYTES {
            return Err(Fault::upstream("the upstream sent an event that is over 8 MiB"));
        }
        Ok(())
    }

    async fn events(&mut self, id: u64) -> Result<(), Fault> {
        let mut gathered = Vec::new();
        while let Some(end) = sse::event_end(&self.buffer, self.seen) {
            let event = self.buffer.split_to(end);
            self.seen = 0;
            if self.outbox.finished {
                continue;
            }
            if !self.outbox.provider.passes_stream || self.outbox.wakes(&event) {
                let event = event.freeze();
                if self.gathers() {
                    gathered.push(event);
                    continue;
                }
                self.outbox.current = Some(event.clone());
                self.step(Input::Body { id, data: &event }).await?;
                self.outbox.current = None;
            } else {
                self.step_all(id, &mut gathered).await?;
                if !self.outbox.finished {
                    self.trace.iter_mut().for_each(|trace| trace.past(&event));
                    self.outbox.accept(event)?;
                }
            }
        }
        self.seen = self.buffer.len();
        self.step_all(id, &mut gathered).await
    }

    async fn unframed(&mut self, id: u64) -> Result<(), Fault> {
        let piece = self.buffer.split().freeze();
        self.unframed = match memchr::memrchr(b'\n', &piece) {
            Some(at) => piece.len() - at,
            None => self.unframed + piece.len(),
        };
        self.step(Input::Body { id, data: &piece }).await
    }

    async fn end(&mut self, id: u64) -> Result<(), Fault> {
        if self.outbox.finished {
            return Ok(());
        }
        if self.outbox.provider.passes_stream {
            return Err(Fault::upstream("the upstream's stream ended before it was complete"));
        }
        if !self.buffer.trim_ascii().is_empty() {
            let rest = self.buffer.split().freeze();
            self.step(Input::Body { id, data: &rest }).await?;
        }
        self.step(Input::End { id }).await
    }

    /// Waits for the timer that is due first; `false` if there is none.
    async fn wait_for_timer(&mut self) -> Result<bool, Fault> {
        if self.timer.is_none() {
            let asked = self.outbox.timers.pop_front();
            self.timer = asked.map(|(id, time)| (id, Instant::now() + time));
        }
        let Some((id, due)) = self.timer else { return Ok(false) };
        tokio::time::sleep_until(due).await;
        self.timer = None;
        self.step(Input::Timer { id }).await?;
        Ok(true)
    }

    /// Lets the upstream's connection be used again if its end comes at once.
    async fn settle_connection(&mut self) {
        let Some((_, response)) = &mut self.answering else { return };
        let mut rest = BytesMut::new();
        let drained = async { while rest.len() < 4096 && response.read_body(&mut rest).await == Ok(true) {} };
        let _ = tokio::time::timeout(Duration::from_millis(5), drained).await;
    }
}

async fn send(
    upstream: Arc<Upstream>,
    origin: Arc<Origin>,
    request: Request,
    connect: Duration,
) -> Result<Response, TransportError> {
    upstream.send(&origin, &request, connect).await
}

/// Queues that one step may fill.
type Queue<T> = VecDeque<T>;
