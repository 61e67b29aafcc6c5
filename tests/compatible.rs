//! `openai-compatible`: providers that the operator's settings make, without a line of code.

use serde_json::{Value, json};

use crate::harness::{KEY, Setup, Upstream, eventually, gateway, plugin_file, say};

/// A server with a list of models that answers chats with this text, and embeddings.
fn server(text: &'static str, listed: Value) -> Upstream {
    Upstream::start(move |request, answer| {
        match request.path.as_str() {
        "/v1/models" => answer.json(200, &listed),
        "/v1/embeddings" => answer.json(
            200,
            &json!({"object": "list", "model": "e", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
                    "usage": {"prompt_tokens": 3, "total_tokens": 3}}),
        ),
        "/v1/chat/completions" => say(request, answer, text),
        _ => answer.json(404, &json!({"error": {"message": "no such path"}})),
    }
    })
}

fn setup(config: &str) -> Setup {
    gateway().plugins(&["echo", "openai-compatible"]).config(config)
}

fn hello(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "retries": 0, "messages": [{"role": "user", "content": "x"}]})
}

fn ids(server: &crate::harness::Server) -> Vec<String> {
    let list = server.get("/v1/models").json();
    list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| model["id"].as_str().expect("an id").into())
        .collect()
}

#[test]
fn one_file_serves_any_number_of_providers() {
    let (groq, acme) = (server("from groq", json!({"data": []})), server("from acme", json!({"data": []})));
    let config = format!(
        r#"
        [provider.groq]
        plugin = "openai-compatible"
        base_url = "{}"
        key_env = "MY_GROQ"
        models = ["llama-3.3-70b", "shared"]

        [provider.acme]
        plugin = "openai-compatible"
        base_url = "{}"
        isolation = "process"
        models = [
            {{ id = "acme/large", shortcode = "large", input_cost = 2.0, output_cost = 8, max_input_tokens = 32000 }},
            {{ id = "vectors", mode = "embedding" }},
            "shared",
        ]
        "#,
        groq.url("/v1"),
        acme.url("/v1/"),
    );
    let server = setup(&config).env("MY_GROQ", KEY).env("ACME_API_KEY", "sk-acme").start();
    for (model, text, key, sent) in [
        ("llama-3.3-70b", "from groq", KEY, "llama-3.3-70b"),
        ("groq/llama-3.3-70b", "from groq", KEY, "llama-3.3-70b"),
        ("large", "from acme", "sk-acme", "acme/large"),
        ("acme/large", "from acme", "sk-acme", "acme/large"),
        ("acme/acme/large", "from acme", "sk-acme", "acme/large"),
        ("groq/shared", "from groq", KEY, "shared"),
        ("acme/shared", "from acme", "sk-acme", "shared"),
    ] {
        let upstream = if text == "from groq" { &groq } else { &acme };
        let reply = server.chat(&hello(model, false));
        assert_eq!(reply.json()["choices"][0]["message"]["content"], text, "{model}: {}", reply.text());
        let request = upstream.last();
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {key}")), "{model}");
        assert_eq!(request.json()["model"], sent);
        let reply = server.chat(&hello(model, true)).text();
        assert!(
            reply.contains(text.split(' ').next_back().expect("a word"))
                && reply.ends_with("data: [DONE]\n\n")
        );
    }
    let embedded = server.post("/v1/embeddings", &json!({"model": "vectors", "input": "x"})).json();
    assert_eq!(embedded["data"][0]["embedding"], json!([0.5]));

    let all = server.get("/api/models").json();
    let of = |name: &str| {
        let mut rows = all["models"].as_array().or(all.as_array()).expect("models").iter();
        rows.find(|row| row["shortcode"] == name || row["id"] == name).expect(name).clone()
    };
    assert_eq!((&of("large")["input_cost"], &of("large")["output_cost"]), (&json!(2.0), &json!(8.0)));
    assert_eq!(of("llama-3.3-70b")["input_cost"], Value::Null, "an unknown price is not free");
    let usage = server.get("/api/usage").json();
    assert!(usage["by_model"]["large"]["cost_usd"].as_f64().is_some_and(|cost| cost > 0.0), "{usage}");

    let plugin = server.get("/api/plugins/groq").json();
    assert_eq!(plugin["providers"], json!(["acme", "groq"]), "one file: {plugin}");
    assert_eq!(
        (&plugin["isolated"], &plugin["workers"][0]["provider"]),
        (&json!(false), &json!("acme")),
        "{plugin}"
    );
    assert_eq!(plugin["models"], json!({"has": 5, "offers": 5, "hides": 0}));
    for (path, upstream) in [("groq", &groq), ("acme", &acme)] {
        let asked = upstream.requests().iter().filter(|request| request.path == "/v1/models").count();
        assert_eq!(asked, 0, "{path} names its models, so nobody is asked");
    }
}

#[test]
fn without_settings_it_is_harmless_and_says_what_it_is_for() {
    let server = gateway().start();
    server.logged_with(&["openai-compatible", "[provider.NAME]", "base_url"]);
    let log = server.log();
    assert!(!log.contains("OPENAI_COMPATIBLE"), "{log}");
    let plugin = server.get("/api/plugins/openai-compatible").json();
    assert_eq!((&plugin["state"], &plugin["providers"]), (&json!("loaded"), &json!([])), "{plugin}");
    assert_eq!(plugin["models"], json!({"has": 0, "offers": 0, "hides": 0}));
    assert_eq!(server.get("/api/health").json()["status"], "ok");
    assert!(server.get("/api/channels").text().find("openai-compatible").is_none());
    assert_eq!(server.chat(&hello("echo", false)).status, 200);
}

#[test]
fn a_missing_address_is_named_with_what_to_write() {
    let config = "[provider.groq]\nplugin = \"openai-compatible\"\nmodels = [\"a\"]\n";
    let output = setup(config).args(&["check"]).run();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for text in ["base_url = \"https://HOST/v1\"", "[provider.groq]", "GROQ_BASE_URL"] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let output = setup(config).run();
    assert!(!output.status.success(), "nor does it start");

    let upstream = server("hi", json!({"data": []}));
    let server = setup(config).env("GROQ_BASE_URL", upstream.url("/v1")).start();
    assert_eq!(server.chat(&hello("groq/a", false)).status, 200, "the environment may say it");
}

#[test]
fn a_server_on_the_own_machine_needs_no_key_and_lists_its_models() {
    let listed =
        json!({"object": "list", "data": [{"id": "qwen3", "max_model_len": 40960}, {"id": "bge-embed"}]});
    let upstream = server("hi", listed);
    let config =
        format!("[provider.vllm]\nplugin = \"openai-compatible\"\nbase_url = \"{}\"\n", upstream.url("/v1"));
    // The key of one of its providers is none of another's.
    let server = setup(&config).env("OPENAI_COMPATIBLE_API_KEY", "sk-other").start();
    let reply = server.chat(&hello("qwen3", false));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let request = upstream.last();
    assert_eq!((request.header("authorization"), request.path.as_str()), (None, "/v1/chat/completions"));
    assert_eq!(ids(&server).iter().filter(|id| id.contains("qwen3") || id.contains("bge")).count(), 2);
    assert_eq!(server.post("/v1/embeddings", &json!({"model": "vllm/bge-embed", "input": "x"})).status, 200);
    let row = server.get("/api/models").text();
    assert!(row.contains("40960"), "{row}");
}

#[test]
fn a_remote_server_or_a_named_key_is_missed_by_its_name() {
    let upstream = server("hi", json!({"data": []}));
    let config = format!(
        r#"
        [provider.groq]
        plugin = "openai-compatible"
        base_url = "https://api.groq.invalid/openai/v1"
        models = ["llama"]
        [provider.unnamed]
        plugin = "openai-compatible"
        base_url = "https://api.unnamed.invalid/v1"
        [provider.local]
        plugin = "openai-compatible"
        base_url = "{}"
        key_env = "LOCAL_SECRET"
        models = ["mine"]
        "#,
        upstream.url("/v1")
    );
    let server = setup(&config).start();
    for (model, variable) in [("llama", "GROQ_API_KEY"), ("mine", "LOCAL_SECRET")] {
        server.logged(&format!("no key: set {variable}"));
        let reply = server.chat(&hello(model, false));
        assert!(reply.status >= 400 && reply.text().contains(variable), "{model}: {}", reply.text());
    }
    assert_eq!(upstream.requests().len(), 0);
    server.logged("no key: set UNNAMED_API_KEY");
    assert!(!server.log().contains("not reachable"), "nobody is asked for models without the key");
}

#[test]
fn errors_keep_their_meaning_and_their_wait() {
    for (status, kind, expected) in [
        (401, "invalid_api_key", 502),
        (404, "model_not_found", 404),
        (429, "rate_limit_exceeded", 429),
        (400, "context_length_exceeded", 400),
        (500, "server_error", 502),
    ] {
        let upstream = Upstream::start(move |_, answer| {
            let body = json!({"error": {"message": "no", "type": "x", "param": null, "code": kind}});
            answer.whole(
                status,
                &[("content-type", "application/json"), ("retry-after", "7")],
                body.to_string().as_bytes(),
            );
        });
        let config = format!(
            "[provider.x]\nplugin = \"openai-compatible\"\nbase_url = \"{}\"\nmodels = [\"a\"]\n",
            upstream.url("/v1")
        );
        let reply = setup(&config).start().chat(&hello("x/a", false));
        assert_eq!(reply.status, expected, "{kind}: {}", reply.text());
        if status == 429 {
            assert_eq!(reply.header("retry-after"), Some("7"));
        }
    }
}

#[test]
fn a_section_that_is_added_serves_after_a_reload() {
    let upstream = server("hi", json!({"data": []}));
    let server = setup("").start();
    server.chat(&hello("late/a", false)).error(404);
    let config = format!(
        "[provider.late]\nplugin = \"openai-compatible\"\nbase_url = \"{}\"\nmodels = [\"a\"]\n",
        upstream.url("/v1")
    );
    std::fs::write(server.data().join("sigorest.toml"), config).expect("written");
    server.reload();
    eventually("the new provider", || (server.chat(&hello("late/a", false)).status == 200).then_some(()));
}

#[test]
fn the_readmes_sections_are_right() {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("README.md");
    let (_, block) = readme.split_once("```\n[provider.groq]").expect("the sections");
    let block = format!("[provider.groq]{}", block.split("```").next().expect("an end"));
    assert_eq!(setup(&block).args(&["check"]).run().status.code(), Some(0), "{block}");
}

#[test]
fn the_other_settings_of_a_provider_work_for_it_too() {
    let upstream = Upstream::start(|request, answer| match request.header("authorization") {
        Some("Bearer sk-from-file") => {
            answer.json(
                429,
                &json!({"error": {"message": "slow", "type": "rate_limit", "code": "rate_limit"}}),
            );
        }
        _ => say(request, answer, "second key"),
    });
    let setup = setup("").file("key", "sk-from-file\n").env("GROQ_API_KEY_0", "sk-zero");
    let config = format!(
        "[provider.groq]\nplugin = \"openai-compatible\"\nbase_url = \"{}\"\nkey_file = \"{}\"\noffer = \"listed\"\nmodels = [\"a\", \"b\"]\n",
        upstream.url("/v1"),
        setup.path().join("key").display()
    );
    let server = setup.config(&config).file("models.csv", "groq/a").start();
    server.chat(&hello("groq/b", false)).error(404);
    let mut body = hello("groq/a", false);
    body["retries"] = json!(1);
    let reply = server.chat(&body);
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "second key", "{}", reply.text());
    let channels = server.get("/api/channels").text();
    assert!(channels.contains("groq") && !channels.contains("sk-"), "{channels}");
}

#[test]
fn a_file_that_comes_later_serves_the_sections_that_wait_for_it() {
    let upstream = server("hi", json!({"data": []}));
    let config = format!(
        "[provider.good]\nplugin = \"openai-compatible\"\nbase_url = \"{}\"\nmodels = [\"a\"]\n[provider.bad]\nplugin = \"openai-compatible\"\n",
        upstream.url("/v1")
    );
    let server = gateway().plugins(&["echo"]).config(&config).start();
    server.chat(&hello("good/a", false)).error(404);
    std::fs::copy(plugin_file("openai-compatible"), server.data().join("plugins/any-name.so"))
        .expect("a copy");
    eventually("the good section serves", || {
        (server.chat(&hello("good/a", false)).status == 200).then_some(())
    });
    let plugins = server.get("/api/plugins").text();
    assert!(plugins.contains("BAD_BASE_URL") && plugins.contains("[provider.bad]"), "{plugins}");
}
