//! What the plugin files say about themselves, read without running them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use provider_api::loader::{self, Record, Refused};
use serde_json::Value;

use super::Settings;

/// Every plugin file with its record, or why it has none; the later ones win over the earlier.
pub fn installed(settings: &Settings) -> Vec<(PathBuf, Result<Record, Refused>)> {
    let files = settings.plugin_dirs.iter().flat_map(|directory| files(directory));
    let vetted = files.map(|path| {
        let record = loader::read(&path).and_then(|bytes| loader::vet(&bytes));
        (path, record)
    });
    vetted.collect()
}

/// The plugin files of a directory in their order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "so")).collect();
    files.sort();
    files
}

/// The settings that each installed plugin declares, by its id.
pub(super) fn schemas(settings: &Settings) -> BTreeMap<String, Value> {
    let records = installed(settings).into_iter().filter_map(|(_, record)| record.ok());
    records.map(|record| (record.manifest.id, record.manifest.config)).collect()
}
