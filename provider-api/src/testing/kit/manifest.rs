//! What a manifest must say so that people and gateways can rely on it.

use std::collections::HashSet;

use super::{Found, Miss, Runner, ensure};
use crate::{Manifest, Model};

/// Dearer than any model: a price above it is one per token or in cents.
const MAX_USD_PER_MTOK: f64 = 10_000.0;

pub(super) fn checks(runner: &mut Runner<'_>, manifest: &Manifest) {
    runner.check("manifest: form", || form(manifest));
    runner.check("manifest: addresses", || addresses(manifest));
    runner.check("manifest: key", || key(manifest));
    runner.check("manifest: models", || models(&manifest.models));
}

fn form(manifest: &Manifest) -> Found {
    for (field, value) in
        [("name", &manifest.name), ("version", &manifest.version), ("license", &manifest.license)]
    {
        ensure(!value.trim().is_empty(), || format!("`{field}` is missing"))?;
        ensure(!value.chars().any(char::is_control), || format!("`{field}` holds control characters"))?;
    }
    let numbers = manifest.version.split(['-', '+']).next().unwrap_or("").split('.');
    let semver = numbers.clone().count() == 3 && numbers.clone().all(|part| part.parse::<u64>().is_ok());
    ensure(semver, || format!("`version` must be like 1.2.3, but it is {:?}", manifest.version))?;
    ensure(manifest.api_major() == Some(1), || {
        format!("`api` must be \"1.x\", but it is {:?}", manifest.api)
    })?;
    ensure(!manifest.operations.is_empty(), || {
        "`operations` is empty; say what it can be asked: chat, embeddings, models".into()
    })?;
    let dialect = &manifest.dialect;
    for (field, value) in
        [("request", &dialect.request), ("response", &dialect.response), ("stream", &dialect.stream)]
    {
        ensure(value.is_empty() || value == "openai", || {
            format!("`dialect.{field}` must be \"openai\" or left out, but it is {value:?}")
        })?;
    }
    ensure(matches!(manifest.stream.usage.as_str(), "" | "option" | "always"), || {
        format!("`stream.usage` must be \"option\" or \"always\", but it is {:?}", manifest.stream.usage)
    })?;
    ensure(manifest.stream.wake.iter().all(|word| !word.is_empty()), || {
        "`stream.wake` holds an empty text".into()
    })?;
    ensure(manifest.config.is_null() || manifest.config.is_object(), || {
        "`config` must be a JSON Schema object".into()
    })?;
    Ok(format!(
        "{} {}, API {}, {}",
        manifest.id,
        manifest.version,
        manifest.api,
        manifest.operations.join(", ")
    ))
}

/// Scheme and the rest of an absolute URL.
pub(super) fn split_url(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    let fine = matches!(scheme, "http" | "https")
        && !host.is_empty()
        && !host.contains('@')
        && !url.chars().any(|c| c.is_control() || c.is_whitespace());
    fine.then_some((scheme, rest))
}

/// Scheme, host and port.
pub(super) fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = split_url(url)?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or("").to_ascii_lowercase();
    let port = if scheme == "https" { ":443" } else { ":80" };
    Some(format!("{scheme}://{}", host.strip_suffix(port).unwrap_or(&host)))
}

fn is_loopback(rest: &str) -> bool {
    ["localhost", "127.", "[::1]"].iter().any(|start| rest.starts_with(start))
}

fn addresses(manifest: &Manifest) -> Found {
    let base = &manifest.base_url;
    if !base.is_empty() {
        let (scheme, rest) = split_url(base).ok_or_else(|| {
            format!(
                "`base_url` must be an absolute http or https URL without credentials, but it is {base:?}"
            )
        })?;
        ensure(!base.ends_with('/'), || format!("`base_url` must not end with a slash: {base:?}"))?;
        ensure(scheme == "https" || is_loopback(rest), || format!("`base_url` must be https: {base:?}"))?;
    }
    let keys = manifest.auth.iter().flat_map(|auth| &auth.origins);
    for url in manifest.egress.iter().chain(keys) {
        let plain = split_url(url).is_some_and(|(scheme, rest)| {
            !rest.contains(['/', '?', '#']) && (scheme == "https" || is_loopback(rest))
        });
        ensure(plain, || {
            format!("an origin in `egress` or `auth.origins` must be https://HOST[:PORT], but it is {url:?}")
        })?;
    }
    if base.is_empty() && manifest.egress.is_empty() {
        return Ok("none: it sends no requests, or the operator names the address".into());
    }
    Ok(std::iter::once(base.as_str())
        .chain(manifest.egress.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(", "))
}

fn key(manifest: &Manifest) -> Found {
    let Some(auth) = &manifest.auth else { return Ok("none needed".into()) };
    ensure(matches!(auth.kind.as_str(), "bearer" | "header" | "query" | "none"), || {
        format!("`auth.kind` must be bearer, header, query or none, but it is {:?}", auth.kind)
    })?;
    let token = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if matches!(auth.kind.as_str(), "header" | "query") {
        ensure(!auth.name.is_empty() && auth.name.chars().all(token), || {
            format!(
                "`auth.name` must name the {} that the key goes into, but it is {:?}",
                auth.kind, auth.name
            )
        })?;
    }
    let variable = |name: &str| {
        let fine = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        !name.is_empty() && name.chars().all(fine)
    };
    ensure(auth.kind == "none" || !auth.env.is_empty(), || {
        "`auth.env` names no variable for the key".into()
    })?;
    for name in &auth.env {
        ensure(variable(name), || {
            format!("`auth.env` must hold names like ACME_API_KEY, but it has {name:?}")
        })?;
    }
    Ok(format!("{}, from {}", auth.kind, auth.env.join(" or ")))
}

fn models(models: &[Model]) -> Found {
    let (mut ids, mut shortcodes) = (HashSet::new(), HashSet::new());
    for model in models {
        let id = &model.id;
        ensure(ids.insert(id), || format!("the model `{id}` is listed twice"))?;
        let plain = |text: &str| !text.chars().any(|c| c.is_whitespace() || c.is_control());
        ensure(plain(id) && plain(&model.shortcode), || {
            format!("the model `{id}` has a name with white space in it")
        })?;
        if !model.shortcode.is_empty() {
            let once = shortcodes.insert(&model.shortcode);
            ensure(once, || format!("the shortcode `{}` is given twice", model.shortcode))?;
        }
        numbers(model)?;
    }
    let unknown = models.iter().filter(|model| model.input_cost.is_none()).count();
    Ok(match models.len() {
        0 => "none in the file".into(),
        count if unknown > 0 => format!("{count}, {unknown} of them without a price"),
        count => format!("{count}"),
    })
}

fn numbers(model: &Model) -> Result<(), Miss> {
    let id = &model.id;
    let prices = [
        ("input_cost", model.input_cost),
        ("output_cost", model.output_cost),
        ("cached_input_cost", model.cached_input_cost),
        ("cache_write_cost", model.cache_write_cost),
    ];
    for (field, price) in prices {
        ensure(price.is_none_or(|price| (0.0..=MAX_USD_PER_MTOK).contains(&price)), || {
            format!("`{field}` of `{id}` must be USD per million tokens, but it is {price:?}")
        })?;
    }
    let dearer = model.cached_input_cost.zip(model.input_cost).is_some_and(|(cached, plain)| cached > plain);
    ensure(!dearer, || format!("`{id}` costs more from the cache than without it"))?;
    for (field, tokens) in
        [("max_input_tokens", model.max_input_tokens), ("max_output_tokens", model.max_output_tokens)]
    {
        ensure(tokens != Some(0), || format!("`{field}` of `{id}` is 0; leave it empty if it is unknown"))?;
    }
    let temperatures = (model.min_temperature.unwrap_or(0.0), model.max_temperature.unwrap_or(10.0));
    ensure(temperatures.0 <= temperatures.1 && temperatures.0 >= 0.0 && temperatures.1.is_finite(), || {
        format!("the temperatures of `{id}` are the wrong way round")
    })?;
    for (field, date) in [("deprecation_date", &model.deprecation_date), ("price_date", &model.price_date)] {
        let fine = |date: &str| {
            let parts: Vec<&str> = date.split('-').collect();
            let number = |at: usize, len: usize, max: u32| {
                parts.get(at).is_some_and(|part| {
                    part.len() == len && part.parse::<u32>().is_ok_and(|value| (1..=max).contains(&value))
                })
            };
            parts.len() == 3 && number(0, 4, 9999) && number(1, 2, 12) && number(2, 2, 31)
        };
        ensure(date.as_deref().is_none_or(fine), || {
            format!("`{field}` of `{id}` must be YYYY-MM-DD, but it is {date:?}")
        })?;
    }
    Ok(())
}
