//! What operators see of the plugins and do to them: `GET /api/plugins`, and the orders that go with it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::StatusCode;
use serde::Serialize;

use crate::{
    catalog::Catalog,
    error::Error,
    gateway::Gateway,
    plugins::{Generation, Plugins, Provider, RefusedFile, RollbackError, Snapshot},
};

pub mod client;

/// A plugin, or a file that is none, in `GET /api/plugins`.
#[derive(Debug, Clone, Serialize)]
struct Shown<'a> {
    /// `null` for files that do not say one.
    id: Option<&'a str>,
    name: &'a str,
    version: &'a str,
    api: &'a str,
    file: String,
    sha256: &'a str,
    generation: Option<u64>,
    /// `loaded`, `quarantined`, `draining`, `refused`; of earlier generations `superseded`.
    state: &'static str,
    /// A code for why it is not simply `loaded`.
    reason: Option<&'a str>,
    /// One line on that.
    message: Option<String>,
    providers: Vec<&'a str>,
    models: Models,
    in_flight: u64,
    steps: u64,
    step_cpu_p50_us: f64,
    step_cpu_p99_us: f64,
    faults: u64,
    /// Whether all its providers run in worker processes.
    isolated: bool,
    workers: Vec<Worker<'a>>,
    /// Unix time in seconds.
    loaded_at: Option<u64>,
    rustc: &'a str,
    license: &'a str,
    earlier: Vec<Earlier<'a>>,
}

/// A worker process of a provider.
#[derive(Debug, Clone, Serialize)]
struct Worker<'a> {
    provider: &'a str,
    /// `null` while it is being started.
    pid: Option<u32>,
    /// How often it ended and was started again.
    restarts: u64,
}

/// How many models a plugin has, and what callers see of them.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Models {
    has: usize,
    offers: usize,
    hides: usize,
}

/// A generation that served before.
#[derive(Debug, Clone, Serialize)]
struct Earlier<'a> {
    generation: u64,
    version: &'a str,
    sha256: &'a str,
    state: &'static str,
    in_flight: u64,
    faults: u64,
    loaded_at: u64,
}

/// `GET /api/plugins`: the serving plugins, those that drain, and the files that are refused.
pub fn list(snapshot: &Snapshot, catalog: &Catalog) -> String {
    text(&all(snapshot, catalog))
}

/// `GET /api/plugins/{id}`: one plugin by its id or by the name of a provider.
///
/// # Errors
/// 404 `plugin_not_found`.
pub fn one(snapshot: &Snapshot, catalog: &Catalog, name: &str) -> Result<String, Error> {
    #[derive(Serialize)]
    struct One<'a> {
        #[serde(flatten)]
        shown: Shown<'a>,
        /// Files with this id that do not serve.
        refused: Vec<Shown<'a>>,
    }
    let id = snapshot.plugin(name).map_or(name, |generation| &*generation.id);
    let file = snapshot.plugins.get(id).map(|generation| generation.file.display().to_string());
    let mut found: Vec<_> = all(snapshot, catalog)
        .into_iter()
        .filter(|shown| shown.id == Some(id) || (shown.id.is_none() && Some(&shown.file) == file.as_ref()))
        .collect();
    if found.is_empty() {
        return Err(unknown(RollbackError::Unknown(name.to_owned())));
    }
    let shown = found.remove(0);
    Ok(text(&One { shown, refused: found }))
}

fn all<'a>(snapshot: &'a Snapshot, catalog: &Catalog) -> Vec<Shown<'a>> {
    let serving = snapshot.plugins.values().map(|generation| {
        let quarantine = generation.meter.quarantine();
        let rolled_back = snapshot.passed_over.contains_key(&generation.id);
        let (state, reason, message) = match quarantine {
            Some(quarantine) => ("quarantined", Some(quarantine.reason), Some(quarantine.message.clone())),
            None if rolled_back => {
                let text = "rolled back; the file is passed over until it changes";
                ("loaded", Some("rolled_back"), Some(text.to_owned()))
            }
            None => ("loaded", None, None),
        };
        Shown { reason, message, ..shown(snapshot, catalog, generation, state) }
    });
    let gone = snapshot.earlier.iter().filter(|(id, _)| !snapshot.plugins.contains_key(*id));
    let draining = gone.filter_map(|(_, earlier)| {
        let last = earlier.iter().rfind(|generation| generation.meter.in_flight() > 0)?;
        let message = Some("its file is gone; what runs on it goes on".to_owned());
        Some(Shown { reason: Some("removed"), message, ..shown(snapshot, catalog, last, "draining") })
    });
    serving.chain(draining).chain(snapshot.refused.iter().map(refused)).collect()
}

fn shown<'a>(
    snapshot: &'a Snapshot,
    catalog: &Catalog,
    generation: &'a Generation,
    state: &'static str,
) -> Shown<'a> {
    let manifest = &generation.manifest;
    let mine: Vec<_> =
        snapshot.providers.values().filter(|provider| provider.generation.id == generation.id).collect();
    let providers: BTreeSet<&str> = mine.iter().map(|provider| &*provider.name).collect();
    let has = mine.iter().map(|provider| provider.source().models.len()).sum::<usize>();
    let offers = catalog.entries().iter().filter(|entry| providers.contains(&*entry.provider)).count();
    let steps = &generation.meter.steps;
    let workers: Vec<_> = mine.iter().filter_map(|provider| worker(provider)).collect();
    let past = snapshot.earlier.get(&generation.id).into_iter().flatten();
    Shown {
        id: Some(&generation.id),
        name: &manifest.name,
        version: &manifest.version,
        api: &manifest.api,
        file: generation.file.display().to_string(),
        sha256: &generation.sha256,
        generation: Some(generation.number),
        state,
        reason: None,
        message: None,
        providers: providers.into_iter().collect(),
        models: Models { has, offers, hides: has.saturating_sub(offers) },
        in_flight: generation.meter.in_flight(),
        steps: steps.count(),
        step_cpu_p50_us: micros(steps.quantile(0.5)),
        step_cpu_p99_us: micros(steps.quantile(0.99)),
        faults: snapshot.faults(&generation.id),
        isolated: !workers.is_empty() && workers.len() == mine.len(),
        workers,
        loaded_at: Some(seconds(generation.loaded_at)),
        rustc: &generation.rustc,
        license: &manifest.license,
        earlier: past.filter(|old| old.number != generation.number).map(|old| earlier(old)).collect(),
    }
}

fn worker(provider: &Provider) -> Option<Worker<'_>> {
    let worker = provider.runner.worker()?;
    Some(Worker { provider: &provider.name, pid: worker.pid(), restarts: worker.restarts() })
}

fn earlier(old: &Generation) -> Earlier<'_> {
    Earlier {
        generation: old.number,
        version: &old.manifest.version,
        sha256: &old.sha256,
        state: if old.meter.is_quarantined() { "quarantined" } else { "superseded" },
        in_flight: old.meter.in_flight(),
        faults: old.meter.faults(),
        loaded_at: seconds(old.loaded_at),
    }
}

fn refused(file: &RefusedFile) -> Shown<'_> {
    Shown {
        id: file.id.as_deref(),
        name: "",
        version: "",
        api: "",
        file: file.file.display().to_string(),
        sha256: "",
        generation: None,
        state: "refused",
        reason: Some(file.refused.reason),
        message: Some(file.refused.message.clone()),
        providers: Vec::new(),
        models: Models::default(),
        in_flight: 0,
        steps: 0,
        step_cpu_p50_us: 0.0,
        step_cpu_p99_us: 0.0,
        faults: 0,
        isolated: false,
        workers: Vec::new(),
        loaded_at: None,
        rustc: "",
        license: "",
        earlier: Vec::new(),
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Text of one line; these structures have no member that JSON could refuse.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// `POST` below `/api/plugins`: `/reload`, `/{name}/rollback`, `/{name}/enable`,
/// `/{name}/record`. Who may is decided before.
///
/// # Errors
/// 404 for a plugin that is not there, 409 if there is nothing to go back to.
pub async fn order(gateway: &Arc<Gateway>, path: &str) -> Result<String, Error> {
    let Some((name, order)) = path.rsplit_once('/') else {
        change(gateway, |plugins, gateway| {
            plugins.reload(&gateway.settings.load());
            Ok(())
        })
        .await?;
        return Ok(list(&gateway.plugins.current(), &gateway.catalog.load()));
    };
    if order == "record" {
        return record(gateway, name).await;
    }
    let (name, order) = (name.to_owned(), order.to_owned());
    let wanted = name.clone();
    change(gateway, move |plugins, gateway| {
        if order == "rollback" {
            plugins.rollback(&gateway.settings.load(), &wanted).map(drop)
        } else {
            plugins.enable(&wanted).map(drop)
        }
    })
    .await?;
    one(&gateway.plugins.current(), &gateway.catalog.load(), &name)
}

/// How long an order to record waits for an exchange; who wants to wait longer asks again.
const RECORD_PATIENCE: Duration = Duration::from_secs(20);

/// Waits for the next exchange of a provider and for its end: `{"trace": text}`, or null if none came.
async fn record(gateway: &Arc<Gateway>, name: &str) -> Result<String, Error> {
    let snapshot = gateway.plugins.current();
    let provider =
        snapshot.providers.get(name).ok_or_else(|| unknown(RollbackError::Unknown(name.to_owned())))?;
    let waiting = provider.generation.meter.recordings.wait(name).ok_or_else(|| {
        Error::new(StatusCode::TOO_MANY_REQUESTS, "too many wait for an exchange of this provider already")
    })?;
    let trace = tokio::time::timeout(RECORD_PATIENCE, waiting).await.ok().and_then(Result::ok);
    Ok(text(&serde_json::json!({ "trace": trace })))
}

/// Whether a path below `/api/plugins/` takes orders.
pub fn takes_orders(path: &str) -> bool {
    let named =
        |order: &str| path.strip_suffix(order).is_some_and(|name| !name.is_empty() && !name.contains('/'));
    path == "reload" || ["/rollback", "/enable", "/record"].into_iter().any(named)
}

async fn change(
    gateway: &Arc<Gateway>,
    change: impl FnOnce(&Plugins, &Gateway) -> Result<(), RollbackError> + Send + 'static,
) -> Result<(), Error> {
    let blocking = Arc::clone(gateway);
    let done = tokio::task::spawn_blocking(move || {
        change(&blocking.plugins, &blocking)?;
        blocking.rebuild_catalog();
        Ok(())
    });
    done.await
        .map_err(|_| Error::internal("the order was not carried out; the log says why"))?
        .map_err(unknown)?;
    gateway.discover(Duration::ZERO).await;
    Ok(())
}

fn unknown(error: RollbackError) -> Error {
    let (status, code) = match error {
        RollbackError::Unknown(_) => (StatusCode::NOT_FOUND, "plugin_not_found"),
        RollbackError::NoEarlier(_) => (StatusCode::CONFLICT, "no_earlier_generation"),
    };
    Error::new(status, error.to_string()).code(code)
}
