//! `sigoREST check`: settings and plugin files, without running a plugin.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use provider_api::loader::Record;

use super::{ServerArgs, inspect::printable};
use crate::{
    catalog::List,
    config::{self, Environment, Settings, Severity},
};

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
        None => writeln!(checked.report, "settings  no configuration file"),
    };
    let problems = &loaded.warnings;
    checked.settings_wrong = problems.fatal();
    checked.mistakes = problems.list.iter().filter(|problem| problem.severity == Severity::Error).count();
    checked.problems = problems.render(colour);
    checked.plugins(settings);
    checked.models(settings);
    checked
}

impl Checked {
    fn plugins(&mut self, settings: &Settings) {
        let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (path, record) in config::installed(settings) {
            let Record { manifest, rustc } = match record {
                Ok(record) => record,
                Err(refused) => {
                    self.plugins_wrong = true;
                    let _ = writeln!(self.problems, "plugin {}: {refused}", path.display());
                    continue;
                }
            };
            let line = format!("{} {} (API {}, {rustc})", manifest.id, manifest.version, manifest.api);
            let _ = writeln!(self.report, "plugin    {} {}", printable(&line), path.display());
            if let Some(earlier) = found.insert(manifest.id, path) {
                let _ = writeln!(self.report, "          shadows {}", earlier.display());
            }
        }
        if found.is_empty() {
            self.report
                .push_str("plugin    none found; put plugin files into a directory given with -plugin-dir\n");
        }
    }

    fn models(&mut self, settings: &Settings) {
        let path = settings.data_dir.join("models.csv");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let _ = writeln!(self.report, "models    {}", path.display());
                for warning in List::parse(&text).1 {
                    let line = warning.line.map(|line| format!(":{line}")).unwrap_or_default();
                    let message = printable(&warning.message);
                    let _ = writeln!(self.problems, "warning: {}{line}: {message}", path.display());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let _ = writeln!(self.problems, "warning: {} cannot be read: {error}", path.display());
            }
        }
    }
}
