//! The files of a new plugin's crate, and the copy of provider-api that goes with it.

use std::path::Path;

use toml::{Table, Value};

use super::create::Asked;

/// provider-api as this program was built with: paths below its directory, and texts. Also the workspace's
/// manifest, under its own name, for what provider-api's inherits.
const SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/provider_api.rs"));

macro_rules! texts {
    ($($path:literal => $file:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("template/", $file)))),*]
    };
}

const SHARED: &[(&str, &str)] = texts! {
    "Cargo.toml" => "Cargo.toml.txt",
    ".gitignore" => "gitignore.txt",
    "README.md" => "README.md.txt",
    "models.csv" => "models.csv.txt",
    "tests/kit.rs" => "kit.rs.txt",
};

const COMPATIBLE: &[(&str, &str)] = texts! {
    "src/lib.rs" => "compatible/lib.rs.txt",
    "fixtures/hello.request.json" => "compatible/hello.request.json",
    "fixtures/hello.upstream.http" => "compatible/hello.upstream.http",
    "fixtures/hello.expected.txt" => "compatible/hello.expected.txt",
};

const TRANSLATOR: &[(&str, &str)] = texts! {
    "src/lib.rs" => "translator/lib.rs.txt",
    "manifest.json" => "translator/manifest.json",
    "fixtures/hello.request.json" => "translator/hello.request.json",
    "fixtures/hello.upstream.http" => "translator/hello.upstream.http",
    "fixtures/hello.expected.txt" => "translator/hello.expected.txt",
    "fixtures/whole.request.json" => "translator/whole.request.json",
    "fixtures/whole.upstream.http" => "translator/whole.upstream.http",
    "fixtures/whole.expected.txt" => "translator/whole.expected.txt",
};

/// A file of the crate: its path and its text.
pub(super) type File = (String, String);

/// The crate's own files.
pub(super) fn files(asked: &Asked, api: Option<&Path>) -> Vec<File> {
    let own = if asked.translator { TRANSLATOR } else { COMPATIBLE };
    let api = api.map_or_else(|| "provider-api".into(), |path| path.to_string_lossy());
    let filled = SHARED.iter().chain(own).map(|(path, text)| {
        let text = fill(asked, text).replace("{{api}}", &api.replace('\\', "\\\\").replace('"', "\\\""));
        ((*path).to_owned(), text)
    });
    filled.collect()
}

/// What comes next, for people.
pub(super) fn next_steps(asked: &Asked, root: &Path) -> String {
    fill(asked, include_str!("template/next.txt")).replace("{{root}}", &root.display().to_string())
}

fn fill(asked: &Asked, text: &str) -> String {
    let name = asked.name.as_str();
    let module = name.replace('-', "_");
    let words: Vec<String> = name.split('-').map(capitalised).collect();
    let structure = if asked.translator { words.concat() } else { "Compat".into() };
    text.replace("{{name}}", name)
        .replace("{{module}}", &module)
        .replace("{{variable}}", &module.to_uppercase())
        .replace("{{title}}", words.join(" ").trim())
        .replace("{{struct}}", &structure)
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// provider-api, to be compiled outside of its workspace.
///
/// # Errors
/// Its manifest is not what this expects, which a test excludes.
pub(super) fn provider_api() -> Result<Vec<File>, String> {
    let text = |name: &str| {
        let found = SOURCES.iter().find(|(path, _)| *path == name).map(|(_, text)| *text);
        found.ok_or_else(|| format!("provider-api's {name} is missing in this program"))
    };
    let manifest = stand_alone(text("Cargo.toml")?, text("../Cargo.toml")?)
        .map_err(|error| format!("provider-api's manifest cannot be used: {error}"))?;
    let mut files = vec![("provider-api/Cargo.toml".to_owned(), manifest)];
    let others = SOURCES.iter().filter(|(path, _)| !path.ends_with("Cargo.toml"));
    files.extend(others.map(|(path, text)| (format!("provider-api/{path}"), (*text).to_owned())));
    Ok(files)
}

/// A manifest with what it inherits from its workspace written out, and without what only tests need.
fn stand_alone(manifest: &str, workspace: &str) -> Result<String, String> {
    let read = |text: &str| text.parse::<Table>().map_err(|error| error.to_string());
    let (mut manifest, workspace) = (read(manifest)?, read(workspace)?);
    let shared = |section: &str, name: &str| {
        let value = workspace.get("workspace").and_then(|value| value.get(section)?.get(name));
        value.cloned().ok_or_else(|| format!("`{name}` is not in the workspace's {section}"))
    };
    for section in ["lints", "dev-dependencies", "test"] {
        manifest.remove(section);
    }
    for (section, from) in [("package", "package"), ("dependencies", "dependencies")] {
        let Some(Value::Table(members)) = manifest.get_mut(section) else { continue };
        for (name, value) in members.iter_mut() {
            let Value::Table(own) = value else { continue };
            if own.remove("workspace").is_none() {
                continue;
            }
            let own = std::mem::take(own);
            *value = match shared(from, name)? {
                Value::String(version) if !own.is_empty() => {
                    Value::Table(own.into_iter().chain([("version".into(), version.into())]).collect())
                }
                Value::Table(mut inherited) => {
                    inherited.extend(own);
                    Value::Table(inherited)
                }
                plain => plain,
            };
        }
    }
    toml::to_string(&manifest).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_of_provider_api_stands_alone() {
        let files = provider_api().expect("the copy");
        let text = |path: &str| &files.iter().find(|(name, _)| name == path).expect(path).1;
        let manifest: Table = text("provider-api/Cargo.toml").parse().expect("TOML");
        assert_eq!(manifest["package"]["version"].as_str(), Some("1.0.0"));
        assert_eq!(manifest["dependencies"]["abi_stable"]["version"].as_str(), Some("=0.11.3"));
        assert_eq!(manifest["dependencies"]["rustix"]["optional"].as_bool(), Some(true));
        assert!(!text("provider-api/Cargo.toml").contains("workspace"), "{manifest}");
        assert!(text("provider-api/src/lib.rs").starts_with("//!"));
        assert!(text("provider-api/build.rs").contains("fn main"));
    }

    #[test]
    fn every_placeholder_is_filled() {
        for translator in [false, true] {
            let asked = Asked { name: "my-acme".into(), translator, ..Asked::default() };
            let mut files = files(&asked, Some(Path::new("/a \"b")));
            files.push(("next".into(), next_steps(&asked, Path::new("x/my-acme"))));
            for (path, text) in files {
                assert!(!text.contains("{{"), "{path}: {text}");
            }
        }
    }
}
