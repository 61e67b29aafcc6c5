//! Applies models.csv to what the providers bring: which models are offered.

use std::{borrow::Cow, collections::HashMap};

use provider_api::model::{Model, Offer};

use super::{
    Owners, Source, Warning,
    list::{Choice, Line, List, Row},
    names,
    owners::{Claim, decide},
    rows::overlay,
};

/// A model that a provider brings.
pub(super) struct Known<'a> {
    pub(super) source: &'a Source,
    pub(super) model: Model,
    pub(super) offered: bool,
    pub(super) hidden: bool,
    /// Whether a row of the operator's table speaks of it, which also settles who owns its shortcode.
    pub(super) written: bool,
}

impl<'a> Known<'a> {
    fn new(source: &'a Source, model: Model) -> Self {
        let offered = source.offer == Offer::Always;
        Self { source, model, offered, hidden: false, written: false }
    }

    pub(super) fn target(&self) -> String {
        [&self.source.provider, "/", &self.model.id].concat()
    }

    /// What it is called if nobody else claims that: its shortcode, or its id.
    pub(super) fn own_name(&self) -> &str {
        if self.model.shortcode.is_empty() { &self.model.id } else { &self.model.shortcode }
    }

    pub(super) fn claim(&self) -> Claim<'_> {
        let ready = self.source.key.is_ready();
        Claim { provider: &self.source.provider, id: &self.model.id, written: self.written, ready }
    }

    fn matches(&self, pattern: &str) -> bool {
        let (shortcode, id) = (lower(&self.model.shortcode), lower(&self.model.id));
        if names::matches(pattern, &id) || (!shortcode.is_empty() && names::matches(pattern, &shortcode)) {
            return true;
        }
        let provider = lower(&self.source.provider);
        pattern.contains('/')
            && (names::matches(pattern, &[&provider, "/", &*id].concat())
                || names::matches(pattern, &[&provider, "/", &*shortcode].concat()))
    }
}

/// Lower case without a copy where it is that already, as nearly all names are.
fn lower(name: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if name.bytes().all(plain) { Cow::Borrowed(name) } else { Cow::Owned(name.to_lowercase()) }
}

/// Where the names stand that the list asks for; all are in lower case. Catalogs are long, lists short.
#[derive(Default)]
struct Index {
    shortcodes: HashMap<String, Vec<usize>>,
    ids: HashMap<String, Vec<usize>>,
    targets: HashMap<String, Vec<usize>>,
}

impl Index {
    /// Knows what to look for, and nothing yet about where it is.
    fn wanting(list: &List) -> Self {
        let mut index = Self::default();
        for line in &list.lines {
            match &line.choice {
                Choice::Name(name) => index.want(name),
                Choice::Row(row) => {
                    index.want(&row.model.id);
                    index.want(&row.model.shortcode);
                }
                Choice::Pattern(_) | Choice::Hide(_) => {}
            }
        }
        index
    }

    fn want(&mut self, name: &str) {
        let name = name.to_lowercase();
        if name.contains('/') {
            self.targets.entry(name.clone()).or_default();
        }
        self.ids.entry(name.clone()).or_default();
        self.shortcodes.entry(name).or_default();
    }

    fn add(&mut self, place: usize, known: &Known<'_>) {
        let (shortcode, id) = (lower(&known.model.shortcode), lower(&known.model.id));
        let found = |names: &mut HashMap<String, Vec<usize>>, name: &str| {
            if let Some(places) = names.get_mut(name) {
                places.push(place);
            }
        };
        if !shortcode.is_empty() {
            found(&mut self.shortcodes, &shortcode);
        }
        found(&mut self.ids, &id);
        if self.targets.is_empty() {
            return;
        }
        let provider = lower(&known.source.provider);
        found(&mut self.targets, &[&provider, "/", &*id].concat());
        if !shortcode.is_empty() && shortcode != id {
            found(&mut self.targets, &[&provider, "/", &*shortcode].concat());
        }
    }

    fn named(&self, name: &str) -> Option<&Vec<usize>> {
        [&self.shortcodes, &self.ids, &self.targets]
            .into_iter()
            .filter_map(|names| names.get(name))
            .find(|places| !places.is_empty())
    }
}

/// All models that the providers bring, with what the list says about each.
pub(super) fn choose<'a>(
    sources: &'a [Source],
    list: &List,
    owners: &Owners,
) -> (Vec<Known<'a>>, Vec<Warning>) {
    let mut models = Models { index: Index::wanting(list), ..Models::default() };
    for (source, model) in
        sources.iter().flat_map(|source| source.models.iter().map(move |row| (source, row)))
    {
        models.push(Known::new(source, model.clone()));
    }
    let hidden: Vec<&str> = list
        .lines
        .iter()
        .filter_map(|line| match &line.choice {
            Choice::Hide(pattern) => Some(pattern.as_str()),
            _ => None,
        })
        .collect();
    models.hide(&hidden);
    for line in &list.lines {
        match &line.choice {
            Choice::Name(name) => models.choose_name(line.number, name, owners),
            Choice::Pattern(pattern) => models.choose_pattern(line.number, pattern),
            Choice::Row(row) => models.choose_row(line, row, sources),
            Choice::Hide(_) => {}
        }
    }
    // Rows brought new names.
    models.hide(&hidden);
    for known in &mut models.known {
        known.offered &= !known.hidden;
    }
    (models.known, models.warnings)
}

#[derive(Default)]
struct Models<'a> {
    known: Vec<Known<'a>>,
    index: Index,
    warnings: Vec<Warning>,
}

impl<'a> Models<'a> {
    fn push(&mut self, known: Known<'a>) {
        self.index.add(self.known.len(), &known);
        self.known.push(known);
    }

    fn hide(&mut self, patterns: &[&str]) {
        for known in &mut self.known {
            known.hidden = patterns.iter().any(|pattern| known.matches(pattern));
        }
    }

    fn choose_name(&mut self, line: usize, name: &str, owners: &Owners) {
        let Some(places) = self.index.named(&name.to_lowercase()) else {
            self.unknown(line, name);
            return;
        };
        let mut places: Vec<usize> =
            places.iter().copied().filter(|place| !self.known[*place].hidden).collect();
        // As spelt before in any case: `GLM-4.6` and `glm-4.6` may be two models.
        let spelt = |place: &usize| {
            let model = &self.known[*place].model;
            model.shortcode == name || model.id == name
        };
        if places.iter().any(spelt) {
            places.retain(spelt);
        }
        let claims: Vec<Claim<'_>> = places.iter().map(|place| self.known[*place].claim()).collect();
        // Only the owner: a name in the list asks for one model, not for all that would like the name.
        match decide(name, &claims, owners).winner {
            Some(winner) => self.known[places[winner]].offered = true,
            // Reachable as `provider/id`; who would own the name is said where names are given.
            None => places.into_iter().for_each(|place| self.known[place].offered = true),
        }
    }

    fn choose_pattern(&mut self, line: usize, pattern: &str) {
        let mut found = false;
        for known in self.known.iter_mut().filter(|known| known.matches(pattern)) {
            known.offered = true;
            found = true;
        }
        if !found {
            let message = format!("`{pattern}` matches no model of the providers that are installed");
            self.warnings.push(Warning::at(line, message));
        }
    }

    fn choose_row(&mut self, line: &Line, row: &Row, sources: &'a [Source]) {
        let number = line.number;
        let source = if row.host.is_empty() {
            None
        } else {
            match source_at(&row.host, sources) {
                Ok(source) => Some(source),
                Err(message) => {
                    self.warnings.push(Warning::at(number, message));
                    return;
                }
            }
        };
        match (self.place_of(row, source), source) {
            (Some(place), _) => self.write(place, row),
            (None, Some(source)) => {
                let mut model = row.model.clone();
                if model.id.is_empty() {
                    model.id.clone_from(&model.shortcode);
                }
                let mut known = Known::new(source, model);
                known.offered = true;
                known.written = true;
                self.push(known);
            }
            (None, None) => {
                let name = if row.model.id.is_empty() { &row.model.shortcode } else { &row.model.id };
                self.unknown(number, name);
            }
        }
    }

    /// The model that a row means: by id, else by shortcode, at its provider if it names one.
    fn place_of(&self, row: &Row, source: Option<&Source>) -> Option<usize> {
        let here =
            |place: &&usize| source.is_none_or(|source| std::ptr::eq(self.known[**place].source, source));
        let (id, shortcode) = (row.model.id.to_lowercase(), row.model.shortcode.to_lowercase());
        if id.is_empty() {
            return self.index.shortcodes.get(&shortcode)?.iter().find(here).copied();
        }
        let places = self.index.ids.get(&id).into_iter().flatten();
        // Of several rows of one model, the one with this shortcode, else one that no row wrote yet.
        let mut places: Vec<usize> = places.filter(here).copied().collect();
        places.sort_by_key(|place| {
            let known = &self.known[*place];
            (known.model.id != row.model.id, lower(&known.model.shortcode) != shortcode, known.written)
        });
        places.first().copied()
    }

    fn write(&mut self, place: usize, row: &Row) {
        let known = &mut self.known[place];
        // A second row of one model under another shortcode is a second name for it.
        if known.written && !row.model.shortcode.is_empty() && known.model.shortcode != row.model.shortcode {
            let mut model = known.model.clone();
            overlay(&mut model, row.model.clone());
            let mut alias = Known::new(known.source, model);
            alias.offered = true;
            alias.written = true;
            self.push(alias);
            return;
        }
        overlay(&mut known.model, row.model.clone());
        known.offered = true;
        known.written = true;
    }

    fn unknown(&mut self, line: usize, name: &str) {
        let known = self.known.iter().flat_map(|known| [known.model.shortcode.as_str(), &known.model.id]);
        let message = match names::nearest(name, known, 1).first() {
            Some(nearest) => format!("model `{name}` is unknown and ignored; did you mean `{nearest}`?"),
            None => format!("model `{name}` is unknown to the providers that are installed and ignored"),
        };
        self.warnings.push(Warning::at(line, message));
    }
}

/// Hosts of the endpoints that tables of earlier versions hold, and whose they are.
const HOSTS: [(&str, &str); 10] = [
    ("api.anthropic.com", "anthropic"),
    ("api.deepseek.com", "deepseek"),
    ("api.mammouth.ai", "mammouth"),
    ("mammouth.ai", "mammouth"),
    ("api.moonshot.ai", "moonshot"),
    ("api.moonshot.cn", "moonshot"),
    ("api.z.ai", "zai"),
    ("open.bigmodel.cn", "zai"),
    ("localhost:11434", "ollama"),
    ("127.0.0.1:11434", "ollama"),
];

fn source_at<'a>(host: &str, sources: &'a [Source]) -> Result<&'a Source, String> {
    let own = sources.iter().find(|source| {
        source.base_urls.iter().any(|url| !url.is_empty() && super::list::address(url).0 == host)
    });
    if let Some(source) = own {
        return Ok(source);
    }
    let Some((_, name)) = HOSTS.iter().find(|(known, _)| *known == host) else {
        return Err(format!(
            "no provider is known for the host `{host}`; the row is ignored; give a provider this base_url in sigorest.toml, or correct the endpoint"
        ));
    };
    let named = sources.iter().find(|source| *source.provider == **name);
    named.or_else(|| sources.iter().find(|source| *source.plugin == **name)).ok_or_else(|| {
        format!("the row is ignored: its provider `{name}` is not installed; put its plugin into the plugin directory")
    })
}
