//! A provider whose code runs in a process of its own: what goes wrong there ends that process, and not
//! the gateway.
//!
//! The worker is this same program (`plugin-worker`). It has one socket, an empty environment, and
//! neither keys nor network nor files: see `sandbox`. If it ends, its open exchanges fail, and another
//! one is started.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use provider_api::{
    Fault, FaultKind,
    exchange::{Begin, Input, LogFn, Sink},
};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType},
    process::Signal,
};
use tokio::{
    process::{Child, Command},
    sync::{oneshot, watch},
    task::JoinHandle,
};

mod link;
pub mod process;
mod sandbox;
mod wire;

use link::{Link, Lost};
use wire::{Reader, Writer};

/// What makes this program a worker process; the provider's name follows, for whoever looks at processes.
const COMMAND: &str = "plugin-worker";

/// Longest step, with its wait for a free thread. A step never waits for anything else.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// Longest start of a worker, and longest wait of a request for one that is being started.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Wait before a worker that ended is started again; doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Longest wait between starts.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A worker that lived this long was sound: the waits begin anew.
const SOUND: Duration = Duration::from_secs(60);

/// A worker process and whoever starts it again. It ends with this.
pub struct Worker {
    shared: Arc<Shared>,
    supervisor: JoinHandle<()>,
}

/// Who hears what the plugin says outside of exchanges, and each time that it ended its worker.
pub type Ears = (LogFn, Box<dyn Fn(&str) + Send + Sync>);

/// What every exchange needs of its worker.
struct Shared {
    provider: Arc<str>,
    /// The plugin's bytes, sealed: each worker runs what was vetted.
    code: File,
    config: Vec<u8>,
    ears: Ears,
    /// The worker that serves; none while one is being started.
    link: watch::Sender<Option<Arc<Link>>>,
    restarts: AtomicU64,
}

impl Worker {
    /// Starts a worker and has the provider made there. Blocks until it is; on a thread of a runtime
    /// that may block.
    ///
    /// # Errors
    /// What the provider says about its settings, why its file cannot be opened, how the worker ended.
    pub fn start(provider: &Arc<str>, code: File, config: Vec<u8>, ears: Ears) -> Result<Self, Fault> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| fault("a worker process can be started by the server only"))?;
        let link = watch::Sender::new(None);
        let provider = Arc::clone(provider);
        let shared = Arc::new(Shared { provider, code, config, ears, link, restarts: AtomicU64::new(0) });
        let (first, started) = oneshot::channel();
        // On a thread of the runtime, not on this one: the kernel ends a worker with the thread that
        // started it, and threads for blocking work end when they are idle.
        let supervisor = runtime.spawn(supervise(Arc::clone(&shared), first));
        let worker = Self { shared, supervisor };
        started.blocking_recv().unwrap_or_else(|_| Err(fault("its worker process was not started")))?;
        Ok(worker)
    }

    /// Begins an exchange; it reaches the worker with its first step.
    pub fn begin(&self, begin: &Begin<'_>) -> Exchange {
        let mut message = Writer::default();
        message.begin(begin);
        Exchange { shared: Arc::clone(&self.shared), place: None, message, lost: false }
    }

    /// The process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.shared.link.borrow().as_ref().map(|link| link.pid)
    }

    /// How often the worker ended and had to be started again.
    pub fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The child goes with the task.
        self.supervisor.abort();
    }
}

fn fault(text: impl Into<String>) -> Fault {
    Fault::new(FaultKind::INTERNAL, text)
}

/// Keeps a worker running. `first` hears about the first start; if that fails, there is no second.
async fn supervise(shared: Arc<Shared>, first: oneshot::Sender<Result<(), Fault>>) {
    let mut first = Some(first);
    let mut wait = FIRST_WAIT;
    loop {
        let began = Instant::now();
        let (why, own_doing) = live(&shared, &mut first).await;
        if let Some(first) = first.take() {
            let _ = first.send(Err(why));
            return;
        }
        shared.restarts.fetch_add(1, Ordering::Relaxed);
        if own_doing {
            (shared.ears.1)(&why.message);
        }
        if began.elapsed() >= SOUND {
            wait = FIRST_WAIT;
        }
        let (provider, wait_ms) = (&shared.provider, u64::try_from(wait.as_millis()).unwrap_or(0));
        tracing::warn!(%provider, why = %why.message, wait_ms, "a worker process ended; it is started again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// The life of one worker; why it ended, and whether that was the plugin's doing.
async fn live(shared: &Shared, first: &mut Option<oneshot::Sender<Result<(), Fault>>>) -> (Fault, bool) {
    let (mut child, link) = match launch(shared) {
        Ok((child, link)) => (child, Arc::new(link)),
        Err(error) => return (fault(format!("its worker process cannot be started: {error}")), false),
    };
    let refused = tokio::select! {
        // The one future that goes on has no more to do once the other one is done.
        () = link.serve(&shared.ears.0) => None,
        refused = prepare(shared, &link, first) => Some(refused),
    };
    shared.link.send_replace(None);
    let _ = child.start_kill();
    let status = child.wait().await;
    // A kill that is not the gateway's own, by an operator or for want of memory, says nothing about the plugin.
    let killed = status.as_ref().is_ok_and(|status| status.signal() == Some(Signal::KILL.as_raw()));
    let own_doing = refused.is_some() || link.is_condemned() || !killed;
    let lost = link.close(status.map_or_else(|_| "it is gone".into(), ended));
    if refused.is_none() {
        tracing::debug!(provider = %shared.provider, pid = link.pid, lost, "a worker process took exchanges along");
    }
    (refused.unwrap_or_else(|| fault(format!("its worker process ended: {}", link.end()))), own_doing)
}

fn launch(shared: &Shared) -> std::io::Result<(Child, Link)> {
    let (ours, theirs): (OwnedFd, OwnedFd) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // This program as it runs, even if its file was replaced meanwhile.
    let child = Command::new("/proc/self/exe")
        .arg0("sigoREST")
        .args([COMMAND, "--", &shared.provider])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::from(shared.code.try_clone()?))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        // A terminal's Ctrl-C is for the gateway, which lets open requests end first.
        .process_group(0)
        .spawn()?;
    let link = Link::new(ours, child.id().unwrap_or(0))?;
    Ok((child, link))
}

/// Has the provider made in the worker and puts that in force; returns only if it fails.
async fn prepare(
    shared: &Shared,
    link: &Arc<Link>,
    first: &mut Option<oneshot::Sender<Result<(), Fault>>>,
) -> Fault {
    let mut message = Writer::default();
    message.bytes(&shared.config);
    let Ok(answer) = link.ask(wire::START, &message.0, START_LIMIT).await else {
        // The link has ended, and says more.
        return std::future::pending().await;
    };
    match Reader(&answer).replay(&mut Nothing) {
        Some((_, Ok(()))) => {}
        Some((_, Err(fault))) => return fault,
        None => return fault("its worker process is not of this program"),
    }
    shared.link.send_replace(Some(Arc::clone(link)));
    match first.take() {
        Some(first) => drop(first.send(Ok(()))),
        None => tracing::info!(provider = %shared.provider, pid = link.pid, "a worker process is back"),
    }
    std::future::pending().await
}

/// How a process ended, for people.
fn ended(status: ExitStatus) -> String {
    let names = [(4, "ILL"), (6, "ABRT"), (7, "BUS"), (8, "FPE"), (9, "KILL"), (11, "SEGV"), (31, "SYS")];
    match (status.signal(), status.code()) {
        (Some(signal), _) => match names.iter().find(|(number, _)| *number == signal) {
            Some((_, name)) => format!("SIG{name}"),
            None => format!("signal {signal}"),
        },
        (_, Some(code)) => format!("exit status {code}"),
        _ => "it is gone".into(),
    }
}

/// One run of a provider's state machine in a worker.
pub struct Exchange {
    shared: Arc<Shared>,
    /// Where it runs, and under which id; none before the first step.
    place: Option<(Arc<Link>, u64)>,
    /// What is asked next; before the first step, that it shall begin.
    message: Writer,
    lost: bool,
}

impl Exchange {
    /// Takes one step; results go to `sink`. Not cancel-safe: whoever gives up drops the exchange.
    ///
    /// # Errors
    /// What the provider says, or that its worker ended.
    pub async fn step(&mut self, input: &Input<'_>, sink: &mut impl Sink) -> (Duration, Result<(), Fault>) {
        self.message.input(input);
        match self.ask().await {
            Ok(mut steps) => steps.replay(sink),
            Err(fault) => (Duration::ZERO, Err(fault)),
        }
    }

    /// Takes a step for each piece of an answer at once: a worker costs one way there and back however
    /// many there are. What came of them is repeated step by step.
    ///
    /// # Errors
    /// Its worker ended.
    pub async fn bodies(&mut self, id: u64, pieces: &[bytes::Bytes]) -> Result<Steps, Fault> {
        for data in pieces {
            self.message.input(&Input::Body { id, data });
        }
        self.ask().await
    }

    /// Whether it failed because its worker ended, which is not its own fault.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    async fn ask(&mut self) -> Result<Steps, Fault> {
        loop {
            let begins = self.place.is_none();
            let (link, id) = match &self.place {
                Some(place) => place,
                None => {
                    let link = self.serving().await?;
                    let id = link.new_id();
                    self.place.insert((link, id))
                }
            };
            let asked = link.ask(*id, &self.message.0, STEP_LIMIT).await;
            match asked {
                Ok(answer) => {
                    self.message.0.clear();
                    return Ok(Steps { answer, at: 0 });
                }
                // Nothing was done yet: the next worker will do it as well.
                Err(Lost::NotAsked) if begins => self.place = None,
                Err(_) => {
                    self.lost = true;
                    return Err(fault(format!("its worker process ended: {}", link.end())));
                }
            }
        }
    }

    /// The worker that serves; waits for one that is being started.
    async fn serving(&mut self) -> Result<Arc<Link>, Fault> {
        let mut links = self.shared.link.subscribe();
        let serves = |link: &Option<Arc<Link>>| link.as_ref().is_some_and(|link| !link.has_ended());
        let waited = tokio::time::timeout(START_LIMIT, links.wait_for(serves)).await;
        let link = waited.ok().and_then(Result::ok).and_then(|link| link.clone());
        link.ok_or_else(|| {
            self.lost = true;
            fault("the worker process does not start; the gateway's log says why")
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some((link, id)) = &self.place {
            link.leave(*id);
        }
    }
}

/// What came of one or more steps.
pub struct Steps {
    answer: Vec<u8>,
    at: usize,
}

impl Steps {
    /// Repeats the next step's results on `sink`; how long it took, and how it ended.
    ///
    /// # Errors
    /// What the provider said.
    pub fn replay(&mut self, sink: &mut impl Sink) -> (Duration, Result<(), Fault>) {
        let mut reader = Reader(self.answer.get(self.at..).unwrap_or_default());
        let outcome = reader.replay(sink);
        self.at = self.answer.len() - reader.0.len();
        outcome.unwrap_or_else(|| {
            (Duration::ZERO, Err(fault("the worker process answered in a form that nobody knows")))
        })
    }
}

/// For answers that hand nothing out.
struct Nothing;

impl Sink for Nothing {
    fn http(&mut self, _: provider_api::exchange::Asked<'_>) -> u64 {
        0
    }

    fn emit(&mut self, _: &[u8]) -> bool {
        false
    }

    fn pass(&mut self) -> bool {
        false
    }

    fn usage(&mut self, _: provider_api::Usage) {}

    fn sleep(&mut self, _: u64) -> u64 {
        0
    }

    fn done(&mut self, _: &[u8]) -> bool {
        false
    }

    fn dropped(&mut self, _: &str) {}
}
