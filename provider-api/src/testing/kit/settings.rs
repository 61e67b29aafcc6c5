//! Settings that are right, missing or wrong: an instance or a fault in words, never a panic.

use serde_json::{Map, Value, json};

use super::{Found, Miss, Runner, Subject, ensure, wire, with_base_url};
use crate::{abi::FaultKind, error::Fault, request::Members};

/// Settings under which the provider must work: the author's, else what the manifest declares.
pub(super) fn good(subject: &Subject<'_>) -> String {
    let manifest = &subject.manifest;
    if let Some(own) = &subject.fixtures.settings
        && Members::parse(own.as_bytes()).is_ok()
    {
        return with_base_url(own.trim(), manifest);
    }
    let mut settings = Map::new();
    if manifest.base_url.is_empty() {
        settings.insert("base_url".into(), "http://127.0.0.1:9".into());
    }
    let required = manifest.config.get("required").and_then(Value::as_array);
    let required = required.into_iter().flatten().filter_map(Value::as_str);
    for name in required.filter(|name| *name != "base_url") {
        let schema = &manifest.config["properties"][name];
        settings.insert(name.into(), example(schema));
    }
    with_base_url(&Value::Object(settings).to_string(), manifest)
}

fn example(schema: &Value) -> Value {
    let first = |key: &str| schema[key].get(0).cloned();
    let known = schema.get("default").cloned().or_else(|| first("examples")).or_else(|| first("enum"));
    known.unwrap_or_else(|| match schema["type"].as_str() {
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        Some("boolean") => json!(false),
        Some("array") => json!([]),
        Some("object") => json!({}),
        _ => json!("x"),
    })
}

pub(super) fn checks(runner: &mut Runner<'_>, subject: &Subject<'_>, good: &str) {
    runner.check("settings: good", || match (subject.create)(good.as_bytes()) {
        Ok(_) => Ok(good.to_owned()),
        Err(fault) => {
            Err(Miss::Failed(format!("refused: {fault}; put settings that work into fixtures/settings.json")))
        }
    });
    runner.check("settings: none", || {
        made_or_refused(subject, b"{}")
            .map(|made| if made { "made".into() } else { "refused in words".into() })
    });
    runner.check("settings: garbage", || garbage(subject, good));
}

fn garbage(subject: &Subject<'_>, good: &str) -> Found {
    let mut count = 0;
    let nested = wire::nested(10_000);
    let no_objects =
        ["", " ", "null", "[]", "7", "\"x\"", "{", "{\"a\":", "\u{feff}{}", "<html>", nested.as_str()];
    for text in no_objects {
        let made = made_or_refused(subject, text.as_bytes())?;
        ensure(!made, || format!("it takes {text:?} as settings"))?;
        count += 1;
    }
    ensure(!made_or_refused(subject, b"{\"a\":\"\xff\xfe\"}")?, || {
        "it takes settings that are not UTF-8".into()
    })?;
    let names = subject.manifest.config.get("properties").and_then(Value::as_object);
    let names =
        names.into_iter().flatten().map(|(name, _)| name.as_str()).chain(["base_url", "no_such_setting"]);
    let mut settings: Map<String, Value> =
        serde_json::from_str(good).map_err(|error| format!("the good settings: {error}"))?;
    let wrong = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("x".repeat(1 << 20)),
        json!("\u{0}\r\n"),
        json!([]),
        json!({"a": [{}]}),
    ];
    for name in names {
        let before = settings.get(name).cloned();
        for value in &wrong {
            settings.insert(name.into(), value.clone());
            made_or_refused(subject, Value::Object(settings.clone()).to_string().as_bytes())?;
            count += 1;
        }
        match before {
            Some(value) => settings.insert(name.into(), value),
            None => settings.remove(name),
        };
    }
    Ok(format!("{count} wrong settings, no panic"))
}

/// Whether an instance was made.
fn made_or_refused(subject: &Subject<'_>, settings: &[u8]) -> Result<bool, Miss> {
    let shown = || String::from_utf8_lossy(&settings[..settings.len().min(60)]).into_owned();
    match (subject.create)(settings) {
        Ok(_) => Ok(true),
        Err(Fault { kind: FaultKind::PANIC, message, .. }) => {
            Err(Miss::Failed(format!("with the settings {} it panicked: {message}", shown())))
        }
        Err(fault) => {
            ensure(!fault.message.trim().is_empty(), || format!("it refuses {} without a word", shown()))?;
            Ok(false)
        }
    }
}
