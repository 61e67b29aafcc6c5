//! `POST /v1/embeddings`: passes through untouched but for the model's name.

use std::ops::Range;

use bytes::Bytes;

use crate::{dialect::splice, error::Error};

/// An embeddings request.
#[derive(Debug)]
pub struct Embeddings {
    /// The caller's bytes.
    pub body: Bytes,
    /// What the caller asks for.
    pub model: String,
    model_span: Range<usize>,
}

impl Embeddings {
    /// Reads the envelope.
    ///
    /// # Errors
    /// 400 naming the field that is wrong.
    pub fn parse(body: Bytes) -> Result<Self, Error> {
        let members = splice::members(&body)?;
        let missing = || Error::bad_request("`model` is missing; name an embedding model").param("model");
        let member = members.get("model").ok_or_else(missing)?;
        let model = splice::string(member.value)
            .filter(|model| !model.is_empty())
            .ok_or_else(|| Error::bad_request("`model` must be a string").param("model"))?
            .into_owned();
        if members.value("input").is_none() {
            let text = "`input` is missing; send a string, a list of strings, or tokens";
            return Err(Error::bad_request(text).param("input"));
        }
        let model_span = member.value_span();
        drop(members);
        Ok(Self { body, model, model_span })
    }

    /// The bytes for an upstream.
    pub fn encode(self, model: &str) -> Bytes {
        let name = serde_json::to_vec(model).unwrap_or_default();
        splice::apply(self.body, vec![(self.model_span, name.into())])
    }
}
