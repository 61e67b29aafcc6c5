//! `sigoREST`: the server, and the commands that check what it would run on.

#![forbid(unsafe_code)]

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use host::{
    cli::{self, Checked, Command, ServerArgs},
    config::{self, Environment, Loaded, Problems},
    gateway, telemetry,
};

/// A wrong flag, setting or value.
const MISUSE: u8 = 2;
/// Everything else that keeps the program from its work.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    // Before anything can use TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    limits();
    telemetry::log_panics();
    let outcome = std::panic::catch_unwind(run);
    let (code, line) = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(Stop { code, line })) => (code, line),
        Err(_) => (FAILED, "stopped by an internal error; the log names its place".into()),
    };
    if !line.is_empty() {
        let _ = writeln!(std::io::stderr(), "sigoREST: {line}");
    }
    ExitCode::from(code)
}

/// Takes no core files, which would hold the keys, and all descriptors that the process may have.
fn limits() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
}

/// Why the program ends without success.
struct Stop {
    code: u8,
    /// One line for people, or empty if all is said.
    line: String,
}

impl Stop {
    fn failed(line: impl ToString) -> Self {
        Self { code: FAILED, line: line.to_string() }
    }
}

fn run() -> Result<(), Stop> {
    let (command, args) =
        cli::server(std::env::args_os()).map_err(|usage| Stop { code: MISUSE, line: usage.to_string() })?;
    let environment: Environment<'_> = &|name| std::env::var(name).ok();
    match command {
        Command::Print(text) => print(&text),
        Command::Check => check(&args, environment),
        Command::ConfigShow => print(&config::show(&load(&args, environment)?)),
        Command::Plugin(action) => plugin(&action, &args),
        Command::PluginWorker => host::plugins::worker::process::run().map_err(Stop::failed),
        Command::PluginProbe(path) => print(&host::plugins::probe::run(&path).map_err(Stop::failed)?),
        Command::PluginRollback(name) => {
            let data_dir = load(&args, environment)?.settings.data_dir;
            print(&host::admin::client::rollback(&data_dir, &name).map_err(Stop::failed)?)
        }
        Command::PluginRecord { name, out } => {
            let data_dir = load(&args, environment)?.settings.data_dir;
            let _ = writeln!(std::io::stderr(), "waiting for the next exchange of {name}");
            let trace = host::admin::client::record(&data_dir, &name).map_err(Stop::failed)?;
            let Some(out) = out else { return print(&trace) };
            let written = host::files::replace(&out, trace.as_bytes());
            written.map_err(|error| Stop::failed(format!("{}: {error}", out.display())))
        }
        Command::Serve => {
            let loaded = load(&args, environment)?;
            serve(loaded, Arc::new(move || again(&args)))
        }
    }
}

fn plugin(action: &cli::plugin::Action, args: &ServerArgs) -> Result<(), Stop> {
    let done = cli::plugin::run(action, args, std::io::stdout().is_terminal()).map_err(Stop::failed)?;
    print(&done.text)?;
    // The text says what is wrong.
    if done.well { Ok(()) } else { Err(Stop::failed("")) }
}

fn load(args: &ServerArgs, environment: Environment<'_>) -> Result<Loaded, Stop> {
    config::load(args, environment).map_err(|problems| {
        // One that is not in the file is a line like any other.
        if let ([_], None) = (&*problems.list, &problems.source) {
            return Stop { code: MISUSE, line: problems.render(false).trim_end().to_owned() };
        }
        // With what the plugins say about their own sections, so that all of it is seen at once.
        wrong_settings(&cli::check(args, environment, std::io::stderr().is_terminal()))
    })
}

fn wrong_settings(checked: &Checked) -> Stop {
    let _ = write!(std::io::stderr(), "{}", checked.problems);
    let s = if checked.mistakes == 1 { "" } else { "s" };
    Stop { code: MISUSE, line: format!("{} mistake{s} in the settings", checked.mistakes) }
}

/// Prints to standard output; a reader that left early is no failure.
fn print(text: &str) -> Result<(), Stop> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Stop::failed(error)),
        _ => Ok(()),
    }
}

fn check(args: &ServerArgs, environment: Environment<'_>) -> Result<(), Stop> {
    let checked = cli::check(args, environment, std::io::stderr().is_terminal());
    print(&checked.report)?;
    let _ = write!(std::io::stderr(), "{}", config::unknown_variables(variables()).render(false));
    if checked.settings_wrong {
        return Err(wrong_settings(&checked));
    }
    let _ = write!(std::io::stderr(), "{}", checked.problems);
    if checked.plugins_wrong {
        return Err(Stop::failed("a plugin file cannot be used"));
    }
    print("no mistakes found\n")
}

fn variables() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

fn serve(loaded: Loaded, reload: gateway::Reload) -> Result<(), Stop> {
    let Loaded { settings, warnings, .. } = loaded;
    config::create_data_dir(&settings.data_dir).map_err(Stop::failed)?;
    let _log = telemetry::init(settings.log);
    warn(&warnings);
    warn(&config::unknown_variables(variables()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Stop::failed(format!("no threads can be started: {error}")))?;
    let outcome = runtime.block_on(gateway::run(settings, reload));
    // What still runs was given its time to drain.
    runtime.shutdown_background();
    match outcome.map_err(Stop::failed)? {
        gateway::Ended::Drained => Ok(()),
        // As shells tell it.
        gateway::Ended::Killed(signal) => {
            Err(Stop { code: u8::try_from(128 + signal).unwrap_or(FAILED), line: String::new() })
        }
    }
}

/// Reads the settings again for a reload; what is wrong becomes one line.
fn again(args: &ServerArgs) -> Result<config::Settings, String> {
    match config::load(args, &|name| std::env::var(name).ok()) {
        Ok(loaded) => {
            warn(&loaded.warnings);
            Ok(loaded.settings)
        }
        Err(problems) => Err(problems.lines().map(|(_, line)| line).collect::<Vec<_>>().join("; ")),
    }
}

fn warn(problems: &Problems) {
    for (_, problem) in problems.lines() {
        tracing::warn!(problem, "settings");
    }
}
