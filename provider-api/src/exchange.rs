//! The gateway's side of an exchange: the frozen ABI behind plain Rust types.

use abi_stable::{
    sabi_trait::TD_Opaque,
    sabi_types::RMut,
    std_types::{RResult, RSlice, RStr},
};

use crate::{
    abi::{
        AbiAttr, AbiCall, AbiInput, AbiPart, AbiUsage, CALL_STREAM, EXT_DROPPED_FIELD, ExchangeBox,
        HOST_EXT_PANIC, Host, Host_TO, HostBox, InputKind, Outbox, Outbox_TO, PartKind, ProviderBox,
    },
    error::Fault,
    event::Usage,
};

/// What a call brings besides what [`crate::Call`] shows: everything borrowed for `begin`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Begin<'a> {
    /// `chat`, `embeddings`, `models`, …
    pub operation: &'a str,
    /// The upstream's id of the model; empty for operations without one.
    pub model: &'a str,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// 0 for the first attempt.
    pub attempt: u32,
    /// Unix time in milliseconds.
    pub now_unix_ms: u64,
    /// Randomness for the provider.
    pub seed: u64,
    /// The canonical request.
    pub body: &'a [u8],
    /// Facts of the model's row that the provider needs: `drops`, `requires_completion_tokens`.
    pub attrs: &'a [(&'a str, &'a str)],
}

/// What happened since the last step.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Begin.
    Start,
    /// Status and headers of HTTP call `id`.
    Head {
        /// The call.
        id: u64,
        /// HTTP status.
        status: u16,
        /// Names in lower case.
        headers: &'a [(&'a str, &'a [u8])],
    },
    /// Bytes of the answer to `id`.
    Body {
        /// The call.
        id: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// The answer to `id` is complete.
    End {
        /// The call.
        id: u64,
    },
    /// The call failed below HTTP.
    TransportError {
        /// The call.
        id: u64,
        /// What happened, without addresses or keys.
        text: &'a str,
    },
    /// The timer is due.
    Timer {
        /// The timer.
        id: u64,
    },
    /// The caller left; nothing that is handed out now is used.
    Cancel,
}

/// One part of a request body, as it crosses.
#[derive(Debug, Clone, Copy)]
pub enum BodyPart<'a> {
    /// These bytes.
    Literal(&'a [u8]),
    /// This range of the call's body; may be out of bounds, the gateway checks.
    CallBody {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// A request that a provider asks for, borrowed for the step.
pub struct Asked<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// Absolute URL, unchecked.
    pub url: &'a str,
    headers: &'a [AbiAttr<'a>],
    body: &'a [AbiPart<'a>],
}

impl Asked<'_> {
    /// Shows a request that was asked for in another process as one of this one; a part of an unknown
    /// kind is `None`.
    pub fn lend<T>(
        (method, url): (&str, &str),
        headers: &[(&str, &[u8])],
        body: &[Option<BodyPart<'_>>],
        to: impl FnOnce(Asked<'_>) -> T,
    ) -> T {
        let headers: Vec<AbiAttr<'_>> = headers
            .iter()
            .map(|(name, value)| AbiAttr { name: RStr::from_str(name), value: (*value).into() })
            .collect();
        let part = |kind, offset, len, data| AbiPart { kind, offset, len, data };
        let body: Vec<AbiPart<'_>> = body
            .iter()
            .map(|known| match known {
                Some(BodyPart::Literal(data)) => part(PartKind::LITERAL, 0, 0, (*data).into()),
                Some(BodyPart::CallBody { offset, len }) => {
                    part(PartKind::CALL_BODY, *offset, *len, RSlice::EMPTY)
                }
                None => part(PartKind(u32::MAX), 0, 0, RSlice::EMPTY),
            })
            .collect();
        to(Asked { method, url, headers: &headers, body: &body })
    }
}

impl<'a> Asked<'a> {
    /// Header names and values, unchecked.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.headers.iter().map(|attr| (attr.name.as_str(), attr.value.as_slice()))
    }

    /// The body, part by part; a part of an unknown kind is `None`.
    pub fn body(&self) -> impl Iterator<Item = Option<BodyPart<'a>>> {
        self.body.iter().map(|part| match part.kind {
            PartKind::LITERAL => Some(BodyPart::Literal(part.data.as_slice())),
            PartKind::CALL_BODY => Some(BodyPart::CallBody { offset: part.offset, len: part.len }),
            _ => None,
        })
    }
}

/// Where a step's results go. `http` and `sleep` answer an id (0: refused), the others whether the step
/// should go on.
pub trait Sink {
    /// An HTTP request.
    fn http(&mut self, asked: Asked<'_>) -> u64;
    /// A chunk of canonical JSON.
    fn emit(&mut self, chunk: &[u8]) -> bool;
    /// Forward the input (or, at the end, the whole answer) untouched.
    fn pass(&mut self) -> bool;
    /// Tokens so far.
    fn usage(&mut self, usage: Usage);
    /// A timer in milliseconds.
    fn sleep(&mut self, ms: u64) -> u64;
    /// The end, with the whole answer if it is not streamed.
    fn done(&mut self, body: &[u8]) -> bool;
    /// A request field was left out because the model rejects it.
    fn dropped(&mut self, field: &str);
}

struct Bridge<'s, S: Sink>(&'s mut S);

impl<S: Sink> Outbox for Bridge<'_, S> {
    fn http(
        &mut self,
        method: RStr<'_>,
        url: RStr<'_>,
        headers: RSlice<'_, AbiAttr<'_>>,
        body: RSlice<'_, AbiPart<'_>>,
    ) -> u64 {
        self.0.http(Asked {
            method: method.as_str(),
            url: url.as_str(),
            headers: headers.as_slice(),
            body: body.as_slice(),
        })
    }

    fn emit(&mut self, chunk: RSlice<'_, u8>) -> u64 {
        u64::from(!self.0.emit(chunk.as_slice()))
    }

    fn pass(&mut self) -> u64 {
        u64::from(!self.0.pass())
    }

    fn usage(&mut self, usage: AbiUsage) -> u64 {
        self.0.usage(usage.into());
        0
    }

    fn sleep(&mut self, ms: u64) -> u64 {
        self.0.sleep(ms)
    }

    fn done(&mut self, body: RSlice<'_, u8>) -> u64 {
        u64::from(!self.0.done(body.as_slice()))
    }

    fn ext(&mut self, code: u32, data: RSlice<'_, u8>) -> u64 {
        if code == EXT_DROPPED_FIELD {
            self.0.dropped(&String::from_utf8_lossy(data.as_slice()));
            return 1;
        }
        0
    }
}

/// The level at which [`LogFn`] is told of a panic that no exchange could answer with.
pub const PANIC_LEVEL: u32 = 0;

/// Receives what a provider logs outside of exchanges: level ([`PANIC_LEVEL`], 1 error … 4 debug) and text.
pub type LogFn = Box<dyn Fn(u32, &str) + Send + Sync>;

struct HostSide(LogFn);

impl Host for HostSide {
    fn log(&self, level: u32, text: RStr<'_>) {
        (self.0)(level, text.as_str());
    }

    fn ext(&self, code: u32, data: RSlice<'_, u8>) -> u64 {
        if code == HOST_EXT_PANIC {
            (self.0)(PANIC_LEVEL, &String::from_utf8_lossy(data.as_slice()));
            return 1;
        }
        0
    }
}

pub(crate) fn host_box(log: LogFn) -> HostBox {
    Host_TO::from_value(HostSide(log), TD_Opaque)
}

/// A configured instance of a plugin.
pub struct Instance(pub(crate) ProviderBox);

impl Instance {
    /// Begins an exchange.
    ///
    /// # Errors
    /// What the provider says, a panic included.
    pub fn begin(&self, begin: &Begin<'_>) -> Result<Exchange, Fault> {
        let attrs: Vec<AbiAttr<'_>> = begin
            .attrs
            .iter()
            .map(|(name, value)| AbiAttr { name: RStr::from_str(name), value: value.as_bytes().into() })
            .collect();
        let call = AbiCall {
            operation: begin.operation.into(),
            model: begin.model.into(),
            flags: if begin.stream { CALL_STREAM } else { 0 },
            attempt: begin.attempt,
            now_unix_ms: begin.now_unix_ms,
            seed: begin.seed,
            body: begin.body.into(),
            attrs: attrs.as_slice().into(),
            spare: [0; 4],
        };
        match self.0.begin(call) {
            RResult::ROk(exchange) => Ok(Exchange(exchange)),
            RResult::RErr(fault) => Err(fault.into()),
        }
    }
}

/// One run of a provider's state machine.
pub struct Exchange(ExchangeBox);

impl Exchange {
    /// Tells the provider what happened; results go to `sink`.
    ///
    /// # Errors
    /// What the provider says, a panic included.
    pub fn step(&mut self, input: Input<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        let mut attrs = Vec::new();
        let abi = |kind, id, status: u16, data| AbiInput {
            kind,
            status: u32::from(status),
            id,
            data,
            attrs: RSlice::EMPTY,
            spare: [0; 4],
        };
        let none = RSlice::EMPTY;
        let mut input = match input {
            Input::Start => abi(InputKind::START, 0, 0, none),
            Input::Head { id, status, headers } => {
                attrs.extend(
                    headers
                        .iter()
                        .map(|(name, value)| AbiAttr { name: RStr::from_str(name), value: (*value).into() }),
                );
                abi(InputKind::HEAD, id, status, none)
            }
            Input::Body { id, data } => abi(InputKind::BODY, id, 0, data.into()),
            Input::End { id } => abi(InputKind::END, id, 0, none),
            Input::TransportError { id, text } => {
                abi(InputKind::TRANSPORT_ERROR, id, 0, text.as_bytes().into())
            }
            Input::Timer { id } => abi(InputKind::TIMER, id, 0, none),
            Input::Cancel => abi(InputKind::CANCEL, 0, 0, none),
        };
        input.attrs = attrs.as_slice().into();
        let mut bridge = Bridge(sink);
        let mut outbox = Outbox_TO::from_ptr(RMut::new(&mut bridge), TD_Opaque);
        match self.0.step(input, &mut outbox) {
            RResult::ROk(()) => Ok(()),
            RResult::RErr(fault) => Err(fault.into()),
        }
    }
}
