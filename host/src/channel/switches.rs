//! What was switched by hand: `channels.json` in the data directory. It outlives restarts and goes before
//! the settings. Everything here blocks.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::files::{self, ReadError};

/// The file.
const FILE: &str = "channels.json";

/// Larger files are damaged.
const MAX_BYTES: u64 = 1 << 20;

/// How long a write waits for another process's.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// `{"providers": {PROVIDER: {CHANNEL: {"active": bool}}}}`; other members are kept as they are.
#[derive(Debug, Default)]
pub struct Switches(Value);

/// Why a switch could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// Another process holds the file.
    #[error(transparent)]
    Lock(#[from] files::LockError),
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Switches {
    /// Reads the file; one that cannot be used is warned of, and then all is to stay switched as it is.
    pub fn read(data_dir: &Path) -> Option<Self> {
        load(data_dir)
            .map(Self)
            .inspect_err(|why| {
                tracing::warn!(%why, "channels.json cannot be used; channels stay as they were switched, at a start none is");
            })
            .ok()
    }

    /// Whether a channel was switched on or off.
    pub fn of(&self, provider: &str, channel: &str) -> Option<bool> {
        self.0.get("providers")?.get(provider)?.get(channel)?.get("active")?.as_bool()
    }

    /// Switches a channel on or off; when this returns, the file is safe on disk.
    ///
    /// # Errors
    /// It cannot be written; nothing is switched then.
    pub fn set(data_dir: &Path, provider: &str, channel: &str, active: bool) -> Result<Self, SwitchError> {
        let locks = data_dir.join(".locks");
        files::private_dir(&locks)?;
        let _lock = files::lock(&locks.join("channels"), LOCK_WAIT)?;
        let path = data_dir.join(FILE);
        let mut value = match load(data_dir) {
            Ok(value) => value,
            Err(why) => {
                let kept = files::preserve(&path)?;
                tracing::warn!(kept = %kept.display(), %why, "the channels.json that could not be used was kept");
                Value::Null
            }
        };
        let mut at = &mut value;
        for name in ["providers", provider, channel] {
            at = &mut object(at)[name];
        }
        object(at)["active"] = active.into();
        let text = serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
        files::replace(&path, text.as_bytes())?;
        Ok(Self(value))
    }
}

/// The value as an object; what is none is replaced by an empty one.
fn object(value: &mut Value) -> &mut Value {
    if !value.is_object() {
        *value = json!({});
    }
    value
}

fn load(data_dir: &Path) -> Result<Value, String> {
    let bytes = match files::read(&data_dir.join(FILE), MAX_BYTES) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Value::Null),
        Err(error @ (ReadError::NotAFile | ReadError::TooLarge { .. } | ReadError::Io(_))) => {
            return Err(error.to_string());
        }
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if value.get("providers").is_some_and(Value::is_object) {
        return Ok(value);
    }
    Err("it holds no `providers`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path) -> Switches {
        Switches::read(dir).expect("a file that can be used")
    }

    #[test]
    fn a_switch_is_on_disk_and_the_rest_of_the_file_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(FILE);
        assert_eq!(read(dir.path()).of("p", "0"), None);
        std::fs::write(&file, r#"{"providers":{"p":{"0":{"active":true,"min_interval_ms":5}}},"x":1}"#)
            .expect("a file");
        assert_eq!(read(dir.path()).of("p", "0"), Some(true));
        Switches::set(dir.path(), "p", "0", false).expect("stored");
        Switches::set(dir.path(), "q", "default", false).expect("stored");
        let read = read(dir.path());
        assert_eq!(
            (read.of("p", "0"), read.of("q", "default"), read.of("q", "0")),
            (Some(false), Some(false), None)
        );
        assert_eq!((&read.0["x"], &read.0["providers"]["p"]["0"]["min_interval_ms"]), (&json!(1), &json!(5)));
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(FILE), "{\"prov").expect("a file");
        assert!(Switches::read(dir.path()).is_none());
        Switches::set(dir.path(), "p", "0", false).expect("stored");
        assert_eq!(read(dir.path()).of("p", "0"), Some(false));
        let kept = std::fs::read_to_string(dir.path().join("channels.json.broken")).expect("kept");
        assert_eq!(kept, "{\"prov");
    }
}
