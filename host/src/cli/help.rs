//! The help texts, in the style of Go's flags.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::VERSION;

/// The server's.
pub(super) fn server(command: &Command) -> String {
    let mut out = format!(
        "sigoREST {VERSION}: one OpenAI-compatible address for every model\n\n\
         Usage: sigoREST [flags] [command]\n\nFlags, with one dash or two, as `-flag value` or `-flag=value`:\n"
    );
    flags(&mut out, command);
    out.push_str("\nCommands (none runs the server):\n");
    commands(&mut out, command, "");
    out.push_str(
        "\nEvery setting can also stand in sigorest.toml or in the environment (SIGOREST_HTTP_PORT, …); a flag\n\
         wins over the environment, the environment over the file. `sigoREST config show` lists them all.\n",
    );
    out
}

/// Each flag on a line with its value's name, what it does below.
pub(super) fn flags(out: &mut String, command: &Command) {
    for flag in command.get_arguments().filter(|flag| flag.get_long().is_some() && !flag.is_hide_set()) {
        let value = match value_name(flag) {
            Some(name) => format!(" {name}"),
            None => String::new(),
        };
        let long = flag.get_long().unwrap_or_default();
        let short = flag.get_short().map(String::from).or_else(|| {
            let aliases = flag.get_all_aliases().unwrap_or_default();
            aliases.into_iter().find(|alias| alias.len() == 2).map(str::to_owned)
        });
        let _ = match short {
            Some(short) => writeln!(out, "  -{short}{value}, --{long}{value}"),
            None => writeln!(out, "  -{long}{value}"),
        };
        let text = flag.get_help().map(ToString::to_string).unwrap_or_default();
        for line in wrapped(&text, 92) {
            let _ = writeln!(out, "        {line}");
        }
    }
}

fn value_name(flag: &Arg) -> Option<String> {
    flag.get_value_names()?.first().map(ToString::to_string)
}

fn commands(out: &mut String, command: &Command, before: &str) {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let mut name = format!("{before}{}", command.get_name());
        if command.has_subcommands() {
            name.push(' ');
            commands(out, command, &name);
            continue;
        }
        for argument in command.get_arguments() {
            let _ = write!(name, " {}", argument.get_id());
        }
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "  {name:<22}{about}");
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && line.len() + word.len() >= width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
