//! What lies in the plugin directories, told by their facts alone: nothing is opened.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// File of digests beside the plugins.
pub const LOCK: &str = "plugins.lock";

/// File of minisign public keys, beside the plugins or in the data directory.
pub const KEYS: &str = "trusted-keys";

/// Most entries that are looked at in one directory.
const MAX_ENTRIES: usize = 4096;

/// A file changes, appears or goes for good when this time passed without a further change: copies and
/// editors write in many steps.
const SETTLED: Duration = Duration::from_millis(500);

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(facts: Metadata) -> Self {
        Self {
            device: facts.dev(),
            inode: facts.ino(),
            size: facts.size(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        }
    }
}

/// The files that matter, with their states.
pub type View = BTreeMap<PathBuf, Stamp>;

/// Looks at the directories; one that is missing holds nothing. Of what cannot be looked at, for want of
/// descriptors or rights, nothing is known: there `known` stands, or a busy moment would unload every plugin.
pub fn scan(dirs: &[PathBuf], data_dir: &Path, known: &View) -> View {
    let mut view = View::new();
    for dir in dirs {
        let paths = match entries(dir) {
            Ok(paths) => paths,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::debug!(dir = %dir.display(), %error, "the plugin directory cannot be read");
                known.keys().filter(|path| path.parent() == Some(dir)).cloned().collect()
            }
        };
        let paths = paths.into_iter().filter(|path| matters(path));
        view.extend(paths.filter_map(|path| with_stamp(path, known)));
    }
    view.extend(with_stamp(data_dir.join(KEYS), known));
    view
}

fn entries(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::read_dir(dir)?.take(MAX_ENTRIES).map(|entry| Ok(entry?.path())).collect()
}

/// With the state of the file that a link leads to; of the link itself if it leads nowhere.
fn with_stamp(path: PathBuf, known: &View) -> Option<(PathBuf, Stamp)> {
    match std::fs::metadata(&path).or_else(|_| std::fs::symlink_metadata(&path)) {
        Ok(facts) => Some((path, facts.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(_) => known.get(&path).map(|stamp| (path.clone(), *stamp)),
    }
}

/// Plugins and what belongs to them; hidden and temporary names (`.x.so.swp`, `x.so~`, `x.so.tmp`) do not.
fn matters(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let ends = [".so", ".models.csv", ".so.minisig"];
    !name.starts_with('.')
        && !name.starts_with('#')
        && (ends.iter().any(|end| name.ends_with(end)) || name == LOCK || name == KEYS)
}

/// Whether a file is to be loaded.
pub fn is_plugin(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "so")
}

/// Follows the directories from look to look until changes have settled.
#[derive(Default)]
pub struct Watch {
    /// The last state of each path that differs from what is in force, and since when it is so.
    unsettled: BTreeMap<PathBuf, (Option<Stamp>, Instant)>,
}

impl Watch {
    /// What to bring into force: `applied` with those changes that have settled; `None` if there are none.
    pub fn settled(&mut self, applied: &View, now: View, at: Instant) -> Option<View> {
        let paths = applied.keys().chain(now.keys().filter(|path| !applied.contains_key(*path)));
        let differing = paths.filter(|path| applied.get(*path) != now.get(*path));
        let mut unsettled = BTreeMap::new();
        for path in differing {
            let state = now.get(path).copied();
            let before = self.unsettled.get(path).filter(|(known, _)| *known == state);
            unsettled.insert(path.clone(), (state, before.map_or(at, |(_, since)| *since)));
        }
        self.unsettled = unsettled;
        let settled = |(_, since): &(Option<Stamp>, Instant)| at.duration_since(*since) >= SETTLED;
        if !self.unsettled.values().any(settled) {
            return None;
        }
        let mut view = applied.clone();
        for (path, (state, _)) in self.unsettled.iter().filter(|(_, entry)| settled(entry)) {
            match state {
                Some(stamp) => view.insert(path.clone(), *stamp),
                None => view.remove(path),
            };
        }
        Some(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plugins_and_what_belongs_to_them_matter() {
        for name in ["a.so", "libacme.so", "acme.models.csv", "a.so.minisig", LOCK, KEYS] {
            assert!(matters(&Path::new("/p").join(name)), "{name}");
        }
        for name in [".a.so", "a.so~", "a.so.swp", ".a.so.swp", "a.so.tmp", "#a.so#", "a.txt", "4913", "so"] {
            assert!(!matters(&Path::new("/p").join(name)), "{name}");
        }
    }

    #[test]
    fn of_what_cannot_be_read_the_known_stands() {
        let stamp = Stamp { device: 1, inode: 1, size: 1, modified: (0, 0), changed: (0, 0) };
        // A file in the place of a directory cannot be listed; it is not missing either.
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (dir, gone) = (file.path().to_owned(), PathBuf::from("/nonexistent"));
        let known: View = [(dir.join("a.so"), stamp), (gone.join("b.so"), stamp)].into();
        let seen = scan(&[dir.clone(), gone], Path::new("/nonexistent"), &known);
        assert_eq!(seen, [(dir.join("a.so"), stamp)].into());
    }

    #[test]
    fn a_change_counts_when_it_has_settled() {
        let stamp = |size| Stamp { device: 1, inode: 1, size, modified: (0, 0), changed: (0, 0) };
        let view = |sizes: &[(&str, u64)]| -> View {
            sizes.iter().map(|(name, size)| (PathBuf::from(*name), stamp(*size))).collect()
        };
        let (mut watch, start) = (Watch::default(), Instant::now());
        let applied = view(&[("a", 1), ("b", 1)]);
        let mut check = |now: &[(&str, u64)], ms: u64, expected: Option<&[(&str, u64)]>| {
            let at = start + Duration::from_millis(ms);
            assert_eq!(watch.settled(&applied, view(now), at), expected.map(view), "{ms}");
        };
        check(&[("a", 1), ("b", 1)], 0, None);
        // One is being copied, one has gone, one has come.
        check(&[("a", 2), ("c", 1)], 100, None);
        check(&[("a", 3), ("c", 1)], 300, None);
        check(&[("a", 4), ("c", 1)], 600, Some(&[("a", 1), ("c", 1)]));
        check(&[("a", 4), ("b", 1)], 700, None);
        check(&[("a", 4), ("b", 1)], 1100, Some(&[("a", 4), ("b", 1)]));
    }
}
