//! Mistakes in the settings: where they stand, what to do, and how they are shown.

use std::{
    fmt::{self, Write as _},
    ops::Range,
    sync::Arc,
};

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report,
    ThemeCharacters, ThemeStyles,
};

/// Nobody reads more mistakes than this at once.
const MOST_SHOWN: usize = 100;

/// A configuration file's name and text.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// As people know it.
    pub name: String,
    /// Without a byte order mark.
    pub text: String,
}

// The text may hold a key that was written there by mistake.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where a mistake stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the configuration file, at these bytes.
    File(Range<usize>),
    /// In a variable of the environment.
    Variable(String),
    /// In a flag.
    Flag(String),
    /// In what several of them say together, or in a file that cannot be read.
    Whole,
}

/// Whether the program can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It can.
    Warning,
    /// It cannot.
    Error,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether the program can go on.
    pub severity: Severity,
    /// Where it stands.
    pub place: Place,
    /// One sentence.
    pub text: String,
    /// What to do.
    pub help: Option<String>,
}

impl Problem {
    /// A mistake that stops the program.
    pub fn error(place: Place, text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place, text: printable(&text.into()), help: None }
    }

    /// Something that the operator should see.
    pub fn warning(place: Place, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, text) }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(printable(&text.into()));
        self
    }
}

/// All mistakes that were found.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    /// In the order of the file.
    pub list: Vec<Problem>,
    /// The file that [`Place::File`] means.
    pub source: Option<Arc<Source>>,
}

impl std::error::Error for Problems {}

/// As for a log: without colours.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Problems {
    /// Whether one of them stops the program.
    pub fn fatal(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Adds what another check of the same file found.
    pub fn merge(&mut self, mut other: Self) {
        self.list.append(&mut other.list);
        self.source = self.source.take().or(other.source);
        self.sort();
    }

    /// Puts them into the order of the file, those from elsewhere first.
    pub(super) fn sort(&mut self) {
        self.list.sort_by_key(|problem| match &problem.place {
            Place::File(span) => (1, span.start),
            _ => (0, 0),
        });
    }

    /// One line each, for a log: `sigorest.toml:3:5: …`.
    pub fn lines(&self) -> impl Iterator<Item = (Severity, String)> {
        self.list.iter().map(|problem| {
            let help = problem.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
            (problem.severity, format!("{}{}{help}", self.position(problem), problem.text))
        })
    }

    fn position(&self, problem: &Problem) -> String {
        match (&problem.place, &self.source) {
            (Place::Variable(name) | Place::Flag(name), _) => format!("{name}: "),
            (Place::File(span), Some(source)) => {
                let (line, column) = line_column(&source.text, span.start);
                format!("{}:{line}:{column}: ", source.name)
            }
            _ => String::new(),
        }
    }

    /// All of them for people: those of the file with line and caret, the others on one line each.
    pub fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        let theme = GraphicalTheme {
            characters: ThemeCharacters::ascii(),
            styles: if colour { ThemeStyles::ansi() } else { ThemeStyles::none() },
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_wrap_lines(false).with_context_lines(1);
        let text = self
            .source
            .as_ref()
            .map(|source| Arc::new(NamedSource::new(&source.name, hide_secrets(&source.text))));
        for problem in self.list.iter().take(MOST_SHOWN) {
            let (Place::File(span), Some(source)) = (&problem.place, &self.source) else {
                let kind = if problem.severity == Severity::Error { "" } else { "warning: " };
                let help = problem.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
                let _ = writeln!(out, "{kind}{}{}{help}", self.position(problem), problem.text);
                continue;
            };
            let severity = match problem.severity {
                Severity::Error => miette::Severity::Error,
                Severity::Warning => miette::Severity::Warning,
            };
            let mut diagnostic = MietteDiagnostic::new(problem.text.clone())
                .with_severity(severity)
                .with_label(LabeledSpan::underline(visible(span, &source.text)));
            diagnostic.help.clone_from(&problem.help);
            let report = Report::new(diagnostic);
            let report = match &text {
                Some(text) => report.with_source_code(Arc::clone(text)),
                None => report,
            };
            if handler.render_report(&mut out, report.as_ref()).is_err() {
                let _ = write!(out, "{}{}", self.position(problem), problem.text);
            }
            out.push('\n');
        }
        if let Some(more @ 1..) = self.list.len().checked_sub(MOST_SHOWN) {
            let _ = writeln!(out, "and {more} more");
        }
        out
    }
}

/// A span that a caret can stand under: not empty, on one line.
fn visible(span: &Range<usize>, text: &str) -> Range<usize> {
    let start = span.start.min(text.len());
    let line = text.get(start..).and_then(|rest| rest.find(['\n', '\r'])).map_or(text.len(), |at| start + at);
    start..span.end.min(line).max(start)
}

pub(super) fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    (line, before.rsplit('\n').next().unwrap_or("").chars().count() + 1)
}

/// What stands in a file may not steer the terminal. Each byte becomes one.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(c),
            c if c.is_control() => out.extend(std::iter::repeat_n('?', c.len_utf8())),
            c => out.push(c),
        }
    }
    out
}

/// The text with quoted values behind names such as `api_key` starred out, byte for byte, so that a key
/// that stands in the file by mistake is not shown with it.
fn hide_secrets(text: &str) -> String {
    let mut section = false;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        section |= line.trim_start().starts_with('[');
        let named = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'));
        // Who mistakes `key_env` writes the key itself there.
        let secret =
            named.into_iter().any(|word| word == "key_env" || is_secret(word) && (section || word != "key"));
        match line.find('=').filter(|_| secret) {
            None => out.push_str(line),
            Some(at) => {
                out.push_str(&line[..at]);
                let mut quote = None;
                for c in line[at..].chars() {
                    match quote {
                        None if c == '"' || c == '\'' => quote = Some(c),
                        Some(open) if c == open => quote = None,
                        Some(_) if !c.is_control() => {
                            out.extend(std::iter::repeat_n('*', c.len_utf8()));
                            continue;
                        }
                        _ => {}
                    }
                    out.push(c);
                }
            }
        }
    }
    printable(&hide_passwords(&out))
}

/// Stars out what stands before the `@` of a URL.
fn hide_passwords(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "\"'/?#".contains(c)).unwrap_or(after.len());
        let secret = after[..end].rfind('@').unwrap_or(0);
        out.extend(std::iter::repeat_n('*', secret));
        rest = &after[secret..];
    }
    out + rest
}

/// Whether a setting of this name may hold a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if name == "key_env" || name == "key_file" {
        return false;
    }
    ["key", "token", "secret", "password", "passwd", "credential"].iter().any(|word| name.contains(word))
}

/// The name among these that was probably meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = name.to_ascii_lowercase().replace('_', "-");
    known
        .into_iter()
        .map(|candidate| {
            let other = candidate.to_ascii_lowercase().replace('_', "-");
            (strsim::damerau_levenshtein(&folded, &other), candidate)
        })
        .filter(|(distance, candidate)| *distance <= (name.len().max(candidate.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_the_file_are_not_shown() {
        let check = |text: &str, expected: &str| {
            assert_eq!(hide_secrets(text), expected);
            assert_eq!(text.len(), expected.len());
        };
        check("[provider.a]\napi_key = \"sk-1\" # x\n", "[provider.a]\napi_key = \"****\" # x\n");
        check("provider.a = { api-key = 'sk' }", "provider.a = { api-key = '**' }");
        check("key = \"certs/a.key\"\n", "key = \"certs/a.key\"\n");
        check("base_url = \"https://u:p@a/b@c\"", "base_url = \"https://***@a/b@c\"");
        check(
            "[provider.a]\nkey_env = \"sk\"\nkey_file = \"f\"",
            "[provider.a]\nkey_env = \"**\"\nkey_file = \"f\"",
        );
        check("a = \"\u{1b}[2J\u{9b}\"", "a = \"?[2J??\"");
    }

    #[test]
    fn nearest_names() {
        let known = ["max_body_bytes", "header_secs", "http", "https"];
        let check = |name: &str, expected: Option<&str>| assert_eq!(nearest(name, known), expected, "{name}");
        check("max_body_byte", Some("max_body_bytes"));
        check("max-body-bytes", Some("max_body_bytes"));
        check("headers_secs", Some("header_secs"));
        check("htps", Some("https"));
        check("zebra", None);
    }
}
