//! The streams of HTTP/2 connections: each a task that ends when its reader takes nothing for too long.
//!
//! A stream can stall while its connection lives: the client answers pings and withholds the stream's
//! window. Nothing polls the answer's body then, so the body cannot notice.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;

use super::answer::gave_bytes;

/// Spawns the streams of one connection.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) tasks: TaskTracker,
    pub(super) stall: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let watched = Watch { stream: Box::pin(stream), stall: self.stall, gave: false, timer: None };
        self.tasks.spawn(watched);
    }
}

struct Watch<F> {
    stream: Pin<Box<F>>,
    stall: Duration,
    /// The body gave bytes and was not asked for more: they wait for the client.
    gave: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Watch<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (polled, gave) = gave_bytes(|| self.stream.as_mut().poll(cx));
        if polled.is_ready() {
            return Poll::Ready(());
        }
        // Bytes went out in this poll, or none were there: either way the clock starts anew.
        if let Some(gave) = gave {
            self.gave = gave;
            self.timer = None;
        }
        if !self.gave {
            return Poll::Pending;
        }
        let stall = self.stall;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        timer.as_mut().poll(cx).map(|()| tracing::debug!("a stream was dropped: its reader took nothing"))
    }
}
