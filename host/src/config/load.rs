//! Reads the settings from all places and keeps where each value came from.

use std::{collections::BTreeMap, ops::Range};

use super::{
    Environment, Place, Problem, Problems, Settings,
    fields::{FIELDS, Field},
    file, installed, places,
    problem::{line_column, nearest},
    provider, schema,
    value::Input,
};
use crate::cli::ServerArgs;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file, at these bytes.
    File(Range<usize>),
    /// A variable of the environment.
    Variable(String),
    /// A flag.
    Flag(&'static str),
    /// The limit of open files, which allows no more.
    Descriptors(u64),
}

impl Origin {
    pub(super) fn place(&self) -> Place {
        match self {
            Self::Default | Self::Descriptors(_) => Place::Whole,
            Self::File(span) => Place::File(span.clone()),
            Self::Variable(name) => Place::Variable(name.clone()),
            Self::Flag(name) => Place::Flag((*name).to_owned()),
        }
    }
}

/// Settings without a mistake in them.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What to run on.
    pub settings: Settings,
    /// By the setting's name (`limits.header_secs`, `provider.acme.base_url`); defaults are not in it.
    pub origins: BTreeMap<String, Origin>,
    /// What the operator should see.
    pub warnings: Problems,
}

impl Loaded {
    /// Where a setting's value came from, in words.
    pub fn origin(&self, key: &str) -> String {
        match self.origins.get(key) {
            None | Some(Origin::Default) => "default".into(),
            Some(Origin::Variable(name)) => format!("environment {name}"),
            Some(Origin::Flag(name)) => format!("flag {name}"),
            Some(Origin::Descriptors(limit)) => format!("limit of {limit} open files"),
            Some(Origin::File(span)) => {
                let text = self.settings.source.as_ref().map_or("", |source| &source.text);
                format!("file, line {}", line_column(text, span.start).0)
            }
        }
    }
}

/// What is being read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) settings: Settings,
    pub(super) origins: BTreeMap<String, Origin>,
    pub(super) problems: Problems,
}

impl Reading {
    /// Reads one value; what is wrong with it is kept, and the former value stays.
    pub(super) fn set(&mut self, field: &Field, input: Input<'_>, origin: Origin) {
        match (field.read)(input, &mut self.settings) {
            Ok(()) => {
                self.origins.insert(field.key.to_owned(), origin);
            }
            Err(wrong) => {
                for wrong in wrong {
                    let (place, name) = match wrong.span {
                        Some(span) => (Place::File(span), format!("`{}`: ", field.key)),
                        None => (origin.place(), String::new()),
                    };
                    self.error(place, format!("{name}{}", wrong.text));
                }
            }
        }
    }

    pub(super) fn error(&mut self, place: Place, text: impl Into<String>) {
        self.problems.list.push(Problem::error(place, text));
    }
}

/// Reads flags, environment and file; everything that nobody set has its default. The plugins' own
/// settings are checked against what their files declare.
///
/// Reads the disk, so it does not belong on the runtime's own threads.
///
/// # Errors
/// Every mistake that was found, at once.
pub fn load(args: &ServerArgs, environment: Environment<'_>) -> Result<Loaded, Problems> {
    let loaded = examine(args, environment);
    if loaded.warnings.fatal() { Err(loaded.warnings) } else { Ok(loaded) }
}

/// As [`load`], for who wants to see the rest in spite of mistakes: they are among the warnings.
pub(crate) fn examine(args: &ServerArgs, environment: Environment<'_>) -> Loaded {
    // A variable that is set to nothing is as good as none.
    let environment: Environment<'_> = &|name| environment(name).filter(|value| !value.trim().is_empty());
    let mut reading = Reading::default();
    reading.settings.given = std::sync::Arc::new(args.clone());
    places::data_dir(&mut reading, args, environment);
    file::read(&mut reading, args, environment);
    for field in &FIELDS {
        let mut name = field.variable();
        if field.key == "plugin_dirs" && environment(&name).is_none() {
            // As the flag is called.
            name = "SIGOREST_PLUGIN_DIR".into();
        }
        if let Some(value) = environment(&name) {
            reading.set(field, Input::Text(&value), Origin::Variable(name));
        }
    }
    flags(&mut reading, args);
    provider::base_urls(&mut reading, environment);
    places::finish(&mut reading);
    check(&mut reading);
    // The hard limit: the server takes all that it may have. Where somebody lowers the soft one for a while,
    // a reload just then must not cap requests until the next.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    descriptors(&mut reading, limit);
    reading.problems.sort();
    let Reading { settings, origins, mut problems } = reading;
    if settings.source.as_ref().is_some_and(|source| source.text.contains("provider")) {
        problems.merge(schema::check_providers(&settings, &installed::schemas(&settings)));
    }
    Loaded { settings, origins, warnings: problems }
}

/// Flags were checked when they were read.
fn flags(reading: &mut Reading, args: &ServerArgs) {
    let Reading { settings, origins, .. } = reading;
    let mut from = |key: &str, flag| origins.insert(key.to_owned(), Origin::Flag(flag));
    if let Some(port) = args.http_port {
        settings.http_port = port;
        from("http_port", "-http-port");
    }
    if let Some(port) = args.https_port {
        settings.https_port = port;
        from("https_port", "-https-port");
    }
    if let Some(path) = &args.cert {
        settings.cert.clone_from(path);
        from("cert", "-cert");
    }
    if let Some(path) = &args.key {
        settings.key.clone_from(path);
        from("key", "-key");
    }
    if let Some(level) = args.level {
        settings.log.level = level;
        from("log_level", "-v");
    }
    if let Some(quiet) = args.quiet {
        settings.log.quiet = quiet;
        from("quiet", "-q");
    }
    if let Some(json) = args.json {
        settings.log.json = json;
        from("json", "-j");
    }
    if !args.plugin_dirs.is_empty() {
        settings.plugin_dirs.clone_from(&args.plugin_dirs);
        from("plugin_dirs", "-plugin-dir");
    }
}

/// What several values say together.
fn check(reading: &mut Reading) {
    let settings = &reading.settings;
    if settings.http_port != 0 && settings.http_port == settings.https_port {
        let origin = ["https_port", "http_port"].into_iter().find_map(|key| reading.origins.get(key));
        let place = origin.map_or(Place::Whole, Origin::place);
        let text = format!("HTTP and HTTPS cannot both use port {}; choose another", settings.http_port);
        reading.error(place, text);
    }
}

/// Takes no more requests at once than the process may open descriptors for: each may need one to its
/// caller and one to its upstream; the rest is for files, plugins and idle connections.
fn descriptors(reading: &mut Reading, limit: Option<u64>) {
    let Some(limit) = limit else { return };
    let most = usize::try_from(limit.saturating_sub(128) / 2).unwrap_or(usize::MAX).max(1);
    let wanted = reading.settings.limits.max_in_flight;
    if wanted <= most {
        return;
    }
    reading.settings.limits.max_in_flight = most;
    let key = "limits.max_in_flight";
    match reading.origins.insert(key.to_owned(), Origin::Descriptors(limit)) {
        None => {}
        Some(origin) => {
            let text =
                format!("`{key}`: {limit} file descriptors are enough for {most} requests at once only");
            let problem = Problem::warning(origin.place(), text);
            let help =
                format!("raise the limit of open files (LimitNOFILE, ulimit -n) to {}", wanted * 2 + 128);
            reading.problems.list.push(problem.help(help));
        }
    }
}

/// A warning for each `SIGOREST_*` variable that no setting has.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Problems {
    let mut known: Vec<String> = FIELDS.iter().map(Field::variable).collect();
    known.extend(places::VARIABLES.iter().map(|name| (*name).to_owned()));
    let own = |name: &str| name.strip_prefix("SIGOREST_").map(str::to_owned);
    let known: Vec<String> = known.iter().filter_map(|name| own(name)).collect();
    let unknown = names.filter_map(|name| own(&name)).filter(|name| !known.contains(name));
    let list = unknown.map(|name| {
        let place = Place::Variable(format!("SIGOREST_{name}"));
        let problem = Problem::warning(place, "no setting has this name");
        match nearest(&name, known.iter().map(String::as_str)) {
            Some(meant) => problem.help(format!("did you mean `SIGOREST_{meant}`?")),
            None => problem,
        }
    });
    Problems { list: list.collect(), source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_at_once_fit_the_descriptors() {
        let check = |limit: Option<u64>, set: bool, expected: usize, warnings: usize| {
            let mut reading = Reading::default();
            if set {
                reading.origins.insert("limits.max_in_flight".into(), Origin::Flag("-x"));
            }
            descriptors(&mut reading, limit);
            let found = (reading.settings.limits.max_in_flight, reading.problems.list.len());
            assert_eq!(found, (expected, warnings), "{limit:?}");
        };
        check(None, false, 16_384, 0);
        check(Some(1 << 20), true, 16_384, 0);
        check(Some(1024), false, 448, 0);
        check(Some(1024), true, 448, 1);
        check(Some(3), false, 1, 0);
    }
}
