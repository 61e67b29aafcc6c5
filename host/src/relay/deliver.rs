//! Sending a stream to its caller: events as they are ready, heartbeats in silence, an error event if it
//! breaks off, and the one entry in the books whatever happens.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use provider_api::{Fault, FaultKind};
use tokio::time::{Instant, Sleep};

use super::{Next, Run, ledger::Ledger};
use crate::{
    body::{Body, Yielder},
    breaker::Breaker,
    dialect::events::{DONE, HEARTBEAT},
    drain::Drain,
    error::Error,
    limits::Permit,
    session::{Key, Sessions},
};

/// What a stream in flight holds on to.
pub struct Delivery {
    /// The run, past its first event.
    pub run: Box<Run>,
    /// The entry in the books; closed when this is dropped at the latest.
    pub ledger: Ledger,
    /// The place among the requests in flight.
    pub permit: Permit,
    /// The end of the service ends the stream.
    pub drain: Arc<Drain>,
    /// Where a failure of the upstream is counted.
    pub breaker: Arc<Breaker>,
    /// Longest silence of the upstream.
    pub idle: Duration,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Where the conversation is stored.
    pub session: Option<Storing>,
}

/// Where and what to store when the answer is complete.
pub struct Storing {
    /// All sessions.
    pub sessions: Sessions,
    /// This one.
    pub key: Key,
    /// The request's new messages.
    pub messages: Vec<Bytes>,
}

impl Storing {
    /// Stores the request's messages with the answer; what cannot be stored is logged.
    pub async fn store(mut self, answer: Option<Bytes>) {
        let Some(answer) = answer else { return };
        self.messages.push(answer);
        if let Err(error) = self.sessions.append(&self.key, self.messages).await {
            tracing::error!(why = %error.message, "the session was not stored");
        }
    }
}

impl Delivery {
    /// The body that sends it.
    pub fn body(self) -> Body {
        Body::stream(move |out| self.send(out))
    }

    async fn send(mut self, mut out: Yielder) -> io::Result<()> {
        let drain = Arc::clone(&self.drain);
        let mut time_is_up = std::pin::pin!(drain.time_is_up());
        let mut alarm = std::pin::pin!(tokio::time::sleep(self.heartbeat.min(self.idle)));
        let fault = loop {
            let next = tokio::select! {
                biased;
                // What it holds back when it is dropped was not handed out, and follows below.
                next = self.next(&mut alarm, &mut out) => next,
                () = &mut time_is_up => return Box::pin(self.cut(out)).await,
            };
            match next {
                Ok(Next::More(piece)) => out.send(piece).await,
                Ok(Next::Last(piece)) => {
                    self.finish(&mut out, piece).await;
                    return Ok(());
                }
                Err(fault) => break fault,
            }
        };
        self.ledger.usage(self.run.outbox.usage, self.run.outbox.chunks);
        self.breaker.report_failure();
        let (provider, channel) = (&self.run.outbox.provider, &self.run.outbox.channel);
        provider.failed(channel, &fault);
        let error = Error::from_fault(&fault, provider, channel);
        tracing::warn!(id = %self.ledger.id(), provider = %provider.name, why = %fault.message, "a stream broke off");
        self.ledger.fail(error.code.clone());
        out.send(Bytes::from(format!("data: {}\n\n", error.json()))).await;
        Ok(())
    }

    /// Ends the stream because the server ends.
    async fn cut(mut self, mut out: Yielder) -> io::Result<()> {
        self.ledger.usage(self.run.outbox.usage, self.run.outbox.chunks);
        let error = Drain::broken_off();
        self.ledger.fail(error.code.clone());
        let mut last = BytesMut::from(&*self.run.outbox.take());
        last.extend_from_slice(format!("data: {}\n\n", error.json()).as_bytes());
        out.send(last.freeze()).await;
        Ok(())
    }

    /// Waits for what comes next with heartbeats, as long as the upstream may be silent. `alarm` is never due
    /// later than something has to be done; that it is due too early costs less than to set it for each event.
    async fn next(&mut self, alarm: &mut Pin<&mut Sleep>, out: &mut Yielder) -> Result<Next, Fault> {
        let (idle, heartbeat) = (self.idle, self.heartbeat.max(Duration::from_millis(1)));
        let activity = self.run.activity();
        // What was not asked for cannot be late: a slow caller is no silence of the upstream.
        activity.note();
        let mut spoke = Instant::now();
        // Kept over the heartbeats: a step that is under way must be seen to its end.
        let mut next = std::pin::pin!(self.run.next());
        loop {
            tokio::select! {
                biased;
                next = &mut next => return next,
                () = &mut *alarm => {}
            }
            let silence = activity.silence();
            if silence >= idle {
                let text = format!("the upstream was silent for {} s", idle.as_secs());
                return Err(Fault::new(FaultKind::TIMEOUT, text));
            }
            if spoke.elapsed() >= heartbeat {
                out.send(Bytes::from_static(HEARTBEAT)).await;
                spoke = Instant::now();
            }
            alarm.as_mut().reset((spoke + heartbeat).min(Instant::now() + (idle - silence)));
        }
    }

    async fn finish(&mut self, out: &mut Yielder, piece: Bytes) {
        self.ledger.usage(self.run.outbox.usage, self.run.outbox.chunks);
        // Stored before the end mark: the caller's next request must find it.
        if let Some(storing) = self.session.take() {
            let answer = self.run.outbox.assembly.take().and_then(|assembly| assembly.message());
            storing.store(answer).await;
        }
        self.ledger.complete();
        let mut last = BytesMut::with_capacity(piece.len() + DONE.len());
        last.extend_from_slice(&piece);
        last.extend_from_slice(DONE);
        out.send(last.freeze()).await;
        self.run.settle_connection().await;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // The caller left, unless the books are closed already.
        self.ledger.usage(self.run.outbox.usage, self.run.outbox.chunks);
    }
}
