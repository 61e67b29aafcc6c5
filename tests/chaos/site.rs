//! A gateway under chaos as its callers see it, and what is counted.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::harness::Server;

/// What is counted at both gateways.
#[derive(Default)]
pub struct Tally {
    requests: AtomicU64,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    wrong: AtomicU64,
    lost: AtomicU64,
    pub missing: AtomicU64,
}

impl Tally {
    /// A request was sent.
    pub fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// A fault of this kind was made.
    pub fn fault(&self, kind: &'static str) {
        *self.faults.lock().expect("the faults").entry(kind).or_default() += 1;
    }

    /// An answer was not what it may be.
    pub fn wrong(&self, why: &str) {
        eprintln!("wrong: {why}");
        self.wrong.fetch_add(1, Relaxed);
    }

    /// Something that was delivered or acknowledged is gone.
    pub fn lost(&self, bytes: usize, why: &str) {
        eprintln!("lost: {why}");
        self.lost.fetch_add(bytes.max(1) as u64, Relaxed);
    }

    /// What must be zeros.
    pub fn zeros(&self) -> [u64; 3] {
        [&self.wrong, &self.lost, &self.missing].map(|number| number.load(Relaxed))
    }

    /// The table.
    pub fn print(&self, slope: f64, resident: f64) {
        let line = |name: &str, value: &str| println!("{name:<44} {value:>12}");
        line("requests", &self.requests.load(Relaxed).to_string());
        let faults = self.faults.lock().expect("the faults");
        line("faults injected", &faults.values().sum::<u64>().to_string());
        for (kind, count) in faults.iter() {
            line(&format!("  {kind}"), &count.to_string());
        }
        let [wrong, lost, missing] = self.zeros().map(|number| number.to_string());
        line("answers wrong", &wrong);
        line("bytes lost", &lost);
        line("usage rows missing", &missing);
        line("memory slope after warming up, MiB/min", &format!("{slope:.2}"));
        line("memory at the end, MiB", &format!("{resident:.1}"));
    }
}

/// A gateway.
pub struct Site {
    pub tally: Arc<Tally>,
    pub stop: AtomicBool,
    /// Whether it is killed again and again.
    pub mortal: bool,
    /// Chats that reached it whole: each needs one row in the books.
    pub chats: AtomicU64,
    address: RwLock<SocketAddr>,
    /// Odd while something is wrong on purpose that may cost any answer: its disk, its descriptors, its life.
    windows: AtomicU64,
    /// Ids of whole answers, with the time at which they were there.
    answered: Mutex<Vec<(Instant, String)>>,
}

impl Site {
    pub fn of(server: &Server, mortal: bool, tally: &Arc<Tally>) -> Self {
        Self {
            tally: Arc::clone(tally),
            stop: AtomicBool::new(false),
            mortal,
            chats: AtomicU64::new(0),
            address: RwLock::new(server.http()),
            windows: AtomicU64::new(0),
            answered: Mutex::default(),
        }
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub fn address(&self) -> SocketAddr {
        *self.address.read().expect("the address")
    }

    pub fn moved(&self, server: &Server) {
        *self.address.write().expect("the address") = server.http();
    }

    /// Something goes wrong now, until [`Site::mended`].
    pub fn breaks(&self) {
        self.windows.fetch_add(1, Relaxed);
    }

    pub fn mended(&self) {
        self.windows.fetch_add(1, Relaxed);
    }

    /// The mark to give to [`Site::was_broken`] behind what may be concerned.
    pub fn mark(&self) -> u64 {
        self.windows.load(Relaxed)
    }

    /// Whether something was wrong at any time since that mark.
    pub fn was_broken(&self, since: u64) -> bool {
        !since.is_multiple_of(2) || self.mark() != since
    }

    /// A whole answer came.
    pub fn answered(&self, id: &str) {
        self.answered.lock().expect("the ids").push((Instant::now(), id.to_owned()));
    }

    /// Looks for the rows of all answers up to `until` in the log of a process that has ended.
    pub fn settle(&self, server: &Server, until: Instant) {
        let answered = std::mem::take(&mut *self.answered.lock().expect("the ids"));
        let due: Vec<String> =
            answered.into_iter().filter(|(at, _)| *at <= until).map(|(_, id)| id).collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let log = server.log();
            let rows: HashSet<&str> =
                log.lines().filter_map(|line| line.split_once("request id=")?.1.split(' ').next()).collect();
            let missing = due.iter().filter(|id| !rows.contains(id.as_str())).count();
            if missing == 0 || Instant::now() > deadline {
                self.tally.missing.fetch_add(missing as u64, Relaxed);
                return;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}
