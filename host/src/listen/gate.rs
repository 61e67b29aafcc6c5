//! How many connections there may be, in all and of one peer, and warnings that do not flood the log.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::config::Limits;

/// Connections beyond `max_in_flight`: idle ones, and those of health checks while all else is busy.
const SPARE: usize = 1024;

/// Counts the connections that are open.
#[derive(Debug, Default)]
pub(super) struct Gate {
    total: AtomicUsize,
    /// Of each peer that is not loopback.
    peers: Mutex<HashMap<IpAddr, usize>>,
}

/// A place for one connection; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    peer: Option<IpAddr>,
}

impl Gate {
    /// Takes a place; `None` if there is none for this peer.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr, limits: &Limits) -> Option<Place> {
        // Taken first; dropped again on refusal.
        let before = self.total.fetch_add(1, Relaxed);
        let mut place = Place { gate: Arc::clone(self), peer: None };
        if before >= limits.max_in_flight.saturating_add(SPARE) {
            return None;
        }
        if !peer.is_loopback() {
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            let count = peers.entry(peer).or_default();
            if *count >= limits.max_connections_per_peer {
                return None;
            }
            *count += 1;
            place.peer = Some(peer);
        }
        Some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.total.fetch_sub(1, Relaxed);
        let Some(peer) = self.peer else { return };
        let mut peers = self.gate.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&peer);
            }
        }
    }
}

/// Lets one warning a second through and counts the others.
#[derive(Debug)]
pub(super) struct Hush {
    start: Instant,
    /// Milliseconds after `start` from which on the next may pass.
    next: AtomicU64,
    held: AtomicU64,
}

impl Hush {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), next: AtomicU64::new(0), held: AtomicU64::new(0) }
    }

    /// How many events this warning stands for; `None` if it must not be given now.
    pub(super) fn pass(&self) -> Option<u64> {
        let now = self.start.elapsed().as_millis() as u64;
        let next = self.next.load(Relaxed);
        if now < next || self.next.compare_exchange(next, now + 1000, Relaxed, Relaxed).is_err() {
            self.held.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.held.swap(0, Relaxed) + 1)
    }
}
