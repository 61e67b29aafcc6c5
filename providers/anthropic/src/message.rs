//! OpenAI's messages as Anthropic's: what the system says stands apart, roles take turns, a tool's answer is
//! part of the user's turn, arguments of tool calls are objects.

use std::borrow::Cow;

use provider_api::{Fault, answer::quoted};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{content, errors::wrong};

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow)]
    tool_call_id: Option<Cow<'a, str>>,
    /// Thoughts with their signatures, as an answer handed them out.
    #[serde(borrow)]
    thinking_blocks: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Messages in Anthropic's form.
#[derive(Default)]
pub struct Conversation {
    /// Blocks of `system`.
    pub system: Vec<String>,
    turns: Vec<Turn>,
    /// Whether the last turn with tool calls came back without its thoughts.
    pub bare_turn: bool,
}

/// What one side says until the other does.
#[derive(Default)]
struct Turn {
    assistant: bool,
    /// Answers of tools, which must come first.
    results: Vec<String>,
    blocks: Vec<String>,
}

impl Conversation {
    /// Reads the messages (a JSON array).
    pub fn read(messages: &str) -> Result<Self, Fault> {
        let messages: Vec<Message<'_>> = serde_json::from_str(messages)
            .map_err(|error| wrong("messages", format!("`messages` cannot be read: {error}")))?;
        let mut all = Self::default();
        for (index, message) in messages.iter().enumerate() {
            match message.role.as_ref() {
                // There is one place for it; what stands between the turns goes there too.
                "system" | "developer" => content::blocks(message.content, index, &mut all.system)?,
                "user" => {
                    let mut blocks = Vec::new();
                    content::blocks(message.content, index, &mut blocks)?;
                    all.say(false).blocks.append(&mut blocks);
                }
                "assistant" => all.assistant(message, index)?,
                "tool" => {
                    let result = tool_result(message, index)?;
                    all.say(false).results.push(result);
                }
                role => {
                    let text = format!(
                        "message {index} has the role {role:?}; it must be system, developer, user, assistant or tool"
                    );
                    return Err(wrong("messages", text));
                }
            }
        }
        all.turns.retain(|turn| !turn.results.is_empty() || !turn.blocks.is_empty());
        Ok(all)
    }

    /// The turn of one side, which goes on or begins.
    fn say(&mut self, assistant: bool) -> &mut Turn {
        // An assistant's turn that came to nothing parts nobody.
        self.turns
            .pop_if(|turn| turn.assistant != assistant && turn.results.is_empty() && turn.blocks.is_empty());
        if self.turns.last().is_none_or(|turn| turn.assistant != assistant) {
            self.turns.push(Turn { assistant, ..Turn::default() });
        }
        let last = self.turns.len() - 1;
        &mut self.turns[last]
    }

    fn assistant(&mut self, message: &Message<'_>, index: usize) -> Result<(), Fault> {
        let thoughts = message.thinking_blocks.as_deref().unwrap_or_default();
        let calls = message.tool_calls.as_deref().unwrap_or_default();
        let mut blocks: Vec<String> = thoughts.iter().map(|block| block.get().to_owned()).collect();
        content::blocks(message.content, index, &mut blocks)?;
        for call in calls {
            blocks.push(tool_use(call, index)?);
        }
        if !calls.is_empty() {
            self.bare_turn = thoughts.is_empty();
        }
        self.say(true).blocks.append(&mut blocks);
        Ok(())
    }

    /// The turns as a JSON array.
    pub fn turns(&self, out: &mut String) {
        out.push('[');
        // The user begins, Anthropic insists.
        if self.turns.first().is_none_or(|turn| turn.assistant) {
            out.push_str(r#"{"role":"user","content":"."}"#);
            out.push_str(if self.turns.is_empty() { "" } else { "," });
        }
        for (index, turn) in self.turns.iter().enumerate() {
            out.push_str(if index == 0 { "{\"role\":\"" } else { ",{\"role\":\"" });
            out.push_str(if turn.assistant { "assistant" } else { "user" });
            out.push_str("\",\"content\":[");
            for (place, block) in turn.results.iter().chain(&turn.blocks).enumerate() {
                out.push_str(if place == 0 { "" } else { "," });
                out.push_str(block);
            }
            out.push_str("]}");
        }
        out.push(']');
    }
}

fn tool_use(call: &ToolCall<'_>, index: usize) -> Result<String, Fault> {
    let name = &call.function.name;
    let arguments = call.function.arguments.map_or("", RawValue::get);
    let text: Cow<'_, str> = match arguments.starts_with('"') {
        true => serde_json::from_str::<String>(arguments)?.into(),
        false => arguments.into(),
    };
    let text = match text.trim() {
        "" | "null" => "{}",
        text => text,
    };
    if !text.starts_with('{') || serde_json::from_str::<&RawValue>(text).is_err() {
        let text =
            format!("the arguments of the tool call `{name}` in message {index} are not a JSON object");
        return Err(wrong("messages", text));
    }
    let (id, name) = (tool_id(&call.id, index)?, quoted(name));
    Ok(format!(r#"{{"type":"tool_use","id":{id},"name":{name},"input":{text}}}"#))
}

fn tool_result(message: &Message<'_>, index: usize) -> Result<String, Fault> {
    let id = tool_id(message.tool_call_id.as_deref().unwrap_or_default(), index)?;
    let mut blocks = Vec::new();
    content::blocks(message.content, index, &mut blocks)?;
    let content = match (message.content.map(RawValue::get), blocks.as_slice()) {
        (_, []) => String::new(),
        (Some(text), _) if text.starts_with('"') => format!(",\"content\":{text}"),
        (_, blocks) => format!(",\"content\":[{}]", blocks.join(",")),
    };
    Ok(format!(r#"{{"type":"tool_result","tool_use_id":{id}{content}}}"#))
}

/// An id as Anthropic takes it. Those of other providers, which an earlier turn of the same conversation may
/// hold, have more characters.
fn tool_id(id: &str, index: usize) -> Result<String, Fault> {
    if id.is_empty() {
        return Err(wrong("messages", format!("a tool's call or answer in message {index} has no id")));
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    Ok(quoted(&id.chars().map(plain).collect::<String>()))
}
