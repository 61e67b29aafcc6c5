//! Which models think when, and how they are told to.

/// From this version on models decide by themselves how long they think, within an effort.
const ADAPTIVE: (u32, u32) = (4, 6);

/// The least that an older model takes as a budget, in tokens.
const LEAST_BUDGET: u64 = 1024;

/// What a request says about thinking.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Thinking {
    /// `thinking`, as JSON.
    pub field: Option<String>,
    /// `output_config.effort`.
    pub effort: Option<&'static str>,
    /// Whether the model thinks, so that neither sampling nor a forced tool is allowed.
    pub on: bool,
    /// Whether the effort cannot be told to this model.
    pub ignored: bool,
}

/// Whether a model thinks whatever it is told.
pub fn always(model: &str) -> bool {
    let family = |name: &str| model.contains(name);
    family("fable") || family("mythos") || ((family("opus") || family("sonnet")) && version(model) >= (5, 5))
}

/// OpenAI's `reasoning_effort` as this model takes it. `bare_turn`: the last turn with tool calls came
/// back without its thoughts, which an older model refuses while it thinks.
pub fn of_effort(model: &str, effort: &str, max_tokens: u64, bare_turn: bool) -> Option<Thinking> {
    let version = version(model);
    let (word, budget) = match effort {
        "none" => ("", 0),
        "minimal" | "low" => ("low", LEAST_BUDGET),
        "medium" => ("medium", 4096),
        "high" => ("high", 16_384),
        "xhigh" if version > ADAPTIVE => ("xhigh", 0),
        "xhigh" => ("high", 32_768),
        "max" => ("max", 32_768),
        _ => return None,
    };
    let (always, ignored) = (always(model), Thinking { ignored: true, ..Thinking::default() });
    Some(match word {
        "" if always => ignored,
        "" if version >= ADAPTIVE => {
            Thinking { field: Some(r#"{"type":"disabled"}"#.into()), ..Thinking::default() }
        }
        "" => Thinking::default(),
        word if version >= ADAPTIVE => {
            let field = (!always).then(|| r#"{"type":"adaptive"}"#.to_owned());
            Thinking { field, effort: Some(word), on: true, ignored: false }
        }
        _ if version < (3, 7) || max_tokens <= LEAST_BUDGET || bare_turn => ignored,
        _ => {
            let budget = budget.min(max_tokens - 1);
            let field = Some(format!(r#"{{"type":"enabled","budget_tokens":{budget}}}"#));
            Thinking { field, effort: None, on: true, ignored: false }
        }
    })
}

/// `claude-3-7-sonnet-20250219` is 3.7, `claude-opus-5` is 5.0; a name without numbers is the newest.
fn version(model: &str) -> (u32, u32) {
    let numbers = model.split(['-', '.', '@']).filter(|part| part.len() <= 2);
    let mut numbers = numbers.filter_map(|part| part.parse().ok());
    numbers.next().map_or((u32::MAX, 0), |major| (major, numbers.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_told_apart_by_their_versions() {
        for (model, expected) in [
            ("claude-3-7-sonnet-20250219", (3, 7)),
            ("claude-opus-4-20250514", (4, 0)),
            ("claude-sonnet-4-5-20250929", (4, 5)),
            ("claude-opus-5", (5, 0)),
            ("claude-next", (u32::MAX, 0)),
        ] {
            assert_eq!(version(model), expected, "{model}");
        }
        for (model, expected) in
            [("claude-opus-5", false), ("claude-opus-5-5", true), ("claude-haiku-5-5", false)]
        {
            assert_eq!(always(model), expected, "{model}");
        }
        assert!(always("claude-fable-5"));
    }

    #[test]
    fn efforts_become_what_each_model_takes() {
        let check = |model: &str, effort: &str, max_tokens: u64, bare: bool, expected: &str| {
            let thinking = of_effort(model, effort, max_tokens, bare).expect("an effort");
            let text = format!(
                "{} {} {}{}",
                thinking.field.as_deref().unwrap_or("-"),
                thinking.effort.unwrap_or("-"),
                thinking.on,
                if thinking.ignored { " ignored" } else { "" }
            );
            assert_eq!(text, expected, "{model} {effort}");
        };
        check("claude-opus-5", "high", 9000, true, r#"{"type":"adaptive"} high true"#);
        check("claude-opus-5", "xhigh", 9000, false, r#"{"type":"adaptive"} xhigh true"#);
        check("claude-sonnet-4-6", "xhigh", 9000, false, r#"{"type":"adaptive"} high true"#);
        check("claude-opus-5", "none", 9000, false, r#"{"type":"disabled"} - false"#);
        check("claude-opus-5-5", "minimal", 9000, false, "- low true");
        check("claude-opus-5-5", "none", 9000, false, "- - false ignored");
        check("claude-haiku-4-5", "high", 9000, false, r#"{"type":"enabled","budget_tokens":8999} - true"#);
        check("claude-haiku-4-5", "low", 9000, false, r#"{"type":"enabled","budget_tokens":1024} - true"#);
        check("claude-haiku-4-5", "none", 9000, false, "- - false");
        check("claude-haiku-4-5", "low", 1024, false, "- - false ignored");
        check("claude-haiku-4-5", "low", 9000, true, "- - false ignored");
        check("claude-3-5-haiku-20241022", "low", 9000, false, "- - false ignored");
        assert_eq!(of_effort("claude-opus-5", "very", 9000, false), None);
    }
}
