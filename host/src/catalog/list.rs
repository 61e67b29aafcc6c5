//! The operator's models.csv in its two forms: names, or a table.

use std::{collections::HashMap, str::FromStr};

use provider_api::model::{Mode, Model};

use super::Warning;

/// What models.csv chooses, in the order of its lines.
#[derive(Debug, Clone, Default)]
pub struct List {
    pub(super) lines: Vec<Line>,
}

#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) choice: Choice,
}

#[derive(Debug, Clone)]
pub(super) enum Choice {
    /// A shortcode, an id or `provider/id`.
    Name(String),
    /// All that match, in lower case.
    Pattern(String),
    /// None that match, in lower case.
    Hide(String),
    /// A row of the table.
    Row(Box<Row>),
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Host and port of the endpoint in lower case; empty if it names none.
    pub(super) host: String,
    /// What the row says; `None` where it says nothing that can be read.
    pub(super) model: Model,
}

/// Columns of the table.
const COLUMNS: [&str; 11] = [
    "id",
    "shortcode",
    "endpoint",
    "apikey",
    "max_input",
    "max_output",
    "input_cost",
    "output_cost",
    "min_temp",
    "max_temp",
    "requires_completion_tokens",
];

impl List {
    /// Reads models.csv: a table if a line that is no comment holds a semicolon, else names.
    ///
    /// What cannot be read is a warning, and the rest counts.
    pub fn parse(text: &str) -> (Self, Vec<Warning>) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // Old Macs end lines with a lone CR, which `lines` does not know.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let lines: Vec<(usize, &str)> = text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .collect();
        if lines.iter().any(|(_, line)| without_comment(line).contains(';')) {
            return table(&lines);
        }
        let names = lines.iter().flat_map(|&(number, line)| {
            without_comment(line)
                .split(',')
                .map(plain)
                .filter(|name| !name.is_empty())
                .map(move |name| Line { number, choice: choice(name) })
        });
        (Self { lines: names.collect() }, Vec::new())
    }

    /// The same list, but it leaves nothing out.
    pub(super) fn without_hiding(&self) -> Self {
        let hides = |line: &Line| matches!(line.choice, Choice::Hide(_));
        Self { lines: self.lines.iter().filter(|line| !hides(line)).cloned().collect() }
    }
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or_default()
}

fn plain(field: &str) -> &str {
    field.trim().trim_matches('"').trim()
}

fn choice(name: &str) -> Choice {
    match name.strip_prefix('!') {
        Some(hidden) => Choice::Hide(hidden.trim().to_lowercase()),
        None if name.contains('*') => Choice::Pattern(name.to_lowercase()),
        None => Choice::Name(name.to_owned()),
    }
}

fn table(lines: &[(usize, &str)]) -> (List, Vec<Warning>) {
    let mut list = List::default();
    let mut warnings = Vec::new();
    // Where each shortcode stands, so that the last one wins.
    let mut seen: HashMap<String, usize> = HashMap::new();
    for &(number, line) in lines {
        if line.starts_with('!') {
            list.lines.push(Line { number, choice: choice(plain(line)) });
            continue;
        }
        let Some(row) = row(number, line, &mut warnings) else { continue };
        let shortcode = row.model.shortcode.clone();
        let line = Line { number, choice: Choice::Row(Box::new(row)) };
        match seen.get(&shortcode) {
            Some(&earlier) => {
                let first = list.lines[earlier].number;
                warnings.push(Warning::at(
                    number,
                    format!("shortcode `{shortcode}` stands in line {first} too; this line wins"),
                ));
                list.lines[earlier] = line;
            }
            None => {
                if !shortcode.is_empty() {
                    seen.insert(shortcode, list.lines.len());
                }
                list.lines.push(line);
            }
        }
    }
    (list, warnings)
}

/// One row; `None` for a header and for a row that names no model.
fn row(number: usize, line: &str, warnings: &mut Vec<Warning>) -> Option<Row> {
    let fields: Vec<&str> = line.split(';').map(plain).collect();
    let field = |column: usize| fields.get(column).copied().unwrap_or_default();
    if field(0).eq_ignore_ascii_case("id") && field(1).eq_ignore_ascii_case("shortcode") {
        return None;
    }
    if field(0).is_empty() && field(1).is_empty() {
        warnings.push(Warning::at(number, "the row has neither an id nor a shortcode; it is ignored"));
        return None;
    }
    // The last column is optional, as it always was.
    if fields.len() < COLUMNS.len() - 1 || fields.len() > COLUMNS.len() {
        let expected = COLUMNS.len();
        let found = fields.len();
        warnings.push(Warning::at(
            number,
            format!(
                "the row has {found} fields instead of {expected} ({}); what can be read counts",
                COLUMNS.join(";")
            ),
        ));
    }
    let mut read = Reader { fields: &fields, number, warnings };
    let mut model = Model {
        id: field(0).to_owned(),
        shortcode: field(1).to_owned(),
        // 0 is what the original writes for a limit that it does not know.
        max_input_tokens: read.number(4, |tokens: &u64| *tokens > 0),
        max_output_tokens: read.number(5, |tokens: &u64| *tokens > 0),
        input_cost: read.amount(6),
        output_cost: read.amount(7),
        min_temperature: read.amount(8),
        max_temperature: read.amount(9),
        requires_completion_tokens: read.truth(10),
        ..Model::default()
    };
    let (host, path) = address(field(2));
    if path.ends_with("/embeddings") {
        model.mode = Mode::Embedding;
    }
    Some(Row { host, model })
}

struct Reader<'a> {
    fields: &'a [&'a str],
    number: usize,
    warnings: &'a mut Vec<Warning>,
}

impl Reader<'_> {
    fn number<T: FromStr>(&mut self, column: usize, says_something: impl Fn(&T) -> bool) -> Option<T> {
        let text = *self.fields.get(column)?;
        if text.is_empty() {
            return None;
        }
        match text.parse::<T>() {
            Ok(value) => says_something(&value).then_some(value),
            Err(_) => self.wrong(column, text, "a number"),
        }
    }

    fn amount(&mut self, column: usize) -> Option<f64> {
        let value: f64 = self.number(column, |_| true)?;
        if value.is_finite() && value >= 0.0 {
            return Some(value);
        }
        self.wrong(column, self.fields[column], "a number from 0")
    }

    fn truth(&mut self, column: usize) -> Option<bool> {
        match *self.fields.get(column)? {
            "" => None,
            text if text.eq_ignore_ascii_case("true") => Some(true),
            text if text.eq_ignore_ascii_case("false") => Some(false),
            text => self.wrong(column, text, "true or false"),
        }
    }

    fn wrong<T>(&mut self, column: usize, text: &str, expected: &str) -> Option<T> {
        let name = COLUMNS[column];
        self.warnings.push(Warning::at(
            self.number,
            format!("{name} is {text:?} instead of {expected}; it is left out, the rest of the row counts"),
        ));
        None
    }
}

/// Host with port, in lower case, and path of a URL.
pub(super) fn address(url: &str) -> (String, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    (host.to_lowercase(), path.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (Vec<String>, Vec<String>) {
        let (list, warnings) = List::parse(text);
        let show = |line: &Line| match &line.choice {
            Choice::Name(name) => format!("{} {name}", line.number),
            Choice::Pattern(pattern) => format!("{} ~{pattern}", line.number),
            Choice::Hide(pattern) => format!("{} !{pattern}", line.number),
            Choice::Row(row) => {
                format!("{} {}={}@{}", line.number, row.model.shortcode, row.model.id, row.host)
            }
        };
        (list.lines.iter().map(show).collect(), warnings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_stand_in_lines_or_between_commas() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(shown(text), (expected.iter().map(ToString::to_string).collect(), vec![]), "{text:?}");
        };
        check("a,b, c ,,d\n", &["1 a", "1 b", "1 c", "1 d"]);
        check(
            "\u{feff}# head; with ; signs\r\na # the; best\r\n\r\nKimi*,!Kimi-8K\r\n",
            &["2 a", "4 ~kimi*", "4 !kimi-8k"],
        );
        check("\"a\",\"b\"\rmoonshot/kimi-k2.5", &["1 a", "1 b", "2 moonshot/kimi-k2.5"]);
        check("", &[]);
        check(
            super::super::DEFAULT_LIST,
            &["13 claude-h", "13 gpt41", "13 gemini-p", "13 deepseek-r1", "13 kimi", "13 grok3m"],
        );
    }

    #[test]
    fn a_table_keeps_what_can_be_read() {
        let (lines, warnings) = shown(
            "\u{feff}id;shortcode;endpoint\r\n\
             # note\r\n\
             gpt-4.1;gpt41;https://API.mammouth.ai/v1/chat/completions;K;1;2;2.0;8;0.0;2.0;false\r\n\
             m;m;http://u:p@localhost:11434/v1/;K;x;0;-1;0,8;;2.0\r\n\
             short;s\r\n\
             ;;https://x\r\n\
             again;gpt41;https://api.z.ai/v1;K;1;2;3;4;5;6;yes\r\n\
             !ollama-*\r\n",
        );
        assert_eq!(lines, ["7 gpt41=again@api.z.ai", "4 m=m@localhost:11434", "5 s=short@", "8 !ollama-*"]);
        let expected = [
            "line 4: max_input is \"x\" instead of a number",
            "line 4: input_cost is \"-1\" instead of a number from 0",
            "line 4: output_cost is \"0,8\" instead of a number",
            "line 5: the row has 2 fields instead of 11 (id;",
            "line 6: the row has neither",
            "line 7: requires_completion_tokens is \"yes\" instead of true or false",
            "line 7: shortcode `gpt41` stands in line 3 too; this line wins",
        ];
        assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.contains(expected), "{warning} | {expected}");
        }
    }

    #[test]
    fn a_row_says_what_it_knows_and_nothing_else() {
        let (list, _) = List::parse(
            "e;emb;https://h/v1/embeddings;K;8191;0;0.13;0;0.0;0.0;true\na;;https://h/v1;K;;;;;;",
        );
        let model = |index: usize| match &list.lines[index].choice {
            Choice::Row(row) => row.model.clone(),
            other => panic!("{other:?}"),
        };
        let (first, second) = (model(0), model(1));
        assert_eq!(
            (first.mode, first.max_input_tokens, first.max_output_tokens),
            (Mode::Embedding, Some(8191), None)
        );
        assert_eq!((first.input_cost, first.output_cost), (Some(0.13), Some(0.0)));
        assert_eq!(first.requires_completion_tokens, Some(true));
        assert_eq!(second, Model { id: "a".into(), ..Model::default() });
    }
}
