//! Reads what the caller sent: the parts of OpenAI's form that echo looks at, borrowed from the body.

use std::borrow::Cow;

use provider_api::Fault;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::words;

fn wrong(param: &str, text: impl Into<String>) -> Fault {
    Fault::bad_request(text).detail("invalid_request_error", Some(param), None)
}

/// A chat request.
#[derive(Deserialize)]
pub struct Chat<'a> {
    #[serde(borrow, default)]
    messages: Vec<Message<'a>>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    #[serde(borrow)]
    tools: Option<Vec<Tool<'a>>>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow)]
    function: Option<Named<'a>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl<'a> Chat<'a> {
    /// Reads the body of a chat call.
    pub fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let chat: Self = serde_json::from_slice(body)
            .map_err(|error| Fault::bad_request(format!("the request cannot be read: {error}")))?;
        if chat.n.is_some_and(|n| n != 1) {
            return Err(wrong("n", "echo gives one choice; leave `n` out or set it to 1"));
        }
        Ok(chat)
    }

    /// The text of the last message with the role `user`.
    pub fn last_user_text(&self) -> Result<Cow<'a, str>, Fault> {
        let last = self.messages.iter().rfind(|message| message.role == "user");
        last.map(Message::text)
            .ok_or_else(|| wrong("messages", "echo answers the last user message, but there is none"))
    }

    /// The words of all messages.
    pub fn count_words(&self) -> u64 {
        self.messages.iter().map(|message| words::count(&message.text())).sum()
    }

    /// How long the answer may be.
    pub fn max_words(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Whether the caller wants the tokens in the stream.
    pub fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// The tool that the caller insists on: the one that `tool_choice` names, or the first for `required`.
    pub fn forced_tool(&self) -> Result<Option<String>, Fault> {
        let tools = self.tools.as_deref().unwrap_or_default();
        let mut names =
            tools.iter().filter_map(|tool| tool.function.as_ref()).map(|function| &*function.name);
        let Some(choice) = self.tool_choice.map(RawValue::get) else { return Ok(None) };
        if let Ok(Tool { function: Some(Named { name }) }) = serde_json::from_str(choice) {
            let known = names.any(|tool| tool == name);
            let text =
                || wrong("tool_choice", format!("`tool_choice` names `{name}`, which is not in `tools`"));
            return known.then(|| Some(name.to_string())).ok_or_else(text);
        }
        if choice != "\"required\"" {
            return Ok(None);
        }
        let text = || wrong("tool_choice", "`tool_choice` is \"required\", but there is no tool in `tools`");
        names.next().map(|name| Some(name.to_owned())).ok_or_else(text)
    }
}

impl<'a> Message<'a> {
    /// The content, or its text parts with nothing between them.
    fn text(&self) -> Cow<'a, str> {
        #[derive(Deserialize)]
        struct Part<'p> {
            #[serde(borrow)]
            text: Option<Cow<'p, str>>,
        }
        #[derive(Deserialize)]
        struct Text<'t>(#[serde(borrow)] Cow<'t, str>);

        let content = self.content.map_or("", RawValue::get);
        if content.starts_with('"') {
            return serde_json::from_str(content).map_or_else(|_| "".into(), |Text(text)| text);
        }
        let parts: Vec<Part<'_>> = serde_json::from_str(content).unwrap_or_default();
        parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().concat().into()
    }
}
