//! The trait that authors implement, and the adapter that carries it across the ABI.
//!
//! Every entry runs under `catch_unwind`: a panic becomes a fault of that one request.

use std::sync::Arc;

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RResult, RSlice, RStr},
};
use serde::de::DeserializeOwned;

use crate::{
    abi::{
        AbiCall, AbiFault, AbiInput, Exchange, Exchange_TO, ExchangeBox, FaultKind, HostBox, InputKind,
        OutboxMut, ProviderBox, RawProvider, RawProvider_TO,
    },
    error::Fault,
    event::{Event, Framing, Out},
    guard::{guard, guard_drop, install_hook, listen},
    http::{HttpRequest, Reply, owned_headers},
    openai,
    request::Call,
    sse,
};

/// A model provider. Everything but `new` may be called from many threads at once.
pub trait Provider: Send + Sync + Sized + 'static {
    /// What one exchange remembers between steps.
    type State: Default + Send + 'static;

    /// The manifest: JSON, optionally followed by a table of models (see [`crate::model`]).
    const MANIFEST: &'static str;

    /// How the upstream separates the pieces of a streamed answer.
    const FRAMING: Framing = Framing::Sse;

    /// Makes an instance with the operator's settings.
    ///
    /// # Errors
    /// A setting that cannot be used; the message is shown to the operator.
    fn new(config: &Config) -> Result<Self, Fault>;

    /// How an exchange starts; by default with the one HTTP request that [`Provider::request`] builds.
    ///
    /// # Errors
    /// As [`Provider::request`].
    fn begin(&self, call: &Call<'_>, state: &mut Self::State) -> Result<Start, Fault> {
        self.request(call, state).map(Start::Http)
    }

    /// Builds the HTTP request for a call.
    ///
    /// # Errors
    /// A call that this provider cannot serve.
    fn request(&self, call: &Call<'_>, _state: &mut Self::State) -> Result<HttpRequest, Fault> {
        Err(Fault::new(
            FaultKind::UNSUPPORTED,
            format!("the operation `{}` is not supported", call.operation),
        ))
    }

    /// A whole answer with a status below 400; by default it is the caller's answer as it stands.
    ///
    /// # Errors
    /// An answer that cannot be used.
    fn response(
        &self,
        _state: &mut Self::State,
        _reply: &Reply<'_>,
        out: &mut Out<'_, '_>,
    ) -> Result<(), Fault> {
        out.pass();
        Ok(())
    }

    /// One event of a streamed answer; by default it is forwarded as it stands.
    ///
    /// # Errors
    /// An event that says that the upstream failed, or that cannot be used.
    fn event(
        &self,
        _state: &mut Self::State,
        _event: &Event<'_>,
        out: &mut Out<'_, '_>,
    ) -> Result<(), Fault> {
        out.pass();
        Ok(())
    }

    /// The streamed answer ended although nothing said that it was done; by default a failure.
    ///
    /// # Errors
    /// Always, unless the upstream's format has no end mark.
    fn end(&self, _state: &mut Self::State, _out: &mut Out<'_, '_>) -> Result<(), Fault> {
        Err(Fault::upstream("the upstream's stream ended before it was complete"))
    }

    /// A timer that `sleep` asked for is due; id 0 is the start of an exchange that began with
    /// [`Start::Now`].
    ///
    /// # Errors
    /// Whatever went wrong.
    fn timer(&self, _state: &mut Self::State, _id: u64, _out: &mut Out<'_, '_>) -> Result<(), Fault> {
        Ok(())
    }

    /// A further request (its id is above 1) failed: an answer with a status of 300 or more, or, with
    /// status 0 and what happened as the body, no answer at all. By default the exchange fails with it.
    ///
    /// # Errors
    /// Unless the exchange can do without that answer.
    fn failed(
        &self,
        _state: &mut Self::State,
        reply: &Reply<'_>,
        _out: &mut Out<'_, '_>,
    ) -> Result<(), Fault> {
        match reply.status {
            0 => Err(Fault::upstream(String::from_utf8_lossy(reply.body).into_owned())),
            _ => Err(self.fault(reply)),
        }
    }

    /// Says what an answer with a status of 300 or more means; by default it is read as OpenAI's form.
    fn fault(&self, reply: &Reply<'_>) -> Fault {
        openai::fault(reply)
    }
}

/// How an exchange starts.
#[derive(Debug, Clone)]
pub enum Start {
    /// With this request.
    Http(HttpRequest),
    /// Without one: `timer` is called with id 0.
    Now,
}

/// The operator's settings for one provider, checked against the manifest's schema. Keys are not in it.
pub struct Config {
    settings: serde_json::Value,
    host: Arc<HostBox>,
}

impl Config {
    pub(crate) fn parse(text: &[u8], host: Arc<HostBox>) -> Result<Self, Fault> {
        let settings: serde_json::Value = serde_json::from_slice(text)
            .map_err(|error| Fault::bad_request(format!("the settings are not JSON: {error}")))?;
        if !settings.is_object() {
            return Err(Fault::bad_request("the settings are not a JSON object"));
        }
        Ok(Self { settings, host })
    }

    /// The base URL in force (the operator's or the manifest's), without a slash at its end.
    pub fn base_url(&self) -> &str {
        self.settings.get("base_url").and_then(serde_json::Value::as_str).unwrap_or("").trim_end_matches('/')
    }

    /// The ids of the models that the operator names in the provider's section; may be empty.
    pub fn models(&self) -> Vec<&str> {
        let models = self.settings.get("models").and_then(serde_json::Value::as_array);
        models.into_iter().flatten().filter_map(serde_json::Value::as_str).collect()
    }

    /// A setting that the manifest declares; `None` if the operator did not set it.
    ///
    /// # Errors
    /// A value of another type.
    pub fn setting<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Fault> {
        let Some(value) = self.settings.get(name) else { return Ok(None) };
        let read = T::deserialize(value);
        read.map(Some).map_err(|error| Fault::bad_request(format!("the setting `{name}` is wrong: {error}")))
    }

    /// Writes a line to the gateway's log.
    pub fn warn(&self, text: &str) {
        self.host.log(2, RStr::from_str(text));
    }
}

/// The module's `create`, for the export macro.
#[doc(hidden)]
pub fn create<P: Provider>(config: RSlice<'_, u8>, host: HostBox) -> RResult<ProviderBox, AbiFault> {
    install_hook();
    let host = Arc::new(host);
    listen(&host);
    guard(|| {
        let provider = Arc::new(P::new(&Config::parse(config.as_slice(), Arc::clone(&host))?)?);
        Ok(RawProvider_TO::from_value(Instance { provider: Some(provider), host }, TD_Opaque))
    })
}

struct Instance<P: Provider> {
    provider: Option<Arc<P>>,
    host: Arc<HostBox>,
}

impl<P: Provider> Drop for Instance<P> {
    fn drop(&mut self) {
        let provider = self.provider.take();
        guard_drop(&self.host, move || drop(provider));
    }
}

impl<P: Provider> RawProvider for Instance<P> {
    fn begin(&self, call: AbiCall<'_>) -> RResult<ExchangeBox, AbiFault> {
        guard(|| {
            let provider = self.provider.clone().expect("present until drop");
            let call = Call::from(&call);
            let mut state = P::State::default();
            let start = provider.begin(&call, &mut state)?;
            let run = Run {
                host: Arc::clone(&self.host),
                provider: Some(provider),
                state: Some(state),
                start: Some(start),
                stream: call.stream,
                now_unix_ms: call.now_unix_ms,
                id: 0,
                status: 0,
                headers: Vec::new(),
                buffer: Vec::new(),
                seen: 0,
                done: false,
            };
            Ok(Exchange_TO::from_value(run, TD_Opaque))
        })
    }
}

/// One exchange: feeds the provider with whole events and whole answers.
struct Run<P: Provider> {
    host: Arc<HostBox>,
    provider: Option<Arc<P>>,
    state: Option<P::State>,
    start: Option<Start>,
    stream: bool,
    now_unix_ms: u64,
    id: u64,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    buffer: Vec<u8>,
    /// How much of `buffer` was already searched for the end of an event.
    seen: usize,
    done: bool,
}

impl<P: Provider> Drop for Run<P> {
    fn drop(&mut self) {
        let (state, provider) = (self.state.take(), self.provider.take());
        guard_drop(&self.host, move || {
            drop(state);
            drop(provider);
        });
    }
}

impl<P: Provider> Exchange for Run<P> {
    fn step<'a>(&mut self, input: AbiInput<'a>, out: &mut OutboxMut<'a>) -> RResult<(), AbiFault> {
        guard(|| self.run(&input, out))
    }
}

impl<P: Provider> Run<P> {
    fn run(&mut self, input: &AbiInput<'_>, out: &mut OutboxMut<'_>) -> Result<(), Fault> {
        match input.kind {
            InputKind::START => match self.start.take() {
                Some(Start::Http(request)) => self.with_out(out, None, |_, _, out| {
                    out.http(&request);
                    Ok(())
                }),
                Some(Start::Now) => {
                    self.with_out(out, None, |provider, state, out| provider.timer(state, 0, out))
                }
                None => Err(Fault::new(FaultKind::INTERNAL, "the exchange was started twice")),
            },
            InputKind::HEAD => {
                self.id = input.id;
                self.status = u16::try_from(input.status).unwrap_or(0);
                self.headers = owned_headers(input.attrs.as_slice());
                self.buffer.clear();
                self.seen = 0;
                Ok(())
            }
            InputKind::BODY if self.streams() => self.events(input.data.as_slice(), out),
            InputKind::BODY => {
                self.buffer.extend_from_slice(input.data.as_slice());
                Ok(())
            }
            InputKind::END => self.finish(out),
            InputKind::TRANSPORT_ERROR if input.id > 1 => {
                let (id, body, now_unix_ms) = (input.id, input.data.as_slice(), self.now_unix_ms);
                let reply = Reply { id, status: 0, headers: &[], body, now_unix_ms };
                self.with_out(out, None, |provider, state, out| provider.failed(state, &reply, out))
            }
            InputKind::TRANSPORT_ERROR => {
                Err(Fault::upstream(String::from_utf8_lossy(input.data.as_slice()).into_owned()))
            }
            InputKind::TIMER => {
                let id = input.id;
                self.with_out(out, None, |provider, state, out| provider.timer(state, id, out))
            }
            _ => Ok(()),
        }
    }

    /// Whether what comes is a stream of events rather than a whole answer or an error.
    fn streams(&self) -> bool {
        let reply = self.reply();
        let kind = reply.header("content-type").unwrap_or("");
        let framed = match P::FRAMING {
            Framing::Sse => kind.is_empty() || kind.starts_with("text/event-stream"),
            Framing::Lines => true,
        };
        self.stream && self.id <= 1 && self.status < 300 && framed
    }

    fn reply(&self) -> Reply<'_> {
        Reply {
            id: self.id,
            status: self.status,
            headers: &self.headers,
            body: &self.buffer,
            now_unix_ms: self.now_unix_ms,
        }
    }

    fn with_out<'a>(
        &mut self,
        outbox: &'a mut OutboxMut<'_>,
        piece: Option<&'a [u8]>,
        call: impl FnOnce(&P, &mut P::State, &mut Out<'_, '_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let provider = self.provider.as_ref().expect("present until drop");
        let state = self.state.as_mut().expect("present until drop");
        let mut stop = false;
        call(provider, state, &mut Out { outbox, piece, done: &mut self.done, stop: &mut stop })
    }

    fn events(&mut self, data: &[u8], out: &mut OutboxMut<'_>) -> Result<(), Fault> {
        if self.buffer.is_empty() && frame_end::<P>(data, 0) == Some(data.len()) {
            // The usual case: the gateway hands over one whole event, which `pass` can forward as it is.
            return self.event(data, true, out);
        }
        self.buffer.extend_from_slice(data);
        while let Some(end) = frame_end::<P>(&self.buffer, self.seen) {
            let rest = self.buffer.split_off(end);
            let event = std::mem::replace(&mut self.buffer, rest);
            self.seen = 0;
            self.event(&event, false, out)?;
        }
        self.seen = self.buffer.len();
        Ok(())
    }

    fn event(&mut self, raw: &[u8], alone: bool, out: &mut OutboxMut<'_>) -> Result<(), Fault> {
        if self.done {
            return Ok(());
        }
        let event = match P::FRAMING {
            Framing::Sse => {
                let sse::SseEvent { name, data } = sse::parse(raw);
                let Some(data) = data else { return Ok(()) };
                Event { name, data }
            }
            Framing::Lines => {
                let line = raw.trim_ascii();
                if line.is_empty() {
                    return Ok(());
                }
                Event { name: "", data: line.into() }
            }
        };
        let piece = (!alone).then_some(&*event.data);
        self.with_out(out, piece, |provider, state, out| provider.event(state, &event, out))
    }

    fn finish(&mut self, out: &mut OutboxMut<'_>) -> Result<(), Fault> {
        let provider = self.provider.clone().expect("present until drop");
        if self.streams() {
            let last = std::mem::take(&mut self.buffer);
            if P::FRAMING == Framing::Lines && !last.trim_ascii().is_empty() {
                self.event(&last, false, out)?;
            }
            return if self.done {
                Ok(())
            } else {
                self.with_out(out, None, |p, state, out| p.end(state, out))
            };
        }
        if self.status >= 300 && self.id <= 1 {
            return Err(provider.fault(&self.reply()));
        }
        if self.stream && self.id <= 1 {
            let reply = self.reply();
            // An error under a 200 means what it would have meant under its own status.
            let status = openai::status_in_answer(reply.body).unwrap_or(reply.status);
            return Err(openai::not_a_stream(provider.fault(&Reply { status, ..reply })));
        }
        let body = std::mem::take(&mut self.buffer);
        let headers = std::mem::take(&mut self.headers);
        let (id, status, now_unix_ms) = (self.id, self.status, self.now_unix_ms);
        let reply = Reply { id, status, headers: &headers, body: &body, now_unix_ms };
        self.with_out(out, None, |provider, state, out| match status {
            300.. => provider.failed(state, &reply, out),
            _ => provider.response(state, &reply, out),
        })
    }
}

fn frame_end<P: Provider>(text: &[u8], from: usize) -> Option<usize> {
    match P::FRAMING {
        Framing::Sse => sse::event_end(text, from),
        Framing::Lines => memchr::memchr(b'\n', &text[from..]).map(|at| from + at + 1),
    }
}

/// Makes a plugin of a [`Provider`]: the one symbol that a gateway looks up, and the record that it
/// reads without running anything.
#[macro_export]
macro_rules! export_provider {
    ($provider:ty) => {
        #[allow(unsafe_code, missing_docs)]
        const _: () = {
            use $crate::__private::*;
            use $crate::abi::*;

            #[cfg(panic = "abort")]
            compile_error!("a provider must be built with panic = \"unwind\"");

            extern "C" fn build() -> BuildInfo {
                BuildInfo {
                    rustc: RStr::from_str(RUSTC),
                    target: RStr::from_str(TARGET),
                    api_version: RStr::from_str(VERSION),
                    flags: 0,
                    spare: [0; 4],
                }
            }

            extern "C" fn manifest() -> RStr<'static> {
                RStr::from_str(<$provider as $crate::Provider>::MANIFEST)
            }

            extern "C" fn create(config: RSlice<'_, u8>, host: HostBox) -> RResult<ProviderBox, AbiFault> {
                $crate::provider::create::<$provider>(config, host)
            }

            fn root() -> ProviderModule_Ref {
                ProviderModule { build, manifest, create }.leak_into_prefix()
            }

            extern "C" fn erased_root() -> RootModuleResult {
                call_root(root)
            }

            const MANIFEST: &str = <$provider as $crate::Provider>::MANIFEST;

            #[used]
            #[unsafe(link_section = ".gwplugin")]
            static RECORD: [u8; $crate::abi::record_len(MANIFEST)] = $crate::abi::record(MANIFEST);

            // The name that abi_stable 0.11 looks up, written by hand so that authors need no abi_stable.
            #[unsafe(no_mangle)]
            pub static _1as_0lib_1header_0root_bmodule_bloader: LibHeader = unsafe {
                LibHeader::from_constructor::<ProviderModule_Ref>(erased_root, CheckTypeLayout::Yes)
            };
        };
    };
}
