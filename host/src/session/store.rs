//! Reading and writing the files of sessions, one thread in a lane at a time.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
};

use bytes::Bytes;
use tracing::warn;

use super::{
    Failure, GROUPS, Key, MAX_FILE_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGES,
    cache::{Cache, Entry, Look, glance, look},
    file::{self, Stored},
    swap::Swap,
    trim::{self, Line},
};
use crate::files::{self, LockError, OpenLock};

/// A session's messages, oldest first.
pub(super) type Lines = Arc<Vec<Line>>;

/// The files of a data directory.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    locks: PathBuf,
    lanes: Vec<Mutex<OpenLock>>,
    cache: Mutex<Cache>,
    /// How a server writes; a program that ends at once waits for the disk instead.
    swap: Option<Swap>,
    probed: Once,
}

/// What there is of a session.
struct Found {
    /// Where it is written.
    path: PathBuf,
    stored: Stored,
    /// The original's file that it comes from, if it stands under another name.
    former: Option<PathBuf>,
}

impl Store {
    pub(super) fn new(dir: PathBuf, data_dir: &Path, swaps: bool) -> Self {
        let locks = data_dir.join(".locks");
        let lock = |lane| Mutex::new(OpenLock::new(locks.join(format!("sessions-{lane:02}"))));
        let lanes = (0..GROUPS).map(lock).collect();
        let swap = swaps.then(|| Swap::new(&dir, locks.join("sessions"), GROUPS));
        Self { lanes, swap, dir, locks, cache: Mutex::default(), probed: Once::new() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn swap(&self) -> Option<&Swap> {
        self.swap.as_ref()
    }

    /// What a session holds, if that can be told without asking the disk.
    pub(super) fn known(&self, key: &Key) -> Option<Lines> {
        self.cached(key, glance)
    }

    /// What a session holds. Blocks.
    pub(super) fn load(&self, key: &Key) -> Result<Lines, Failure> {
        if let Some(lines) = self.cached(key, look) {
            return Ok(lines);
        }
        let (found, lines) = self.read(key)?;
        if let Stored::Broken(why) = &found.stored {
            let path = found.path.display();
            warn!(%path, why, "a session's file cannot be understood; the session starts anew");
        }
        Ok(lines)
    }

    /// Does `work` while no other process writes a session of the lane. `held_up` is told when that takes
    /// a wait. Blocks.
    pub(super) fn locked<T>(
        &self,
        lane: usize,
        held_up: impl FnOnce(&mut OpenLock) -> Result<(), LockError>,
        work: impl FnOnce() -> T,
    ) -> Result<T, Failure> {
        let mut lock = self.lanes[lane].lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lock.try_take().or_else(|error| {
            if matches!(&error, LockError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound) {
                self.make(&self.locks)?;
                return Ok::<_, Failure>(lock.try_take()?);
            }
            Err(error.into())
        })?;
        if !taken {
            held_up(&mut lock)?;
        }
        let done = work();
        lock.release();
        Ok(done)
    }

    /// Adds messages at the end of a session whose lane is locked. Blocks.
    pub(super) fn append(&self, lane: usize, key: &Key, new: Vec<Bytes>) -> Result<(), Failure> {
        let (path, former, lines, regular) = match self.cached_path(key) {
            Some((path, lines)) => (path, None, lines, true),
            None => {
                let (found, lines) = self.read(key)?;
                if let Stored::Broken(why) = &found.stored {
                    let kept = files::preserve(&found.path).map_err(|error| wrote(&found.path, error))?;
                    warn!(kept = %kept.display(), why, "a session's file that cannot be understood was kept");
                }
                let regular = !found.path.is_symlink();
                (found.path, found.former, lines, regular)
            }
        };
        if new.iter().any(|message| !message.starts_with(b"{")) {
            return Err(Failure::Message);
        }
        let mut all = Vec::with_capacity(lines.len() + new.len());
        all.extend(lines.iter().cloned());
        all.extend(new.into_iter().map(Line::new));
        let lines = Arc::new(trim::trim(all, MAX_MESSAGES, MAX_MESSAGE_BYTES));
        let swap = self.swap.as_ref().filter(|_| regular);
        self.write(swap.map(|swap| (swap, lane)), key, &path, &lines).map_err(|error| {
            self.cache().forget(&key.apart());
            wrote(&path, error)
        })?;
        if let Some(former) = former {
            // Left there, it would come back when the new file is deleted.
            fs::remove_file(&former).map_err(|error| wrote(&former, error))?;
        }
        Ok(())
    }

    fn write(&self, swap: Option<(&Swap, usize)>, key: &Key, path: &Path, lines: &Lines) -> io::Result<()> {
        let mut text = Vec::new();
        file::render(key, lines, &mut text);
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(((swap, lane), name)) = swap.zip(name) else {
            files::private_dir(&self.dir)?;
            return files::replace(path, &text);
        };
        self.probed.call_once(|| {
            // What cannot be told counts as inexact.
            let _ = swap.probe();
        });
        let mark = swap.put(lane, name, &text)?;
        if swap.is_exact() {
            let apart = key.apart();
            let plain = *name != *apart;
            self.cache().put(apart.into(), Entry { mark, plain, lines: Arc::clone(lines) });
        }
        Ok(())
    }

    fn cached(&self, key: &Key, look: impl Fn(&Path) -> Look) -> Option<Lines> {
        self.swap.as_ref()?;
        let apart = key.apart();
        let entry = self.cache().find(&apart)?.clone();
        let path = self.dir.join(&*apart);
        let valid = if entry.plain {
            look(&path) == Look::Nothing && look(&self.dir.join(key.plain())) == Look::Marked(entry.mark)
        } else {
            look(&path) == Look::Marked(entry.mark)
        };
        valid.then_some(entry.lines)
    }

    fn cached_path(&self, key: &Key) -> Option<(PathBuf, Lines)> {
        let lines = self.cached(key, look)?;
        let plain = self.cache().find(&key.apart())?.plain;
        Some((self.dir.join(if plain { key.plain() } else { key.apart() }), lines))
    }

    /// Reads a session's file, and remembers it if its mark is sure to tell of every change.
    fn read(&self, key: &Key) -> Result<(Found, Lines), Failure> {
        let exact = self.swap.as_ref().is_some_and(Swap::is_exact);
        let plain = self.dir.join(key.plain());
        let apart = self.dir.join(key.apart());
        let before = [look(&plain), look(&apart)];
        let found = self.find(key)?;
        let Stored::Messages(messages) = &found.stored else { return Ok((found, Lines::default())) };
        let lines: Lines = Arc::new(messages.iter().cloned().map(Line::new).collect());
        if exact && found.former.is_none() && before == [look(&plain), look(&apart)] {
            let is_plain = found.path == plain;
            let mark = if is_plain { before[0] } else { before[1] };
            if let Look::Marked(mark) = mark
                && mark.is_regular()
            {
                let entry = Entry { mark, plain: is_plain, lines: Arc::clone(&lines) };
                self.cache().put(key.apart().into(), entry);
            }
        }
        Ok((found, lines))
    }

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

    fn make(&self, dir: &Path) -> Result<(), Failure> {
        files::private_dir(dir).map_err(|error| wrote(dir, error))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wrote(path: &Path, source: io::Error) -> Failure {
    Failure::Write { path: path.to_owned(), source }
}

fn read(path: &Path, parse: impl FnOnce(Bytes) -> Stored) -> Result<Stored, Failure> {
    let bytes = files::read(path, MAX_FILE_BYTES)
        .map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    Ok(bytes.map_or(Stored::Missing, |bytes| parse(Bytes::from(bytes))))
}
