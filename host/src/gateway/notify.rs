//! What a service manager hears: ready, reloading, stopping, and that the server is alive.

use std::{io, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Added to the time to drain before the manager may lose its patience.
const MARGIN: Duration = Duration::from_secs(10);

/// The server serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The server reads its files again.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now, NotifyState::Status("reading the settings and files again")]);
    }
}

/// The server finishes what is open, which takes up to `drain`.
pub(super) fn stopping(drain: Duration) {
    let more = u32::try_from((drain + MARGIN).as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("finishing open requests");
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(more), status]);
}

/// Tells the manager that the server lives, as often as it wants to hear that; for ever.
///
/// Each time a byte goes around through the reactor and a task through the scheduler first. If either stands
/// still, nothing is told, and the manager restarts the server.
pub(super) async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let period = (limit / 3).max(Duration::from_millis(1));
    loop {
        tokio::time::sleep(period).await;
        match tokio::spawn(around()).await {
            Ok(Ok(())) => tell(&[NotifyState::Watchdog]),
            // Without a descriptor for the test, being here is the proof.
            Ok(Err(error)) => {
                tracing::warn!(%error, "the watchdog cannot test the reactor");
                tell(&[NotifyState::Watchdog]);
            }
            Err(_) => return,
        }
    }
}

async fn around() -> io::Result<()> {
    let (mut here, mut there) = UnixStream::pair()?;
    let echo = tokio::spawn(async move {
        let byte = there.read_u8().await?;
        there.write_u8(byte).await
    });
    here.write_u8(1).await?;
    here.read_u8().await?;
    echo.await.map_err(io::Error::other)?
}

/// Without a service manager this does nothing; a manager that does not listen is none of our business.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
