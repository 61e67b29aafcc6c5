//! The operator's models.csv in its two forms.

use super::Warning;

/// What models.csv chooses.
#[derive(Debug, Clone, Default)]
pub struct List {}

impl List {
    /// Reads models.csv.
    pub fn parse(_text: &str) -> (Self, Vec<Warning>) {
        (Self {}, Vec::new())
    }
}
