//! What goes wrong in an exchange: a kind, how far it reaches, and words for whom it concerns.

use crate::abi::{AbiFault, FaultKind, FaultScope};

/// Why an exchange, or the construction of a provider, failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Decides status, retry and breaker on the gateway's side.
    pub kind: FaultKind,
    /// How far it reaches: this request, the model, the key, the account, the provider.
    pub scope: FaultScope,
    /// HTTP status of the upstream's answer; 0 if there was none.
    pub status: u16,
    /// Milliseconds that the upstream asked to wait; 0 if it did not say.
    pub retry_after_ms: u64,
    /// For people. Shown to callers for `BAD_REQUEST`, `CONTEXT_LENGTH`, `CONTENT_FILTER`, `NOT_FOUND`
    /// and `UNSUPPORTED`; logged otherwise.
    pub message: String,
    /// Canonical error JSON (`{"type","param","code"}`), may be empty.
    pub detail: Vec<u8>,
}

impl Fault {
    /// A fault with the scope that its kind usually has.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        let scope = match kind {
            FaultKind::AUTH | FaultKind::RATE_LIMIT => FaultScope::CHANNEL,
            FaultKind::QUOTA => FaultScope::ACCOUNT,
            FaultKind::NOT_FOUND | FaultKind::OVERLOADED => FaultScope::MODEL,
            _ => FaultScope::REQUEST,
        };
        Self { kind, scope, status: 0, retry_after_ms: 0, message: message.into(), detail: Vec::new() }
    }

    /// The caller's request is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(FaultKind::BAD_REQUEST, message)
    }

    /// The upstream answered what nobody can use.
    pub fn upstream(message: impl Into<String>) -> Self {
        Self::new(FaultKind::UPSTREAM, message)
    }

    /// Sets the HTTP status it came with.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Sets how far it reaches.
    #[must_use]
    pub fn scope(mut self, scope: FaultScope) -> Self {
        self.scope = scope;
        self
    }

    /// Names the request field and a machine-readable code.
    #[must_use]
    pub fn detail(mut self, kind: &str, param: Option<&str>, code: Option<&str>) -> Self {
        self.detail =
            serde_json::json!({"type": kind, "param": param, "code": code}).to_string().into_bytes();
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::new(FaultKind::DECODE, error.to_string())
    }
}

impl From<Fault> for AbiFault {
    fn from(fault: Fault) -> Self {
        Self {
            kind: fault.kind,
            scope: fault.scope,
            status: u32::from(fault.status),
            retry_after_ms: fault.retry_after_ms,
            message: fault.message.into(),
            detail: fault.detail.into(),
            spare: [0; 4],
        }
    }
}

impl From<AbiFault> for Fault {
    fn from(fault: AbiFault) -> Self {
        Self {
            kind: fault.kind,
            scope: fault.scope,
            status: u16::try_from(fault.status).unwrap_or(0),
            retry_after_ms: fault.retry_after_ms,
            message: fault.message.into_string(),
            detail: fault.detail.into_vec(),
        }
    }
}

/// An upstream's words for a caller: keys, URLs, e-mail addresses and the names of accounts are replaced
/// by `***`; all else stays as it is.
pub fn public_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive(|c: char| c.is_whitespace() || "\"'`()[]{}<>,;".contains(c)) {
        let end = word.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '/').len();
        match hidden_from(&word[..end]) {
            Some(from) => out.extend([&word[..from], "***", &word[end..]]),
            None => out.push_str(word),
        }
    }
    out
}

/// Where the part of a word starts that a caller must not see.
fn hidden_from(word: &str) -> Option<usize> {
    const KEYS: [&str; 9] = ["sk-", "sk_", "ak-", "pk-", "rk-", "org-", "proj_", "user-", "acct_"];
    const NAMES: [&str; 8] = ["user", "user_id", "team", "team_id", "org", "key", "api_key", "account"];
    let at = word
        .find("://")
        .map(|at| word[..at].rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |at| at + 1));
    if at.is_some() {
        return at;
    }
    if let Some((name, value)) = word.split_once('=').filter(|(_, value)| !value.is_empty())
        && NAMES.contains(&name.to_ascii_lowercase().as_str())
    {
        return Some(word.len() - value.len());
    }
    let mail = word.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
    // The digit tells keys from words such as `user-generated`.
    let key = word.bytes().any(|byte| byte.is_ascii_digit())
        && KEYS.iter().any(|start| word.len() >= start.len() + 8 && word.starts_with(start));
    (mail || key).then_some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_never_see_keys_urls_or_accounts() {
        let check = |text: &str, expected: &str| assert_eq!(public_text(text), expected);
        check("temperature must be <= 1, not 2.5.", "temperature must be <= 1, not 2.5.");
        check("Incorrect key: sk-abcdef1234567890.", "Incorrect key: ***.");
        check("see http://10.0.0.7:4000/v1/models, please", "see ***, please");
        check("call (https://a.example/b?key=1)", "call (***)");
        check("ExceededBudget: User=fe12-ab over budget", "ExceededBudget: User=*** over budget");
        check("{'error': 'no access for jane@corp.example'}", "{'error': 'no access for ***'}");
        check("role `user` and user-generated content", "role `user` and user-generated content");
        check("a=b, 3://4", "a=b, ***");
    }
}
