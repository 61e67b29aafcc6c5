//! Which files of the plugin directories pass their checks, and which of them shall serve.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use provider_api::{
    loader::{self, Record, Refused},
    model::Model,
};

use super::{
    RefusedFile, Snapshot,
    generation::Fresh,
    scan::{self, KEYS, LOCK, Stamp, View},
    trust::{self, Trust},
};
use crate::{config::Settings, files};

/// Largest models table beside a plugin.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// What was found.
pub(super) struct Vetted {
    /// The files that shall serve, by plugin id.
    pub(super) chosen: BTreeMap<Arc<str>, Candidate>,
    /// The others.
    pub(super) refused: Vec<RefusedFile>,
}

/// A file that passed its checks.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) file: PathBuf,
    pub(super) id: Arc<str>,
    pub(super) sha256: Arc<str>,
    pub(super) record: Record,
    /// The table beside it.
    pub(super) sidecar: Vec<Model>,
    /// The directory's rules, for reading it again.
    trust: Arc<Trust>,
}

/// Files that were read, so that those that did not change are not read again.
#[derive(Default)]
pub(super) struct Cache {
    files: HashMap<PathBuf, (State, Verdict)>,
    tables: HashMap<PathBuf, (Stamp, Vec<Model>)>,
}

/// The digest and record of a file, or why it may not be loaded.
type Verdict = Result<(Arc<str>, Record), Refused>;

/// The states of a file and of all that decides over it.
type State = [Option<Stamp>; 5];

impl Candidate {
    /// Its bytes, read anew.
    ///
    /// # Errors
    /// It is not what was vetted any more.
    pub(super) fn read(self) -> Result<(Fresh, Vec<Model>), Refused> {
        let (bytes, sha256) = trust::read(self.trust.open(&self.file)?)?;
        if *sha256 != *self.sha256 {
            return Err(Refused::new("changing", "it changes while it is read; it is read again soon"));
        }
        let Self { file, sha256, record, sidecar, .. } = self;
        Ok((Fresh { file, sha256, record, bytes, tried: Vec::new() }, sidecar))
    }
}

impl Cache {
    /// Checks every file of the directories; of two with one id the one that serves stays, and one in a
    /// later directory comes before one in an earlier.
    pub(super) fn vet(&mut self, settings: &Settings, view: &View, before: &Snapshot) -> Vetted {
        self.files.retain(|path, _| view.contains_key(path));
        self.tables.retain(|path, _| view.contains_key(path));
        let mut vetted = Vetted { chosen: BTreeMap::new(), refused: Vec::new() };
        for dir in &settings.plugin_dirs {
            let mut here = BTreeMap::<Arc<str>, Candidate>::new();
            let trust = Arc::new(Trust::read(dir, &settings.data_dir));
            let files = view.keys().filter(|path| scan::is_plugin(path) && path.parent() == Some(dir));
            for file in files {
                let candidate = match self.file(file, &trust, view, settings) {
                    Ok(candidate) => candidate,
                    Err(refused) => {
                        vetted.refused.push(RefusedFile { file: file.clone(), id: None, refused });
                        continue;
                    }
                };
                let id = Arc::clone(&candidate.id);
                if let Some(first) = here.remove(&id) {
                    let serves =
                        before.plugins.get(&id).is_some_and(|serving| serving.file == candidate.file);
                    let (stays, goes) = if serves { (candidate, first) } else { (first, candidate) };
                    vetted.refused.push(duplicate(&goes, &stays.file));
                    here.insert(id, stays);
                } else {
                    here.insert(id, candidate);
                }
            }
            for (id, candidate) in here {
                let file = candidate.file.display().to_string();
                if let Some(shadowed) = vetted.chosen.insert(Arc::clone(&id), candidate) {
                    let shadowed = shadowed.file.display();
                    tracing::info!(plugin = %id, %file, %shadowed, "a plugin shadows the one in an earlier directory");
                }
            }
        }
        vetted
    }

    fn file(
        &mut self,
        file: &Path,
        trust: &Arc<Trust>,
        view: &View,
        settings: &Settings,
    ) -> Result<Candidate, Refused> {
        let opened = trust.open(file)?;
        let stamp = |path: PathBuf| view.get(&path).copied();
        let mut signature = file.as_os_str().to_owned();
        signature.push(".minisig");
        let state: State = [
            stamp(file.to_owned()),
            stamp(signature.into()),
            stamp(file.with_file_name(LOCK)),
            stamp(file.with_file_name(KEYS)),
            stamp(settings.data_dir.join(KEYS)),
        ];
        let known = self.files.get(file).filter(|(known, _)| *known == state);
        let result = match known {
            Some((_, result)) => result.clone(),
            None => {
                let result = trust::read(opened).and_then(|(bytes, sha256)| {
                    trust.admit(file, &bytes, &sha256)?;
                    Ok((sha256.into(), loader::vet(&bytes)?))
                });
                self.files.insert(file.to_owned(), (state, result.clone()));
                result
            }
        };
        let (sha256, record) = result?;
        let id: Arc<str> = record.manifest.id.as_str().into();
        let sidecar = self.table(&file.with_file_name(format!("{id}.models.csv")), view);
        Ok(Candidate { file: file.to_owned(), id, sha256, record, sidecar, trust: Arc::clone(trust) })
    }

    /// The rows of a table; those that were read before if it is wrong now.
    fn table(&mut self, path: &Path, view: &View) -> Vec<Model> {
        let Some(stamp) = view.get(path) else { return Vec::new() };
        let known = self.tables.get(path);
        if let Some((_, rows)) = known.filter(|(known, _)| known == stamp) {
            return rows.clone();
        }
        let before = known.map(|(_, rows)| rows.clone()).unwrap_or_default();
        let rows = read_table(path).unwrap_or_else(|error| {
            // A wrong table must not take a working plugin away.
            tracing::warn!(file = %path.display(), %error, "the models table beside a plugin is wrong; the rows before it stay");
            before
        });
        self.tables.insert(path.to_owned(), (*stamp, rows.clone()));
        rows
    }
}

fn duplicate(file: &Candidate, other: &Path) -> RefusedFile {
    let text = format!("its id `{}` is that of {} too; remove one of them", file.id, other.display());
    let refused = Refused::new("duplicate_id", text);
    RefusedFile { file: file.file.clone(), id: Some(Arc::clone(&file.id)), refused }
}

fn read_table(path: &Path) -> Result<Vec<Model>, String> {
    let bytes = files::read(path, MAX_TABLE_BYTES).map_err(|error| error.to_string())?.unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    provider_api::model::models_from_csv(&text).map_err(|error| error.to_string())
}
