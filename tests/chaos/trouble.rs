//! What is done to the gateways themselves while callers ask: reloads, plugins, disks, descriptors, kills.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::json;

use super::{Dice, budget, site::Site};
use crate::{
    harness::{Connection, Server, Setup, eventually, plugin_file, signal},
    plugins::{put, version},
    worker::worker,
};

/// New code stays mapped for as long as the process lives: so many new versions of plugins come, all of them
/// while memory warms up, or they would hide what requests leave behind.
const MOST_SWAPS: u32 = 12;

/// How long a disk or descriptors are gone.
const OUTAGE: Duration = Duration::from_millis(200);

/// A killed process's last lines may still be in its hands: 5 ms of them, more where all cores are busy.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A small file system for a data directory, where the machine lets us have one.
pub struct Disk(PathBuf);

/// Puts one there.
pub fn disk_under(setup: &Setup) -> Option<Disk> {
    let mounted = rustix::process::geteuid().is_root()
        && mount(&["-t", "tmpfs", "-o", "size=256m,mode=0700", "tmpfs"], setup.path());
    mounted.then(|| Disk(setup.path().to_owned()))
}

fn mount(args: &[&str], path: &Path) -> bool {
    let mut command = Command::new("mount");
    command.args(args).arg(path).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn unmount(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status();
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// Disturbs the gateway that stays up.
struct Disturber<'a> {
    server: &'a Server,
    site: &'a Site,
    disk: Option<&'a Disk>,
    swaps: u32,
    start: Instant,
    memory: String,
}

/// Disturbs until told to stop; gives the gateway back.
pub fn disturb(server: Server, site: &Site, disk: Option<Disk>) -> (Server, Option<Disk>) {
    let mut disturber = Disturber {
        server: &server,
        site,
        disk: disk.as_ref(),
        swaps: 0,
        start: Instant::now(),
        memory: String::new(),
    };
    for trouble in Disturber::ALL.iter().cycle() {
        if site.stopped() {
            break;
        }
        trouble(&mut disturber);
        if server.get("/api/health").status != 200 {
            site.tally.wrong("no health");
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    (server, disk)
}

impl Disturber<'_> {
    /// In an order in which each leaves the next something to break.
    const ALL: [fn(&mut Self); 11] = [
        Self::write_memory,
        Self::reload,
        Self::kill_worker,
        Self::full_disk,
        Self::swap_plugins,
        Self::wrong_settings,
        Self::no_descriptors,
        Self::no_sessions,
        Self::broken_plugin,
        Self::read_only_sessions,
        Self::silence,
    ];

    fn reload(&mut self) {
        self.site.tally.fault("reloads");
        self.server.reload();
    }

    fn write_memory(&mut self) {
        let content = format!("memory of {:?}", self.start.elapsed());
        self.site.tally.fault("memory writes");
        write_memory(self.server, self.site, &content);
        self.memory = content;
    }

    /// A configuration with a mistake, then the right one again.
    fn wrong_settings(&mut self) {
        self.site.tally.fault("reloads of wrong settings");
        let path = self.server.data().join("sigorest.toml");
        let right = fs::read(&path).expect("the settings");
        let from = self.server.log_length();
        fs::write(&path, "[limits]\nmax_in_flight = \"none\"\n[breaker\n").expect("wrong settings");
        self.server.reload();
        eventually("the refusal", || {
            self.server.log_from(from).contains("the old ones stay in force").then_some(())
        });
        fs::write(&path, right).expect("right settings");
        self.server.reload();
    }

    /// New versions of a plugin that all ask, and one that fails goes and comes.
    fn swap_plugins(&mut self) {
        let plugins = self.server.data().join("plugins");
        let warming = self.start.elapsed() < budget() / 3;
        if warming && self.swaps < MOST_SWAPS {
            self.swaps += 1;
            self.site.tally.fault("plugins replaced");
            let mut new = fs::read(plugin_file("mammouth")).expect("the plugin");
            // What follows the last section changes nothing but the file's digest.
            new.extend_from_slice(format!("{:04}", self.swaps).as_bytes());
            put(&plugins, "mammouth.so", &new);
        }
        self.site.tally.fault("plugins removed");
        fs::remove_file(plugins.join("faulty.so")).expect("it was there");
        std::thread::park_timeout(OUTAGE);
        let letter = char::from(b'A' + (self.swaps % 26) as u8);
        put(&plugins, "faulty.so", &version(&letter.to_string().repeat(3)));
    }

    /// Half a file where a plugin belongs, then the whole again.
    fn broken_plugin(&mut self) {
        self.site.tally.fault("plugins cut in half");
        let plugins = self.server.data().join("plugins");
        let right = fs::read(plugins.join("mammouth.so")).expect("the plugin");
        put(&plugins, "mammouth.so", &right[..right.len() / 2]);
        std::thread::park_timeout(OUTAGE);
        put(&plugins, "mammouth.so", &right);
    }

    fn kill_worker(&mut self) {
        if let Some(worker) = worker(self.server, "moonshot") {
            self.site.tally.fault("workers killed");
            signal(worker, Signal::KILL);
        }
    }

    /// Connections that say nothing.
    fn silence(&mut self) {
        self.site.tally.fault("silent connections, 64 at once");
        let silent: Vec<_> = (0..64).filter_map(|_| TcpStream::connect(self.server.http()).ok()).collect();
        std::thread::park_timeout(OUTAGE);
        drop(silent);
    }

    /// Does what may cost any answer, undoes it, and waits until all is well again.
    fn outage(&self, kind: &'static str, begin: impl FnOnce() -> bool, end: impl FnOnce()) {
        self.site.breaks();
        if begin() {
            self.site.tally.fault(kind);
            std::thread::park_timeout(OUTAGE);
        }
        end();
        recovered(self.server, self.site);
        self.site.mended();
    }

    fn full_disk(&mut self) {
        let Some(Disk(path)) = self.disk else { return };
        let filler = path.join("filler");
        let fill = || {
            let Ok(mut file) = fs::File::create(&filler) else { return false };
            for size in [1 << 20, 4096, 1] {
                while file.write_all(&vec![b'x'; size]).is_ok() {}
            }
            // In force is what is on disk, whatever the write came to.
            let body = json!({"content": "x".repeat(100_000)}).to_string();
            if self.server.send("PUT", "/api/memory", &[], &body).status == 200 {
                self.site.tally.wrong("a memory write on a full disk");
            }
            in_force(self.server, self.site, &self.memory);
            true
        };
        self.outage("full disks", fill, || fs::remove_file(&filler).expect("it was there"));
    }

    fn read_only_sessions(&mut self) {
        if self.disk.is_none() {
            return;
        }
        let sessions = self.server.data().join(".sessions");
        let source = sessions.display().to_string();
        let bind = || {
            let bound = mount(&["--bind", &source], &sessions);
            bound && mount(&["-o", "remount,bind,ro"], &sessions)
        };
        self.outage("read-only directories", bind, || unmount(&sessions));
    }

    /// Something else stands where the sessions belong.
    fn no_sessions(&mut self) {
        let (sessions, other) = (self.server.data().join(".sessions"), self.server.data().join("other"));
        fs::write(&other, "no directory").expect("a file");
        let exchange = || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, &sessions, CWD, &other, RenameFlags::EXCHANGE).is_ok()
        };
        self.outage("directories that are files", exchange, || assert!(exchange(), "the sessions are back"));
    }

    fn no_descriptors(&mut self) {
        let open =
            || fs::read_dir(format!("/proc/{}/fd", self.server.id())).map_or(0, Iterator::count) as u64;
        // It took all that this process may have, too.
        let all = getrlimit(Resource::Nofile);
        let limit = |most| {
            let pid = Pid::from_raw(i32::try_from(self.server.id()).expect("an id"));
            prlimit(pid, Resource::Nofile, Rlimit { current: most, maximum: all.maximum }).is_ok()
        };
        let back = || assert!(limit(all.maximum), "the limit is back");
        self.outage("descriptors run out", || limit(Some(open())), back);
    }
}

/// Waits until an answer comes as it should.
fn recovered(server: &Server, site: &Site) {
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "x"}]}).to_string();
    eventually("the end of an outage", || {
        let mut caller = Connection::open(server.http());
        site.chats.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let reply = caller.send("POST", "/v1/chat/completions", &[], body.as_bytes());
        (reply.status == 200).then_some(())
    });
}

fn write_memory(server: &Server, site: &Site, content: &str) {
    let reply = server.send("PUT", "/api/memory", &[], &json!({"content": content}).to_string());
    if reply.status != 200 {
        site.tally.wrong(&format!("a memory write: {}", reply.text()));
        return;
    }
    in_force(server, site, content);
    if !fs::read_to_string(server.data().join("memory.json")).is_ok_and(|text| text.contains(content)) {
        site.tally.lost(content.len(), "memory.json is not what was acknowledged");
    }
}

fn in_force(server: &Server, site: &Site, content: &str) {
    let now = server.get("/api/memory").json()["content"].as_str().unwrap_or_default().to_owned();
    if now != content {
        site.tally.lost(content.len(), &format!("the memory is {now:.100?} instead of {content:?}"));
    }
}

/// Kills the other gateway and starts it again, in one directory, until told to stop.
pub fn kill(mut server: Server, site: &Site) -> Server {
    let mut dice = Dice(77);
    for round in 0_u64.. {
        let content = format!("memory {round}");
        write_memory(&server, site, &content);
        let next = Instant::now() + Duration::from_millis(1000 + dice.roll(3000));
        while !site.stopped() && Instant::now() < next {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        if site.stopped() {
            break;
        }
        site.breaks();
        let gentle = round % 3 == 2;
        site.tally.fault(if gentle { "told to stop and started" } else { "killed and started" });
        server.signal(if gentle { Signal::TERM } else { Signal::KILL });
        let until = Instant::now();
        server.ended();
        site.settle(&server, if gentle { Instant::now() } else { until - LAST_LINES });
        server = server.stop().start();
        site.moved(&server);
        in_force(&server, site, &content);
        recovered(&server, site);
        site.mended();
    }
    server
}
