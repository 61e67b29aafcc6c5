//! What goes when a session is full.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;

/// A stored message, and what was seen in it once: a full session is cut at every write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The message's JSON.
    pub(super) text: Bytes,
    role: Role,
}

impl Line {
    pub(super) fn new(text: Bytes) -> Self {
        Self { role: role(&text), text }
    }
}

/// The part that a message plays at the front of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The gateway's and each request's own, never stored.
    System,
    User,
    /// The answer to a call that stands before it.
    Result,
    Other,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
}

fn role(message: &[u8]) -> Role {
    // Whatever else upstreams accept is kept as it is.
    let Ok(head) = serde_json::from_slice::<Head>(message) else { return Role::Other };
    match head.role.as_ref() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "tool" | "function" => Role::Result,
        _ => Role::Other,
    }
}

/// The newest messages that fit in both bounds. They never begin with a tool's result, whose call would
/// be missing; they begin with a user's message if one stands in the older half.
pub(super) fn trim(mut lines: Vec<Line>, max_messages: usize, max_bytes: usize) -> Vec<Line> {
    lines.retain(|line| line.role != Role::System);
    let mut bytes = 0;
    let fitting = lines.iter().rev().take(max_messages).take_while(|line| {
        bytes += line.text.len() + 8;
        bytes <= max_bytes
    });
    let cut = lines.len() - fitting.count();
    let start = cut + front(&lines[cut..], cut > 0);
    lines.drain(..start);
    lines
}

/// How many messages to drop at the front.
fn front(lines: &[Line], was_cut: bool) -> usize {
    let after_results = lines.iter().take_while(|line| line.role == Role::Result).count();
    if !was_cut {
        return after_results;
    }
    // Some models want a user's message first. In a long turn of tool calls the next one may be far;
    // forgetting most of the turn would be worse.
    let user = lines.iter().position(|line| line.role == Role::User);
    user.filter(|at| *at <= lines.len() / 2).unwrap_or(after_results)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: char) -> Line {
        Line::new(Bytes::from_static(match kind {
            'u' => br#"{"role":"user","content":"q"}"#,
            'a' => br#"{"role":"assistant","content":"x"}"#,
            'c' => br#"{"role":"assistant","tool_calls":[{"id":"1"}]}"#,
            't' => br#"{"role":"tool","tool_call_id":"1","content":"r"}"#,
            's' => br#"{"role":"system","content":"s"}"#,
            _ => br#"{"role":5}"#,
        }))
    }

    fn check(kinds: &str, max: usize, kept: &str) {
        let messages = trim(kinds.chars().map(message).collect(), max, usize::MAX);
        assert_eq!(messages, kept.chars().map(message).collect::<Vec<_>>(), "{kinds}");
    }

    #[test]
    fn the_oldest_go_without_parting_results_from_calls() {
        check("uaua", 4, "uaua");
        check("uauaua", 4, "uaua");
        check("uuauau", 4, "uau");
        check("ucttua", 4, "ua");
        check("uctctcta", 4, "cta");
        check("ttua", 4, "ua");
        check("suasu", 4, "uau");
        check("ucttttta", 4, "a");
        check("uuaa?", 2, "a?");
    }

    #[test]
    fn many_bytes_are_too_much_as_well() {
        let big = Bytes::from(format!(r#"{{"role":"user","content":"{}"}}"#, "x".repeat(100)));
        let big = Line::new(big);
        let kept = trim(vec![big.clone(), message('a'), big.clone(), message('a')], 20, 200);
        assert_eq!(kept, [big, message('a')]);
    }

    proptest! {
        #[test]
        fn what_stays_is_the_newest_whole_part(kinds in "(u(ct{1,3}){0,3}a){0,12}", max in 1usize..25) {
            let all: Vec<Line> = kinds.chars().map(message).collect();
            let kept = trim(all.clone(), max, usize::MAX);
            prop_assert!(kept.len() <= max);
            prop_assert!(all.ends_with(&kept));
            prop_assert_eq!(kept.is_empty(), all.is_empty());
            prop_assert!(kept.first().is_none_or(|first| first.role != Role::Result));
            prop_assert_eq!(trim(kept.clone(), max, usize::MAX), kept);
        }
    }
}
