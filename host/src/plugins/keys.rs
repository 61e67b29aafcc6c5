//! Where a provider's key comes from: a file or the environment. A key never leaves the host.

use std::path::Path;

use secrecy::SecretString;

use crate::config::ProviderSettings;

/// Longest key.
const MAX_KEY_BYTES: usize = 16 << 10;

/// Looks a key up: the section's file and variable, then the manifest's variables and
/// `<NAME>_API_KEY`; each also as `<VARIABLE>_FILE` and as a systemd credential of that name.
pub fn find(provider: &str, section: &ProviderSettings, manifest_env: &[String]) -> Option<SecretString> {
    if let Some(path) = &section.key_file {
        return from_file(path, provider);
    }
    let own = format!("{}_API_KEY", variable_prefix(provider));
    let names = section.key_env.iter().chain([&own]).chain(manifest_env);
    names.into_iter().find_map(|name| from_variable(name, provider))
}

/// `my-provider` → `MY_PROVIDER`.
pub fn variable_prefix(provider: &str) -> String {
    provider.replace('-', "_").to_ascii_uppercase()
}

fn from_variable(name: &str, provider: &str) -> Option<SecretString> {
    if let Ok(value) = std::env::var(name)
        && let Some(key) = usable(&value, name, provider)
    {
        return Some(key);
    }
    if let Some(path) = std::env::var_os(format!("{name}_FILE")) {
        return from_file(Path::new(&path), provider);
    }
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    let path = Path::new(&credentials).join(name);
    path.is_file().then(|| from_file(&path, provider)).flatten()
}

fn from_file(path: &Path, provider: &str) -> Option<SecretString> {
    match std::fs::read_to_string(path) {
        Ok(text) => usable(&text, &path.display().to_string(), provider),
        Err(error) => {
            tracing::warn!(provider, file = %path.display(), %error, "the key file cannot be read");
            None
        }
    }
}

/// A key is sent in a header: one line of visible characters.
fn usable(text: &str, place: &str, provider: &str) -> Option<SecretString> {
    let key = text.trim();
    if key.is_empty() {
        return None;
    }
    if key.len() > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        tracing::warn!(provider, place, "the key holds characters that no key has; it is not used");
        return None;
    }
    Some(SecretString::from(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn keys_are_one_line_of_visible_characters() {
        let check = |text: &str, expected: Option<&str>| {
            let key = usable(text, "X", "x");
            assert_eq!(key.as_ref().map(ExposeSecret::expose_secret), expected);
        };
        check(" sk-1\n", Some("sk-1"));
        check("", None);
        check("a b", None);
        check("a\r\nx-evil: 1", None);
        assert_eq!(variable_prefix("openai-compatible"), "OPENAI_COMPATIBLE");
    }
}
