//! Tools and which of them the model shall call.

use std::borrow::Cow;

use provider_api::{Fault, answer::quoted};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Native;
use crate::errors::wrong;

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
    #[serde(borrow)]
    cache_control: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    description: Option<&'a RawValue>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_control: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    function: Option<Named<'a>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl Native<'_, '_> {
    /// `tools` and `tool_choice`; a model that thinks cannot be made to call a tool.
    pub(super) fn tools(&mut self, thinks: bool) -> Result<(), Fault> {
        let Some(tools) = self.value("tools") else {
            // Without tools there is nothing to choose.
            return Ok(());
        };
        let unreadable = |error| wrong("tools", format!("`tools` cannot be read: {error}"));
        let tools: Vec<&RawValue> = serde_json::from_str(tools).map_err(unreadable)?;
        if tools.is_empty() {
            return Ok(());
        }
        let mut list = Vec::with_capacity(tools.len());
        for (index, raw) in tools.into_iter().enumerate() {
            let tool: Tool<'_> = serde_json::from_str(raw.get()).map_err(unreadable)?;
            list.push(tool.native(raw.get(), index)?);
        }
        self.set("tools", format!("[{}]", list.join(",")));
        let mut choice = self.choice()?;
        let forced = choice.as_deref().is_some_and(|choice| !matches!(choice, "\"auto\"" | "\"none\""));
        if forced && thinks {
            self.drop("tool_choice");
            choice = None;
        }
        let one = self.value("parallel_tool_calls") == Some("false");
        let single = if one { ",\"disable_parallel_tool_use\":true" } else { "" };
        match choice.as_deref() {
            Some("\"none\"") => self.set("tool_choice", r#"{"type":"none"}"#),
            Some(choice) => self.set("tool_choice", format!("{{\"type\":{choice}{single}}}")),
            None if one => self.set("tool_choice", format!("{{\"type\":\"auto\"{single}}}")),
            None => {}
        }
        Ok(())
    }

    /// The kind of choice, with the tool's name behind it, as members of a JSON object without `"type":`.
    fn choice(&self) -> Result<Option<String>, Fault> {
        let Some(choice) = self.value("tool_choice") else { return Ok(None) };
        let known = match choice {
            "\"auto\"" => Some("\"auto\""),
            "\"required\"" | "\"any\"" => Some("\"any\""),
            "\"none\"" => Some("\"none\""),
            _ => None,
        };
        if let Some(known) = known {
            return Ok(Some(known.into()));
        }
        let unknown = || {
            let text = "`tool_choice` must be auto, required, none or {\"type\":\"function\",\"function\":{\"name\":…}}";
            wrong("tool_choice", text)
        };
        let choice: Choice<'_> = serde_json::from_str(choice).map_err(|_| unknown())?;
        match (choice.kind.as_ref(), choice.function) {
            ("function", Some(function)) => Ok(Some(format!("\"tool\",\"name\":{}", quoted(&function.name)))),
            _ => Err(unknown()),
        }
    }
}

impl Tool<'_> {
    fn native(&self, raw: &str, index: usize) -> Result<String, Fault> {
        let Some(function) = &self.function else {
            // Anthropic's own tools, from callers who know whom they talk to.
            return match self.kind.as_ref() {
                "" | "function" | "custom" => Err(wrong(
                    "tools",
                    format!("tool {index} is not a function; anthropic takes no other tools"),
                )),
                _ => Ok(raw.to_owned()),
            };
        };
        let name = quoted(&function.name);
        let description =
            function.description.map(|text| format!(",\"description\":{}", text.get())).unwrap_or_default();
        let schema = function.parameters.map_or(r#"{"type":"object","properties":{}}"#, RawValue::get);
        let mark = self.cache_control.or(function.cache_control);
        let mark = mark.map(|mark| format!(",\"cache_control\":{}", mark.get())).unwrap_or_default();
        Ok(format!("{{\"name\":{name}{description},\"input_schema\":{schema}{mark}}}"))
    }
}
