//! The writes of sessions.

use std::collections::HashSet;

use loom::{
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    explore,
    lanes::{Full, Lanes},
};

/// A session's file. It is read, then written: two in it at once would lose what one of them adds.
type File = Mutex<Vec<u32>>;

/// Everything the threads share: a file for each lane, and what was acknowledged.
struct World {
    lanes: Lanes<u32>,
    files: Vec<File>,
    acknowledged: Mutex<Vec<u32>>,
}

impl World {
    fn new(lanes: usize, threads: usize) -> Arc<Self> {
        Arc::new(Self {
            lanes: Lanes::new(lanes, threads, 16),
            files: (0..lanes).map(|_| Mutex::new(Vec::new())).collect(),
            acknowledged: Mutex::new(Vec::new()),
        })
    }

    /// What the host's clerk does: reads, adds all that wait, writes, and only then acknowledges.
    fn clerk(&self) {
        let mut done = None;
        while let Some((lane, jobs)) = self.lanes.next(done) {
            let before = self.files[lane].lock().unwrap().clone();
            let after = [before, jobs.clone()].concat();
            *self.files[lane].lock().unwrap() = after;
            self.acknowledged.lock().unwrap().extend(jobs);
            done = Some(lane);
        }
    }

    /// Hands a write in; a thread that is needed is started.
    fn push(world: &Arc<Self>, lane: usize, write: u32) -> Option<thread::JoinHandle<()>> {
        let needed = world.lanes.push(lane, write).unwrap();
        needed.then(|| Self::start(world))
    }

    fn start(world: &Arc<Self>) -> thread::JoinHandle<()> {
        let world = Arc::clone(world);
        thread::spawn(move || world.clerk())
    }

    /// Every write is acknowledged once and is in its file once.
    fn check(&self, lanes: &[&[u32]]) {
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        assert_eq!(acknowledged.len(), lanes.concat().len(), "{acknowledged:?}");
        for (lane, writes) in lanes.iter().enumerate() {
            let file = self.files[lane].lock().unwrap().clone();
            assert_eq!(file.len(), writes.len(), "lost or doubled: {file:?}");
            let (file, writes): (HashSet<_>, HashSet<_>) =
                (file.into_iter().collect(), writes.iter().copied().collect());
            assert_eq!(file, writes);
        }
    }
}

#[test]
fn no_write_of_a_session_is_lost_or_written_over() {
    explore(|| {
        let world = World::new(1, 2);
        let writer = thread::spawn({
            let world = Arc::clone(&world);
            move || World::push(&world, 0, 1)
        });
        let mut clerks = vec![World::push(&world, 0, 2), World::push(&world, 0, 3)];
        clerks.push(writer.join().unwrap());
        world.lanes.close();
        clerks.into_iter().flatten().for_each(|clerk| clerk.join().unwrap());
        world.check(&[&[1, 2, 3]]);
    });
}

#[test]
fn sessions_of_two_lanes_are_all_written() {
    explore(|| {
        let world = World::new(2, 2);
        let writer = thread::spawn({
            let world = Arc::clone(&world);
            move || World::push(&world, 1, 2)
        });
        let mut clerks = vec![World::push(&world, 0, 1)];
        clerks.push(writer.join().unwrap());
        clerks.push(World::push(&world, 0, 3));
        world.lanes.close();
        clerks.into_iter().flatten().for_each(|clerk| clerk.join().unwrap());
        world.check(&[&[1, 3], &[2]]);
    });
}

#[test]
fn a_thread_that_is_held_up_holds_up_no_other_lane() {
    explore(|| {
        let world = World::new(2, 1);
        assert!(world.lanes.push(0, 1).unwrap());
        let held = world.lanes.next(None).unwrap();
        // The only thread waits for another process's lock; who comes now must be served all the same.
        let early = World::push(&world, 1, 2);
        let more = world.lanes.held_up().then(|| World::start(&world));
        let clerk = early.or(more).or_else(|| World::push(&world, 1, 3)).expect("another thread may run now");
        world.lanes.close();
        clerk.join().unwrap();
        assert!(world.acknowledged.lock().unwrap().contains(&2));
        world.lanes.goes_on();
        assert_eq!(held, (0, vec![1]));
        assert!(world.lanes.next(Some(0)).is_none());
    });
}

#[test]
fn no_more_wait_than_may() {
    explore(|| {
        let lanes = Lanes::new(1, 1, 1);
        assert_eq!(lanes.push(0, 1), Ok(true));
        assert_eq!(lanes.push(0, 2), Err(Full));
        assert_eq!(lanes.next(None), Some((0, vec![1])));
        assert_eq!(lanes.push(0, 3), Ok(false), "who is in the lane takes it");
        assert_eq!(lanes.next(Some(0)), Some((0, vec![3])));
    });
}
