//! What may not be loaded is refused with a reason, before any of it runs.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        net::UnixListener,
    },
    path::Path,
};

use blake2::Blake2b512;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    harness::{Server, Setup, gateway, plugin_file},
    plugins::{ask, patched},
};

/// The refused files with their reasons.
fn refused(server: &Server) -> Vec<(String, String)> {
    let all = server.get("/api/plugins").json();
    let refused = all.as_array().expect("a list").iter().filter(|plugin| plugin["state"] == "refused");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut refused: Vec<_> = refused
        .map(|plugin| {
            let message = text(&plugin["message"]);
            assert!(!message.is_empty() && !message.contains('\n') && !message.ends_with('.'), "{message}");
            (text(&plugin["file"]).rsplit('/').next().unwrap_or_default().to_owned(), text(&plugin["reason"]))
        })
        .collect();
    refused.sort();
    refused
}

#[track_caller]
fn check(server: &Server, expected: &[(&str, &str)]) {
    let mut expected: Vec<_> =
        expected.iter().map(|(file, reason)| ((*file).to_owned(), (*reason).to_owned())).collect();
    expected.sort();
    assert_eq!(refused(server), expected);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn again(server: &Server) {
    assert_eq!(server.send("POST", "/api/plugins/reload", &[], "").status, 200);
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_kind_of_wrong_file_is_refused_with_its_reason() {
    let echo = fs::read(plugin_file("echo")).expect("the plugin");
    let cut = |len: usize| &echo[..len];
    let table = u64::from_le_bytes(echo[40..48].try_into().expect("eight bytes"));
    let table = usize::try_from(table).expect("within the file");
    let mut other_cpu = echo.clone();
    other_cpu[18] = 0xf3;
    let setup = gateway()
        .plugins(&["echo"])
        .file("plugins/text.so", "not a plugin")
        .file("plugins/empty.so", "")
        .file("plugins/cut1.so", cut(5000))
        .file("plugins/cut2.so", cut(table - 1))
        .file("plugins/cut3.so", cut(echo.len() - 1))
        .file("plugins/cpu.so", &other_cpu)
        .file("plugins/twice.so", &echo)
        .file("plugins/open.so", &echo)
        .file("plugins/major.so", patched("echo", &[("\"api\": \"1.0\"", "\"api\": \"2.0\"")]))
        .file("plugins/form.so", patched("echo", &[("\"schema\": 1", "\"schema\": 7")]))
        .file("plugins/record.so", patched("echo", &[("GWPLUGIN", "GWPLUGON")]))
        // Those that follow are found out by opening them only.
        .file("plugins/exports.so", patched("ollama", &[("_1as_0lib_1header", "_1as_0lib_1hidden")]))
        .file(
            "plugins/needs.so",
            patched("moonshot", &[("\0pthread_key_create\0", "\0pthread_key_kreate\0")]),
        )
        .file("outside/link.so", &echo);
    let plugins = setup.path().join("plugins");
    let large = fs::File::create(plugins.join("large.so")).expect("a file");
    large.set_len((64 << 20) + 1).expect("a length");
    fs::copy("/bin/true", plugins.join("program.so")).expect("a program");
    let library = fs::read_to_string("/proc/self/maps").expect("what is loaded");
    let found = library
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("libgcc_s"));
    fs::copy(found.expect("a library"), plugins.join("library.so")).expect("a library");
    fs::create_dir(plugins.join("directory.so")).expect("a directory");
    symlink("../outside/link.so", plugins.join("link.so")).expect("a link");
    symlink("nowhere.so", plugins.join("dangling.so")).expect("a link");
    let pipe = plugins.join("pipe.so");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).expect("a pipe");
    let _socket = UnixListener::bind(plugins.join("socket.so")).expect("a socket");
    symlink("/dev/null", plugins.join("device.so")).expect("a link");
    mode(&plugins.join("open.so"), 0o666);
    let server = setup.start();
    check(
        &server,
        &[
            ("text.so", "not_elf"),
            ("empty.so", "not_elf"),
            ("cut1.so", "truncated"),
            ("cut2.so", "truncated"),
            ("cut3.so", "truncated"),
            ("cpu.so", "wrong_cpu"),
            ("twice.so", "duplicate_id"),
            ("open.so", "wrong_mode"),
            ("large.so", "too_large"),
            ("program.so", "executable"),
            ("library.so", "no_manifest"),
            ("directory.so", "not_a_file"),
            ("link.so", "link_outside"),
            ("dangling.so", "cannot_read"),
            ("pipe.so", "not_a_file"),
            ("socket.so", "not_a_file"),
            ("device.so", "link_outside"),
            ("major.so", "wrong_api"),
            ("form.so", "bad_manifest"),
            ("record.so", "bad_manifest"),
            ("exports.so", "missing_symbol"),
            ("needs.so", "missing_symbol"),
        ],
    );
    assert_eq!(ask(&server, "echo").status, 200);
    assert_eq!(server.get("/api/health").json()["status"], "degraded");
}

#[test]
fn of_two_files_with_one_id_the_one_that_serves_stays() {
    let server = gateway().plugins(&["echo"]).start();
    let plugins = server.data().join("plugins");
    let newer = patched("echo", &[("\"name\": \"Echo\"", "\"name\": \"Ohce\"")]);
    fs::write(plugins.join("another.so"), newer).expect("written");
    again(&server);
    check(&server, &[("another.so", "duplicate_id")]);
    fs::remove_file(plugins.join("echo.so")).expect("removed");
    again(&server);
    check(&server, &[]);
    let echo = server.get("/api/plugins/echo").json();
    assert!(echo["file"].as_str().is_some_and(|file| file.ends_with("another.so")), "{echo}");
    assert_eq!(echo["generation"], 2);
}

#[test]
fn a_lock_is_strict_as_soon_as_it_is_there() {
    let server = gateway().plugins(&["echo", "moonshot"]).start();
    let lock = server.data().join("plugins/plugins.lock");
    let echo = sha256(&fs::read(plugin_file("echo")).expect("the plugin"));
    let locked = |text: &str| {
        fs::write(&lock, text).expect("written");
        again(&server);
    };
    locked(&format!("# ours\n{echo}  echo.so\n"));
    check(&server, &[("moonshot.so", "not_locked")]);
    locked(&format!("{echo}  echo.so\n{echo}  moonshot.so\n"));
    check(&server, &[("moonshot.so", "digest_mismatch")]);
    locked("nonsense\n");
    check(&server, &[("echo.so", "bad_rules"), ("moonshot.so", "bad_rules")]);
    // What serves goes on serving all the while.
    assert_eq!(ask(&server, "echo").status, 200);
    fs::remove_file(&lock).expect("removed");
    again(&server);
    check(&server, &[]);
}

/// A minisign key pair and its signatures, in the tool's own text form.
struct Signer(Ed25519KeyPair);

impl Signer {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key"))
    }

    fn public(&self) -> String {
        let key = [&b"Ed"[..], b"keyident", self.0.public_key().as_ref()].concat();
        format!("untrusted comment: minisign public key\n{}\n", base64(&key))
    }

    /// As minisign signs by itself since 0.10: the file's digest.
    fn sign(&self, bytes: &[u8]) -> String {
        self.signature(b"ED", &Blake2b512::digest(bytes))
    }

    /// As older ones did, and `minisign -l` does: the file itself.
    fn sign_whole(&self, bytes: &[u8]) -> String {
        self.signature(b"Ed", bytes)
    }

    fn signature(&self, kind: &[u8], bytes: &[u8]) -> String {
        let signature = self.0.sign(bytes);
        let comment = "timestamp:1790000000";
        let global = self.0.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let first = [kind, b"keyident", signature.as_ref()].concat();
        let (first, global) = (base64(&first), base64(global.as_ref()));
        format!("untrusted comment: signature\n{first}\ntrusted comment: {comment}\n{global}\n")
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for letter in 0..4 {
            let index = (number >> (18 - 6 * letter)) as usize & 63;
            text.push(if letter <= three.len() { char::from(LETTERS[index]) } else { '=' });
        }
    }
    text
}

#[test]
fn where_keys_are_trusted_every_plugin_needs_a_signature() {
    let (ours, theirs) = (Signer::new(1), Signer::new(2));
    let echo = fs::read(plugin_file("echo")).expect("the plugin");
    let moonshot = fs::read(plugin_file("moonshot")).expect("the plugin");
    let setup: Setup = gateway()
        .plugins(&["echo", "moonshot", "zai"])
        .file("trusted-keys", ours.public())
        .file("plugins/echo.so.minisig", ours.sign(&echo))
        .file("plugins/moonshot.so.minisig", theirs.sign(&moonshot));
    let server = setup.start();
    check(&server, &[("moonshot.so", "bad_signature"), ("zai.so", "unsigned")]);
    assert_eq!(ask(&server, "echo").status, 200);
    let plugins = server.data().join("plugins");
    fs::write(plugins.join("moonshot.so.minisig"), ours.sign(&moonshot)).expect("written");
    again(&server);
    check(&server, &[("zai.so", "unsigned")]);
    fs::write(plugins.join("zai.so.minisig"), ours.sign(&moonshot)).expect("written");
    again(&server);
    check(&server, &[("zai.so", "bad_signature")]);
}

#[test]
fn a_signature_is_for_one_key_and_one_file() {
    let (ours, theirs) = (Signer::new(1), Signer::new(2));
    let echo = fs::read(plugin_file("echo")).expect("the plugin");
    let other = patched("echo", &[("\"name\": \"Echo\"", "\"name\": \"Ohce\"")]);
    let check = |what: &str, signature: Option<String>, expected: &str| {
        let mut setup = gateway().plugins(&["echo"]).file("plugins/trusted-keys", ours.public());
        if let Some(signature) = signature {
            setup = setup.file("plugins/echo.so.minisig", signature);
        }
        let server = setup.start();
        let found = refused(&server);
        let reason = found.first().map_or("", |(_, reason)| reason.as_str());
        assert_eq!(reason, expected, "{what}");
        assert_eq!(ask(&server, "echo").status, if expected.is_empty() { 200 } else { 404 }, "{what}");
    };
    check("ours", Some(ours.sign(&echo)), "");
    check("ours, the old way", Some(ours.sign_whole(&echo)), "");
    check("theirs", Some(theirs.sign(&echo)), "bad_signature");
    check("theirs, the old way", Some(theirs.sign_whole(&echo)), "bad_signature");
    check("of another file", Some(ours.sign(&other)), "bad_signature");
    check("of another file, the old way", Some(ours.sign_whole(&other)), "bad_signature");
    check("none", None, "unsigned");
    check(
        "of the digest as if it were the file",
        Some(ours.sign_whole(&Blake2b512::digest(&echo))),
        "bad_signature",
    );
    check(
        "with another comment",
        Some(ours.sign(&echo).replace("1790000000", "1790000001")),
        "bad_signature",
    );
    check("no signature at all", Some("what".into()), "bad_signature");
}

#[test]
fn files_of_others_and_devices_are_not_read() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let setup = gateway().plugins(&["echo", "zai"]);
    drop(setup.command(crate::harness::SERVER));
    let plugins = setup.path().join("plugins");
    // Only root can give files away and make devices.
    let given = chown(plugins.join("zai.so"), Some(12345), None).is_ok();
    let device = plugins.join("null.so");
    let made = mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).is_ok();
    let server = setup.start();
    let expected = [(given, ("zai.so", "wrong_owner")), (made, ("null.so", "not_a_file"))];
    let expected: Vec<_> = expected.into_iter().filter_map(|(is, refused)| is.then_some(refused)).collect();
    check(&server, &expected);
    assert_eq!(ask(&server, "echo").status, 200);
}

#[test]
fn links_within_the_directory_are_followed() {
    let echo = fs::read(plugin_file("echo")).expect("the plugin");
    let setup =
        gateway().plugins(&[]).file("plugins/store/echo-1", &echo).file("plugins/store/echo-2", &echo);
    let link = setup.path().join("plugins/echo.so");
    symlink("store/echo-1", &link).expect("a link");
    mode(&setup.path().join("plugins/store/echo-2"), 0o666);
    let server = setup.start();
    check(&server, &[]);
    assert_eq!(ask(&server, "echo").status, 200);
    // What a link leads to is what is checked.
    fs::remove_file(&link).expect("removed");
    symlink("store/echo-2", &link).expect("a link");
    again(&server);
    check(&server, &[("echo.so", "wrong_mode")]);
}

#[test]
fn a_directory_that_others_can_write_is_not_read() {
    let setup = gateway().plugins(&["echo"]);
    let plugins = setup.path().join("plugins");
    fs::create_dir_all(&plugins).expect("a directory");
    mode(&plugins, 0o777);
    let server = setup.start();
    check(&server, &[("echo.so", "wrong_mode")]);
    ask(&server, "echo").error(404);
    mode(&plugins, 0o755);
    again(&server);
    check(&server, &[]);
    assert_eq!(ask(&server, "echo").status, 200);
    // Who can rename a directory can put another in its place.
    mode(server.data(), 0o777);
    again(&server);
    check(&server, &[("echo.so", "wrong_mode")]);
    mode(server.data(), 0o700);
}
