//! What is offered, and what is told about it.

use serde_json::{Value, json};

use crate::harness::{KEY, Server, Upstream, gateway};

fn rows(server: &Server) -> Vec<Value> {
    server.get("/api/models").json().as_array().expect("a bare array").clone()
}

fn row(server: &Server, shortcode: &str) -> Value {
    let found = rows(server).into_iter().find(|row| row["shortcode"] == shortcode);
    found.unwrap_or_else(|| panic!("no row for {shortcode}"))
}

fn ids(server: &Server) -> Vec<String> {
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let data = list["data"].as_array().expect("data").clone();
    data.iter().map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn six_models_and_the_echo_are_offered_by_default() {
    let server = gateway().start();
    let mut found = ids(&server);
    assert_eq!(found, ids(&server), "the order is stable");
    found.sort();
    assert_eq!(found, ["claude-h", "deepseek-r1", "echo", "gemini-p", "gpt41", "grok3m", "kimi"]);
    for model in server.get("/v1/models").json()["data"].as_array().expect("data") {
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_number(), "{model}");
        let owner = model["owned_by"].as_str().expect("an owner");
        assert!(["mammouth", "moonshot", "echo"].contains(&owner), "{model}");
    }
}

#[test]
fn one_model_can_be_looked_up() {
    let server = gateway().start();
    for name in ["gpt41", "gpt-4.1", "mammouth/gpt-4.1"] {
        let model = server.get(&format!("/v1/models/{name}")).json();
        assert_eq!((&model["object"], &model["owned_by"]), (&json!("model"), &json!("mammouth")), "{model}");
    }
    assert_eq!(server.get("/v1/models/gpt99").error(404)["code"], "model_not_found");
}

#[test]
fn the_original_table_is_told_and_more() {
    let server = gateway().env("MAMMOUTH_API_KEY", KEY).start();
    let model = row(&server, "gpt41");
    for (field, value) in [
        ("id", json!("gpt-4.1")),
        ("provider", json!("mammouth")),
        ("apikey", json!("MAMMOUTH_API_KEY")),
        ("input_cost", json!(2.0)),
        ("output_cost", json!(8.0)),
        ("min_temperature", json!(0.0)),
        ("max_temperature", json!(2.0)),
        ("requires_completion_tokens", json!(false)),
    ] {
        let same = match (&model[field], &value) {
            (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
            (a, b) => a == b,
        };
        assert!(same, "{field}: {} is not {value}", model[field]);
    }
    assert!(model["max_input_tokens"].as_u64().is_some_and(|count| count >= 128_000), "{model}");
    assert!(model["max_output_tokens"].is_u64(), "{model}");
    assert!(model["capabilities"].is_array(), "{model}");
    for field in ["cached_input_cost", "deprecation_date", "endpoint"] {
        assert!(model.get(field).is_some(), "{field} in {model}");
    }
    assert_eq!(
        (&model["key_set"], &row(&server, "kimi")["key_set"]),
        (&json!(true), &json!(false)),
        "{model}"
    );
    assert!(!server.get("/api/models").text().contains(KEY));
    let mut names: Vec<String> = rows(&server).iter().map(|row| row["shortcode"].to_string()).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "each model once");
}

#[test]
fn a_list_chooses_by_name_and_pattern() {
    let list = "# ours\nclaude*, kimi\nzai-glm46\n!claude-s*\n!echo\n";
    let server = gateway().file("models.csv", list).start();
    let found = ids(&server);
    for name in ["claude-h", "claude-opus", "kimi", "zai-glm46"] {
        assert!(found.contains(&name.to_owned()), "{name} in {found:?}");
    }
    for name in ["claude-s45", "gpt41", "echo"] {
        assert!(!found.contains(&name.to_owned()), "{name} in {found:?}");
    }
}

#[test]
fn unknown_names_are_warned_of_with_the_nearest() {
    let server = gateway().file("models.csv", "gpt41, gemini-pp\n").start();
    let line = server.logged_with(&["WARN", "gemini-pp"]);
    assert!(
        line.contains("gemini-p\"")
            || line.contains("gemini-p ")
            || line.contains("gemini-p`")
            || line.matches("gemini-p").count() > 1,
        "{line}"
    );
    assert!(ids(&server).contains(&"gpt41".to_owned()));
}

#[test]
fn the_originals_table_chooses_and_overrides() {
    let upstream = Upstream::saying("hi");
    let table = "# id;shortcode;…\n\
        gpt-4.1;gpt41;https://api.mammouth.ai/v1/chat/completions;MAMMOUTH_API_KEY;1000;500;7.5;9.5;0.0;1.5;false\n\
        kimi-k2.5;kimi;https://api.moonshot.ai/v1/chat/completions;MOONSHOT_API_KEY;256000;4096;0.6;3;0.0;2.0\n\
        short;row\n";
    let server = gateway().provider("mammouth", &upstream.url("/v1")).file("models.csv", table).start();
    let model = row(&server, "gpt41");
    let number = |field: &str| model[field].as_f64();
    assert_eq!((number("input_cost"), number("output_cost")), (Some(7.5), Some(9.5)), "{model}");
    assert_eq!((number("max_input_tokens"), number("max_output_tokens")), (Some(1000.0), Some(500.0)));
    assert_eq!(number("max_temperature"), Some(1.5));
    assert_eq!(row(&server, "kimi")["provider"], "moonshot");
    assert!(!ids(&server).contains(&"claude-h".to_owned()));
    assert_eq!(
        server.chat(&json!({"model": "gpt41", "messages": [{"role": "user", "content": "x"}]})).status,
        200
    );
}

#[test]
fn every_shortcode_of_the_original_is_known() {
    const ALL: &str = "gpt41 gpt41m gpt41n gpt4o o4m o3 gpt5m gpt5n gpt5chat gpt51chat gpt52chat mistral-m mistral-m31 \
        mistral-l mistral-l3 mistral-s magistral magistral-thinking codestral grok3 grok3m grok4 grok4f grok-code gemini-f \
        gemini-p gemini-image gemini3p gemini3p-image deepseek-r1 deepseek-v3 deepseek-v31 deepseek-terminus deepseek-exp \
        deepseek-v32 llama-mav llama-scout claude-h claude-s claude-s37 claude-s4 claude-41 claude-h45 claude-s45 \
        claude-opus kimi kimi-instruct kimi-thinking moon-8k moon-32k moon-128k zai-glm46 zai-glm45 zai-glm432B \
        qwen3-coder qwen3-coder-f qwen3-coder-plus sonar-pro sonar-research embedding-large embedding-small";
    let list: Vec<&str> = ALL.split_whitespace().collect();
    assert_eq!(list.len(), 61);
    let server = gateway().file("models.csv", list.join(",")).start();
    let found = ids(&server);
    let missing: Vec<&&str> = list.iter().filter(|name| !found.contains(&(**name).to_owned())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (name, id) in [
        ("claude-h", "claude-3-5-haiku-20241022"),
        ("deepseek-r1", "deepseek-r1-0528"),
        ("gemini-p", "gemini-2.5-pro"),
        ("grok3m", "grok-3-mini"),
        ("kimi", "kimi-k2.5"),
    ] {
        assert_eq!(row(&server, name)["id"], id);
    }
    let embedding = row(&server, "embedding-small");
    assert_eq!(embedding["output_cost"].as_f64().unwrap_or(0.0), 0.0, "{embedding}");
}

#[test]
fn an_empty_list_leaves_what_is_always_offered() {
    let server = gateway().file("models.csv", "# nothing\n").start();
    assert_eq!(ids(&server), ["echo"]);
    let server = gateway().plugins(&[]).file("models.csv", "").start();
    assert_eq!(server.get("/v1/models").json()["data"], json!([]));
    assert_eq!(server.get("/api/models").json(), json!([]));
}

#[test]
fn a_retired_model_is_warned_of_with_its_successor() {
    let server = gateway().file("models.csv", "kimi-thinking").start();
    server.logged("kimi-k2-thinking");
}

#[test]
fn a_table_beside_a_plugin_adds_models_and_prices() {
    let upstream = Upstream::saying("hi");
    let server = gateway()
        .provider("mammouth", &upstream.url("/v1"))
        .file("models.csv", "gpt41, fresh")
        .file(
            "plugins/mammouth.models.csv",
            "shortcode,id,input_cost,output_cost,max_input_tokens\nfresh,fresh-model-9,1.5,,4000\ngpt41,gpt-4.1,3,12,\n",
        )
        .start();
    let fresh = row(&server, "fresh");
    assert_eq!((&fresh["id"], fresh["input_cost"].as_f64()), (&json!("fresh-model-9"), Some(1.5)));
    assert_eq!(fresh["output_cost"], Value::Null, "unknown is not 0");
    assert_eq!(row(&server, "gpt41")["input_cost"].as_f64(), Some(3.0));
    let reply = server.chat(&json!({"model": "fresh", "messages": [{"role": "user", "content": "x"}]}));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(upstream.last().json()["model"], "fresh-model-9");
}
