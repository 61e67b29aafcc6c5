//! `[provider.NAME]`: the gateway's own settings there; the others are the plugin's.

use provider_api::{
    Model,
    model::{Offer, RESERVED_SETTINGS},
};
use toml::{Spanned, de::DeValue};

use super::{
    Environment, Isolation, Place, ProviderSettings, channels,
    file::table,
    load::{Origin, Reading},
    problem::nearest,
    schema::json,
    value::{self, Input, Read, Wrong},
};

/// Providers whose `<NAME>_BASE_URL` counts without a section of their own.
const WELL_KNOWN: [&str; 7] = ["anthropic", "deepseek", "mammouth", "moonshot", "zai", "ollama", "echo"];

/// Reads the table of all providers.
pub(super) fn read(reading: &mut Reading, value: &Spanned<DeValue<'_>>) {
    let Some(all) = table(reading, "provider.NAME", value) else { return };
    for (key, value) in all {
        let name = key.get_ref().as_ref();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            let text = format!("the provider name {name:?} must be 1 to 64 of a-z, A-Z, 0-9, - _ and .");
            reading.error(Place::File(key.span()), text);
        }
        let Some(section) = table(reading, &format!("provider.{name}"), value) else { continue };
        let mut settings = ProviderSettings::default();
        for (key, value) in section {
            let setting = key.get_ref().as_ref();
            let origin = Origin::File(value.span());
            match own(name, &mut settings, setting, value) {
                Ok(()) => {
                    reading.origins.insert(format!("provider.{name}.{setting}"), origin);
                }
                Err(wrong) => {
                    for wrong in wrong {
                        let place = Place::File(wrong.span.unwrap_or_else(|| value.span()));
                        reading.error(place, format!("`provider.{name}.{setting}`: {}", wrong.text));
                    }
                }
            }
        }
        reading.settings.providers.insert(name.to_owned(), settings);
    }
}

/// Reads one setting of a provider.
fn own(
    provider: &str,
    settings: &mut ProviderSettings,
    name: &str,
    value: &Spanned<DeValue<'_>>,
) -> Read<()> {
    let input = Input::Toml(value);
    match name {
        "channels" => settings.channels = channels::read(provider, value)?,
        "plugin" => settings.plugin = Some(input.parse("a plugin's id", plugin)?),
        "base_url" => settings.base_url = Some(input.parse("a URL", value::url)?),
        "key_env" => settings.key_env = Some(input.parse("a variable's name", variable)?),
        "key_file" => settings.key_file = Some(input.parse("a path", value::path)?),
        "offer" => settings.offer = Some(input.parse("an offer", offer)?),
        "isolation" => settings.isolation = input.parse("an isolation", isolation)?,
        "models" => settings.models = models(value)?,
        // Its form is not decided yet: it is accepted with a warning.
        _ if RESERVED_SETTINGS.contains(&name) => {}
        _ => {
            settings.settings.insert(name.to_owned(), json(value)?);
        }
    }
    Ok(())
}

fn plugin(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
        return Err(format!("{text:?} is not a plugin's id; it is 1 to 64 of a-z, 0-9 and -"));
    }
    Ok(text.to_owned())
}

/// The text is not repeated: who mistakes the setting writes the key itself.
pub(super) fn variable(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if text.is_empty() || text.len() > 128 || !text.bytes().all(plain) || text.as_bytes()[0].is_ascii_digit()
    {
        return Err("this is not a variable's name (A-Z, 0-9 and _); name the variable that holds the key, \
                    never write the key itself"
            .into());
    }
    Ok(text.to_owned())
}

fn offer(text: &str) -> Result<Offer, String> {
    match text {
        "always" => Ok(Offer::Always),
        "listed" => Ok(Offer::Listed),
        other => Err(format!("{other:?} is not \"always\" or \"listed\"")),
    }
}

fn isolation(text: &str) -> Result<Isolation, String> {
    match text {
        "none" => Ok(Isolation::None),
        "process" => Ok(Isolation::Process),
        other => Err(format!("{other:?} is not \"none\" or \"process\"")),
    }
}

/// Model rows: a list of ids or tables, or a table of tables by id.
fn models(value: &Spanned<DeValue<'_>>) -> Read<Vec<Model>> {
    let mut bad = Vec::new();
    let mut good = Vec::new();
    let mut each = |id: Option<&str>, value: &Spanned<DeValue<'_>>| match row(id, value) {
        Ok(model) => good.push(model),
        Err(wrong) => bad.extend(wrong),
    };
    match value.get_ref() {
        DeValue::Array(rows) => rows.iter().for_each(|row| each(None, row)),
        DeValue::Table(rows) => rows.iter().for_each(|(id, row)| each(Some(id.get_ref()), row)),
        _ => {
            return Input::Toml(value)
                .wrong("this is not a list of models; write [\"id\", …] or [[…models]] tables");
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

fn row(id: Option<&str>, value: &Spanned<DeValue<'_>>) -> Read<Model> {
    let input = Input::Toml(value);
    let table = match value.get_ref() {
        DeValue::String(id) => return Ok(Model { id: id.clone().into_owned(), ..Model::default() }),
        DeValue::Table(table) => table,
        _ => {
            return input
                .wrong("a model is an id in quotes, or a table with `id`, `shortcode`, `input_cost`, …");
        }
    };
    let known = serde_json::to_value(Model::default()).unwrap_or_default();
    let known: Vec<&str> = known.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let unknown = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
    let wrong: Vec<Wrong> = unknown
        .map(|key| {
            let name = key.get_ref();
            let meant = nearest(name, known.iter().copied());
            let meant = meant.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
            Wrong { text: format!("a model has no `{name}`{meant}"), span: Some(key.span()) }
        })
        .collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut model: Model = match serde_json::from_value(json(value)?) {
        Ok(model) => model,
        Err(error) => return input.wrong(format!("the model is wrong: {error}")),
    };
    if let Some(id) = id.filter(|_| model.id.is_empty()) {
        id.clone_into(&mut model.id);
    }
    if model.id.is_empty() { input.wrong("the model has no `id`") } else { Ok(model) }
}

/// What is wrong with a provider that nobody gave an address, whose plugin has none.
pub fn address_wanted(provider: &str) -> String {
    format!(
        "provider `{provider}` has no address: write base_url = \"https://HOST/v1\" under [provider.{provider}], or set {}",
        base_url_variable(provider)
    )
}

fn base_url_variable(provider: &str) -> String {
    format!("{}_BASE_URL", provider.to_ascii_uppercase().replace(['-', '.'], "_"))
}

/// What the environment says about a provider's base URL (`<NAME>_BASE_URL`, for ollama also
/// `OLLAMA_HOST`), with the variable's name.
///
/// # Errors
/// The variable's name, and what is wrong with its value.
pub fn base_url(
    provider: &str,
    environment: Environment<'_>,
) -> Result<Option<(String, String)>, (String, String)> {
    let name = base_url_variable(provider);
    let set = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
    if let Some(value) = set(&name) {
        return value::url(&value).map(|url| Some((url, name.clone()))).map_err(|wrong| (name, wrong));
    }
    match set("OLLAMA_HOST").filter(|_| provider == "ollama") {
        Some(value) => match ollama_host(&value) {
            Ok(url) => Ok(Some((url, "OLLAMA_HOST".into()))),
            Err(wrong) => Err(("OLLAMA_HOST".into(), wrong)),
        },
        None => Ok(None),
    }
}

/// Ollama's own variable: a scheme, a host and a port, each of which may be missing.
fn ollama_host(value: &str) -> Result<String, String> {
    let value = value.trim().trim_matches(['"', '\'']);
    let (scheme, rest) = value.split_once("://").unwrap_or(("", value));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let default_port = match scheme {
        "http" => "80",
        "https" => "443",
        _ => "11434",
    };
    let bare_v6 = authority.parse::<std::net::Ipv6Addr>().is_ok();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !bare_v6 && !port.contains(']') => (host, port),
        _ => (authority, default_port),
    };
    let port = if port.is_empty() { default_port } else { port };
    // Where a server listens on all addresses, a client finds it on this machine.
    let host = match host {
        "" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" | "[::]" => "[::1]".to_owned(),
        host if bare_v6 => format!("[{host}]"),
        host => host.to_owned(),
    };
    let scheme = if scheme.is_empty() { "http" } else { scheme };
    value::port(port)?;
    value::url(&format!("{scheme}://{host}:{port}{path}"))
}

/// Applies the environment's base URLs to the providers of the file and the well-known ones.
pub(super) fn base_urls(reading: &mut Reading, environment: Environment<'_>) {
    let mut names: Vec<String> = reading.settings.providers.keys().cloned().collect();
    names.extend(WELL_KNOWN.iter().map(|name| (*name).to_owned()));
    names.sort();
    names.dedup();
    for name in names {
        match base_url(&name, environment) {
            Ok(None) => {}
            Ok(Some((url, variable))) => {
                reading.origins.insert(format!("provider.{name}.base_url"), Origin::Variable(variable));
                reading.settings.providers.entry(name).or_default().base_url = Some(url);
            }
            Err((variable, wrong)) => reading.error(Place::Variable(variable), wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ollama_hosts() {
        let check =
            |value: &str, expected: &str| assert_eq!(ollama_host(value).as_deref(), Ok(expected), "{value}");
        check("0.0.0.0", "http://127.0.0.1:11434");
        check("gpu:8000", "http://gpu:8000");
        check(":8000", "http://127.0.0.1:8000");
        check("https://gpu.example/ollama/", "https://gpu.example:443/ollama");
        check("::1", "http://[::1]:11434");
        check("[::]:99", "http://[::1]:99");
        assert!(ollama_host("gpu:port").is_err());
    }
}
