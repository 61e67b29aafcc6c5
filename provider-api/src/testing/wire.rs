//! An upstream in OpenAI's format, as the kit plays it to every provider that says its upstream is one.
//!
//! Source: openai 3.54.0 (PyPI), read 2026-11-23.

/// Two pieces of text, the tokens in a chunk of their own.
pub(super) const TEXT: &str = concat!(
    r#"data: {"id":"c1","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
    "\n\n: keep-alive\n\n",
    r#"data: {"id":"c1","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{"content":"Gr\u00fc\u00dfe"},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"id":"c1","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{"content":" 🌍 \"x\"\n"},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"id":"c1","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    "\n\n",
    r#"data: {"id":"c1","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18,"prompt_tokens_details":{"cached_tokens":3}}}"#,
    "\n\ndata: [DONE]\n\n",
);

/// Reasoning first, then two tool calls side by side whose arguments come in pieces.
pub(super) const TOOLS: &str = concat!(
    r#"data: {"id":"c2","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":"Two "},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"id":"c2","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{"reasoning_content":"calls"},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"id":"c2","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"look","arguments":""}}]},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"id":"c2","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"q\":"}},{"index":1,"id":"call_b","type":"function","function":{"name":"rest","arguments":"{}"}}]},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"id":"c2","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"x\"}"}}]},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"id":"c2","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
    "\n\n",
    r#"data: {"id":"c2","object":"chat.completion.chunk","created":1795478400,"model":"m","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":30,"total_tokens":50,"completion_tokens_details":{"reasoning_tokens":21}}}"#,
    "\n\ndata: [DONE]\n\n",
);

/// A whole answer with a tool call and text.
pub(super) const WHOLE: &str = r#"{"id":"c3","object":"chat.completion","created":1795478400,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","reasoning_content":"One","tool_calls":[{"id":"call_a","type":"function","function":{"name":"look","arguments":"{\"q\":\"x\"}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}"#;

/// A whole answer to a call for embeddings.
pub(super) const EMBEDDINGS: &str = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-0.25]}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}"#;

/// What stands in front of the upstream when it is down.
pub(super) const HTML: &str = "<!DOCTYPE html>\r\n<html>\r\n<head><title>Error</title></head>\r\n<body><center><h1>Something went wrong</h1></center><hr><center>nginx</center></body>\r\n</html>\r\n";

/// An error in OpenAI's form.
pub(super) const ERROR: &str =
    r#"{"error":{"message":"the upstream says why","type":"upstream_error","param":null,"code":null}}"#;

/// Arrays in arrays.
pub(super) fn nested(depth: usize) -> String {
    format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
}
