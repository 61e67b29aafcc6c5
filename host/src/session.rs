//! Stored conversations: one readable JSON file for each model and session id.
//!
//! The file is the only truth: it is read for every request, so whoever reads, edits or deletes it
//! while the server runs is honoured. Nothing on a request's path looks through the directory, so the
//! number of sessions has no bound but the disk's.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    io,
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

/// Largest file. Larger than a request may be by default, since the answer comes on top.
const MAX_FILE_BYTES: u64 = 96 << 20;

/// Most bytes of messages: what is written can be read again.
const MAX_MESSAGE_BYTES: usize = 95 << 20;

/// Writers of sessions in the same group wait for each other; a writer holds its group for the few
/// milliseconds of one write.
const GROUPS: u64 = 64;

/// How long a write waits for another process's.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How long a write waits for the others of this process, which is longer than any healthy disk needs.
const TURN_WAIT: Duration = Duration::from_secs(60);

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
            let (path, stored) = inner.find(&key)?;
            if let Stored::Broken(why) = &stored {
                warn!(path = %path.display(), why, "a session's file cannot be understood; the session starts anew");
            }
            Ok(History { messages: stored.messages() })
        });
        finish("read", read.await)
    }

    /// Adds messages at the end; the oldest go when there are more than [`MAX_MESSAGES`]. It returns when
    /// the file is safe, and is done or not done, never half, also if the caller leaves meanwhile.
    ///
    /// # Errors
    /// 500 if the file cannot be read or written; the session is as it was then.
    pub async fn append(&self, key: &Key, new: Vec<Bytes>) -> Result<(), Error> {
        let group = key.group(GROUPS);
        let Some(turn) = self.0.groups.get(group) else { return Err(failure("written")) };
        let Ok(turn) = timeout(TURN_WAIT, Arc::clone(turn).lock_owned()).await else {
            error!("writing a session waited too long for the writes before it");
            return Err(failure("written"));
        };
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        let written = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            inner.append(&key, group, new)
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
    #[error("a message is not JSON: {0}")]
    Message(#[from] serde_json::Error),
}

impl Inner {
    /// The file of a session and what is in it. The name of its own comes first: once a session has
    /// one, it stays there even when the shared name becomes free.
    fn find(&self, key: &Key) -> Result<(PathBuf, Stored), Failure> {
        let apart = self.dir.join(key.apart());
        let stored = read(&apart, key)?;
        if !matches!(stored, Stored::Missing) {
            return Ok((apart, stored));
        }
        let plain = self.dir.join(key.plain());
        match read(&plain, key)? {
            Stored::Foreign => Ok((apart, Stored::Missing)),
            stored => Ok((plain, stored)),
        }
    }

    fn append(&self, key: &Key, group: usize, new: Vec<Bytes>) -> Result<(), Failure> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Failure::Write { path, source }
        };
        files::private_dir(&self.dir).map_err(failed(&self.dir))?;
        files::private_dir(&self.locks).map_err(failed(&self.locks))?;
        let _lock = files::lock(&self.locks.join(format!("sessions-{group:02}")), LOCK_WAIT)?;
        let (path, stored) = self.find(key)?;
        if let Stored::Broken(why) = &stored {
            let kept = files::preserve(&path).map_err(failed(&path))?;
            warn!(kept = %kept.display(), why, "a session's file that cannot be understood was kept");
        }
        let mut messages = stored.messages();
        for message in new {
            serde_json::from_slice::<serde::de::IgnoredAny>(&message)?;
            messages.push(message);
        }
        let messages = trim::trim(messages, MAX_MESSAGES, MAX_MESSAGE_BYTES);
        files::replace(&path, &file::render(key, &messages)).map_err(failed(&path))
    }
}

fn read(path: &Path, key: &Key) -> Result<Stored, Failure> {
    let bytes = files::read(path, MAX_FILE_BYTES)
        .map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    Ok(bytes.map_or(Stored::Missing, |bytes| file::parse(Bytes::from(bytes), key)))
}

fn finish<T>(what: &str, done: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Error> {
    match done {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error!(what, %error, "a session's file failed"),
        Err(error) => error!(what, %error, "work on a session's file was aborted"),
    }
    Err(failure(what))
}

fn failure(what: &str) -> Error {
    Error::internal(format!("the session could not be {what}; the server's log says why"))
        .code("session_failed")
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

/// A stable group of a name, the same in every process of this version.
fn group_of(name: &str, groups: u64) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    usize::try_from(hasher.finish() % groups).unwrap_or(0)
}
