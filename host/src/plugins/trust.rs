//! Which files may be read as plugins at all: by their owner and mode, by `plugins.lock`, by signature.

use std::{
    collections::HashMap,
    fs::{File, Metadata, OpenOptions},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use minisign_verify::{PublicKey, Signature};
use provider_api::loader::{self, Refused};
use rustix::fs::OFlags;

use super::scan::{KEYS, LOCK};
use crate::files;

/// Largest lock, key and signature file.
const MAX_SMALL_BYTES: u64 = 1 << 20;

/// Kinds of places, for messages.
const FILE: &str = "it";

/// The rules of one plugin directory.
pub struct Trust {
    /// The directory, links resolved.
    dir: PathBuf,
    /// Why nothing in it may be loaded.
    wrong: Option<Refused>,
    /// Digests by file name; `None` without a lock.
    lock: Option<HashMap<String, Vec<String>>>,
    /// `None` if no signature is asked for.
    keys: Option<Vec<PublicKey>>,
}

impl Trust {
    /// Reads a directory's rules; what is wrong with them refuses every file in it.
    pub fn read(dir: &Path, data_dir: &Path) -> Self {
        let mut trust = Self { dir: dir.to_owned(), wrong: None, lock: None, keys: None };
        if let Err(refused) = trust.fill(data_dir) {
            trust.wrong = Some(refused);
        }
        trust
    }

    fn fill(&mut self, data_dir: &Path) -> Result<(), Refused> {
        self.dir = self.dir.canonicalize().map_err(|error| {
            Refused::new("cannot_read", format!("its directory cannot be found: {error}"))
        })?;
        check_place(&self.dir)?;
        self.lock = small_file(&self.dir.join(LOCK))?.map(|text| lock(&text)).transpose()?;
        for place in [self.dir.join(KEYS), data_dir.join(KEYS)] {
            if let Some(text) = small_file(&place)? {
                let more = keys(&text, &place)?;
                self.keys.get_or_insert_default().extend(more);
            }
        }
        Ok(())
    }

    /// Opens a file of this directory if its place, owner and mode are right. Never waits.
    ///
    /// # Errors
    /// Why it may not be read as a plugin.
    pub fn open(&self, path: &Path) -> Result<File, Refused> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        let unreadable =
            |error: std::io::Error| Refused::new("cannot_read", format!("it cannot be read: {error}"));
        let real = path.canonicalize().map_err(unreadable)?;
        if !real.starts_with(&self.dir) {
            let text = "it is a link out of the plugin directory; copy the file itself here";
            return Err(Refused::new("link_outside", text));
        }
        if let Some(parent) = real.parent().filter(|parent| *parent != self.dir) {
            check_place(parent)?;
        }
        let odd = || Refused::new("not_a_file", "it is not a regular file; put only plugin files here");
        // Opening a device can do something, and a socket cannot be opened.
        if !std::fs::symlink_metadata(&real).map_err(unreadable)?.is_file() {
            return Err(odd());
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&real).map_err(unreadable)?;
        let facts = file.metadata().map_err(unreadable)?;
        if !facts.is_file() {
            return Err(odd());
        }
        check_facts(&facts, FILE, "chmod go-w it")?;
        Ok(file)
    }

    /// Whether lock and keys admit these bytes.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, path: &Path, bytes: &[u8], sha256: &str) -> Result<(), Refused> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(lock) = &self.lock {
            match lock.get(&*name) {
                None => {
                    let text =
                        format!("it is not in {LOCK}; if it shall run, add the line `{sha256}  {name}`");
                    return Err(Refused::new("not_locked", text));
                }
                Some(digests) if !digests.iter().any(|digest| digest == sha256) => {
                    let text = format!(
                        "its digest is {sha256}, which is not the one in {LOCK}; copy the right file, or change the line"
                    );
                    return Err(Refused::new("digest_mismatch", text));
                }
                Some(_) => {}
            }
        }
        match &self.keys {
            Some(keys) => signed(path, bytes, keys),
            None => Ok(()),
        }
    }
}

fn signed(path: &Path, bytes: &[u8], keys: &[PublicKey]) -> Result<(), Refused> {
    let mut place = path.as_os_str().to_owned();
    place.push(".minisig");
    let Some(text) = small_file(Path::new(&place))? else {
        let text = format!("{KEYS} asks for a signature; put its .minisig file beside it (minisign -S)");
        return Err(Refused::new("unsigned", text));
    };
    let bad = |why: &dyn std::fmt::Display| {
        let text = format!("its signature is wrong: {why}; sign the file again with a key that {KEYS} holds");
        Refused::new("bad_signature", text)
    };
    let signature = Signature::decode(&text).map_err(|error| bad(&error))?;
    let mut last = None;
    for key in keys {
        match key.verify(bytes, &signature, true) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| bad(&"no key fits"), |error| bad(&error)))
}

/// Reads a file that decides over others, which therefore must be as hard to change as they are.
fn small_file(path: &Path) -> Result<Option<String>, Refused> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let refused = |why: String| Refused::new("bad_rules", format!("{name} beside it {why}"));
    let bytes = match files::read(path, MAX_SMALL_BYTES) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) => return Err(refused(format!("cannot be read: {error}"))),
    };
    let facts = std::fs::metadata(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    check_facts(&facts, &name, &format!("chmod go-w {name}"))?;
    String::from_utf8(bytes).map(Some).map_err(|_| refused("is not text".into()))
}

/// `sha256  filename`, as sha256sum writes it.
fn lock(text: &str) -> Result<HashMap<String, Vec<String>>, Refused> {
    let mut lock = HashMap::<String, Vec<String>>::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = line
            .split_once(char::is_whitespace)
            .filter(|(digest, _)| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some((digest, name)) = entry else {
            let text = format!("line {} of {LOCK} is not `sha256  filename`; mend it", number + 1);
            return Err(Refused::new("bad_rules", text));
        };
        let name = name.trim_start().trim_start_matches('*').trim_start_matches("./");
        lock.entry(name.to_owned()).or_default().push(digest.to_ascii_lowercase());
    }
    Ok(lock)
}

/// minisign public keys: the base64 lines of their files, one after the other.
fn keys(text: &str, place: &Path) -> Result<Vec<PublicKey>, Refused> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#') && !line.contains("comment:"));
    lines
        .map(|line| {
            PublicKey::from_base64(line).map_err(|error| {
                let text = format!("{} holds no minisign public keys: {error}; mend it", place.display());
                Refused::new("bad_rules", text)
            })
        })
        .collect()
}

/// Whether nobody but root and us can change what a directory holds, all its parents included.
fn check_place(dir: &Path) -> Result<(), Refused> {
    for (depth, place) in dir.ancestors().enumerate() {
        let facts = std::fs::metadata(place).map_err(|error| {
            Refused::new("cannot_read", format!("the directory {} cannot be read: {error}", place.display()))
        })?;
        // In a sticky directory only its owner can rename or replace an entry, and the entry's owner is
        // checked as well.
        if depth > 0 && facts.mode() & 0o1000 != 0 && ours(facts.uid()) {
            continue;
        }
        let name = format!("the directory {}", place.display());
        check_facts(&facts, &name, &format!("chmod go-w {}", place.display()))?;
    }
    Ok(())
}

fn check_facts(facts: &Metadata, name: &str, mend: &str) -> Result<(), Refused> {
    let (owner, mode) = (facts.uid(), facts.mode());
    if !ours(owner) {
        let us = rustix::process::geteuid().as_raw();
        let text =
            format!("{name} belongs to user {owner}; it must belong to root or to user {us}: chown it");
        return Err(Refused::new("wrong_owner", text));
    }
    if mode & 0o002 != 0 {
        return Err(Refused::new("wrong_mode", format!("{name} can be written by everyone; {mend}")));
    }
    if mode & 0o020 != 0 && primary_group(owner) != Some(facts.gid()) {
        let text = format!("{name} can be written by the group {}; {mend}", facts.gid());
        return Err(Refused::new("wrong_mode", text));
    }
    Ok(())
}

/// Whether a user is root or the one that this process runs as.
fn ours(owner: u32) -> bool {
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}

/// The group that a user's files belong to by themselves.
fn primary_group(user: u32) -> Option<u32> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let (id, group) = (fields.next()?, fields.next()?);
        (id.parse() == Ok(user)).then(|| group.parse().ok()).flatten()
    });
    let own = (user == rustix::process::geteuid().as_raw()).then(|| rustix::process::getegid().as_raw());
    listed.or(own)
}

/// Reads an opened plugin file and its digest.
///
/// # Errors
/// As [`loader::read_open`].
pub fn read(file: File) -> Result<(Vec<u8>, String), Refused> {
    use sha2::{Digest, Sha256};
    let bytes = loader::read_open(file)?;
    let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes, sha256))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn locks_are_what_sha256sum_writes() {
        let digest = "A".repeat(64);
        let text = format!("# ours\n{digest}  a.so\n{digest} *b c.so\n\n{digest}  ./a.so\n");
        let lock = lock(&text).expect("a lock");
        assert_eq!((lock["a.so"].len(), &lock["b c.so"][0]), (2, &"a".repeat(64)));
        for text in ["abc  a.so", "a.so", &digest] {
            assert_eq!(super::lock(text).expect_err(text).reason, "bad_rules");
        }
    }

    #[test]
    fn who_could_change_a_plugin_must_be_root_or_us() {
        let base = tempfile::tempdir().expect("a directory");
        let dir = base.path().join("plugins");
        let file = dir.join("a.so");
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::write(&file, "x").expect("a file");
        let outside = base.path().join("outside.so");
        std::fs::write(&outside, "x").expect("a file");
        std::os::unix::fs::symlink(&outside, dir.join("out.so")).expect("a link");
        std::os::unix::fs::symlink("a.so", dir.join("in.so")).expect("a link");
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe.so"), rustix::fs::Mode::RWXU).expect("a pipe");
        let mode = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        };
        mode(&dir, 0o755);
        mode(&file, 0o644);
        let check = |name: &str, expected: &str| {
            let opened = Trust::read(&dir, base.path()).open(&dir.join(name));
            assert_eq!(opened.err().map_or("", |refused| refused.reason), expected, "{name}");
        };
        check("a.so", "");
        check("in.so", "");
        check("out.so", "link_outside");
        check("pipe.so", "not_a_file");
        check("none.so", "cannot_read");
        mode(&file, 0o646);
        check("a.so", "wrong_mode");
        mode(&file, 0o644);
        mode(&dir, 0o777);
        check("a.so", "wrong_mode");
        mode(&dir, 0o755);
        std::fs::write(dir.join(LOCK), "what\n").expect("a file");
        check("a.so", "bad_rules");
    }
}
