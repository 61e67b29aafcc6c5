//! The targets: what is fed, and what must hold. Each gives a number that stands for what came of it.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    path::PathBuf,
    sync::OnceLock,
};

use bytes::Bytes;
use host::{
    access::{Access, Door, Machine, Peer},
    catalog::List,
    config::Settings,
    dialect::{
        answer::Assembly,
        chat::{Chat, Insert},
        events,
    },
    memory::Memory,
    session::{Key, Sessions},
};
use provider_api::{
    exchange::Begin,
    loader, sse,
    testing::{Driver, Outcome},
};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::harness::plugin_file;

/// One decoder.
pub struct Target {
    pub seeds: Vec<Vec<u8>>,
    pub words: &'static [&'static str],
    pub check: fn(&[u8]) -> u64,
}

/// All of them.
pub const NAMES: [&str; 8] = ["chat", "sse", "ndjson", "models.csv", "memory", "session", "host", "plugin"];

const JSON: &[&str] = &[
    "\"model\"",
    "\"messages\"",
    "\"stream\":true",
    "\"session_id\"",
    "\"system_prompt\"",
    "\"role\":\"tool\"",
    "\"content\"",
    "\"stream_options\":{\"include_usage\":true}",
    "null",
    "1e999",
    "-0",
    "\\ud800",
    "\\u0000",
    "{}",
    "[[[[",
    "\"timeout\":\"3m\"",
    "\"retries\":99",
    "\"cache\":true",
    "\"history\"",
];

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn number(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The target of this name.
pub fn target(name: &str) -> Target {
    match name {
        "chat" => Target {
            seeds: seeds(&[
                r#"{"model":"echo","messages":[{"role":"system","content":"s"},{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":false},"session_id":"s","timeout":5,"retries":1,"system_prompt":"p","temperature":0.10}"#,
                r#" { "messages" : [ {"role":"assistant","tool_calls":[]} , {"role":"tool","content":[{"type":"text","text":"r"}]} ] , "model" : "a/b" } "#,
                r#"{"model":"m","messages":[]}"#,
            ]),
            words: JSON,
            check: chat,
        },
        "sse" => Target {
            seeds: seeds(&[
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n: c\r\n\r\ndata: [DONE]\n\n",
                "event: error\ndata: {\"error\":{\"message\":\"m\"}}\n\nid: 1\ndata: a\ndata: b\r\r",
                "data:{\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\r\n\r\n",
            ]),
            words: &[
                "data:",
                "data: [DONE]\n\n",
                "\r\n\r\n",
                "\r",
                ":",
                "event: x\n",
                "\u{feff}",
                "{\"usage\":null}",
            ],
            check: event_stream,
        },
        "ndjson" => Target {
            seeds: seeds(&[
                "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"a\"},\"done\":false}\n{\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":1,\"eval_count\":2}\n",
                "{\"message\":{\"content\":\"\",\"thinking\":\"t\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]}}\n{\"error\":\"e\"}\n",
                "{\"message\":{\"content\":[{\r\"a\":\r1}]},\"done\":false}\n{\"done\":true}\n",
            ]),
            words: &[
                "\n",
                "\r\n",
                "\"done\":true",
                "\"error\":\"x\"",
                "\"eval_count\":-1",
                "{}",
                "null",
                "[",
                "1e999",
            ],
            check: json_lines,
        },
        "models.csv" => Target {
            seeds: seeds(&[
                "echo, gpt41\n!old-*\n# comment\n*\n",
                "id,provider,shortcode,input_usd_per_mtok,context_tokens\nm,echo,s,0.5,1000\n\"q\"\"\",,,,\n",
                concat!(include_str!("../../models.csv")),
            ]),
            words: &[
                "*",
                "!",
                "#",
                ",",
                ";",
                "\"",
                "id,",
                "shortcode",
                "\r\n",
                "\u{feff}",
                "-1",
                "1e999",
                "NaN",
            ],
            check: model_list,
        },
        "memory" => Target {
            seeds: seeds(&[
                r#"{"content":"c","cache":true}"#,
                "{}",
                "\u{feff}{\"content\":null}",
                r#"{"content":"\ud83d\ude00"}"#,
            ]),
            words: JSON,
            check: memory,
        },
        "session" => Target {
            seeds: seeds(&[
                r#"{"model":"echo","session_id":"s","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
                r#"{"history":[{"role":"user","content":"a"}]}"#,
                r#"{"messages":null}"#,
            ]),
            words: JSON,
            check: session,
        },
        "host" => Target {
            seeds: seeds(&[
                "localhost:9080\nhttp://localhost:9080\n127.0.0.1\n127.0.0.0/8",
                "[::1]:9080\nnull\n::ffff:10.0.0.1, 192.168.1.1\n::/0",
                "LOCALHOST.\nhttps://evil.example\nunknown\n10.0.0.0/33",
                "0x7f.1\nhttp://127.0.0.1\n\n192.168.0.0/16",
            ]),
            words: &[
                "localhost",
                ".",
                ":",
                "@",
                "[::1]",
                "127.1",
                "2130706433",
                "0177.0.0.1",
                "::ffff:",
                "/",
                "%00",
                "xn--",
                ",",
            ],
            check: host_rules,
        },
        "plugin" => {
            Target { seeds: plugins(), words: &["\x7fELF", ".gwplugin", "\"api\"", "\"id\""], check: plugin }
        }
        _ => panic!("no target {name}"),
    }
}

fn chat(input: &[u8]) -> u64 {
    let chat = match Chat::parse(Bytes::copy_from_slice(input)) {
        Ok(chat) => chat,
        Err(error) => return number(&(error.status.as_u16(), error.param)),
    };
    let messages = match chat.messages() {
        Ok(messages) => messages,
        Err(error) => return number(&("messages", error.param)),
    };
    let insert = Insert {
        memory: Some(Bytes::from_static(br#"{"role":"system","content":"MEMORY"}"#)),
        history: vec![Bytes::from_static(br#"{"role":"user","content":"HISTORY"}"#)],
        ask_usage: chat.stream && !chat.include_usage,
    };
    let encoded = match chat.encode("upstream-id", &insert) {
        Ok(encoded) => encoded,
        Err(error) => return number(&("encode", error.param)),
    };
    let upstream: std::collections::BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(&encoded).expect("what goes upstream is a JSON object");
    assert_eq!(upstream["model"].get(), "\"upstream-id\"");
    let list: Vec<Box<RawValue>> = serde_json::from_str(upstream["messages"].get()).expect("a list");
    let own = usize::from(chat.options.system_prompt.as_ref().is_some_and(|prompt| !prompt.is_empty()));
    assert!(list.len() >= messages.len() + 2 && list.len() <= messages.len() + 2 + own);
    for field in ["session_id", "timeout", "retries", "system_prompt"] {
        assert!(!upstream.contains_key(field), "{field} is the gateway's own");
    }
    number(&(messages.len(), chat.stream, chat.include_usage, upstream.len()))
}

fn event_stream(input: &[u8]) -> u64 {
    let events = |step: usize| {
        let (mut buffer, mut seen, mut found) = (Vec::new(), 0, Vec::new());
        for piece in input.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(end) = sse::event_end(&buffer, seen) {
                found.push(sse::parse(&buffer[..end]).data.map(|data| data.into_owned()));
                buffer.drain(..end);
                seen = 0;
            }
            seen = buffer.len();
        }
        found
    };
    let whole: Vec<_> = events(input.len().max(1)).into_iter().flatten().collect();
    let single: Vec<_> = events(1).into_iter().flatten().collect();
    assert_eq!(whole, single, "the same events however they are cut");
    let (mut rest, mut kinds, mut assembly) = (input, Vec::new(), Assembly::default());
    while let Some(end) = sse::event_end(rest, 0) {
        let event = &rest[..end];
        kinds.push(std::mem::discriminant(&events::look(event)));
        if let Some(data) = events::data(event) {
            assembly.add(&data);
        }
        rest = &rest[end..];
    }
    if let Some(message) = assembly.message() {
        serde_json::from_slice::<Value>(&message).expect("a message is JSON");
    }
    kinds.truncate(4);
    number(&(kinds, whole.len().min(20)))
}

fn json_lines(input: &[u8]) -> u64 {
    let answered = |pieces: &[&[u8]]| -> Outcome {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#;
        let exchange = OLLAMA.with(|driver| {
            let begin = Begin { operation: "chat", model: "m", stream: true, body, ..driver.call() };
            driver.begin(&begin).expect("an exchange")
        });
        exchange.answer(200, &[("content-type", "application/x-ndjson")], pieces)
    };
    let whole = answered(&[input]);
    let halves = input.split_at(input.len() / 2);
    let cut = answered(&[halves.0, halves.1]);
    assert_eq!(whole.output, cut.output, "the same answer however it is cut");
    for event in whole.events().iter().filter(|event| *event != b"[DONE]") {
        serde_json::from_slice::<Value>(event).expect("events are JSON");
    }
    let fault = whole.fault.map(|fault| fault.message.chars().take(30).collect::<String>());
    number(&(whole.chunks.len().min(10), fault))
}

fn model_list(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    let (_, warnings) = List::parse(&text);
    let rows = provider_api::model::models_from_csv(&text).map_or(0, |rows| 1 + rows.len());
    number(&(warnings.len().min(20), rows.min(20)))
}

/// A directory of this thread's own.
fn directory() -> PathBuf {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let base = DIRECTORY.get_or_init(|| {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
    });
    let dir = base.path().join(format!("{:?}", std::thread::current().id()).replace(['(', ')'], ""));
    fs::create_dir_all(dir.join(".sessions")).expect("a directory");
    dir
}

fn memory(input: &[u8]) -> u64 {
    let dir = directory();
    fs::write(dir.join("memory.json"), input).expect("a file");
    let block = Memory::open(&dir).block();
    for message in [block.message(false), block.message(true)].into_iter().flatten() {
        serde_json::from_slice::<Value>(message).expect("a message is JSON");
    }
    number(&(block.content.len().min(40), block.cache))
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    static OLLAMA: Driver = Driver::new::<ollama::Ollama>("{}").expect("a provider");
}

fn session(input: &[u8]) -> u64 {
    let dir = directory();
    for entry in fs::read_dir(dir.join(".sessions")).expect("the directory").flatten() {
        let _ = fs::remove_file(entry.path());
    }
    let path = dir.join(".sessions/echo-s.json");
    fs::write(&path, input).expect("a file");
    let (sessions, key) = (Sessions::new(&dir), Key::new("echo", "s").expect("a key"));
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let before = sessions.load(&key).await.map_or(0, |history| history.messages().len());
            let new = [r#"{"role":"user","content":"NEW"}"#, r#"{"role":"assistant","content":"ANSWER"}"#];
            let new = new.map(|text| Bytes::from_static(text.as_bytes())).to_vec();
            sessions.append(&key, new.clone()).await.expect("it is stored");
            let after = sessions.load(&key).await.expect("it can be read").messages();
            assert!(after.ends_with(&new) && after.len() <= 20);
            let original = fs::read_dir(dir.join(".sessions")).expect("the directory").flatten();
            let kept = original.filter_map(|entry| fs::read(entry.path()).ok()).any(|bytes| bytes == input);
            assert!(before > 0 || kept || readable(input), "what could not be understood is kept");
            number(&(before.min(30), after.len(), kept))
        })
    })
}

/// Whether a session's file holds no messages by its own words.
fn readable(input: &[u8]) -> bool {
    input.is_empty() || serde_json::from_slice::<Value>(input).is_ok()
}

fn host_rules(input: &[u8]) -> u64 {
    static ACCESS: OnceLock<Access> = OnceLock::new();
    let access = ACCESS.get_or_init(|| {
        let mut settings = Settings::default().access;
        settings.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        let machine =
            Machine { name: Some("machine".into()), addresses: vec!["192.168.7.7".parse().expect("one")] };
        Access::new(&settings, &machine)
    });
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut request = http::Request::post("/v1/chat/completions").header("content-type", "application/json");
    let mut host = Vec::new();
    for (name, line) in ["host", "origin", "x-forwarded-for"].into_iter().zip(&mut lines) {
        let Ok(value) = http::HeaderValue::from_bytes(line) else { continue };
        if name == "host" {
            host = line.to_ascii_lowercase();
        }
        request = request.header(name, value);
    }
    let network = String::from_utf8_lossy(lines.next().unwrap_or_default()).parse::<ipnet::IpNet>();
    let head = request.body(()).expect("a request").into_parts().0;
    let local: IpAddr = "127.0.0.1".parse().expect("an address");
    let peer = Peer { address: (local, 5000).into(), local, door: Door::Http };
    let checked = access.check(&peer, &head, true);
    if checked.is_ok() {
        let host = String::from_utf8_lossy(&host).into_owned();
        let names = ["localhost", "machine", "127.", "192.168.7.7", "[::1]", "[::ffff:", "[0"];
        assert!(names.iter().any(|name| host.trim().contains(name)), "{host:?} was let in");
        assert!(!host.contains("evil"), "{host:?} was let in");
    }
    let outcome = checked
        .map_or_else(|error| error.message.chars().take(25).collect(), |caller| caller.address.to_string());
    number(&(outcome, network.is_ok()))
}

/// The records of plugin files, with enough of the file around them to be looked for.
fn plugins() -> Vec<Vec<u8>> {
    static SMALL: OnceLock<Vec<u8>> = OnceLock::new();
    let small = SMALL.get_or_init(|| {
        let bytes = fs::read(plugin_file("echo")).expect("a plugin");
        let small = small_elf(&bytes);
        assert!(loader::vet(&small).is_ok(), "{:?}", loader::vet(&small).err());
        small
    });
    vec![small.clone()]
}

/// A file that holds the plugin's record and nothing else, behind the same kind of header.
fn small_elf(bytes: &[u8]) -> Vec<u8> {
    let record = record(bytes);
    let names = b"\0.gwplugin\0.shstrtab\0";
    let record_at = 64 + 56;
    let (names_at, table_at) = (record_at + record.len(), record_at + record.len() + names.len());
    let mut file = bytes[..64].to_vec();
    // The header: one segment behind it, three sections at the end, the last one holds the names.
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[40..48].copy_from_slice(&(table_at as u64).to_le_bytes());
    file[54..64].copy_from_slice(&[56, 0, 1, 0, 64, 0, 3, 0, 2, 0]);
    // A segment to load: type, flags, offset, two addresses, two sizes, alignment.
    let size = (record_at + record.len()) as u64;
    file.extend_from_slice(&1_u32.to_le_bytes());
    file.extend_from_slice(&4_u32.to_le_bytes());
    file.extend([0, 0, 0, size, size, 1].iter().flat_map(|number: &u64| number.to_le_bytes()));
    file.extend_from_slice(record);
    file.extend_from_slice(names);
    for (name, kind, at, size) in
        [(0_u32, 0_u32, 0, 0), (1, 1, record_at, record.len()), (11, 3, names_at, names.len())]
    {
        file.extend_from_slice(&name.to_le_bytes());
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend(
            [0, 0, at as u64, size as u64, 0, 1, 0].iter().flat_map(|number: &u64| number.to_le_bytes()),
        );
    }
    file
}

/// The section `.gwplugin` of a plugin's file.
fn record(bytes: &[u8]) -> &[u8] {
    let number = |at: usize, len: usize| -> usize {
        let bytes = bytes[at..at + len].iter().rev();
        bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    let (table, count, names) = (number(40, 8), number(60, 2), number(62, 2));
    let section = |index: usize| table + index * 64;
    let names = number(section(names) + 24, 8);
    let found =
        (0..count).map(section).find(|at| bytes[names + number(*at, 4)..].starts_with(b".gwplugin\0"));
    let at = found.expect("a plugin has it");
    &bytes[number(at + 24, 8)..][..number(at + 32, 8)]
}

fn plugin(input: &[u8]) -> u64 {
    match loader::vet(input) {
        Ok(record) => {
            assert_eq!(record.manifest.api_major(), Some(1));
            number(&record.manifest.id.len())
        }
        Err(refused) => number(&refused.message.chars().take(40).collect::<String>()),
    }
}
