//! The queue of work on files: a lane for each group of sessions, and at most one thread in a lane.
//!
//! What comes while a lane is worked on waits there and is taken all at once. That is what keeps two writes
//! of one session apart, and what lets them share one write. Everything here is in memory and short.

use std::{collections::VecDeque, mem, sync::PoisonError};

use crate::sync::{Condvar, Mutex, MutexGuard};

/// Jobs in lanes. Threads come as they are needed, never more than [`Lanes::new`] was told, but for those
/// that are held up.
pub struct Lanes<J> {
    state: Mutex<State<J>>,
    work: Condvar,
}

struct State<J> {
    lanes: Vec<Lane<J>>,
    /// Lanes with jobs that no thread is in.
    ready: VecDeque<usize>,
    /// Jobs that wait, and how many may.
    waiting: usize,
    most: usize,
    /// Threads that there may be, that there are, and that have nothing to do.
    may_run: usize,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Lane<J> {
    jobs: Vec<J>,
    taken: bool,
}

/// Too many jobs wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl<J> Lanes<J> {
    /// `lanes` lanes, at most `threads` threads, at most `most` jobs that wait.
    pub fn new(lanes: usize, threads: usize, most: usize) -> Self {
        let lanes = (0..lanes).map(|_| Lane { jobs: Vec::new(), taken: false }).collect();
        let state = State {
            lanes,
            ready: VecDeque::new(),
            waiting: 0,
            most,
            may_run: threads,
            threads: 0,
            idle: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), work: Condvar::new() }
    }

    /// Puts a job at the end of a lane. Tells whether one more thread is needed; it counts already, and
    /// [`Lanes::failed_to_start`] takes it back.
    ///
    /// # Errors
    /// Too many wait.
    pub fn push(&self, lane: usize, job: J) -> Result<bool, Full> {
        let mut state = self.lock();
        if state.waiting >= state.most {
            return Err(Full);
        }
        state.waiting += 1;
        state.lanes[lane].jobs.push(job);
        if state.lanes[lane].taken || state.lanes[lane].jobs.len() > 1 {
            // Who is in the lane, or who was called for its first job, takes this one too.
            return Ok(false);
        }
        state.ready.push_back(lane);
        Ok(self.call_a_thread(&mut state))
    }

    /// Leaves the lane that was `done` and waits for the next one with jobs. All that wait in it are the
    /// caller's now. `None` when the lanes are closed and nothing waits: the thread ends.
    pub fn next(&self, done: Option<usize>) -> Option<(usize, Vec<J>)> {
        let mut state = self.lock();
        if let Some(lane) = done {
            state.lanes[lane].taken = false;
            if !state.lanes[lane].jobs.is_empty() {
                state.ready.push_back(lane);
            }
        }
        loop {
            if let Some(lane) = state.ready.pop_front() {
                let jobs = mem::take(&mut state.lanes[lane].jobs);
                state.lanes[lane].taken = true;
                state.waiting -= jobs.len();
                return Some((lane, jobs));
            }
            if state.closed || state.threads > state.may_run {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// A thread waits for something that is not a disk and may take long; another one may run meanwhile.
    /// Tells whether one is needed now.
    pub fn held_up(&self) -> bool {
        let mut state = self.lock();
        state.may_run += 1;
        !state.ready.is_empty() && self.call_a_thread(&mut state)
    }

    /// It goes on.
    pub fn goes_on(&self) {
        self.lock().may_run -= 1;
    }

    /// A thread that was needed could not be started; the next job asks for one again.
    pub fn failed_to_start(&self) {
        self.lock().threads -= 1;
    }

    /// Threads end when nothing waits.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
    }

    fn call_a_thread(&self, state: &mut State<J>) -> bool {
        if state.idle > 0 {
            self.work.notify_one();
            return false;
        }
        let more = state.threads < state.may_run;
        state.threads += usize::from(more);
        more
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        // No code but this runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
