//! Pairs that are missing, made, renewed, foreign and broken.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Some time in 2026; certificates of these tests are made around it.
const NOW: Duration = Duration::from_secs(1_790_000_000);

fn paths(dir: &tempfile::TempDir) -> Paths {
    Paths { cert: dir.path().join("a/b/server.crt"), key: dir.path().join("c/server.key") }
}

fn machine() -> Machine {
    Machine { name: Some("box".into()), addresses: vec!["192.168.1.5".parse().unwrap()] }
}

fn ready(paths: &Paths, now: Duration) -> Result<Pair, String> {
    ready_pair(paths, &machine(), now).map_err(|error| error.0)
}

fn contents(paths: &Paths) -> (Vec<u8>, Vec<u8>) {
    (fs::read(&paths.cert).unwrap(), fs::read(&paths.key).unwrap())
}

/// A pair as an operator would put there, which ends at this time.
fn foreign(paths: &Paths, ends: Duration) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["llm.example.org".into()]).unwrap();
    params.not_after = date_time_ymd(1970, 1, 1) + ends;
    for path in [&paths.cert, &paths.key] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    fs::write(&paths.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&paths.key, key.serialize_pem()).unwrap();
}

#[test]
fn the_first_start_makes_a_pair_that_covers_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths(&dir);
    let pair = ready(&paths, NOW).unwrap();
    assert!(pair.ours);
    let expected: Vec<IpAddr> =
        ["127.0.0.1", "::1", "192.168.1.5"].iter().map(|address| address.parse().unwrap()).collect();
    assert_eq!(pair.addresses, expected);
    assert_eq!(pair.ends_at, NOW + 365 * DAY);
    let (_, leaf) = x509_parser::parse_x509_certificate(&pair.chain[0]).unwrap();
    let names = format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value);
    assert!(names.contains("\"localhost\"") && names.contains("\"box\""), "{names}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&paths.key), 0o600);
    assert_eq!(mode(&paths.cert), 0o644);
    assert_eq!(mode(paths.key.parent().unwrap()), 0o700);

    let before = contents(&paths);
    ready(&paths, NOW + 300 * DAY).unwrap();
    assert_eq!(contents(&paths), before, "kept");
    assert_eq!(server_config(&paths, pair).unwrap().alpn_protocols, [&b"h2"[..], b"http/1.1"]);
}

#[test]
fn our_own_certificate_is_renewed_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths(&dir);
    ready(&paths, NOW).unwrap();
    let (cert, key) = contents(&paths);
    for later in [NOW + 336 * DAY, NOW + 800 * DAY] {
        assert_eq!(ready(&paths, later).unwrap().ends_at, later + 365 * DAY);
    }
    let renewed = contents(&paths);
    assert_ne!(renewed.0, cert);
    assert_eq!(renewed.1, key, "the key stays");
}

#[test]
fn a_foreign_pair_is_used_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths(&dir);
    for ends in [NOW + 300 * DAY, NOW + 10 * DAY, NOW - 10 * DAY] {
        foreign(&paths, ends);
        let before = contents(&paths);
        assert!(!ready(&paths, NOW).unwrap().ours);
        assert_eq!(contents(&paths), before);
    }
}

#[test]
fn half_a_pair_is_completed_only_if_it_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths(&dir);
    ready(&paths, NOW).unwrap();
    fs::remove_file(&paths.key).unwrap();
    assert!(ready(&paths, NOW).unwrap().ours, "both are made anew");

    for removed in [&paths.key, &paths.cert] {
        foreign(&paths, NOW + 300 * DAY);
        let kept = if *removed == paths.key { &paths.cert } else { &paths.key };
        let before = fs::read(kept).unwrap();
        fs::remove_file(removed).unwrap();
        let error = ready(&paths, NOW).err().unwrap();
        for path in [&paths.cert, &paths.key] {
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        assert!(!removed.exists());
        assert_eq!(fs::read(kept).unwrap(), before);
    }
}

#[test]
fn a_broken_pair_stops_the_start_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let paths = paths(&dir);
    let check = |cert: &[u8], key: &[u8], blamed: &Path, words: &str| {
        fs::write(&paths.cert, cert).unwrap();
        fs::write(&paths.key, key).unwrap();
        let error = ready(&paths, NOW).err().unwrap();
        assert!(error.contains(blamed.to_str().unwrap()) && error.contains(words), "{error}");
        assert!(!error.contains('\n'), "one line: {error}");
        assert_eq!(contents(&paths), (cert.to_vec(), key.to_vec()));
    };
    foreign(&paths, NOW + 300 * DAY);
    let (cert, key) = contents(&paths);
    foreign(&paths, NOW + 300 * DAY);
    let (_, other_key) = contents(&paths);
    let cut = &cert[..cert.len() / 2];
    let garbled = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(&cert, &other_key, &paths.key, "does not belong");
    check(b"nonsense", &key, &paths.cert, "no certificate");
    check(b"", &key, &paths.cert, "no certificate");
    check(cut, &key, &paths.cert, "no certificate");
    check(garbled, &key, &paths.cert, "broken");
    check(&cert, b"nonsense", &paths.key, "no private key");
    check(&cert, &key[..key.len() / 2], &paths.key, "key");
    check(&cert, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &paths.key, "key");
}
