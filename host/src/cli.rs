//! The command lines of `sigoREST` and `sigoE`: Go style (`-http-port 9080`) and GNU style alike.

mod argv;
mod check;
pub mod e;
mod help;
mod inspect;
pub mod plugin;

use std::{ffi::OsString, path::PathBuf};

use clap::{Arg, Command as Clap};

use crate::config::{Level, value};

pub use check::{Checked, check};
pub use inspect::inspect;

/// The version of both programs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Flags of the server that were given; `None` leaves the choice to environment, file and default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerArgs {
    /// `-http-port`
    pub http_port: Option<u16>,
    /// `-https-port`
    pub https_port: Option<u16>,
    /// `-cert`
    pub cert: Option<PathBuf>,
    /// `-key`
    pub key: Option<PathBuf>,
    /// `-v`
    pub level: Option<Level>,
    /// `-q`
    pub quiet: Option<bool>,
    /// `-j`
    pub json: Option<bool>,
    /// `-data-dir`
    pub data_dir: Option<PathBuf>,
    /// `-plugin-dir`, as often as it was given.
    pub plugin_dirs: Vec<PathBuf>,
    /// `-config`
    pub config: Option<PathBuf>,
}

/// What the program shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run the server.
    Serve,
    /// Check settings and plugin files.
    Check,
    /// Print the settings in force.
    ConfigShow,
    /// What authors and operators do with one plugin file.
    Plugin(plugin::Action),
    /// Put the generation of a plugin before the serving one back in force, in the server that runs.
    PluginRollback(String),
    /// Record an exchange of a provider in the server that runs.
    PluginRecord {
        /// The provider.
        name: String,
        /// Where the trace goes; standard output if `None`.
        out: Option<PathBuf>,
    },
    /// Load a plugin file in this process, which the server started for that.
    PluginProbe(PathBuf),
    /// Be the worker process of a provider, which the server started for that.
    PluginWorker,
    /// Print this and end.
    Print(String),
}

/// A command line that cannot be understood: one line that says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Reads the server's command line; the first argument is the program's name.
///
/// # Errors
/// An unknown flag or command, or a value that its flag cannot take.
pub fn server(arguments: impl IntoIterator<Item = OsString>) -> Result<(Command, ServerArgs), Usage> {
    let matches = argv::parse(server_flags(), arguments, argv::Words::Commands)?;
    plugin::misplaced(&matches)?;
    let args = ServerArgs {
        http_port: matches.get_one("http-port").copied(),
        https_port: matches.get_one("https-port").copied(),
        cert: matches.get_one("cert").cloned(),
        key: matches.get_one("key").cloned(),
        level: matches.get_one("log-level").copied(),
        quiet: matches.get_one("quiet").copied(),
        json: matches.get_one("json").copied(),
        data_dir: matches.get_one("data-dir").cloned(),
        plugin_dirs: matches.get_many("plugin-dir").into_iter().flatten().cloned().collect(),
        config: matches.get_one("config").cloned(),
    };
    let set = |name: &str| matches.get_one::<bool>(name).copied().unwrap_or(false);
    if set("help") {
        return Ok((Command::Print(help::server(&server_flags())), args));
    }
    if set("version") {
        return Ok((Command::Print(format!("sigoREST {VERSION}\n")), args));
    }
    let file = |matches: &clap::ArgMatches| matches.get_one("FILE").cloned().unwrap_or_default();
    let command = match matches.subcommand() {
        Some(("help", _)) => Command::Print(help::server(&server_flags())),
        Some(("version", _)) => Command::Print(format!("sigoREST {VERSION}\n")),
        Some(("check", _)) => Command::Check,
        Some(("config", _)) => Command::ConfigShow,
        Some((name @ ("plugin" | "plugin-trial"), inner)) => plugin::read(name, &matches, inner),
        Some(("plugin-probe", inner)) => Command::PluginProbe(file(inner)),
        Some(("plugin-worker", _)) => Command::PluginWorker,
        _ => Command::Serve,
    };
    Ok((command, args))
}

fn server_flags() -> Clap {
    let command = Clap::new("sigoREST")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .arg(
            valued("http-port", "PORT", "port for plain HTTP; 0 picks a free one (default 9080)")
                .value_parser(value::port),
        )
        .arg(
            valued("https-port", "PORT", "port for HTTPS; 0 picks a free one (default 9443)")
                .value_parser(value::port),
        )
        .arg(path(
            "cert",
            "FILE",
            "certificate for HTTPS, made if it is missing (default ./certs/server.crt)",
        ))
        .arg(path("key", "FILE", "the certificate's private key (default ./certs/server.key)"));
    plugin::flags(shared(command))
        .arg(switch("version", "print the version and end"))
        .arg(switch("help", "print this text and end").short('h'))
        .subcommand(
            Clap::new("check").about("check the settings and the plugin files, and say all that is wrong"),
        )
        .subcommand(
            Clap::new("config")
                .subcommand_required(true)
                .disable_help_subcommand(true)
                .subcommand(Clap::new("show").about("print every setting in force and where it came from")),
        )
        .subcommand(plugin::commands())
        .subcommand(plugin::trial())
        .subcommand(file(Clap::new("plugin-probe")).hide(true))
        // The provider's name is for whoever looks at a list of processes.
        .subcommand(file(Clap::new("plugin-worker")).hide(true))
        .subcommand(Clap::new("help").hide(true))
        .subcommand(Clap::new("version").hide(true))
}

/// The flags of both programs.
fn shared(command: Clap) -> Clap {
    command
        .arg(
            valued("log-level", "LEVEL", "least level that is logged: debug, info, warn, error (default info)")
                .short('v')
                .alias("verbosity")
                .value_parser(value::level),
        )
        .arg(switch("quiet", "log errors only").short('q'))
        .arg(switch("json", "log one JSON object a line").short('j'))
        .arg(path(
            "data-dir",
            "DIR",
            "directory of memory.json, models.csv, .sessions, certs, plugins (default: the working directory)",
        ))
        .arg(
            path(
                "plugin-dir",
                "DIR",
                "directory of provider plugins, repeatable; if given, only these (default: those that exist of \
                 /usr/lib/sigorest/plugins, plugins beside the program, plugins in the data directory)",
            )
            .action(clap::ArgAction::Append),
        )
        .arg(path("config", "FILE", "settings (default: sigorest.toml in the data directory, if it exists)"))
}

fn file(command: Clap) -> Clap {
    command
        .disable_help_flag(true)
        .arg(Arg::new("FILE").required(true).value_parser(clap::value_parser!(PathBuf)))
}

/// A flag with a value.
fn valued(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).num_args(1)
}

fn path(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    valued(name, value, help).value_parser(clap::value_parser!(PathBuf))
}

/// A flag that is on if it is given, and takes `=false`.
fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(value::boolean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<(Command, ServerArgs), Usage> {
        server(std::iter::once("sigoREST").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn every_spelling_is_understood() {
        let check = |line: &str, expected: ServerArgs| {
            assert_eq!(parse(line), Ok((Command::Serve, expected)), "{line}");
        };
        let none = ServerArgs::default;
        for line in
            ["-http-port 1", "-http-port=1", "--http-port 1", "--http-port=1", "-http-port 2 -http-port 1"]
        {
            check(line, ServerArgs { http_port: Some(1), ..none() });
        }
        for line in ["-v debug", "-v=debug", "--v debug", "-vdebug", "--log-level DEBUG", "--verbosity=debug"]
        {
            check(line, ServerArgs { level: Some(Level::Debug), ..none() });
        }
        check("-q", ServerArgs { quiet: Some(true), ..none() });
        check("--quiet -q=false", ServerArgs { quiet: Some(false), ..none() });
        check("-qj", ServerArgs { quiet: Some(true), json: Some(true), ..none() });
        check("-cert -x -key=a=b", ServerArgs { cert: Some("-x".into()), key: Some("a=b".into()), ..none() });
        check(
            "-plugin-dir a --plugin-dir=b",
            ServerArgs { plugin_dirs: vec!["a".into(), "b".into()], ..none() },
        );
    }

    #[test]
    fn commands_stand_anywhere_among_flags() {
        let check = |line: &str, expected: Command| {
            let (command, args) = parse(line).expect(line);
            assert_eq!((command, args.quiet), (expected, Some(true)), "{line}");
        };
        check("-q check", Command::Check);
        check("check -q", Command::Check);
        check("config -q show", Command::ConfigShow);
        check("plugin inspect -q a.so", Command::Plugin(plugin::Action::Inspect("a.so".into())));
        check("-q plugin-probe -- a.so", Command::PluginProbe("a.so".into()));
        assert!(
            matches!(parse("check -help"), Ok((Command::Print(text), _)) if text.contains("-http-port PORT"))
        );
        assert_eq!(parse("-version"), Ok((Command::Print(format!("sigoREST {VERSION}\n")), none())));
        fn none() -> ServerArgs {
            ServerArgs::default()
        }
    }

    #[test]
    fn mistakes_are_one_line_that_helps() {
        let check = |line: &str, expected: &str| {
            let text = parse(line).expect_err(line).to_string();
            assert!(text.contains(expected) && !text.contains('\n'), "{line}: {text}");
        };
        check("-htp-port 1", "unknown flag `-htp-port`; did you mean `-http-port`?");
        check("--htp-port=1", "unknown flag `--htp-port`; did you mean `--http-port`?");
        check("-verson", "did you mean `-version`?");
        check("-zzzzzz", "unknown flag `-zzzzzz`; -help lists them");
        check("-http-port abc", "-http-port: \"abc\" is not a port; give a number from 0 to 65535");
        check("--http-port=65536", "--http-port: \"65536\" is not a port");
        check("-v inf", "-v: \"inf\" is not one of debug, info, warn, error; did you mean info?");
        check("-q=maybe", "-q: \"maybe\" is not true or false");
        check("-cert", "flag `-cert` needs a value");
        check("-cert=", "-cert");
        check("chekc", "unknown command `chekc`; did you mean `check`?");
        check("9080", "unknown command `9080`");
        check("config", "`config` needs a command: show");
        check("config shw", "unknown command `shw`; did you mean `show`?");
        check("plugin inspect", "needs FILE");
        check("check now", "now");
        check("plugin check", "needs FILE");
        check("plugin new", "needs NAME");
        check("plugin new a -bless", "flag `-bless` belongs to `plugin check`");
        check("-fixtures x", "flag `-fixtures` belongs to `plugin check`");
    }
}
