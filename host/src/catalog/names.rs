//! Names: which are near to each other, which match a pattern.

/// The up to `count` names that are most like `name`, best first, each once.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    // A name is at most this long; longer ones would only cost time.
    const LONGEST: usize = 128;
    // Found by trying: below it, names that share nothing but letters get in.
    const LIKE: f64 = 0.75;
    if name.len() > LONGEST {
        return Vec::new();
    }
    let name = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), known))
        .filter(|(score, _)| *score >= LIKE)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(count).map(|(_, known)| known).collect()
}

/// Names in backquotes, as a list for people.
pub(super) fn join(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Whether a pattern, where `*` stands for any run of characters, matches the whole name. Both are in
/// lower case.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let check =
            |pattern, name, expected| assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        check("kimi", "kimi", true);
        check("kimi", "kimi2", false);
        check("kimi*", "kimi", true);
        check("kimi*", "kimi-thinking", true);
        check("*", "", true);
        check("*kimi", "moonshot/kimi", true);
        check("m*/k*g", "moonshot/kimi-thinking", true);
        check("a*a", "a", false);
        check("*x*", "kimi", false);
        check("**k**i", "kimi", true);
    }

    #[test]
    fn near_names_come_best_first() {
        let known = ["kimi", "kimi-thinking", "gpt41", "gpt41m", "gpt41m", "echo"];
        let check =
            |name, expected: &[&str]| assert_eq!(nearest(name, known.into_iter(), 3), expected, "{name}");
        check("kimi-k9", &["kimi", "kimi-thinking"]);
        check("GPT4.1", &["gpt41", "gpt41m"]);
        check("zzz", &[]);
        check(&"k".repeat(1000), &[]);
        assert_eq!(join(&["a", "b", "c"]), "`a`, `b` and `c`");
        assert_eq!(join(&["a"]), "`a`");
    }
}
