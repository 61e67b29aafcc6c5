//! Everything that runs for all requests: what is in force, and how it comes into force.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use provider_api::model::Model;

use crate::{
    access::{Access, Machine},
    account::Account,
    breaker::Breakers,
    catalog::{self, Catalog, Entry, List},
    config::Settings,
    error::Error,
    files,
    limits::InFlight,
    listen::Shared,
    memory::Memory,
    plugins::{Plugins, Provider},
    relay::{Call, Run},
    session::Sessions,
    upstream::Upstream,
};

mod life;
mod notify;
mod record;

pub use life::{Ended, Reload, StartError, run};
use record::Record;

/// How long a provider may take to list its models.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(3);

/// Callers who miss a model make it be looked for again, but not more often than this.
const DISCOVERY_GAP: Duration = Duration::from_secs(1);

/// Largest models.csv.
const MAX_LIST_BYTES: u64 = 16 << 20;

/// What a gateway is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To serve callers: they get the models that are offered, behind the memory block.
    Serve,
    /// To ask one question for a person at this machine, who may name any model that is known. There is
    /// no memory block, and no names are recorded in the data directory, which others may be using.
    Ask,
}

/// What all requests share.
pub struct Gateway {
    /// What the program runs on.
    pub settings: ArcSwap<Settings>,
    /// What connections share: access rules, limits, the certificate.
    pub shared: Arc<Shared>,
    /// Requests at once.
    pub in_flight: InFlight,
    /// The models that are offered.
    pub catalog: ArcSwap<Catalog>,
    /// All models of all providers, offered or not; empty in a server.
    pub known: ArcSwap<Catalog>,
    /// The memory block.
    pub memory: Memory,
    /// Stored conversations.
    pub sessions: Sessions,
    /// Plugins and providers.
    pub plugins: Plugins,
    /// Connections to upstreams.
    pub upstream: Arc<Upstream>,
    /// A breaker for each target.
    pub breakers: Breakers,
    /// Tokens and costs.
    pub account: Arc<Account>,
    /// Serialises discovery, and says when it ran last.
    discovery: tokio::sync::Mutex<Option<Instant>>,
    /// Warnings about models that were logged already.
    warned: Mutex<Vec<String>>,
    purpose: Purpose,
    /// The operator's models.csv as it was read last; `None`: there is none.
    own_list: Mutex<Option<String>>,
}

impl Gateway {
    /// Brings everything into force but the listening. Blocks: files are read and plugins loaded.
    pub fn open(settings: Settings, purpose: Purpose) -> Arc<Self> {
        let data_dir = settings.data_dir.clone();
        let access = Access::new(&settings.access, &Machine::here());
        let shared = Arc::new(Shared::new(access, settings.limits.clone()));
        let gateway = Arc::new(Self {
            shared,
            in_flight: InFlight::new(settings.limits.max_in_flight),
            catalog: ArcSwap::default(),
            known: ArcSwap::default(),
            memory: match purpose {
                Purpose::Serve => Memory::open(&data_dir),
                Purpose::Ask => Memory::none(),
            },
            sessions: match purpose {
                Purpose::Serve => Sessions::serve(&data_dir),
                Purpose::Ask => Sessions::new(&data_dir),
            },
            plugins: Plugins::default(),
            upstream: Arc::new(Upstream::default()),
            breakers: Breakers::new(settings.breaker),
            account: Arc::new(Account::new()),
            discovery: tokio::sync::Mutex::new(None),
            warned: Mutex::default(),
            purpose,
            own_list: Mutex::default(),
            settings: ArcSwap::from_pointee(settings),
        });
        gateway.plugins.reload(&gateway.settings.load());
        gateway.rebuild_catalog();
        gateway
    }

    /// Builds the catalog from what providers, models.csv and the settings say. Blocks: files are read.
    pub fn rebuild_catalog(&self) {
        // Held all the time: of two that build at once, the one that read last must win.
        let mut own_list = self.own_list.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = self.settings.load();
        match files::read(&settings.data_dir.join("models.csv"), MAX_LIST_BYTES) {
            Ok(bytes) => *own_list = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => {
                let instead = if own_list.is_some() { "as it was read before" } else { "the built-in one" };
                tracing::warn!(%error, instead, "models.csv cannot be read; another list is in force until it is repaired");
            }
        }
        let (list, mut warnings) = List::parse(own_list.as_deref().unwrap_or(catalog::DEFAULT_LIST));
        let record = Record::read(&settings, self.catalog.load().owners());
        let sources: Vec<_> = self.plugins.current().providers.values().map(|p| p.source()).collect();
        let (built, more) = catalog::build(&sources, &list, &record.owners);
        warnings.extend(more);
        self.warn_once(warnings.iter().map(ToString::to_string).collect());
        if self.purpose == Purpose::Ask {
            self.known.store(Arc::new(catalog::build_all(&sources, &list, built.owners())));
        } else {
            record.write(built.owners());
        }
        let targets: std::collections::HashSet<&str> =
            built.entries().iter().map(|entry| &*entry.target).collect();
        // A model with several keys has a breaker for each, named behind a `#`.
        let model = |target: &str| target.rsplit_once('#').map_or("", |(model, _)| model).to_owned();
        self.breakers.retain(|target| targets.contains(target) || targets.contains(&*model(target)));
        self.catalog.store(Arc::new(built));
    }

    fn warn_once(&self, warnings: Vec<String>) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.iter().filter(|warning| !warned.contains(warning)) {
            match self.purpose {
                Purpose::Serve => tracing::warn!(why = %warning, "models"),
                // What concerns the list, not the question.
                Purpose::Ask => tracing::info!(why = %warning, "models"),
            }
        }
        *warned = warnings;
    }

    /// The model that a caller means; providers that list their models are asked again before the answer
    /// is that there is none.
    ///
    /// # Errors
    /// 404 `model_not_found`.
    pub async fn resolve(self: &Arc<Self>, name: &str) -> Result<Arc<Entry>, Error> {
        if let Some(entry) = self.find(name) {
            return Ok(entry);
        }
        Box::pin(self.discover(DISCOVERY_GAP)).await;
        self.catalog.load().resolve(name).cloned()
    }

    /// The model that a caller means, among those that are known now.
    pub fn find(&self, name: &str) -> Option<Arc<Entry>> {
        // What is offered has its names first, so that both programs mean the same by them.
        let offered = self.catalog.load().find(name).cloned();
        offered.or_else(|| self.known.load().find(name).cloned())
    }

    /// The models that stand in for one that cannot answer, in the order in which they are asked.
    pub fn fallbacks(&self, entry: &Entry) -> Vec<Arc<Entry>> {
        let settings = self.settings.load();
        let means = |name: &str| {
            name == &*entry.name || self.find(name).is_some_and(|found| found.target == entry.target)
        };
        let Some((_, names)) = settings.fallbacks.iter().find(|(name, _)| means(name)) else {
            return Vec::new();
        };
        let found = names.iter().filter_map(|name| self.find(name));
        found.filter(|other| other.mode == entry.mode && other.target != entry.target).collect()
    }

    /// Warns of names in `[fallbacks]` that mean no model; when the providers have listed theirs.
    pub fn check_fallbacks(&self) {
        let settings = self.settings.load();
        let catalog = self.catalog.load();
        for (name, others) in &settings.fallbacks {
            for unknown in std::iter::once(name).chain(others).filter(|name| self.find(name).is_none()) {
                let nearest = catalog.nearest(unknown).join(", ");
                tracing::warn!(model = %name, %unknown, %nearest, "[fallbacks] names a model that is not offered");
            }
        }
    }

    /// Asks every provider that lists its models, unless that was done within `gap`.
    pub async fn discover(self: &Arc<Self>, gap: Duration) {
        let mut last = self.discovery.lock().await;
        if last.is_some_and(|at| at.elapsed() < gap) {
            return;
        }
        let snapshot = self.plugins.current();
        let listing = |provider: &&Arc<Provider>| provider.is_to_list(gap.is_zero());
        let mut asked = tokio::task::JoinSet::new();
        for provider in snapshot.providers.values().filter(listing) {
            asked.spawn(listed(Arc::clone(&self.upstream), Arc::clone(provider)));
        }
        let mut changed = false;
        while let Some(result) = asked.join_next().await {
            changed |= result.unwrap_or(false);
        }
        *last = Some(Instant::now());
        if changed {
            let gateway = Arc::clone(self);
            let _ = tokio::task::spawn_blocking(move || gateway.rebuild_catalog()).await;
        }
    }
}

/// Asks a provider for its models; whether they changed.
async fn listed(upstream: Arc<Upstream>, provider: Arc<Provider>) -> bool {
    let call = Call {
        operation: "models",
        model: "".into(),
        drops: "".into(),
        requires_completion_tokens: false,
        stream: false,
        body: Bytes::new(),
        include_usage: false,
        keep_answer: false,
        connect: DISCOVERY_LIMIT,
    };
    let channel = Arc::clone(provider.channels().first(Instant::now()));
    let run = async { Run::start(&upstream, (&provider, &channel), &call, 0).await?.whole().await };
    let whole = match tokio::time::timeout(DISCOVERY_LIMIT, run).await {
        Ok(Ok(whole)) => whole,
        Ok(Err(fault)) => return unreachable_now(&provider, &provider.redact(&fault.message)),
        Err(_) => return unreachable_now(&provider, "it did not answer in time"),
    };
    let models: Vec<Model> = match serde_json::from_slice(&whole.body) {
        Ok(models) => models,
        Err(error) => return unreachable_now(&provider, &error.to_string()),
    };
    provider.listing.note(true);
    let changed = **provider.listing.found.load() != models;
    if changed {
        tracing::info!(provider = %provider.name, models = models.len(), "models listed");
        provider.listing.found.store(Arc::new(models));
    }
    changed
}

/// Says once that a provider does not list its models; what it listed before stays.
fn unreachable_now(provider: &Provider, why: &str) -> bool {
    if provider.listing.note(false) {
        let (name, base_url) = (&provider.name, provider.base_url());
        tracing::info!(provider = %name, base_url, why, "the provider is not running or not reachable");
    }
    false
}

/// A number that nobody can foresee well enough to matter: for back-off, seeds and ids, not for secrets.
pub fn random() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let seed = *SEED.get_or_init(|| {
        use std::hash::{BuildHasher, Hasher};
        std::collections::hash_map::RandomState::new().build_hasher().finish()
    });
    // SplitMix64 (Steele, Lea, Flood 2014) over a counter: one atomic operation a number.
    let mut z = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(seed);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
