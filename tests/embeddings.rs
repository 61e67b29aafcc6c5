//! Embeddings pass through untouched.

use serde_json::json;

use crate::harness::{Upstream, gateway};

#[test]
fn both_encodings_pass_untouched() {
    for body in [
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPwAAAEA="}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}"#,
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.10,-1e-9,3]}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}"#,
    ] {
        let upstream = Upstream::start(move |_, answer| {
            answer.whole(200, &[("content-type", "application/json")], body.as_bytes());
        });
        let server = gateway()
            .provider("mammouth", &upstream.url("/v1"))
            .file("models.csv", "embedding-small, gpt41")
            .start();
        let sent = r#"{"input":["a","b"],"model":"embedding-small","encoding_format":"base64","dimensions":512,"x":0.10}"#;
        let reply = server.send("POST", "/v1/embeddings", &[], sent);
        assert_eq!((reply.status, reply.text().as_str()), (200, body));
        let seen = upstream.last();
        assert_eq!(seen.path, "/v1/embeddings");
        assert_eq!(seen.text(), sent.replace("embedding-small", "text-embedding-3-small"));
        let usage = server.get("/api/usage").json().to_string();
        assert!(usage.contains("embedding-small"), "{usage}");
    }
}

#[test]
fn chat_models_and_unknown_ones_do_not_embed() {
    let server = gateway().provider("mammouth", &Upstream::nobody()).start();
    server.post("/v1/embeddings", &json!({"model": "gpt41", "input": "x"})).error(400);
    let error = server.post("/v1/embeddings", &json!({"model": "embedding-smal", "input": "x"})).error(404);
    assert_eq!(error["code"], "model_not_found");
    assert_eq!(server.post("/v1/embeddings", &json!({"input": "x"})).error(400)["param"], "model");
}

#[test]
fn errors_are_told_as_in_chats() {
    let upstream = Upstream::json(
        400,
        json!({"error": {"message": "input too long", "type": "invalid_request_error", "param": "input", "code": null}}),
    );
    let server =
        gateway().provider("mammouth", &upstream.url("/v1")).file("models.csv", "embedding-small").start();
    let error = server.post("/v1/embeddings", &json!({"model": "embedding-small", "input": "x"})).error(400);
    assert!(error["message"].as_str().expect("text").contains("input too long"), "{error}");
}
