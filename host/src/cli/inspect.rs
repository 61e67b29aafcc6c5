//! `sigoREST plugin inspect FILE`: what a plugin file says about itself, without running it.

use std::{fmt::Write as _, path::Path};

use provider_api::{
    Manifest, Model,
    loader::{self, Record},
    model::Offer,
};

/// The text to print.
///
/// # Errors
/// The file cannot be read or is not a plugin for this gateway; one line that names it.
pub fn inspect(path: &Path) -> Result<String, String> {
    let bytes = loader::read(path).map_err(|refused| format!("{}: {refused}", path.display()))?;
    let record = loader::vet(&bytes).map_err(|refused| format!("{}: {refused}", path.display()))?;
    Ok(text(path, bytes.len(), &record))
}

fn text(path: &Path, size: usize, record: &Record) -> String {
    let Record { manifest, rustc } = record;
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let value = if value.is_empty() { "-" } else { value };
        let _ = writeln!(out, "{name:<14}{}", printable(value));
    };
    line("file", &format!("{} ({size} bytes)", path.display()));
    line("id", &manifest.id);
    line("name", &manifest.name);
    line("version", &manifest.version);
    line("licence", &manifest.license);
    line("homepage", &manifest.homepage);
    line("API", &manifest.api);
    line("rustc", rustc);
    line("operations", &manifest.operations.join(", "));
    line("dialect", &dialect(manifest));
    let wanted = if manifest.needs_base_url() { "each provider's own base_url" } else { "" };
    line("base URL", if wanted.is_empty() { &manifest.base_url } else { wanted });
    line("egress", &egress(manifest));
    line("key", &key(manifest));
    line("offer", if manifest.offer == Offer::Always { "always" } else { "listed in models.csv" });
    let settings = manifest.config.get("properties").and_then(serde_json::Value::as_object);
    let settings: Vec<&str> = settings.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    line("settings", &settings.join(", "));
    models(&mut out, &manifest.models);
    out
}

fn dialect(manifest: &Manifest) -> String {
    let parts = [
        ("request", &manifest.dialect.request),
        ("response", &manifest.dialect.response),
        ("stream", &manifest.dialect.stream),
    ];
    let parts = parts.iter().map(|(name, dialect)| {
        format!("{name} {}", if dialect.is_empty() { "translated" } else { dialect.as_str() })
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// Every origin that its requests may go to.
fn egress(manifest: &Manifest) -> String {
    let base: Option<http::Uri> = manifest.base_url.parse().ok();
    let base = base.and_then(|url| Some(format!("{}://{}", url.scheme_str()?, url.authority()?)));
    let mut all: Vec<String> = base.into_iter().chain(manifest.egress.iter().cloned()).collect();
    all.dedup();
    all.join(", ")
}

fn key(manifest: &Manifest) -> String {
    let Some(auth) = &manifest.auth else { return "none needed".into() };
    let place = match auth.kind.as_str() {
        "" | "bearer" => "Authorization: Bearer".to_owned(),
        "none" => return "none needed".into(),
        kind => format!("{kind} {}", auth.name),
    };
    let need = if auth.optional { ", optional" } else { "" };
    format!("{place}, from {}{need}", auth.env.join(" or "))
}

fn models(out: &mut String, models: &[Model]) {
    if models.is_empty() {
        out.push_str("\nmodels        none in the file\n");
        return;
    }
    let _ = writeln!(
        out,
        "\n{:<24}{:<36}{:>12}{:>12}{:>12}{:>12}{:>12}",
        "shortcode", "model", "in $/M", "out $/M", "cached $/M", "max in", "max out"
    );
    let price = |price: Option<f64>| match price {
        None => "unknown".to_owned(),
        // A small price keeps all its digits.
        Some(price) if (price * 100.0).fract().abs() > 1e-6 => price.to_string(),
        Some(price) => format!("{price:.2}"),
    };
    let tokens = |tokens: Option<u64>| tokens.map_or_else(|| "unknown".into(), |tokens| tokens.to_string());
    for model in models {
        let retired =
            model.deprecation_date.as_ref().map(|date| format!("  until {date}")).unwrap_or_default();
        let row = format!(
            "{:<24}{:<36}{:>12}{:>12}{:>12}{:>12}{:>12}{retired}",
            model.shortcode,
            model.id,
            price(model.input_cost),
            price(model.output_cost),
            price(model.cached_input_cost),
            tokens(model.max_input_tokens),
            tokens(model.max_output_tokens)
        );
        let _ = writeln!(out, "{}", printable(&row));
    }
}

/// A file from elsewhere may not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
