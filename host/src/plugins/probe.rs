//! Tries a plugin in a child process first: what ends the child would have ended the gateway.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use provider_api::loader::{self, Refused};
use rustix::{
    fs::MemfdFlags,
    process::{Pid, Resource, Rlimit, Signal, kill_process_group, setrlimit},
};

/// How long loading and construction may take.
const LIMIT: Duration = Duration::from_secs(2);

/// How long it may take on a machine that has no processor for it.
const LONGEST: Duration = Duration::from_secs(20);

/// Processor seconds, and bytes of memory and of output, that the child may use.
const CPU_SECONDS: u64 = 2;
const MEMORY_BYTES: u64 = 2 << 30;
const OUTPUT_BYTES: u64 = 128 << 20;

/// The last line of a child that came through.
const PASSED: &str = "sigorest-plugin-probe: passed";

/// The path that tells a child to read what [`probe`] wrote to its standard input.
const FROM_PARENT: &str = "-";

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Lets [`probe`] start this program again, which must then call [`run`] for `plugin-probe FILE`.
pub fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Loads a file's bytes in a child and constructs a provider with each of these settings. What a plugin
/// says about its settings is no failure here: it says the same again when it is loaded.
///
/// # Errors
/// How the child ended.
pub fn probe(bytes: &[u8], configs: &[Vec<u8>]) -> Result<(), Refused> {
    if !ENABLED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let cannot = |error: std::io::Error| {
        Refused::new("probe_failed", format!("it cannot be tried in a child process: {error}"))
    };
    let (mut stdout, mut stderr) = (memory().map_err(cannot)?, memory().map_err(cannot)?);
    let mut child = Command::new("/proc/self/exe")
        .args(["plugin-probe", "--", FROM_PARENT])
        .env_clear()
        .current_dir("/")
        .stdin(input(bytes, configs).map_err(cannot)?)
        .stdout(stdout.try_clone().map_err(cannot)?)
        .stderr(stderr.try_clone().map_err(cannot)?)
        .process_group(0)
        .spawn()
        .map_err(cannot)?;
    let status = wait(&mut child).map_err(cannot)?;
    let said = last_line(&mut stderr);
    let passed = last_line(&mut stdout) == PASSED;
    match verdict(status, passed) {
        None => Ok(()),
        Some(refused) => {
            tracing::info!(reason = refused.reason, %said, "a plugin did not come through its trial");
            Err(refused)
        }
    }
}

fn verdict(status: Option<ExitStatus>, passed: bool) -> Option<Refused> {
    let Some(status) = status else {
        let text = format!(
            "it was not constructed within {} s; a plugin's `new` must not wait or loop",
            LIMIT.as_secs()
        );
        return Some(Refused::new("probe_timeout", text));
    };
    let advice = "`sigoREST plugin check FILE` shows more";
    match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XCPU) => verdict(None, false),
        Some(signal) => {
            let text =
                format!("it crashed a trial process with {} while it was loaded; {advice}", name(signal));
            Some(Refused::new("probe_crashed", text))
        }
        None if passed && status.success() => None,
        None => {
            let code = status.code().map_or_else(|| "a signal".to_owned(), |code| format!("status {code}"));
            let text = format!("it ended a trial process with {code} while it was loaded; {advice}");
            Some(Refused::new("probe_exited", text))
        }
    }
}

/// `SIGSEGV` and the like.
fn name(signal: Signal) -> String {
    let known = [
        (Signal::ABORT, "SIGABRT"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ILL, "SIGILL"),
        (Signal::FPE, "SIGFPE"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::SYS, "SIGSYS"),
        (Signal::KILL, "SIGKILL"),
        (Signal::TERM, "SIGTERM"),
    ];
    let name = known.iter().find(|(known, _)| *known == signal);
    name.map_or_else(|| format!("signal {}", signal.as_raw()), |(_, name)| (*name).to_owned())
}

/// The child's end, or `None` if it had to be ended.
fn wait(child: &mut Child) -> std::io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let elapsed = began.elapsed();
        // A good plugin must not be refused because the machine is busy.
        if elapsed >= LIMIT && (elapsed >= LONGEST || elapsed.saturating_sub(starved(child.id())) >= LIMIT) {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How long a process was ready to run without a processor to run on.
fn starved(process: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap_or_default();
    let nanos = text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn memory() -> std::io::Result<File> {
    Ok(rustix::fs::memfd_create("probe", MemfdFlags::CLOEXEC)?.into())
}

/// What a child reads: the number of settings, each with its length, then the file.
fn input(bytes: &[u8], configs: &[Vec<u8>]) -> std::io::Result<Stdio> {
    let mut file = memory()?;
    let mut head = (configs.len() as u64).to_le_bytes().to_vec();
    for config in configs {
        head.extend((config.len() as u64).to_le_bytes());
        head.extend(config);
    }
    file.write_all(&head)?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

fn last_line(file: &mut File) -> String {
    let mut text = Vec::new();
    let start = file.metadata().map_or(0, |facts| facts.len().saturating_sub(2000));
    let read =
        file.seek(std::io::SeekFrom::Start(start)).and_then(|_| file.take(4000).read_to_end(&mut text));
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("");
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// The child's side: `plugin-probe FILE`, or `-` for what the parent wrote.
///
/// # Errors
/// Why the file is no plugin, in one line.
pub fn run(path: &Path) -> Result<String, String> {
    bound();
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let (bytes, configs) = if path == Path::new(FROM_PARENT) {
        let mut input = Vec::new();
        std::io::stdin().read_to_end(&mut input).map_err(|error| failed(&error))?;
        parse(&input).ok_or_else(|| failed(&"what the gateway sent cannot be read"))?
    } else {
        let bytes = loader::read(path).map_err(|refused| failed(&refused))?;
        (bytes, vec![b"{}".to_vec()])
    };
    loader::vet(&bytes).map_err(|refused| failed(&refused))?;
    // A clean refusal is the gateway's to find: it opens the same bytes next.
    if let Ok(module) = loader::open(&bytes) {
        for config in configs {
            drop(module.create(&config, Box::new(|_, _| ())));
        }
    }
    Ok(format!("\n{PASSED}\n"))
}

/// Keeps the child from harming others.
fn bound() {
    for (resource, most, last) in [
        (Resource::Core, 0, 0),
        // First a signal that says why, then the end.
        (Resource::Cpu, CPU_SECONDS, CPU_SECONDS + 1),
        (Resource::As, MEMORY_BYTES, MEMORY_BYTES),
        (Resource::Fsize, OUTPUT_BYTES, OUTPUT_BYTES),
    ] {
        let _ = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(last) });
    }
    // A parent that was killed cannot end it.
    std::thread::spawn(|| {
        std::thread::sleep(LONGEST * 2);
        std::process::exit(1);
    });
}

fn parse(input: &[u8]) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut rest = input;
    let number = |rest: &mut &[u8]| -> Option<usize> {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        *rest = tail;
        usize::try_from(u64::from_le_bytes(*head)).ok()
    };
    let count = number(&mut rest)?;
    let mut configs = Vec::new();
    for _ in 0..count {
        let len = number(&mut rest)?;
        let (config, tail) = rest.split_at_checked(len)?;
        configs.push(config.to_vec());
        rest = tail;
    }
    Some((rest.to_vec(), configs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_why_a_plugin_is_refused() {
        let check = |raw: i32, passed: bool, reason: &str, text: &str| {
            let refused = verdict(Some(ExitStatus::from_raw(raw)), passed);
            assert_eq!(refused.as_ref().map_or("", |refused| refused.reason), reason, "{raw}");
            assert!(refused.is_none_or(|refused| refused.message.contains(text)), "{raw}");
        };
        check(0, true, "", "");
        check(0, false, "probe_exited", "status 0");
        check(7 << 8, true, "probe_exited", "status 7");
        check(11, true, "probe_crashed", "SIGSEGV");
        check(6, false, "probe_crashed", "SIGABRT");
        check(24, false, "probe_timeout", "2 s");
        assert_eq!(verdict(None, false).expect("refused").reason, "probe_timeout");
    }
}
