//! What must hold after every fault: the same process answers, no key is anywhere, memory is bounded.

use std::{path::Path, time::Duration};

use super::{
    client::Reply,
    server::{KEY, Server},
};

/// Watches a server over a row of faults.
pub struct Steady<'a> {
    server: &'a Server,
    /// Memory at the start, in KiB.
    before: u64,
    /// Growth that is allowed, in KiB.
    growth: u64,
}

impl<'a> Steady<'a> {
    /// From now on memory may grow by this many MiB.
    pub fn over(server: &'a Server, growth_mib: u64) -> Self {
        // What a first request loads once does not count.
        server.get("/api/health");
        Self { server, before: memory_used(server), growth: growth_mib << 10 }
    }

    /// After a fault.
    #[track_caller]
    pub fn check(&self, case: &str) {
        let health = self.server.get("/api/health");
        assert_eq!(health.status, 200, "{case}: {}", health.text());
        assert!(health.json()["status"].is_string(), "{case}: {}", health.text());
        assert!(Path::new(&format!("/proc/{}", self.server.id())).exists(), "{case}: another process");
        let grown = memory_used(self.server).saturating_sub(self.before);
        assert!(grown <= self.growth, "{case}: memory grew by {grown} KiB");
        let log = self.server.log();
        assert!(!log.contains(KEY), "{case}: a key in the log");
        assert!(!log.contains("panic") && !log.contains("internal error"), "{case}: {log}");
        assert!(!log.contains('\u{1b}'), "{case}: a raw escape in the log");
    }

    /// After a fault that ended in this answer.
    #[track_caller]
    pub fn check_reply(&self, case: &str, reply: &Reply) {
        no_key(case, reply);
        self.check(case);
    }
}

impl Drop for Steady<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(!holds(self.server.data(), KEY.as_bytes()), "a key in a file");
        }
    }
}

#[track_caller]
fn no_key(case: &str, reply: &Reply) {
    assert!(!reply.text().contains(KEY), "{case}: a key in the answer: {}", reply.text());
    assert!(!reply.headers.iter().any(|(_, value)| value.contains(KEY)), "{case}: a key in a header");
}

/// Whether a file in or below a directory holds these bytes; plugins are not searched.
fn holds(directory: &Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        path.extension().is_none_or(|kind| kind != "so")
            && std::fs::read(&path).is_ok_and(|text| memchr::memmem::find(&text, bytes).is_some())
    })
}

/// Resident memory in KiB, without the pages of files: code comes and goes as it runs.
pub fn memory_used(server: &Server) -> u64 {
    status(server, "RssAnon:")
}

/// Resident memory in KiB once it no longer moves: plugin files that are new are read once more behind a start.
pub fn memory_settled(server: &Server) -> u64 {
    let mut before = memory_used(server);
    super::server::eventually("memory that stays as it is", || {
        std::thread::park_timeout(Duration::from_millis(400));
        let now = memory_used(server);
        let moved = now.abs_diff(std::mem::replace(&mut before, now));
        (moved < 256).then_some(now)
    })
}

/// Highest resident memory in KiB since the start or the last [`reset_memory_peak`].
pub fn memory_peak(server: &Server) -> u64 {
    status(server, "VmHWM:")
}

/// Starts measuring the peak anew.
pub fn reset_memory_peak(server: &Server) {
    std::fs::write(format!("/proc/{}/clear_refs", server.id()), "5").expect("the peak is reset");
}

fn status(server: &Server, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Processor time that it used so far.
pub fn cpu_time(server: &Server) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", server.id())).expect("its times");
    let fields = text.rsplit_once(')').expect("the fields").1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    // Linux shows times to programs in hundredths of a second, whatever it counts in (man 7 time).
    Duration::from_millis(ticks * 10)
}
