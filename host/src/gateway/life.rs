//! The life of the server: start, what it says then, reload, drain, end.

use std::{
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

use super::{Gateway, Purpose, notify};
use crate::{
    access::{Access, Door, Machine},
    config::Settings,
    files, listen, pipeline, plugins, telemetry, tls,
};

/// Between two looks at the plugin directories.
const PLUGIN_PERIOD: Duration = Duration::from_millis(200);

/// Between two looks at providers that list their models.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(15);

/// How long the start waits for providers that list their models; they go on in the background.
const DISCOVERY_AT_START: Duration = Duration::from_millis(300);

/// How long open requests may take to end when the server is to end at once.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why the server does not start or stops early: one line for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// Reads the settings again, which blocks; the text of an error is for the log.
pub type Reload = Arc<dyn Fn() -> Result<Settings, String> + Send + Sync>;

/// How the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to, and finished what was open as far as its time allowed.
    Drained,
    /// By this signal, the second one: at once.
    Killed(i32),
}

/// Runs the server until it is told to stop.
///
/// # Errors
/// A port that is taken, a certificate that cannot be read, a data directory that cannot be used.
pub async fn run(settings: Settings, reload: Reload) -> Result<Ended, StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError(error.to_string());
    // Before anything else: a signal that nothing catches would end the process.
    let signals = Signals::new().map_err(|error| failed(&error))?;
    let _claim = match files::claim(&settings.data_dir) {
        Ok(lock) => Some(lock),
        Err(files::LockError::Io { source: error, .. }) => {
            tracing::warn!(%error, "the data directory cannot be locked; nothing can be stored in it");
            None
        }
        Err(error) => return Err(failed(&error)),
    };
    let sockets = listen::bind(&settings).map_err(|error| failed(&error))?;
    let run_file = settings.data_dir.join("run.json");
    plugins::probe::enable();
    let opened = tokio::task::spawn_blocking(move || {
        let tls = tls::load(&settings)?;
        let gateway = Gateway::open(settings, Purpose::Serve);
        gateway.shared.tls.store(Some(tls));
        Ok(gateway)
    });
    let opened: Result<_, tls::TlsError> = opened.await.map_err(|error| failed(&error))?;
    let gateway = opened.map_err(|error| failed(&error))?;
    let _ = tokio::time::timeout(DISCOVERY_AT_START, gateway.discover(Duration::from_secs(1))).await;

    let addresses = sockets.addresses();
    gateway.check_fallbacks();
    announce(&gateway, &addresses);
    let handler = {
        let gateway = Arc::clone(&gateway);
        move |peer, request| pipeline::answer(Arc::clone(&gateway), peer, request)
    };
    let Signals { term, int, hup } = signals;
    let mut beside = JoinSet::new();
    beside.spawn(looking(Arc::clone(&gateway)));
    beside.spawn(watching(Arc::clone(&gateway)));
    beside.spawn({
        let sessions = gateway.sessions.clone();
        async move { sessions.settling().await }
    });
    beside.spawn(notify::watchdog());
    beside.spawn(reloading(Arc::clone(&gateway), reload, hup));
    let serving = tokio::spawn(listen::serve(sockets, Arc::clone(&gateway.shared), handler));
    notify::ready();
    let ended = until_told(&gateway, term, int, serving).await;
    gateway.sessions.settle().await;
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(run_file)).await;
    Ok(ended)
}

/// Puts in force what changes in the plugin directories. Looking costs less than being told would risk: it
/// misses nothing on network file systems, nor a directory that appears later. A thread of its own wakes
/// nobody else five times a second.
async fn watching(gateway: Arc<Gateway>) {
    let (changed, mut changes) = tokio::sync::mpsc::channel(1);
    // Closed when this future is dropped.
    let (_here, gone) = std::sync::mpsc::channel();
    let (looking, runtime) = (Arc::clone(&gateway), tokio::runtime::Handle::current());
    let look = move || {
        let _entered = runtime.enter();
        looks(&looking, &gone, &changed);
    };
    if let Err(error) = std::thread::Builder::new().name("plugins".into()).spawn(look) {
        tracing::error!(%error, "the plugin directories are not watched; POST /api/plugins/reload reads them");
    }
    while changes.recv().await.is_some() {
        gateway.discover(Duration::ZERO).await;
    }
}

/// Looks until `gone` is closed, and tells of what was put in force.
fn looks(gateway: &Gateway, gone: &Receiver<()>, changed: &tokio::sync::mpsc::Sender<()>) {
    // What starting and loading touched is given back when they are over.
    let mut settled = false;
    while gone.recv_timeout(PLUGIN_PERIOD) == Err(RecvTimeoutError::Timeout) {
        let look = AssertUnwindSafe(|| {
            let changed = gateway.plugins.look(&gateway.settings.load());
            if changed {
                gateway.rebuild_catalog();
            }
            changed
        });
        if catch_unwind(look).unwrap_or(false) {
            settled = false;
            // One that waits tells of this change, too.
            let _ = changed.try_send(());
        } else if !settled {
            settled = true;
            let code_bytes = provider_api::loader::release_unused();
            tracing::debug!(code_bytes, "memory that is not in use was given back");
        }
    }
}

/// Looks at the providers that list their models from time to time, and closes idle connections.
async fn looking(gateway: Arc<Gateway>) {
    loop {
        // At first for those that were too slow for the start.
        gateway.discover(Duration::from_secs(1)).await;
        gateway.upstream.sweep();
        tokio::time::sleep(DISCOVERY_PERIOD).await;
    }
}

/// The signals that the server listens to.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }
}

/// Serves until the first signal and everything open is done, or until the second.
async fn until_told(
    gateway: &Gateway,
    mut term: Signal,
    mut int: Signal,
    mut serving: tokio::task::JoinHandle<()>,
) -> Ended {
    let drain = &gateway.shared.drain;
    loop {
        let kind = tokio::select! {
            // All branches are cancel-safe: a signal that is not taken now is taken in the next round.
            _ = &mut serving => {
                tracing::info!("stopped");
                return Ended::Drained;
            }
            _ = term.recv() => SignalKind::terminate(),
            _ = int.recv() => SignalKind::interrupt(),
        };
        if drain.begun() {
            tracing::warn!("told to stop a second time; stopping at once");
            // Callers and the books are told; that takes no noticeable time.
            drain.cut();
            let _ = tokio::time::timeout(LAST_WORDS, serving).await;
            return Ended::Killed(kind.as_raw_value());
        }
        let limit = gateway.shared.limits.load().drain;
        let (requests, drain_secs) = (drain.running(), limit.as_secs());
        tracing::info!(requests, drain_secs, "stopping; a second signal stops at once");
        notify::stopping(limit);
        drain.begin();
    }
}

/// Reloads whenever it is told to; signals that come meanwhile make one more reload.
async fn reloading(gateway: Arc<Gateway>, reload: Reload, mut hup: Signal) {
    while hup.recv().await.is_some() {
        if gateway.shared.drain.begun() {
            tracing::info!("told to reload while stopping; nothing is reloaded");
            continue;
        }
        reload_all(&gateway, &reload).await;
    }
}

/// Brings changed settings, certificates, plugins, models and memory into force; keeps what was where the
/// new is wrong.
async fn reload_all(gateway: &Arc<Gateway>, reload: &Reload) {
    notify::reloading();
    let (blocking, reload) = (Arc::clone(gateway), Arc::clone(reload));
    let done = tokio::task::spawn_blocking(move || {
        match reload() {
            Ok(settings) => blocking.set(settings),
            Err(why) => tracing::error!(%why, "the settings are wrong; the old ones stay in force"),
        }
        let settings = blocking.settings.load();
        match tls::load(&settings) {
            Ok(tls) => blocking.shared.tls.store(Some(tls)),
            Err(error) => tracing::error!(%error, "the certificate is wrong; the old one stays in force"),
        }
        blocking.plugins.reload(&settings);
        blocking.rebuild_catalog();
    });
    if let Err(error) = done.await {
        tracing::error!(%error, "the reload broke off; what it did not reach is as it was");
    }
    gateway.memory.reload().await;
    gateway.discover(Duration::ZERO).await;
    gateway.check_fallbacks();
    tracing::info!(models = gateway.catalog.load().entries().len(), "reloaded");
    notify::ready();
}

impl Gateway {
    /// Brings changed settings into force, but for those that only a start can.
    fn set(&self, settings: Settings) {
        let old = self.settings.load();
        let fixed = |settings: &Settings| {
            (settings.http_port, settings.https_port, settings.http_addresses(), settings.https_addresses())
        };
        if fixed(&settings) != fixed(&old) || settings.data_dir != old.data_dir {
            tracing::warn!("ports, addresses and the data directory change with a restart only");
        }
        let settings = Settings { data_dir: old.data_dir.clone(), ..settings };
        telemetry::set(settings.log);
        self.shared.access.store(Arc::new(Access::new(&settings.access, &Machine::here())));
        self.shared.limits.store(Arc::new(settings.limits.clone()));
        self.in_flight.set_max(settings.limits.max_in_flight);
        self.breakers.set(settings.breaker);
        self.settings.store(Arc::new(settings));
    }
}

/// Says what was found, and writes the addresses to `run.json`.
fn announce(gateway: &Gateway, addresses: &[(Door, std::net::SocketAddr)]) {
    let settings = gateway.settings.load();
    let of = |door: Door| addresses.iter().filter(move |(d, _)| *d == door).map(|(_, at)| at.to_string());
    let (http, https): (Vec<_>, Vec<_>) = (of(Door::Http).collect(), of(Door::Https).collect());
    let run = json!({"pid": std::process::id(), "http": http, "https": https});
    if let Err(error) = files::replace(&settings.data_dir.join("run.json"), run.to_string().as_bytes()) {
        tracing::warn!(%error, "run.json cannot be written; commands that look for the server won't find it");
    }
    if settings.log.json || settings.log.quiet {
        let models = gateway.catalog.load().entries().len();
        tracing::info!(http = http.join(" "), https = https.join(" "), models, "sigoREST is ready");
        return;
    }
    eprintln!("{}", start_message(gateway, &http, &https));
}

fn start_message(gateway: &Gateway, http: &[String], https: &[String]) -> String {
    let settings = gateway.settings.load();
    let snapshot = gateway.plugins.current();
    let catalog = gateway.catalog.load();
    let mut text = format!("\nsigoREST {} is ready\n", env!("CARGO_PKG_VERSION"));
    let list = |name: &str, at: &[String]| at.iter().map(|at| format!("  {name}://{at}")).collect::<String>();
    let _ = writeln!(text, "  addresses {}{}", list("http", http), list("https", https));
    let _ = writeln!(text, "  data       {}", settings.data_dir.display());
    for (name, provider) in &snapshot.providers {
        let source = provider.source();
        let offered: Vec<&str> = catalog
            .entries()
            .iter()
            .filter(|entry| entry.provider == *name)
            .map(|entry| &*entry.name)
            .collect();
        let mut shown = offered.iter().take(6).copied().collect::<Vec<_>>().join(", ");
        if offered.len() > 6 {
            shown.push_str(", …");
        }
        let hidden = source.models.len().saturating_sub(offered.len());
        let missing = match &source.key {
            crate::catalog::Key::Missing { env } => format!("  (no key: set {env})"),
            _ if source.models.is_empty() && provider.base_url().is_empty() => String::new(),
            _ if source.models.is_empty() => {
                format!("  (not reachable at {}: start it, or set its address)", provider.base_url())
            }
            _ => String::new(),
        };
        let version = &provider.generation.manifest.version;
        let known = source.models.len();
        let s = if known == 1 { "" } else { "s" };
        let _ = writeln!(
            text,
            "  plugin     {name} {version}: {known} model{s}, {} offered, {hidden} hidden{missing}  {shown}",
            offered.len(),
        );
    }
    text.push_str(&waiting(&snapshot));
    for refused in &snapshot.refused {
        let _ = writeln!(text, "  refused    {}: {}", refused.file.display(), refused.refused);
    }
    if snapshot.plugins.is_empty() {
        let dirs: Vec<_> = settings.plugin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        let _ = writeln!(text, "  plugins    none found; put .so files into {}", dirs.join(" or "));
    }
    let ready = |entry: &&Arc<crate::catalog::Entry>| entry.key.is_ready();
    let first = catalog.find("echo").or_else(|| catalog.entries().iter().find(ready));
    if let (Some(at), Some(entry)) = (http.first(), first) {
        let _ = writeln!(
            text,
            "\n  try it:\n  curl http://{at}/v1/chat/completions -H 'content-type: application/json' -d '{{\"model\": \"{}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'",
            entry.name
        );
    }
    text
}

/// The plugins that serve nothing until a section of the settings makes a provider of them.
fn waiting(snapshot: &plugins::Snapshot) -> String {
    let mut text = String::new();
    for (id, generation) in &snapshot.plugins {
        if snapshot.providers.values().all(|provider| provider.generation.id != *id) {
            let version = &generation.manifest.version;
            let advice = format!("for [provider.NAME] sections with plugin = \"{id}\" and a base_url");
            let _ = writeln!(text, "  plugin     {id} {version}: 0 models, 0 offered, 0 hidden  ({advice})");
        }
    }
    text
}
