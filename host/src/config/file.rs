//! Reads `sigorest.toml`: every mistake in it is found in one go.

use std::{ops::Range, path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Environment, Place, Problem, Source,
    fields::{FIELDS, Field, SECTIONS},
    load::{Origin, Reading},
    places,
    problem::nearest,
    provider,
    value::Input,
};
use crate::{
    cli::ServerArgs,
    files::{self, ReadError},
};

/// Larger files are mistakes.
const MAX_BYTES: u64 = 1 << 20;

/// Finds the file, reads it if it is there, and applies it.
pub(super) fn read(reading: &mut Reading, args: &ServerArgs, environment: Environment<'_>) {
    let (path, origin) = places::config_file(reading, args, environment);
    let text = match text(&path) {
        Ok(Some(text)) => text,
        Ok(None) if origin.is_none() => return,
        Ok(None) => return places::unusable(reading, &path, origin.as_ref(), "does not exist"),
        Err(why) => return places::unusable(reading, &path, origin.as_ref(), &why),
    };
    reading.settings.config_file = Some(std::path::absolute(&path).unwrap_or_else(|_| path.clone()));
    let source = Arc::new(Source { name: path.display().to_string(), text });
    reading.settings.source = Some(source.clone());
    reading.problems.source = Some(source.clone());
    apply(reading, &source.text);
}

/// The file's text without a byte order mark, `None` if there is no file.
fn text(path: &Path) -> Result<Option<String>, String> {
    let bytes = match files::read(path, MAX_BYTES) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(ReadError::TooLarge { .. }) => return Err("is larger than 1 MiB".into()),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("is not UTF-8 (line {line}); save it as UTF-8")
    })?;
    Ok(Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)))
}

pub(super) fn apply(reading: &mut Reading, text: &str) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut broken: Vec<Range<usize>> = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let start = text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let end =
            text.get(span.end..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| span.end + at);
        // One syntax mistake in a line is enough: the others mostly follow from it.
        if broken.iter().any(|line| line.contains(&span.start) || line.start == start) {
            continue;
        }
        broken.push(start..end);
        reading.error(Place::File(span), error.message().trim_end_matches('.').to_owned());
    }
    let from = reading.problems.list.len();
    top(reading, table.get_ref());
    // What could be guessed of a broken line says nothing about its value.
    let mut index = 0;
    reading.problems.list.retain(|problem| {
        index += 1;
        let Place::File(span) = &problem.place else { return true };
        index <= from || !broken.iter().any(|line| line.start <= span.start && span.start <= line.end)
    });
}

fn top(reading: &mut Reading, table: &DeTable<'_>) {
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        match name {
            "models" => shortcodes(reading, value),
            "fallbacks" => fallbacks(reading, value),
            "provider" => provider::read(reading, value),
            _ if SECTIONS.contains(&name) => section(reading, name, value),
            _ => match FIELDS.iter().find(|field| field.key == name) {
                Some(field) => one(reading, field, value),
                None => unknown(reading, "", key),
            },
        }
    }
}

fn section(reading: &mut Reading, name: &str, value: &Spanned<DeValue<'_>>) {
    let Some(table) = table(reading, name, value) else { return };
    for (key, value) in table {
        let found =
            FIELDS.iter().find(|field| field.section() == name && field.name() == key.get_ref().as_ref());
        match found {
            Some(field) => one(reading, field, value),
            None => unknown(reading, name, key),
        }
    }
}

fn one(reading: &mut Reading, field: &Field, value: &Spanned<DeValue<'_>>) {
    let origin = Origin::File(value.span());
    reading.set(field, Input::Toml(value), origin);
}

/// The value as a section, or a mistake.
pub(super) fn table<'a, 'i>(
    reading: &mut Reading,
    name: &str,
    value: &'a Spanned<DeValue<'i>>,
) -> Option<&'a DeTable<'i>> {
    let found = value.get_ref().as_table();
    if found.is_none() {
        let text =
            format!("`{name}` is a section; write [{name}] on a line of its own and its settings below");
        reading.error(Place::File(value.span()), text);
    }
    found
}

/// A name that no setting has: what was meant, or where it belongs.
fn unknown(reading: &mut Reading, section: &str, key: &Spanned<std::borrow::Cow<'_, str>>) {
    let name = key.get_ref().as_ref();
    let here = FIELDS.iter().filter(|field| field.section() == section).map(Field::name);
    let sections =
        SECTIONS.into_iter().chain(["models", "fallbacks", "provider"]).filter(|_| section.is_empty());
    let elsewhere = FIELDS.iter().find(|field| field.name() == name);
    let help = if name == "data_dir" || name == "config" {
        Some(format!("set it with -{}, the file lies in it", name.replace('_', "-")))
    } else if let Some(field) = elsewhere.filter(|field| field.section() != section) {
        Some(match field.section() {
            "" => format!("`{name}` belongs at the top of the file, before the first [section]"),
            section => format!("`{name}` belongs in the section [{section}]"),
        })
    } else if let Some(meant) = nearest(name, here.chain(sections)) {
        Some(format!("did you mean `{meant}`?"))
    } else if section.is_empty() {
        Some(format!(
            "the sections are [{}], [models], [fallbacks] and [provider.NAME]",
            SECTIONS.join("], [")
        ))
    } else {
        let names: Vec<&str> =
            FIELDS.iter().filter(|field| field.section() == section).map(Field::name).collect();
        Some(format!("[{section}] has {}", names.join(", ")))
    };
    let text = match section {
        "" => format!("unknown setting or section `{name}`"),
        section => format!("unknown setting `{name}` in [{section}]"),
    };
    let problem = Problem::error(Place::File(key.span()), text);
    reading.problems.list.push(match help {
        Some(help) => problem.help(help),
        None => problem,
    });
}

/// `[models] NAME = "provider"`.
fn shortcodes(reading: &mut Reading, value: &Spanned<DeValue<'_>>) {
    let Some(table) = table(reading, "models", value) else { return };
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        match value.get_ref().as_str().filter(|provider| !provider.trim().is_empty()) {
            Some(provider) => {
                let origin = Origin::File(value.span());
                reading.settings.models.insert(name.to_owned(), provider.trim().to_owned());
                reading.origins.insert(format!("models.{name}"), origin);
            }
            None => {
                let text = format!("`models.{name}` must be the name of a provider, in quotes");
                reading.error(Place::File(value.span()), text);
            }
        }
    }
}

/// `[fallbacks] NAME = ["other", "provider/id"]`; a single name may stand without its brackets.
fn fallbacks(reading: &mut Reading, value: &Spanned<DeValue<'_>>) {
    let Some(table) = table(reading, "fallbacks", value) else { return };
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let model = |text: &str| match text.trim() {
            "" => Err(format!("`fallbacks.{name}` holds an empty name")),
            text if text == name => Err(format!("`fallbacks.{name}` names itself")),
            text => Ok(text.to_owned()),
        };
        let read = match value.get_ref() {
            DeValue::String(_) => Input::Toml(value).parse("a model", model).map(|one| vec![one]),
            _ => Input::Toml(value).list("a model", model),
        };
        match read {
            Ok(models) => {
                reading.settings.fallbacks.insert(name.to_owned(), models);
                reading.origins.insert(format!("fallbacks.{name}"), Origin::File(value.span()));
            }
            Err(wrong) => {
                for wrong in wrong {
                    reading.error(Place::File(wrong.span.unwrap_or_else(|| value.span())), wrong.text);
                }
            }
        }
    }
}
