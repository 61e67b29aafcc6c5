//! Turns Go-style and GNU-style arguments into the one spelling that clap reads, and clap's errors into
//! one line.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use clap::{
    Arg, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::Usage;
use crate::config::{nearest, value};

/// What arguments without a dash are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// Sub-commands.
    Commands,
    /// Text for the positional argument.
    Text,
}

/// Reads a command line; the first argument is the program's name.
pub(super) fn parse(
    command: Command,
    arguments: impl IntoIterator<Item = OsString>,
    words: Words,
) -> Result<ArgMatches, Usage> {
    let mut normal = Normal::default();
    normal.read(&command, arguments.into_iter().skip(1))?;
    let mut line = vec![OsString::from(command.get_name())];
    line.append(&mut normal.flags);
    if words == Words::Text {
        line.push("--".into());
    }
    line.append(&mut normal.words);
    let tree = command.clone();
    command.try_get_matches_from(line).map_err(|error| Usage(one_line(&error, &tree, &normal.spelled)))
}

/// Arguments in clap's spelling.
#[derive(Default)]
struct Normal {
    flags: Vec<OsString>,
    words: Vec<OsString>,
    /// How each flag was written last, for messages.
    spelled: BTreeMap<String, String>,
}

impl Normal {
    fn read(&mut self, command: &Command, arguments: impl Iterator<Item = OsString>) -> Result<(), Usage> {
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let bytes = argument.as_bytes();
            if bytes == b"--" {
                self.words.extend(arguments);
                return Ok(());
            }
            if bytes.len() < 2 || bytes[0] != b'-' {
                self.words.push(argument);
                continue;
            }
            let dashes = if bytes.starts_with(b"--") { 2 } else { 1 };
            let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
                Some(at) => (&bytes[dashes..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
                None => (&bytes[dashes..], None),
            };
            let name = String::from_utf8_lossy(name);
            let Some(flag) = find(command, &name) else {
                if dashes == 1 && value.is_none() && self.short(command, &name) {
                    continue;
                }
                return Err(unknown(command, &"-".repeat(dashes), &name));
            };
            let spelling = format!("{}{name}", "-".repeat(dashes));
            if let Some(value) = value {
                self.push(flag, spelling, value);
            } else if is_switch(flag) {
                self.push(flag, spelling, OsStr::new("true"));
            } else if let Some(value) = arguments.next() {
                self.push(flag, spelling, &value);
            } else {
                return Err(Usage(format!("flag `{spelling}` needs a value")));
            }
        }
        Ok(())
    }

    fn push(&mut self, flag: &Arg, spelling: String, value: &OsStr) {
        let name = flag.get_long().unwrap_or_default();
        let mut joined = format!("--{name}=").into_bytes();
        joined.extend_from_slice(value.as_bytes());
        self.flags.push(OsString::from_vec(joined));
        self.spelled.insert(name.to_owned(), spelling);
    }

    /// GNU's short forms: switches in one word (`-qj`), a value without a space (`-t30`, `-vdebug`).
    /// A value must look like one, so that a mistyped long flag is not taken for it.
    fn short(&mut self, command: &Command, text: &str) -> bool {
        let flag = |c: char| find(command, c.encode_utf8(&mut [0; 4]));
        if text.chars().all(|c| flag(c).is_some_and(is_switch)) {
            for c in text.chars() {
                if let Some(flag) = flag(c) {
                    self.push(flag, format!("-{c}"), OsStr::new("true"));
                }
            }
            return true;
        }
        let mut rest = text.chars();
        let first = rest.next().unwrap_or_default();
        let value = rest.as_str();
        let plausible = value.parse::<f64>().is_ok_and(f64::is_finite) || value::level(value).is_ok();
        match flag(first).filter(|flag| !is_switch(flag) && plausible) {
            Some(flag) => {
                self.push(flag, format!("-{first}"), OsStr::new(value));
                true
            }
            None => false,
        }
    }
}

/// The flag of this name, long, short or alias, whatever the number of dashes.
fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|flag| names(flag).iter().any(|known| known == name))
}

fn names(flag: &Arg) -> Vec<String> {
    let long = flag.get_long().into_iter().chain(flag.get_all_aliases().into_iter().flatten());
    long.map(str::to_owned).chain(flag.get_short().map(String::from)).collect()
}

fn is_switch(flag: &Arg) -> bool {
    flag.get_num_args().is_some_and(|range| range.min_values() == 0)
}

fn unknown(command: &Command, dashes: &str, name: &str) -> Usage {
    let known: Vec<String> = command.get_arguments().flat_map(names).filter(|name| name.len() > 1).collect();
    let shown: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    Usage(match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("unknown flag `{dashes}{shown}`; did you mean `{dashes}{meant}`?"),
        None => format!("unknown flag `{dashes}{shown}`; {dashes}help lists them"),
    })
}

fn one_line(error: &clap::Error, tree: &Command, spelled: &BTreeMap<String, String>) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    let word = argument.split([' ', '[', '=']).next().unwrap_or_default();
    let flag = spelled.get(word.trim_start_matches('-')).map_or(word, String::as_str);
    match error.kind() {
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            format!("{flag}: {why}")
        }
        ErrorKind::InvalidValue => format!("flag `{flag}` needs a value"),
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or(argument);
            unknown_command(tree, &name)
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            let name = name.rsplit(' ').next().unwrap_or_default();
            let below = tree.find_subcommand(name).map(commands).unwrap_or_default();
            format!("`{name}` needs a command: {}", below.join(", "))
        }
        ErrorKind::MissingRequiredArgument => {
            format!("the command needs {}; -help shows how it is written", word.trim_matches(['<', '>']))
        }
        _ => {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}

fn commands(tree: &Command) -> Vec<&str> {
    tree.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name).collect()
}

fn unknown_command(tree: &Command, name: &str) -> String {
    let mut known = commands(tree);
    let all: Vec<&str> = tree.get_subcommands().flat_map(commands).collect();
    known.extend(&all);
    let shown: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    match nearest(name, known.iter().copied()).filter(|meant| *meant != name) {
        Some(meant) => format!("unknown command `{shown}`; did you mean `{meant}`?"),
        None => format!("unknown command `{shown}`; -help lists them"),
    }
}
