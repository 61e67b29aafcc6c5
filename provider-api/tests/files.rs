//! Files that are no usable plugin are refused by their bytes, each with its reason; none is opened.

use std::{io::ErrorKind, os::unix::fs::FileExt};

use provider_api::loader::{Sealed, open, vet};

use crate::echo;

/// Where the section table starts, from the ELF header.
fn section_table(file: &[u8]) -> usize {
    let field = file[40..48].try_into().expect("eight bytes");
    usize::try_from(u64::from_le_bytes(field)).expect("within the file")
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let refusal = vet(bytes).expect_err(expected);
    assert_eq!(refusal.reason, expected, "{refusal}");
    let text = refusal.to_string();
    assert!(!text.contains('\n') && !text.ends_with('.') && text.len() < 400, "{text}");
}

#[test]
fn files_that_are_no_shared_objects_are_refused() {
    refused(b"", "not_elf");
    refused(b"\x7fEL", "not_elf");
    refused(b"#!/bin/sh\necho hello\n", "not_elf");
    refused(&[0; 100_000], "not_elf");
    refused(&std::fs::read("/proc/self/exe").unwrap(), "executable");
}

#[test]
fn a_truncated_plugin_is_refused_wherever_it_is_cut() {
    let file = echo();
    let table = section_table(&file);
    let lengths =
        [64, 65, 119, 1000, 4096, 300 * 1024, file.len() / 2, table - 1, table, table + 1, file.len() - 1];
    for length in lengths.into_iter().chain((64..file.len()).step_by(4999)) {
        refused(&file[..length], "truncated");
    }
    for length in 4..64 {
        let refusal = vet(&file[..length]).expect_err("cut in the ELF header");
        assert!(["truncated", "wrong_cpu"].contains(&refusal.reason), "{length}: {refusal}");
    }
}

#[test]
fn plugins_for_other_machines_are_refused() {
    let check = |at: usize, bytes: &[u8], expected: &str| {
        let mut file = echo();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refused(&file, expected);
    };
    check(18, &[0xf3, 0], "wrong_cpu"); // RISC-V
    check(4, &[1], "wrong_cpu"); // 32-bit
    check(5, &[2], "wrong_cpu"); // big-endian
    check(16, &[2, 0], "executable");
}

#[test]
fn a_library_without_a_record_is_refused() {
    let mut file = echo();
    let name = b".gwplugin\0";
    let table = section_table(&file);
    // The name stands in the last bytes before the section table; the record itself keeps its magic.
    let at = memchr::memmem::rfind(&file[..table], name).expect("the section's name");
    file[at + 1] = b'x';
    refused(&file, "no_manifest");
}

#[test]
fn a_damaged_record_is_refused() {
    let check = |from: &[u8], to: &[u8], expected: &str| {
        let mut file = echo();
        let record = memchr::memmem::find(&file, b"GWPLUGIN\0").or(memchr::memmem::rfind(&file, b"GWPLUGIN"));
        let record = record.expect("the record");
        let at = record + memchr::memmem::find(&file[record..], from).expect("present in the record");
        file[at..at + to.len()].copy_from_slice(to);
        refused(&file, expected);
    };
    check(b"\"api\": \"1.0\"", b"\"api\": \"2.0\"", "wrong_api");
    check(b"\"schema\": 1", b"\"schema\": 9", "bad_manifest");
    check(b"\"id\": \"echo\"", b"\"id\": \"e/ho\"", "bad_manifest");
}

#[test]
fn no_damage_to_the_headers_or_tables_makes_the_check_panic() {
    let mut file = echo();
    let table = section_table(&file);
    for at in (0..700).chain(table..file.len()) {
        for value in [0, 0xff] {
            let before = std::mem::replace(&mut file[at], value);
            let _ = vet(&file);
            file[at] = before;
        }
    }
}

#[test]
fn a_whole_plugin_is_read_and_opened() {
    let file = echo();
    let record = vet(&file).expect("a plugin");
    assert_eq!(record.manifest.id, "echo");
    assert!(record.rustc.starts_with("rustc "), "{}", record.rustc);
    let module = open(&file).expect("opens");
    assert_eq!(module.build().rustc.as_str(), record.rustc);
}

#[test]
fn a_copy_that_is_opened_cannot_change() {
    let sealed = Sealed::new(&echo()).expect("a copy");
    let file = sealed.file();
    for changed in [file.write_at(b"x", 100).map(drop), file.set_len(10), file.set_len(1 << 30)] {
        assert_eq!(changed.expect_err("sealed").kind(), ErrorKind::PermissionDenied);
    }
}
