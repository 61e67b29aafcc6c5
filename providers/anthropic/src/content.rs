//! The content of a message, one text or parts, as Anthropic's blocks. Texts stay as they are written, marks
//! for the prompt cache stay where they are.

use std::borrow::Cow;

use provider_api::{Fault, answer::quoted};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::errors::wrong;

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    image_url: Option<ImageUrl<'a>>,
    #[serde(borrow)]
    file: Option<File<'a>>,
    #[serde(borrow)]
    cache_control: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ImageUrl<'a> {
    Object {
        #[serde(borrow)]
        url: Cow<'a, str>,
    },
    /// Not OpenAI's form, but many write it.
    Text(#[serde(borrow)] Cow<'a, str>),
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    file_data: Option<Cow<'a, str>>,
    #[serde(borrow)]
    file_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    filename: Option<Cow<'a, str>>,
}

/// Adds the blocks of a message's content; empty texts are left out, because Anthropic refuses them.
/// `index` is the message's place, for errors.
pub fn blocks(content: Option<&RawValue>, index: usize, out: &mut Vec<String>) -> Result<(), Fault> {
    let Some(content) = content.map(RawValue::get) else { return Ok(()) };
    if content.starts_with('"') {
        out.extend(text(content, None));
        return Ok(());
    }
    let parts: Vec<&RawValue> = serde_json::from_str(content).map_err(|error| unreadable(index, &error))?;
    for raw in parts {
        let part: Part<'_> = serde_json::from_str(raw.get()).map_err(|error| unreadable(index, &error))?;
        out.extend(part.block(raw.get(), index)?);
    }
    Ok(())
}

fn unreadable(index: usize, error: &serde_json::Error) -> Fault {
    wrong("messages", format!("the content of message {index} cannot be read: {error}"))
}

impl Part<'_> {
    fn block(&self, raw: &str, index: usize) -> Result<Option<String>, Fault> {
        let mark = self.cache_control.map(RawValue::get);
        Ok(match (self.kind.as_ref(), self.text, self.refusal, &self.image_url, &self.file) {
            ("text", Some(words), ..) | ("refusal", _, Some(words), ..) => text(words.get(), mark),
            ("image_url", _, _, Some(ImageUrl::Object { url } | ImageUrl::Text(url)), _) => {
                Some(block("image", &source(url), None, mark))
            }
            ("file", .., Some(file)) => {
                let source = match (&file.file_data, &file.file_id) {
                    (Some(data), _) => source(data),
                    (None, Some(id)) => format!(r#"{{"type":"file","file_id":{}}}"#, quoted(id)),
                    (None, None) => {
                        let text = format!("a file in message {index} has neither `file_data` nor `file_id`");
                        return Err(wrong("messages", text));
                    }
                };
                Some(block("document", &source, file.filename.as_deref(), mark))
            }
            // Anthropic's own, from callers who know whom they talk to.
            ("image" | "document" | "search_result" | "thinking" | "redacted_thinking", ..) => {
                Some(raw.to_owned())
            }
            (kind, ..) => {
                let text =
                    format!("anthropic takes text, images and files; message {index} has a part `{kind}`");
                return Err(wrong("messages", text));
            }
        })
    }
}

/// A block of text, which is a JSON string already.
fn text(words: &str, mark: Option<&str>) -> Option<String> {
    let mark = mark.map(|mark| format!(",\"cache_control\":{mark}")).unwrap_or_default();
    (words != "\"\"").then(|| format!(r#"{{"type":"text","text":{words}{mark}}}"#))
}

fn block(kind: &str, source: &str, title: Option<&str>, mark: Option<&str>) -> String {
    let title = title.map(|title| format!(",\"title\":{}", quoted(title))).unwrap_or_default();
    let mark = mark.map(|mark| format!(",\"cache_control\":{mark}")).unwrap_or_default();
    format!(r#"{{"type":"{kind}","source":{source}{title}{mark}}}"#)
}

/// Where an image or a file is: in a `data:` URL, or somewhere that Anthropic fetches it from.
fn source(url: &str) -> String {
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    match data {
        Some((kind, data)) => {
            let kind = quoted(kind.split(';').next().unwrap_or(kind));
            format!(r#"{{"type":"base64","media_type":{kind},"data":{}}}"#, quoted(data))
        }
        None => format!(r#"{{"type":"url","url":{}}}"#, quoted(url)),
    }
}
