//! The plugin ABI as a gateway meets it: real plugin files, the real loader.

mod files;
mod layout;
mod load;
mod panics;

/// Echo's plugin file.
pub fn echo() -> Vec<u8> {
    plugin("echo")
}

/// The file of a plugin for tests that panics on demand.
pub fn panicky() -> Vec<u8> {
    plugin("panicky")
}

/// The file of a plugin among the dev-dependencies: cargo leaves it beside this test's executable.
fn plugin(name: &str) -> Vec<u8> {
    let here = std::env::current_exe().expect("the test has a path");
    let path = here.with_file_name(format!(
        "{}{name}{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    ));
    provider_api::loader::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
