//! A certificate with its key as files hold them, taken apart and checked.

use std::{net::IpAddr, time::Duration};

use rustls::{
    InconsistentKeys,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

use super::{Paths, TlsError, make::ORGANISATION};

/// A certificate and its key, which belong together.
pub(super) struct Pair {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// The gateway made it.
    pub(super) ours: bool,
    /// Since the Unix epoch.
    pub(super) begins_at: Duration,
    /// Since the Unix epoch.
    pub(super) ends_at: Duration,
    /// The addresses that it names.
    pub(super) addresses: Vec<IpAddr>,
}

impl Pair {
    pub(super) fn parse(paths: &Paths, cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let cert_path = paths.cert.display();
        let chain = chain(cert);
        let Some(leaf) = chain.first() else {
            return Err(TlsError(format!(
                "`{cert_path}` holds no certificate in PEM form; put one there, or move it and its key away, \
                 and both are made anew"
            )));
        };
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| {
            TlsError(format!("the certificate in `{cert_path}` is broken ({error}); put a whole one there"))
        })?;
        let facts = Self {
            ours: is_ours(&parsed),
            begins_at: since_epoch(parsed.validity().not_before),
            ends_at: since_epoch(parsed.validity().not_after),
            addresses: addresses(&parsed),
            key: private_key(paths, key)?,
            chain: Vec::new(),
        };
        let signing = any_supported_type(&facts.key).map_err(|error| unusable_key(paths, &error))?;
        match CertifiedKey::new(chain.clone(), signing).keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(unusable(paths, &error)),
        }
        Ok(Self { chain, ..facts })
    }

    /// Whether the gateway made the certificate in this file.
    pub(super) fn is_ours(cert: &[u8]) -> bool {
        chain(cert)
            .first()
            .is_some_and(|leaf| X509Certificate::from_der(leaf).is_ok_and(|(_, parsed)| is_ours(&parsed)))
    }
}

/// All certificates of a PEM file; none if any is broken.
fn chain(cert: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(cert).collect::<Result<_, _>>().unwrap_or_default()
}

fn private_key(paths: &Paths, key: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(key).map_err(|error| {
        let key = paths.key.display();
        match error {
            pem::Error::NoItemsFound => TlsError(format!(
                "`{key}` holds no private key in PEM form without a password; put the key of the certificate there"
            )),
            error => TlsError(format!("the key in `{key}` is broken ({error}); put a whole one there")),
        }
    })
}

/// What to say if rustls cannot use the pair.
pub(super) fn unusable(paths: &Paths, error: &rustls::Error) -> TlsError {
    let (cert, key) = (paths.cert.display(), paths.key.display());
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        return TlsError(format!(
            "the key `{key}` does not belong to the certificate `{cert}`; put the right one there"
        ));
    }
    TlsError(format!("the certificate `{cert}` cannot be used ({error}); put another one there"))
}

fn unusable_key(paths: &Paths, error: &rustls::Error) -> TlsError {
    let key = paths.key.display();
    TlsError(format!("the key `{key}` cannot be used ({error}); use ECDSA P-256 or P-384, Ed25519 or RSA"))
}

fn is_ours(cert: &X509Certificate) -> bool {
    let mut organisations = cert.subject().iter_organization();
    let marked = organisations.next().is_some_and(|name| name.as_str() == Ok(ORGANISATION));
    marked && cert.subject() == cert.issuer()
}

fn addresses(cert: &X509Certificate) -> Vec<IpAddr> {
    let names = cert.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let address = |name: &GeneralName| match name {
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
        },
        _ => None,
    };
    names.into_iter().flatten().filter_map(address).collect()
}

fn since_epoch(time: ASN1Time) -> Duration {
    Duration::from_secs(time.timestamp().try_into().unwrap_or_default())
}
