//! tokio's `Notify` as far as the host uses it, on loom's: who was made before the word gets it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use loom::sync::Mutex;

/// Tells those who wait.
#[derive(Debug, Default)]
pub(crate) struct Notify(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: usize,
    wakers: Vec<Waker>,
}

/// Waits for the word.
pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    made: usize,
}

impl Notify {
    pub(crate) fn notify_waiters(&self) {
        let wakers = {
            let mut state = self.0.lock().unwrap();
            state.told += 1;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified { notify: self, made: self.0.lock().unwrap().told }
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.notify.0.lock().unwrap();
        if state.told != self.made {
            return Poll::Ready(());
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}
