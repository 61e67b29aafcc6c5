//! Embeds provider-api's sources, which `sigoREST plugin new` writes into an author's crate: whoever has
//! the program can write a plugin for it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

fn main() {
    let host = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let api = host.join("../provider-api");
    let mut files = vec!["Cargo.toml".to_owned(), "../Cargo.toml".to_owned(), "build.rs".to_owned()];
    walk(&api, "src", &mut files);
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        let path = api.join(&file);
        println!("cargo:rerun-if-changed={}", path.display());
        let _ = writeln!(list, "({file:?}, include_str!({path:?})),");
    }
    list.push(']');
    // A new file is seen by the change of its directory.
    println!("cargo:rerun-if-changed={}", api.join("src").display());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("provider_api.rs"), list).expect("the list of sources is written");
}

fn walk(root: &Path, dir: &str, files: &mut Vec<String>) {
    let entries = fs::read_dir(root.join(dir)).expect("provider-api's sources are beside this crate");
    for entry in entries.filter_map(Result::ok) {
        let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            walk(root, &path, files);
        } else if path.ends_with(".rs") {
            files.push(path);
        }
    }
}
