//! Histories as they were read or written last, each with the mark of its file: good for as long as the
//! file bears it.

use std::{collections::HashMap, path::Path, sync::Arc};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat},
    io::Errno,
};

use super::trim::Line;

/// Most bytes of messages that are kept. What was not used since half of them came goes.
const MAX_BYTES: usize = 32 << 20;

/// What a message costs beyond its bytes.
const OVERHEAD: usize = 96;

/// What tells a file, and each content of it, from any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    file: (u64, u64),
    size: i64,
    changed: (i64, u64),
    status_changed: (i64, u64),
    regular: bool,
}

impl Mark {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            file: (stat.st_dev, stat.st_ino),
            size: stat.st_size,
            changed: (stat.st_mtime, stat.st_mtime_nsec),
            status_changed: (stat.st_ctime, stat.st_ctime_nsec),
            regular: rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file(),
        }
    }

    /// Which file of its file system.
    pub(super) fn inode(&self) -> u64 {
        self.file.1
    }

    /// Whether it is a file, and not a link to one: a link's mark says nothing of its target.
    pub(super) fn is_regular(&self) -> bool {
        self.regular
    }

    /// Whether the file system tells two changes apart that come one right after the other.
    pub(super) fn differs_in_time(&self, other: &Self) -> bool {
        self.status_changed != other.status_changed
    }
}

/// What stands under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Nothing,
    Marked(Mark),
    /// It cannot be told: an error, or the answer would come from the disk.
    Unknown,
}

/// Looks at a name, also if the disk has to be asked. Blocks.
pub(super) fn look(path: &Path) -> Look {
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Look::Marked(Mark::of(&stat)),
        Err(Errno::NOENT) => Look::Nothing,
        Err(_) => Look::Unknown,
    }
}

/// Looks at a name as far as the kernel has it in memory: it waits for no disk.
pub(super) fn glance(path: &Path) -> Look {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).and_then(fstat) {
        Ok(stat) => Look::Marked(Mark::of(&stat)),
        Err(Errno::NOENT) => Look::Nothing,
        Err(_) => Look::Unknown,
    }
}

/// One session's history.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its file's.
    pub(super) mark: Mark,
    /// Whether the file bears the usual name; then there must be none under the session's own.
    pub(super) plain: bool,
    pub(super) lines: Arc<Vec<Line>>,
}

/// Histories by their sessions' own names, in two halves: when the younger is full, the elder goes.
#[derive(Debug, Default)]
pub(super) struct Cache {
    younger: HashMap<Arc<str>, Entry>,
    elder: HashMap<Arc<str>, Entry>,
    bytes: usize,
}

impl Cache {
    pub(super) fn find(&mut self, name: &str) -> Option<&Entry> {
        if !self.younger.contains_key(name) {
            let (name, entry) = self.elder.remove_entry(name)?;
            self.put(name, entry);
        }
        self.younger.get(name)
    }

    pub(super) fn put(&mut self, name: Arc<str>, entry: Entry) {
        let bytes = size(&entry);
        if bytes > MAX_BYTES / 2 {
            return self.forget(&name);
        }
        if self.bytes + bytes > MAX_BYTES / 2 {
            self.elder = std::mem::take(&mut self.younger);
            self.bytes = 0;
        }
        self.elder.remove(&name);
        self.bytes += bytes;
        if let Some(old) = self.younger.insert(name, entry) {
            self.bytes = self.bytes.saturating_sub(size(&old));
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.elder.remove(name);
        if let Some(old) = self.younger.remove(name) {
            self.bytes = self.bytes.saturating_sub(size(&old));
        }
    }
}

fn size(entry: &Entry) -> usize {
    entry.lines.iter().map(|line: &Line| Bytes::len(&line.text) + OVERHEAD).sum::<usize>() + OVERHEAD
}
