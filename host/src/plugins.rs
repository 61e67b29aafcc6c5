//! The plugins in force: which files were loaded, which providers they serve, and why others were refused.
//!
//! A request takes one snapshot and keeps the generation it started with, whatever is loaded meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use provider_api::loader::Refused;

use crate::config::Settings;

pub mod generation;
pub mod keys;
pub mod listing;
mod load;
pub mod meter;
pub mod probe;
pub mod provider;
pub mod runner;
pub mod scan;
pub mod steps;
pub mod trace;
mod trust;
mod vetted;
pub mod worker;

pub use generation::Generation;
pub use load::provider_names;
pub use provider::Provider;

use load::Store;
use meter::Meter;
use scan::{View, Watch};

/// All plugins; swapped as a whole.
#[derive(Default)]
pub struct Plugins {
    current: ArcSwap<Snapshot>,
    /// What only loading needs; held while it runs, never by a request.
    store: Mutex<Store>,
    watch: Mutex<Watch>,
}

/// What is in force at one moment.
#[derive(Default)]
pub struct Snapshot {
    /// The serving plugins, by id.
    pub plugins: BTreeMap<Arc<str>, Arc<Generation>>,
    /// Files that are not loaded.
    pub refused: Vec<RefusedFile>,
    /// The providers, by name.
    pub providers: BTreeMap<Arc<str>, Arc<Provider>>,
    /// By plugin: generations that served before, the oldest first.
    pub earlier: BTreeMap<Arc<str>, Vec<Arc<Generation>>>,
    /// By plugin: the meters of all its generations so far.
    pub meters: BTreeMap<Arc<str>, Vec<Arc<Meter>>>,
    /// By plugin: the digest of the file that a rollback passes over.
    pub passed_over: BTreeMap<Arc<str>, Arc<str>>,
}

/// A file that is not loaded.
#[derive(Debug, Clone)]
pub struct RefusedFile {
    /// Where it is.
    pub file: PathBuf,
    /// Its plugin's id, if it says one.
    pub id: Option<Arc<str>>,
    /// Why.
    pub refused: Refused,
}

/// Why nothing was rolled back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    /// No plugin and no provider has that name.
    #[error("no plugin `{0}` serves; GET /api/plugins lists those that do")]
    Unknown(String),
    /// It has only one generation.
    #[error("plugin `{0}` has no earlier generation to go back to")]
    NoEarlier(Arc<str>),
}

impl Snapshot {
    /// The serving generation of this plugin, or of the plugin that serves this provider.
    pub fn plugin(&self, name: &str) -> Option<&Arc<Generation>> {
        let of_provider = || self.plugins.get(&self.providers.get(name)?.generation.id);
        self.plugins.get(name).or_else(of_provider)
    }

    /// Faults of all generations of a plugin so far.
    pub fn faults(&self, id: &str) -> u64 {
        self.meters.get(id).into_iter().flatten().map(|meter| meter.faults()).sum()
    }
}

impl Plugins {
    /// What is in force now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Reads the plugin directories and puts what they hold in force, also what was refused before. Files
    /// that did not change keep their generation. Blocks: files are read and code is mapped.
    pub fn reload(&self, settings: &Settings) {
        let mut store = self.store();
        store.retry();
        let view = scan::scan(&settings.plugin_dirs, &settings.data_dir, store.applied());
        self.apply(&mut store, settings, view);
    }

    /// Looks whether anything changed in the plugin directories, and puts it in force when the change has
    /// settled; whether it did. Blocks as [`Plugins::reload`].
    pub fn look(&self, settings: &Settings) -> bool {
        let mut store = self.store();
        let now = scan::scan(&settings.plugin_dirs, &settings.data_dir, store.applied());
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(view) = watch.settled(store.applied(), now, std::time::Instant::now()) else { return false };
        drop(watch);
        self.apply(&mut store, settings, view);
        true
    }

    /// Puts the generation before the serving one back in force, until the plugin's file changes again.
    ///
    /// # Errors
    /// There is no such plugin, or nothing to go back to.
    pub fn rollback(&self, settings: &Settings, name: &str) -> Result<Arc<Generation>, RollbackError> {
        let mut store = self.store();
        let before = self.current();
        let serving = before.plugin(name).ok_or_else(|| RollbackError::Unknown(name.to_owned()))?;
        let id = Arc::clone(&serving.id);
        if !store.pin_earlier(serving) {
            return Err(RollbackError::NoEarlier(id));
        }
        let view = store.applied().clone();
        self.apply(&mut store, settings, view);
        let after = self.current();
        after.plugins.get(&id).cloned().ok_or(RollbackError::NoEarlier(id))
    }

    /// Ends the quarantine of a plugin's serving generation.
    ///
    /// # Errors
    /// There is no such plugin.
    pub fn enable(&self, name: &str) -> Result<Arc<Generation>, RollbackError> {
        let serving = self.current().plugin(name).cloned();
        let serving = serving.ok_or_else(|| RollbackError::Unknown(name.to_owned()))?;
        serving.meter.release();
        tracing::info!(plugin = %serving.id, generation = serving.number, "plugin released from quarantine");
        Ok(serving)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what a view holds into force.
    fn apply(&self, store: &mut Store, settings: &Settings, view: View) {
        let before = self.current();
        let vetted = store.vet(settings, view, &before);
        let mut refused = vetted.refused;
        let mut plugins = store.generations(settings, vetted.chosen, &before, &mut refused);
        store.keep_serving(&mut plugins, &before, &refused);
        let providers = providers(settings, &mut plugins, &before, &mut refused);
        store.settle(&plugins, &before);
        log_changes(&before, &plugins, &refused, settings);
        let lines = || store.lines.iter();
        self.current.store(Arc::new(Snapshot {
            earlier: lines().map(|(id, line)| (Arc::clone(id), line.earlier.clone())).collect(),
            meters: lines().map(|(id, line)| (Arc::clone(id), line.meters.clone())).collect(),
            passed_over: lines()
                .filter_map(|(id, line)| Some((Arc::clone(id), line.passed_over()?)))
                .collect(),
            plugins,
            refused,
            providers,
        }));
    }
}

/// One provider a plugin under the plugin's own name, and one a section of the settings that names it. A
/// generation that none can be made of gives way to the one before it.
fn providers(
    settings: &Settings,
    plugins: &mut BTreeMap<Arc<str>, Arc<Generation>>,
    before: &Snapshot,
    refused: &mut Vec<RefusedFile>,
) -> BTreeMap<Arc<str>, Arc<Provider>> {
    let (mut made, mut useless) = (BTreeMap::new(), BTreeSet::new());
    for (id, serving) in plugins.iter_mut() {
        let generation = Arc::clone(serving);
        let names = load::provider_names(settings, &generation.manifest);
        let waits = names.is_empty();
        let (mut current, mut kept) = (0, 0);
        for name in names {
            let old = before.providers.get(&name);
            match Provider::create(&name, &generation, settings, old) {
                Ok(provider) => {
                    current += 1;
                    made.insert(name, provider);
                }
                Err(error) => {
                    let (file, id) = (generation.file.clone(), Some(Arc::clone(id)));
                    refused.push(RefusedFile { file, id, refused: error });
                    if let Some(old) = old.filter(|old| old.generation.id == generation.id) {
                        kept += 1;
                        made.insert(name, Arc::clone(old));
                    }
                }
            }
        }
        match before.plugins.get(id).filter(|_| kept > 0) {
            // One that waits for its first section is none the worse.
            _ if current > 0 || waits => {}
            Some(old) => *serving = Arc::clone(old),
            None => {
                useless.insert(Arc::clone(id));
            }
        }
    }
    plugins.retain(|id, _| !useless.contains(id));
    made
}

/// Says what changed, and the long texts in files.
fn log_changes(
    before: &Snapshot,
    plugins: &BTreeMap<Arc<str>, Arc<Generation>>,
    refused: &[RefusedFile],
    settings: &Settings,
) {
    for (id, generation) in plugins {
        if before.plugins.get(id).is_none_or(|old| old.number != generation.number) {
            let (version, generation, file) =
                (&generation.manifest.version, generation.number, generation.file.display());
            tracing::info!(plugin = %id, %version, generation, %file, "plugin in force");
        }
    }
    for (id, old) in before.plugins.iter().filter(|(id, _)| !plugins.contains_key(*id)) {
        let in_flight = old.meter.in_flight();
        tracing::info!(plugin = %id, file = %old.file.display(), in_flight, "plugin removed; what runs on it goes on");
    }
    let known = |file: &&RefusedFile| {
        !before.refused.iter().any(|old| old.file == file.file && old.refused == file.refused)
    };
    for file in refused.iter().filter(known) {
        let (path, reason) = (file.file.display(), file.refused.reason);
        tracing::warn!(file = %path, reason, why = %file.refused.message, "plugin refused");
        if let Some(long) = &file.refused.long {
            load::write_long(&settings.data_dir, &file.file, long);
        }
    }
}
