//! Builds the catalog: which models are offered, and who is called what.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::Arc,
    time::SystemTime,
};

use provider_api::model::Mode;

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

pub(super) fn build_on(
    sources: &[Source],
    list: &List,
    owners: &Owners,
    today: &str,
) -> (Catalog, Vec<Warning>) {
    let (known, mut warnings) = choose(sources, list, owners);
    let mut naming = Naming { owners: owners.clone(), ..Naming::default() };
    naming.settle(&known);
    warnings.append(&mut naming.warnings);
    warnings.extend(wrong_pins(owners, &known));
    warnings.extend(retired(&known, today));
    let unlisted = unlisted(&known);

    let mut places: Vec<usize> = (0..known.len()).filter(|place| known[*place].offered).collect();
    let name = |place: usize| naming.names.get(&place).cloned().unwrap_or_else(|| known[place].target());
    places.sort_by_cached_key(|place| (Arc::clone(&known[*place].source.provider), name(*place)));
    let mut moved = vec![usize::MAX; known.len()];
    let entries: Vec<Arc<Entry>> = places
        .iter()
        .enumerate()
        .map(|(to, &from)| {
            moved[from] = to;
            Arc::new(entry(&known[from], name(from)))
        })
        .collect();
    let spellings: HashMap<Box<str>, usize> =
        naming.spellings.into_iter().map(|(spelling, place)| (spelling.into(), moved[place])).collect();
    let mut folded = HashMap::new();
    let mut capitals: Vec<_> = spellings.iter().filter(|(spelling, _)| has_capitals(spelling)).collect();
    // Where two differ in capitals only, always the same one answers to a third spelling.
    capitals.sort();
    for (spelling, entry) in capitals {
        folded.entry(spelling.to_lowercase().into()).or_insert(*entry);
    }
    (Catalog { entries, spellings, folded, unlisted, owners: naming.owners }, warnings)
}

fn has_capitals(text: &str) -> bool {
    text.chars().any(char::is_uppercase)
}

/// Gives names to models.
#[derive(Default)]
struct Naming {
    owners: Owners,
    /// Every spelling and the place of the model that it means.
    spellings: HashMap<String, usize>,
    /// What each model is called.
    names: HashMap<usize, String>,
    warnings: Vec<Warning>,
}

impl Naming {
    fn settle(&mut self, known: &[Known<'_>]) {
        let offered = || known.iter().enumerate().filter(|(_, known)| known.offered);
        // First what is always theirs: nobody else's name may hide a `provider/id`.
        for (place, known) in offered() {
            self.spellings.entry(known.target()).or_insert(place);
        }
        let mut shortcodes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, known) in offered().filter(|(_, known)| !known.model.shortcode.is_empty()) {
            shortcodes.entry(&known.model.shortcode).or_default().push(place);
        }
        for (shortcode, places) in shortcodes {
            self.give(shortcode, &places, known);
        }
        for (place, known) in offered().filter(|(_, known)| !known.model.shortcode.is_empty()) {
            let spelling = format!("{}/{}", known.source.provider, known.model.shortcode);
            self.spellings.entry(spelling).or_insert(place);
        }
        let mut ids: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, known) in offered() {
            ids.entry(&known.model.id).or_default().push(place);
        }
        for (id, places) in ids {
            self.give(id, &places, known);
        }
    }

    /// Lets one of these models have a name, if it is still free.
    fn give(&mut self, name: &str, places: &[usize], known: &[Known<'_>]) {
        if let hash_map::Entry::Occupied(taken) = self.spellings.entry(name.to_owned()) {
            // A model whose id is another's shortcode keeps its `provider/id`.
            let place = *taken.get();
            if places.contains(&place) {
                self.names.entry(place).or_insert_with(|| name.to_owned());
            }
            return;
        }
        let claims: Vec<Claim<'_>> = places.iter().map(|place| known[*place].claim()).collect();
        let decision = decide(name, &claims, &self.owners);
        self.warnings.extend(decision.remark.map(Warning::new));
        let Some(winner) = decision.winner.map(|winner| places[winner]) else { return };
        let target = known[winner].target();
        self.warnings.extend(clash(name, &target, winner, places, known));
        self.spellings.insert(name.to_owned(), winner);
        self.names.entry(winner).or_insert_with(|| name.to_owned());
        self.owners.recorded.insert(name.to_owned(), target);
    }
}

/// Says who lost a shortcode, and how to have it otherwise.
fn clash(name: &str, target: &str, winner: usize, places: &[usize], known: &[Known<'_>]) -> Option<Warning> {
    let claimed = known[winner].model.shortcode == name && !known[winner].written;
    let losers: Vec<String> = places
        .iter()
        .filter(|place| **place != winner && claimed)
        .map(|place| known[*place].target())
        .filter(|loser| loser != target)
        .collect();
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

fn entry(known: &Known<'_>, name: String) -> Entry {
    Entry {
        name: name.into(),
        provider: Arc::clone(&known.source.provider),
        plugin: Arc::clone(&known.source.plugin),
        target: known.target().into(),
        mode: known.model.mode,
        drops: known.model.drops.join(" ").into(),
        requires_completion_tokens: known.model.requires_completion_tokens.unwrap_or_default(),
        key: known.source.key.clone(),
        endpoint: endpoint(known).into(),
        model: known.model.clone(),
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
