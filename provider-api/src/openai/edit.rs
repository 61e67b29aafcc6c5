//! Small edits to a request in OpenAI's form, without rebuilding it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::Fault,
    http::{HttpRequest, Part},
    request::{Call, Members, elements},
};

/// Edits a request's outermost object; every byte that no edit names stays as it is.
pub struct Edit<'a> {
    body: &'a [u8],
    members: Members<'a>,
    removed: Vec<&'a str>,
    replaced: Vec<(std::ops::Range<usize>, Vec<u8>)>,
    appended: Vec<u8>,
    dropped: Vec<String>,
}

impl<'a> Edit<'a> {
    /// Reads the call's body.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn new(call: &Call<'a>) -> Result<Self, Fault> {
        let members =
            Members::parse(call.body).map_err(|error| Fault::bad_request(format!("not JSON: {error}")))?;
        Ok(Self {
            body: call.body,
            members,
            removed: Vec::new(),
            replaced: Vec::new(),
            appended: Vec::new(),
            dropped: Vec::new(),
        })
    }

    /// The value of a member as written; `None` if it is absent or null.
    pub fn value(&self, key: &str) -> Option<&'a str> {
        self.members.value(key)
    }

    /// Leaves a field out; a value other than null is named to the caller.
    pub fn drop_field(&mut self, key: &'a str) {
        if let Some(member) = self.members.get(key) {
            if member.value != "null" {
                self.dropped.push(key.to_owned());
            }
            self.removed.push(key);
        }
    }

    /// Leaves a field out that says something in another form; nobody is told.
    pub fn drop_quietly(&mut self, key: &'a str) {
        self.removed.push(key);
    }

    /// Renames a field, unless the new name is there already; then the old one is left out.
    pub fn rename(&mut self, from: &'a str, to: &str) {
        let Some(member) = self.members.get(from) else { return };
        if self.members.get(to).is_some() {
            self.removed.push(from);
        } else {
            let key = member.span.start..member.value_span().start;
            self.replaced.push((key, format!("\"{to}\":").into_bytes()));
        }
    }

    /// Sets a field to a JSON value, whether it is there or not.
    pub fn set(&mut self, key: &str, json: &str) {
        match self.members.get(key) {
            Some(member) => self.replaced.push((member.value_span(), json.as_bytes().to_vec())),
            None => self.appended.extend_from_slice(format!(",\"{key}\":{json}").as_bytes()),
        }
    }

    /// Replaces these bytes of the call's body, which must not lie in a field that is set or renamed; an
    /// empty range inserts. [`elements`] and [`Call::body`] lead to ranges inside messages.
    pub fn replace(&mut self, range: std::ops::Range<usize>, text: impl Into<Vec<u8>>) {
        self.replaced.push((range, text.into()));
    }

    /// Names a field to the caller that was changed rather than left out.
    pub fn name_dropped(&mut self, field: &str) {
        self.dropped.push(field.to_owned());
    }

    /// Turns the role `developer`, which only OpenAI's own models know, into `system`.
    pub fn developer_to_system(&mut self) {
        for role in self.developer_roles().unwrap_or_default() {
            self.replaced.push((role, b"\"system\"".to_vec()));
        }
    }

    fn developer_roles(&self) -> Option<Vec<std::ops::Range<usize>>> {
        #[derive(Deserialize)]
        struct Message<'m> {
            #[serde(borrow)]
            role: Option<&'m RawValue>,
        }
        memchr::memmem::find(self.body, b"developer")?;
        let messages = elements(self.body, self.value("messages")?).ok()?;
        let base = self.body.as_ptr() as usize;
        let roles = messages.into_iter().filter_map(|(_, message)| {
            let role = serde_json::from_str::<Message<'_>>(message.get()).ok()?.role?;
            let start = role.get().as_ptr() as usize - base;
            (role.get() == "\"developer\"").then_some(start..start + role.get().len())
        });
        Some(roles.collect())
    }

    /// The member `type` of a field that is an object, like `thinking` or `response_format`.
    pub fn kind(&self, key: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Typed {
            r#type: String,
        }
        serde_json::from_str::<Typed>(self.value(key)?).ok().map(|typed| typed.r#type)
    }

    /// Gives each turn with tool calls a `reasoning_content` if it has none. Some vendors refuse a thinking
    /// model's earlier turn without it, take a space in its place, and callers that keep to OpenAI's format
    /// drop the field.
    pub fn fill_reasoning(&mut self) {
        #[derive(Deserialize)]
        struct Turn<'m> {
            #[serde(borrow)]
            role: Option<&'m RawValue>,
            #[serde(borrow)]
            tool_calls: Option<Vec<&'m RawValue>>,
            #[serde(borrow, default, deserialize_with = "present")]
            reasoning_content: Option<&'m RawValue>,
        }
        let Some(messages) = self.value("messages") else { return };
        let Ok(messages) = elements(self.body, messages) else { return };
        for (span, message) in messages {
            let Ok(turn) = serde_json::from_str::<Turn<'_>>(message.get()) else { continue };
            let assistant = turn.role.is_some_and(|role| role.get() == "\"assistant\"");
            if !assistant || turn.tool_calls.is_none_or(|calls| calls.is_empty()) {
                continue;
            }
            match turn.reasoning_content.map(RawValue::get) {
                None => self.replace(span.end - 1..span.end - 1, r#","reasoning_content":" ""#),
                Some(empty @ ("null" | "\"\"")) => {
                    let start = empty.as_ptr() as usize - self.body.as_ptr() as usize;
                    self.replace(start..start + empty.len(), "\" \"");
                }
                Some(_) => {}
            }
        }
    }

    /// Applies what the model's row says: rejected fields, `max_completion_tokens`.
    pub fn model_row(&mut self, call: &Call<'a>) {
        for field in call.drops.split_ascii_whitespace() {
            self.drop_field(field);
        }
        if call.requires_completion_tokens {
            self.rename("max_tokens", "max_completion_tokens");
        }
    }

    /// Puts the edited body into a request: spans of the call's body with the edits between them.
    pub fn request(mut self, mut request: HttpRequest) -> HttpRequest {
        let cuts = self.members.cuts(&self.removed);
        self.replaced.retain(|(range, _)| !cuts.iter().any(|cut| cut.contains(&range.start)));
        self.replaced.extend(cuts.into_iter().map(|cut| (cut, Vec::new())));
        self.replaced.sort_by_key(|(range, _)| range.start);
        let end = self.body.iter().rposition(|byte| *byte == b'}').unwrap_or(self.body.len());
        if !self.appended.is_empty() {
            let kept = self.members.0.iter().any(|member| !self.removed.contains(&member.key.as_ref()));
            let skip = usize::from(!kept);
            self.replaced.push((end..end, self.appended[skip..].to_vec()));
        }
        let mut at = 0;
        for (range, text) in self.replaced {
            if at < range.start {
                request.body.push(Part::CallBody(at..range.start));
            }
            if !text.is_empty() {
                request.body.push(Part::Literal(text));
            }
            at = range.end;
        }
        if at < self.body.len() {
            request.body.push(Part::CallBody(at..self.body.len()));
        }
        request.dropped.append(&mut self.dropped);
        request.header("content-type", "application/json")
    }
}

/// Keeps `null` apart from an absent member: only the latter has no place in the text.
fn present<'de, D: serde::Deserializer<'de>>(de: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(de).map(Some)
}
