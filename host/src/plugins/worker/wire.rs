//! What gateway and worker process say to each other, in bytes.
//!
//! A packet is a head and a piece of a message; a message belongs to one exchange. The gateway sends what
//! shall be done, in order; the worker answers with all that came of it in one message. Numbers are
//! little endian, texts and bytes come behind their length. Both sides are the same program, so there is
//! no version; but what a worker says is checked like anything from a stranger.

use std::{collections::TryReserveError, time::Duration};

use provider_api::{
    Fault, FaultKind, FaultScope, Usage,
    exchange::{Asked, Begin, BodyPart, Input, Sink},
};

/// Most bytes of a message in one packet: well below what any system lets a socket hold.
pub(super) const PIECE: usize = 60 << 10;

/// Largest packet.
pub(super) const PACKET: usize = Head::LEN + PIECE;

/// Largest answer of a worker: the largest whole answer, and room for what comes with it.
pub(super) const MAX_REPLY: usize = 96 << 20;

/// The exchange of messages that belong to none: the worker's start.
pub(super) const START: u64 = 0;

/// The exchange of what a plugin logs.
pub(super) const LOG: u64 = u64::MAX;

/// The head of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Which exchange.
    pub(super) id: u64,
    /// Bytes of the whole message; 0 says that nobody waits for the exchange any more.
    pub(super) total: u32,
    /// Where this piece starts in it.
    pub(super) offset: u32,
}

impl Head {
    const LEN: usize = 16;

    pub(super) fn bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.total.to_le_bytes());
        bytes[12..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// The head of a packet and its piece; `None` if it is none.
    pub(super) fn split(packet: &[u8]) -> Option<(Self, &[u8])> {
        let mut reader = Reader(packet);
        let head = Self { id: reader.u64()?, total: reader.u32()?, offset: reader.u32()? };
        let end = u64::from(head.offset) + reader.0.len() as u64;
        (end <= u64::from(head.total)).then_some((head, reader.0))
    }

    /// Whether this piece is the whole message.
    pub(super) fn is_whole(self, piece: &[u8]) -> bool {
        piece.len() as u64 == u64::from(self.total)
    }
}

/// The heads and pieces of a message, in order.
pub(super) fn packets(id: u64, message: &[u8]) -> impl Iterator<Item = (Head, &[u8])> {
    // Messages are far below 4 GiB: the gateway's limits and `MAX_REPLY` see to it.
    let total = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message
        .chunks(PIECE)
        .zip((0..).step_by(PIECE))
        .map(move |(piece, offset)| (Head { id, total, offset }, piece))
}

/// A message whose pieces come in any order: a worker's threads race for them.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    filled: usize,
}

impl Pieces {
    /// Adds a piece; gives the message when it is whole.
    ///
    /// # Errors
    /// No memory for it.
    pub(super) fn add(&mut self, head: Head, piece: &[u8]) -> Result<Option<Vec<u8>>, TryReserveError> {
        let total = usize::try_from(head.total).unwrap_or(usize::MAX);
        if self.filled == 0 {
            self.bytes.clear();
            self.bytes.try_reserve_exact(total)?;
            self.bytes.resize(total, 0);
        }
        let start = usize::try_from(head.offset).unwrap_or(usize::MAX);
        if let Some(place) = self.bytes.get_mut(start..start.saturating_add(piece.len())) {
            place.copy_from_slice(piece);
            self.filled += piece.len();
        }
        let whole = self.filled >= total;
        if whole {
            self.filled = 0;
        }
        Ok(whole.then(|| std::mem::take(&mut self.bytes)))
    }
}

/// What shall be done, and what came of it.
mod tag {
    pub(super) const BEGIN: u8 = 1;
    pub(super) const START: u8 = 16;
    pub(super) const HEAD: u8 = 17;
    pub(super) const BODY: u8 = 18;
    pub(super) const END: u8 = 19;
    pub(super) const TRANSPORT_ERROR: u8 = 20;
    pub(super) const TIMER: u8 = 21;
    pub(super) const CANCEL: u8 = 22;

    pub(super) const HTTP: u8 = 32;
    pub(super) const EMIT: u8 = 33;
    pub(super) const PASS: u8 = 34;
    pub(super) const USAGE: u8 = 35;
    pub(super) const SLEEP: u8 = 36;
    pub(super) const DONE: u8 = 37;
    pub(super) const DROPPED: u8 = 38;
    pub(super) const STEPPED: u8 = 48;
    pub(super) const FAULT: u8 = 49;
}

/// Writes messages.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    fn tag(&mut self, tag: u8) -> &mut Self {
        self.0.push(tag);
        self
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    fn pairs<'a>(&mut self, pairs: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>) -> &mut Self {
        self.u32(u32::try_from(pairs.len()).unwrap_or(u32::MAX));
        for (name, value) in pairs {
            self.bytes(name.as_bytes()).bytes(value);
        }
        self
    }

    /// An exchange shall begin.
    pub(super) fn begin(&mut self, begin: &Begin<'_>) {
        self.tag(tag::BEGIN).bytes(begin.operation.as_bytes()).bytes(begin.model.as_bytes());
        self.u32(u32::from(begin.stream)).u32(begin.attempt).u64(begin.now_unix_ms).u64(begin.seed);
        self.bytes(begin.body).pairs(begin.attrs.iter().map(|(name, value)| (*name, value.as_bytes())));
    }

    /// A step shall be taken.
    pub(super) fn input(&mut self, input: &Input<'_>) {
        match *input {
            Input::Start => self.tag(tag::START),
            Input::Head { id, status, headers } => {
                self.tag(tag::HEAD).u64(id).u32(u32::from(status)).pairs(headers.iter().copied())
            }
            Input::Body { id, data } => self.tag(tag::BODY).u64(id).bytes(data),
            Input::End { id } => self.tag(tag::END).u64(id),
            Input::TransportError { id, text } => {
                self.tag(tag::TRANSPORT_ERROR).u64(id).bytes(text.as_bytes())
            }
            Input::Timer { id } => self.tag(tag::TIMER).u64(id),
            Input::Cancel => self.tag(tag::CANCEL),
        };
    }

    /// How a step ended, and how long it took.
    pub(super) fn stepped(&mut self, time: Duration, outcome: &Result<(), Fault>) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match outcome {
            Ok(()) => self.tag(tag::STEPPED).u64(nanos),
            Err(fault) => {
                self.tag(tag::FAULT).u64(nanos).u32(fault.kind.0).u32(fault.scope.0);
                self.u32(u32::from(fault.status)).u64(fault.retry_after_ms);
                self.bytes(fault.message.as_bytes()).bytes(&fault.detail)
            }
        };
    }
}

/// Reads messages; anything that is not there is `None`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn tag(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn pairs(&mut self) -> Option<Vec<(&'a str, &'a [u8])>> {
        let count = self.u32()?;
        // Each takes eight bytes at least, so a lie about their number reserves little.
        let mut pairs = Vec::with_capacity((self.0.len() / 8).min(count as usize));
        for _ in 0..count {
            pairs.push((self.text()?, self.bytes()?));
        }
        Some(pairs)
    }

    /// What shall be done next, shown to `to`; `None` at the end or if nobody knows what it is.
    pub(super) fn op<T>(&mut self, to: impl FnOnce(Op<'_>) -> T) -> Option<T> {
        let input = match self.tag()? {
            tag::BEGIN => {
                let (operation, model) = (self.text()?, self.text()?);
                let (stream, attempt) = (self.u32()? == 1, self.u32()?);
                let (now_unix_ms, seed, body) = (self.u64()?, self.u64()?, self.bytes()?);
                let attrs = self
                    .pairs()?
                    .into_iter()
                    .map(|(name, value)| Some((name, std::str::from_utf8(value).ok()?)));
                let attrs = &attrs.collect::<Option<Vec<_>>>()?;
                let begin = Begin { operation, model, stream, attempt, now_unix_ms, seed, body, attrs };
                return Some(to(Op::Begin(begin)));
            }
            tag::HEAD => {
                let (id, status) = (self.u64()?, self.u32()?.try_into().ok()?);
                let headers = &self.pairs()?;
                return Some(to(Op::Step(Input::Head { id, status, headers })));
            }
            tag::START => Input::Start,
            tag::BODY => Input::Body { id: self.u64()?, data: self.bytes()? },
            tag::END => Input::End { id: self.u64()? },
            tag::TRANSPORT_ERROR => Input::TransportError { id: self.u64()?, text: self.text()? },
            tag::TIMER => Input::Timer { id: self.u64()? },
            tag::CANCEL => Input::Cancel,
            _ => return None,
        };
        Some(to(Op::Step(input)))
    }

    fn usage(&mut self) -> Option<Usage> {
        let known = self.u32()?;
        let mut next = |bit: u32| {
            let value = self.u64()?;
            Some((known >> bit & 1 == 1).then_some(value))
        };
        Some(Usage {
            input: next(0)?,
            output: next(1)?,
            cache_read: next(2)?,
            cache_write: next(3)?,
            cache_write_1h: next(4)?,
            reasoning: next(5)?,
        })
    }

    fn fault(&mut self) -> Option<Fault> {
        Some(Fault {
            kind: FaultKind(self.u32()?),
            scope: FaultScope(self.u32()?),
            status: self.u32()?.try_into().ok()?,
            retry_after_ms: self.u64()?,
            message: self.text()?.to_owned(),
            detail: self.bytes()?.to_owned(),
        })
    }

    fn asked(&mut self, sink: &mut impl Sink) -> Option<()> {
        let (method, url, headers) = (self.text()?, self.text()?, self.pairs()?);
        let count = self.u32()?;
        let mut body = Vec::new();
        for _ in 0..count {
            body.push(match self.u32()? {
                0 => Some(BodyPart::Literal(self.bytes()?)),
                1 => Some(BodyPart::CallBody { offset: self.u64()?, len: self.u64()? }),
                _ => None,
            });
        }
        Asked::lend((method, url), &headers, &body, |asked| sink.http(asked));
        Some(())
    }

    /// Repeats one step's calls on `sink`, and says how it ended and how long it took; `None` if this is
    /// no step.
    pub(super) fn replay(&mut self, sink: &mut impl Sink) -> Option<(Duration, Result<(), Fault>)> {
        loop {
            match self.tag()? {
                tag::HTTP => self.asked(sink)?,
                tag::EMIT => drop(sink.emit(self.bytes()?)),
                tag::PASS => drop(sink.pass()),
                tag::USAGE => sink.usage(self.usage()?),
                tag::SLEEP => drop(sink.sleep(self.u64()?)),
                tag::DONE => drop(sink.done(self.bytes()?)),
                tag::DROPPED => sink.dropped(self.text()?),
                tag::STEPPED => return Some((Duration::from_nanos(self.u64()?), Ok(()))),
                tag::FAULT => return Some((Duration::from_nanos(self.u64()?), Err(self.fault()?))),
                _ => return None,
            }
        }
    }
}

/// What a worker shall do.
#[derive(Debug)]
pub(super) enum Op<'a> {
    /// Begin an exchange.
    Begin(Begin<'a>),
    /// Take a step of it.
    Step(Input<'a>),
}

/// Writes down what a step hands out. Ids are given as the gateway will give them, so that nothing has to
/// be asked for.
pub(super) struct Recorder<'w> {
    pub(super) writer: &'w mut Writer,
    /// The id that was given last in this exchange.
    pub(super) last_id: &'w mut u64,
    /// Whether the exchange said that it is done.
    pub(super) done: &'w mut bool,
    /// Whether there was more than an answer may hold.
    pub(super) over: bool,
}

impl Recorder<'_> {
    fn room(&mut self, bytes: usize) -> bool {
        self.over |= self.writer.0.len() + bytes > MAX_REPLY - PIECE;
        !self.over
    }

    fn next_id(&mut self) -> u64 {
        *self.last_id += 1;
        *self.last_id
    }
}

impl Sink for Recorder<'_> {
    fn http(&mut self, asked: Asked<'_>) -> u64 {
        let headers: Vec<_> = asked.headers().collect();
        let body: Vec<_> = asked.body().collect();
        let size = |part: &Option<BodyPart<'_>>| match part {
            Some(BodyPart::Literal(bytes)) => bytes.len() + 8,
            _ => 24,
        };
        let heads: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        if !self.room(asked.method.len() + asked.url.len() + heads + body.iter().map(size).sum::<usize>()) {
            return 0;
        }
        self.writer.tag(tag::HTTP).bytes(asked.method.as_bytes()).bytes(asked.url.as_bytes());
        self.writer.pairs(headers.into_iter()).u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        for part in body {
            match part {
                Some(BodyPart::Literal(bytes)) => self.writer.u32(0).bytes(bytes),
                Some(BodyPart::CallBody { offset, len }) => self.writer.u32(1).u64(offset).u64(len),
                None => self.writer.u32(2),
            };
        }
        self.next_id()
    }

    fn emit(&mut self, chunk: &[u8]) -> bool {
        let goes_on = !*self.done && self.room(chunk.len());
        if goes_on {
            self.writer.tag(tag::EMIT).bytes(chunk);
        }
        goes_on
    }

    fn pass(&mut self) -> bool {
        let goes_on = !*self.done && self.room(0);
        if goes_on {
            self.writer.tag(tag::PASS);
        }
        goes_on
    }

    fn usage(&mut self, usage: Usage) {
        let values = [
            usage.input,
            usage.output,
            usage.cache_read,
            usage.cache_write,
            usage.cache_write_1h,
            usage.reasoning,
        ];
        if self.room(0) {
            let known = values.iter().zip(0..).map(|(value, bit)| u32::from(value.is_some()) << bit).sum();
            self.writer.tag(tag::USAGE).u32(known);
            for value in values {
                self.writer.u64(value.unwrap_or(0));
            }
        }
    }

    fn sleep(&mut self, ms: u64) -> u64 {
        if !self.room(0) {
            return 0;
        }
        self.writer.tag(tag::SLEEP).u64(ms);
        self.next_id()
    }

    fn done(&mut self, body: &[u8]) -> bool {
        if self.room(body.len()) {
            self.writer.tag(tag::DONE).bytes(body);
        }
        *self.done = true;
        true
    }

    fn dropped(&mut self, field: &str) {
        if self.room(field.len()) {
            self.writer.tag(tag::DROPPED).bytes(field.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
