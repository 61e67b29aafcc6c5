//! Files that must survive a crash, a full disk and a second process: bounded reads, atomic
//! replacement, advisory locks. Everything here blocks; async callers use `spawn_blocking`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use tracing::warn;

/// How the names of temporary files begin. The data directory may be anyone's working directory, so a
/// sweep must know our own.
const TEMPORARY: &str = ".sigorest-tmp-";

/// A temporary file this old belongs to no write that still runs.
const STALE: Duration = Duration::from_secs(3600);

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A directory, pipe or device, or a link to one.
    #[error("it is not a regular file")]
    NotAFile,
    /// More than the caller is ready to hold.
    #[error("it is larger than {max_bytes} bytes")]
    TooLarge {
        /// The bound that was given.
        max_bytes: u64,
    },
    /// What the system said.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process held it for the whole wait.
    #[error("another process has held `{path}` for {waited:?}; try again, or end that process", path = .path.display())]
    Busy {
        /// The lock's file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// Another server runs on this data directory.
    #[error(
        "another sigoREST (pid {pid}) uses the data directory `{dir}`; end it, or choose another with -data-dir",
        dir = .dir.display()
    )]
    Claimed {
        /// The data directory.
        dir: PathBuf,
        /// The other server, as it noted itself; `unknown` if it had no time to.
        pid: String,
    },
    /// What the system said.
    #[error("cannot lock `{path}`: {source}; make its directory writable", path = .path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The whole content of a regular file, also through a symbolic link; `None` if there is none.
///
/// # Errors
/// It is no regular file, is larger than `max_bytes`, or the system refuses.
pub fn read(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, ReadError> {
    // Without NONBLOCK, opening a pipe would wait for a writer, perhaps for ever.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(max_bytes)).unwrap_or(0));
    // The size may grow while it is read, so the bound is on what is read.
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(ReadError::TooLarge { max_bytes });
    }
    Ok(Some(bytes))
}

/// Puts `bytes` where `path` is: after a crash there is the old content or the new one, never a part.
/// The file gets mode 0600 whatever the umask; a symbolic link stays, and its target is replaced.
///
/// # Errors
/// The system refuses; no temporary file is left, and the old content stands, unless all went well but
/// the very last step, syncing the directory.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = target(path)?;
    if fs::metadata(&target).is_ok_and(|meta| !meta.is_file()) {
        return Err(io::Error::other("what stands in its place is not a regular file"));
    }
    let dir = parent(&target);
    let (temporary, file) = create_temporary(dir)?;
    let written = fill(file, bytes).and_then(|()| fs::rename(&temporary, &target));
    if let Err(error) = written {
        // The first error is the one to report; a leftover goes with the next sweep.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(dir)
}

/// Gives the file at `path` a second name beside it, `<name>.broken`, `<name>.broken-2` and so on, so
/// that its bytes outlive a replacement. Tells that name.
///
/// # Errors
/// The system refuses, or a thousand such names are taken.
pub fn preserve(path: &Path) -> io::Result<PathBuf> {
    let source = target(path)?;
    for number in 1..=1000 {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 1 { ".broken".to_owned() } else { format!(".broken-{number}") });
        let name = PathBuf::from(name);
        let kept = fs::hard_link(&source, &name).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Err(error),
            // Some file systems know no links, and a link's target may be on another one.
            _ => copy_new(&source, &name),
        });
        match kept {
            Ok(()) => return sync_dir(parent(&name)).map(|()| name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("a thousand kept copies stand beside it already; remove some"))
}

/// Makes `dir` and its parents with mode 0700, and takes others' rights from it if it exists and is ours.
///
/// # Errors
/// The system refuses, or something else stands there.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    make_dir(dir)?;
    if fs::metadata(dir)?.permissions().mode() & 0o777 != 0o700 {
        // A mounted volume may belong to someone else and still be good to write to.
        let _ = fs::set_permissions(dir, Permissions::from_mode(0o700));
    }
    Ok(())
}

/// Makes `dir` and its parents with mode 0700 whatever the umask; those that exist stay as they are.
///
/// # Errors
/// The system refuses, or something else stands there.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        // A strict umask may have taken even the owner's rights.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o700)),
        // Another process was quicker.
        Err(_) if dir.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes temporary files that a crash left in `dir`.
pub fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY));
        let stale = || {
            let age = entry.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed());
            matches!(age, Ok(Ok(age)) if age > STALE)
        };
        if ours && stale() {
            // Another process may have been quicker.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A held lock; dropping it releases it, and so does the end of the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the advisory lock on `path`, a file made for that alone; it works between processes and
/// between threads.
///
/// # Errors
/// Someone else held it all the time, or the system refuses.
pub fn lock(path: &Path, wait: Duration) -> Result<Lock, LockError> {
    let mut lock = OpenLock::new(path.to_owned());
    lock.take(wait)?;
    lock.file.map(|_file| Lock { _file }).ok_or(LockError::Busy { path: lock.path, waited: wait })
}

/// An advisory lock whose file stays open, for those who take it again and again.
#[derive(Debug)]
pub struct OpenLock {
    path: PathBuf,
    file: Option<File>,
}

impl OpenLock {
    /// The lock on `path`; not taken, and not opened yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Takes it if nobody else holds it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn try_take(&mut self) -> Result<bool, LockError> {
        self.try_once().map_err(|source| LockError::Io { path: self.path.clone(), source })
    }

    fn try_once(&mut self) -> io::Result<bool> {
        loop {
            let file = match self.file.take() {
                Some(file) => file,
                None => open_lock(&self.path)?,
            };
            let taken = try_lock(&file, &self.path)?;
            // A file that somebody removed locks nobody else out any more.
            if !taken || file.metadata()?.nlink() > 0 {
                self.file = Some(file);
                return Ok(taken);
            }
        }
    }

    /// Takes it, and waits for whoever holds it.
    ///
    /// # Errors
    /// Someone else held it all the time, or the system refuses.
    pub fn take(&mut self, wait: Duration) -> Result<(), LockError> {
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(1);
        while !self.try_take()? {
            if Instant::now() >= deadline {
                return Err(LockError::Busy { path: self.path.clone(), waited: wait });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Gives it back.
    pub fn release(&mut self) {
        let released = self.file.as_ref().map(|file| flock(file, FlockOperation::Unlock));
        if !matches!(released, Some(Ok(()))) {
            // Closing releases it too.
            self.file = None;
        }
    }
}

/// Claims a data directory for one server: `.lock` in it holds the server's pid. Keep what comes back
/// for as long as the server runs.
///
/// # Errors
/// Another server has it, or the system refuses.
pub fn claim(data_dir: &Path) -> Result<Lock, LockError> {
    let path = data_dir.join(".lock");
    let failed = |source| LockError::Io { path: path.clone(), source };
    let mut file = open_lock(&path).map_err(failed)?;
    if !try_lock(&file, &path).map_err(failed)? {
        let mut pid = String::new();
        // Without a pid the refusal is still right, only less helpful.
        let _ = file.take(20).read_to_string(&mut pid);
        let pid = pid.trim();
        let pid = if pid.is_empty() { "unknown" } else { pid }.to_owned();
        return Err(LockError::Claimed { dir: data_dir.to_owned(), pid });
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(Lock { _file: file })
}

fn open_lock(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o777 != 0o600 {
        // A strict umask takes even the owner's rights; a file of someone else may still be good to lock.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
    Ok(file)
}

/// Whether the lock is ours now.
fn try_lock(file: &File, path: &Path) -> io::Result<bool> {
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => {
                // Some network file systems have no locks; one server alone works there all the same.
                warn!(path = %path.display(), "this file system has no locks; run one process on it only");
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where a write to `path` belongs: behind its symbolic links.
fn target(path: &Path) -> io::Result<PathBuf> {
    if !path.is_symlink() {
        return Ok(path.to_owned());
    }
    match fs::canonicalize(path) {
        // A link to what does not exist yet: the write makes it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(parent(path).join(fs::read_link(path)?)),
        found => found,
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn create_temporary(dir: &Path) -> io::Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    // Names of a process with our pid (after a restart, in another container) may stand there.
    for _ in 0..1000 {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn fill(mut file: File, bytes: &[u8]) -> io::Result<()> {
    // A strict umask may have taken even the owner's rights.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn copy_new(source: &Path, name: &Path) -> io::Result<()> {
    let mut from = File::open(source)?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(name)?;
    io::copy(&mut from, &mut to).and_then(|_| to.sync_all()).inspect_err(|_| {
        // Half a copy is worse than none; the original still stands.
        let _ = fs::remove_file(name);
    })
}

/// Makes a rename last through a power cut.
///
/// # Errors
/// The system refuses.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some file systems cannot sync directories; there the rename is as safe as it gets.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests;
