//! The gateway's end of the socket to one worker process: many exchanges ask, one task reads.
//!
//! The socket keeps packets apart (`SOCK_SEQPACKET`), so that all threads of the worker may wait on it
//! and the one that wakes has a packet of its own: a thread that hangs in a plugin holds up nobody else.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    os::fd::OwnedFd,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{SendAncillaryBuffer, SendFlags},
};
use tokio::{
    io::Interest,
    net::UnixDatagram,
    sync::{Notify, oneshot},
};

use super::wire::{self, Head, MAX_REPLY, PACKET};

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// The worker was gone before the question could be put.
    NotAsked,
    /// The worker ended, or was ended, with the question open.
    Unanswered,
}

/// A socket to a worker.
pub(super) struct Link {
    /// The worker's process.
    pub(super) pid: u32,
    /// To the system, a socket of packets is one of datagrams that hears when the other end closes.
    socket: UnixDatagram,
    next_id: AtomicU64,
    /// Who waits for which answer. At most one question an exchange, so the requests in flight bound it.
    waiting: Mutex<Waiting>,
    /// Exchanges that were left while the socket was full.
    left: Mutex<Vec<u64>>,
    /// Why the worker has to end, or ended.
    end: OnceLock<String>,
    condemned: Notify,
}

#[derive(Default)]
struct Waiting {
    ended: bool,
    slots: HashMap<u64, Slot>,
}

struct Slot {
    reply: Vec<u8>,
    waits: oneshot::Sender<Vec<u8>>,
}

impl Link {
    /// A link over the gateway's end of a pair; within a runtime.
    pub(super) fn new(socket: OwnedFd, pid: u32) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            pid,
            socket: UnixDatagram::from_std(socket.into())?,
            next_id: AtomicU64::new(wire::START + 1),
            waiting: Mutex::default(),
            left: Mutex::default(),
            end: OnceLock::new(),
            condemned: Notify::new(),
        })
    }

    /// An id for a new exchange.
    pub(super) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a message and waits for the answer, but not longer than `limit`: then the worker is
    /// condemned. An exchange asks one thing at a time.
    pub(super) async fn ask(&self, id: u64, message: &[u8], limit: Duration) -> Result<Vec<u8>, Lost> {
        let (waits, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.ended {
                return Err(Lost::NotAsked);
            }
            waiting.slots.insert(id, Slot { reply: Vec::new(), waits });
        }
        let asking = async {
            if self.send(id, message).await.is_err() {
                // Nobody else needs to find out; the reading task will see it, too.
                let mut waiting = self.waiting();
                waiting.ended = true;
                waiting.slots.remove(&id);
                return Err(Lost::NotAsked);
            }
            answer.await.map_err(|_| Lost::Unanswered)
        };
        tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| {
            self.condemn(format!("a step took longer than {} s", limit.as_secs()));
            Err(Lost::Unanswered)
        })
    }

    /// Tells the worker that nobody waits for an exchange any more. Never blocks: what the socket does
    /// not take is told with the next message.
    pub(super) fn leave(&self, id: u64) {
        self.waiting().slots.remove(&id);
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.tell_left();
    }

    fn tell_left(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(id) = left.last() {
            let head = Head { id: *id, total: 0, offset: 0 };
            match self.try_send(head, &[]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => left.pop(),
            };
        }
    }

    async fn send(&self, id: u64, message: &[u8]) -> io::Result<()> {
        self.tell_left();
        for (head, piece) in wire::packets(id, message) {
            while let Err(error) = self.try_send(head, piece) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Err(error);
                }
                self.socket.writable().await?;
            }
        }
        Ok(())
    }

    fn try_send(&self, head: Head, piece: &[u8]) -> io::Result<()> {
        let (head, flags) = (head.bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let parts = [IoSlice::new(&head), IoSlice::new(piece)];
        self.socket.try_io(Interest::WRITABLE, || {
            let mut none = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.socket, &parts, &mut none, flags) {
                // The kernel is out of buffers for a moment: as if the socket were full.
                Err(Errno::NOBUFS) => Err(Errno::AGAIN.into()),
                sent => Ok(sent.map(drop)?),
            }
        })
    }

    /// Hands out answers until the worker ends or is condemned; says what it logs to `log`.
    pub(super) async fn serve(&self, log: impl Fn(u32, &str)) {
        let reading = async {
            let mut packet = vec![0; PACKET];
            loop {
                match self.socket.try_recv(&mut packet) {
                    Ok(len) if len > 0 => {
                        if !self.receive(&packet[..len], &log) {
                            self.condemn("it answered in a form that nobody knows".into());
                            return;
                        }
                        // Others of this thread may have work with what came.
                        tokio::task::coop::consume_budget().await;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.tell_left();
                        if self.socket.readable().await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        };
        tokio::select! {
            // Both branches end the link: what one leaves undone, nobody waits for.
            () = reading => {}
            () = self.condemned.notified() => {}
        }
    }

    /// Takes a packet in; false if it is none.
    fn receive(&self, packet: &[u8], log: &impl Fn(u32, &str)) -> bool {
        let Some((head, piece)) = Head::split(packet) else { return false };
        if head.id == wire::LOG {
            let mut reader = wire::Reader(piece);
            return match (reader.u32(), reader.text()) {
                (Some(level), Some(text)) => {
                    log(level, text);
                    true
                }
                _ => false,
            };
        }
        let mut waiting = self.waiting();
        // Nobody may wait any more.
        let Some(slot) = waiting.slots.get_mut(&head.id) else { return true };
        // One thread of the worker answers, so the pieces come in order.
        let total = usize::try_from(head.total).unwrap_or(usize::MAX);
        if head.offset as usize != slot.reply.len() || total > MAX_REPLY || piece.is_empty() {
            return false;
        }
        if slot.reply.is_empty() && head.is_whole(piece) {
            slot.reply.reserve_exact(piece.len());
        }
        slot.reply.extend_from_slice(piece);
        if slot.reply.len() >= total
            && let Some(slot) = waiting.slots.remove(&head.id)
        {
            let _ = slot.waits.send(slot.reply);
        }
        true
    }

    /// Says why the worker must end; the first reason counts.
    pub(super) fn condemn(&self, why: String) {
        let _ = self.end.set(why);
        self.condemned.notify_one();
    }

    /// Why the worker ended.
    pub(super) fn end(&self) -> &str {
        self.end.get().map_or("it is gone", String::as_str)
    }

    /// Whether the worker had to be ended, or ended, for a reason that is known already.
    pub(super) fn is_condemned(&self) -> bool {
        self.end.get().is_some()
    }

    /// Whether the worker ended.
    pub(super) fn has_ended(&self) -> bool {
        self.waiting().ended
    }

    /// Lets everybody go who waits; tells them this, unless there was a reason before. Gives their
    /// number.
    pub(super) fn close(&self, why: String) -> usize {
        let _ = self.end.set(why);
        let mut waiting = self.waiting();
        waiting.ended = true;
        std::mem::take(&mut waiting.slots).len()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
