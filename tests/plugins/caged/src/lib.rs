//! A plugin that tries to break out of its worker process, or to break it: the model's name says how.

// An initialiser, which runs while the file is mapped, is no part of a safe language.
#![allow(unsafe_code)]

use std::{
    fs, io,
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixListener,
    process::Command,
    sync::OnceLock,
};

use provider_api::{Call, Config, Fault, Out, Provider, Start, answer::quoted};

#[used]
#[unsafe(link_section = ".init_array")]
static INITIALISER: extern "C" fn() = initialise;

/// What the initialiser could do.
static INITIALISED: OnceLock<String> = OnceLock::new();

extern "C" fn initialise() {
    let read = tried("initialiser reads", fs::read("/etc/passwd").map(drop));
    let lists = tried("initialiser lists", fs::read_dir("/").map(drop));
    let _ = INITIALISED.set(format!("{read}\n{lists}"));
}

/// The provider.
pub struct Caged;

impl Provider for Caged {
    type State = String;
    const MANIFEST: &'static str = r#"{
        "schema": 1, "id": "caged", "name": "Caged", "version": "1.0.0", "license": "MIT", "api": "1.0",
        "operations": ["chat"], "base_url": "https://caged.example",
        "config": {"type": "object", "properties": {"new": {"type": "string"}}},
        "models": [
            {"id": "report"}, {"id": "loop"}, {"id": "overflow"}, {"id": "abort"}, {"id": "exit"},
            {"id": "hoard"}, {"id": "panic"}, {"id": "print"}
        ]
    }"#;

    fn new(config: &Config) -> Result<Self, Fault> {
        match config.setting::<String>("new")?.as_deref() {
            None => Ok(Self),
            Some("abort") => std::process::abort(),
            Some(other) => Err(Fault::bad_request(format!("`new` cannot be {other}"))),
        }
    }

    fn begin(&self, call: &Call<'_>, state: &mut String) -> Result<Start, Fault> {
        call.model.clone_into(state);
        Ok(Start::Now)
    }

    fn timer(&self, model: &mut String, _id: u64, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        let text = match model.as_str() {
            "report" => report(),
            "loop" => endless(),
            "overflow" => format!("{}", deeper(0)),
            "abort" => std::process::abort(),
            "exit" => std::process::exit(3),
            "hoard" => hoard(),
            "panic" => panic!("as it was asked to"),
            "print" => {
                println!("printed to standard output");
                eprintln!("printed to standard error");
                "printed".into()
            }
            other => other.to_owned(),
        };
        let answer = format!(
            r#"{{"id":"1","object":"chat.completion","created":1,"model":"caged","choices":[{{"index":0,"message":{{"role":"assistant","content":{}}},"finish_reason":"stop"}}]}}"#,
            quoted(&text)
        );
        out.done(answer.as_bytes());
        Ok(())
    }
}

/// What can be done here, one attempt a line.
fn report() -> String {
    let thread = std::thread::Builder::new().spawn(|| 7).map(|thread| drop(thread.join()));
    let parent = std::os::unix::process::parent_id();
    [
        INITIALISED.get().cloned().unwrap_or_default(),
        format!("variables: {}", std::env::vars_os().count()),
        tried("connect", TcpStream::connect("127.0.0.1:9").map(drop)),
        tried("listen", TcpListener::bind("127.0.0.1:0").map(drop)),
        tried("datagram", UdpSocket::bind("127.0.0.1:0").map(drop)),
        tried("unix", UnixListener::bind("/tmp/caged").map(drop)),
        tried("write", fs::write("/tmp/caged", "x")),
        tried("read", fs::read("/etc/passwd").map(drop)),
        tried("environ", fs::read(format!("/proc/{parent}/environ")).map(drop)),
        tried("list", fs::read_dir("/").map(drop)),
        tried("run", Command::new("/bin/true").spawn().map(drop)),
        tried("thread", thread),
    ]
    .join("\n")
}

fn tried(name: &str, outcome: io::Result<()>) -> String {
    match outcome {
        Ok(()) => format!("{name}: done"),
        Err(error) => format!("{name}: {:?}", error.kind()),
    }
}

fn endless() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn deeper(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    if depth == u64::MAX { 0 } else { deeper(depth + 1) + room[1] }
}

/// Asks for more memory than there may be.
fn hoard() -> String {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 64 << 20]);
        if held.len() > 1000 {
            return "endless memory".into();
        }
    }
}

provider_api::export_provider!(Caged);
