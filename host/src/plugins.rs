//! The plugins in force: which files were loaded, which providers they serve, and why others were refused.
//!
//! A request takes one snapshot and keeps the generation it started with, whatever is loaded meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use provider_api::{
    loader::{self, Module, Refused},
    model::{Manifest, Model},
};
use sha2::{Digest, Sha256};

use crate::{catalog, config::Settings};

pub mod keys;
pub mod provider;
pub mod runner;
pub mod steps;

pub use provider::Provider;

/// All plugins; swapped as a whole.
#[derive(Default)]
pub struct Plugins {
    current: ArcSwap<Snapshot>,
    generations: AtomicU64,
    reloading: Mutex<()>,
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
}

/// One loaded version of a plugin.
pub struct Generation {
    /// Rises by one with each file that is loaded.
    pub number: u64,
    /// The plugin's id.
    pub id: Arc<str>,
    /// Where it was read.
    pub file: PathBuf,
    /// Of the file's bytes, in hex.
    pub sha256: String,
    /// What it says about itself, the sidecar's rows included.
    pub manifest: Manifest,
    /// The compiler that built it.
    pub rustc: String,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    module: Module,
}

/// A file that is not loaded.
#[derive(Debug, Clone)]
pub struct RefusedFile {
    /// Where it is.
    pub file: PathBuf,
    /// Why.
    pub refused: Refused,
}

/// A file that passed its checks.
struct Candidate {
    file: PathBuf,
    bytes: Vec<u8>,
    sha256: String,
    record: loader::Record,
}

impl Plugins {
    /// What is in force now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Reads the plugin directories and puts what they hold in force. Files that did not change keep
    /// their generation. Blocks: files are read and code is mapped.
    pub fn reload(&self, settings: &Settings) {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = self.current();
        let (candidates, mut refused) = candidates(&settings.plugin_dirs);
        let mut plugins = BTreeMap::new();
        for candidate in candidates.into_values() {
            let file = candidate.file.clone();
            match self.generation(candidate, &before) {
                Ok(generation) => {
                    plugins.insert(Arc::clone(&generation.id), Arc::new(generation));
                }
                Err(error) => refused.push(RefusedFile { file, refused: error }),
            }
        }
        let providers = providers(settings, &plugins, &before, &mut refused);
        for file in &refused {
            let (path, reason) = (file.file.display(), file.refused.reason);
            tracing::warn!(file = %path, reason, why = %file.refused.message, "plugin refused");
        }
        self.current.store(Arc::new(Snapshot { plugins, refused, providers }));
    }

    fn generation(&self, candidate: Candidate, before: &Snapshot) -> Result<Generation, Refused> {
        let Candidate { file, bytes, sha256, record } = candidate;
        let mut manifest = record.manifest;
        let id: Arc<str> = manifest.id.as_str().into();
        catalog::merge_rows(&mut manifest.models, sidecar(&file, &id)?);
        let same = before.plugins.get(&id).filter(|kept| kept.sha256 == sha256);
        let (number, module, loaded_at) = match same {
            Some(kept) => (kept.number, kept.module, kept.loaded_at),
            None => {
                let module = loader::open(&bytes)?;
                let number = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::info!(plugin = %id, version = %manifest.version, file = %file.display(), "plugin loaded");
                (number, module, SystemTime::now())
            }
        };
        Ok(Generation { number, id, file, sha256, manifest, rustc: record.rustc, loaded_at, module })
    }
}

/// Reads and checks every file; of two with one id, the one in the later directory wins.
fn candidates(dirs: &[PathBuf]) -> (BTreeMap<String, Candidate>, Vec<RefusedFile>) {
    let (mut found, mut refused) = (BTreeMap::<String, Candidate>::new(), Vec::new());
    for dir in dirs {
        let mut in_this_dir = HashMap::<String, PathBuf>::new();
        for file in plugin_files(dir) {
            let candidate = match vet(&file) {
                Ok(candidate) => candidate,
                Err(error) => {
                    refused.push(RefusedFile { file, refused: error });
                    continue;
                }
            };
            let id = candidate.record.manifest.id.clone();
            if let Some(first) = in_this_dir.get(&id) {
                let text = format!("its id `{id}` is that of {} too; remove one of them", first.display());
                refused.push(RefusedFile { file, refused: Refused::new("duplicate_id", text) });
                continue;
            }
            in_this_dir.insert(id.clone(), file.clone());
            if let Some(shadowed) = found.insert(id.clone(), candidate) {
                let (file, shadowed) = (file.display(), shadowed.file.display());
                tracing::info!(plugin = %id, %file, %shadowed, "a plugin shadows the one in an earlier directory");
            }
        }
    }
    (found, refused)
}

fn vet(file: &Path) -> Result<Candidate, Refused> {
    let bytes = loader::read(file)?;
    let record = loader::vet(&bytes)?;
    let digest = Sha256::digest(&bytes);
    let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Candidate { file: file.to_owned(), bytes, sha256, record })
}

/// The `.so` files of a directory in the order of their names; a missing directory has none.
fn plugin_files(dir: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "the plugin directory cannot be read");
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            name.ends_with(".so") && !name.starts_with('.')
        })
        .collect();
    files.sort();
    files
}

/// The rows of `<plugin id>.models.csv` beside a plugin's file.
fn sidecar(file: &Path, id: &str) -> Result<Vec<Model>, Refused> {
    let path = file.with_file_name(format!("{id}.models.csv"));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let text = format!("{} cannot be read: {error}", path.display());
            return Err(Refused::new("bad_sidecar", text));
        }
    };
    provider_api::model::models_from_csv(&text).or_else(|error| {
        // A wrong table must not take a working plugin away.
        tracing::warn!(file = %path.display(), %error, "the models table beside a plugin is wrong; it is not used");
        Ok(Vec::new())
    })
}

/// One provider a plugin under the plugin's own name, and one a section of the settings that names it.
fn providers(
    settings: &Settings,
    plugins: &BTreeMap<Arc<str>, Arc<Generation>>,
    before: &Snapshot,
    refused: &mut Vec<RefusedFile>,
) -> BTreeMap<Arc<str>, Arc<Provider>> {
    let mut names: BTreeMap<Arc<str>, &Arc<Generation>> = BTreeMap::new();
    for (id, generation) in plugins {
        names.insert(Arc::clone(id), generation);
    }
    for (name, section) in &settings.providers {
        if let Some(generation) = section.plugin.as_deref().and_then(|id| plugins.get(id)) {
            names.insert(name.as_str().into(), generation);
        }
    }
    let mut made = BTreeMap::new();
    for (name, generation) in names {
        match Provider::create(&name, generation, settings, before.providers.get(&name)) {
            Ok(provider) => {
                made.insert(name, Arc::new(provider));
            }
            Err(error) => refused.push(RefusedFile { file: generation.file.clone(), refused: error }),
        }
    }
    made
}
