//! A self-signed certificate for every name and address of this machine.

use std::{
    fs::{self, Permissions},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};

use super::{Paths, TlsError};
use crate::{access::Machine, files};

/// The subject's organisation in certificates that the gateway made.
pub(super) const ORGANISATION: &str = "sigoREST";

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Clients whose clock is a little behind must not refuse a fresh certificate.
const SKEW: Duration = Duration::from_secs(3600);

/// Makes the pair's files and returns what is in them, certificate and key in PEM form.
///
/// The key of a renewed pair stays: the certificate alone is replaced, so that no crash leaves two files
/// that do not belong together.
pub(super) fn write(
    paths: &Paths,
    machine: &Machine,
    now: Duration,
    old_key: Option<&[u8]>,
) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let kept = old_key.and_then(|key| {
        let pair = KeyPair::from_pem(std::str::from_utf8(key).ok()?).ok()?;
        pair.is_compatible(&PKCS_ECDSA_P256_SHA256).then(|| (pair, key.to_vec()))
    });
    let renewed = kept.is_some();
    let made = kept.map_or_else(
        || {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let pem = pair.serialize_pem().into_bytes();
            Ok((pair, pem))
        },
        Ok,
    );
    let made = made.and_then(|(pair, key)| Ok((certificate(machine, now, &pair)?.into_bytes(), key)));
    let (cert, key) =
        made.map_err(|error: rcgen::Error| TlsError(format!("cannot make a certificate: {error}")))?;
    put(&paths.cert, &cert, 0o644)?;
    if !renewed {
        put(&paths.key, &key, 0o600)?;
    }
    Ok((cert, key))
}

fn certificate(machine: &Machine, now: Duration, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + now + YEAR;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANISATION);
    params.distinguished_name.push(DnType::CommonName, "sigoREST Server");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![SanType::DnsName("localhost".try_into()?)];
    // A name that no certificate can hold is no reason to have none.
    let name = machine.name.as_deref().and_then(|name| name.try_into().ok());
    params.subject_alt_names.extend(name.map(SanType::DnsName));
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for address in &machine.addresses {
        if !addresses.contains(address) {
            addresses.push(*address);
        }
    }
    params.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    Ok(params.self_signed(key)?.pem())
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let put = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            files::make_dir(parent)?;
        }
        files::replace(path, bytes)?;
        if mode == 0o600 { Ok(()) } else { fs::set_permissions(path, Permissions::from_mode(mode)) }
    };
    put().map_err(|error| {
        TlsError(format!(
            "cannot write `{}`: {error}; make its directory writable, or choose another with -cert and -key",
            path.display()
        ))
    })
}
