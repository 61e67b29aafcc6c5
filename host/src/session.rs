//! Stored conversations: one readable JSON file for each model and session id.
//!
//! The file is the only truth: it is read for every request, so whoever reads, edits or deletes it
//! while the server runs is honoured. Nothing on a request's path looks through the directory, so the
//! number of sessions has no bound but the disk's.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::{sync::Mutex, time::timeout};
use tracing::{error, warn};

use crate::{
    error::Error,
    files::{self, LockError, ReadError},
};

mod compare;
mod file;
mod key;
mod trim;

pub use key::Key;

use file::Stored;

/// Most messages that a session holds.
pub const MAX_MESSAGES: usize = 20;

/// Largest file.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Most bytes of messages: what is written can be read again.
const MAX_MESSAGE_BYTES: usize = (64 << 20) - 4096;

/// Writers of sessions in the same group wait for each other; a writer holds its group for the few
/// milliseconds of one write.
const GROUPS: usize = 64;

/// How long a write waits for another process's.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How long a write waits for the others of this process, which is longer than any healthy disk needs.
const TURN_WAIT: Duration = Duration::from_secs(60);

/// What callers learn of a failure of the machine.
const UNKNOWN: &str = "the server's log says why";

/// The sessions of a data directory.
#[derive(Debug, Clone)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    locks: PathBuf,
    groups: Vec<Arc<Mutex<()>>>,
}

/// What a session holds.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// One JSON message each, oldest first, the bytes as they came.
    pub messages: Vec<Bytes>,
}

/// One stored session, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The model's name.
    pub model: String,
    /// The session's id.
    pub session_id: String,
    /// How many messages it holds.
    pub messages: usize,
    /// When it was written last.
    pub modified: SystemTime,
}

impl History {
    /// Where the whole history stands as one run within `messages`, the last one if there are several:
    /// the caller sent the whole conversation then, and nothing is to be inserted. Messages are equal if
    /// they mean the same; what clients do not send back is not looked at. `None` for an empty history.
    pub fn within(&self, messages: &[&[u8]]) -> Option<Range<usize>> {
        compare::run(&self.messages, messages)
    }
}

/// Which of a request's messages are to be stored: those behind the history if the request holds it
/// (`run`, from [`History::within`]), else all.
pub fn new_messages<T>(run: Option<Range<usize>>, messages: &[T]) -> &[T] {
    run.and_then(|run| messages.get(run.end..)).unwrap_or(messages)
}

impl Sessions {
    /// The sessions in `.sessions` in `data_dir`; the directory is made when the first one is stored.
    pub fn new(data_dir: &Path) -> Self {
        let dir = data_dir.join(".sessions");
        if dir.is_dir() {
            // The original's directory is open to all, its files too.
            if let Err(error) = files::private_dir(&dir) {
                warn!(path = %dir.display(), %error, "the sessions' directory cannot be made private");
            }
            files::sweep(&dir);
        }
        let groups = (0..GROUPS).map(|_| Arc::default()).collect();
        Self(Arc::new(Inner { dir, locks: data_dir.join(".locks"), groups }))
    }

    /// What a session holds now; nothing if it has no file or one that cannot be understood.
    ///
    /// # Errors
    /// 500 if there is a file that cannot be read or is too large.
    pub async fn load(&self, key: &Key) -> Result<History, Error> {
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        let read = tokio::task::spawn_blocking(move || {
            let found = inner.find(&key)?;
            if let Stored::Broken(why) = &found.stored {
                let path = found.path.display();
                warn!(%path, why, "a session's file cannot be understood; the session starts anew");
            }
            Ok(History { messages: found.stored.messages() })
        });
        finish("read", read.await)
    }

    /// Adds messages at the end; the oldest go when there are more than [`MAX_MESSAGES`]. It returns when
    /// the file is safe. Once begun it goes on to its end, also if the caller leaves meanwhile.
    ///
    /// # Errors
    /// 500 if the file cannot be read or written; the session is as it was then.
    pub async fn append(&self, key: &Key, new: Vec<Bytes>) -> Result<(), Error> {
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        let written = tokio::spawn(async move {
            let group = key.group(GROUPS);
            let turn = timeout(TURN_WAIT, Arc::clone(&inner.groups[group]).lock_owned()).await;
            let turn = turn.map_err(|_| Failure::Turn)?;
            let write = move || {
                let _turn = turn;
                inner.append(&key, group, new)
            };
            tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(error.into()))
        });
        finish("written", written.await)
    }

    /// All stored sessions, the one written last first. Reads every file, so it is for the command line
    /// only. Blocks.
    pub fn list(&self) -> Vec<Summary> {
        let Ok(entries) = fs::read_dir(&self.0.dir) else { return Vec::new() };
        let mut list: Vec<Summary> = entries.flatten().filter_map(|entry| summary(&entry)).collect();
        list.sort_by(|a, b| {
            b.modified
                .cmp(&a.modified)
                .then_with(|| (&a.model, &a.session_id).cmp(&(&b.model, &b.session_id)))
        });
        list
    }
}

/// Why a session could not be read or written; for the log.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("`{path}` cannot be read: {source}", path = .path.display())]
    Read { path: PathBuf, source: ReadError },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("`{path}` cannot be written: {source}", path = .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the writes before it took longer than {TURN_WAIT:?}")]
    Turn,
    #[error(transparent)]
    Aborted(#[from] tokio::task::JoinError),
    #[error("a message is not JSON: {0}")]
    Message(#[from] serde_json::Error),
}

/// What there is of a session.
struct Found {
    /// Where it is written.
    path: PathBuf,
    stored: Stored,
    /// The original's file that it comes from, if it stands under another name.
    former: Option<PathBuf>,
}

impl Inner {
    /// The name of its own comes first: once a session has one, it stays there even when the shared name
    /// becomes free.
    fn find(&self, key: &Key) -> Result<Found, Failure> {
        let path = self.dir.join(key.apart());
        let stored = read(&path, |bytes| file::parse(bytes, key))?;
        if !matches!(stored, Stored::Missing) {
            return Ok(Found { path, stored, former: None });
        }
        let plain = self.dir.join(key.plain());
        let (path, stored) = match read(&plain, |bytes| file::parse(bytes, key))? {
            Stored::Foreign => (path, Stored::Missing),
            stored => (plain, stored),
        };
        if let (Stored::Missing, Some(name)) = (&stored, key.former()) {
            let former = self.dir.join(name);
            let stored = read(&former, file::parse_former)?;
            let former = matches!(stored, Stored::Messages(_)).then_some(former);
            return Ok(Found { path, stored, former });
        }
        Ok(Found { path, stored, former: None })
    }

    fn append(&self, key: &Key, group: usize, new: Vec<Bytes>) -> Result<(), Failure> {
        let write = |path: &Path, done: io::Result<()>| {
            done.map_err(|source| Failure::Write { path: path.to_owned(), source })
        };
        write(&self.dir, files::private_dir(&self.dir))?;
        write(&self.locks, files::private_dir(&self.locks))?;
        let _lock = files::lock(&self.locks.join(format!("sessions-{group:02}")), LOCK_WAIT)?;
        let Found { path, stored, former } = self.find(key)?;
        if let Stored::Broken(why) = &stored {
            write(
                &path,
                files::preserve(&path).map(|kept| {
                    warn!(kept = %kept.display(), why, "a session's file that cannot be understood was kept");
                }),
            )?;
        }
        let mut messages = stored.messages();
        for message in new {
            serde_json::from_slice::<serde::de::IgnoredAny>(&message)?;
            messages.push(message);
        }
        let messages = trim::trim(messages, MAX_MESSAGES, MAX_MESSAGE_BYTES);
        write(&path, files::replace(&path, &file::render(key, &messages)))?;
        if let Some(former) = former {
            // Left there, it would come back when the new file is deleted.
            write(&former, fs::remove_file(&former))?;
        }
        Ok(())
    }
}

fn read(path: &Path, parse: impl FnOnce(Bytes) -> Stored) -> Result<Stored, Failure> {
    let bytes = files::read(path, MAX_FILE_BYTES)
        .map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    Ok(bytes.map_or(Stored::Missing, |bytes| parse(Bytes::from(bytes))))
}

fn finish<T>(what: &str, done: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Error> {
    match done {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(Failure::Read { source: ReadError::TooLarge { max_bytes }, .. })) => {
            return Err(failure(
                what,
                &format!("its file is larger than {max_bytes} bytes; delete it or choose another session_id"),
            ));
        }
        Ok(Err(error)) => error!(what, %error, "a session's file failed"),
        Err(error) => error!(what, %error, "work on a session's file was aborted"),
    }
    Err(failure(what, UNKNOWN))
}

fn failure(what: &str, why: &str) -> Error {
    Error::internal(format!("the session could not be {what}: {why}")).code("session_failed")
}

fn summary(entry: &fs::DirEntry) -> Option<Summary> {
    let name = entry.file_name().into_string().ok()?;
    let stem = name.strip_suffix(".json").filter(|stem| !stem.starts_with('.'))?;
    let bytes = files::read(&entry.path(), MAX_FILE_BYTES).ok()??;
    let modified = entry.metadata().and_then(|meta| meta.modified()).ok()?;
    let (names, messages) = file::outline(Bytes::from(bytes))?;
    // The original's files name nobody; its ids seldom hold a dash, its shortcodes often do.
    let (model, session_id) =
        names.or_else(|| stem.rsplit_once('-').map(|(model, id)| (key::decode(model), id.to_owned())))?;
    Some(Summary { model, session_id, messages, modified })
}

#[cfg(test)]
mod tests;
