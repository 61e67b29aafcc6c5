//! shortcodes.json in the data directory: which provider had a clashing shortcode first.

use std::{io, path::PathBuf};

use crate::{catalog::Owners, config::Settings, files};

/// Largest file.
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// The record as it is on disk.
pub(super) struct Record {
    path: PathBuf,
    /// What it says, with what the settings say.
    pub(super) owners: Owners,
    /// Whether a file is there whose bytes must outlive a new one.
    broken: bool,
}

impl Record {
    /// Reads it. Where it cannot be used, names stay with those who have them now.
    pub(super) fn read(settings: &Settings, now: &Owners) -> Self {
        let path = settings.data_dir.join("shortcodes.json");
        let read = match files::read(&path, MAX_RECORD_BYTES) {
            Ok(None) => Owners::new(settings.models.clone(), None).map_err(|error| error.to_string()),
            Ok(Some(bytes)) => String::from_utf8(bytes).map_err(|error| error.to_string()).and_then(|text| {
                Owners::new(settings.models.clone(), Some(&text)).map_err(|error| error.to_string())
            }),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(owners) => Self { path, owners, broken: false },
            Err(error) => {
                tracing::warn!(
                    error,
                    "shortcodes.json cannot be used; shortcodes stay with their owners, at a start they are decided anew"
                );
                let owners = Owners { pinned: settings.models.clone(), recorded: now.recorded.clone() };
                Self { path, owners, broken: true }
            }
        }
    }

    /// Writes what has changed; a file that could not be used is kept beside the new one.
    pub(super) fn write(&self, now: &Owners) {
        if now.recorded == self.owners.recorded {
            return;
        }
        if let Err(error) = self.replace(now) {
            tracing::warn!(%error, "shortcodes.json cannot be written; a clash may be decided anew after a restart");
        }
    }

    fn replace(&self, now: &Owners) -> io::Result<()> {
        if self.broken && self.path.is_file() {
            let kept = files::preserve(&self.path)?;
            tracing::warn!(kept = %kept.display(), "the shortcodes.json that could not be used was kept");
        }
        files::replace(&self.path, now.to_json().as_bytes())
    }
}
