//! The memory block: one system message that comes first in every chat request.
//!
//! memory.json in the data directory holds it, the embedded default where there is none. What is in
//! force is what is on disk: a new block counts only after its file is safe.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::StatusCode;
use provider_api::request::Members;
use serde_json::json;
use tokio::sync::Mutex;
use tracing::{error, warn};

use crate::{
    error::Error,
    files::{self, ReadError},
};

/// What counts where the data directory has no memory.json.
const EMBEDDED: &str = include_str!("../../memory.json");

/// Largest content: it goes into every request, and no model reads more.
const MAX_CONTENT_BYTES: usize = 1 << 20;

/// Largest file: JSON may write one byte of content as six.
const MAX_FILE_BYTES: u64 = 6 * (1 << 20) + 4096;

/// How long a write waits for another process's.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The memory block of a data directory.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    path: PathBuf,
    block: ArcSwap<Block>,
    /// One writer at a time, in the order they came.
    writer: Arc<Mutex<()>>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("path", &self.0.path).finish_non_exhaustive()
    }
}

/// One state of the memory block.
#[derive(Clone, Default)]
pub struct Block {
    /// What it says; may be empty.
    pub content: String,
    /// Whether models that cache on demand are asked to cache it.
    pub cache: bool,
    message: Option<Bytes>,
    marked: Option<Bytes>,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content is as private as a prompt.
        f.debug_struct("Block").field("bytes", &self.content.len()).field("cache", &self.cache).finish()
    }
}

impl Block {
    fn new(content: String, cache: bool) -> Self {
        let message =
            |content: serde_json::Value| Bytes::from(format!(r#"{{"role":"system","content":{content}}}"#));
        let plain = (!content.is_empty()).then(|| message(json!(content)));
        let marked = (cache && !content.is_empty()).then(|| {
            let text = json!(content);
            let part = format!(r#"{{"type":"text","text":{text},"cache_control":{{"type":"ephemeral"}}}}"#);
            Bytes::from(format!(r#"{{"role":"system","content":[{part}]}}"#))
        });
        Self { content, cache, message: plain, marked }
    }

    /// The JSON system message, ready to be put into a request; `None` if the block is empty.
    /// With `mark`, and if the block is to be cached, its content is one part that carries Anthropic's
    /// cache marker; Claude models want that, others cache by themselves.
    pub fn message(&self, mark: bool) -> Option<&Bytes> {
        if mark { self.marked.as_ref().or(self.message.as_ref()) } else { self.message.as_ref() }
    }

    /// `{"content","cache"}` in one line, as `/api/memory` answers.
    pub fn json(&self) -> String {
        format!(r#"{{"content":{},"cache":{}}}"#, json!(self.content), self.cache)
    }
}

/// Why bytes are no memory block.
#[derive(Debug, thiserror::Error)]
enum Invalid {
    #[error("it is not a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    #[error("`content` must be a string")]
    Content,
    #[error("`cache` must be true or false")]
    Cache,
    #[error("`content` holds {0} bytes; at most {MAX_CONTENT_BYTES} are allowed")]
    TooLong(usize),
}

impl Invalid {
    fn refusal(&self) -> Error {
        let message = format!("the memory block was not changed: {self}");
        match self {
            Self::Json(_) => Error::bad_request(message),
            Self::Content => Error::bad_request(message).param("content"),
            Self::Cache => Error::bad_request(message).param("cache"),
            Self::TooLong(_) => Error::new(StatusCode::PAYLOAD_TOO_LARGE, message).param("content"),
        }
    }
}

/// A missing member or a null is empty or false, others are ignored, as in the original.
fn parse(text: &[u8]) -> Result<Block, Invalid> {
    let members = Members::parse(text)?;
    let content: String = match members.value("content") {
        Some(value) => serde_json::from_str(value).map_err(|_| Invalid::Content)?,
        None => String::new(),
    };
    let cache: bool = match members.value("cache") {
        Some(value) => serde_json::from_str(value).map_err(|_| Invalid::Cache)?,
        None => false,
    };
    if content.len() > MAX_CONTENT_BYTES {
        return Err(Invalid::TooLong(content.len()));
    }
    Ok(Block::new(content, cache))
}

/// Why the file gives no block.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

fn load(path: &Path) -> Result<Block, LoadError> {
    let Some(bytes) = files::read(path, MAX_FILE_BYTES)? else {
        return Ok(parse(EMBEDDED.as_bytes())?);
    };
    // Editors on Windows put a byte order mark first.
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    Ok(parse(text)?)
}

impl Memory {
    /// Reads memory.json in `data_dir`, or the embedded default if there is none. A file that cannot be
    /// used gives an empty block and a warning, and keeps its bytes.
    pub fn open(data_dir: &Path) -> Self {
        files::sweep(data_dir);
        let path = data_dir.join("memory.json");
        let block = load(&path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "memory.json cannot be used; the memory block is empty until it is repaired");
            Block::default()
        });
        Self(Arc::new(Inner { path, block: ArcSwap::from_pointee(block), writer: Arc::default() }))
    }

    /// A block that says nothing and has no file.
    pub fn none() -> Self {
        let inner = Inner { path: PathBuf::new(), block: ArcSwap::default(), writer: Arc::default() };
        Self(Arc::new(inner))
    }

    /// What is in force.
    pub fn block(&self) -> Arc<Block> {
        self.0.block.load_full()
    }

    /// Replaces the block by a body `{"content","cache"}`, which counts from when its file is safe. A
    /// file that could not be used is kept beside the new one as `memory.json.broken`.
    ///
    /// # Errors
    /// 400 for a body of another form, 413 for too much content, 500 if it could not be stored. The old
    /// block stays in force then.
    pub async fn put(&self, body: &[u8]) -> Result<Arc<Block>, Error> {
        let block = Arc::new(parse(body).map_err(|invalid| invalid.refusal())?);
        let turn = Arc::clone(&self.0.writer).lock_owned().await;
        let inner = Arc::clone(&self.0);
        // The whole change is one blocking task: a caller who leaves cannot part the file from what is
        // in force.
        let stored = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            inner.store(&block).map(|()| block)
        });
        match stored.await {
            Ok(Ok(block)) => Ok(block),
            Ok(Err(error)) => {
                error!(path = %self.0.path.display(), %error, "the memory block could not be stored");
                Err(unstored())
            }
            Err(error) => {
                error!(%error, "storing the memory block was aborted");
                Err(unstored())
            }
        }
    }

    /// Reads the file again; a file that cannot be used leaves the block in force as it is.
    pub async fn reload(&self) {
        let turn = Arc::clone(&self.0.writer).lock_owned().await;
        let inner = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            load(&inner.path).map(|block| inner.block.store(Arc::new(block)))
        });
        if let Ok(Err(error)) = read.await {
            warn!(path = %self.0.path.display(), %error, "memory.json cannot be used; the memory block stays as it was");
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error(transparent)]
    Lock(#[from] files::LockError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Inner {
    fn locked(&self) -> Result<files::Lock, StoreError> {
        let locks = self.path.with_file_name(".locks");
        files::private_dir(&locks)?;
        Ok(files::lock(&locks.join("memory"), LOCK_WAIT)?)
    }

    fn store(&self, block: &Arc<Block>) -> Result<(), StoreError> {
        let _lock = self.locked()?;
        if let Err(error) = load(&self.path) {
            let kept = files::preserve(&self.path)?;
            warn!(kept = %kept.display(), %error, "the memory.json that could not be used was kept");
        }
        let text =
            format!("{{\n  \"content\": {},\n  \"cache\": {}\n}}\n", json!(block.content), block.cache);
        let written = files::replace(&self.path, text.as_bytes());
        // A write that failed late may be on disk all the same; what is in force follows the disk.
        let on_disk = || load(&self.path).is_ok_and(|disk| disk.json() == block.json());
        if written.is_ok() || on_disk() {
            self.block.store(Arc::clone(block));
        }
        Ok(written?)
    }
}

fn unstored() -> Error {
    Error::internal("the memory block could not be stored and is as it was; the server's log says why")
        .code("memory_not_stored")
}

#[cfg(test)]
mod tests;
