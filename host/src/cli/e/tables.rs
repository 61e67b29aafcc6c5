//! The lists that `sigoE` prints: models by provider, one model's facts, stored sessions.

use std::{collections::BTreeMap, fmt::Write, path::Path, sync::Arc};

use crate::{
    catalog::{Entry, Key, day::rfc3339},
    cli::inspect::printable,
    gateway::Gateway,
    plugins::Provider,
    session::Summary,
};

/// Least widths of the first two columns, as the original has them.
const MODEL: usize = 20;
const SHORTCODE: usize = 12;

/// All models that are known, by provider; those of the providers that list theirs come last.
pub(super) fn models(gateway: &Gateway) -> String {
    let mut out = String::from("Available models\n================\n");
    let snapshot = gateway.plugins.current();
    let known = gateway.known.load();
    let mut providers: Vec<_> = snapshot.providers.values().collect();
    providers.sort_by_key(|provider| (is_local(provider), title(provider).to_lowercase()));
    for provider in providers {
        let local = if is_local(provider) { " (local)" } else { "" };
        let _ = writeln!(out, "\n--- {}{local} ---", title(provider));
        let mut rows: Vec<&Arc<Entry>> =
            known.entries().iter().filter(|entry| entry.provider == provider.name).collect();
        if rows.is_empty() {
            let _ = match provider.source().key {
                Key::Missing { env } => writeln!(out, "no models; set {env}"),
                _ => writeln!(out, "no models; is it running at {}?", provider.base_url()),
            };
            continue;
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        table(&mut out, &rows);
    }
    if snapshot.providers.is_empty() {
        out.push_str("\nno provider plugins were found; name their directory with -plugin-dir\n");
    }
    out
}

fn table(out: &mut String, rows: &[&Arc<Entry>]) {
    let widest = |least: usize, name: &dyn Fn(&Entry) -> usize| {
        rows.iter().map(|entry| name(entry)).max().unwrap_or_default().max(least)
    };
    let model = widest(MODEL, &|entry| entry.model.id.chars().count());
    let shortcode = widest(SHORTCODE, &|entry| entry.name.chars().count());
    let header =
        format!("{:<model$}  {:<shortcode$}  {:>10}  {:>10}", "Model", "Shortcode", "Input$/M", "Output$/M");
    let _ = writeln!(out, "{header}\n{}", "-".repeat(header.len()));
    let price = |usd: Option<f64>| usd.map_or_else(|| "-".into(), |usd| format!("{usd:.2}"));
    for entry in rows {
        let row = format!(
            "{:<model$}  {:<shortcode$}  {:>10}  {:>10}",
            entry.model.id,
            entry.name,
            price(entry.model.input_cost),
            price(entry.model.output_cost)
        );
        let _ = writeln!(out, "{}", printable(&row));
    }
}

/// Whether its models are what happens to be installed where it runs.
fn is_local(provider: &Provider) -> bool {
    let manifest = &provider.generation.manifest;
    let own = provider.base_url().starts_with("http://");
    own && manifest.models.is_empty() && manifest.offers_operation("models")
}

/// A provider's name for people: the plugin's own, unless the operator gave it another.
fn title(provider: &Provider) -> String {
    let manifest = &provider.generation.manifest;
    if *provider.name == *manifest.id && !manifest.name.is_empty() {
        return printable(&manifest.name);
    }
    provider.name.to_string()
}

/// What is known of one model.
pub(super) fn facts(gateway: &Gateway, entry: &Entry) -> String {
    let model = &entry.model;
    let provider = gateway.plugins.current().providers.get(&entry.provider).map(|found| title(found));
    let tokens = |count: Option<u64>| count.map_or_else(unknown, |count| format!("{count} tokens"));
    let temperature = match (model.min_temperature, model.max_temperature) {
        (Some(least), Some(most)) => format!("{least:.1} - {most:.1}"),
        _ => unknown(),
    };
    let key = match &entry.key {
        Key::Set { env } => format!("{env} (set)"),
        Key::Missing { env } => format!("{env} (not set)"),
        Key::NotNeeded => "none needed".into(),
    };
    let endpoint = if entry.endpoint.is_empty() { "none" } else { &*entry.endpoint };
    let facts = [
        ("Model", model.id.clone()),
        ("Shortcode", entry.name.to_string()),
        ("Provider", provider.unwrap_or_else(|| entry.provider.to_string())),
        ("Endpoint", endpoint.to_owned()),
        ("API Key Env", key),
        ("Max Context", tokens(model.max_input_tokens)),
        ("Max Output", tokens(model.max_output_tokens)),
        ("Temperature", temperature),
        ("Price Input", price(model.input_cost)),
        ("Price Output", price(model.output_cost)),
        ("Deprecation", deprecation(entry)),
    ];
    facts.iter().map(|(name, fact)| format!("{:<14}{}\n", format!("{name}:"), printable(fact))).collect()
}

fn unknown() -> String {
    "unknown".into()
}

/// Two decimals, and more where they would hide something.
fn price(usd: Option<f64>) -> String {
    let Some(usd) = usd else { return unknown() };
    let (short, exact) = (format!("{usd:.2}"), usd.to_string());
    let shown = if short.parse() == Ok(usd) { short } else { exact };
    format!("${shown}/M tokens")
}

fn deprecation(entry: &Entry) -> String {
    let Some(date) = entry.model.deprecation_date.as_deref().filter(|date| !date.is_empty()) else {
        return "none known".into();
    };
    match entry.model.successor.as_deref().filter(|successor| !successor.is_empty()) {
        Some(successor) => format!("{date}; use {successor}"),
        None => date.to_owned(),
    }
}

/// The stored sessions by model, those used last first.
pub(super) fn sessions(data_dir: &Path, sessions: &[Summary]) -> String {
    let dir = data_dir.join(".sessions");
    if sessions.is_empty() {
        return format!("Sessions: none in {}\n", dir.display());
    }
    let mut out = format!("Sessions in {}:\n", dir.display());
    let mut by_model: BTreeMap<&str, Vec<&Summary>> = BTreeMap::new();
    for session in sessions {
        by_model.entry(&session.model).or_default().push(session);
    }
    for (model, sessions) in by_model {
        let _ = writeln!(out, "  {}", printable(model));
        for session in sessions {
            let Summary { session_id, messages, modified, .. } = session;
            let row = format!("{session_id:<24}  {messages:>2} messages  {}", rfc3339(*modified));
            let _ = writeln!(out, "    {}", printable(&row));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_hides_nothing() {
        let check = |usd: Option<f64>, expected: &str| assert_eq!(price(usd), expected);
        check(Some(2.0), "$2.00/M tokens");
        check(Some(0.15), "$0.15/M tokens");
        check(Some(0.075), "$0.075/M tokens");
        check(Some(0.0), "$0.00/M tokens");
        check(None, "unknown");
    }
}
