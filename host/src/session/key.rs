//! Which session, and the names of its file.

use std::{fmt::Write, sync::Arc};

use sha2::{Digest, Sha256};

use crate::error::Error;

/// Longest id.
const MAX_ID_BYTES: usize = 64;

/// Longest model name that goes into a file name as it is; file systems take 255 bytes in all.
const MAX_MODEL_BYTES: usize = 160;

/// One session: a model's name and the caller's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    model: Arc<str>,
    session_id: Arc<str>,
    file_model: Arc<str>,
    former: Option<Arc<str>>,
}

impl Key {
    /// The session of the catalog's name for the model (its shortcode, or its id if it has none) and
    /// the caller's `session_id`.
    ///
    /// # Errors
    /// 400 for an id that is not 1 to 64 characters of `A-Z a-z 0-9 . _ -`, or starts with a dot.
    pub fn new(model: &str, session_id: &str) -> Result<Self, Error> {
        let length = 1..=MAX_ID_BYTES;
        let valid = length.contains(&session_id.len())
            && session_id.bytes().all(is_plain)
            && !session_id.starts_with('.');
        if !valid {
            let message =
                "session_id must be 1 to 64 characters of A-Z a-z 0-9 . _ - and must not start with a dot";
            return Err(Error::bad_request(message).param("session_id"));
        }
        Ok(Self {
            model: model.into(),
            session_id: session_id.into(),
            file_model: encode(model).into(),
            former: None,
        })
    }

    /// Also finds the file that the original wrote for callers who named the model by its id.
    #[must_use]
    pub fn or_id(mut self, id: &str) -> Self {
        self.former = (id != &*self.model).then(|| format!("{}-{}.json", encode(id), self.session_id).into());
        self
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The caller's id.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// The usual name of the file. Two sessions may share it: both names may hold dashes.
    pub fn plain(&self) -> String {
        format!("{}-{}.json", self.file_model, self.session_id)
    }

    /// The name that no other session has: no side of it can hold an `@`.
    pub fn apart(&self) -> String {
        format!("{}@{}.json", self.file_model, self.session_id)
    }

    /// The file name that the original used for the model's id.
    pub(super) fn former(&self) -> Option<&str> {
        self.former.as_deref()
    }

    /// Which of `groups` groups of writers it is in: those who could share a name are in the same one,
    /// in every process and version.
    pub(super) fn group(&self, groups: usize) -> usize {
        // FNV-1a.
        let hash = self.plain().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        usize::try_from(hash % groups as u64).unwrap_or(0)
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// The model's name as part of a file name: other bytes as `%XX`, and no hidden file.
fn encode(model: &str) -> String {
    let mut name = String::with_capacity(model.len());
    for (index, byte) in model.bytes().enumerate() {
        if is_plain(byte) && !(index == 0 && byte == b'.') {
            name.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    if name.len() > MAX_MODEL_BYTES {
        let digest = Sha256::digest(model.as_bytes());
        name.truncate(MAX_MODEL_BYTES - 34);
        name.push_str("%-");
        for byte in &digest[..16] {
            let _ = write!(name, "{byte:02x}");
        }
    }
    name
}

/// The model's name from a file name.
pub(super) fn decode(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.first_chunk::<2>().filter(|_| byte == b'%');
        let value = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(value.unwrap_or(byte));
        rest = if value.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        let long = "x".repeat(64);
        for id in ["a", "A-z_0.9", "-", "_", &long] {
            Key::new("kimi", id).unwrap();
        }
        for id in ["", ".", "..", ".x", "a/b", "../a", "a b", "ä", "a\0", "a@b", "a%2Fb", &format!("{long}x")]
        {
            let error = Key::new("kimi", id).unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some("session_id")), "{id:?}");
        }
    }

    #[test]
    fn models_become_file_names() {
        for (model, name) in [
            ("claude-h", "claude-h-s.json"),
            ("hf.co/a/b:q4", "hf.co%2Fa%2Fb%3Aq4-s.json"),
            ("../x", "%2E.%2Fx-s.json"),
            ("a@b", "a%40b-s.json"),
            ("a%2Fb", "a%252Fb-s.json"),
            ("ü", "%C3%BC-s.json"),
        ] {
            assert_eq!(Key::new(model, "s").unwrap().plain(), name);
            assert_eq!(decode(name.trim_end_matches("-s.json")), model);
        }
        let long =
            |end: &str| Key::new(&format!("{}{end}", "/".repeat(300)), &"x".repeat(64)).unwrap().apart();
        assert!(long("a").len() < 250);
        assert_ne!(long("a"), long("b"));
    }
}
