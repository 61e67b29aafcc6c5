//! The frozen file: everything that crosses between gateway and plugin.
//!
//! Rules, kept by a layout snapshot in the tests: a plain struct never changes; the module grows only
//! by fields after `last_prefix_field`, a trait only by methods with a default body after it, an open
//! enum only by new constants. Names and order are part of the layout. Everything borrowed lives for
//! one call. No `bool` crosses; lengths and times are `u64`.

#![allow(missing_docs, non_camel_case_types, non_local_definitions)]

use abi_stable::{
    StableAbi, declare_root_module_statics,
    library::RootModule,
    package_version_strings, sabi_trait,
    sabi_types::{RMut, VersionStrings},
    std_types::{RBox, RResult, RSlice, RStr, RString, RVec},
};

/// What went wrong; an open enum, unknown values are legal and mean [`FaultKind::INTERNAL`].
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultKind(pub u32);

impl FaultKind {
    pub const INTERNAL: Self = Self(0);
    pub const PANIC: Self = Self(1);
    pub const BAD_REQUEST: Self = Self(2);
    pub const AUTH: Self = Self(3);
    pub const RATE_LIMIT: Self = Self(4);
    pub const OVERLOADED: Self = Self(5);
    pub const UPSTREAM: Self = Self(6);
    pub const CONTEXT_LENGTH: Self = Self(7);
    pub const DECODE: Self = Self(8);
    pub const UNSUPPORTED: Self = Self(9);
    pub const QUOTA: Self = Self(10);
    pub const CONTENT_FILTER: Self = Self(11);
    pub const CANCELLED: Self = Self(12);
    pub const NOT_FOUND: Self = Self(13);
    pub const TIMEOUT: Self = Self(14);
}

/// How far a fault reaches; an open enum.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultScope(pub u32);

impl FaultScope {
    pub const REQUEST: Self = Self(0);
    pub const MODEL: Self = Self(1);
    pub const CHANNEL: Self = Self(2);
    pub const ACCOUNT: Self = Self(3);
    pub const PROVIDER: Self = Self(4);
}

/// What an exchange is told; an open enum, unknown kinds are ignored.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InputKind(pub u32);

impl InputKind {
    pub const START: Self = Self(0);
    pub const HEAD: Self = Self(1);
    pub const BODY: Self = Self(2);
    pub const END: Self = Self(3);
    pub const TRANSPORT_ERROR: Self = Self(4);
    pub const TIMER: Self = Self(5);
    pub const CANCEL: Self = Self(6);
    pub const CHILD: Self = Self(7);
}

/// Where the bytes of one part of a request body come from.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PartKind(pub u32);

impl PartKind {
    /// `data` itself.
    pub const LITERAL: Self = Self(0);
    /// `len` bytes of the call's body from `offset`: the gateway keeps one copy and can send it again.
    pub const CALL_BODY: Self = Self(1);
}

/// Bits of [`AbiCall::flags`].
pub const CALL_STREAM: u32 = 1;

/// Codes of [`Outbox::ext`]. Unknown codes answer 0.
pub const EXT_DROPPED_FIELD: u32 = 1;

/// Codes of [`Host::ext`]. Unknown codes answer 0.
/// The plugin panicked outside of any exchange, or after its end; the data is what and where.
pub const HOST_EXT_PANIC: u32 = 1;

/// Indices into [`AbiUsage::value`]; all count tokens. Input includes cache reads and writes, output
/// includes reasoning; values are cumulative and the last wins.
pub const USAGE_INPUT: usize = 0;
pub const USAGE_OUTPUT: usize = 1;
pub const USAGE_CACHE_READ: usize = 2;
pub const USAGE_CACHE_WRITE: usize = 3;
pub const USAGE_CACHE_WRITE_1H: usize = 4;
pub const USAGE_REASONING: usize = 5;

/// A header or an open attribute.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiAttr<'a> {
    pub name: RStr<'a>,
    pub value: RSlice<'a, u8>,
}

/// One part of a request body.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiPart<'a> {
    pub kind: PartKind,
    pub offset: u64,
    pub len: u64,
    pub data: RSlice<'a, u8>,
}

/// What a caller wants done.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiCall<'a> {
    pub operation: RStr<'a>,
    pub model: RStr<'a>,
    pub flags: u32,
    pub attempt: u32,
    pub now_unix_ms: u64,
    pub seed: u64,
    pub body: RSlice<'a, u8>,
    pub attrs: RSlice<'a, AbiAttr<'a>>,
    pub spare: [u64; 4],
}

/// What happened since the last step. `id` names the HTTP call or the timer it belongs to.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiInput<'a> {
    pub kind: InputKind,
    pub status: u32,
    pub id: u64,
    pub data: RSlice<'a, u8>,
    pub attrs: RSlice<'a, AbiAttr<'a>>,
    pub spare: [u64; 4],
}

/// Tokens; bit n of `present` says that `value[n]` is known.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct AbiUsage {
    pub present: u64,
    pub value: [u64; 16],
}

/// Why an exchange or a construction failed. `detail` is canonical error JSON (`type`, `param`, `code`).
#[repr(C)]
#[derive(StableAbi, Debug)]
pub struct AbiFault {
    pub kind: FaultKind,
    pub scope: FaultScope,
    pub status: u32,
    pub retry_after_ms: u64,
    pub message: RString,
    pub detail: RVec<u8>,
    pub spare: [u64; 4],
}

/// What a step hands to the gateway. `http` and `sleep` answer the id (0: refused); the others answer
/// 0 to go on, 1 to return from the step now (a limit was reached or the caller left).
#[sabi_trait]
pub trait Outbox {
    fn http(
        &mut self,
        method: RStr<'_>,
        url: RStr<'_>,
        headers: RSlice<'_, AbiAttr<'_>>,
        body: RSlice<'_, AbiPart<'_>>,
    ) -> u64;
    fn emit(&mut self, chunk: RSlice<'_, u8>) -> u64;
    fn pass(&mut self) -> u64;
    fn usage(&mut self, usage: AbiUsage) -> u64;
    fn sleep(&mut self, ms: u64) -> u64;
    fn done(&mut self, body: RSlice<'_, u8>) -> u64;
    #[sabi(last_prefix_field)]
    fn ext(&mut self, code: u32, data: RSlice<'_, u8>) -> u64;
}

pub type OutboxMut<'a> = Outbox_TO<'a, RMut<'a, ()>>;

/// One run of a plugin's state machine.
#[sabi_trait]
pub trait Exchange: Send {
    #[sabi(last_prefix_field)]
    fn step<'a>(&mut self, input: AbiInput<'a>, out: &mut OutboxMut<'a>) -> RResult<(), AbiFault>;
}

pub type ExchangeBox = Exchange_TO<'static, RBox<()>>;

/// A configured instance of a plugin.
#[sabi_trait]
pub trait RawProvider: Send + Sync {
    #[sabi(last_prefix_field)]
    fn begin(&self, call: AbiCall<'_>) -> RResult<ExchangeBox, AbiFault>;
}

pub type ProviderBox = RawProvider_TO<'static, RBox<()>>;

/// What the gateway does for a provider outside of exchanges; neither method blocks.
#[sabi_trait]
pub trait Host: Send + Sync {
    /// `level`: 1 error, 2 warn, 3 info, 4 debug.
    fn log(&self, level: u32, text: RStr<'_>);
    #[sabi(last_prefix_field)]
    fn ext(&self, code: u32, data: RSlice<'_, u8>) -> u64;
}

pub type HostBox = Host_TO<'static, RBox<()>>;

/// What built a plugin: shown, not enforced.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct BuildInfo {
    pub rustc: RStr<'static>,
    pub target: RStr<'static>,
    pub api_version: RStr<'static>,
    pub flags: u64,
    pub spare: [u64; 4],
}

/// The root of a plugin. The first two functions return constant data.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ProviderModule_Ref)))]
#[sabi(missing_field(option))]
pub struct ProviderModule {
    pub build: extern "C" fn() -> BuildInfo,
    pub manifest: extern "C" fn() -> RStr<'static>,
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(config: RSlice<'_, u8>, host: HostBox) -> RResult<ProviderBox, AbiFault>,
}

impl RootModule for ProviderModule_Ref {
    declare_root_module_statics! {ProviderModule_Ref}
    const BASE_NAME: &'static str = "provider";
    const NAME: &'static str = "provider";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

/// First bytes of the record in ELF section `.gwplugin`.
pub const RECORD_MAGIC: &[u8; 8] = b"GWPLUGIN";

/// Length of the record's fixed part: magic, total length (u64), version (u32), length of rustc (u32).
pub const RECORD_HEAD: usize = 24;

/// Length of the record for a manifest.
pub const fn record_len(manifest: &str) -> usize {
    RECORD_HEAD + crate::__private::RUSTC.len() + manifest.len()
}

/// The record that a gateway reads without running the plugin: fixed part, rustc, manifest.
pub const fn record<const LEN: usize>(manifest: &str) -> [u8; LEN] {
    let mut out = [0; LEN];
    let rustc = crate::__private::RUSTC.as_bytes();
    copy(&mut out, 0, RECORD_MAGIC);
    copy(&mut out, 8, &(LEN as u64).to_le_bytes());
    copy(&mut out, 16, &1u32.to_le_bytes());
    copy(&mut out, 20, &(rustc.len() as u32).to_le_bytes());
    copy(&mut out, RECORD_HEAD, rustc);
    copy(&mut out, RECORD_HEAD + rustc.len(), manifest.as_bytes());
    out
}

const fn copy(out: &mut [u8], at: usize, bytes: &[u8]) {
    let mut index = 0;
    while index < bytes.len() {
        out[at + index] = bytes[index];
        index += 1;
    }
}
