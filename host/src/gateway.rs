//! Everything that runs for all requests, and the life of the process: start, reload, drain.

use crate::config::Settings;

/// Why the server does not start or stops early: one line for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// Runs the server until it is told to stop.
///
/// # Errors
/// A port that is taken, a certificate that cannot be read, a data directory that cannot be used.
pub async fn run(_settings: Settings) -> Result<(), StartError> {
    Err(StartError("the server is not built yet".into()))
}
