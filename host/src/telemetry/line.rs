//! One line of the log: time, level, message, fields, with nothing in it that could steer a terminal or
//! forge another line.

use std::{
    fmt::{self, Write},
    time::UNIX_EPOCH,
};

use tracing::{
    Level,
    field::{Field, Visit},
};

/// A line that is being built; its buffers are used again for the next one.
#[derive(Default)]
pub(super) struct Line {
    json: bool,
    head: String,
    message: String,
    fields: String,
    /// The value that is being written.
    value: String,
}

impl Line {
    pub(super) fn start(&mut self, level: &Level, json: bool) {
        for part in [&mut self.head, &mut self.message, &mut self.fields] {
            part.clear();
        }
        self.json = json;
        let now = super::writer::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = match *level {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN ",
            Level::INFO => "INFO ",
            _ => "DEBUG",
        };
        let head = &mut self.head;
        if json {
            head.push_str("{\"time\":\"");
            time(head, now);
            head.extend(["\",\"level\":\"", name.trim_end(), "\",\"message\":\""]);
        } else {
            time(head, now);
            head.extend([" ", name, " "]);
        }
    }

    /// The finished line with its line feed.
    pub(super) fn finish(&mut self, pid: u32) -> &[u8] {
        self.head.push_str(&self.message);
        if self.json {
            self.head.push('"');
        }
        self.head.push_str(&self.fields);
        if self.json {
            let _ = write!(self.head, ",\"pid\":{pid}}}");
        }
        self.head.push('\n');
        self.head.as_bytes()
    }

    /// A value that is written as it stands: a number or a truth value.
    fn bare(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.name(name);
        let _ = self.fields.write_fmt(value);
    }

    fn name(&mut self, name: &str) {
        // `r#type` is how Rust spells a field that is called `type`.
        let name = name.strip_prefix("r#").unwrap_or(name);
        let (before, behind) = if self.json { (",\"", "\":") } else { (" ", "=") };
        self.fields.extend([before, name, behind]);
    }

    fn text(&mut self, name: &str, text: &str) {
        if name == "message" {
            match self.json {
                true => json(&mut self.message, text),
                false => plain(&mut self.message, text, false),
            }
            return;
        }
        self.name(name);
        if self.json {
            self.fields.push('"');
            json(&mut self.fields, text);
            self.fields.push('"');
        } else if needs_quotes(text) {
            self.fields.push('"');
            plain(&mut self.fields, text, true);
            self.fields.push('"');
        } else {
            self.fields.push_str(text);
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if self.json && !value.is_finite() {
            return self.bare(field.name(), format_args!("null"));
        }
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = std::mem::take(&mut self.value);
        text.clear();
        let _ = write!(text, "{value:?}");
        self.text(field.name(), &text);
        self.value = text;
    }
}

/// A span's fields, kept until an event in it is logged.
#[derive(Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

enum Value {
    Text(String),
    Bare(String),
}

impl Fields {
    pub(super) fn replay(&self, line: &mut Line) {
        for (name, value) in &self.0 {
            match value {
                Value::Text(text) => line.text(name, text),
                Value::Bare(text) => line.bare(name, format_args!("{text}")),
            }
        }
    }

    fn put(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), Value::Bare(value.to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), Value::Text(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), Value::Text(format!("{value:?}")));
    }
}

/// Characters that never reach the log as they are: controls, and marks that reorder or hide text.
fn unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn needs_quotes(text: &str) -> bool {
    // Most values are words.
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte)) {
        return false;
    }
    text.is_empty()
        || text.chars().any(|c| c.is_whitespace() || matches!(c, '"' | '=' | '\\') || unsafe_to_show(c))
}

fn plain(out: &mut String, text: &str, quoted: bool) {
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' | '\\' if quoted => out.extend(['\\', c]),
            c if unsafe_to_show(c) => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
}

fn json(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' | '\\' => out.extend(['\\', c]),
            c if unsafe_to_show(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
}

/// `2026-11-24T20:15:01.123Z`: days to a date as in Howard Hinnant's `civil_from_days`.
fn time(out: &mut String, since_1970: std::time::Duration) {
    let (seconds, millis) = (since_1970.as_secs(), since_1970.subsec_millis());
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let day = day - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let parts = [
        (year, 4, '-'),
        (month, 2, '-'),
        (day, 2, 'T'),
        (hour, 2, ':'),
        (minute, 2, ':'),
        (second, 2, '.'),
        (u64::from(millis), 3, 'Z'),
    ];
    // Digit by digit: every request has such a line.
    for (number, width, behind) in parts {
        out.extend((0..width).rev().map(|place| char::from(b'0' + (number / 10u64.pow(place) % 10) as u8)));
        out.push(behind);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times() {
        let check = |millis: u64, expected: &str| {
            let mut out = String::new();
            time(&mut out, Duration::from_millis(millis));
            assert_eq!(out, expected);
        };
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(1_795_551_301_123, "2026-11-24T20:15:01.123Z");
        check(4_107_542_399_999, "2100-02-28T23:59:59.999Z");
    }

    fn built(json: bool, fields: &[(&str, &str)]) -> String {
        let mut line = Line::default();
        line.start(&Level::INFO, json);
        for (name, value) in fields {
            line.text(name, value);
        }
        line.bare("count", format_args!("{}", 3));
        let text = String::from_utf8(line.finish(7).to_vec()).expect("text");
        if json { text } else { text[24..].to_owned() }
    }

    #[test]
    fn text_lines() {
        let line =
            built(false, &[("message", "request"), ("model", "kimi"), ("who", "a b=\"c\""), ("none", "")]);
        assert_eq!(line, " INFO  request model=kimi who=\"a b=\\\"c\\\"\" none=\"\" count=3\n");
    }

    #[test]
    fn nothing_steers_the_terminal_or_forges_a_line() {
        let evil = "a\r\nb\u{1b}[2J\u{9b}1m\u{202e}x\u{2028}\u{7f}";
        let line = built(false, &[("message", evil), ("r#type", evil)]);
        let shown = "a\\r\\nb\\u{1b}[2J\\u{9b}1m\\u{202e}x\\u{2028}\\u{7f}";
        assert_eq!(line, format!(" INFO  {shown} type=\"{shown}\" count=3\n"));
        let line = built(true, &[("message", evil), ("type", evil)]);
        assert!(!line.trim_end().chars().any(unsafe_to_show), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((value["message"].as_str(), value["type"].as_str()), (Some(evil), Some(evil)));
        assert_eq!((&value["level"], &value["count"], &value["pid"]), (&"INFO".into(), &3.into(), &7.into()));
    }
}
