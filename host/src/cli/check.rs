//! `sigoREST check`: settings and plugin files, without running a plugin.

use std::{collections::BTreeMap, fmt::Write as _, iter, path::PathBuf};

use provider_api::{Manifest, loader::Record, model};

use super::{ServerArgs, inspect::printable};
use crate::{
    catalog::{self, Catalog, Key, List, Owners, Source},
    config::{self, Environment, Settings, Severity},
    plugins,
};

/// The plugins that would be in force, by their ids.
type Plugins = BTreeMap<String, (PathBuf, Manifest)>;

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
    let plugins = checked.plugins(settings);
    let list = checked.models(settings);
    checked.fallbacks(settings, &plugins, &list);
    checked
}

impl Checked {
    fn plugins(&mut self, settings: &Settings) -> Plugins {
        let mut found = Plugins::new();
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
            if let Some((earlier, _)) = found.insert(manifest.id.clone(), (path, manifest)) {
                let _ = writeln!(self.report, "          shadows {}", earlier.display());
            }
        }
        if found.is_empty() {
            self.report
                .push_str("plugin    none found; put plugin files into a directory given with -plugin-dir\n");
        }
        found
    }

    /// The list of models that would be in force.
    fn models(&mut self, settings: &Settings) -> List {
        let path = settings.data_dir.join("models.csv");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let _ = writeln!(self.report, "models    {}", path.display());
                let (list, warnings) = List::parse(&text);
                for warning in warnings {
                    let line = warning.line.map(|line| format!(":{line}")).unwrap_or_default();
                    let message = printable(&warning.message);
                    let _ = writeln!(self.problems, "warning: {}{line}: {message}", path.display());
                }
                return list;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let _ = writeln!(self.problems, "warning: {} cannot be read: {error}", path.display());
            }
        }
        List::parse(catalog::DEFAULT_LIST).0
    }

    /// Names in `[fallbacks]` that mean no model, as far as files tell.
    fn fallbacks(&mut self, settings: &Settings, plugins: &Plugins, list: &List) {
        if settings.fallbacks.is_empty() {
            return;
        }
        let catalog = catalog(settings, plugins, list);
        let live: Vec<&str> = plugins
            .iter()
            .filter(|(_, (_, manifest))| manifest.offers_operation("models"))
            .filter(|(_, (_, manifest))| !plugins::provider_names(settings, manifest).is_empty())
            .map(|(id, _)| id.as_str())
            .collect();
        for (name, others) in &settings.fallbacks {
            for unknown in iter::once(name).chain(others).filter(|name| catalog.find(name).is_none()) {
                let meant = catalog.nearest(unknown);
                let meant = meant.first().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
                let unless = if live.is_empty() {
                    String::new()
                } else {
                    format!(", unless {} has it when it is asked", live.join(" or "))
                };
                let text = format!("[fallbacks] `{name}`: model `{unknown}` is not offered{unless}{meant}");
                let _ = writeln!(self.problems, "warning: {}", printable(&text));
            }
        }
    }
}

/// The models that would be offered, but for those that providers list only when they are asked.
fn catalog(settings: &Settings, plugins: &Plugins, list: &List) -> Catalog {
    let sources = plugins.values().flat_map(|(path, manifest)| {
        let table = path.with_file_name(format!("{}.models.csv", manifest.id));
        let table = std::fs::read_to_string(table).ok().and_then(|text| model::models_from_csv(&text).ok());
        plugins::provider_names(settings, manifest).into_iter().map(move |provider| {
            let section = settings.providers.get(&*provider);
            let mut models = manifest.models.clone();
            catalog::merge_rows(&mut models, table.clone().unwrap_or_default());
            catalog::merge_rows(
                &mut models,
                section.map(|section| section.models.clone()).unwrap_or_default(),
            );
            let own = section.and_then(|section| section.base_url.clone());
            Source {
                offer: section.and_then(|section| section.offer).unwrap_or(manifest.offer),
                provider,
                plugin: manifest.id.as_str().into(),
                key: Key::NotNeeded,
                base_urls: iter::once(manifest.base_url.clone()).chain(own).collect(),
                models,
            }
        })
    });
    let owners = Owners { pinned: settings.models.clone(), ..Owners::default() };
    catalog::build(&sources.collect::<Vec<_>>(), list, &owners).0
}
