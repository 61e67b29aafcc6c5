//! `sigoREST plugin new NAME`: writes the crate of a plugin that builds, passes its tests and can be copied
//! into a plugin directory as it stands.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::template;

/// Which crate, where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The plugin's id and the crate's name.
    pub name: String,
    /// For an upstream with a format of its own.
    pub translator: bool,
    /// The directory that gets the crate's; by default the working directory.
    pub dir: Option<PathBuf>,
    /// The provider-api to depend on; by default a copy is written into the crate.
    pub api: Option<PathBuf>,
}

/// Words that cargo or the compiler refuses as a crate's name, and names that it needs itself.
const TAKEN: [&str; 59] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "provider-api",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
];

/// Writes the crate and says what to do next.
///
/// # Errors
/// A name that cannot be one, a directory that is there already, or what the file system says.
pub(super) fn run(asked: &Asked) -> Result<String, String> {
    check_name(&asked.name)?;
    let api = asked.api.as_deref().map(checked_api).transpose()?;
    let parent = asked.dir.clone().unwrap_or_default();
    let root = parent.join(&asked.name);
    if !parent.as_os_str().is_empty() {
        fs::create_dir_all(&parent)
            .map_err(|error| format!("{} cannot be made: {error}", parent.display()))?;
    }
    fs::create_dir(&root).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            format!("{} is there already; take another name, or another place with -dir", root.display())
        }
        _ => format!("{} cannot be made: {error}", root.display()),
    })?;
    write(asked, &root, api.as_deref()).inspect_err(|_| {
        // Half a crate would be in the way of the next try.
        let _ = fs::remove_dir_all(&root);
    })?;
    Ok(template::next_steps(asked, &root))
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fine = name.starts_with(|first: char| first.is_ascii_lowercase()) && name.len() <= 64;
    if !fine || !name.bytes().all(plain) {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(70).collect();
        return Err(format!(
            "`{shown}` cannot be a plugin's name; it is 1 to 64 of a-z, 0-9 and -, a letter first"
        ));
    }
    if TAKEN.contains(&name) {
        return Err(format!("`{name}` cannot be a crate's name in Rust; take another one"));
    }
    Ok(())
}

fn checked_api(path: &Path) -> Result<PathBuf, String> {
    let text = fs::read_to_string(path.join("Cargo.toml")).unwrap_or_default();
    if !text.contains("name = \"provider-api\"") {
        return Err(format!("-api: {} is not the directory of provider-api", path.display()));
    }
    path.canonicalize().map_err(|error| format!("-api: {}: {error}", path.display()))
}

fn write(asked: &Asked, root: &Path, api: Option<&Path>) -> Result<(), String> {
    let mut files = template::files(asked, api);
    if api.is_none() {
        files.extend(template::provider_api()?);
    }
    for (path, text) in files {
        let path = root.join(path);
        let failed = |error: std::io::Error| format!("{} cannot be written: {error}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        fs::write(&path, text).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_crate_can_have_are_refused() {
        for name in ["acme", "a", "my-backend-2", "a-"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = "x".repeat(65);
        for name in
            ["", "Acme", "2fast", "-a", "a_b", "a/b", "../a", "a b", "ä", "fn", "test", "provider-api", &long]
        {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
