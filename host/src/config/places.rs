//! Directories and files that the settings name: where they start, and whether they are there.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    Environment, Place, Problem,
    load::{Origin, Reading},
};
use crate::cli::ServerArgs;

/// Variables that say where the other settings are.
pub(super) const VARIABLES: [&str; 3] = ["SIGOREST_DATA_DIR", "SIGOREST_CONFIG", "SIGOREST_PLUGIN_DIR"];

/// Finds the data directory; it need not exist yet.
pub(super) fn data_dir(reading: &mut Reading, args: &ServerArgs, environment: Environment<'_>) {
    let from_environment = environment("SIGOREST_DATA_DIR").map(PathBuf::from);
    let (given, origin) = match (&args.data_dir, from_environment) {
        (Some(path), _) => (path.clone(), Origin::Flag("-data-dir")),
        (None, Some(path)) => (path, Origin::Variable("SIGOREST_DATA_DIR".into())),
        (None, None) => (PathBuf::from("."), Origin::Default),
    };
    match absolute(&given) {
        Ok(path) if path.exists() && !path.is_dir() => {
            let text = format!("the data directory {} is not a directory", path.display());
            reading.error(origin.place(), text);
        }
        Ok(path) => reading.settings.data_dir = path,
        Err(error) => reading.error(origin.place(), format!("the data directory cannot be found: {error}")),
    }
    reading.origins.insert("data_dir".into(), origin);
}

/// Absolute, and without symbolic links where it exists.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize().or_else(|_| std::path::absolute(path))
}

/// Makes the data directory if it is missing, for its owner alone.
///
/// # Errors
/// It cannot be made or is not a directory; the message names it.
pub fn create_data_dir(path: &Path) -> Result<(), String> {
    crate::files::make_dir(path).map_err(|error| {
        format!(
            "the data directory {} cannot be made: {error}; choose another with -data-dir",
            path.display()
        )
    })
}

/// Makes paths absolute and finds the plugin directories.
pub(super) fn finish(reading: &mut Reading) {
    let data_dir = reading.settings.data_dir.clone();
    let settings = &mut reading.settings;
    for path in [&mut settings.cert, &mut settings.key] {
        let joined = data_dir.join(&*path);
        *path = std::path::absolute(&joined).unwrap_or(joined);
    }
    for provider in settings.providers.values_mut() {
        let named = provider.channels.named.values_mut().map(|channel| &mut channel.key_file);
        for key_file in named.chain([&mut provider.key_file]) {
            *key_file = key_file.take().map(|path| data_dir.join(path));
        }
    }
    let Some(origin) = reading.origins.get("plugin_dirs").cloned() else {
        reading.settings.plugin_dirs = default_plugin_dirs(&data_dir);
        return;
    };
    let mut found: Vec<PathBuf> = Vec::new();
    for path in std::mem::take(&mut reading.settings.plugin_dirs) {
        // What the file names starts at the data directory, what was typed where it was typed.
        let path = if matches!(origin, Origin::File(_)) { data_dir.join(path) } else { path };
        match path.canonicalize() {
            Ok(path) if path.is_dir() => {
                if !found.contains(&path) {
                    found.push(path);
                }
            }
            Ok(path) => {
                let text = format!("the plugin directory {} is not a directory", path.display());
                reading.error(origin.place(), text);
            }
            Err(error) => {
                let text = format!("the plugin directory {} cannot be read: {error}", path.display());
                reading.error(origin.place(), text);
            }
        }
    }
    reading.settings.plugin_dirs = found;
}

/// The later ones win. Those that do not exist may appear later.
fn default_plugin_dirs(data_dir: &Path) -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("plugins")));
    let all = [Some(PathBuf::from("/usr/lib/sigorest/plugins")), beside, Some(data_dir.join("plugins"))];
    let mut found: Vec<PathBuf> = Vec::new();
    for path in all.into_iter().flatten() {
        let path = path.canonicalize().unwrap_or(path);
        if !found.contains(&path) && (path.is_dir() || !path.exists()) {
            found.push(path);
        }
    }
    found
}

/// The configuration file's path, and whether it must exist.
pub(super) fn config_file(
    reading: &Reading,
    args: &ServerArgs,
    environment: Environment<'_>,
) -> (PathBuf, Option<Origin>) {
    if let Some(path) = &args.config {
        return (path.clone(), Some(Origin::Flag("-config")));
    }
    if let Some(path) = environment("SIGOREST_CONFIG") {
        return (path.into(), Some(Origin::Variable("SIGOREST_CONFIG".into())));
    }
    (reading.settings.data_dir.join(super::defaults::CONFIG), None)
}

/// Says that the configuration file cannot be used.
pub(super) fn unusable(reading: &mut Reading, path: &Path, origin: Option<&Origin>, why: &str) {
    let place = origin.map_or(Place::Whole, Origin::place);
    let text = format!("the configuration file {} {why}", path.display());
    reading.problems.list.push(Problem::error(place, text));
}
