//! Attempts: which target is asked, how often, and how long; everything before the answer's first byte.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use provider_api::{Fault, FaultKind};
use tokio::time::Instant;

use crate::{
    breaker::Breaker,
    catalog::Entry,
    error::Error,
    gateway,
    plugins::Provider,
    relay::{Call, Run, Whole},
    upstream::Upstream,
};

/// First wait between attempts; doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Longest wait between attempts that the upstream did not ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Silence behind an upstream's 200 after which a stream's head is sent.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// What is tried and how hard.
pub struct Plan {
    /// The model.
    pub entry: Arc<Entry>,
    /// Who serves it.
    pub provider: Arc<Provider>,
    /// What is asked.
    pub call: Call,
    /// Attempts beyond the first.
    pub retries: u32,
    /// For all attempts together, up to the whole answer or the stream's head.
    pub timeout: Duration,
    /// For silence in a stream, its head included.
    pub idle: Duration,
    /// The target's breaker.
    pub breaker: Arc<Breaker>,
}

/// What an attempt brought.
pub enum Answer {
    /// All of it.
    Whole(Whole),
    /// A stream past its first event.
    Stream(Box<Run>),
}

/// Tries until there is an answer, or a failure that no further attempt may mend.
///
/// # Errors
/// The last failure, as the caller sees it.
pub async fn run(upstream: &Arc<Upstream>, plan: &Plan) -> Result<Answer, Error> {
    let deadline = Instant::now() + plan.timeout;
    let mut attempt = 0;
    loop {
        let permit = plan.breaker.admit().map_err(|after| breaker_open(plan, after))?;
        let fault = match once(upstream, plan, attempt, deadline).await {
            Ok(answer) => {
                permit.success();
                return Ok(answer);
            }
            Err(fault) => fault,
        };
        if counts(&fault) {
            permit.failure();
        } else {
            drop(permit);
        }
        let (provider, kind, status) = (&plan.provider.name, fault.kind.0, fault.status);
        tracing::debug!(%provider, attempt, kind, status, why = %fault.message, "attempt failed");
        let Some(wait) = next_wait(&fault, attempt, plan.retries, deadline) else {
            return Err(refusal(plan, &fault));
        };
        tokio::time::sleep(wait).await;
        attempt += 1;
    }
}

/// One attempt within what is left of the time.
async fn once(
    upstream: &Arc<Upstream>,
    plan: &Plan,
    attempt: u32,
    deadline: Instant,
) -> Result<Answer, Fault> {
    let mut run = Run::start(upstream, &plan.provider, &plan.call, attempt).await?;
    let too_late = |_| Fault::new(FaultKind::TIMEOUT, "the upstream did not answer in time");
    if !plan.call.stream {
        let whole = tokio::time::timeout_at(deadline, run.whole()).await.map_err(too_late)??;
        return Ok(Answer::Whole(whole));
    }
    let silence = deadline.min(Instant::now() + plan.idle);
    let patience = HEAD_PATIENCE.min(plan.idle);
    tokio::time::timeout_at(silence, run.opened(patience)).await.map_err(too_late)??;
    Ok(Answer::Stream(Box::new(run)))
}

/// Whether another attempt can help.
fn retryable(fault: &Fault) -> bool {
    matches!(
        fault.kind,
        FaultKind::RATE_LIMIT
            | FaultKind::OVERLOADED
            | FaultKind::UPSTREAM
            | FaultKind::DECODE
            | FaultKind::TIMEOUT
    )
}

/// Whether it says that the target is in a bad state.
fn counts(fault: &Fault) -> bool {
    retryable(fault) && fault.kind != FaultKind::RATE_LIMIT
}

/// How long to wait before the next attempt; `None` if there is none.
fn next_wait(fault: &Fault, attempt: u32, retries: u32, deadline: Instant) -> Option<Duration> {
    if !retryable(fault) || attempt >= retries {
        return None;
    }
    let asked = Duration::from_millis(fault.retry_after_ms);
    let wait = if asked.is_zero() {
        let full = (FIRST_WAIT * 2u32.saturating_pow(attempt.min(8))).min(LONGEST_WAIT);
        // Half of it at random, so that callers who failed together do not come back together.
        full / 2 + full.mul_f64(0.5 * (gateway::random() % 1000) as f64 / 1000.0)
    } else {
        asked
    };
    (Instant::now() + wait < deadline).then_some(wait)
}

fn refusal(plan: &Plan, fault: &Fault) -> Error {
    let (provider, target) = (&plan.provider.name, &plan.entry.target);
    let why = plan.provider.redact(&fault.message);
    match fault.kind {
        FaultKind::AUTH | FaultKind::QUOTA => {
            tracing::warn!(%provider, %why, "the provider refuses our account");
        }
        FaultKind::PANIC | FaultKind::INTERNAL => tracing::error!(%provider, %target, %why, "plugin failed"),
        _ => tracing::debug!(%target, %why, "no attempt succeeded"),
    }
    let error = Error::from_fault(fault, &plan.provider);
    match (fault.kind, error.retry_after) {
        (FaultKind::RATE_LIMIT, Some(_)) => error,
        (FaultKind::RATE_LIMIT, None) => Error { retry_after: Some(Duration::from_secs(1)), ..error },
        _ => error.should_retry(false),
    }
}

fn breaker_open(plan: &Plan, after: Duration) -> Error {
    let text = format!("model `{}` failed too often and is left alone for a moment", plan.entry.name);
    let mut error = Error::unavailable(text, after).code("circuit_open").should_retry(false);
    error.status = StatusCode::SERVICE_UNAVAILABLE;
    error
}
