//! `sigoREST plugin check FILE`: the conformance kit on a plugin file, in a process of its own.
//!
//! Whatever the plugin does there (a crash, an endless loop, printing) is a failed check by name.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::JoinHandle,
    time::Duration,
};

use provider_api::testing::{Check, Report, Verdict};

use super::trial::Line;

/// More than the slowest check takes in an unoptimised build on a busy machine; an endless loop ends here.
const PATIENCE: Duration = Duration::from_secs(120);

/// Enough of what a plugin printed to find the place.
const MAX_PRINTED_BYTES: u64 = 64 << 10;

/// Which file, with which fixtures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The plugin.
    pub file: PathBuf,
    /// Its author's fixtures.
    pub fixtures: Option<PathBuf>,
    /// Whether transcripts are written rather than compared.
    pub bless: bool,
}

/// Tries the file.
///
/// # Errors
/// The process cannot be started, or the fixtures cannot be read.
pub(super) fn run(asked: &Asked) -> Result<Report, String> {
    let failed = |error: std::io::Error| format!("the process for the check cannot be started: {error}");
    let (lines, stdin) = std::io::pipe().map_err(failed)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("plugin-trial");
    if let Some(dir) = &asked.fixtures {
        command.arg("-fixtures").arg(dir);
    }
    if asked.bless {
        command.arg("-bless");
    }
    // A plugin has no business in the environment: what it needs comes with its settings.
    command.arg("--").arg(&asked.file).env_clear();
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // It holds the pipe's writing end: without this the reading end would never see its end.
    drop(command);
    let printed = [child.stdout.take().map(read_all), child.stderr.take().map(read_all)];
    let mut trial = follow(&mut child, &read_lines(lines));
    if trial.report.plugin.is_empty() {
        trial.report.plugin = asked.file.display().to_string();
    }
    let status = child.wait().map_err(failed)?;
    let printed: Vec<String> =
        printed.into_iter().flatten().map(|reader| reader.join().unwrap_or_default()).collect();
    trial.judge(status, &printed)
}

/// What the process told.
#[derive(Default)]
struct Trial {
    report: Report,
    /// The check that began last and did not end.
    open: Option<String>,
    finished: bool,
    stuck: bool,
}

fn follow(child: &mut Child, lines: &Receiver<Line>) -> Trial {
    let mut trial = Trial::default();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(Line::Plugin(id, version)) => (trial.report.plugin, trial.report.version) = (id, version),
            Ok(Line::Begun(name)) => trial.open = Some(name),
            Ok(Line::Ended(check)) => {
                trial.open = None;
                trial.report.checks.push(check);
            }
            Ok(Line::Finished) => trial.finished = true,
            Err(RecvTimeoutError::Disconnected) => return trial,
            Err(RecvTimeoutError::Timeout) => {
                trial.stuck = true;
                let _ = child.kill();
                return trial;
            }
        }
    }
}

impl Trial {
    fn judge(mut self, status: ExitStatus, printed: &[String]) -> Result<Report, String> {
        let words: Vec<&str> =
            printed.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty()).collect();
        if !self.finished {
            if self.report.checks.is_empty() && self.open.is_none() && !self.stuck {
                let last = words.last().copied().unwrap_or("the process for the check said nothing");
                return Err(last.trim_start_matches("sigoREST: ").to_owned());
            }
            let detail = match status.signal() {
                _ if self.stuck => format!("it did not end within {} s", PATIENCE.as_secs()),
                Some(signal) => format!("the process was ended by {}", signal_name(signal)),
                None => format!("the process ended itself with status {}", status.code().unwrap_or(-1)),
            };
            let name = self.open.take().unwrap_or_else(|| "load: process".into());
            self.report.checks.push(Check { name, verdict: Verdict::Fail, detail, millis: 0 });
        }
        let (verdict, detail) = match words.first() {
            None => (Verdict::Pass, String::new()),
            // What a crash prints is no fault of its own.
            Some(_) if !self.finished => (Verdict::Skip, words.join(" / ")),
            Some(line) => (Verdict::Fail, format!("it prints, for example {line:?}")),
        };
        let name = "output: nothing printed".into();
        self.report.checks.push(Check { name, verdict, detail, millis: 0 });
        Ok(self.report)
    }
}

fn signal_name(signal: i32) -> String {
    const NAMES: [(i32, &str); 9] = [
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT (an abort, or a panic that could not unwind)"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV (a crash, or a stack overflow)"),
        (24, "SIGXCPU"),
        (31, "SIGSYS"),
    ];
    let known = NAMES.iter().find(|(number, _)| *number == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

fn read_lines(pipe: std::io::PipeReader) -> Receiver<Line> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str(&line) else { continue };
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// Reads a stream to its end, so that the process is never held up, and keeps its beginning.
fn read_all(stream: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut kept = Vec::new();
        let _ = reader.by_ref().take(MAX_PRINTED_BYTES).read_to_end(&mut kept);
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
        String::from_utf8_lossy(&kept).into_owned()
    })
}
