//! What a plugin says about itself: its manifest and its models with prices and limits.
//!
//! The text is JSON, optionally followed by a CSV table of models. It is embedded in the file so that a
//! gateway can read it without running the plugin.

use serde::{Deserialize, Deserializer, Serialize};

/// A plugin's manifest. Unknown members are ignored, so that newer plugins load in older gateways.
#[derive(Debug, Clone, Deserialize, Serialize, Default)]
#[serde(default)]
pub struct Manifest {
    /// Version of this form; 1.
    pub schema: u32,
    /// Unique name in `[a-z0-9-]`, also the provider's name unless the operator configures another.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// SPDX licence expression.
    pub license: String,
    /// Where it comes from.
    pub homepage: String,
    /// The API it is built for, `major.minor`.
    pub api: String,
    /// `chat`, `embeddings`, `models`, …: what it can be asked.
    pub operations: Vec<String>,
    /// Where its upstream already speaks OpenAI's format, so that bytes pass untouched.
    pub dialect: Dialect,
    /// How streams behave.
    pub stream: StreamHints,
    /// Whether its models are offered always, or only if the operator lists them.
    pub offer: Offer,
    /// Where the key goes; absent for upstreams without keys.
    pub auth: Option<Auth>,
    /// Absolute URL that the operator may replace, without a slash at its end.
    pub base_url: String,
    /// Further origins (`https://host[:port]`) that its requests may go to.
    pub egress: Vec<String>,
    /// The settings that it takes, as a JSON Schema object. Its `required` may hold `base_url`: then
    /// each provider is one that the operator gives an address, and there is none without.
    pub config: serde_json::Value,
    /// Seconds, where the gateway's defaults are too short for this upstream.
    pub timeouts: Timeouts,
    /// Its models.
    pub models: Vec<Model>,
}

/// For each direction: `openai` if the upstream's bytes are OpenAI's format, else empty.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Dialect {
    /// Requests.
    pub request: String,
    /// Whole answers.
    pub response: String,
    /// Streamed answers.
    pub stream: String,
}

/// How streams behave.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct StreamHints {
    /// Byte strings; in a stream of the caller's dialect only events that hold one go through `event`.
    pub wake: Vec<String>,
    /// `option`: usage comes if `stream_options.include_usage` is set; `always`: it comes by itself.
    pub usage: String,
}

/// Whether models are offered without being listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Offer {
    /// Beside the list.
    #[default]
    Always,
    /// Only if the operator's models.csv names them.
    Listed,
}

/// Where a key goes and where it comes from.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Auth {
    /// `bearer`, `header`, `query` or `none`.
    pub kind: String,
    /// Name of the header or query field, for `header` and `query`.
    pub name: String,
    /// Environment variables that may hold the key; the first is shown to people.
    pub env: Vec<String>,
    /// Whether requests are sent without a key too.
    pub optional: bool,
    /// Whether that holds where the base URL is this machine's or plain http, so the operator's own, and
    /// the operator names no key.
    pub optional_if_local: bool,
    /// Further origins that the key may be sent to.
    pub origins: Vec<String>,
}

/// Seconds; 0 keeps the gateway's default.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Timeouts {
    /// For a whole call that is not streamed.
    pub request_secs: u64,
    /// For silence in a stream.
    pub stream_idle_secs: u64,
}

/// One model: a row of a plugin's table, under the field names of `GET /api/models`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Model {
    /// Short name for callers.
    pub shortcode: String,
    /// The upstream's name for it.
    pub id: String,
    /// `chat` (the default) or `embedding`.
    pub mode: Mode,
    /// USD per million prompt tokens; `None` is unknown, not free.
    pub input_cost: Option<f64>,
    /// USD per million answer tokens.
    pub output_cost: Option<f64>,
    /// USD per million prompt tokens read from a cache.
    pub cached_input_cost: Option<f64>,
    /// USD per million prompt tokens written to a cache.
    pub cache_write_cost: Option<f64>,
    /// Tokens.
    pub max_input_tokens: Option<u64>,
    /// Tokens.
    pub max_output_tokens: Option<u64>,
    /// Lowest temperature it takes.
    pub min_temperature: Option<f64>,
    /// Highest temperature it takes.
    pub max_temperature: Option<f64>,
    /// Whether it takes `max_completion_tokens` and refuses `max_tokens`.
    pub requires_completion_tokens: Option<bool>,
    /// `vision`, `tools`, `reasoning`, `json`, …
    #[serde(deserialize_with = "words")]
    pub capabilities: Vec<String>,
    /// Request fields that it rejects.
    #[serde(deserialize_with = "words")]
    pub drops: Vec<String>,
    /// When it is, or was, retired: `YYYY-MM-DD`.
    pub deprecation_date: Option<String>,
    /// What to use instead.
    pub successor: Option<String>,
    /// The day on which the price was known to hold; `None` for an undated one.
    pub price_date: Option<String>,
    /// Where prices and limits were read.
    pub source: Option<String>,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Chat completions.
    #[default]
    #[serde(alias = "")]
    Chat,
    /// Embeddings.
    Embedding,
}

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the expected form.
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The table behind it is wrong.
    #[error("the models table cannot be read: {0}")]
    Csv(#[from] csv::Error),
    /// A rule is broken.
    #[error("the manifest is wrong: {0}")]
    Rule(String),
}

/// Keys of `[provider.NAME]` that are the gateway's own.
pub const RESERVED_SETTINGS: [&str; 8] =
    ["plugin", "base_url", "key_env", "key_file", "offer", "isolation", "channels", "models"];

impl Manifest {
    /// Reads a manifest with the table that may follow it.
    ///
    /// # Errors
    /// Syntax, wrong types, an id outside `[a-z0-9-]{1,64}`, or a setting under a reserved name.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Self>();
        let mut manifest = match stream.next() {
            Some(manifest) => manifest?,
            None => return Err(ManifestError::Rule("it is empty".into())),
        };
        let table = text.get(stream.byte_offset()..).unwrap_or("").trim_start();
        manifest.models.extend(models_from_csv(table)?);
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let rule = |broken: bool, text: String| {
            if broken { Err(ManifestError::Rule(text)) } else { Ok(()) }
        };
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        rule(
            self.id.is_empty() || self.id.len() > 64 || !self.id.bytes().all(plain),
            format!("`id` must be 1 to 64 of a-z, 0-9 and -, but it is {:?}", self.id),
        )?;
        rule(self.schema != 1, format!("`schema` must be 1, but it is {}", self.schema))?;
        rule(self.api.is_empty(), "`api` is missing; it is \"1.0\"".into())?;
        let declared = self.config.get("properties").and_then(serde_json::Value::as_object);
        for name in declared.into_iter().flat_map(serde_json::Map::keys) {
            let reserved = RESERVED_SETTINGS.contains(&name.as_str());
            rule(reserved, format!("the setting `{name}` is the gateway's own; call it something else"))?;
        }
        rule(self.models.iter().any(|model| model.id.is_empty()), "a model has no `id`".into())
    }

    /// The major number of the API it is built for.
    pub fn api_major(&self) -> Option<u64> {
        self.api.split('.').next()?.parse().ok()
    }

    /// Whether it serves nothing until the operator gives it an address.
    pub fn needs_base_url(&self) -> bool {
        let required = self.config.get("required").and_then(serde_json::Value::as_array);
        self.base_url.is_empty() && required.into_iter().flatten().any(|name| name == "base_url")
    }

    /// Whether it can be asked for this operation.
    pub fn offers_operation(&self, operation: &str) -> bool {
        self.operations.iter().any(|known| known == operation)
    }
}

/// Reads a table of models: a header row with [`Model`]'s field names, `#` comments, empty = unknown.
///
/// # Errors
/// A row that does not fit the header or holds a wrong number.
pub fn models_from_csv(text: &str) -> Result<Vec<Model>, csv::Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        csv::ReaderBuilder::new().comment(Some(b'#')).trim(csv::Trim::All).from_reader(text.as_bytes());
    reader.deserialize().collect()
}

/// A list, or words separated by white space.
fn words<'de, D: Deserializer<'de>>(de: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Words::deserialize(de)? {
        Words::List(list) => list,
        Words::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str =
        r#"{"schema":1,"id":"acme","api":"1.0","models":[{"id":"a","capabilities":["tools"]}]}"#;

    #[test]
    fn a_table_behind_the_json_adds_models() {
        let text = format!(
            "{JSON}\nshortcode,id,mode,input_cost,capabilities,requires_completion_tokens\n# note\nb1, b ,,0.5,tools vision,\ne,emb,embedding,,,true\n"
        );
        let models = Manifest::parse(&text).expect("valid").models;
        assert_eq!(models.len(), 3);
        assert_eq!(
            (models[1].id.as_str(), models[1].mode, models[1].input_cost),
            ("b", Mode::Chat, Some(0.5))
        );
        assert_eq!(models[1].capabilities, ["tools", "vision"]);
        assert_eq!((models[2].mode, models[2].input_cost), (Mode::Embedding, None));
        assert_eq!(models[2].requires_completion_tokens, Some(true));
    }

    #[test]
    fn wrong_manifests_say_what_is_wrong() {
        let check = |from: &str, to: &str, expected: &str| {
            let error = Manifest::parse(&JSON.replace(from, to)).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("acme", "Ac me", "`id` must be");
        check("\"api\":\"1.0\",", "", "`api` is missing");
        check("\"schema\":1", "\"schema\":2", "`schema` must be 1");
        check(
            "\"models\"",
            "\"config\":{\"properties\":{\"key_env\":{}}},\"models\"",
            "`key_env` is the gateway's own",
        );
        check("{\"schema\"", "[{\"schema\"", "cannot be read");
        assert!(Manifest::parse("").expect_err("empty").to_string().contains("empty"));
    }
}
