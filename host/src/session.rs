//! Stored conversations: one readable JSON file for each model and session id.
//!
//! The file is the only truth: what was read or written last is used only while the file bears the mark
//! it had then, so whoever reads, edits or deletes it while the server runs is honoured. Nothing on a
//! request's path looks through the directory, so the number of sessions has no bound but the disk's.
//!
//! A request waits for no disk but its own session's: threads of their own (`clerk`) work through lanes
//! (`lanes`) on the files (`store`), which change in one step (`swap`).

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::timeout};
use tracing::{error, warn};

use crate::{
    error::Error,
    files::{self, LockError, ReadError},
};

mod cache;
mod clerk;
mod compare;
mod file;
mod key;
mod lanes;
mod readers;
mod store;
mod swap;
mod trim;

pub use key::Key;

use clerk::{Job, Office, Work};
use store::Lines;

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

/// How long a request waits for the work before its own, which is longer than any healthy disk needs.
const TURN_WAIT: Duration = Duration::from_secs(60);

/// How long the disk may lack what was written.
const SETTLE_PERIOD: Duration = Duration::from_secs(1);

/// What callers learn of a failure of the machine.
const UNKNOWN: &str = "the server's log says why";

/// The sessions of a data directory.
#[derive(Debug, Clone)]
pub struct Sessions(Arc<Office>);

/// What a session holds: JSON messages, oldest first, the bytes as they came.
#[derive(Debug, Clone, Default)]
pub struct History(Lines);

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
        compare::run(&self.0, messages)
    }

    /// One JSON message each.
    pub fn messages(&self) -> Vec<Bytes> {
        self.0.iter().map(|line| line.text.clone()).collect()
    }
}

/// Which of a request's messages are to be stored: those behind the history if the request holds it
/// (`run`, from [`History::within`]), else all.
pub fn new_messages<T>(run: Option<Range<usize>>, messages: &[T]) -> &[T] {
    run.and_then(|run| messages.get(run.end..)).unwrap_or(messages)
}

impl Sessions {
    /// The sessions in `.sessions` in `data_dir`, each write on the disk when it is acknowledged; the
    /// directory is made when the first one is stored. Blocks.
    pub fn new(data_dir: &Path) -> Self {
        Self::open(data_dir, false)
    }

    /// For a server, the only one on the directory: a write is acknowledged when it outlives the process,
    /// and the disk is brought up to date in [`Sessions::settling`]. Blocks.
    pub fn serve(data_dir: &Path) -> Self {
        let sessions = Self::open(data_dir, true);
        if let Some(swap) = sessions.0.store.swap() {
            swap.recover();
        }
        sessions
    }

    fn open(data_dir: &Path, swaps: bool) -> Self {
        let dir = data_dir.join(".sessions");
        if dir.is_dir() {
            // The original's directory is open to all, its files too.
            if let Err(error) = files::private_dir(&dir) {
                warn!(path = %dir.display(), %error, "the sessions' directory cannot be made private");
            }
            files::sweep(&dir);
        }
        Self(Arc::new(Office::new(dir, data_dir, swaps)))
    }

    /// What a session holds now; nothing if it has no file or one that cannot be understood.
    ///
    /// # Errors
    /// 500 if there is a file that cannot be read or is too large.
    pub async fn load(&self, key: &Key) -> Result<History, Error> {
        if let Some(lines) = self.0.store.known(key) {
            return Ok(History(lines));
        }
        let (answer, answered) = oneshot::channel();
        let pushed = self.0.push(Job { key: key.clone(), work: Work::Load(answer) });
        finish("read", wait(pushed, answered).await).map(History)
    }

    /// Adds messages at the end, JSON objects; the oldest go when there are more than [`MAX_MESSAGES`]. It
    /// returns when they are safe from the end of the process. Once begun it goes on to its end, also if
    /// the caller leaves meanwhile.
    ///
    /// # Errors
    /// 500 if the file cannot be read or written; the session is as it was then.
    pub async fn append(&self, key: &Key, new: Vec<Bytes>) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let pushed = self.0.push(Job { key: key.clone(), work: Work::Append(new, answer) });
        finish("written", wait(pushed, answered).await)
    }

    /// Brings the disk up to date once a second; run it beside a server.
    pub async fn settling(&self) {
        loop {
            tokio::time::sleep(SETTLE_PERIOD).await;
            self.settle().await;
        }
    }

    /// Brings the disk up to date.
    pub async fn settle(&self) {
        if !self.0.store.swap().is_some_and(swap::Swap::is_dirty) {
            return;
        }
        let office = Arc::clone(&self.0);
        let settled = tokio::task::spawn_blocking(move || {
            if let Some(swap) = office.store.swap() {
                swap.settle();
            }
        });
        if let Err(error) = settled.await {
            error!(%error, "sessions were not written out");
        }
    }

    /// All stored sessions, the one written last first. Reads every file, so it is for the command line
    /// only. Blocks.
    pub fn list(&self) -> Vec<Summary> {
        let Ok(entries) = fs::read_dir(self.0.store.dir()) else { return Vec::new() };
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
    #[error("the work before it took longer than {TURN_WAIT:?}")]
    Turn,
    #[error("too much work on sessions waits already")]
    Full,
    #[error("a message is not a JSON object")]
    Message,
    #[error("the work on it was aborted")]
    Aborted,
}

/// Waits for what a job answers. Writes that shared a failure share its words.
async fn wait<T>(
    pushed: Result<(), Failure>,
    answered: oneshot::Receiver<Result<T, Arc<Failure>>>,
) -> Result<T, Arc<Failure>> {
    pushed?;
    let turn = timeout(TURN_WAIT, answered).await.map_err(|_| Failure::Turn)?;
    turn.unwrap_or_else(|_| Err(Failure::Aborted.into()))
}

fn finish<T>(what: &str, done: Result<T, Arc<Failure>>) -> Result<T, Error> {
    let failed = match done {
        Ok(value) => return Ok(value),
        Err(failed) => failed,
    };
    if let Failure::Read { source: ReadError::TooLarge { max_bytes }, .. } = &*failed {
        let why =
            format!("its file is larger than {max_bytes} bytes; delete it or choose another session_id");
        return Err(failure(what, &why));
    }
    error!(what, error = %failed, "a session's file failed");
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
