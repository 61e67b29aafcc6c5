//! What `sigoE` does with its command line: prints a list or facts, or asks and prints the answer.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    os::fd::AsFd,
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    EArgs, help_text,
    output::{self, Asked, Screen},
    parse, prompt, tables,
};
use crate::{
    ask::{self, Failure, Kind, Question},
    catalog::{Entry, Key, day},
    cli::VERSION,
    config::{self, Environment, Level, Loaded, Origin, Settings},
    gateway::{Gateway, Purpose},
    session::Sessions,
    telemetry,
};

/// Done.
const OK: u8 = 0;
/// No such model, no key, or no answer.
const FAILED: u8 = 1;
/// Nothing was asked, or the flags or settings are wrong.
const MISUSE: u8 = 2;
/// Ended by Ctrl-C, as shells say it.
const INTERRUPTED: i32 = 130;

/// Why the program ends without an answer.
struct Stop {
    code: u8,
    failure: Failure,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self { code: FAILED, failure }
    }
}

/// Runs the program; its exit code. The first argument is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match parse(arguments) {
        Ok(args) => args,
        Err(usage) => {
            let _ = writeln!(std::io::stderr(), "sigoE: {usage}");
            return MISUSE;
        }
    };
    let environment: Environment<'_> = &|name| std::env::var(name).ok();
    if args.version {
        return printed(&format!("sigoE {VERSION}\n"));
    }
    let loaded = config::load(&args.server_args(), environment);
    if args.help {
        // Wrong settings must not keep anyone from the help.
        let sessions = loaded.ok().map(|loaded| {
            let dir = loaded.settings.data_dir;
            tables::sessions(&dir, &Sessions::new(&dir).list())
        });
        return printed(&format!("{}\n{}", help_text(), sessions.unwrap_or_default()));
    }
    let asked =
        Asked { model: args.model.clone(), json: args.json, at: SystemTime::now(), started: Instant::now() };
    let outcome = match loaded {
        Ok(loaded) => {
            let log = telemetry::init(log_settings(&args, &loaded));
            for (_, problem) in loaded.warnings.lines() {
                tracing::warn!(problem, "settings");
            }
            let outcome = with_engine(&args, &asked, loaded.settings);
            // What is logged stands before what is said.
            drop(log);
            outcome
        }
        Err(problems) => {
            let text = problems.render(std::io::stderr().is_terminal() && !args.json);
            Err(Stop { code: MISUSE, failure: Failure::new(Kind::InvalidInput, text.trim_end()) })
        }
    };
    outcome.unwrap_or_else(|Stop { code, failure }| {
        if args.json {
            printed(&output::failed_line(&asked, &failure));
        } else if !args.quiet {
            output::complain(&failure);
        }
        code
    })
}

/// The log of a program that people talk to: quieter than the server's unless someone asks for more.
fn log_settings(args: &EArgs, loaded: &Loaded) -> config::LogSettings {
    let level = match loaded.origins.get("log_level") {
        Some(Origin::Flag(_) | Origin::Variable(_)) => loaded.settings.log.level,
        _ => Level::Warn,
    };
    config::LogSettings { level, quiet: args.quiet, json: args.json }
}

fn printed(text: &str) -> u8 {
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that left early has what it wanted.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "sigoE: the output cannot be written: {error}");
            FAILED
        }
        _ => OK,
    }
}

/// Everything that needs models.
fn with_engine(args: &EArgs, asked: &Asked, settings: Settings) -> Result<u8, Stop> {
    let broken = |error: std::io::Error| Failure::new(Kind::ApiFailed, format!("no threads: {error}"));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().map_err(broken)?;
    runtime.spawn(end_on_interrupt());
    let outcome = talk(args, asked, settings, &runtime);
    runtime.shutdown_background();
    outcome
}

fn talk(
    args: &EArgs,
    asked: &Asked,
    settings: Settings,
    runtime: &tokio::runtime::Runtime,
) -> Result<u8, Stop> {
    let most = settings.limits.max_body_bytes;
    let nothing = |failure| Stop { code: MISUSE, failure };
    let tables_only = args.list || args.info;
    let waiting = args.prompt.is_none() && std::io::stdin().is_terminal();
    let given = match tables_only || waiting {
        true => None,
        false => Some(prompt::given(args.prompt.as_deref(), most).map_err(nothing)?),
    };
    // Plugins are opened and providers made within the runtime that they will be used in.
    let inside = runtime.enter();
    let gateway = Gateway::open(settings, Purpose::Ask);
    drop(inside);
    if args.list {
        runtime.block_on(ask::look(&gateway));
        return Ok(printed(&tables::models(&gateway)));
    }
    let found = runtime.block_on(ask::find(&gateway, &args.model));
    if args.info {
        let text = found
            .map_or_else(|failure| format!("{}\n", failure.message), |entry| tables::facts(&gateway, &entry));
        return Ok(printed(&text));
    }
    let entry = found?;
    ready(&entry)?;
    let prompt = match given {
        Some(prompt) => prompt,
        // Asked for last, so that nobody types for a model that is not there.
        None => prompt::question(most).map_err(nothing)?,
    };
    let question = question(args, prompt);
    answer(&question, asked, &gateway, runtime)
        .map_err(|Stop { code, failure }| Stop { code, failure: with_age(failure, &entry) })
}

/// Whether the model can be asked at all.
fn ready(entry: &Entry) -> Result<(), Failure> {
    let Key::Missing { env } = &entry.key else { return Ok(()) };
    let text = format!("the key for provider `{}` is missing; set {env}", entry.provider);
    Err(Failure::new(Kind::ApiKeyMissing, text))
}

/// Adds what explains most failures of an old model; while it answers, its age is nobody's trouble.
fn with_age(failure: Failure, entry: &Entry) -> Failure {
    let date = entry.model.deprecation_date.as_deref().unwrap_or_default();
    let may_be_why = matches!(failure.kind, Kind::ClientError | Kind::ServerError | Kind::ApiFailed);
    if !may_be_why || date.is_empty() || date > day::day(SystemTime::now()).as_str() {
        return failure;
    }
    let successor = entry.model.successor.as_deref().filter(|name| !name.is_empty());
    let advice = successor.map_or_else(String::new, |name| format!("; try {name}"));
    let message = format!("{} (the model was retired on {date}{advice})", failure.message);
    Failure { message, ..failure }
}

fn question(args: &EArgs, prompt: String) -> Question {
    let stream = args.stream.unwrap_or_else(|| std::io::stdout().is_terminal());
    Question {
        model: args.model.clone(),
        prompt,
        session: args.session.clone(),
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        timeout: args.timeout,
        retries: Some(args.retries),
        system_prompt: args.system_prompt.clone(),
        stream: stream && !args.json,
    }
}

fn answer(
    question: &Question,
    asked: &Asked,
    gateway: &Arc<Gateway>,
    runtime: &tokio::runtime::Runtime,
) -> Result<u8, Stop> {
    let json = !question.stream && asked.json;
    let mut screen = Screen::new();
    let said = runtime.block_on(ask::ask(gateway, question, |text| match json {
        true => std::ops::ControlFlow::Continue(()),
        false => screen.say(text),
    }));
    if let (true, Ok(answer)) = (json, &said) {
        return Ok(printed(&output::line(asked, &question.prompt, answer)));
    }
    if let Err(error) = screen.finish(said.is_ok()) {
        let _ = writeln!(std::io::stderr(), "sigoE: the output cannot be written: {error}");
        return Ok(FAILED);
    }
    let said = said?;
    // Whoever set a limit and sees where it cuts needs no word about it.
    let unforeseen = said.text.is_empty() || question.max_tokens.is_none();
    if unforeseen && said.finish_reason.as_deref() == Some("length") {
        tracing::warn!("the answer ends at the limit of tokens; allow more with -n");
    }
    Ok(OK)
}

/// Ctrl-C ends the program at once, whatever it waits for.
async fn end_on_interrupt() {
    if tokio::signal::ctrl_c().await.is_ok() {
        // Not `std::io::stderr()`: its lock may be held by who waits for a reader.
        let stderr = std::io::stderr().as_fd().try_clone_to_owned();
        if let Ok(stderr) = stderr.map(std::fs::File::from).as_mut()
            && stderr.is_terminal()
        {
            let _ = stderr.write_all(b"\n");
        }
        std::process::exit(INTERRUPTED);
    }
}
