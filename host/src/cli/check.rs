//! `sigoREST check`: settings and plugin files, without running a plugin.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use provider_api::loader::{self, Record};
use serde_json::Value;

use super::ServerArgs;
use crate::config::{self, Environment, Settings, Severity};

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What was looked at, a line each.
    pub report: String,
    /// What is wrong, with colours if they were asked for.
    pub problems: String,
    /// How many mistakes the settings have.
    pub mistakes: usize,
    /// Whether the server would refuse the settings.
    pub settings_wrong: bool,
    /// Whether a plugin file would be refused.
    pub plugins_wrong: bool,
}

/// Checks everything that can be checked without running the server.
pub fn check(args: &ServerArgs, environment: Environment<'_>, colour: bool) -> Checked {
    let mut checked = Checked::default();
    let loaded = config::examine(args, environment);
    let settings = &loaded.settings;
    let _ = match &settings.config_file {
        Some(path) => writeln!(checked.report, "settings  {}", path.display()),
        None => writeln!(checked.report, "settings  no configuration file, defaults in force"),
    };
    let schemas = plugins(&mut checked, settings);
    let mut problems = loaded.warnings;
    problems.merge(config::check_providers(settings, &schemas));
    checked.settings_wrong = problems.fatal();
    checked.mistakes = problems.list.iter().filter(|problem| problem.severity == Severity::Error).count();
    checked.problems.insert_str(0, &problems.render(colour));
    checked
}

/// Vets every plugin file; answers with the schemas of the good ones, the later directory winning.
fn plugins(checked: &mut Checked, settings: &Settings) -> BTreeMap<String, Value> {
    let mut schemas = BTreeMap::new();
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for directory in &settings.plugin_dirs {
        for path in files(directory) {
            let vetted = loader::read(&path).and_then(|bytes| loader::vet(&bytes));
            let Record { manifest, rustc } = match vetted {
                Ok(record) => record,
                Err(refused) => {
                    checked.plugins_wrong = true;
                    let _ = writeln!(checked.problems, "plugin {}: {refused}", path.display());
                    continue;
                }
            };
            let rustc: String = rustc.chars().filter(|c| !c.is_control()).collect();
            let _ = writeln!(
                checked.report,
                "plugin    {} {} (API {}, {rustc}) {}",
                manifest.id,
                manifest.version,
                manifest.api,
                path.display()
            );
            if let Some(earlier) = found.insert(manifest.id.clone(), path.clone()) {
                let _ = writeln!(checked.report, "          shadows {}", earlier.display());
            }
            schemas.insert(manifest.id, manifest.config);
        }
    }
    if found.is_empty() {
        checked
            .report
            .push_str("plugin    none found; put plugin files into a directory given with -plugin-dir\n");
    }
    schemas
}

/// The plugin files of a directory in their order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "so")).collect();
    files.sort();
    files
}
