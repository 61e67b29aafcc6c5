//! Reads, checks and opens plugin files.
//!
//! A file is read once; every check runs on those bytes; the same bytes are opened from a sealed memory
//! file that nobody can change or replace. Opened code is never closed: exchanges and panics may hold
//! pointers into it for as long as the process lives.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
    sync::{Mutex, PoisonError},
};

use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::{CheckingGlobals, check_layout_compatibility_with_globals},
    library::{AbiHeaderRef, LibHeader},
    std_types::RResult,
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rustix::{
    fs::{MemfdFlags, OFlags, SealFlags},
    mm::{Advice, madvise},
};

use crate::{
    abi::{BuildInfo, ProviderModule_Ref, RECORD_HEAD, RECORD_MAGIC},
    error::Fault,
    exchange::{Instance, LogFn, host_box},
    model::Manifest,
};

mod elf;

/// Largest plugin file.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Name of the one symbol: abi_stable 0.11's spelling of its root module loader.
const SYMBOL: &[u8] = b"_1as_0lib_1header_0root_bmodule_bloader\0";

/// Held while the mappings of plugins change.
static MAPPING: Mutex<()> = Mutex::new(());

/// Why a file is not loaded: a code for programs, and one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// `not_elf`, `truncated`, `wrong_cpu`, `executable`, `no_manifest`, `bad_manifest`, `wrong_api`,
    /// `layout_mismatch`, `missing_symbol`, `cannot_open`, `too_large`, …
    pub reason: &'static str,
    /// One line.
    pub message: String,
    /// Long text for a file, where there is one.
    pub long: Option<String>,
}

impl Refused {
    /// A refusal without a long text.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), long: None }
    }
}

/// What a file says about itself, read without running it.
#[derive(Debug, Clone)]
pub struct Record {
    /// The manifest with its models.
    pub manifest: Manifest,
    /// The compiler that built it.
    pub rustc: String,
}

/// Reads a plugin file whole.
///
/// # Errors
/// It cannot be read, is no regular file, or is over [`MAX_FILE_BYTES`].
pub fn read(path: &Path) -> Result<Vec<u8>, Refused> {
    // Without NONBLOCK, opening a pipe would wait for a writer, perhaps for ever.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    read_open(OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?)
}

/// Reads a plugin file whole that is open already.
///
/// # Errors
/// As [`read`].
pub fn read_open(file: File) -> Result<Vec<u8>, Refused> {
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(Refused::new("not_a_file", "it is not a regular file; put only plugin files here"));
    }
    let too_large = || {
        let text =
            format!("it is larger than {} MiB; no plugin is, build it in release", MAX_FILE_BYTES >> 20);
        Refused::new("too_large", text)
    };
    if facts.len() > MAX_FILE_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(facts.len()).unwrap_or(0));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    // It may have grown meanwhile.
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(too_large()) } else { Ok(bytes) }
}

fn unreadable(error: std::io::Error) -> Refused {
    Refused::new("cannot_read", format!("it cannot be read: {error}"))
}

/// Checks a file's bytes and reads its record without running it.
///
/// # Errors
/// Anything that would make opening it unsafe or useless.
pub fn vet(bytes: &[u8]) -> Result<Record, Refused> {
    let record = elf::section(bytes, b".gwplugin")?;
    let bad = |message: &str| Refused::new("bad_manifest", format!("its plugin record {message}"));
    let number =
        |at: usize| record.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    if !record.starts_with(RECORD_MAGIC) || record.len() < RECORD_HEAD {
        return Err(bad("is damaged; build it again with export_provider!"));
    }
    if number(16) != Some(1) {
        return Err(bad("has a version that this gateway does not know; update the gateway"));
    }
    let rustc_len = number(20).and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
    let manifest_at = RECORD_HEAD.saturating_add(rustc_len);
    let text =
        |range: std::ops::Range<usize>| record.get(range).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let rustc = text(RECORD_HEAD..manifest_at).ok_or_else(|| bad("is damaged; build it again"))?;
    let manifest = text(manifest_at..record.len()).ok_or_else(|| bad("is damaged; build it again"))?;
    let manifest =
        Manifest::parse(manifest).map_err(|error| Refused::new("bad_manifest", error.to_string()))?;
    if manifest.api_major() != Some(1) {
        return Err(Refused::new(
            "wrong_api",
            format!(
                "it is built for provider API {}, this gateway has 1.x; build it with provider-api 1",
                manifest.api
            ),
        ));
    }
    Ok(Record { manifest, rustc: rustc.to_owned() })
}

/// An opened plugin.
#[derive(Clone, Copy)]
pub struct Module(ProviderModule_Ref);

impl Module {
    /// What built it.
    pub fn build(&self) -> BuildInfo {
        self.0.build()()
    }

    /// Makes a provider with these settings (a JSON object).
    ///
    /// # Errors
    /// What the provider says, a panic included.
    pub fn create(&self, config: &[u8], log: LogFn) -> Result<Instance, Fault> {
        match self.0.create()(config.into(), host_box(log)) {
            RResult::ROk(provider) => Ok(Instance(provider)),
            RResult::RErr(fault) => Err(fault.into()),
        }
    }
}

/// Opens bytes that passed [`vet`]. Each call maps a fresh copy, whatever was opened before.
///
/// # Errors
/// A missing symbol, another layout, or a system that lets nothing be mapped.
pub fn open(bytes: &[u8]) -> Result<Module, Refused> {
    Sealed::new(bytes)?.open()
}

/// A plugin's bytes in a memory file that nobody can change or replace any more.
pub struct Sealed(File);

impl Sealed {
    /// Copies bytes.
    ///
    /// # Errors
    /// A system that gives no memory for it.
    pub fn new(bytes: &[u8]) -> Result<Self, Refused> {
        sealed_copy(bytes).map(Self).map_err(unmappable)
    }

    /// The memory file, to hand to another process.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// The bytes.
    ///
    /// # Errors
    /// A system that gives no memory for them.
    pub fn bytes(&self) -> Result<Vec<u8>, Refused> {
        let read = || {
            let mut bytes = vec![0; usize::try_from(self.0.metadata()?.len()).unwrap_or(0)];
            self.0.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        read().map_err(unmappable)
    }

    /// Opens the bytes, which passed [`vet`]. Opening the same copy again gives the same code and statics.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(&self) -> Result<Module, Refused> {
        let file = self.0.try_clone().map_err(unmappable)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // The linker knows libraries by their path, so this descriptor's number must not come back.
        std::mem::forget(file);
        open_path(Path::new(&path))
    }
}

fn unmappable(error: std::io::Error) -> Refused {
    Refused::new("cannot_open", format!("it cannot be mapped: {error}"))
}

fn open_path(path: &Path) -> Result<Module, Refused> {
    let _one_at_a_time = MAPPING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the file is a plugin by its record, so its initialisers are Rust's own; that it was built
    // with `export_provider!` is what the operator vouches for by putting it into the plugin directory.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
        Refused::new("missing_symbol", format!("it cannot be opened: {}", one_line(&error.to_string())))
    })?;
    // SAFETY: `export_provider!` exports this name as abi_stable's header; abi_stable checks the magic
    // number in it before anything else is read (`upgrade`).
    let header: AbiHeaderRef = unsafe { library.get::<AbiHeaderRef>(SYMBOL) }
        .map(|symbol| *symbol)
        .map_err(|_| Refused::new("missing_symbol", "it does not export a provider; use export_provider!"))?;
    // Never closed: see the head of this file.
    std::mem::forget(library);
    let header = header.upgrade().map_err(|error| layout_refusal(&error.to_string()))?;
    let major = header.version_strings().version.split('.').next().unwrap_or("").to_owned();
    if major != "1" {
        return Err(Refused::new(
            "wrong_api",
            format!("it exports provider API {major}.x, this gateway has 1.x"),
        ));
    }
    check_layout(header)?;
    // SAFETY: the layouts were compared just now.
    unsafe { header.unchecked_layout::<ProviderModule_Ref>() }
        .map(Module)
        .map_err(|error| Refused::new("cannot_open", one_line(&error.to_string())))
}

/// Compares layouts both ways, so that newer and older plugins load alike; with fresh globals, so that
/// the result does not depend on what was loaded before.
fn check_layout(header: &'static LibHeader) -> Result<(), Refused> {
    let theirs = header.layout().ok_or_else(|| {
        Refused::new("layout_mismatch", "it holds no layout; build it with export_provider!")
    })?;
    let ours = <ProviderModule_Ref as StableAbi>::LAYOUT;
    let check = check_layout_compatibility_with_globals;
    check(ours, theirs, &CheckingGlobals::new())
        // What the first way found is told: there, the gateway is what is expected.
        .or_else(|error| check(theirs, ours, &CheckingGlobals::new()).map_err(|_| error))
        .map_err(|error| layout_refusal(&error.to_string()))
}

/// abi_stable's texts run to 70 KB: keep the errors' first lines, and the whole for a file.
fn layout_refusal(text: &str) -> Refused {
    let mut lines = text.lines();
    let first = lines.find(|line| line.starts_with("Error:")).unwrap_or("Error: another ABI");
    let first = first.trim_start_matches("Error:");
    let short: Vec<&str> = std::iter::once(first).chain(lines.take(4)).map(str::trim).collect();
    let message = format!(
        "its layout is not this gateway's ({}); build it with the same provider-api major version",
        one_line(&short.join(" "))
    );
    Refused { reason: "layout_mismatch", message, long: Some(text.to_owned()) }
}

fn one_line(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}

/// Gives back the memory that was needed to start or to load and may not be needed again: what the allocator
/// keeps of freed memory, and pages of code, of the program and of plugins, that nobody wrote to. They are mapped
/// again when they are used.
///
/// Returns how many bytes of code were given back.
pub fn release_unused() -> usize {
    trim();
    let _no_loading = MAPPING.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return 0 };
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return 0 };
    let mut released = 0;
    let mut range = None;
    let mut resident = 0;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next().unwrap_or(""), words.next().unwrap_or("")) {
            ("Rss:", kib) => resident = kib.parse::<usize>().unwrap_or(0) << 10,
            // Nothing in it was written to, by relocation either, so that the file is all there is to it.
            ("Anonymous:", "0") => {
                let Some((start, end)) = range.take() else { continue };
                let start = std::ptr::without_provenance_mut(start);
                // SAFETY: the mapping is of a file, cannot be written to, and holds nothing but the file's
                // bytes, which for the program cannot change while it runs and for plugins are sealed; it
                // is never unmapped: the program's never is, and plugins are mapped under the lock.
                let advised = unsafe { madvise(start, end, Advice::LinuxDontNeed) };
                released += if advised.is_ok() { resident } else { 0 };
            }
            (span, "r--p" | "r-xp") => range = code_range(span, words.nth(3), &program),
            (span, _) if span.contains('-') => range = None,
            _ => {}
        }
    }
    released
}

/// Whether a file's bytes end up where the allocator gives memory back by itself depends on the sizes of the files
/// before it.
#[cfg(target_env = "gnu")]
fn trim() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: glibc's function of this name and type; it takes the allocator's own locks and touches only memory
    // that nobody holds.
    unsafe { malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// Start and length of a mapping of the program or of a plugin.
fn code_range(span: &str, path: Option<&str>, program: &Path) -> Option<(usize, usize)> {
    let path = path?;
    if Path::new(path) != program && path != "/memfd:plugin" {
        return None;
    }
    let (start, end) = span.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    Some((start, usize::from_str_radix(end, 16).ok()?.checked_sub(start)?))
}

/// Closes every descriptor from this number on: for a process that was started to open one plugin and has
/// opened nothing yet, whatever it inherited.
pub fn close_inherited(first: i32) {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let inherited: Vec<i32> = numbers.filter(|number| *number >= first).collect();
    for number in inherited {
        // The one that the directory was read by is closed already.
        if std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok() {
            // SAFETY: it is open, and nobody in this process owns it: the caller has opened nothing yet.
            unsafe { rustix::io::close(number) };
        }
    }
}

/// Copies bytes into a memory file that can never change again.
fn sealed_copy(bytes: &[u8]) -> std::io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file =
        File::from(rustix::fs::memfd_create("plugin", flags | MemfdFlags::EXEC).or_else(|_| {
            // Kernels before 6.3 do not know the flag.
            rustix::fs::memfd_create("plugin", flags)
        })?);
    file.write_all(bytes)?;
    // `WRITE` looks at who else holds the file's pages, and where the kernel itself does for a moment it fails
    // (EBUSY, one in some thousand files). Nothing has mapped the file, so later writes are all there could
    // be. Kernels before 5.1 have only the first.
    let rest = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let seal = |writes| rustix::fs::fcntl_add_seals(&file, writes | rest);
    seal(SealFlags::FUTURE_WRITE).or_else(|_| seal(SealFlags::WRITE))?;
    Ok(file)
}
