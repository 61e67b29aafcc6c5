//! The process in which a plugin file is tried: loads it, runs the kit, and tells its parent of each step
//! before and after it, so that the parent knows which one ended the process.
//!
//! Standard output and error are left to the plugin: whatever comes there was printed by it. What this
//! process tells goes through its standard input, which is the writing end of a pipe.

use std::{fs::File, io::Write, os::fd::AsFd};

use provider_api::{
    loader::{self, Module, Record, Refused},
    testing::{self, Check, Fixtures, Progress, Subject, Verdict},
};
use serde::{Deserialize, Serialize};

use super::check::Asked;

/// A line to the parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The file is this plugin.
    Plugin(String, String),
    /// A check begins.
    Begun(String),
    /// It ended.
    Ended(Check),
    /// All of them ended.
    Finished,
}

/// Where the lines go.
struct Parent(File);

impl Parent {
    /// A parent that left has no use for the rest.
    fn tell(&mut self, line: &Line) {
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        let _ = self.0.write_all(&text);
    }

    /// One stage of loading.
    fn stage<T>(&mut self, name: &str, run: impl FnOnce() -> Result<(T, String), Refused>) -> Option<T> {
        self.tell(&Line::Begun(name.to_owned()));
        let began = std::time::Instant::now();
        let done = run();
        let micros = began.elapsed().as_micros();
        let (value, verdict, detail) = match done {
            Ok((value, detail)) => (Some(value), Verdict::Pass, format!("{detail}, {micros} µs")),
            Err(refused) => (None, Verdict::Fail, format!("{}: {refused}", refused.reason)),
        };
        let millis = u64::try_from(micros / 1000).unwrap_or(u64::MAX);
        self.tell(&Line::Ended(Check { name: name.to_owned(), verdict, detail, millis }));
        value
    }
}

/// Tries the file.
///
/// # Errors
/// Its fixtures cannot be read, or nobody listens.
pub(super) fn run(asked: &Asked) -> Result<(), String> {
    let pipe = std::io::stdin().as_fd().try_clone_to_owned();
    let mut parent = Parent(File::from(pipe.map_err(|error| error.to_string())?));
    let fixtures = match &asked.fixtures {
        Some(dir) => Fixtures::read(dir)?,
        None => Fixtures::default(),
    };
    if let Some((record, module)) = load(&mut parent, asked) {
        let create = |settings: &[u8]| module.create(settings, Box::new(|_, _| ()));
        let subject = Subject { manifest: record.manifest, create: &create, fixtures, bless: asked.bless };
        testing::run(&subject, &mut |progress| match progress {
            Progress::Begun(name) => parent.tell(&Line::Begun(name.to_owned())),
            Progress::Ended(check) => parent.tell(&Line::Ended(check.clone())),
        });
    }
    parent.tell(&Line::Finished);
    Ok(())
}

fn load(parent: &mut Parent, asked: &Asked) -> Option<(Record, Module)> {
    let bytes = parent.stage("load: file", || {
        let bytes = loader::read(&asked.file)?;
        let detail = format!("{} bytes", bytes.len());
        Ok((bytes, detail))
    })?;
    let record = parent.stage("load: record", || {
        let record = loader::vet(&bytes)?;
        let detail = format!("API {}, {}", record.manifest.api, record.rustc);
        Ok((record, detail))
    })?;
    parent.tell(&Line::Plugin(record.manifest.id.clone(), record.manifest.version.clone()));
    let module = parent.stage("load: symbols and layout", || {
        let module = loader::open(&bytes)?;
        Ok((module, format!("built for {}", module.build().target)))
    })?;
    Some((record, module))
}
