//! Keeps a plugin's panics on its side: every entry runs under [`guard`].

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, Once, PoisonError, Weak},
};

use abi_stable::std_types::{RResult, RSlice};

use crate::{
    abi::{AbiFault, FaultKind, HOST_EXT_PANIC, HostBox},
    error::Fault,
};

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static GUARDED: Cell<u32> = const { Cell::new(0) };
}

/// The hosts of this copy's providers, for panics in threads of their own.
static HOSTS: Mutex<Vec<Weak<HostBox>>> = Mutex::new(Vec::new());

/// Lets a host hear of panics outside of entries as long as it lives.
pub(crate) fn listen(host: &Arc<HostBox>) {
    let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    hosts.retain(|known| known.strong_count() > 0);
    hosts.push(Arc::downgrade(host));
}

/// Tells a host of a panic that no exchange can answer with.
pub(crate) fn report(host: &HostBox, text: &str) {
    host.ext(HOST_EXT_PANIC, RSlice::from_slice(text.as_bytes()));
}

/// Runs what an exchange or a provider does when it is dropped; nobody waits for a fault of it.
pub(crate) fn guard_drop(host: &HostBox, entry: impl FnOnce()) {
    let dropped = guard(|| {
        entry();
        Ok(())
    });
    if let RResult::RErr(fault) = dropped {
        report(host, fault.message.as_str());
    }
}

/// Keeps a panic's message and place for the fault that it becomes; nothing is printed. Panics outside
/// of an entry, as those of a test that runs a provider in its own process, are reported as before, and to
/// a host too.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let guarded = GUARDED.get() > 0;
            let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
            let payload = info.payload();
            let text = payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "a panic without a message".into());
            let text = format!("{text} at {place}");
            if guarded {
                LAST_PANIC.with(|last| *last.borrow_mut() = Some(text));
                return;
            }
            before(info);
            // Never waits: the panic may have come from under this very lock.
            let host = HOSTS.try_lock().ok().and_then(|hosts| hosts.iter().find_map(Weak::upgrade));
            if let Some(host) = host {
                report(&host, &text);
            }
        }));
    });
}

/// Runs an entry of the plugin; a panic becomes a fault.
pub(crate) fn guard<T>(entry: impl FnOnce() -> Result<T, Fault>) -> RResult<T, AbiFault> {
    GUARDED.set(GUARDED.get() + 1);
    let result = caught(entry);
    GUARDED.set(GUARDED.get() - 1);
    result
}

fn caught<T>(entry: impl FnOnce() -> Result<T, Fault>) -> RResult<T, AbiFault> {
    match catch_unwind(AssertUnwindSafe(entry)) {
        Ok(Ok(value)) => RResult::ROk(value),
        Ok(Err(fault)) => RResult::RErr(fault.into()),
        Err(payload) => {
            let text = LAST_PANIC.with(|last| last.borrow_mut().take()).unwrap_or_else(|| "a panic".into());
            // Dropping the payload can panic as well: only now, so that the first panic's text is kept.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(payload)));
            RResult::RErr(Fault::new(FaultKind::PANIC, text).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Late;

    impl Drop for Late {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }

    #[test]
    fn panics_become_faults_that_say_what_and_where() {
        install_hook();
        let text = |entry: fn() -> Result<(), Fault>| match guard(entry) {
            RResult::RErr(fault) => fault.message.to_string(),
            RResult::ROk(()) => panic!("a fault is due"),
        };
        assert!(text(|| panic!("as asked")).starts_with("as asked at "));
        assert!(text(|| std::panic::panic_any(Late)).contains("without a message"));
    }
}
