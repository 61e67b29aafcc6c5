//! Attempts: which channel of a target is asked, how often, and how long; everything before the answer's
//! first byte.

use std::{sync::Arc, time::Duration};

use provider_api::{Fault, FaultKind, FaultScope};
use tokio::time::Instant;

use crate::{
    breaker::{Breaker, Breakers, Permit},
    catalog::Entry,
    channel::{Ask, Blocked, Channel, Chosen},
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

/// What callers are told to wait where only a person can end the wait.
const FOR_PEOPLE: Duration = Duration::from_secs(60);

/// What callers are told to wait for an account that is out of money.
const FOR_MONEY: Duration = Duration::from_secs(300);

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
    /// The end of all attempts together, up to the whole answer or the stream's head.
    pub deadline: Instant,
    /// For silence in a stream, its head included.
    pub idle: Duration,
}

/// What an attempt brought.
pub enum Answer {
    /// All of it.
    Whole(Whole),
    /// A stream past its first event, and where its breaking off is counted.
    Stream(Box<Run>, Arc<Breaker>),
}

/// Why a target gave no answer.
pub struct Failure {
    /// As the caller sees it.
    pub error: Error,
    /// Whether another model may do better; not if the request itself is wrong.
    pub elsewhere: bool,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// What a request has met so far.
#[derive(Default)]
struct Course {
    attempt: u32,
    /// A request that may itself be what is wrong stays with the key that it met first.
    only: Option<Arc<Channel>>,
    /// The channel that failed, if another one can be asked at once; and how long to wait if there is
    /// none, or the failure that ends it then.
    other: Option<(Arc<Channel>, Result<Duration, Failure>)>,
}

/// Tries until there is an answer, or a failure that no further attempt may mend.
///
/// # Errors
/// The last failure.
pub async fn run(upstream: &Arc<Upstream>, breakers: &Breakers, plan: &Plan) -> Result<Answer, Failure> {
    let mut course = Course::default();
    loop {
        let Chosen { channel, pass: permit, wait } = course.next(breakers, plan).await?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let fault = match once(upstream, plan, &channel, course.attempt).await {
            Ok(attempted) => {
                let breaker = Arc::clone(permit.breaker());
                permit.success();
                plan.provider.channels().succeeded(&channel);
                return Ok(match attempted {
                    Attempted::Whole(whole) => Answer::Whole(whole),
                    Attempted::Stream(run) => Answer::Stream(run, breaker),
                });
            }
            Err(fault) => fault,
        };
        if counts(&fault) {
            permit.failure();
        } else {
            drop(permit);
        }
        plan.provider.failed(&channel, &fault);
        let (full_name, attempt, kind, status) =
            (&channel.full_name, course.attempt, fault.kind.0, fault.status);
        tracing::debug!(channel = %full_name, attempt, kind, status, why = %fault.message, "attempt failed");
        course.failed(plan, channel, &fault).await?;
    }
}

impl Course {
    /// The channel for the next attempt, once it is free.
    async fn next(&mut self, breakers: &Breakers, plan: &Plan) -> Result<Chosen<Permit>, Failure> {
        let channels = plan.provider.channels();
        loop {
            let now = Instant::now();
            let left = plan.deadline.saturating_duration_since(now);
            let not = self.other.as_ref().map(|(channel, _)| channel);
            let ask = Ask { only: self.only.as_ref(), not, left };
            let single = channels.list().len() == 1;
            let admit = |channel: &Channel| breaker(breakers, plan, channel, single).admit();
            let blocked = match channels.choose(now.into_std(), ask, admit) {
                Ok(chosen) => {
                    self.other = None;
                    return Ok(chosen);
                }
                Err(blocked) => blocked,
            };
            if let Some((_, alone)) = self.other.take() {
                tokio::time::sleep(alone?).await;
                continue;
            }
            match blocked {
                Blocked::Paused(after) if self.attempt < plan.retries && after < left => {
                    tokio::time::sleep(after).await;
                    self.attempt += 1;
                }
                blocked => return Err(refused(plan, blocked)),
            }
        }
    }

    /// What a fault means for the attempts that are left.
    async fn failed(&mut self, plan: &Plan, channel: Arc<Channel>, fault: &Fault) -> Result<(), Failure> {
        // Another key may do better where the fault is this key's own.
        let of_key = fault.scope == FaultScope::CHANNEL;
        let refused = matches!(fault.kind, FaultKind::AUTH | FaultKind::QUOTA) && channel.key().is_some();
        let wait = next_wait(fault, self.attempt, plan.retries, plan.deadline);
        if self.attempt >= plan.retries {
            return Err(failure(plan, &channel, fault));
        }
        self.attempt += 1;
        if of_key && (refused || fault.kind == FaultKind::RATE_LIMIT) {
            let alone = wait.ok_or_else(|| failure(plan, &channel, fault));
            self.only = None;
            self.other = Some((channel, alone));
            return Ok(());
        }
        let Some(wait) = wait else { return Err(failure(plan, &channel, fault)) };
        tokio::time::sleep(wait).await;
        self.only = (!of_key && counts(fault)).then_some(channel);
        Ok(())
    }
}

/// The breaker of a model with one key.
fn breaker(breakers: &Breakers, plan: &Plan, channel: &Channel, single: bool) -> Arc<Breaker> {
    let target = &plan.entry.target;
    if single { breakers.target(target) } else { breakers.target(&format!("{target}#{}", channel.name)) }
}

enum Attempted {
    Whole(Whole),
    Stream(Box<Run>),
}

/// One attempt within what is left of the time.
async fn once(
    upstream: &Arc<Upstream>,
    plan: &Plan,
    channel: &Arc<Channel>,
    attempt: u32,
) -> Result<Attempted, Fault> {
    let mut run = Run::start(upstream, (&plan.provider, channel), &plan.call, attempt).await?;
    let deadline = plan.deadline;
    let too_late = |_| Fault::new(FaultKind::TIMEOUT, "the upstream did not answer in time");
    if !plan.call.stream {
        let whole = tokio::time::timeout_at(deadline, run.whole()).await.map_err(too_late)??;
        return Ok(Attempted::Whole(whole));
    }
    let silence = deadline.min(Instant::now() + plan.idle);
    let patience = HEAD_PATIENCE.min(plan.idle);
    tokio::time::timeout_at(silence, run.opened(patience)).await.map_err(too_late)??;
    Ok(Attempted::Stream(run))
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

/// What a fault is to the caller.
fn failure(plan: &Plan, channel: &Channel, fault: &Fault) -> Failure {
    let (provider, target) = (&plan.provider.name, &plan.entry.target);
    let why = plan.provider.redact(&fault.message);
    match fault.kind {
        FaultKind::AUTH | FaultKind::QUOTA => {
            tracing::warn!(%provider, %why, "the provider refuses our account");
        }
        FaultKind::PANIC | FaultKind::INTERNAL => tracing::error!(%provider, %target, %why, "plugin failed"),
        _ => tracing::debug!(%target, %why, "no attempt succeeded"),
    }
    let error = Error::from_fault(fault, &plan.provider, channel);
    let error = match fault.kind {
        FaultKind::RATE_LIMIT => {
            let after = error.retry_after.unwrap_or(Duration::from_secs(1));
            Error { retry_after: Some(after), ..error }
        }
        FaultKind::QUOTA => {
            let after = error.retry_after.unwrap_or(FOR_MONEY);
            Error { retry_after: Some(after), ..error }.should_retry(false)
        }
        _ => error.should_retry(false),
    };
    let elsewhere = !matches!(
        fault.kind,
        FaultKind::BAD_REQUEST
            | FaultKind::UNSUPPORTED
            | FaultKind::CONTEXT_LENGTH
            | FaultKind::CONTENT_FILTER
            | FaultKind::NOT_FOUND
    );
    Failure { error, elsewhere }
}

/// What a caller is told if no channel can be asked now.
fn refused(plan: &Plan, blocked: Blocked) -> Failure {
    let provider = &plan.provider.name;
    let later = |error: Error, after: Duration| Error { retry_after: Some(after), ..error };
    let error = match blocked {
        Blocked::Paused(after) => {
            let text = format!("provider `{provider}` limits the rate of requests; try again later");
            later(Error::rate_limited(text), after)
        }
        Blocked::Paced(after) => {
            let text = format!("too many requests wait for provider `{provider}`; try again later");
            later(Error::rate_limited(text), after)
        }
        Blocked::Open(after) => breaker_open(plan, after),
        Blocked::Quota(after) => later(Error::quota(provider), after).should_retry(false),
        Blocked::Auth { variable, channel } => {
            Error::key_out(provider, &variable, &channel).should_retry(false)
        }
        Blocked::Disabled(channel) => {
            let text = format!(
                "all channels of provider `{provider}` are switched off; switch one on with POST /api/channels/{provider}/{channel}/enable"
            );
            Error::unavailable(text, FOR_PEOPLE).code("channel_disabled").should_retry(false)
        }
    };
    Failure { error, elsewhere: true }
}

fn breaker_open(plan: &Plan, after: Duration) -> Error {
    let text = format!("model `{}` failed too often and is left alone for a moment", plan.entry.name);
    // Unlike behind spent attempts, waiting is all that it takes: SDKs come back after `Retry-After`.
    Error::unavailable(text, after).code("circuit_open")
}
