//! `sigoREST plugin …`: what authors and operators do with one plugin file.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command as Clap, value_parser};

use super::{Command, ServerArgs, Usage, file, path, switch};

mod check;
mod create;
mod replay;
mod template;
mod trial;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Print what a file says about itself, without running it.
    Inspect(PathBuf),
    /// Run the conformance kit on a file, in a process of its own.
    Check(check::Asked),
    /// The same in this process, which `check` started; reports through its standard input.
    Trial(check::Asked),
    /// Write the crate of a new plugin.
    New(create::Asked),
    /// Play a trace (the second) to a file, and compare.
    Replay(PathBuf, PathBuf),
}

/// What came of it.
#[derive(Debug)]
pub struct Done {
    /// For standard output.
    pub text: String,
    /// Whether the program ends with success.
    pub well: bool,
}

/// Flags that belong to one command of `plugin`: they can stand anywhere, like all flags.
const FLAGS: [(&str, &str); 6] = [
    ("fixtures", "check"),
    ("bless", "check"),
    ("translator", "new"),
    ("dir", "new"),
    ("api", "new"),
    ("out", "record"),
];

/// The commands below `plugin`.
pub(super) fn commands() -> Clap {
    Clap::new("plugin")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            file(Clap::new("inspect"))
                .about("print what a plugin file says about itself, without running it"),
        )
        .subcommand(file(Clap::new("check")).about(
            "try a plugin file: a table, or JSON with -json; -fixtures DIR adds its author's, -bless writes \
             their transcripts",
        ))
        .subcommand(
            named(Clap::new("rollback"))
                .about("put a plugin's earlier generation back in force, in the running server"),
        )
        .subcommand(named(Clap::new("record")).about(
            "wait for a provider's next exchange in the running server and print its trace, or write it to \
             -out FILE: prompt and answer, no key",
        ))
        .subcommand(
            file(Clap::new("replay"))
                .arg(Arg::new("TRACE").required(true).value_parser(value_parser!(PathBuf)))
                .about("play a trace to a plugin file, and say what comes out differently"),
        )
        .subcommand(named(Clap::new("new")).about(
            "write the crate of a plugin: OpenAI-compatible, or with -translator one for another \
                     format; -dir DIR says where, -api DIR which provider-api to use in place of a copy",
        ))
}

fn named(command: Clap) -> Clap {
    command.disable_help_flag(true).arg(Arg::new("NAME").required(true).value_parser(value_parser!(String)))
}

/// The flags of those commands, not shown among the server's.
pub(super) fn flags(command: Clap) -> Clap {
    command
        .arg(path("fixtures", "DIR", "the author's fixtures").hide(true))
        .arg(switch("bless", "write the fixtures' transcripts").hide(true))
        .arg(switch("translator", "start from a translator").hide(true))
        .arg(path("dir", "DIR", "where the crate is written").hide(true))
        .arg(path("out", "FILE", "where the trace is written").hide(true))
        .arg(path("api", "DIR", "the provider-api to depend on").hide(true))
}

/// The command that runs the kit in a process of its own.
pub(super) fn trial() -> Clap {
    file(Clap::new("plugin-trial")).hide(true)
}

/// Reads `plugin …` or `plugin-trial …`.
pub(super) fn read(name: &str, flags: &ArgMatches, inner: &ArgMatches) -> Command {
    let file = |matches: &ArgMatches| matches.get_one("FILE").cloned().unwrap_or_default();
    let path = |name: &str| flags.get_one::<PathBuf>(name).cloned();
    let set = |name: &str| flags.get_one::<bool>(name).copied().unwrap_or(false);
    let asked = |matches: &ArgMatches| check::Asked {
        file: file(matches),
        fixtures: path("fixtures"),
        bless: set("bless"),
    };
    let text = |matches: &ArgMatches| matches.get_one::<String>("NAME").cloned().unwrap_or_default();
    Command::Plugin(match (name, inner.subcommand()) {
        ("plugin-trial", _) => Action::Trial(asked(inner)),
        (_, Some(("rollback", inner))) => return Command::PluginRollback(text(inner)),
        (_, Some(("record", inner))) => {
            return Command::PluginRecord { name: text(inner), out: path("out") };
        }
        (_, Some(("replay", inner))) => {
            Action::Replay(file(inner), inner.get_one("TRACE").cloned().unwrap_or_default())
        }
        (_, Some(("check", inner))) => Action::Check(asked(inner)),
        (_, Some(("new", inner))) => Action::New(create::Asked {
            name: text(inner),
            translator: set("translator"),
            dir: path("dir"),
            api: path("api"),
        }),
        (_, inner) => Action::Inspect(inner.map(|(_, inner)| file(inner)).unwrap_or_default()),
    })
}

/// A flag of another command is a mistake rather than ignored.
pub(super) fn misplaced(matches: &ArgMatches) -> Result<(), Usage> {
    let inner = matches.subcommand().map(|(name, inner)| (name, inner.subcommand_name().unwrap_or("")));
    for (flag, command) in FLAGS {
        let given = matches.value_source(flag).is_some();
        let fits = matches!(inner, Some(("plugin", name)) if name == command)
            || matches!(inner, Some(("plugin-trial", _)) if command == "check");
        if given && !fits {
            return Err(Usage(format!("flag `-{flag}` belongs to `plugin {command}`")));
        }
    }
    Ok(())
}

/// Does it.
///
/// # Errors
/// One line on what keeps it from being done.
pub fn run(action: &Action, args: &ServerArgs, colour: bool) -> Result<Done, String> {
    match action {
        Action::Inspect(path) => super::inspect(path).map(|text| Done { text, well: true }),
        Action::Check(asked) => {
            let report = check::run(asked)?;
            let json = args.json.unwrap_or(false);
            let text = if json { report.json() } else { report.table(colour) };
            Ok(Done { text, well: report.passed() })
        }
        Action::Trial(asked) => trial::run(asked).map(|()| Done { text: String::new(), well: true }),
        Action::Replay(file, trace) => replay::run(file, trace),
        Action::New(asked) => create::run(asked).map(|text| Done { text, well: true }),
    }
}
