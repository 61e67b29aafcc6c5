//! Files on a real directory.

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_replaced_file_is_private_whole_and_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    replace(&path, b"new").unwrap();
    assert_eq!(read(&path, 3).unwrap().unwrap(), b"new");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(dir.path()), ["a.json"]);
}

#[test]
fn a_failed_replacement_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("taken")).unwrap();
    replace(&dir.path().join("taken"), b"new").unwrap_err();
    replace(&dir.path().join("missing/a"), b"new").unwrap_err();
    assert_eq!(names(dir.path()), ["taken"]);
}

#[test]
fn a_link_stays_and_its_target_is_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("there")).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("there/file", &link).unwrap();
    for content in ["first", "second"] {
        replace(&link, content.as_bytes()).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(dir.path().join("there/file")).unwrap(), content);
    }
}

#[test]
fn only_regular_files_within_the_bound_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("five"), "12345").unwrap();
    assert!(read(&at("none"), 5).unwrap().is_none());
    assert_eq!(read(&at("five"), 5).unwrap().unwrap(), b"12345");
    assert!(matches!(read(&at("five"), 4), Err(ReadError::TooLarge { max_bytes: 4 })));
    assert!(matches!(read(dir.path(), 5), Err(ReadError::NotAFile)));
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(read(&at("pipe"), 5), Err(ReadError::NotAFile)));
    assert!(matches!(read(Path::new("/dev/zero"), 5), Err(ReadError::NotAFile)));
}

#[test]
fn a_lock_excludes_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let held = lock(&path, Duration::ZERO).unwrap();
    assert!(matches!(lock(&path, Duration::from_millis(5)), Err(LockError::Busy { .. })));
    drop(held);
    lock(&path, Duration::ZERO).unwrap();
}

#[test]
fn a_second_server_is_told_the_first_ones_pid() {
    let dir = tempfile::tempdir().unwrap();
    let _first = claim(dir.path()).unwrap();
    let message = claim(dir.path()).unwrap_err().to_string();
    assert!(message.contains(&format!("(pid {})", std::process::id())), "{message}");
}

#[test]
fn broken_bytes_are_kept_under_new_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    for content in ["one", "two"] {
        fs::write(&path, content).unwrap();
        preserve(&path).unwrap();
        replace(&path, b"good").unwrap();
    }
    assert_eq!(names(dir.path()), ["a.json", "a.json.broken", "a.json.broken-2"]);
    assert_eq!(fs::read_to_string(dir.path().join("a.json.broken")).unwrap(), "one");
}

#[test]
fn a_sweep_takes_stale_temporary_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let old = File::create(dir.path().join(".sigorest-tmp-1-1")).unwrap();
    old.set_modified(std::time::SystemTime::now() - STALE * 2).unwrap();
    let other = File::create(dir.path().join("x.json")).unwrap();
    other.set_modified(std::time::SystemTime::now() - STALE * 2).unwrap();
    File::create(dir.path().join(".sigorest-tmp-1-2")).unwrap();
    sweep(dir.path());
    assert_eq!(names(dir.path()), [".sigorest-tmp-1-2", "x.json"]);
}
