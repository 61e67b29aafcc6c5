//! What a run of the conformance kit found: named checks, each passed, failed or skipped.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should.
    Pass,
    /// Not as it should; `detail` says how.
    Fail,
    /// There was nothing to check; `detail` says what would be needed.
    Skip,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Group and name, `errors: HTTP 429`.
    pub name: String,
    /// How it came out.
    pub verdict: Verdict,
    /// One line for people: what was measured, what is wrong, or what is missing.
    pub detail: String,
    /// How long it took.
    pub millis: u64,
}

/// All checks of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The plugin's id, or the file's name if that could not be read.
    pub plugin: String,
    /// The plugin's own version.
    pub version: String,
    /// In the order in which they ran.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether no check failed and at least one passed.
    pub fn passed(&self) -> bool {
        self.count(Verdict::Fail) == 0 && self.count(Verdict::Pass) > 0
    }

    /// How many checks came out so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// The check of this name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// A line for each check and one for all of them; with colours for a terminal, if asked for.
    pub fn table(&self, colour: bool) -> String {
        let mut out = String::new();
        let wide = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        for check in &self.checks {
            let (word, paint) = match check.verdict {
                Verdict::Pass => ("ok", "\x1b[32m"),
                Verdict::Fail => ("FAIL", "\x1b[1;31m"),
                Verdict::Skip => ("skip", "\x1b[33m"),
            };
            let (paint, plain) = if colour { (paint, "\x1b[0m") } else { ("", "") };
            let line = format!("{paint}{word:<6}{plain}{:<wide$}  {}", check.name, one_line(&check.detail));
            let _ = writeln!(out, "{}", line.trim_end());
        }
        let name = format!("{} {}", self.plugin, self.version);
        let _ = writeln!(
            out,
            "\n{}: {} passed, {} failed, {} skipped",
            one_line(&name),
            self.count(Verdict::Pass),
            self.count(Verdict::Fail),
            self.count(Verdict::Skip)
        );
        out
    }

    /// The same for programs: `{plugin, version, passed, checks: [{name, verdict, detail, millis}]}`.
    pub fn json(&self) -> String {
        let Self { plugin, version, checks } = self;
        let report = serde_json::json!({
            "plugin": plugin, "version": version, "passed": self.passed(), "checks": checks,
        });
        format!("{report:#}\n")
    }
}

/// A plugin's words on one line, without what would steer a terminal.
fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    words.join(" ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_table_and_json() {
        let check = |name: &str, verdict, detail: &str| Check {
            name: name.into(),
            verdict,
            detail: detail.into(),
            millis: 3,
        };
        let mut report = Report { plugin: "acme".into(), version: "1.0.0".into(), checks: Vec::new() };
        assert!(!report.passed(), "nothing was checked");
        report.checks.push(check("a: b", Verdict::Pass, ""));
        report.checks.push(check("long: name", Verdict::Skip, "no\n\x1b[31mfixture"));
        assert!(report.passed());
        report.checks.push(check("c", Verdict::Fail, "wrong"));
        assert!(!report.passed());
        assert_eq!(
            report.table(false),
            "ok    a: b\nskip  long: name  no [31mfixture\nFAIL  c           wrong\n\n\
             acme 1.0.0: 1 passed, 1 failed, 1 skipped\n"
        );
        assert!(report.table(true).contains("\x1b[1;31mFAIL"));
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!((&json["passed"], &json["checks"][2]["verdict"]), (&false.into(), &"fail".into()));
    }
}
