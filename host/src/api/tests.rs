//! What clients read in the answers.

use std::collections::BTreeSet;

use provider_api::model::{Model, Offer};
use serde_json::{Value, json};

use super::*;
use crate::{
    breaker::Breakers,
    catalog::{Key, List, Owners, Source, build},
    config::BreakerSettings,
};

fn catalog() -> Catalog {
    let model = |shortcode: &str, id: &str, mode| Model {
        shortcode: shortcode.into(),
        id: id.into(),
        mode,
        input_cost: Some(2.0),
        ..Model::default()
    };
    let source = |provider: &str, key, models| Source {
        provider: provider.into(),
        plugin: provider.into(),
        offer: Offer::Always,
        key,
        base_urls: vec![format!("https://{provider}.test/v1"), "http://10.1.2.3/inside".into()],
        models,
    };
    let sources = [
        source(
            "cloud",
            Key::Missing { env: "CLOUD_API_KEY".into() },
            vec![model("big", "big-1", Mode::Chat), model("emb", "emb-1", Mode::Embedding)],
        ),
        source("local", Key::NotNeeded, vec![model("me/own-1b", "me/own:1b", Mode::Chat)]),
    ];
    build(&sources, &List::default(), &Owners::default()).0
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn models_have_openais_form() {
    let catalog = catalog();
    let list = parsed(&models(&catalog));
    assert_eq!(list["object"], "list");
    assert_eq!(
        list["data"][0],
        json!({"id": "big", "object": "model", "created": CREATED, "owned_by": "cloud"})
    );
    assert_eq!(models(&Catalog::default()), r#"{"object":"list","data":[]}"#);
    for (path, id) in [
        ("big", "big"),
        ("cloud/big-1", "big"),
        ("cloud%2Fbig-1", "big"),
        ("me/own-1b", "me/own-1b"),
        ("me%2fown%3A1b", "me/own-1b"),
    ] {
        assert_eq!(parsed(&model(&catalog, path).expect(path))["id"], id, "{path}");
    }
    for path in ["bi%67%", "%ff", "", "big/"] {
        assert_eq!(model(&catalog, path).expect_err(path).status, 404, "{path}");
    }
    assert_eq!(unescaped("%62%4G%"), "b%4G%");
}

#[test]
fn rows_keep_the_names_that_clients_know() {
    let text = model_rows(&catalog());
    let rows = parsed(&text);
    for name in [
        "id",
        "shortcode",
        "endpoint",
        "apikey",
        "max_input_tokens",
        "max_output_tokens",
        "input_cost",
        "output_cost",
        "min_temperature",
        "max_temperature",
        "requires_completion_tokens",
    ] {
        assert!(rows[0].get(name).is_some(), "{name}");
    }
    let check =
        |pointer: &str, expected: Value| assert_eq!(rows.pointer(pointer), Some(&expected), "{pointer}");
    check("/0/apikey", "CLOUD_API_KEY".into());
    check("/0/key_set", false.into());
    check("/0/endpoint", "https://cloud.test/v1/chat/completions".into());
    check("/0/output_cost", Value::Null);
    check("/1/mode", "embedding".into());
    check("/2/apikey", "".into());
    check("/2/key_set", true.into());
    assert!(!text.contains("inside"), "the operator's own addresses stay inside");
}

#[test]
fn health_is_degraded_by_what_fails_and_says_so() {
    let catalog = catalog();
    let breakers = Breakers::new(BreakerSettings {
        failures: 1,
        window: Duration::from_secs(60),
        cooldown: Duration::from_secs(10),
        trials: 1,
    });
    let plugin = |status: &str| PluginHealth {
        id: "cloud".into(),
        version: "1.0.0".into(),
        status: status.into(),
        reason: (status != "ok").then(|| "it panicked".into()),
        providers: vec!["cloud".into()],
        faults: 0,
    };
    let shown = |breakers: &Breakers, plugin| {
        parsed(&health(HealthInput {
            catalog: &catalog,
            breakers: breakers.states(),
            memory_set: true,
            plugins: vec![plugin],
            reasons: vec![],
            uptime: Duration::from_secs(5),
        }))
    };
    let fine = shown(&breakers, plugin("ok"));
    assert_eq!((&fine["status"], &fine["reasons"]), (&json!("ok"), &json!([])));
    assert_eq!((&fine["available_models"], &fine["circuit_breakers"]), (&json!(3), &json!([])));
    breakers.admit("cloud/big-1").expect("closed").failure();
    let bad = shown(&breakers, plugin("quarantined"));
    assert_eq!(bad["status"], "degraded");
    assert_eq!(
        bad["reasons"],
        json!([
            "`big` (cloud/big-1) keeps failing and is left alone",
            "plugin `cloud` is quarantined: it panicked"
        ])
    );
    assert_eq!(bad["circuit_breakers"][0]["model"], "big");
}

#[test]
fn help_has_an_example_for_everything() {
    let help = parsed(&help(&catalog(), "http://127.0.0.1:9080"));
    let endpoints = help["endpoints"].as_array().expect("endpoints");
    let mut seen = BTreeSet::new();
    for endpoint in endpoints {
        let text = |name: &str| endpoint[name].as_str().expect(name).to_owned();
        assert!(text("example").contains("curl ") && !text("description").is_empty(), "{endpoint}");
        assert!(seen.insert((text("method"), text("path"))), "twice: {endpoint}");
    }
    assert!(endpoints[0]["example"].as_str().is_some_and(|text| text.contains("\"model\":\"me/own-1b\"")));
    assert_eq!(help["environment_variables"]["CLOUD_API_KEY"], "key for cloud");
    assert_eq!(parsed(&version()), json!({"version": VERSION, "component": "sigoREST", "api": API_VERSION}));
}
