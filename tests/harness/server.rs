//! The gateway under test: the real binary with real plugin files, on free ports, in its own directory.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Connection, PATIENCE, Reply};

/// The server's program.
pub const SERVER: &str = env!("CARGO_BIN_EXE_sigoREST");
/// The command line program.
pub const CLI: &str = env!("CARGO_BIN_EXE_sigoE");
/// The plugins that the project ships.
pub const PLUGINS: [&str; 8] =
    ["anthropic", "deepseek", "echo", "mammouth", "moonshot", "ollama", "openai-compatible", "zai"];

/// The file that the build left for a plugin.
pub fn plugin_file(id: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("this program's path");
    let beside = tests.parent().expect("a directory");
    beside.join(format!("lib{}.so", id.replace('-', "_")))
}

/// What a gateway starts with.
pub struct Setup {
    data: TempDir,
    plugins: Vec<String>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

/// A gateway with all shipped plugins.
pub fn gateway() -> Setup {
    Setup {
        data: tempfile::tempdir().expect("a directory"),
        plugins: PLUGINS.map(str::to_owned).to_vec(),
        args: Vec::new(),
        env: BTreeMap::new(),
    }
}

impl Setup {
    /// Only these plugins.
    pub fn plugins(mut self, ids: &[&str]) -> Self {
        self.plugins = ids.iter().map(|id| (*id).to_owned()).collect();
        self
    }

    /// A flag, with its value.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// An environment variable; there are no others.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// A file in the data directory.
    pub fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.data.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        std::fs::write(path, text).expect("a file");
        self
    }

    /// `sigorest.toml`.
    pub fn config(self, text: &str) -> Self {
        self.file("sigorest.toml", text)
    }

    /// A provider whose base URL is this, with a key.
    pub fn provider(self, name: &str, base_url: &str) -> Self {
        let name = name.to_uppercase();
        self.env(&format!("{name}_BASE_URL"), base_url).env(&format!("{name}_API_KEY"), KEY)
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        self.data.path()
    }

    /// Puts the plugins into the data directory.
    fn lay_out(&self) {
        let plugins = self.data.path().join("plugins");
        std::fs::create_dir_all(&plugins).expect("a directory");
        for id in &self.plugins {
            let file = plugins.join(format!("{id}.so"));
            if !file.exists() {
                std::fs::copy(plugin_file(id), file).unwrap_or_else(|error| panic!("plugin {id}: {error}"));
            }
        }
    }

    /// The command with which the server starts, for what the harness does not do.
    pub fn command(&self, program: &str) -> Command {
        self.lay_out();
        let mut command = Command::new(program);
        command.env_clear().envs(&self.env).current_dir(self.data.path()).stdin(Stdio::null());
        if program == SERVER {
            command.args(["-http-port", "0", "-https-port", "0", "-data-dir"]).arg(self.data.path());
            command.arg("-plugin-dir").arg(self.data.path().join("plugins"));
        }
        command.args(&self.args);
        command
    }

    /// Runs the server to its end, for starts that fail and for commands like `check`.
    pub fn run(&self) -> Output {
        finish(self.command(SERVER).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start"))
    }

    /// Starts the server and waits until it listens.
    pub fn start(self) -> Server {
        let command = self.command(SERVER);
        self.start_as(command)
    }

    /// Starts the server by a command of the test's own, whose process becomes the server.
    pub fn start_as(self, mut command: Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
        let log = Log::of(&mut child);
        let mut server = Server { child, log, setup: self, http: Vec::new(), https: Vec::new() };
        server.read_addresses();
        server
    }
}

/// The key that tests give to providers.
pub const KEY: &str = "sk-test-0123456789abcdef";

/// Waits for a program's end, but not for ever.
pub fn finish(child: Child) -> Output {
    let id = child.id();
    let (done, ended) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output().expect("its output");
        let _ = done.send(());
        output
    });
    if ended.recv_timeout(PATIENCE * 2).is_err() {
        signal(id, rustix::process::Signal::KILL);
        panic!("the program did not end");
    }
    waiter.join().expect("its output")
}

/// Sends a signal to a process that this test started.
pub fn signal(id: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(id).expect("a process id")).expect("not 0");
    let _ = rustix::process::kill_process(pid, signal);
}

/// Waits for a condition.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// What a program writes, line by line.
#[derive(Clone)]
struct Log(Arc<Mutex<String>>);

impl Log {
    fn of(child: &mut Child) -> Self {
        let log = Self(Arc::default());
        let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
        let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>);
        for pipe in [stderr, stdout].into_iter().flatten() {
            let log = log.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(pipe);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                    log.0.lock().expect("the log").push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            });
        }
        log
    }

    fn text(&self) -> String {
        self.0.lock().expect("the log").clone()
    }
}

/// A running gateway. It is stopped when the test ends.
pub struct Server {
    child: Child,
    log: Log,
    setup: Setup,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
}

impl Server {
    fn read_addresses(&mut self) {
        let file = self.setup.path().join("run.json");
        let id = self.child.id();
        let run = eventually("the start", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the server ended with {status}:\n{}", self.log.text());
            }
            let run: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            (run["pid"] == id).then_some(run)
        });
        let addresses = |door: &str| -> Vec<SocketAddr> {
            let list = run[door].as_array().expect("addresses").iter();
            list.map(|text| text.as_str().expect("text").parse().expect("an address")).collect()
        };
        (self.http, self.https) = (addresses("http"), addresses("https"));
    }

    /// Where plain HTTP listens on IPv4.
    pub fn http(&self) -> SocketAddr {
        let v4 = self.http.iter().find(|address| address.is_ipv4());
        on_loopback(*v4.expect("an IPv4 address for HTTP"))
    }

    /// Where plain HTTP listens on IPv6, if it does.
    pub fn http6(&self) -> Option<SocketAddr> {
        self.http.iter().find(|address| address.is_ipv6()).copied().map(on_loopback)
    }

    /// Where HTTPS listens.
    pub fn https(&self) -> SocketAddr {
        on_loopback(*self.https.first().expect("an address for HTTPS"))
    }

    /// The addresses as they are listened on, HTTP first.
    pub fn listening(&self) -> (&[SocketAddr], &[SocketAddr]) {
        (&self.http, &self.https)
    }

    /// The URL that a client is given.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.http())
    }

    /// A new connection.
    pub fn connect(&self) -> Connection {
        Connection::open(self.http())
    }

    /// GET on a new connection.
    pub fn get(&self, path: &str) -> Reply {
        self.connect().get(path)
    }

    /// POST of JSON on a new connection.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.connect().post(path, body)
    }

    /// Any request on a new connection.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.connect().send(method, path, headers, body.as_bytes())
    }

    /// A chat.
    pub fn chat(&self, body: &Value) -> Reply {
        self.post("/v1/chat/completions", body)
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.setup.path()
    }

    /// All that it has written so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// How much it has written so far, for [`Server::log_from`].
    pub fn log_length(&self) -> usize {
        self.log.0.lock().expect("the log").len()
    }

    /// What it has written since.
    pub fn log_from(&self, length: usize) -> String {
        self.log.0.lock().expect("the log")[length..].to_owned()
    }

    /// Waits until a line of its output contains this; gives the last one that does.
    #[track_caller]
    pub fn logged(&self, text: &str) -> String {
        self.logged_with(&[text])
    }

    /// Waits until a line of its output contains all of these; gives the last one that does.
    #[track_caller]
    pub fn logged_with(&self, texts: &[&str]) -> String {
        let all = |line: &&str| texts.iter().all(|text| line.contains(text));
        let find = || self.log.text().lines().rfind(all).map(str::to_owned);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = find() {
                return line;
            }
            assert!(Instant::now() < deadline, "{texts:?} was not logged:\n{}", self.log.text());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to read its settings again.
    pub fn reload(&self) {
        signal(self.id(), rustix::process::Signal::HUP);
    }

    /// Sends it a signal.
    pub fn signal(&self, kind: rustix::process::Signal) {
        signal(self.id(), kind);
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        signal(self.id(), rustix::process::Signal::TERM);
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let Self { child, .. } = self;
        eventually("the end", || child.try_wait().expect("its state"))
    }

    /// Stops it and starts another one in the same directory.
    pub fn restart(self) -> Self {
        self.stop().start()
    }

    /// Stops it; what it started with, and its directory, stay.
    pub fn stop(mut self) -> Setup {
        self.terminate();
        self.ended();
        std::mem::replace(&mut self.setup, gateway())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let text = self.log.text();
            // Of much, the end.
            let from = text.len().saturating_sub(256 << 10);
            let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            eprintln!("--- the server wrote:\n{}", &text[from..]);
        }
    }
}

/// TLS that trusts the certificate of this server alone and offers these protocols.
pub fn trusting(server: &Server, protocols: &[&str]) -> rustls::ClientConfig {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let pem = std::fs::read(server.data().join("certs/server.crt")).expect("the certificate");
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

fn on_loopback(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
