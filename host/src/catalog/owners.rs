//! Who owns a name that several models claim, and the memory of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Who owns which name. Plain values: whoever has a data directory reads and writes them as a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// The operator's `[models] NAME = "provider"`.
    pub pinned: BTreeMap<String, String>,
    /// Name to `provider/id`: the one that had it first.
    pub recorded: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize, Default)]
struct File {
    /// Name to `provider/id`.
    shortcodes: BTreeMap<String, String>,
}

impl Owners {
    /// From the operator's settings and the text of `shortcodes.json`, if there is one.
    ///
    /// # Errors
    /// The text is not what [`Self::to_json`] writes; then start from an empty record and keep the file.
    pub fn new(pinned: BTreeMap<String, String>, json: Option<&str>) -> Result<Self, serde_json::Error> {
        let file: File = json.map(serde_json::from_str).transpose()?.unwrap_or_default();
        Ok(Self { pinned, recorded: file.shortcodes })
    }

    /// What belongs into `shortcodes.json`; write it when [`Self::recorded`] has changed.
    pub fn to_json(&self) -> String {
        let file = File { shortcodes: self.recorded.clone() };
        let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// A model that claims a name.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) provider: &'a str,
    pub(super) id: &'a str,
    /// Whether a row of the operator's table gives it the name.
    pub(super) written: bool,
    /// Whether its provider can be called.
    pub(super) ready: bool,
}

impl Claim<'_> {
    fn is(&self, target: &str) -> bool {
        target.strip_prefix(self.provider).and_then(|rest| rest.strip_prefix('/')) == Some(self.id)
    }
}

/// Who gets a name.
pub(super) struct Decision {
    /// Place of the winner among the claims; `None` if the name has to wait for its owner.
    pub(super) winner: Option<usize>,
    /// What people should know about it.
    pub(super) remark: Option<String>,
}

/// Gives a name to the claim that a row wrote, else to the operator's choice, else to the one that had
/// it first, else to the first provider of the alphabet that has its key. A name never moves to another
/// model by itself; to the same model at another provider only if the one that had it lacks its key.
pub(super) fn decide(name: &str, claims: &[Claim<'_>], owners: &Owners) -> Decision {
    let won = |place: usize| Decision { winner: Some(place), remark: None };
    if let Some(place) = claims.iter().rposition(|claim| claim.written) {
        return won(place);
    }
    if let Some(pinned) = owners.pinned.get(name) {
        let chosen = claims.iter().position(|claim| claim.provider == pinned || claim.is(pinned));
        if let Some(place) = chosen {
            return won(place);
        }
    }
    let first = claims.iter().enumerate().min_by_key(|(_, claim)| (!claim.ready, claim.provider, claim.id));
    let Some((first, _)) = first else { return Decision { winner: None, remark: None } };
    let Some(recorded) = owners.recorded.get(name) else { return won(first) };
    if let Some(place) = claims.iter().position(|claim| claim.is(recorded)) {
        let same = |claim: &Claim<'_>| claim.ready && claim.id == claims[place].id;
        let other = claims.iter().position(same).filter(|_| !claims[place].ready);
        return won(other.unwrap_or(place));
    }
    let (provider, id) = recorded.split_once('/').unwrap_or((recorded, ""));
    // The same model elsewhere is no other model.
    if let Some(place) = claims.iter().position(|claim| claim.id.eq_ignore_ascii_case(id)) {
        return won(place);
    }
    // The provider itself says so, in a newer version of its plugin.
    if let Some(place) = claims.iter().position(|claim| claim.provider == provider) {
        let now = claims[place].id;
        let remark = format!("`{name}` now means `{now}` at {provider}; it meant `{id}` before");
        return Decision { winner: Some(place), remark: Some(remark) };
    }
    let claim = claims[first];
    let remark = format!(
        "`{name}` belongs to `{recorded}`, which is not offered now; `{}/{}` does not take the name over by itself; to give it, write {name:?} = {:?} under [models] in sigorest.toml",
        claim.provider, claim.id, claim.provider
    );
    Decision { winner: None, remark: Some(remark) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_moves_to_another_model_by_itself() {
        let claim = |provider, id| Claim { provider, id, written: false, ready: true };
        let (ab, ba) = ([claim("b", "x"), claim("a", "y")], [claim("b", "x"), claim("b", "z")]);
        let check =
            |claims: &[Claim<'_>], pinned: Option<&str>, recorded: Option<&str>, expected, remark: &str| {
                let map = |value: Option<&str>| {
                    value.map(|value| ("n".to_owned(), value.to_owned())).into_iter().collect()
                };
                let owners = Owners { pinned: map(pinned), recorded: map(recorded) };
                let decision = decide("n", claims, &owners);
                assert_eq!(decision.winner, expected, "{pinned:?} {recorded:?}");
                let said = decision.remark.unwrap_or_default();
                assert!(said.contains(remark) && said.is_empty() == remark.is_empty(), "{said}");
            };
        check(&ab, None, None, Some(1), "");
        check(&ab, None, Some("b/x"), Some(0), "");
        check(&ab, Some("a"), Some("b/x"), Some(1), "");
        check(&ab, Some("nobody"), Some("b/x"), Some(0), "");
        check(&ab, Some("b/x"), None, Some(0), "");
        check(&ba, None, Some("gone/z"), Some(1), "");
        check(&ba, None, Some("b/old"), Some(0), "`n` now means `x` at b; it meant `old` before");
        check(&ba, None, Some("gone/old"), None, "write \"n\" = \"b\" under [models]");
        check(&ba, Some("b"), Some("gone/old"), Some(0), "");
        check(&[claim("a", "y"), Claim { written: true, ..claim("b", "x") }], Some("a"), None, Some(1), "");
        check(&[], None, None, None, "");
        let keyless = |provider, id| Claim { ready: false, ..claim(provider, id) };
        check(&[claim("b", "x"), keyless("a", "x")], None, None, Some(0), "");
        check(&[claim("b", "x"), keyless("a", "x")], None, Some("a/x"), Some(0), "");
        check(&[claim("b", "y"), keyless("a", "x")], None, Some("a/x"), Some(1), "");
        check(&[keyless("b", "x"), keyless("a", "x")], None, Some("b/x"), Some(0), "");
    }

    #[test]
    fn the_record_survives_a_file() {
        let mut owners = Owners::default();
        owners.recorded.insert("kimi".into(), "moonshot/kimi-k2.5".into());
        let json = owners.to_json();
        assert_eq!(Owners::new(BTreeMap::new(), Some(&json)).expect("readable"), owners);
        assert!(Owners::new(BTreeMap::new(), Some("[]")).is_err());
    }
}
