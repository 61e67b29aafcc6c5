//! The certificate of the HTTPS door: checked, made at first start, renewed if it is ours.

use std::sync::Arc;

use crate::config::Settings;

/// Why HTTPS cannot start: one line that names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub String);

/// The TLS configuration of these settings' certificate, which is made if there is none.
///
/// Reads and writes files: call it from a blocking thread once the runtime runs.
///
/// # Errors
/// A pair that cannot be read or made, that is broken, or that does not belong together.
pub fn load(_settings: &Settings) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    Err(TlsError("not built yet".into()))
}
