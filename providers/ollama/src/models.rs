//! What is on this machine: `GET /api/tags`, then `POST /api/show` for one model after the other.

use std::{borrow::Cow, collections::BTreeMap};

use provider_api::{Fault, FaultKind, HttpRequest, Model, Out, Reply, answer::quoted, model::Mode};
use serde::Deserialize;
use serde_json::value::RawValue;

/// More models than anyone has; what comes behind them is left out.
const MAX_MODELS: usize = 1000;

/// The models found so far.
#[derive(Default)]
pub struct Discovery {
    models: Vec<Model>,
    /// How many of them were asked for.
    asked: usize,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    #[serde(default)]
    details: Details,
    capabilities: Option<Vec<String>>,
    remote_host: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    family: Option<String>,
    context_length: Option<u64>,
}

#[derive(Deserialize)]
struct Show<'a> {
    #[serde(borrow, default)]
    model_info: BTreeMap<Cow<'a, str>, &'a RawValue>,
    capabilities: Option<Vec<String>>,
}

impl Discovery {
    /// Takes an answer: the first is the list, each other one the facts of the model asked for last.
    pub fn answer(&mut self, base: &str, reply: &Reply<'_>, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        if reply.id == 1 {
            let tags: Tags = serde_json::from_slice(reply.body).map_err(|error| {
                Fault::new(FaultKind::DECODE, format!("Ollama's list of models cannot be read: {error}"))
            })?;
            self.models = tags.models.into_iter().take(MAX_MODELS).map(Tag::model).collect();
        } else if let Some(model) = self.asked.checked_sub(1).and_then(|last| self.models.get_mut(last)) {
            // One answer that cannot be read costs that model's facts, not the list.
            if let Ok(show) = serde_json::from_slice::<Show<'_>>(reply.body) {
                show.complete(model);
            }
        }
        self.next(base, out)
    }

    /// Asks for the next model's facts, or hands out the list.
    pub fn next(&mut self, base: &str, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        match self.models.get(self.asked) {
            Some(model) => {
                self.asked += 1;
                let body = format!("{{\"model\":{}}}", quoted(&model.id));
                out.http(&HttpRequest::post(format!("{base}/api/show")).json(body));
            }
            None => out.done(&serde_json::to_vec(&self.models)?),
        }
        Ok(())
    }
}

impl Tag {
    fn model(self) -> Model {
        // Models that Ollama itself sends elsewhere are billed there, at prices that are not told.
        let cost = self.remote_host.as_deref().unwrap_or("").is_empty().then_some(0.0);
        let mut model = Model {
            shortcode: shortcode(&self.name),
            id: self.name,
            input_cost: cost,
            output_cost: cost,
            cached_input_cost: cost,
            cache_write_cost: cost,
            max_input_tokens: self.details.context_length,
            min_temperature: Some(0.0),
            max_temperature: Some(2.0),
            ..Model::default()
        };
        // Old versions do not tell capabilities; these families only embed.
        if self.details.family.is_some_and(|family| family.contains("bert")) {
            model.mode = Mode::Embedding;
        }
        set_capabilities(&mut model, self.capabilities.as_deref());
        model
    }
}

impl Show<'_> {
    fn complete(&self, model: &mut Model) {
        let text = |key: &str| self.model_info.get(key).map(|value| value.get());
        let arch = text("general.architecture").and_then(|arch| serde_json::from_str::<String>(arch).ok());
        let length = arch.and_then(|arch| text(&format!("{arch}.context_length")));
        model.max_input_tokens = length.and_then(|length| length.parse().ok()).or(model.max_input_tokens);
        set_capabilities(model, self.capabilities.as_deref());
    }
}

/// Takes over what Ollama says a model can do, in the gateway's words.
fn set_capabilities(model: &mut Model, capabilities: Option<&[String]>) {
    let Some(list) = capabilities.filter(|list| !list.is_empty()) else { return };
    let has = |name: &str| list.iter().any(|known| known == name);
    if has("embedding") && !has("completion") {
        model.mode = Mode::Embedding;
        model.capabilities.clear();
        return;
    }
    model.mode = Mode::Chat;
    // Ollama constrains any chat model's output by grammar.
    let words = [("vision", "vision"), ("tools", "tools"), ("thinking", "reasoning"), ("audio", "audio")];
    let known = words.iter().filter(|(theirs, _)| has(theirs)).map(|(_, ours)| (*ours).to_owned());
    model.capabilities = known.chain(["json".to_owned()]).collect();
}

/// The short name: `ollama-` and the name with `:` as `-`, without `-latest` at its end.
fn shortcode(name: &str) -> String {
    let name = name.replace(':', "-");
    format!("ollama-{}", name.strip_suffix("-latest").unwrap_or(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortcodes_follow_the_names() {
        let check = |name: &str, expected: &str| assert_eq!(shortcode(name), expected);
        check("gemma3:4b", "ollama-gemma3-4b");
        check("qwen3:latest", "ollama-qwen3");
        check("llama3.2-vision:latest", "ollama-llama3.2-vision");
        check("hf.co/some/model:q4", "ollama-hf.co/some/model-q4");
    }
}
