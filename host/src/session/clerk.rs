//! The threads that work on sessions' files, so that nothing that serves requests ever waits for a disk.
//!
//! What came for one session while its lane was busy is done together: one write keeps what all of them add.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::error;

use super::{
    Failure, GROUPS, Key, LOCK_WAIT,
    lanes::{Full, Lanes},
    store::{Lines, Store},
};

/// Threads, unless some wait for other processes: two, so that one slow file stops nobody else.
const THREADS: usize = 2;

/// Most jobs that wait. Each belongs to a request, so the bound on those is reached first; beyond it a
/// request fails at once.
const MAX_WAITING: usize = 16 << 10;

type Answer<T> = oneshot::Sender<Result<T, Arc<Failure>>>;

/// One thing to do with a session's file.
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) work: Work,
}

/// What to do, and whom to tell.
pub(super) enum Work {
    /// Tell what it holds.
    Load(Answer<Lines>),
    /// Add messages.
    Append(Vec<Bytes>, Answer<()>),
}

/// Where jobs are handed in.
pub(super) struct Office {
    pub(super) store: Arc<Store>,
    lanes: Arc<Lanes<Job>>,
}

impl std::fmt::Debug for Office {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Office").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Office {
    pub(super) fn new(dir: PathBuf, data_dir: &Path, swaps: bool) -> Self {
        let store = Arc::new(Store::new(dir, data_dir, swaps));
        Self { store, lanes: Arc::new(Lanes::new(GROUPS, THREADS, MAX_WAITING)) }
    }

    /// Hands a job in. It will be done, whether or not anybody waits for its answer.
    pub(super) fn push(&self, job: Job) -> Result<(), Failure> {
        let lane = job.key.group(GROUPS);
        if self.lanes.push(lane, job).map_err(|Full| Failure::Full)? {
            Clerk { store: Arc::clone(&self.store), lanes: Arc::clone(&self.lanes) }.start();
        }
        Ok(())
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        self.lanes.close();
    }
}

/// One thread.
#[derive(Clone)]
struct Clerk {
    store: Arc<Store>,
    lanes: Arc<Lanes<Job>>,
}

impl Clerk {
    fn start(self) {
        let lanes = Arc::clone(&self.lanes);
        let started = thread::Builder::new().name("sessions".to_owned()).spawn(move || self.run());
        if let Err(error) = started {
            error!(%error, "no thread can be started for sessions; they wait");
            lanes.failed_to_start();
        }
    }

    fn run(&self) {
        let mut done = None;
        while let Some((lane, jobs)) = self.lanes.next(done) {
            // One that panics fails its own jobs: their answers are dropped.
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.work(lane, jobs)));
            if worked.is_err() {
                error!("work on sessions was aborted");
            }
            done = Some(lane);
        }
    }

    fn work(&self, lane: usize, jobs: Vec<Job>) {
        let (mut loads, mut appends) = (Vec::new(), Vec::new());
        for Job { key, work } in jobs {
            match work {
                Work::Load(answer) => loads.push((key, answer)),
                Work::Append(new, answer) => appends.push((key, new, answer)),
            }
        }
        for (key, answer) in loads {
            // Whoever left needs no answer.
            let _ = answer.send(self.store.load(&key).map_err(Arc::new));
        }
        if !appends.is_empty() {
            self.append(lane, appends);
        }
    }

    fn append(&self, lane: usize, mut appends: Vec<(Key, Vec<Bytes>, Answer<()>)>) {
        // Stable: what one session was given stays in its order.
        appends.sort_by(|a, b| a.0.cmp(&b.0));
        let held_up = |lock: &mut crate::files::OpenLock| {
            if self.lanes.held_up() {
                self.clone().start();
            }
            let taken = lock.take(LOCK_WAIT);
            self.lanes.goes_on();
            taken
        };
        let mut answers = Vec::with_capacity(appends.len());
        let locked = self.store.locked(lane, held_up, || {
            for group in appends.chunk_by_mut(|a, b| a.0 == b.0) {
                let new = group.iter_mut().flat_map(|(_, new, _)| std::mem::take(new)).collect();
                let done = self.store.append(lane, &group[0].0, new).map_err(Arc::new);
                answers.extend(std::iter::repeat_n(done, group.len()));
            }
        });
        let refused = locked.err().map(Arc::new);
        for (at, (_, _, answer)) in appends.into_iter().enumerate() {
            let done = match (&refused, answers.get(at)) {
                (None, Some(Ok(()))) => Ok(()),
                (None, Some(Err(failed))) | (Some(failed), _) => Err(Arc::clone(failed)),
                (None, None) => Err(Arc::new(Failure::Aborted)),
            };
            let _ = answer.send(done);
        }
    }
}
