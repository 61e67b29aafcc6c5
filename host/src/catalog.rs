//! Which models there are, what they are called, and which of them a caller's name means.
//!
//! Providers bring rows, the operator's `models.csv` chooses among them. The result is built anew when
//! one of them changes and is never changed itself, so that a request can keep what it found.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use http::StatusCode;
use provider_api::model::{Mode, Model, Offer};

mod build;
mod choose;
pub mod day;
mod list;
mod names;
mod owners;
mod rows;

pub use build::{build, build_all};
pub use list::List;
pub use owners::Owners;
pub use rows::{merge_found, merge_rows};

use crate::error::Error;

/// The models.csv that is in force if the data directory has none.
pub const DEFAULT_LIST: &str = include_str!("../../models.csv");

/// A provider with its models.
#[derive(Debug, Clone)]
pub struct Source {
    /// The provider's name.
    pub provider: Arc<str>,
    /// The id of the plugin that serves it.
    pub plugin: Arc<str>,
    /// Whether its models are offered without being listed.
    pub offer: Offer,
    /// Whether it can be called.
    pub key: Key,
    /// Base URLs: the manifest's own first, which `GET /api/models` shows, then the operator's, which is
    /// never shown. A row of models.csv finds its provider by their host.
    pub base_urls: Vec<String>,
    /// Its rows.
    pub models: Vec<Model>,
}

/// Whether a provider has the key it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// It has.
    Set {
        /// Name of the environment variable that holds it, or that people would use for it.
        env: Arc<str>,
    },
    /// It has not.
    Missing {
        /// Name of the environment variable to set.
        env: Arc<str>,
    },
    /// Its upstream takes none.
    NotNeeded,
}

impl Key {
    /// Whether requests can be sent.
    pub fn is_ready(&self) -> bool {
        !matches!(self, Self::Missing { .. })
    }

    /// The environment variable's name; empty if no key is needed.
    pub fn env(&self) -> &str {
        match self {
            Self::Set { env } | Self::Missing { env } => env,
            Self::NotNeeded => "",
        }
    }
}

/// A model as callers know it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What callers call it: the shortcode; the id if it has none; `provider/id` if others own both.
    pub name: Arc<str>,
    /// The provider's name.
    pub provider: Arc<str>,
    /// The id of the plugin that serves it.
    pub plugin: Arc<str>,
    /// `provider/id`: the breaker's and the channel's name for it.
    pub target: Arc<str>,
    /// What it is for.
    pub mode: Mode,
    /// Request fields that it rejects, separated by spaces.
    pub drops: Arc<str>,
    /// Whether it takes `max_completion_tokens` and refuses `max_tokens`.
    pub requires_completion_tokens: bool,
    /// Whether its provider can be called.
    pub key: Key,
    /// The address that `GET /api/models` shows; empty if there is none.
    pub endpoint: Arc<str>,
    /// Its row: id, prices, limits.
    pub model: Model,
}

/// Something that someone should look at; nothing stops because of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The line of models.csv, counted from 1.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Warning {
    fn at(line: usize, message: impl Into<String>) -> Self {
        Self { line: Some(line), message: message.into() }
    }

    fn new(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "models.csv, line {line}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// The models that are offered.
#[derive(Debug, Default)]
pub struct Catalog {
    entries: Vec<Arc<Entry>>,
    /// Every spelling that means an entry.
    spellings: HashMap<Box<str>, usize>,
    /// Spellings with capitals, in lower case.
    folded: HashMap<Box<str>, usize>,
    /// Known models that the list leaves out, by shortcode and id in lower case, with their provider.
    unlisted: BTreeMap<Box<str>, Arc<str>>,
    owners: Owners,
}

impl Catalog {
    /// The model that a caller means by its shortcode, `provider/id` or id: as spelt, else in any case.
    ///
    /// # Errors
    /// 404 `model_not_found` with the nearest names.
    pub fn resolve(&self, name: &str) -> Result<&Arc<Entry>, Error> {
        self.find(name).ok_or_else(|| self.not_found(name))
    }

    /// Like [`Self::resolve`], where nobody needs the error.
    pub fn find(&self, name: &str) -> Option<&Arc<Entry>> {
        let index = self.spellings.get(name).or_else(|| {
            let folded = name.to_lowercase();
            self.spellings.get(folded.as_str()).or_else(|| self.folded.get(folded.as_str()))
        })?;
        self.entries.get(*index)
    }

    /// At most three names that look like this one.
    pub fn nearest(&self, name: &str) -> Vec<String> {
        let known = self.entries.iter().flat_map(|entry| [&*entry.name, entry.model.id.as_str()]);
        names::nearest(name, known, 3).into_iter().map(str::to_owned).collect()
    }

    /// All models, sorted by provider and name.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// Who owns which name now: keep it, and give it to the next [`build`].
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    fn not_found(&self, name: &str) -> Error {
        Error::new(StatusCode::NOT_FOUND, self.advice(name)).code("model_not_found").param("model")
    }

    fn advice(&self, name: &str) -> String {
        let shown: String = name.chars().take(100).collect();
        let mut advice = match self.unlisted.get(name.to_lowercase().as_str()) {
            Some(provider) => format!("model `{shown}` is known at {provider} but models.csv leaves it out"),
            None => format!("model `{shown}` is not offered"),
        };
        let known = self.entries.iter().flat_map(|entry| [&*entry.name, entry.model.id.as_str()]);
        let nearest = names::nearest(name, known, 3);
        if !nearest.is_empty() {
            advice.push_str("; the nearest names are ");
            advice.push_str(&names::join(&nearest));
        }
        advice.push_str("; see GET /v1/models");
        advice
    }
}

#[cfg(test)]
mod tests;
