//! The certificate of the HTTPS door: checked, made at first start, renewed if it is ours.
//!
//! A pair that someone else made is never written to. Ours is told by its subject's organisation.

mod make;
mod pair;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{ServerConfig, crypto::ring};
use tracing::{info, warn};

use self::pair::Pair;
use crate::{access::Machine, config::Settings, files};

/// A certificate that ends sooner is renewed if it is ours, and warned of if it is not.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// Larger files are no certificate chain and no key.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why HTTPS cannot start: one line that names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub(crate) String);

/// Where the pair stands.
#[derive(Debug, Clone)]
struct Paths {
    cert: PathBuf,
    key: PathBuf,
}

/// The TLS configuration of these settings' certificate, which is made if there is none.
///
/// Reads and writes files: call it from a blocking thread once the runtime runs.
///
/// # Errors
/// A pair that cannot be read or made, that is broken, or that does not belong together.
pub fn load(settings: &Settings) -> Result<Arc<ServerConfig>, TlsError> {
    let paths =
        Paths { cert: settings.data_dir.join(&settings.cert), key: settings.data_dir.join(&settings.key) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let pair = ready_pair(&paths, &Machine::here(), now)?;
    server_config(&paths, pair)
}

fn ready_pair(paths: &Paths, machine: &Machine, now: Duration) -> Result<Pair, TlsError> {
    let (cert, key) = (read(&paths.cert)?, read(&paths.key)?);
    let (Some(cert), Some(key)) = (&cert, &key) else {
        return match (cert, key) {
            (None, None) => make(paths, machine, now, None),
            // A start that broke off between the two files; the certificate comes first.
            (Some(cert), None) if Pair::is_ours(&cert) => make(paths, machine, now, None),
            (cert, _) => Err(one_missing(paths, cert.is_none())),
        };
    };
    let pair = Pair::parse(paths, cert, key)?;
    let left = pair.ends_at.saturating_sub(now);
    let days_left = left.as_secs() / (24 * 3600);
    let cert_path = paths.cert.display();
    if pair.ours && left <= SOON {
        return make(paths, machine, now, Some(key));
    }
    if left.is_zero() {
        warn!(cert = %cert_path, "the certificate has expired, clients will refuse it; put a new one in its place");
    } else if left <= SOON {
        warn!(cert = %cert_path, days_left, "the certificate expires soon; put a new one in its place");
    } else if pair.ours && machine.addresses.iter().any(|address| !pair.addresses.contains(address)) {
        info!(cert = %cert_path, "the certificate lacks an address that this machine has now; remove it and its key, and they are made anew");
    }
    if pair.begins_at > now {
        warn!(cert = %cert_path, "the certificate is not valid yet; check the clock of this machine");
    }
    Ok(pair)
}

fn make(paths: &Paths, machine: &Machine, now: Duration, old_key: Option<&[u8]>) -> Result<Pair, TlsError> {
    if paths.cert == paths.key {
        let path = paths.cert.display();
        return Err(TlsError(format!("`{path}` stands for -cert and -key and is missing; name two files")));
    }
    let (cert, key) = make::write(paths, machine, now, old_key)?;
    info!(cert = %paths.cert.display(), "a self-signed certificate was made, valid for a year");
    Pair::parse(paths, &cert, &key)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, TlsError> {
    files::read(path, MAX_FILE_BYTES)
        .map_err(|error| TlsError(format!("cannot read `{}`: {error}", path.display())))
}

fn one_missing(paths: &Paths, cert_missing: bool) -> TlsError {
    let (cert, key) = (paths.cert.display(), paths.key.display());
    let (there, missing) = if cert_missing { ("key", "certificate") } else { ("certificate", "key") };
    TlsError(format!(
        "of the certificate `{cert}` and its key `{key}` only the {there} is there; put the {missing} beside \
         it, or move the {there} away, and both are made anew"
    ))
}

fn server_config(paths: &Paths, pair: Pair) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(pair.chain, pair.key))
        .map_err(|error| pair::unusable(paths, &error))?;
    // Sessions resume from the ticket alone; nothing is kept and no lock is taken for a handshake.
    config.ticketer = ring::Ticketer::new().map_err(|error| pair::unusable(paths, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
