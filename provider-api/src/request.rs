//! What a caller wants done, and editing its JSON without rebuilding it.

use std::{borrow::Cow, collections::HashSet, fmt, ops::Range};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::abi::{AbiCall, CALL_STREAM};

/// What a caller wants done. Everything is borrowed for the time of `begin`.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// `chat`, `embeddings`, `models`, …
    pub operation: &'a str,
    /// The model's id as the upstream knows it.
    pub model: &'a str,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// The request in the operation's canonical form (OpenAI's JSON), UTF-8; `model` is already the id.
    pub body: &'a [u8],
    /// 0 for the first attempt.
    pub attempt: u32,
    /// Unix time in milliseconds: the only clock a provider may use.
    pub now_unix_ms: u64,
    /// The only randomness a provider may use.
    pub seed: u64,
    /// Request fields that this model rejects (the model row's `drops`), separated by spaces.
    pub drops: &'a str,
    /// Whether the model takes `max_completion_tokens` only.
    pub requires_completion_tokens: bool,
}

impl<'a> From<&AbiCall<'a>> for Call<'a> {
    fn from(call: &AbiCall<'a>) -> Self {
        let attr = |name: &str| -> &'a str {
            let value = call.attrs.as_slice().iter().find(|attr| attr.name.as_str() == name);
            value.and_then(|attr| std::str::from_utf8(attr.value.as_slice()).ok()).unwrap_or("")
        };
        Self {
            operation: call.operation.as_str(),
            model: call.model.as_str(),
            stream: call.flags & CALL_STREAM != 0,
            body: call.body.as_slice(),
            attempt: call.attempt,
            now_unix_ms: call.now_unix_ms,
            seed: call.seed,
            drops: attr("drops"),
            requires_completion_tokens: attr("requires_completion_tokens") == "true",
        }
    }
}

/// One member of a JSON object, with where it stands in the text.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// The key, unescaped.
    pub key: Cow<'a, str>,
    /// From the key's opening quote to the end of the value.
    pub span: Range<usize>,
    /// The value's bytes, exactly as written.
    pub value: &'a str,
}

impl Member<'_> {
    /// Where the value stands in the text.
    pub fn value_span(&self) -> Range<usize> {
        self.span.end - self.value.len()..self.span.end
    }
}

/// The members of a JSON object in their order; keys are unique.
#[derive(Debug, Clone, Default)]
pub struct Members<'a>(pub Vec<Member<'a>>);

impl<'a> Members<'a> {
    /// Reads the outermost object of `text`; what is inside the values is checked for syntax only.
    ///
    /// # Errors
    /// Not UTF-8, not JSON, not an object, a key twice, or anything behind the object.
    pub fn parse(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        let mut de = serde_json::Deserializer::from_slice(text);
        let members = ObjectSeed { text }.deserialize(&mut de)?;
        de.end()?;
        Ok(members)
    }

    /// The member with this key.
    pub fn get(&self, key: &str) -> Option<&Member<'a>> {
        self.0.iter().find(|member| member.key == key)
    }

    /// The value of this key as text, exactly as written; a JSON `null` counts as absent.
    pub fn value(&self, key: &str) -> Option<&'a str> {
        self.get(key).map(|member| member.value).filter(|value| *value != "null")
    }

    /// The range to cut out of the text so that the members in `keys` vanish and the rest stays valid.
    pub fn cuts(&self, keys: &[&str]) -> Vec<Range<usize>> {
        let mut cuts = Vec::new();
        let mut kept_end: Option<usize> = None;
        for (index, member) in self.0.iter().enumerate() {
            if !keys.contains(&member.key.as_ref()) {
                kept_end = Some(member.span.end);
                continue;
            }
            match (kept_end, self.0.get(index + 1)) {
                (Some(end), _) => {
                    cuts.push(end..member.span.end);
                    kept_end = Some(member.span.end);
                }
                (None, Some(next)) => cuts.push(member.span.start..next.span.start),
                (None, None) => cuts.push(member.span.clone()),
            }
        }
        cuts
    }
}

struct ObjectSeed<'a> {
    text: &'a [u8],
}

impl<'a> DeserializeSeed<'a> for ObjectSeed<'a> {
    type Value = Members<'a>;
    fn deserialize<D: Deserializer<'a>>(self, de: D) -> Result<Self::Value, D::Error> {
        de.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for ObjectSeed<'a> {
    type Value = Members<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut list: Vec<Member<'a>> = Vec::with_capacity(12);
        let mut seen = HashSet::new();
        let mut from = 0;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            // A linear look is the cheaper one for the few keys that real requests have.
            let twice = if list.len() < 32 {
                list.iter().any(|member| member.key == key)
            } else {
                if seen.is_empty() {
                    seen.extend(list.iter().map(|member| member.key.to_string()));
                }
                !seen.insert(key.to_string())
            };
            if twice {
                return Err(serde::de::Error::custom(format_args!("duplicate field `{key}`")));
            }
            let value: &'a RawValue = map.next_value()?;
            let end = value.get().as_ptr() as usize - self.text.as_ptr() as usize + value.get().len();
            let start = key_start(self.text, from);
            from = end;
            list.push(Member { key, span: start..end, value: value.get() });
        }
        Ok(Members(list))
    }
}

/// The next quote behind `from`: only white space, `{` and `,` stand before it.
fn key_start(text: &[u8], from: usize) -> usize {
    text[from..].iter().position(|byte| *byte == b'"').map_or(from, |at| from + at)
}

struct KeySeed;

impl<'a> DeserializeSeed<'a> for KeySeed {
    type Value = Cow<'a, str>;
    fn deserialize<D: Deserializer<'a>>(self, de: D) -> Result<Self::Value, D::Error> {
        de.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for KeySeed {
    type Value = Cow<'a, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E>(self, key: &'a str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// The elements of a JSON array with their spans in `text`, of which `array` is a part.
///
/// # Errors
/// `array` is not a JSON array.
pub fn elements<'a>(
    text: &[u8],
    array: &'a str,
) -> Result<Vec<(Range<usize>, &'a RawValue)>, serde_json::Error> {
    let values: Vec<&'a RawValue> = serde_json::from_str(array)?;
    let base = text.as_ptr() as usize;
    let spans = values.into_iter().map(|value| {
        let start = value.get().as_ptr() as usize - base;
        (start..start + value.get().len(), value)
    });
    Ok(spans.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, keys: &[&str]) -> String {
        let members = Members::parse(text.as_bytes()).expect("valid");
        let mut out = text.to_owned();
        for range in members.cuts(keys).into_iter().rev() {
            out.replace_range(range, "");
        }
        serde_json::from_str::<serde_json::Value>(&out).expect("still valid JSON");
        out
    }

    #[test]
    fn cut_members_leave_valid_json_with_every_other_byte() {
        let text = r#"{ "a" : 1.0, "b":"x\"y" ,"c":[1, 2],"d":null }"#;
        assert_eq!(cut(text, &["a"]), r#"{ "b":"x\"y" ,"c":[1, 2],"d":null }"#);
        assert_eq!(cut(text, &["b"]), r#"{ "a" : 1.0 ,"c":[1, 2],"d":null }"#);
        assert_eq!(cut(text, &["d"]), r#"{ "a" : 1.0, "b":"x\"y" ,"c":[1, 2] }"#);
        assert_eq!(cut(text, &["a", "b"]), r#"{ "c":[1, 2],"d":null }"#);
        assert_eq!(cut(text, &["a", "c", "d"]), r#"{ "b":"x\"y" }"#);
        assert_eq!(cut(text, &["a", "b", "c", "d"]), "{  }");
        assert_eq!(cut(text, &["b", "c"]), r#"{ "a" : 1.0,"d":null }"#);
    }

    #[test]
    fn wrong_objects_are_refused() {
        for text in ["", "[]", "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}", "{} x", "{\"a\":}", "nul"] {
            assert!(Members::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Members::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn escaped_keys_are_found_under_their_meaning() {
        let members = Members::parse(br#"{"mod\u0065l":"x"}"#).expect("valid");
        assert_eq!(members.value("model"), Some("\"x\""));
    }
}
