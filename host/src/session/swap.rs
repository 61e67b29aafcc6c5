//! Putting a session's new text in place without waiting for the disk.
//!
//! The text goes into a file beside, which then changes places with the old one: whoever looks, and
//! whenever the process is killed, there is the old text or the new one. A plain rename over the old file
//! would have the file system write the text out at once: 100 µs of processor time, against 10.
//!
//! Against a power cut, the disk is brought up to date once a second (`settle`). Until then the text that
//! the disk is sure to have stays beside, and a start after a power cut puts it back (`recover`) if what is
//! in its place cannot be read.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use rustix::fs::{CWD, RenameFlags, fstat, renameat_with, syncfs};
use tracing::warn;

use super::{cache::Mark, file, readers::Readers};
use crate::files;

/// How the names of files that are being filled begin.
const SPARE: &str = "spare-";

/// Larger files are not filled anew: their pages would be kept for nothing.
const MAX_SPARE_BYTES: u64 = 1 << 20;

/// Files that are written out one by one.
const FEW: usize = 16;

/// The files beside the sessions of a data directory.
#[derive(Debug)]
pub(super) struct Swap {
    sessions: PathBuf,
    dir: PathBuf,
    lanes: Vec<Mutex<Lane>>,
    readers: Readers,
    dirty: AtomicBool,
    /// Whether the file system tells changes apart that follow at once; found out with the first write.
    exact: AtomicBool,
}

#[derive(Debug, Default)]
struct Lane {
    /// What was put since the disk was brought up to date.
    hot: HashMap<String, Put>,
    /// Alternates: what is kept beside while the disk is being written is not what is kept after that.
    odd: bool,
    spare: Option<Spare>,
}

/// What stands under a name: which file, and since when in the readers' count.
#[derive(Debug)]
struct Put {
    inode: u64,
    since: Option<u64>,
}

/// A file that was replaced and may be filled again.
#[derive(Debug)]
struct Spare {
    file: File,
    bytes: u64,
    /// The session that it was, and since when in the readers' count.
    was: String,
    since: u64,
}

impl Swap {
    /// For the sessions in `sessions`; what is beside them goes into `dir`.
    pub(super) fn new(sessions: &Path, dir: PathBuf, lanes: usize) -> Self {
        let lanes = (0..lanes).map(|_| Mutex::default()).collect();
        let sessions = sessions.to_owned();
        let (dirty, exact) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { readers: Readers::new(), sessions, dir, lanes, dirty, exact }
    }

    /// Whether a file that bears an old mark is sure to hold the old text.
    pub(super) fn is_exact(&self) -> bool {
        self.exact.load(Ordering::Relaxed)
    }

    /// Whether the disk lacks anything.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Puts `text` where the session's file `name` is or will be. One caller at a time in a lane.
    ///
    /// # Errors
    /// The system refuses; the old text stands.
    pub(super) fn put(&self, lane: usize, name: &str, text: &[u8]) -> io::Result<Mark> {
        let mut state = self.lane(lane);
        let beside = self.dir.join(format!("{SPARE}{lane:02}"));
        self.fill_and_swap(&mut state, &beside, name, text).inspect_err(|_| {
            // The first error is the one to report; a leftover is removed before the next write.
            let _ = fs::remove_file(&beside);
        })
    }

    fn fill_and_swap(&self, state: &mut Lane, beside: &Path, name: &str, text: &[u8]) -> io::Result<Mark> {
        let since = self.readers.look(&self.sessions);
        let (file, had) = match state.spare.take() {
            Some(spare) if !self.readers.opened(&spare.was, spare.since) => (spare.file, spare.bytes),
            _ => (self.create(beside)?, 0),
        };
        file.write_all_at(text, 0)?;
        if had > text.len() as u64 {
            file.set_len(text.len() as u64)?;
        }
        let target = self.sessions.join(name);
        let exchanged = renameat_with(CWD, beside, CWD, &target, RenameFlags::EXCHANGE).is_ok();
        if !exchanged {
            // There is none yet, or the file system knows no exchange.
            self.rename(beside, &target)?;
        }
        self.dirty.store(true, Ordering::Release);
        let mark = Mark::of(&fstat(&file)?);
        match state.hot.insert(name.to_owned(), Put { inode: mark.inode(), since }) {
            _ if !exchanged => {}
            // The disk is sure to have this one.
            None => fs::rename(beside, self.kept(name, state.odd))?,
            Some(before) => state.spare = self.retire(beside, name, before)?,
        }
        Ok(mark)
    }

    fn rename(&self, beside: &Path, target: &Path) -> io::Result<()> {
        match fs::rename(beside, target) {
            // Whoever removes the whole directory has no sessions, and may have some again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files::private_dir(&self.sessions)?;
                fs::rename(beside, target)
            }
            done => done,
        }
    }

    /// What is to become of a text that was replaced.
    fn retire(&self, beside: &Path, name: &str, put: Put) -> io::Result<Option<Spare>> {
        self.readers.look(&self.sessions);
        if let Some(since) = put.since.filter(|since| !self.readers.opened(name, *since)) {
            let file = OpenOptions::new().write(true).open(beside)?;
            let meta = file.metadata()?;
            // Someone may have put another file there, or given this one a second name.
            if meta.ino() == put.inode && meta.nlink() == 1 && meta.len() <= MAX_SPARE_BYTES {
                return Ok(Some(Spare { file, bytes: meta.len(), was: name.to_owned(), since }));
            }
        }
        self.readers.forget(name);
        fs::remove_file(beside)?;
        Ok(None)
    }

    fn create(&self, beside: &Path) -> io::Result<File> {
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside);
        let file = open().or_else(|error| {
            match error.kind() {
                io::ErrorKind::AlreadyExists => fs::remove_file(beside)?,
                io::ErrorKind::NotFound => {
                    files::private_dir(&self.dir)?;
                    files::private_dir(&self.sessions)?;
                }
                _ => return Err(error),
            }
            open()
        })?;
        if file.metadata()?.permissions().mode() & 0o777 != 0o600 {
            // A strict umask may have taken even the owner's rights.
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(file)
    }

    /// Writes out what is not on the disk yet. Blocks.
    pub(super) fn settle(&self) {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return;
        }
        let (mut names, mut kept) = (Vec::new(), Vec::new());
        for number in 0..self.lanes.len() {
            let mut state = self.lane(number);
            let odd = state.odd;
            for (name, _) in state.hot.drain() {
                kept.push(self.kept(&name, odd));
                names.push(name);
            }
            state.odd = !state.odd;
            if state.spare.take().is_some() {
                // Nothing that was replaced or deleted lingers.
                let _ = fs::remove_file(self.dir.join(format!("{SPARE}{number:02}")));
            }
        }
        if let Err(error) = self.write_out(&names) {
            warn!(%error, "sessions could not be written out; a power cut now would lose their last second");
            return;
        }
        for path in kept {
            // A new session had nothing to be kept.
            let _ = fs::remove_file(path);
        }
    }

    /// A few files one by one; many with all that waits on their file system, others' files too.
    fn write_out(&self, names: &[String]) -> io::Result<()> {
        let dir = File::open(&self.sessions)?;
        if names.len() > FEW {
            return Ok(syncfs(dir)?);
        }
        for name in names {
            match File::open(self.sessions.join(name)).and_then(|file| file.sync_all()) {
                // It was deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        files::sync_dir(&self.sessions)
    }

    /// After a crash: puts back what the disk was sure to have where the last second's text was lost.
    pub(super) fn recover(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut found: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        found.sort_by(|a, b| b.cmp(a));
        for (_, path) in found {
            let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| name.ends_with(".json"));
            let target = name.map(|name| self.sessions.join(name));
            if let Some(target) = target.filter(|target| lost(target) && !lost(&path)) {
                warn!(path = %target.display(), "a session lost its last second to a power cut; what was there before is put back");
                if let Err(error) = fs::rename(&path, &target) {
                    warn!(path = %path.display(), %error, "it cannot be put back; copy it yourself");
                }
                continue;
            }
            let _ = fs::remove_file(path);
        }
    }

    /// Finds out how finely the file system tells times; writes a small file.
    pub(super) fn probe(&self) -> io::Result<()> {
        let path = self.dir.join(format!("{SPARE}probe"));
        let file = self.create(&path)?;
        let mut marks = Vec::with_capacity(4);
        for _ in 0..4 {
            file.write_all_at(b"x", 0)?;
            marks.push(Mark::of(&fstat(&file)?));
        }
        let exact = marks.windows(2).all(|pair| pair[0].differs_in_time(&pair[1]));
        let together = fs::metadata(&self.dir)?.dev() == fs::metadata(&self.sessions)?.dev();
        self.exact.store(exact && together, Ordering::Relaxed);
        fs::remove_file(path)
    }

    fn kept(&self, name: &str, odd: bool) -> PathBuf {
        self.dir.join(format!("{name}.{}", u8::from(odd)))
    }

    fn lane(&self, lane: usize) -> std::sync::MutexGuard<'_, Lane> {
        self.lanes[lane].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file is there that holds nothing that can be read. One that is not there was deleted.
fn lost(path: &Path) -> bool {
    let read = files::read(path, super::MAX_FILE_BYTES).ok().flatten();
    read.is_some_and(|bytes| file::outline(bytes.into()).is_none())
}
