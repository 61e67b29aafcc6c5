//! Embeddings over `POST /api/embed`.

use provider_api::{
    Call, Fault, FaultKind, HttpRequest, Out, Usage,
    answer::{base64_floats, embeddings, quoted},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::request::{members, wrong};

/// What the answer's form depends on.
pub struct Embed {
    model: String,
    base64: bool,
}

/// The request for an embeddings call.
pub fn request(base: &str, call: &Call<'_>) -> Result<HttpRequest, Fault> {
    let members = members(call)?;
    let input = members.value("input").ok_or_else(|| wrong("input", "`input` is missing"))?;
    let texts = input.starts_with('"') || serde_json::from_str::<Vec<String>>(input).is_ok();
    if !texts {
        return Err(wrong("input", "ollama takes `input` as a text or a list of texts, not as tokens"));
    }
    let mut body = format!("{{\"model\":{},\"input\":{input}", quoted(call.model));
    let mut dropped = Vec::new();
    for member in members.0.iter().filter(|member| member.value != "null") {
        match member.key.as_ref() {
            "model" | "input" | "encoding_format" => {}
            name @ ("dimensions" | "truncate" | "keep_alive" | "options") => {
                for text in [",\"", name, "\":", member.value] {
                    body.push_str(text);
                }
            }
            other => dropped.push(other.to_owned()),
        }
    }
    body.push('}');
    let mut request = HttpRequest::post(format!("{base}/api/embed")).json(body);
    request.dropped = dropped;
    Ok(request)
}

impl Embed {
    /// Reads what the answer's form depends on.
    pub fn new(call: &Call<'_>) -> Result<Self, Fault> {
        let base64 = match members(call)?.value("encoding_format") {
            None | Some("\"float\"") => false,
            Some("\"base64\"") => true,
            Some(_) => return Err(wrong("encoding_format", "`encoding_format` must be float or base64")),
        };
        Ok(Self { model: call.model.to_owned(), base64 })
    }

    /// Ollama's answer in OpenAI's form; numbers keep their spelling.
    pub fn answer(&self, body: &[u8], out: &mut Out<'_, '_>) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            embeddings: Vec<&'a RawValue>,
            #[serde(borrow)]
            prompt_eval_count: Option<&'a RawValue>,
        }
        let not_read = |error: serde_json::Error| {
            Fault::new(FaultKind::DECODE, format!("Ollama's embeddings cannot be read: {error}"))
        };
        let wire: Wire<'_> = serde_json::from_slice(body).map_err(not_read)?;
        let mut vectors = Vec::with_capacity(wire.embeddings.len());
        for vector in wire.embeddings {
            vectors.push(match self.base64 {
                true => base64_floats(&serde_json::from_str::<Vec<f32>>(vector.get()).map_err(not_read)?),
                false => vector.get().to_owned(),
            });
        }
        // As in a chat, a count that is none is no reason to lose the answer.
        let tokens = wire.prompt_eval_count.and_then(|count| count.get().parse().ok()).unwrap_or(0);
        out.usage(Usage { input: Some(tokens), output: Some(0), ..Usage::default() });
        out.done(&embeddings(&self.model, &vectors, tokens));
        Ok(())
    }
}
