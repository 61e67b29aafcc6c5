//! A provider: an instance of a plugin with its settings, its address and its key.

use std::{collections::HashSet, sync::Arc, time::Instant};

use bytes::Bytes;
use memchr::memmem::Finder;
use provider_api::{
    Fault, FaultKind,
    exchange::{Asked, Begin, BodyPart, PANIC_LEVEL},
    http::GATEWAY_HEADERS,
    loader::Refused,
    model::{Auth, Manifest, Model, Offer},
};

use super::{
    Generation, keys,
    listing::Listing,
    runner::Runner,
    trace::{self, Trace},
    worker::Worker,
};
use crate::{
    catalog::{Key, Source},
    channel::{self, Channel, Channels, switches::Switches},
    config::{self, Isolation, ProviderSettings, Settings},
    upstream::{Origin, Request},
};

/// Most characters of an upstream's words in `GET /api/channels`.
const MAX_SHOWN_ERROR: usize = 300;

/// A configured instance of a plugin.
pub struct Provider {
    /// Its name; also the prefix of its models' full names.
    pub name: Arc<str>,
    /// The plugin's version that it runs on.
    pub generation: Arc<Generation>,
    /// The plugin's own object, wherever it runs.
    pub runner: Arc<Runner>,
    /// Whether whole answers are in OpenAI's format already.
    pub passes_response: bool,
    /// Whether streams are in OpenAI's format already.
    pub passes_stream: bool,
    /// Whether usage must be asked for in streams.
    pub asks_usage: bool,
    /// What makes an event of a passing stream go through the plugin.
    pub wake: Vec<Finder<'static>>,
    /// What it listed when it was asked for its models.
    pub listing: Listing,
    base_url: String,
    base: Arc<Origin>,
    egress: HashSet<Origin>,
    auth: Option<Auth>,
    auth_origins: HashSet<Origin>,
    channels: Channels,
    offer: Offer,
    /// Rows of the operator's section.
    rows: Vec<Model>,
    /// What the plugin was given.
    config: Vec<u8>,
    /// The section of the settings, as text to compare.
    made_from: String,
}

impl Provider {
    /// Makes a provider with the settings in force. What did not change since `before` is kept: all of it,
    /// or the plugin's own object.
    ///
    /// # Errors
    /// A base URL that is none, or what the plugin says about its settings.
    pub fn create(
        name: &Arc<str>,
        generation: &Arc<Generation>,
        settings: &Settings,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Refused> {
        let manifest = &generation.manifest;
        let section = settings.providers.get(&**name).cloned().unwrap_or_default();
        let base_url = base_url(name, section.base_url.as_deref(), manifest);
        if base_url.is_empty() && manifest.needs_base_url() {
            return Err(Refused::new("bad_config", config::address_wanted(name)));
        }
        // A provider that sends no requests has no address.
        let address = if base_url.is_empty() { "http://localhost" } else { base_url.as_str() };
        let (base, _) = Origin::split(address).ok_or_else(|| {
            let text = "its base URL is not an absolute http or https URL without credentials";
            Refused::new("bad_config", format!("provider `{name}`: {text}"))
        })?;
        let auth = auth(name, &section, manifest, &base);
        // What is known about a key outlives the plugin's version.
        let channels = channels(name, &section, auth.as_ref(), before.map(|before| &before.channels));
        switch(&channels, settings, before.map(|before| &before.channels));
        let config = config(name, manifest, settings);
        let before = before.filter(|old| Arc::ptr_eq(&old.generation.meter, &generation.meter));
        let apart = section.isolation == Isolation::Process;
        let same_object = before.filter(|old| old.config == config && old.runner.worker().is_some() == apart);
        let made_from = format!("{section:?}");
        if let Some(old) = same_object
            && Arc::ptr_eq(&old.generation, generation)
            && old.made_from == made_from
            && old.channels.are_those_of(&channels)
        {
            return Ok(Arc::clone(old));
        }
        let runner = match same_object {
            Some(old) => Arc::clone(&old.runner),
            None => Arc::new(runner(name, generation, &config, apart)?),
        };
        let origins = |list: &[String]| list.iter().filter_map(|url| Some(Origin::split(url)?.0)).collect();
        Ok(Arc::new(Self {
            name: Arc::clone(name),
            generation: Arc::clone(generation),
            runner,
            passes_response: manifest.dialect.response == "openai",
            passes_stream: manifest.dialect.stream == "openai",
            asks_usage: manifest.stream.usage == "option",
            wake: manifest.stream.wake.iter().map(|text| Finder::new(text.as_bytes()).into_owned()).collect(),
            listing: Listing::after(before.map(|before| &before.listing)),
            base_url,
            base: Arc::new(base),
            egress: origins(&manifest.egress),
            auth_origins: auth.as_ref().map(|auth| origins(&auth.origins)).unwrap_or_default(),
            channels,
            auth,
            offer: section.offer.unwrap_or(manifest.offer),
            rows: section.models,
            config,
            made_from,
        }))
    }

    /// Records the exchange that begins, if somebody waits for one.
    pub fn record(&self, begin: &Begin<'_>) -> Option<Box<Trace>> {
        // Nobody waits for what the gateway asks by itself.
        if begin.operation == "models" {
            return None;
        }
        let generation = &self.generation;
        let head = || trace::Head {
            trace: trace::FORM,
            plugin: generation.id.to_string(),
            version: generation.manifest.version.clone(),
            sha256: generation.sha256.to_string(),
            provider: self.name.to_string(),
            settings: trace::public_settings(&self.config),
        };
        let keys = || {
            let channels = self.channels.list().iter();
            channels.filter_map(|channel| channel.key()).map(str::to_owned).collect()
        };
        let mut trace = generation.meter.recordings.begin(head, &self.name, keys)?;
        trace.call(begin);
        Some(trace)
    }

    /// Its models for the catalog.
    pub fn source(&self) -> Source {
        let mut models = self.generation.manifest.models.clone();
        crate::catalog::merge_found(&mut models, self.listing.found.load().to_vec());
        crate::catalog::merge_rows(&mut models, self.rows.clone());
        let key = self.key();
        let plugin = Arc::clone(&self.generation.id);
        let base_urls = vec![self.generation.manifest.base_url.clone(), self.base_url.clone()];
        Source { provider: Arc::clone(&self.name), plugin, offer: self.offer, key, base_urls, models }
    }

    fn key(&self) -> Key {
        let env = Arc::clone(&self.channels.list()[0].variable);
        match &self.auth {
            None => Key::NotNeeded,
            Some(_) if self.channels.first_key().is_some() => Key::Set { env },
            Some(auth) if auth.optional => Key::NotNeeded,
            Some(_) => Key::Missing { env },
        }
    }

    /// Whether it is to be asked for its models, by somebody who may insist.
    pub fn is_to_list(&self, insisting: bool) -> bool {
        let remote = self.base.secure && !self.base.is_loopback();
        self.generation.manifest.offers_operation("models")
            && self.key().is_ready()
            && (insisting || self.listing.is_due(remote))
    }

    /// Its keys, of which there is always one, if only an empty one.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Notes how an attempt on a channel failed, and takes out what that concerns.
    pub fn failed(&self, channel: &Channel, fault: &Fault) {
        let text = self.redact(&fault.message).chars().take(MAX_SHOWN_ERROR).collect();
        self.channels.failed(channel, fault, text, Instant::now());
    }

    /// The base URL in force.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Counts a fault of the plugin itself.
    pub fn count_fault(&self, fault: &Fault) {
        self.generation.meter.fault(&self.generation.id, &self.redact(&fault.message));
    }

    /// Turns what the plugin asks for into bytes for the socket: checks where it goes and what it holds,
    /// and puts the key in.
    ///
    /// # Errors
    /// A URL outside the provider's origins, a header that is not the plugin's to set, a missing key.
    pub fn prepare(
        &self,
        channel: &Channel,
        asked: &Asked<'_>,
        call_body: &Bytes,
    ) -> Result<(Arc<Origin>, Request), Fault> {
        let refuse = |what: String| {
            Fault::new(FaultKind::INTERNAL, format!("plugin `{}` asked for {what}", self.generation.id))
        };
        let (origin, path) = self.target(asked.url).map_err(refuse)?;
        let body = body_pieces(asked, call_body).ok_or_else(|| refuse("a body that is not there".into()))?;
        let mut head = Vec::with_capacity(512);
        let method = asked.method;
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(refuse("a request without a method".into()));
        }
        head.extend_from_slice(method.as_bytes());
        head.push(b' ');
        if !path.starts_with('/') {
            head.push(b'/');
        }
        head.extend_from_slice(path.as_bytes());
        self.key_in_query(channel, (&origin, path), &mut head)?;
        head.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        head.extend_from_slice(origin.authority().as_bytes());
        head.extend_from_slice(
            concat!("\r\nuser-agent: sigoREST/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes(),
        );
        for (name, value) in asked.headers() {
            if !header_is_fine(name, value) || self.is_key_header(name) {
                return Err(refuse(format!("the header {name:?}, which it may not set")));
            }
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        self.key_in_header(channel, &origin, &mut head)?;
        let length: usize = body.iter().map(Bytes::len).sum();
        if length > 0 || matches!(method, "POST" | "PUT" | "PATCH") {
            head.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        Ok((origin, Request { head: head.into(), body }))
    }

    /// A text from an upstream without what no caller may see: our key and address, what looks like a
    /// key, an address or an account, control characters; at most 2,000 characters.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for key in self.channels.list().iter().filter_map(|channel| channel.key()) {
            text = text.replace(key, "***");
        }
        if !self.base_url.is_empty() {
            text =
                text.replace(&self.base_url, "the provider").replace(&self.base.authority(), "the provider");
        }
        let shown = provider_api::error::public_text(&text);
        shown.chars().filter(|c| !c.is_control() || *c == '\n').take(2000).collect()
    }

    fn target<'u>(&self, url: &'u str) -> Result<(Arc<Origin>, &'u str), String> {
        let (origin, path) = Origin::split(url).ok_or("a URL that is not absolute http or https")?;
        if origin == *self.base {
            return Ok((Arc::clone(&self.base), path));
        }
        if self.egress.contains(&origin) && (origin.secure || origin.is_loopback()) {
            return Ok((Arc::new(origin), path));
        }
        Err(format!("the address {}, which its manifest does not name in `egress`", origin.authority()))
    }

    fn is_key_header(&self, name: &str) -> bool {
        let own = self.auth.as_ref().filter(|auth| auth.kind == "header");
        name.eq_ignore_ascii_case("authorization")
            || own.is_some_and(|auth| auth.name.eq_ignore_ascii_case(name))
    }

    /// The key, if this origin gets it.
    fn key_for<'a>(
        &'a self,
        channel: &'a Channel,
        origin: &Origin,
    ) -> Result<Option<(&'a Auth, &'a str)>, Fault> {
        let Some(auth) = &self.auth else { return Ok(None) };
        if *origin != *self.base && !self.auth_origins.contains(origin) {
            return Ok(None);
        }
        match channel.key() {
            Some(key) => Ok(Some((auth, key))),
            None if auth.optional => Ok(None),
            None => Err(Fault::new(
                FaultKind::AUTH,
                format!("the key for provider `{}` is missing; set {}", self.name, channel.variable),
            )),
        }
    }

    fn key_in_header(&self, channel: &Channel, origin: &Origin, head: &mut Vec<u8>) -> Result<(), Fault> {
        match self.key_for(channel, origin)? {
            Some((auth, key)) if auth.kind == "bearer" => {
                head.extend_from_slice(b"authorization: Bearer ");
                head.extend_from_slice(key.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            Some((auth, key)) if auth.kind == "header" => {
                head.extend_from_slice(auth.name.as_bytes());
                head.extend_from_slice(b": ");
                head.extend_from_slice(key.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
        Ok(())
    }

    fn key_in_query(
        &self,
        channel: &Channel,
        (origin, path): (&Origin, &str),
        head: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if let Some((auth, key)) = self.key_for(channel, origin)?.filter(|(auth, _)| auth.kind == "query") {
            head.push(if path.contains('?') { b'&' } else { b'?' });
            head.extend_from_slice(auth.name.as_bytes());
            head.push(b'=');
            for byte in key.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    head.push(byte);
                } else {
                    head.extend_from_slice(format!("%{byte:02X}").as_bytes());
                }
            }
        }
        Ok(())
    }
}

/// Where the provider's key goes and comes from; `None` if there is none.
fn auth(name: &str, section: &ProviderSettings, manifest: &Manifest, base: &Origin) -> Option<Auth> {
    let mut auth = manifest.auth.clone().filter(|auth| auth.kind != "none" && !auth.kind.is_empty())?;
    if manifest.needs_base_url() && *name != manifest.id {
        // Each of its providers is another service, which must not get the others' key.
        auth.env.clear();
    }
    let named = section.key_env.is_some() || section.key_file.is_some();
    auth.optional |= auth.optional_if_local && !named && (!base.secure || base.is_loopback());
    Some(auth)
}

/// What was switched by hand; what was before, where the file cannot be read.
fn switch(channels: &Channels, settings: &Settings, before: Option<&Channels>) {
    match (Switches::read(&settings.data_dir), before) {
        (Some(switches), _) => channels.switch(&switches),
        (None, Some(before)) => channels.switch_as(before),
        (None, None) => {}
    }
}

/// The channels of a provider's keys; what is known about those that stay is kept.
fn channels(
    name: &Arc<str>,
    section: &ProviderSettings,
    auth: Option<&Auth>,
    before: Option<&Channels>,
) -> Channels {
    let variables = auth.map(|auth| auth.env.as_slice()).unwrap_or_default();
    let mut sources: Vec<channel::Source> = Vec::new();
    if auth.is_some() {
        sources.extend(keys::find(name, section, variables).into_iter().map(|found| channel::Source {
            name: found.channel,
            variable: found.variable,
            key: Some(found.key),
        }));
    }
    if sources.is_empty() {
        let variable = auth.map(|_| keys::main_variable(name, section, variables)).unwrap_or_default();
        sources.push(channel::Source { name: keys::PLAIN.into(), variable, key: None });
    }
    let needs_key = auth.is_some_and(|auth| !auth.optional);
    Channels::new(name, needs_key, sources, &section.channels, before)
}

fn header_is_fine(name: &str, value: &[u8]) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&byte);
    !name.is_empty()
        && name.bytes().all(token)
        && value.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f))
        && !GATEWAY_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name))
}

fn body_pieces(asked: &Asked<'_>, call_body: &Bytes) -> Option<Vec<Bytes>> {
    asked
        .body()
        .map(|part| match part? {
            BodyPart::Literal(bytes) => Some(Bytes::copy_from_slice(bytes)),
            BodyPart::CallBody { offset, len } => {
                let start = usize::try_from(offset).ok()?;
                let end = start.checked_add(usize::try_from(len).ok()?)?;
                (end <= call_body.len()).then(|| call_body.slice(start..end))
            }
        })
        .collect()
}

/// The plugin's own object, made where its code shall run.
fn runner(name: &Arc<str>, generation: &Generation, config: &[u8], apart: bool) -> Result<Runner, Refused> {
    let (log_name, id, meter) = (Arc::clone(name), Arc::clone(&generation.id), Arc::clone(&generation.meter));
    let log = Box::new(move |level: u32, text: &str| match level {
        // No request could answer with it.
        PANIC_LEVEL => {
            tracing::error!(provider = %log_name, text, "plugin panicked");
            meter.fault(&id, text);
        }
        1 => tracing::error!(provider = %log_name, text, "plugin says"),
        2 => tracing::warn!(provider = %log_name, text, "plugin says"),
        _ => tracing::debug!(provider = %log_name, text, "plugin says"),
    });
    if !apart {
        generation.try_out(config)?;
    }
    let made = if apart {
        let code = generation.sealed().file().try_clone();
        let code = code.map_err(|error| Fault::new(FaultKind::INTERNAL, error.to_string()));
        let (id, meter) = (Arc::clone(&generation.id), Arc::clone(&generation.meter));
        let failed = Box::new(move |why: &str| meter.fault(&id, why));
        code.and_then(|code| Worker::start(name, code, config.to_vec(), (log, failed))).map(Runner::Apart)
    } else {
        generation.create(config, log).map(Runner::Here)
    };
    made.map_err(|fault| {
        let reason = match fault.kind {
            FaultKind::PANIC => "panicked",
            FaultKind::INTERNAL => "failed",
            _ => "bad_config",
        };
        if reason != "bad_config" {
            generation.meter.fault(&generation.id, &fault.message);
        }
        Refused::new(reason, format!("provider `{name}` cannot be made: {}", fault.message))
    })
}

/// What the plugin is given: its own settings, the base URL in force and the models that the section names.
pub(super) fn config(name: &str, manifest: &Manifest, settings: &Settings) -> Vec<u8> {
    let section = settings.providers.get(name);
    let mut config = section.map(|section| section.settings.clone()).unwrap_or_default();
    let base_url = base_url(name, section.and_then(|section| section.base_url.as_deref()), manifest);
    config.insert("base_url".into(), base_url.into());
    let models: Vec<&str> =
        section.into_iter().flat_map(|section| &section.models).map(|model| model.id.as_str()).collect();
    if !models.is_empty() {
        config.insert("models".into(), models.into());
    }
    serde_json::to_vec(&config).unwrap_or_default()
}

/// The section's, which the environment's may stand in for, else the manifest's own.
pub(super) fn base_url(name: &str, section: Option<&str>, manifest: &Manifest) -> String {
    let environment = || config::base_url(name, &|name| std::env::var(name).ok()).ok().flatten();
    let url = section.map(str::to_owned).or_else(|| environment().map(|(url, _)| url));
    let url = url.unwrap_or_else(|| manifest.base_url.clone());
    url.trim().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_split_a_request_or_are_the_hosts_are_refused() {
        for (name, value) in [
            ("x", &b"a\r\nb: c"[..]),
            ("x", b"a\0"),
            ("x y", b"a"),
            ("", b"a"),
            ("Host", b"evil"),
            ("transfer-encoding", b"chunked"),
        ] {
            assert!(!header_is_fine(name, value), "{name}");
        }
        assert!(header_is_fine("anthropic-version", b"2023-06-01"));
    }
}
