//! Who owns a name that several models claim, and the memory of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Who owns which name. Plain values: whoever has a data directory reads and writes them as a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// The operator's `[models] NAME = "provider"`.
    pub pinned: BTreeMap<String, String>,
    /// Name to `provider/id`: the one that had it first.
    pub recorded: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize, Default)]
struct File {
    /// Name to `provider/id`.
    shortcodes: BTreeMap<String, String>,
}

impl Owners {
    /// From the operator's settings and the text of `shortcodes.json`, if there is one.
    ///
    /// # Errors
    /// The text is not what [`Self::to_json`] writes; then start from an empty record and keep the file.
    pub fn new(pinned: BTreeMap<String, String>, json: Option<&str>) -> Result<Self, serde_json::Error> {
        let file: File = json.map(serde_json::from_str).transpose()?.unwrap_or_default();
        Ok(Self { pinned, recorded: file.shortcodes })
    }

    /// What belongs into `shortcodes.json`; write it when [`Self::recorded`] has changed.
    pub fn to_json(&self) -> String {
        let file = File { shortcodes: self.recorded.clone() };
        let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
        text.push('\n');
        text
    }
}
