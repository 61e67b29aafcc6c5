//! What a server offers: `GET /models`, with the limits that some servers tell beside the ids.

use provider_api::{Fault, FaultKind, Model, model::Mode};
use serde::Deserialize;
use serde_json::Value;

/// More models than anyone offers; what comes behind them is left out.
const MAX_MODELS: usize = 2000;

/// Under which names the context's length goes: at vLLM, Groq, OpenRouter and Mistral.
const INPUT: [&str; 4] = ["max_model_len", "context_window", "context_length", "max_context_length"];

#[derive(Deserialize)]
#[serde(untagged)]
enum List {
    /// OpenAI's form.
    Wrapped { data: Vec<Value> },
    /// Together's.
    Bare(Vec<Value>),
}

/// The models of a list; entries without an id are left out.
pub fn listed(body: &[u8]) -> Result<Vec<Model>, Fault> {
    let list: List = serde_json::from_slice(body).map_err(|_| {
        let text = "the server's list of models cannot be read; name the models with `models = [\"…\"]`";
        Fault::new(FaultKind::DECODE, text)
    })?;
    let (List::Wrapped { data } | List::Bare(data)) = list;
    Ok(data.iter().filter_map(model).take(MAX_MODELS).collect())
}

fn model(row: &Value) -> Option<Model> {
    let id = row["id"].as_str().filter(|id| !id.is_empty() && !id.contains(char::is_control))?;
    let tokens = |name: &str| row[name].as_u64().filter(|tokens| *tokens > 0);
    // The list does not say what a model is for; those that embed have it in their names.
    let embeds = id.to_ascii_lowercase().contains("embed");
    Some(Model {
        id: id.to_owned(),
        mode: if embeds { Mode::Embedding } else { Mode::Chat },
        max_input_tokens: INPUT.into_iter().find_map(tokens),
        max_output_tokens: tokens("max_completion_tokens"),
        ..Model::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_servers_write_them() {
        let check = |text: &str, expected: &[(&str, Mode, Option<u64>, Option<u64>)]| {
            let models = listed(text.as_bytes()).expect(text);
            let seen: Vec<_> = models
                .iter()
                .map(|model| (model.id.as_str(), model.mode, model.max_input_tokens, model.max_output_tokens))
                .collect();
            assert_eq!(seen, expected, "{text}");
        };
        check(
            r#"{"object":"list","data":[{"id":"a","object":"model","max_model_len":4096},{"id":""},{},7]}"#,
            &[("a", Mode::Chat, Some(4096), None)],
        );
        check(
            r#"{"data":[{"id":"llama","context_window":131072,"max_completion_tokens":32768},{"id":"nomic-Embed","context_length":0}]}"#,
            &[
                ("llama", Mode::Chat, Some(131_072), Some(32_768)),
                ("nomic-Embed", Mode::Embedding, None, None),
            ],
        );
        check(r#"[{"id":"t/x","context_length":8192}]"#, &[("t/x", Mode::Chat, Some(8192), None)]);
        check(r#"{"data":[]}"#, &[]);
        for wrong in ["", "<html>", "{}", r#"{"data":7}"#] {
            assert_eq!(listed(wrong.as_bytes()).expect_err(wrong).kind, FaultKind::DECODE);
        }
    }
}
