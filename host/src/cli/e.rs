//! The command line of `sigoE`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Arg, Command};

mod output;
mod prompt;
mod run;
mod tables;

pub use run::run;

use super::{ServerArgs, Usage, VERSION, argv, help, shared, switch, valued};
use crate::config::Level;

/// What was given on `sigoE`'s command line, with its defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct EArgs {
    /// `-m`: a shortcode or an id; default `gpt41`.
    pub model: String,
    /// `-s`
    pub session: Option<String>,
    /// `-n`; `None`, as 0, leaves it to the model.
    pub max_tokens: Option<u64>,
    /// `-t`: seconds, 1 to 3600; `None` is the gateway's default, which knows how slow a provider may be.
    pub timeout: Option<u64>,
    /// `-r`: 0 to 10; default 3.
    pub retries: u32,
    /// `-q`
    pub quiet: bool,
    /// `-j`
    pub json: bool,
    /// `-h`
    pub help: bool,
    /// `-l`
    pub list: bool,
    /// `-T`; `None`, as -1, sends none.
    pub temperature: Option<f64>,
    /// `-sp`
    pub system_prompt: Option<String>,
    /// `-i`
    pub info: bool,
    /// `-v`
    pub level: Option<Level>,
    /// `-stream=false`
    pub stream: Option<bool>,
    /// `-version`
    pub version: bool,
    /// `-data-dir`
    pub data_dir: Option<PathBuf>,
    /// `-plugin-dir`
    pub plugin_dir: Vec<PathBuf>,
    /// `-config`
    pub config: Option<PathBuf>,
    /// What stands outside the flags, joined by spaces.
    pub prompt: Option<String>,
}

impl EArgs {
    /// The flags that it shares with the server, for [`crate::config::load`].
    pub fn server_args(&self) -> ServerArgs {
        ServerArgs {
            level: self.level,
            quiet: self.quiet.then_some(true),
            json: self.json.then_some(true),
            data_dir: self.data_dir.clone(),
            plugin_dirs: self.plugin_dir.clone(),
            config: self.config.clone(),
            ..ServerArgs::default()
        }
    }
}

/// Reads `sigoE`'s command line; the first argument is the program's name.
///
/// # Errors
/// An unknown flag, or a value that its flag cannot take.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<EArgs, Usage> {
    let matches = argv::parse(flags(), arguments, argv::Words::Text)?;
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let set = |name: &str| matches.get_one::<bool>(name).copied();
    let words: Vec<&str> =
        matches.get_many::<String>("PROMPT").into_iter().flatten().map(String::as_str).collect();
    Ok(EArgs {
        model: text("model").unwrap_or_else(|| "gpt41".into()),
        session: text("session").filter(|session| !session.is_empty()),
        max_tokens: matches.get_one("max-tokens").copied().filter(|tokens| *tokens > 0),
        timeout: matches.get_one("timeout").copied(),
        retries: matches.get_one("retries").copied().unwrap_or(3),
        quiet: set("quiet").unwrap_or(false),
        json: set("json").unwrap_or(false),
        help: set("help").unwrap_or(false),
        list: set("list").unwrap_or(false),
        temperature: matches.get_one("temperature").copied().filter(|temperature| *temperature >= 0.0),
        system_prompt: text("system-prompt").filter(|prompt| !prompt.is_empty()),
        info: set("info").unwrap_or(false),
        level: matches.get_one("log-level").copied(),
        stream: set("stream"),
        version: set("version").unwrap_or(false),
        data_dir: matches.get_one("data-dir").cloned(),
        plugin_dir: matches.get_many("plugin-dir").into_iter().flatten().cloned().collect(),
        config: matches.get_one("config").cloned(),
        prompt: (!words.is_empty()).then(|| words.join(" ")),
    })
}

/// The help text, without the list of sessions.
pub fn help_text() -> String {
    let mut out = format!(
        "sigoE {VERSION}: asks a model from the command line\n\nUsage: sigoE [flags] [prompt]\n\
         The prompt is what stands behind the flags; what is piped in is put behind it, or is the prompt if there\n\
         is no other. Without both it is asked for.\n\n\
         Flags, with one dash or two, as `-flag value` or `-flag=value`:\n"
    );
    help::flags(&mut out, &flags());
    out.push_str(
        "\nEvery model that the installed providers know can be asked, whether models.csv offers it or not. The memory\n\
         block is the server's alone: it is not sent. Keys come from the environment, as -i shows.\n\n\
         Ends with 0, with 1 if there is no answer (unknown model, missing key, failure), with 2 if the prompt is\n\
         empty or a flag is wrong.\n",
    );
    out
}

fn flags() -> Command {
    let command = Command::new("sigoE")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .arg(valued("model", "NAME", "shortcode or id of the model (default gpt41)").short('m'))
        .arg(valued("session", "ID", "keep the conversation under this id").short('s'))
        .arg(
            number(
                "max-tokens",
                "N",
                "most tokens of the answer, 0 leaves it to the model (default 0)",
                (0, 1 << 32),
            )
            .short('n'),
        )
        .arg(
            number("timeout", "SECONDS", "time for the whole answer, or for silence in one that is printed as it comes, 1 to 3600 (default 180, \
                more for local models)", (1, 3600))
                .short('t'),
        )
        .arg(
            valued("retries", "N", "how often a failed call is repeated, 0 to 10 (default 3)")
                .short('r')
                .value_parser(|text: &str| {
                    whole(text, (0, 10)).and_then(|n| u32::try_from(n).map_err(|e| e.to_string()))
                }),
        )
        .arg(
            valued("temperature", "NUMBER", "temperature, -1 leaves it to the model (default -1)")
                .short('T')
                .value_parser(temperature),
        )
        .arg(valued("system-prompt", "TEXT", "system prompt, not kept in the session").alias("sp"))
        .arg(switch("list", "list the models").short('l'))
        .arg(switch("info", "print what is known about the model").short('i'))
        .arg(switch("stream", "print the answer as it comes (default: on a terminal)"));
    shared(command)
        .mut_arg("log-level", |flag| {
            flag.help("least level that is logged: debug, info, warn, error (default warn)")
        })
        .mut_arg("data-dir", |flag| {
            flag.help("directory of .sessions, models.csv, plugins (default: the working directory)")
        })
        .mut_arg("quiet", |flag| flag.help("log errors only, and do not say why there is no answer"))
        .mut_arg("json", |flag| flag.help("print the result as one JSON line"))
        .arg(switch("version", "print the version and end"))
        .arg(switch("help", "print this text and the sessions, and end").short('h'))
        .arg(Arg::new("PROMPT").num_args(0..).last(true))
}

fn number(name: &'static str, value: &'static str, help: &'static str, range: (u64, u64)) -> Arg {
    valued(name, value, help).value_parser(move |text: &str| whole(text, range))
}

fn whole(text: &str, (least, most): (u64, u64)) -> Result<u64, String> {
    let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a whole number from {least} to {most}"))
}

fn temperature(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|n: &f64| *n == -1.0 || (0.0..=2.0).contains(n));
    number.ok_or_else(|| format!("{text:?} is not a temperature; give 0 to 2, or -1 for the model's own"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<EArgs, Usage> {
        parse(std::iter::once("sigoE").chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_originals_flags_and_long_forms() {
        let args = read(&["-m", "kimi", "-sp=Be brief", "-T", "-1", "-n0", "what", "-t", "30", "is --this?"]);
        let args = args.expect("valid");
        assert_eq!((args.model.as_str(), args.timeout, args.retries), ("kimi", Some(30), 3));
        assert_eq!((args.temperature, args.max_tokens), (None, None));
        assert_eq!(args.system_prompt.as_deref(), Some("Be brief"));
        assert_eq!(args.prompt.as_deref(), Some("what is --this?"));
        let args = read(&["--model=o3", "-T", "0", "--retries", "0", "-stream=false", "-qjl", "--", "-x"]);
        let args = args.expect("valid");
        assert_eq!((args.temperature, args.retries, args.stream), (Some(0.0), 0, Some(false)));
        assert_eq!((args.quiet, args.json, args.list, args.info), (true, true, true, false));
        assert_eq!(args.prompt.as_deref(), Some("-x"));
        assert!(help_text().contains("-sp TEXT, --system-prompt TEXT"));
    }

    #[test]
    fn mistakes() {
        let check = |words: &[&str], expected: &str| {
            let text = read(words).expect_err(expected).to_string();
            assert!(text.contains(expected), "{text}");
        };
        check(&["-modle", "x"], "did you mean `-model`?");
        check(&["--modle", "x"], "did you mean `--model`?");
        check(&["-t", "0"], "-t: \"0\" is not a whole number from 1 to 3600");
        check(&["-T", "3"], "-T: \"3\" is not a temperature");
    }
}
