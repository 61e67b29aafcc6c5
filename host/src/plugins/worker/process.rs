//! Inside a worker process: `plugin-worker`.
//!
//! Standard input is the socket to the gateway, standard output the plugin's bytes. Several threads wait
//! for packets; each takes one, steps the exchange that it is for, and answers.

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use provider_api::{
    Fault, FaultKind,
    exchange::{self, Instance},
    loader::{self, Module},
};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags},
    time::{ClockId, clock_gettime},
};

use super::{
    sandbox,
    wire::{self, Head, Op, PACKET, Pieces, Reader, Recorder, Writer},
};

/// Threads that step exchanges. One that hangs leaves the others to work until the gateway ends all.
const THREADS: usize = 4;

/// Exchanges that were left before a thread came to begin them.
const MAX_LEFT: usize = 1024;

/// Longest text that is logged.
const MAX_LOG_BYTES: usize = 4096;

/// Whether this command line is that of a worker process, for programs that have no commands.
pub fn is_wanted(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let words: Vec<OsString> = arguments.into_iter().skip(1).take(4).collect();
    words.len() == 3 && words[0] == super::COMMAND && words[1] == "--"
}

/// Runs a worker; returns only if it cannot start.
///
/// # Errors
/// It was not started by the gateway, or cannot be confined: then it must not run anything.
pub fn run() -> Result<(), String> {
    let failed = |error: io::Error| format!("a worker process is started by the gateway only: {error}");
    let (socket, code) = channel().map_err(failed)?;
    sandbox::prepare().map_err(|error| format!("the worker process cannot be confined: {error}"))?;
    let socket = Arc::new(Socket(socket));
    let mut packet = vec![0; PACKET];
    let config = socket.message(&mut packet).map_err(failed)?;
    let config = Reader(&config).bytes().unwrap_or_default().to_owned();
    let instance = match construct(&code, &config, &socket) {
        Ok(instance) => instance,
        Err(fault) => {
            socket.answer(wire::START, Duration::ZERO, &Err(fault));
            // The gateway ends this process when it has read that; an end before would be all that it sees.
            socket.receive(&mut packet);
            return Ok(());
        }
    };
    drop(code);
    let worker = Arc::new(Worker { socket, instance, table: Mutex::default() });
    for number in 1..THREADS {
        let worker = Arc::clone(&worker);
        let thread = std::thread::Builder::new().name(format!("step-{number}"));
        thread.spawn(move || worker.serve()).map_err(failed)?;
    }
    worker.socket.answer(wire::START, Duration::ZERO, &Ok(()));
    worker.serve();
    Ok(())
}

/// The socket and the plugin's bytes; the standard streams lead nowhere from here on.
fn channel() -> io::Result<(OwnedFd, File)> {
    loader::close_inherited(3);
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let code = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nowhere)?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok((socket, code))
}

/// Maps the plugin and makes the provider, each under the narrowest rules that let it happen.
fn construct(code: &File, config: &[u8], socket: &Arc<Socket>) -> Result<Instance, Fault> {
    let internal = |text: String| Fault::new(FaultKind::INTERNAL, text);
    let confined =
        |error: sandbox::Error| internal(format!("its worker process cannot be confined: {error}"));
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(code.metadata()?.len()).unwrap_or(0)];
        code.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| internal(format!("its bytes cannot be read: {error}")))?;
    // Mapping a library runs its initialisers: even that happens without network and files to write.
    sandbox::enter_loading().map_err(confined)?;
    let module: Module = loader::open(&bytes).map_err(|refused| internal(refused.message))?;
    drop(bytes);
    sandbox::enter_running().map_err(confined)?;
    let log = Arc::clone(socket);
    module.create(config, Box::new(move |level, text| log.say(level, text)))
}

/// The socket to the gateway; any thread may use it, packets stay whole.
struct Socket(OwnedFd);

impl Socket {
    /// Waits for a packet. If the gateway is gone, so is this process.
    fn receive<'p>(&self, packet: &'p mut [u8]) -> &'p [u8] {
        loop {
            match rustix::net::recv(&self.0, &mut *packet, RecvFlags::empty()) {
                Ok((_, len)) if len > 0 => return &packet[..len],
                Err(Errno::INTR) => {}
                _ => std::process::exit(0),
            }
        }
    }

    /// Waits for a whole message; for the start, when one thread reads.
    fn message(&self, packet: &mut [u8]) -> io::Result<Vec<u8>> {
        let mut pieces = Pieces::default();
        loop {
            let (head, piece) = Head::split(self.receive(packet)).ok_or(io::ErrorKind::InvalidData)?;
            if let Some(message) = pieces.add(head, piece).map_err(io::Error::other)? {
                return Ok(message);
            }
        }
    }

    fn send(&self, id: u64, message: &[u8]) {
        for (head, piece) in wire::packets(id, message) {
            let head = head.bytes();
            let parts = [io::IoSlice::new(&head), io::IoSlice::new(piece)];
            loop {
                let mut none = SendAncillaryBuffer::default();
                match rustix::net::sendmsg(&self.0, &parts, &mut none, SendFlags::NOSIGNAL) {
                    Err(Errno::INTR) => {}
                    // The kernel is out of buffers for a moment.
                    Err(Errno::NOBUFS | Errno::AGAIN) => std::thread::yield_now(),
                    Err(_) => std::process::exit(0),
                    Ok(_) => break,
                }
            }
        }
    }

    fn answer(&self, id: u64, time: Duration, outcome: &Result<(), Fault>) {
        let mut writer = Writer::default();
        writer.stepped(time, outcome);
        self.send(id, &writer.0);
    }

    fn say(&self, level: u32, text: &str) {
        let most = text.len().min(MAX_LOG_BYTES);
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let mut writer = Writer::default();
        writer.u32(level).bytes(&text.as_bytes()[..end]);
        self.send(wire::LOG, &writer.0);
    }
}

/// What the threads share.
struct Worker {
    socket: Arc<Socket>,
    instance: Instance,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    runs: HashMap<u64, Arc<Mutex<Run>>>,
    /// That an exchange was left may overtake what begins it.
    left: VecDeque<u64>,
}

/// One exchange.
#[derive(Default)]
struct Run {
    pieces: Pieces,
    exchange: Option<exchange::Exchange>,
    last_id: u64,
    done: bool,
}

impl Worker {
    fn serve(&self) {
        let mut packet = vec![0; PACKET];
        let mut writer = Writer::default();
        loop {
            // The gateway is trusted; a packet that is none would be a fault of this program.
            let Some((head, piece)) = Head::split(self.socket.receive(&mut packet)) else { return };
            if head.total == 0 {
                self.leave(head.id);
                continue;
            }
            let Some(run) = self.run(head.id) else { continue };
            {
                let mut run = run.lock().unwrap_or_else(PoisonError::into_inner);
                if head.is_whole(piece) {
                    run.work(&self.instance, piece, &mut writer);
                } else {
                    match run.pieces.add(head, piece) {
                        Ok(None) => continue,
                        Ok(Some(message)) => run.work(&self.instance, &message, &mut writer),
                        Err(error) => {
                            writer.stepped(Duration::ZERO, &Err(internal(format!("no memory: {error}"))));
                        }
                    }
                }
            }
            self.socket.send(head.id, &writer.0);
            writer.0.clear();
            // A large answer is rare; its memory is not kept for the small ones.
            writer.0.shrink_to(PACKET);
        }
    }

    fn run(&self, id: u64) -> Option<Arc<Mutex<Run>>> {
        let mut table = self.table();
        if let Some(run) = table.runs.get(&id) {
            return Some(Arc::clone(run));
        }
        if table.left.contains(&id) {
            return None;
        }
        Some(Arc::clone(table.runs.entry(id).or_default()))
    }

    fn leave(&self, id: u64) {
        let mut table = self.table();
        let run = table.runs.remove(&id);
        if run.is_none() {
            if table.left.len() == MAX_LEFT {
                table.left.pop_front();
            }
            table.left.push_back(id);
        }
        // What a plugin does when its exchange goes must not hold the table.
        drop(table);
        drop(run);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this thread used of a processor so far; a call that costs little beside a message.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn internal(text: String) -> Fault {
    Fault::new(FaultKind::INTERNAL, text)
}

impl Run {
    /// Does what a message says, in order, up to the first fault.
    fn work(&mut self, instance: &Instance, message: &[u8], writer: &mut Writer) {
        let mut reader = Reader(message);
        while let Some(goes_on) = reader.op(|op| self.one(instance, &op, writer)) {
            if !goes_on {
                break;
            }
        }
    }

    fn one(&mut self, instance: &Instance, op: &Op<'_>, writer: &mut Writer) -> bool {
        let before = processor_time();
        let used = || processor_time().saturating_sub(before);
        let input = match op {
            Op::Begin(begin) => {
                return match instance.begin(begin) {
                    Ok(exchange) => {
                        self.exchange = Some(exchange);
                        true
                    }
                    Err(fault) => {
                        writer.stepped(used(), &Err(fault));
                        false
                    }
                };
            }
            Op::Step(input) => *input,
        };
        let start = writer.0.len();
        let (last_id, done) = (&mut self.last_id, &mut self.done);
        let mut recorder = Recorder { writer, last_id, done, over: false };
        let mut outcome = match &mut self.exchange {
            Some(exchange) => exchange.step(input, &mut recorder),
            None => Err(internal("the exchange was not begun".into())),
        };
        if recorder.over {
            writer.0.truncate(start);
            outcome = Err(internal("the plugin hands out more in a step than an answer may hold".into()));
        }
        writer.stepped(used(), &outcome);
        outcome.is_ok()
    }
}
