//! Checks the plugins' own settings in `[provider.NAME]` against what their manifests declare.

use std::collections::BTreeMap;

use provider_api::model::RESERVED_SETTINGS;
use serde_json::Value;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Place, Problem, Problems, Settings,
    problem::{is_secret, nearest},
    value::{Input, Read},
};

/// Turns a value of the file into JSON.
pub(super) fn json(value: &Spanned<DeValue<'_>>) -> Read<Value> {
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(truth) => Value::from(*truth),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::from(number),
            Err(_) => return Input::Toml(value).wrong("the number is too large"),
        },
        DeValue::Float(number) => {
            let number = number.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            match number {
                Some(number) => Value::Number(number),
                None => return Input::Toml(value).wrong("the number must be finite"),
            }
        }
        DeValue::Array(list) => Value::Array(list.iter().map(json).collect::<Read<_>>()?),
        DeValue::Table(table) => {
            let members = table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), json(value)?)));
            Value::Object(members.collect::<Read<_>>()?)
        }
    })
}

/// Checks each `[provider.NAME]` of the file against its plugin's schema.
///
/// `schemas`: plugin id to the JSON Schema object that its manifest calls `config` (null: no settings).
/// A provider whose plugin is not among them is a warning: it may be installed later.
pub fn check_providers(settings: &Settings, schemas: &BTreeMap<String, Value>) -> Problems {
    let mut problems = Problems { list: Vec::new(), source: settings.source.clone() };
    let Some(source) = &settings.source else { return problems };
    let (file, _) = DeTable::parse_recoverable(&source.text);
    let providers = file.get_ref().iter().find(|(key, _)| key.get_ref() == "provider");
    let providers = providers.and_then(|(_, value)| value.get_ref().as_table());
    for (key, section) in providers.into_iter().flatten() {
        let name = key.get_ref().as_ref();
        let Some(table) = section.get_ref().as_table() else { continue };
        let own = settings.providers.get(name).and_then(|provider| provider.plugin.as_deref());
        let plugin = own.unwrap_or(name);
        let addressed = settings.providers.get(name).is_some_and(|provider| provider.base_url.is_some());
        let mut check = Check { problems: &mut problems.list, provider: name, addressed };
        match schemas.get(plugin) {
            Some(schema) => check.section(schema, key, table),
            None => check.not_installed(plugin, key, schemas),
        }
    }
    problems.sort();
    problems
}

struct Check<'a> {
    problems: &'a mut Vec<Problem>,
    provider: &'a str,
    /// Whether its base URL is known, from the file or elsewhere.
    addressed: bool,
}

type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;

impl Check<'_> {
    fn error(&mut self, value: &Spanned<DeValue<'_>>, path: &str, text: &str) {
        let text = format!("`provider.{}.{path}` {text}", self.provider);
        self.problems.push(Problem::error(Place::File(value.span()), text));
    }

    fn not_installed(&mut self, plugin: &str, key: &Key<'_>, schemas: &BTreeMap<String, Value>) {
        let text =
            format!("no installed plugin is called `{plugin}`; provider `{}` is left out", self.provider);
        let help = match nearest(plugin, schemas.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => {
                "put its file into a plugin directory, or name another plugin with `plugin = \"…\"`".into()
            }
        };
        self.problems.push(Problem::warning(Place::File(key.span()), text).help(help));
    }

    fn section(&mut self, schema: &Value, section: &Key<'_>, table: &DeTable<'_>) {
        let empty = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let open = schema.get("additionalProperties").is_some_and(|value| *value != Value::Bool(false));
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match properties.get(name) {
                _ if RESERVED_SETTINGS.contains(&name) => {}
                Some(schema) => self.value(schema, value, name),
                None if open => {}
                None => {
                    let known = properties.keys().map(String::as_str).chain(RESERVED_SETTINGS);
                    self.unknown(key, nearest(name, known));
                }
            }
        }
        self.required(schema, section.span(), table, "");
    }

    fn unknown(&mut self, key: &Key<'_>, meant: Option<&str>) {
        let name = key.get_ref();
        let help = match meant {
            _ if is_secret(name) => {
                "keys do not stand in this file: set the provider's `…_API_KEY` variable, \
                                     or name a variable with `key_env` or a file with `key_file`"
                    .into()
            }
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`sigoREST plugin inspect FILE` shows which settings a plugin has".into(),
        };
        let text = format!("provider `{}` has no setting `{name}`", self.provider);
        self.problems.push(Problem::error(Place::File(key.span()), text).help(help));
    }

    fn required(&mut self, schema: &Value, at: std::ops::Range<usize>, table: &DeTable<'_>, path: &str) {
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = name.as_str() else { continue };
            if name == "base_url" && path.is_empty() {
                if !self.addressed {
                    let text = super::address_wanted(self.provider);
                    self.problems.push(Problem::error(Place::File(at.clone()), text));
                }
            } else if !table.keys().any(|key| key.get_ref() == name) {
                let text = format!("provider `{}` needs the setting `{path}{name}`", self.provider);
                self.problems.push(Problem::error(Place::File(at.clone()), text));
            }
        }
    }

    fn value(&mut self, schema: &Value, value: &Spanned<DeValue<'_>>, path: &str) {
        let kinds: Vec<&str> = match schema.get("type") {
            Some(Value::String(kind)) => vec![kind],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !kinds.is_empty() && !kinds.iter().any(|kind| is_a(kind, value.get_ref())) {
            let kinds: Vec<_> = kinds.into_iter().filter(|kind| *kind != "null").map(article).collect();
            let text =
                format!("must be {}, but it is {}", kinds.join(" or "), article(value.get_ref().type_str()));
            return self.error(value, path, &text);
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
            self.one_of(allowed, value, path);
        }
        self.bounds(schema, value, path);
        if let (DeValue::Array(list), Some(items)) = (value.get_ref(), schema.get("items")) {
            for (index, item) in list.iter().enumerate() {
                self.value(items, item, &format!("{path}[{index}]"));
            }
        }
        if let DeValue::Table(table) = value.get_ref() {
            for (key, value) in table {
                let name = key.get_ref().as_ref();
                match schema.get("properties").and_then(|properties| properties.get(name)) {
                    Some(schema) => self.value(schema, value, &format!("{path}.{name}")),
                    None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => {
                        self.unknown(key, None);
                    }
                    None => {}
                }
            }
            self.required(schema, value.span(), table, &format!("{path}."));
        }
    }

    fn one_of(&mut self, allowed: &[Value], value: &Spanned<DeValue<'_>>, path: &str) {
        let Ok(given) = json(value) else { return };
        if allowed.contains(&given) {
            return;
        }
        let names: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let meant = given.as_str().and_then(|text| nearest(text, allowed.iter().filter_map(Value::as_str)));
        let meant = meant.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
        self.error(value, path, &format!("must be one of {}{meant}", names.join(", ")));
    }

    fn bounds(&mut self, schema: &Value, value: &Spanned<DeValue<'_>>, path: &str) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        #[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^53")]
        let (number, lowest, highest, what) = match value.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) => {
                (json(value).ok().and_then(|value| value.as_f64()), "minimum", "maximum", "")
            }
            DeValue::String(text) => {
                (Some(text.chars().count() as f64), "minLength", "maxLength", " characters long")
            }
            DeValue::Array(list) => (Some(list.len() as f64), "minItems", "maxItems", " items long"),
            _ => return,
        };
        let Some(number) = number else { return };
        if let Some(least) = bound(lowest).filter(|least| number < *least) {
            self.error(value, path, &format!("must be at least {least}{what}"));
        }
        if let Some(most) = bound(highest).filter(|most| number > *most) {
            self.error(value, path, &format!("must be at most {most}{what}"));
        }
        let above = bound("exclusiveMinimum").filter(|bound| what.is_empty() && number <= *bound);
        if let Some(bound) = above {
            self.error(value, path, &format!("must be above {bound}"));
        }
        let below = bound("exclusiveMaximum").filter(|bound| what.is_empty() && number >= *bound);
        if let Some(bound) = below {
            self.error(value, path, &format!("must be below {bound}"));
        }
    }
}

fn is_a(kind: &str, value: &DeValue<'_>) -> bool {
    match (kind, value) {
        ("string", DeValue::String(_) | DeValue::Datetime(_))
        | ("integer", DeValue::Integer(_))
        | ("number", DeValue::Integer(_) | DeValue::Float(_))
        | ("boolean", DeValue::Boolean(_))
        | ("array", DeValue::Array(_))
        | ("object", DeValue::Table(_)) => true,
        ("integer", DeValue::Float(number)) => {
            number.as_str().parse::<f64>().is_ok_and(|number| number.fract() == 0.0)
        }
        _ => false,
    }
}

fn article(kind: &str) -> String {
    let name = match kind {
        "table" | "object" => "table",
        "float" => "number",
        "datetime" => "date",
        other => other,
    };
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {name}")
}
