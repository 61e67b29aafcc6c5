//! `GET /api/help`: every endpoint with an example.

use std::collections::BTreeMap;

use provider_api::model::Mode;
use serde::Serialize;
use serde_json::{Value, json};

use super::VERSION;
use crate::catalog::Catalog;

#[derive(Serialize)]
struct Endpoint {
    path: &'static str,
    method: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "Value::is_null")]
    parameters: Value,
    example: String,
}

/// `GET /api/help`. `base` is an address of this gateway for the examples, `http://127.0.0.1:9080`.
pub fn help(catalog: &Catalog, base: &str) -> String {
    let keys: BTreeMap<&str, String> = catalog
        .entries()
        .iter()
        .filter(|entry| !entry.key.env().is_empty())
        .map(|entry| (entry.key.env(), format!("key for {}", entry.provider)))
        .collect();
    json!({
        "name": "sigoREST",
        "description": "One OpenAI-compatible address for the models of many providers",
        "version": VERSION,
        "endpoints": endpoints(catalog, base),
        "features": {
            "streaming": "server-sent events, as OpenAI sends them; comments keep silent connections open",
            "circuit_breaker": "a model that keeps failing is left alone for a while",
            "retry": "what may pass is tried again with growing pauses, until an answer has begun",
            "session_management": "session_id continues a stored conversation",
            "ip_access_control": "HTTP from this machine, HTTPS from private networks, unless configured otherwise",
            "ollama_discovery": "local models of Ollama appear and go by themselves",
            "memory_block": "a text that goes first into every chat request",
            "plugins": "each provider is a file in the plugin directory",
        },
        "error_types": {
            "invalid_request_error": "400, 404, 405, 413, 415, 422: the request is wrong; error.param names the field",
            "authentication_error": "401: the caller's own credentials",
            "permission_error": "403: this caller may not do this",
            "rate_limit_error": "429: too much; Retry-After says when, code insufficient_quota that waiting does not help",
            "server_error": "502, 503, 504: the provider failed, cannot be asked now, or took too long",
        },
        "environment_variables": keys,
    })
    .to_string()
}

fn endpoints(catalog: &Catalog, base: &str) -> Vec<Endpoint> {
    let chat = example(catalog, Mode::Chat).unwrap_or("gpt41");
    let embedding = example(catalog, Mode::Embedding).unwrap_or("embedding-small");
    let get = |path, description| Endpoint {
        path,
        method: "GET",
        description,
        parameters: Value::Null,
        example: format!("curl {base}{path}"),
    };
    let send = |method, path, description, body: &Value| Endpoint {
        path,
        method,
        description,
        parameters: Value::Null,
        example: format!("curl -X {method} {base}{path} -H 'Content-Type: application/json' -d '{body}'"),
    };
    let message = json!([{"role": "user", "content": "Hello"}]);
    let mut all = vec![
        Endpoint {
            parameters: parameters(),
            ..send(
                "POST",
                "/v1/chat/completions",
                "Asks a model; all fields of OpenAI's API go through, and stream answers as it comes",
                &json!({"model": chat, "messages": message}),
            )
        },
        send(
            "POST",
            "/v1/embeddings",
            "Embeds text, for models that do that",
            &json!({"model": embedding, "input": "Hello"}),
        ),
        get("/v1/models", "The models that can be asked, in OpenAI's form"),
        Endpoint {
            example: format!("curl {base}/v1/models/{chat}"),
            ..get("/v1/models/{id}", "One of them, by shortcode, id or provider/id")
        },
        get("/api/models", "The models with prices in USD per million tokens, limits and abilities"),
        get("/api/health", "How the gateway, its plugins and the circuit breakers are; always 200"),
        get("/api/memory", "The text that goes first into every chat request"),
        send(
            "PUT",
            "/api/memory",
            "Replaces that text; cache marks it for models that cache on request",
            &json!({"content": "Answer briefly.", "cache": false}),
        ),
        get("/api/usage", "Tokens and cost by model and in total since the start"),
        get("/metrics", "Counters for Prometheus"),
        get("/api/help", "This text"),
        get("/api/version", "The gateway's version"),
        get("/ping", "Answers pong"),
    ];
    all.splice(8..8, plugins(base).into_iter().chain(channels(base)));
    all
}

fn plugins(base: &str) -> [Endpoint; 6] {
    let endpoint = |method, path: &'static str, description| Endpoint {
        path,
        method,
        description,
        parameters: Value::Null,
        example: format!("curl -X {method} {base}{}", path.replace("{id}", "echo")),
    };
    [
        endpoint(
            "GET",
            "/api/plugins",
            "The plugins: versions, generations, models, faults, and why files are refused",
        ),
        endpoint("GET", "/api/plugins/{id}", "One of them"),
        endpoint("POST", "/api/plugins/reload", "Reads the plugin directories again; administrators only"),
        endpoint(
            "POST",
            "/api/plugins/{id}/rollback",
            "Puts the generation before back in force; administrators only",
        ),
        endpoint(
            "POST",
            "/api/plugins/{provider}/record",
            "Waits for the provider's next exchange and gives its trace; administrators only",
        ),
        endpoint("POST", "/api/plugins/{id}/enable", "Ends a quarantine; administrators only"),
    ]
}

fn channels(base: &str) -> [Endpoint; 4] {
    let endpoint = |method, path: &'static str, description| Endpoint {
        path,
        method,
        description,
        parameters: Value::Null,
        example: format!(
            "curl -X {method} {base}{}",
            path.replace("{provider}", "echo").replace("{name}", "default")
        ),
    };
    [
        endpoint(
            "GET",
            "/api/channels",
            "The keys of the providers: which are used, and what is wrong with the others",
        ),
        endpoint("GET", "/api/channels/{provider}/{name}", "One of them"),
        endpoint(
            "POST",
            "/api/channels/{provider}/{name}/enable",
            "Puts a key back in force; administrators only",
        ),
        endpoint(
            "POST",
            "/api/channels/{provider}/{name}/disable",
            "Takes a key out of force until it is enabled again; administrators only",
        ),
    ]
}

/// A model that can be asked now, else any.
fn example(catalog: &Catalog, mode: Mode) -> Option<&str> {
    let fitting = || catalog.entries().iter().filter(|entry| entry.mode == mode);
    let entry = fitting().find(|entry| entry.key.is_ready()).or_else(|| fitting().next())?;
    Some(&entry.name)
}

fn parameters() -> Value {
    json!({
        "model": "shortcode, id or provider/id, see GET /v1/models",
        "messages": "[{role, content}, …]",
        "stream": "true sends server-sent events",
        "session_id": "letters, digits, ., _ and -, at most 64: continues the conversation of that name",
        "timeout": "seconds, 1 to 3600, default 180",
        "retries": "0 to 10, default 3",
        "system_prompt": "a system message behind the memory block",
    })
}
