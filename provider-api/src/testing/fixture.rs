//! An author's fixtures: what a caller asks, what the upstream answers, what comes of it.
//!
//! Their form is told at [`Fixtures`].

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::Outcome;
use crate::{event::Usage, request::Members};

/// One exchange as an author recorded it.
#[derive(Debug, Clone, Default)]
pub struct Fixture {
    /// The files' common name.
    pub name: String,
    /// The caller's request; empty for the kit's own.
    pub request: String,
    /// The upstream's answers in the order of the requests.
    pub answers: Vec<Answer>,
    /// The transcript it shall give, if there is one.
    pub expected: Option<String>,
    /// Where that transcript is.
    pub expected_path: PathBuf,
}

/// An upstream's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What a directory of fixtures holds.
///
/// For each name:
/// - `NAME.upstream.http`: the upstream's answer as it goes over the wire: a status line, header lines, a
///   blank line, the body. A stream's body is server-sent events or lines. Where a provider asks more
///   than once in an exchange, `NAME.upstream.2.http` and so on answer the further requests; where it asks
///   nobody, there is no such file.
/// - `NAME.request.json` (optional): the caller's request in OpenAI's form. `"stream": true` asks for a
///   stream, `input` in place of `messages` for embeddings. Without it the kit asks a short question,
///   streamed if the answer is a stream.
/// - `NAME.expected.txt` (optional): what is sent to the upstream and what the caller gets. Written by
///   the kit when it is asked to bless, and to be read like code before it is committed.
///
/// `settings.json` beside them holds the provider's settings, where it needs some.
#[derive(Debug, Clone, Default)]
pub struct Fixtures {
    /// The provider's settings, a JSON object.
    pub settings: Option<String>,
    /// By name.
    pub list: Vec<Fixture>,
}

impl Fixtures {
    /// Reads a directory; files under other names are left alone.
    ///
    /// # Errors
    /// One line that names the file which cannot be read or understood.
    pub fn read(dir: &Path) -> Result<Self, String> {
        let entries =
            std::fs::read_dir(dir).map_err(|error| format!("{} cannot be read: {error}", dir.display()))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names
            .filter_map(|name| {
                let name =
                    name.strip_suffix(".upstream.http").or_else(|| name.strip_suffix(".request.json"))?;
                Some(name.to_owned())
            })
            .collect();
        names.sort();
        names.dedup();
        let list = names.into_iter().map(|name| Fixture::read(dir, name)).collect::<Result<_, _>>()?;
        Ok(Self { settings: optional(&dir.join("settings.json"))?, list })
    }
}

impl Fixture {
    fn read(dir: &Path, name: String) -> Result<Self, String> {
        let mut answers = Vec::new();
        loop {
            let number = answers.len() + 1;
            let file = match number {
                1 => format!("{name}.upstream.http"),
                _ => format!("{name}.upstream.{number}.http"),
            };
            let path = dir.join(file);
            // A provider that asks no upstream has fixtures without an answer.
            if !path.exists() {
                break;
            }
            let text = std::fs::read(&path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            let answer = Answer::parse(&text);
            answers.push(answer.ok_or_else(|| {
                format!(
                    "{}: it must start with `HTTP/1.1 STATUS`, header lines, a blank line",
                    path.display()
                )
            })?);
        }
        let path = dir.join(format!("{name}.request.json"));
        let request = optional(&path)?.map(|text| text.trim().to_owned()).unwrap_or_default();
        if !request.is_empty() {
            Members::parse(request.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let expected_path = dir.join(format!("{name}.expected.txt"));
        Ok(Self { name, request, answers, expected: optional(&expected_path)?, expected_path })
    }
}

fn optional(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

impl Answer {
    /// An answer with one content type.
    pub(super) fn new(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type".into(), kind.into())], body: body.into() }
    }

    /// Adds a header.
    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Reads a status line, header lines and a body; line ends of the head may be LF or CRLF.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut answer = Self::default();
        let mut rest = text;
        loop {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = std::str::from_utf8(&rest[..end]).ok()?.trim_end();
            rest = rest.get(end + 1..).unwrap_or_default();
            if answer.status == 0 {
                answer.status = line.strip_prefix("HTTP/")?.split_whitespace().nth(1)?.parse().ok()?;
            } else if line.is_empty() {
                answer.body = rest.to_vec();
                return (100..600).contains(&answer.status).then_some(answer);
            } else {
                let (name, value) = line.split_once(':')?;
                answer.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    /// The content type; empty if there is none.
    pub(super) fn kind(&self) -> &str {
        let found = self.headers.iter().find(|(name, _)| name == "content-type");
        found.map_or("", |(_, value)| value.as_str())
    }

    /// Whether it is a stream by its content type.
    pub(super) fn is_stream(&self) -> bool {
        self.kind().starts_with("text/event-stream") || self.kind().contains("ndjson")
    }

    /// The headers as the driver takes them.
    pub(super) fn heads(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// Both sides of an exchange as text: what went to the upstream, what the caller gets.
pub(super) fn transcript(outcome: &Outcome) -> String {
    let mut out = String::new();
    for request in &outcome.requests {
        let _ = writeln!(out, "--- request\n{} {}", request.method, request.url);
        for (name, value) in &request.headers {
            let _ = writeln!(out, "{name}: {value}");
        }
        let _ = writeln!(out, "\n{}", String::from_utf8_lossy(&request.body));
    }
    for field in &outcome.dropped {
        let _ = writeln!(out, "--- dropped {field}");
    }
    let _ = writeln!(out, "--- answer\n{}", String::from_utf8_lossy(&outcome.output).trim_end());
    let _ = writeln!(out, "--- usage {}", usage(&outcome.usage));
    if let Some(fault) = &outcome.fault {
        let _ = writeln!(
            out,
            "--- fault {} status {} retry after {} ms: {}",
            super::kit::kind_name(fault.kind),
            fault.status,
            fault.retry_after_ms,
            fault.message
        );
    }
    out
}

fn usage(usage: &Usage) -> String {
    let known = [
        ("input", usage.input),
        ("output", usage.output),
        ("cache_read", usage.cache_read),
        ("cache_write", usage.cache_write),
        ("cache_write_1h", usage.cache_write_1h),
        ("reasoning", usage.reasoning),
    ];
    let known = known.iter().filter_map(|(name, value)| Some(format!("{name} {}", (*value)?)));
    let text = known.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "unknown".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_either_line_end() {
        for end in ["\n", "\r\n"] {
            let text = ["HTTP/1.1 429 Too Many", "Retry-After: 7", "x:", "", "a\nb"].join(end);
            let answer = Answer::parse(text.as_bytes()).expect("an answer");
            assert_eq!((answer.status, answer.body.as_slice()), (429, &b"a\nb"[..]));
            assert_eq!(answer.heads(), [("retry-after", "7"), ("x", "")]);
        }
        assert_eq!(Answer::parse(b"HTTP/2 204\n\n").expect("an answer").status, 204);
        for wrong in ["", "{}", "HTTP/1.1 abc\n\n", "HTTP/1.1 42\n\n", "HTTP/1.1 200\nno colon\n\n"] {
            assert_eq!(Answer::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
