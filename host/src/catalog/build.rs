//! Builds the catalog: which models are offered, and who is called what.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use provider_api::model::{Mode, Offer};

use super::{
    Catalog, Entry, List, Owners, Source, Warning,
    choose::{Known, choose},
    day::day,
    list::address,
    names,
    owners::{Claim, decide},
};

/// The catalog of these providers' models as the list chooses them, and what someone should look at.
pub fn build(sources: &[Source], list: &List, owners: &Owners) -> (Catalog, Vec<Warning>) {
    build_on(sources, list, owners, &day(SystemTime::now()))
}

/// The catalog of all that these providers bring, whether the list chooses it or not; what its rows say of
/// a model counts here too.
pub fn build_all(sources: &[Source], list: &List, owners: &Owners) -> Catalog {
    let mut sources = sources.to_vec();
    sources.iter_mut().for_each(|source| source.offer = Offer::Always);
    build(&sources, &list.without_hiding(), owners).0
}

pub(super) fn build_on(
    sources: &[Source],
    list: &List,
    owners: &Owners,
    today: &str,
) -> (Catalog, Vec<Warning>) {
    let (known, mut warnings) = choose(sources, list, owners);
    let mut naming = Naming::new(&known, owners);
    naming.settle();
    let Naming { owners: settled, mut spellings, names, warnings: remarks, .. } = naming;
    warnings.extend(remarks);
    warnings.extend(wrong_pins(owners, &known));
    warnings.extend(retired(&known, today));
    let unlisted = unlisted(&known);

    let mut entries: Vec<(usize, Arc<Entry>)> = known
        .into_iter()
        .zip(names)
        .enumerate()
        .filter(|(_, (known, _))| known.offered)
        .map(|(place, (known, name))| (place, Arc::new(entry(known, name))))
        .collect();
    entries.sort_by(|(_, a), (_, b)| (&a.provider, &a.name).cmp(&(&b.provider, &b.name)));
    let moved: HashMap<usize, usize> =
        entries.iter().enumerate().map(|(to, (from, _))| (*from, to)).collect();
    // Only what is offered has a spelling.
    spellings.values_mut().for_each(|place| *place = moved.get(place).copied().unwrap_or(usize::MAX));
    let entries = entries.into_iter().map(|(_, entry)| entry).collect();
    let folded = folded(&spellings);
    (Catalog { entries, spellings, folded, unlisted, owners: settled }, warnings)
}

/// The spellings with capitals, in lower case.
fn folded(spellings: &HashMap<Box<str>, usize>) -> HashMap<Box<str>, usize> {
    let has_capitals = |text: &str| text.chars().any(char::is_uppercase);
    let mut capitals: Vec<_> = spellings.iter().filter(|(spelling, _)| has_capitals(spelling)).collect();
    // Where two differ in capitals only, always the same one answers to a third spelling.
    capitals.sort();
    let mut folded = HashMap::with_capacity(capitals.len());
    for (spelling, entry) in capitals {
        folded.entry(spelling.to_lowercase().into()).or_insert(*entry);
    }
    folded
}

/// Gives names to models.
struct Naming<'a> {
    known: &'a [Known<'a>],
    owners: Owners,
    /// Every spelling and the place of the model that it means.
    spellings: HashMap<Box<str>, usize>,
    /// What each model is called; `None`: its target.
    names: Vec<Option<Arc<str>>>,
    warnings: Vec<Warning>,
}

impl<'a> Naming<'a> {
    fn new(known: &'a [Known<'a>], owners: &Owners) -> Self {
        let offered = known.iter().filter(|known| known.offered).count();
        Self {
            known,
            owners: owners.clone(),
            // Shortcode and id, each alone and behind the provider.
            spellings: HashMap::with_capacity(offered * 4),
            names: vec![None; known.len()],
            warnings: Vec::new(),
        }
    }

    fn settle(&mut self) {
        let offered: Vec<(usize, &Known<'_>)> =
            self.known.iter().enumerate().filter(|(_, known)| known.offered).collect();
        let coded = || offered.iter().copied().filter(|(_, known)| !known.model.shortcode.is_empty());
        // First what is always theirs: nobody else's name may hide a `provider/id`.
        for (place, known) in &offered {
            self.spellings.entry(known.target().into()).or_insert(*place);
        }
        self.give_all(coded().map(|(place, known)| (known.model.shortcode.as_str(), place)).collect());
        for (place, known) in coded() {
            let spelling = [&known.source.provider, "/", &*known.model.shortcode].concat();
            self.spellings.entry(spelling.into()).or_insert(place);
        }
        self.give_all(offered.iter().map(|(place, known)| (known.model.id.as_str(), *place)).collect());
    }

    /// Gives each of these names to one of the models that claim it.
    fn give_all(&mut self, mut claims: Vec<(&str, usize)>) {
        claims.sort_unstable();
        for claims in claims.chunk_by(|a, b| a.0 == b.0) {
            self.give(claims[0].0, claims);
        }
    }

    fn give(&mut self, name: &str, claims: &[(&str, usize)]) {
        if let Some(&place) = self.spellings.get(name) {
            // A model whose id is another's shortcode keeps its `provider/id`.
            if claims.iter().any(|claim| claim.1 == place) {
                self.names[place].get_or_insert_with(|| name.into());
            }
            return;
        }
        let known = self.known;
        let asked: Vec<Claim<'_>> = claims.iter().map(|claim| known[claim.1].claim()).collect();
        let decision = decide(name, &asked, &self.owners);
        self.warnings.extend(decision.remark.map(Warning::new));
        let Some(winner) = decision.winner.map(|winner| claims[winner].1) else { return };
        let target = known[winner].target();
        if claims.len() > 1 {
            self.warnings.extend(clash(name, winner, claims, known));
        }
        self.spellings.insert(name.into(), winner);
        self.names[winner].get_or_insert_with(|| name.into());
        if self.owners.recorded.get(name) != Some(&target) {
            self.owners.recorded.insert(name.to_owned(), target);
        }
    }
}

/// Says who lost a shortcode, and how to have it otherwise.
fn clash(name: &str, winner: usize, claims: &[(&str, usize)], known: &[Known<'_>]) -> Option<Warning> {
    let won = &known[winner];
    if won.model.shortcode != name || won.written {
        return None;
    }
    let target = won.target();
    let losers: Vec<String> =
        claims.iter().map(|claim| known[claim.1].target()).filter(|loser| *loser != target).collect();
    if losers.is_empty() {
        return None;
    }
    let losers: Vec<&str> = losers.iter().map(String::as_str).collect();
    Some(Warning::new(format!(
        "`{name}` is claimed by several models and means `{target}`; use {} for the others, or give the name to a provider under [models] in sigorest.toml",
        names::join(&losers)
    )))
}

fn wrong_pins(owners: &Owners, known: &[Known<'_>]) -> Vec<Warning> {
    let has = |name: &str, provider: &str| {
        known.iter().any(|known| {
            (known.model.shortcode == name || known.model.id == name)
                && (*known.source.provider == *provider || known.target() == provider)
        })
    };
    owners
        .pinned
        .iter()
        .filter(|(name, provider)| !has(name, provider))
        .map(|(name, provider)| {
            Warning::new(format!(
                "[models] gives `{name}` to `{provider}`, which has no model of that name; correct or remove it"
            ))
        })
        .collect()
}

fn retired(known: &[Known<'_>], today: &str) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for known in known.iter().filter(|known| known.offered) {
        let model = &known.model;
        let Some(date) = model.deprecation_date.as_deref().filter(|date| !date.is_empty() && *date <= today)
        else {
            continue;
        };
        let advice = match model.successor.as_deref() {
            Some(successor) if !successor.is_empty() => format!("use `{successor}` instead"),
            _ => "no successor is known; pick another from GET /v1/models".into(),
        };
        warnings.push(Warning::new(format!(
            "model `{}` ({} at {}) was retired on {date}; {advice}",
            known.own_name(),
            model.id,
            known.source.provider
        )));
    }
    warnings
}

fn unlisted(known: &[Known<'_>]) -> BTreeMap<Box<str>, Arc<str>> {
    let mut unlisted = BTreeMap::new();
    for known in known.iter().filter(|known| !known.offered && !known.hidden) {
        for name in [&known.model.shortcode, &known.model.id].into_iter().filter(|name| !name.is_empty()) {
            let provider = || Arc::clone(&known.source.provider);
            unlisted.entry(name.to_lowercase().into()).or_insert_with(provider);
        }
    }
    unlisted
}

fn entry(known: Known<'_>, name: Option<Arc<str>>) -> Entry {
    let target: Arc<str> = known.target().into();
    Entry {
        name: name.unwrap_or_else(|| Arc::clone(&target)),
        provider: Arc::clone(&known.source.provider),
        plugin: Arc::clone(&known.source.plugin),
        target,
        mode: known.model.mode,
        drops: known.model.drops.join(" ").into(),
        requires_completion_tokens: known.model.requires_completion_tokens.unwrap_or_default(),
        key: known.source.key.clone(),
        endpoint: endpoint(&known).into(),
        model: known.model,
    }
}

/// The address of OpenAI's form for this model.
fn endpoint(known: &Known<'_>) -> String {
    let base = known.source.base_urls.first().map_or("", |url| url.trim_end_matches('/'));
    if base.is_empty() {
        return String::new();
    }
    let version = if address(base).1.is_empty() { "/v1" } else { "" };
    let path = match known.model.mode {
        Mode::Chat => "/chat/completions",
        Mode::Embedding => "/embeddings",
    };
    format!("{base}{version}{path}")
}
