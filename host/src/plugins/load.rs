//! From checked files to generations: what stays, what is tried and loaded, what is gone back to.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use provider_api::{
    loader::Refused,
    model::{Manifest, Model},
};

use super::{
    Generation, RefusedFile, Snapshot,
    generation::Fresh,
    meter::Meter,
    probe, provider,
    scan::View,
    vetted::{Cache, Candidate, Vetted},
};
use crate::{
    config::{Isolation, Settings},
    files,
};

/// Earlier generations of a plugin that can be gone back to.
const MAX_EARLIER: usize = 16;

/// Loaded generations whose code stays mapped, about half a megabyte each, before a warning.
const MANY_GENERATIONS: usize = 200;

/// Child processes at once that try plugins.
const MAX_PROBES: usize = 4;

/// What loading remembers.
#[derive(Default)]
pub(super) struct Store {
    /// What is in force was made from this.
    applied: View,
    cache: Cache,
    /// Why bytes could not be loaded, by digest: they are not tried again by themselves.
    failed: HashMap<Arc<str>, Refused>,
    pub(super) lines: BTreeMap<Arc<str>, Line>,
}

/// The generations of one plugin.
#[derive(Default)]
pub(super) struct Line {
    /// Those that served before, by number.
    pub(super) earlier: Vec<Arc<Generation>>,
    /// Of all that were loaded.
    pub(super) meters: Vec<Arc<Meter>>,
    /// The digest of the file that lies there.
    on_disk: Option<Arc<str>>,
    /// Serves as long as the file has this digest.
    pinned: Option<(Arc<str>, Arc<Generation>)>,
    /// Was loaded, but no provider could be made of it yet.
    waiting: Option<Arc<Generation>>,
}

impl Line {
    /// The digest of the file that a rollback passes over.
    pub(super) fn passed_over(&self) -> Option<Arc<str>> {
        self.pinned.as_ref().map(|(digest, _)| Arc::clone(digest))
    }
}

/// What was chosen, and what of it must be loaded anew.
struct Work {
    fresh: Fresh,
    sidecar: Vec<Model>,
    /// Whether it runs in worker processes alone: those are its trial, and this process does not map it.
    apart: bool,
    outcome: Result<(), Refused>,
}

impl Store {
    /// The state of the directories that is in force.
    pub(super) fn applied(&self) -> &View {
        &self.applied
    }

    /// Lets everything that failed be tried again.
    pub(super) fn retry(&mut self) {
        self.failed.clear();
        self.cache = Cache::default();
    }

    /// Checks the files of a view.
    pub(super) fn vet(&mut self, settings: &Settings, view: View, before: &Snapshot) -> Vetted {
        let vetted = self.cache.vet(settings, &view, before);
        self.applied = view;
        vetted
    }

    /// The generation of each chosen file: the one that serves if the file is the same, else a new one.
    pub(super) fn generations(
        &mut self,
        settings: &Settings,
        chosen: BTreeMap<Arc<str>, Candidate>,
        before: &Snapshot,
        refused: &mut Vec<RefusedFile>,
    ) -> BTreeMap<Arc<str>, Arc<Generation>> {
        let mut plugins = BTreeMap::new();
        let mut work = Vec::new();
        for (id, candidate) in chosen {
            match self.known(&candidate, before) {
                Some(generation) => {
                    let Candidate { file, sidecar, .. } = candidate;
                    plugins.insert(id, generation.placed(file, sidecar));
                }
                None => {
                    let apart = runs_apart(settings, &candidate.record.manifest);
                    let (file, id) = (candidate.file.clone(), Some(id));
                    let failed = self.failed.get(&candidate.sha256).cloned().map_or(Ok(()), Err);
                    match failed.and_then(|()| candidate.read()) {
                        Ok((fresh, sidecar)) => work.push(Work { fresh, sidecar, apart, outcome: Ok(()) }),
                        Err(error) => refused.push(RefusedFile { file, id, refused: error }),
                    }
                }
            }
        }
        try_all(&mut work, settings);
        for Work { fresh, sidecar, apart, outcome } in work {
            let (file, sha256) = (fresh.file.clone(), Arc::clone(&fresh.sha256));
            let id: Arc<str> = fresh.record.manifest.id.as_str().into();
            match outcome.and_then(|()| self.load(fresh, sidecar, apart)) {
                Ok(generation) => {
                    plugins.insert(id, generation);
                }
                Err(error) => {
                    self.failed.insert(sha256, error.clone());
                    refused.push(RefusedFile { file, id: Some(id), refused: error });
                }
            }
        }
        plugins
    }

    /// The loaded generation that a file means: the one that it was rolled back to, or the one of the same
    /// bytes that serves or waits.
    fn known(&mut self, candidate: &Candidate, before: &Snapshot) -> Option<Arc<Generation>> {
        let line = self.lines.entry(Arc::clone(&candidate.id)).or_default();
        line.on_disk = Some(Arc::clone(&candidate.sha256));
        line.pinned.take_if(|(passed_over, _)| *passed_over != candidate.sha256);
        if let Some((_, pinned)) = &line.pinned {
            return Some(Arc::clone(pinned));
        }
        let same = |known: &&Arc<Generation>| known.sha256 == candidate.sha256;
        let serving = before.plugins.get(&candidate.id).filter(same);
        serving.or(line.waiting.as_ref().filter(same)).cloned()
    }

    fn load(&mut self, fresh: Fresh, sidecar: Vec<Model>, apart: bool) -> Result<Arc<Generation>, Refused> {
        let line = self.lines.entry(fresh.record.manifest.id.as_str().into()).or_default();
        let number = line.meters.len() as u64 + 1;
        let began = Instant::now();
        // The same bytes once more, a file that was away or gone back to: mapping them again would cost memory
        // for good. Code that has failed may have spoilt its statics, and starts afresh.
        let same = line.earlier.iter().rfind(|old| old.sha256 == fresh.sha256);
        let generation = match same.filter(|old| old.meter.faults() == 0) {
            Some(old) => old.again(number, fresh.file, sidecar),
            None => Arc::new(Generation::load(fresh, number, sidecar, apart)?),
        };
        tracing::debug!(plugin = %generation.id, generation = number, took_us = micros(began), "plugin mapped");
        line.meters.push(Arc::clone(&generation.meter));
        line.waiting = Some(Arc::clone(&generation));
        let generations: usize = self.lines.values().map(|line| line.meters.len()).sum();
        if generations.is_multiple_of(MANY_GENERATIONS) {
            tracing::warn!(
                generations,
                "many plugin files were loaded since the start; a restart frees their memory"
            );
        }
        Ok(generation)
    }

    /// Leaves generations in force whose file, or another of the same plugin, was refused.
    pub(super) fn keep_serving(
        &self,
        plugins: &mut BTreeMap<Arc<str>, Arc<Generation>>,
        before: &Snapshot,
        refused: &[RefusedFile],
    ) {
        for (id, serving) in before.plugins.iter() {
            let concerns =
                |file: &RefusedFile| file.file == serving.file || file.id.as_ref().is_some_and(|of| of == id);
            if !plugins.contains_key(id) && refused.iter().any(concerns) {
                plugins.insert(Arc::clone(id), Arc::clone(serving));
            }
        }
    }

    /// Notes which generations served before.
    pub(super) fn settle(&mut self, plugins: &BTreeMap<Arc<str>, Arc<Generation>>, before: &Snapshot) {
        for (id, line) in &mut self.lines {
            let serving = plugins.get(id).map(|generation| generation.number);
            let past = before.plugins.get(id).filter(|old| Some(old.number) != serving);
            line.earlier.retain(|old| Some(old.number) != serving);
            if let Some(past) = past
                && line.earlier.iter().all(|old| old.number != past.number)
            {
                line.earlier.push(Arc::clone(past));
                line.earlier.sort_by_key(|old| old.number);
            }
            let surplus = line.earlier.len().saturating_sub(MAX_EARLIER);
            line.earlier.drain(..surplus);
            line.waiting.take_if(|waiting| Some(waiting.number) == serving);
        }
    }

    /// Pins the generation before the serving one; whether there is one.
    pub(super) fn pin_earlier(&mut self, serving: &Arc<Generation>) -> bool {
        let Some(line) = self.lines.get_mut(&serving.id) else { return false };
        let older = line.earlier.iter().rfind(|old| old.number < serving.number);
        let (Some(older), Some(on_disk)) = (older, &line.on_disk) else { return false };
        line.pinned = Some((Arc::clone(on_disk), Arc::clone(older)));
        true
    }
}

/// Tries all files in child processes, a few at a time.
fn try_all(work: &mut [Work], settings: &Settings) {
    let queue = Mutex::new(work.iter_mut().filter(|work| !work.apart));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..MAX_PROBES {
            scope.spawn(|| {
                while let Some(Work { fresh, outcome, .. }) = next() {
                    let manifest = &fresh.record.manifest;
                    let names = provider_names(settings, manifest);
                    let configs: Vec<_> =
                        names.iter().map(|name| provider::config(name, manifest, settings)).collect();
                    let began = Instant::now();
                    *outcome = probe::probe(&fresh.bytes, &configs);
                    fresh.tried = configs;
                    tracing::debug!(plugin = %manifest.id, took_us = micros(began), "plugin tried");
                }
            });
        }
    });
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The providers that a plugin serves: one under its own name, and those whose sections name it. A plugin
/// without an address of its own has none under its own name unless that has one.
pub fn provider_names(settings: &Settings, manifest: &Manifest) -> Vec<Arc<str>> {
    let id = manifest.id.as_str();
    let named = |name: &str| settings.providers.get(name).and_then(|section| section.plugin.as_deref());
    let useful = settings.providers.contains_key(id)
        || !manifest.needs_base_url()
        || !provider::base_url(id, None, manifest).is_empty();
    let own = (useful && named(id).is_none_or(|plugin| plugin == id)).then(|| id.into());
    let others = settings.providers.keys().filter(|name| *name != id && named(name) == Some(id));
    own.into_iter().chain(others.map(|name| name.as_str().into())).collect()
}

/// Whether all providers of a plugin run in worker processes.
fn runs_apart(settings: &Settings, manifest: &Manifest) -> bool {
    let apart = |name: &Arc<str>| {
        settings.providers.get(&**name).is_some_and(|section| section.isolation == Isolation::Process)
    };
    let names = provider_names(settings, manifest);
    !names.is_empty() && names.iter().all(apart)
}

/// Writes a text that is too long for the log to `plugin-errors/<file>.txt` in the data directory.
pub(super) fn write_long(data_dir: &Path, file: &Path, text: &str) {
    let dir = data_dir.join("plugin-errors");
    let name = format!("{}.txt", file.file_name().unwrap_or_default().to_string_lossy());
    let written =
        std::fs::create_dir_all(&dir).and_then(|()| files::replace(&dir.join(name), text.as_bytes()));
    if let Err(error) = written {
        tracing::warn!(%error, "the long text about a refused plugin cannot be written");
    }
}
