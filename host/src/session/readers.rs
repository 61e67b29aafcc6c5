//! Who else opens the sessions' files: a text that somebody may be reading is not written over.

use std::{
    collections::HashSet,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// Most names that are remembered.
const MAX_NAMES: usize = 4096;

/// The names of the sessions' files that were opened.
#[derive(Debug)]
pub(super) struct Readers(Mutex<State>);

#[derive(Debug)]
struct State {
    events: Option<OwnedFd>,
    watched: bool,
    opened: HashSet<String>,
    /// Moves on when something may have been missed: what stood there before counts as opened.
    since: u64,
}

impl Readers {
    pub(super) fn new() -> Self {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        Self(Mutex::new(State { events, watched: false, opened: HashSet::new(), since: 0 }))
    }

    /// Notes what was opened in `dir` up to now. What is put there from now on can be asked for with the
    /// number; there is none if nothing can be told.
    pub(super) fn look(&self, dir: &Path) -> Option<u64> {
        let mut state = self.lock();
        let State { events, watched, opened, since } = &mut *state;
        let events = events.as_ref()?;
        let mut missed = false;
        if !*watched {
            let which = WatchFlags::OPEN | WatchFlags::MOVE_SELF;
            *watched = inotify::add_watch(events, dir, which).is_ok();
            missed = true;
        }
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(events, &mut room);
        while let Ok(event) = reader.next() {
            let kind = event.events();
            if kind.intersects(ReadFlags::IGNORED | ReadFlags::MOVE_SELF) {
                // Another directory will stand there.
                *watched = false;
            }
            missed |= !*watched || kind.contains(ReadFlags::QUEUE_OVERFLOW);
            if let Some(name) = event.file_name().and_then(|name| name.to_str().ok()) {
                opened.insert(name.to_owned());
            }
        }
        if missed || opened.len() > MAX_NAMES {
            opened.clear();
            *since += 1;
        }
        watched.then_some(*since)
    }

    /// Whether somebody may have opened the file that was put under this name at `since`.
    pub(super) fn opened(&self, name: &str, since: u64) -> bool {
        let state = self.lock();
        state.since != since || state.opened.contains(name)
    }

    /// Forgets that it was opened: another file stands there.
    pub(super) fn forget(&self, name: &str) {
        self.lock().opened.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
