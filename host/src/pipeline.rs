//! The request: each step in its order, from the checks at the door to the entry in the books.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as HttpBody;
use provider_api::model::Mode;
use tokio::time::Instant;

use crate::{
    access::{Caller, Peer},
    api,
    body::Body,
    catalog::Entry,
    dialect::{
        answer,
        chat::{Chat, Insert, Options},
        embeddings::Embeddings,
    },
    drain::Drain,
    error::Error,
    gateway::{self, Gateway},
    limits::{self, Permit},
    plugins::Provider,
    relay::{
        Call, Whole,
        deliver::{Delivery, Storing},
        ledger::Ledger,
    },
    route::{self, Answer, Plan},
    session::{self, Key},
};

/// For a whole call, unless the request or the provider's manifest says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(180);

/// When to try a plugin in quarantine again: an operator has to act first.
const QUARANTINE_PAUSE: Duration = Duration::from_secs(30);

/// Attempts beyond the first, unless the request says otherwise.
const DEFAULT_RETRIES: u32 = 3;

/// Answers a request; never fails, never panics.
pub async fn answer<B>(gateway: Arc<Gateway>, peer: Peer, request: Request<B>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let id: Arc<str> = format!("req_{:016x}", gateway::random()).into();
    let (head, body) = request.into_parts();
    let access = gateway.shared.access.load_full();
    let mut response = match access.check(&peer, &head, !body.is_end_stream()) {
        Ok(caller) => match access.preflight(&head) {
            Some(preflight) => preflight,
            None => routed(&gateway, &id, caller, &head, body).await,
        },
        Err(error) => logged(&id, peer.address.ip(), &head, Err(error)),
    };
    access.cors(&head, response.headers_mut());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Models answer under the two paths that cost tokens; everything else is `api`.
async fn routed<B>(
    gateway: &Arc<Gateway>,
    id: &Arc<str>,
    caller: Caller,
    head: &Parts,
    body: B,
) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let drain = &gateway.shared.drain;
    if drain.begun() {
        return logged(id, caller.address, head, Err(Drain::refusal()));
    }
    let operation = match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/chat/completions") => chat,
        (&Method::POST, "/v1/embeddings") => {
            return Box::pin(embeddings(gateway, id, caller, head, body)).await;
        }
        _ => {
            let answered = drain.unless_cut(Box::pin(api::answer(gateway, &caller, head, body))).await;
            return logged(id, caller.address, head, answered);
        }
    };
    let mut ledger = Some(Ledger::open(&gateway.account, Arc::clone(id), caller.address));
    let answered = {
        // Pinned here: a future that is handed on by value is held twice, and this is the whole request.
        let work = pin!(async {
            let permit = gateway.in_flight.enter()?;
            let body = limits::read_body(body, head, &gateway.shared.limits.load()).await?;
            operation(gateway, Chat::parse(body)?, permit, &mut ledger).await
        });
        drain.unless_cut(work).await
    };
    settled(answered, ledger)
}

/// Closes the books of a request that was refused.
fn settled(answered: Result<Response<Body>, Error>, ledger: Option<Ledger>) -> Response<Body> {
    answered.unwrap_or_else(|error| {
        if let Some(mut ledger) = ledger {
            ledger.refused(error.status.as_u16(), error.code.clone());
        }
        error.into_response()
    })
}

/// `POST /v1/chat/completions`: catalog, memory, session, targets, answer.
pub async fn chat(
    gateway: &Arc<Gateway>,
    chat: Chat,
    permit: Permit,
    ledger: &mut Option<Ledger>,
) -> Result<Response<Body>, Error> {
    let entry = gateway.resolve(&chat.model).await?;
    if entry.mode != Mode::Chat {
        let text = format!("model `{}` makes embeddings; ask it at POST /v1/embeddings", entry.name);
        return Err(Error::bad_request(text).param("model"));
    }
    let (history, storing) = match chat.options.session_id.as_deref().filter(|id| !id.is_empty()) {
        Some(session_id) => Box::pin(conversation(gateway, &chat, &entry, session_id)).await?,
        None => (Vec::new(), None),
    };
    let fallbacks = gateway.fallbacks(&entry);
    let keep_answer = chat.stream && storing.is_some();
    let question = Question { gateway, chat, history, keep_answer };
    let (plan, answer) = first_answer(question, entry, fallbacks, ledger).await?;
    match answer {
        Answer::Whole(whole) => {
            if let Some(storing) = storing {
                Box::pin(storing.store(answer::message(&whole.body))).await;
            }
            Ok(whole_response(&plan, whole, ledger))
        }
        Answer::Stream(run, breaker) => {
            let mut ledger = ledger.take().ok_or_else(|| Error::internal("the request was settled twice"))?;
            ledger.first_byte();
            let head = head(&plan, "text/event-stream", run.dropped());
            let heartbeat = gateway.shared.limits.load().heartbeat;
            let idle = plan.idle;
            let drain = Arc::clone(&gateway.shared.drain);
            let delivery =
                Delivery { run, ledger, permit, drain, breaker, idle, heartbeat, session: storing };
            Ok(head.map(|()| delivery.body()))
        }
    }
}

/// A chat request that may be put to several models.
struct Question<'a> {
    gateway: &'a Gateway,
    chat: Chat,
    history: Vec<Bytes>,
    keep_answer: bool,
}

impl Question<'_> {
    /// How one model is asked, by an end that an earlier one may have set. The `last` one gets the caller's
    /// own bytes.
    fn plan(&mut self, entry: Arc<Entry>, deadline: Option<Instant>, last: bool) -> Result<Plan, Error> {
        let Self { gateway, chat, .. } = self;
        let provider = provider_of(gateway, &entry)?;
        let claude = entry.model.id.contains("claude");
        let insert = Insert {
            memory: gateway.memory.block().message(claude).cloned(),
            history: self.history.clone(),
            ask_usage: chat.stream && !chat.include_usage && provider.asks_usage,
        };
        let id = &entry.model.id;
        let body = if last { chat.encode_last(id, &insert) } else { chat.encode(id, &insert) }?;
        let call = call("chat", &entry, body, chat, gateway.shared.limits.load().connect);
        let call = Call { keep_answer: self.keep_answer, ..call };
        let plan = plan(gateway, entry, provider, call, &chat.options);
        Ok(Plan { deadline: deadline.unwrap_or(plan.deadline), ..plan })
    }
}

/// Asks the model, then those that stand in for it, as long as the request itself is not what is wrong.
async fn first_answer(
    question: Question<'_>,
    entry: Arc<Entry>,
    fallbacks: Vec<Arc<Entry>>,
    ledger: &mut Option<Ledger>,
) -> Result<(Plan, Answer), Error> {
    let gateway = question.gateway;
    let mut question = Some(question);
    let (mut first_error, mut deadline) = (None, None);
    let mut entries = std::iter::once(entry).chain(fallbacks).peekable();
    while let Some((entry, mut asked)) = entries.next().zip(question.take()) {
        let asked_bytes = asked.chat.body.len();
        let plan = match asked.plan(entry, deadline, entries.peek().is_none()) {
            Ok(plan) => plan,
            Err(error) if error.status == StatusCode::SERVICE_UNAVAILABLE => {
                first_error.get_or_insert(error);
                question = Some(asked);
                continue;
            }
            Err(error) => return Err(error),
        };
        deadline = Some(plan.deadline);
        if let Some(ledger) = ledger {
            ledger.model(&plan.entry, plan.call.stream, asked_bytes);
            ledger.working();
        }
        // The caller's bytes are kept no longer than they may be asked for.
        question = entries.peek().is_some().then_some(asked);
        match route::run(&gateway.upstream, &gateway.breakers, &plan).await {
            Ok(answer) => return Ok((plan, answer)),
            Err(failure) => {
                first_error.get_or_insert(failure.error);
                if !failure.elsewhere || Instant::now() >= plan.deadline {
                    break;
                }
            }
        }
    }
    Err(first_error.unwrap_or_else(|| Error::internal("no model was asked")))
}

async fn embeddings<B>(
    gateway: &Arc<Gateway>,
    id: &Arc<str>,
    caller: Caller,
    head: &Parts,
    body: B,
) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut ledger = Some(Ledger::open(&gateway.account, Arc::clone(id), caller.address));
    let answered = async {
        let _permit = gateway.in_flight.enter()?;
        let limits = gateway.shared.limits.load_full();
        let request = Embeddings::parse(limits::read_body(body, head, &limits).await?)?;
        let entry = gateway.resolve(&request.model).await?;
        if entry.mode != Mode::Embedding {
            let text =
                format!("model `{}` makes no embeddings; ask it at POST /v1/chat/completions", entry.name);
            return Err(Error::bad_request(text).param("model"));
        }
        let provider = provider_of(gateway, &entry)?;
        let asked_bytes = request.body.len();
        let body = request.encode(&entry.model.id);
        if let Some(ledger) = &mut ledger {
            ledger.model(&entry, false, asked_bytes);
            ledger.working();
        }
        let call = Call {
            operation: "embeddings",
            model: entry.model.id.as_str().into(),
            drops: Arc::clone(&entry.drops),
            requires_completion_tokens: false,
            stream: false,
            body,
            include_usage: false,
            keep_answer: false,
            connect: limits.connect,
        };
        let plan = plan(gateway, entry, provider, call, &Options::default());
        match route::run(&gateway.upstream, &gateway.breakers, &plan).await? {
            Answer::Whole(whole) => Ok(whole_response(&plan, whole, &mut ledger)),
            Answer::Stream(..) => Err(Error::internal("embeddings are never streamed")),
        }
    };
    let answered = gateway.shared.drain.unless_cut(answered).await;
    settled(answered, ledger)
}

fn provider_of(gateway: &Gateway, entry: &Entry) -> Result<Arc<Provider>, Error> {
    let snapshot = gateway.plugins.current();
    let provider = snapshot.providers.get(&entry.provider).cloned().ok_or_else(|| {
        let text = format!("provider `{}` is being replaced; try again", entry.provider);
        Error::unavailable(text, Duration::from_secs(1))
    })?;
    if provider.generation.meter.is_quarantined() {
        let text = format!(
            "plugin `{}` is quarantined because it failed or took too long repeatedly; GET /api/plugins says why",
            provider.generation.id
        );
        let error = Error::unavailable(text, QUARANTINE_PAUSE).code("plugin_quarantined");
        return Err(error.should_retry(false));
    }
    Ok(provider)
}

/// The stored history to insert, and what to store behind it.
async fn conversation(
    gateway: &Gateway,
    chat: &Chat,
    entry: &Entry,
    session_id: &str,
) -> Result<(Vec<Bytes>, Option<Storing>), Error> {
    let key = Key::new(&entry.name, session_id)?.or_id(&entry.model.id);
    let messages = chat.messages()?;
    let history = gateway.sessions.load(&key).await?;
    let mut spoken: Vec<&[u8]> = Vec::with_capacity(messages.len());
    spoken.extend(messages.iter().filter(|m| !m.system).map(|m| &chat.body[m.span.clone()]));
    let run = history.within(&spoken);
    let inserted = if run.is_some() { Vec::new() } else { history.messages() };
    let new = session::new_messages(run, &spoken);
    // Not more than are stored, and copies: they must not keep a large body alive while an answer streams.
    let new = &new[new.len().saturating_sub(session::MAX_MESSAGES)..];
    let new = new.iter().map(|message| Bytes::copy_from_slice(message)).collect();
    Ok((inserted, Some(Storing { sessions: gateway.sessions.clone(), key, messages: new })))
}

fn call(operation: &'static str, entry: &Entry, body: Bytes, chat: &Chat, connect: Duration) -> Call {
    Call {
        operation,
        model: entry.model.id.as_str().into(),
        drops: Arc::clone(&entry.drops),
        requires_completion_tokens: entry.requires_completion_tokens,
        stream: chat.stream,
        body,
        include_usage: chat.include_usage,
        keep_answer: false,
        connect,
    }
}

fn plan(
    gateway: &Gateway,
    entry: Arc<Entry>,
    provider: Arc<Provider>,
    call: Call,
    options: &Options,
) -> Plan {
    let hints = provider.generation.manifest.timeouts;
    let default = DEFAULT_TIMEOUT.max(Duration::from_secs(hints.request_secs));
    let silence = gateway.shared.limits.load().stream_idle.max(Duration::from_secs(hints.stream_idle_secs));
    Plan {
        entry,
        provider,
        call,
        retries: options.retries.unwrap_or(DEFAULT_RETRIES),
        deadline: Instant::now() + options.timeout.unwrap_or(default),
        idle: options.timeout.map_or(silence, |timeout| timeout.min(silence)),
    }
}

fn whole_response(plan: &Plan, whole: Whole, ledger: &mut Option<Ledger>) -> Response<Body> {
    if let Some(ledger) = ledger {
        ledger.first_byte();
        ledger.usage(whole.usage, whole.body.len() as u64 / 4);
        ledger.complete();
    }
    head(plan, "application/json", &whole.dropped).map(|()| Body::from(whole.body))
}

fn head(plan: &Plan, kind: &'static str, dropped: &[String]) -> Response<()> {
    let mut response = Response::new(());
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if plan.call.stream {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    for (name, value) in
        [("x-sigorest-target", plan.entry.target.to_string()), ("x-sigorest-dropped", dropped.join(", "))]
    {
        if let Some(value) = HeaderValue::from_str(&value).ok().filter(|value| !value.is_empty()) {
            headers.insert(name, value);
        }
    }
    response
}

/// The line in the log of a request that asks no model.
fn logged(
    id: &str,
    peer: std::net::IpAddr,
    head: &Parts,
    answered: Result<Response<Body>, Error>,
) -> Response<Body> {
    let response = answered.unwrap_or_else(Error::into_response);
    let (method, path, status) = (head.method.as_str(), head.uri.path(), response.status().as_u16());
    tracing::info!(id, %peer, method, path, status, "request");
    response
}
