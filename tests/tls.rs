//! HTTPS: a certificate that is made once and checked ever after.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::harness::{Connection, Reply, Server, Setup, gateway, trusting};

/// HTTPS for this machine, which the default does not admit.
fn local() -> Setup {
    gateway().config("[access]\nhttps = [\"127.0.0.0/8\"]\n")
}

fn get(server: &Server, name: &str, path: &str) -> Reply {
    Connection::open(server.https()).tls(trusting(server, &["http/1.1"]), name).get(path)
}

#[test]
fn a_certificate_is_made_for_every_local_name() {
    let server = local().start();
    for name in ["localhost", "127.0.0.1"] {
        assert_eq!(get(&server, name, "/ping").text().trim(), "pong", "{name}");
    }
    let key = server.data().join("certs/server.key");
    assert_eq!(fs::metadata(&key).expect("the key").permissions().mode() & 0o777, 0o600);
    let before = fs::read(&key).expect("the key");
    let server = server.restart();
    assert_eq!(fs::read(server.data().join("certs/server.key")).expect("the key"), before, "made once");
}

#[test]
fn the_certificate_names_every_local_address_and_the_host() {
    use x509_parser::{extensions::GeneralName, prelude::*};
    let server = gateway().start();
    let pem = fs::read(server.data().join("certs/server.crt")).expect("the certificate");
    let der = CertificateDer::from_pem_slice(&pem).expect("PEM");
    let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
    let names = certificate.subject_alternative_name().expect("readable").expect("names").value;
    let address = |bytes: &[u8]| -> Option<std::net::IpAddr> {
        let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from)).ok()
    };
    let (mut hosts, mut addresses) = (Vec::new(), Vec::new());
    for name in &names.general_names {
        match name {
            GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
            GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
            other => panic!("{other:?}"),
        }
    }
    let machine = fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
    for host in ["localhost", machine.trim()] {
        assert!(hosts.iter().any(|known| known.eq_ignore_ascii_case(host)), "{host} in {hosts:?}");
    }
    for interface in if_addrs::get_if_addrs().expect("interfaces") {
        let local = interface.ip();
        let scoped = matches!(local, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
        assert!(scoped || addresses.contains(&local), "{local} in {addresses:?}");
    }
}

#[test]
fn parent_directories_are_made_wherever_the_files_are() {
    let server = local().args(&["-cert", "deep/er/site.crt", "-key=other/site.key"]).start();
    assert!(server.data().join("deep/er/site.crt").exists() && server.data().join("other/site.key").exists());
}

#[test]
fn peers_that_https_does_not_admit_get_no_handshake() {
    let server = gateway().start();
    let mut caller = Connection::open(server.https());
    assert!(caller.closed());
    server.logged("127.0.0.1");
}

#[test]
fn http_2_is_spoken_where_the_client_can() {
    let server = local().start();
    let config = trusting(&server, &["h2", "http/1.1"]);
    let address = server.https();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (status, version) = runtime.block_on(async {
        use http_body_util::BodyExt;
        let socket = tokio::net::TcpStream::connect(address).await.expect("connect");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let stream = connector.connect(name, socket).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("h2");
        tokio::spawn(connection);
        let body = r#"{"model":"echo","stream":true,"messages":[{"role":"user","content":"over h2"}]}"#;
        let request =
            http::Request::post(format!("https://localhost:{}/v1/chat/completions", address.port()))
                .header("content-type", "application/json")
                .body(http_body_util::Full::new(bytes::Bytes::from(body)))
                .expect("a request");
        let reply = sender.send_request(request).await.expect("an answer");
        let head = (reply.status().as_u16(), reply.version());
        let text = reply.into_body().collect().await.expect("the body").to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("[DONE]"));
        head
    });
    assert_eq!((status, version), (200, http::Version::HTTP_2));
}

#[test]
fn both_tls_versions_are_spoken() {
    let server = local().start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = trusting(&server, &[]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version");
        let pem = fs::read(server.data().join("certs/server.crt")).expect("the certificate");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a certificate");
        config = {
            let _ = config;
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        let reply = Connection::open(server.https()).tls(config, "localhost").get("/ping");
        assert_eq!(reply.status, 200);
    }
}

#[test]
fn a_pair_that_does_not_belong_together_stops_the_start() {
    let one = local().start();
    let two = local().start();
    let read =
        |server: &Server, name: &str| fs::read(server.data().join("certs").join(name)).expect("a file");
    let output = local()
        .file("certs/server.crt", read(&one, "server.crt"))
        .file("certs/server.key", read(&two, "server.key"))
        .run();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("server.key") || text.contains("server.crt"), "{text}");
}

#[test]
fn the_operators_files_are_never_overwritten() {
    let setup = local().file("certs/server.crt", "not a certificate").file("certs/server.key", "not a key");
    let output = setup.run();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("server.crt"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(
        fs::read_to_string(setup.path().join("certs/server.crt")).expect("the file"),
        "not a certificate"
    );
}
