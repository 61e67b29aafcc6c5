//! One question to one model through the whole engine, without a door: what `sigoE` does.
//!
//! The question becomes the request that a caller would send to `POST /v1/chat/completions`, so that
//! sessions, retries, limits and accounting are the server's own.

use std::{net::Ipv4Addr, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use provider_api::sse;
use serde::{Deserialize, Serialize};

use crate::{
    account::Total,
    body::Body,
    catalog::Entry,
    dialect::chat::Chat,
    gateway::{self, Gateway},
    pipeline,
    relay::ledger::Ledger,
};

mod failure;

pub use failure::{Failure, Kind};

/// How long providers that list their models may take for it: people wait.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// A question; members that are `None` are not sent.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// A shortcode, an id, or `provider/id`.
    pub model: String,
    /// What is asked.
    pub prompt: String,
    /// The stored conversation that it continues.
    pub session: Option<String>,
    /// Most tokens of the answer.
    pub max_tokens: Option<u64>,
    /// How free the answer is.
    pub temperature: Option<f64>,
    /// Seconds for the whole answer; for silence in one that is streamed.
    pub timeout: Option<u64>,
    /// Attempts beyond the first.
    pub retries: Option<u32>,
    /// What the model shall be; not stored.
    pub system_prompt: Option<String>,
    /// Whether the answer is wanted as it comes.
    pub stream: bool,
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Its text; may be empty.
    pub text: String,
    /// Why it ends: `stop`, `length`, …
    pub finish_reason: Option<String>,
    /// What it cost.
    pub total: Total,
}

/// The model of this name; if nobody knows it yet, providers that list their models are asked first.
///
/// # Errors
/// There is no such model.
pub async fn find(gateway: &Arc<Gateway>, name: &str) -> Result<Arc<Entry>, Failure> {
    if let Some(entry) = gateway.find(name) {
        return Ok(entry);
    }
    look(gateway).await;
    gateway.find(name).ok_or_else(|| unknown(gateway, name))
}

/// Asks the providers that list their models for them, but not for long.
pub async fn look(gateway: &Arc<Gateway>) {
    if tokio::time::timeout(LOOK_LIMIT, gateway.discover(Duration::ZERO)).await.is_err() {
        // Some may have answered while others did not.
        let gateway = Arc::clone(gateway);
        let _ = tokio::task::spawn_blocking(move || gateway.rebuild_catalog()).await;
    }
}

fn unknown(gateway: &Gateway, name: &str) -> Failure {
    let shown: String = name.chars().take(100).collect();
    let nearest = gateway.known.load().nearest(name);
    let text = if gateway.plugins.current().providers.is_empty() {
        let settings = gateway.settings.load();
        let dirs: Vec<_> = settings.plugin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        let place = if dirs.is_empty() { "any usual place".into() } else { dirs.join(" or ") };
        format!(
            "model `{shown}` is unknown: there is no provider plugin in {place}; name their directory with -plugin-dir"
        )
    } else if nearest.is_empty() {
        format!("model `{shown}` is unknown to the providers that are installed")
    } else {
        let nearest: Vec<_> = nearest.iter().map(|name| format!("`{name}`")).collect();
        format!("model `{shown}` is unknown; did you mean {}?", nearest.join(" or "))
    };
    Failure::new(Kind::ConfigNotFound, text)
}

/// Asks, and gives the text to `say` as it comes: in pieces if that was wanted, else whole. When `say`
/// breaks, the answer ends there.
///
/// # Errors
/// Why there is no answer, or no whole one.
pub async fn ask(
    gateway: &Arc<Gateway>,
    question: &Question,
    say: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<Answer, Failure> {
    let chat = Chat::parse(request(question).into())?;
    let permit = gateway.in_flight.enter()?;
    let id: Arc<str> = format!("req_{:016x}", gateway::random()).into();
    let mut ledger = Some(Ledger::open(&gateway.account, id, Ipv4Addr::LOCALHOST.into()));
    let answered = pipeline::chat(gateway, chat, permit, &mut ledger).await;
    let response = answered.map_err(|error| {
        if let Some(ledger) = &mut ledger {
            ledger.refused(error.status.as_u16(), error.code.clone());
        }
        // What fails before a provider is asked, with nothing wrong in the question, is the stored file.
        let stored = question.session.is_some() && error.status.as_u16() == 500;
        let failure = Failure::from(error);
        if stored { Failure { kind: Kind::SessionError, ..failure } } else { failure }
    })?;
    let mut answer = if question.stream {
        told(response.into_body(), say).await?
    } else {
        whole(response.into_body(), say).await?
    };
    answer.total = gateway.account.total();
    Ok(answer)
}

/// The question in the form that callers send.
fn request(question: &Question) -> Vec<u8> {
    #[derive(Serialize)]
    struct Request<'a> {
        model: &'a str,
        messages: [Message<'a>; 1],
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        stream: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        max_tokens: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        temperature: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        session_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retries: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        system_prompt: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Message<'a> {
        role: &'static str,
        content: &'a str,
    }
    let request = Request {
        model: &question.model,
        messages: [Message { role: "user", content: &question.prompt }],
        stream: question.stream,
        max_tokens: question.max_tokens,
        temperature: question.temperature,
        session_id: question.session.as_deref(),
        timeout: question.timeout,
        retries: question.retries,
        system_prompt: question.system_prompt.as_deref(),
    };
    serde_json::to_vec(&request).expect("text and finite numbers are JSON")
}

/// A whole answer, or a chunk of one.
#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u64,
    #[serde(alias = "delta")]
    message: Option<Text>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Text {
    content: Option<String>,
    refusal: Option<String>,
}

impl Completion {
    /// The first choice's text, and why it ends.
    fn first(self) -> Option<(String, Option<String>)> {
        let choice = self.choices.into_iter().find(|choice| choice.index == 0)?;
        let said = choice
            .message
            .and_then(|message| message.content.filter(|text| !text.is_empty()).or(message.refusal));
        Some((said.unwrap_or_default(), choice.finish_reason))
    }
}

fn unexpected(what: &str) -> Failure {
    Failure::new(Kind::UnexpectedFormat, what)
}

async fn whole(body: Body, mut say: impl FnMut(&str) -> ControlFlow<()>) -> Result<Answer, Failure> {
    let body = body.collect().await.map_err(|error| Failure::new(Kind::ApiFailed, error.to_string()))?;
    let read: Option<Completion> = serde_json::from_slice(&body.to_bytes()).ok();
    let (text, finish_reason) = read
        .and_then(Completion::first)
        .ok_or_else(|| unexpected("the provider's answer holds no text and no reason why"))?;
    let _ = say(&text);
    Ok(Answer { text, finish_reason, ..Answer::default() })
}

async fn told(mut body: Body, mut say: impl FnMut(&str) -> ControlFlow<()>) -> Result<Answer, Failure> {
    let mut answer = Answer::default();
    let (mut text, mut looked): (Vec<u8>, usize) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::new(Kind::ApiFailed, error.to_string()))?;
        text.extend_from_slice(&frame.into_data().unwrap_or_else(|_| Bytes::new()));
        let mut at = 0;
        while let Some(end) = sse::event_end(&text[at..], looked) {
            let ended = answer.event(&text[at..at + end], &mut say)?;
            if ended.is_break() {
                return Ok(answer);
            }
            (at, looked) = (at + end, 0);
        }
        text.drain(..at);
        looked = text.len();
    }
    Err(Failure::new(Kind::ApiFailed, "the answer broke off; what there is of it may be incomplete"))
}

impl Answer {
    /// Takes one event of a stream; breaks at the end of the answer.
    fn event(
        &mut self,
        event: &[u8],
        say: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Failure> {
        let Some(data) = sse::parse(event).data else { return Ok(ControlFlow::Continue(())) };
        if data.trim_ascii() == b"[DONE]" {
            return Ok(ControlFlow::Break(()));
        }
        if let Some(failure) = Failure::from_event(&data) {
            return Err(failure);
        }
        let chunk: Completion = serde_json::from_slice(&data)
            .map_err(|_| unexpected("the provider's stream holds what is no part of an answer"))?;
        let Some((text, finish_reason)) = chunk.first() else { return Ok(ControlFlow::Continue(())) };
        self.text.push_str(&text);
        self.finish_reason = finish_reason.or(self.finish_reason.take());
        Ok(if text.is_empty() { ControlFlow::Continue(()) } else { say(&text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_sent() {
        let plain = Question { model: "m".into(), prompt: "a\n\"b\"".into(), ..Question::default() };
        let text = |question: &Question| String::from_utf8(request(question)).expect("UTF-8");
        assert_eq!(text(&plain), r#"{"model":"m","messages":[{"role":"user","content":"a\n\"b\""}]}"#);
        let all = Question {
            session: Some("s".into()),
            max_tokens: Some(5),
            temperature: Some(0.0),
            timeout: Some(9),
            retries: Some(0),
            system_prompt: Some("be".into()),
            stream: true,
            ..plain
        };
        let expected = r#","stream":true,"max_tokens":5,"temperature":0.0,"session_id":"s","timeout":9,"retries":0,"system_prompt":"be"}"#;
        assert!(text(&all).ends_with(expected), "{}", text(&all));
    }

    #[tokio::test]
    async fn a_stream_is_told_in_pieces_wherever_it_is_cut() {
        let events = concat!(
            ": keep-alive\n\n",
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\u{e4}\"}},{\"index\":1,\"delta\":{\"content\":\"x\"}}]}\r\n\r\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"llo\"},\"finish_reason\":\"stop\"}]}\n\n",
            "data: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]\n\n",
        );
        for cut in 0..events.len() {
            let (first, second) = events.as_bytes().split_at(cut);
            let (first, second) = (Bytes::copy_from_slice(first), Bytes::copy_from_slice(second));
            let body = Body::stream(|mut out| async move {
                out.send(first).await;
                out.send(second).await;
                Ok(())
            });
            let mut pieces = Vec::new();
            let answer = told(body, |piece| {
                pieces.push(piece.to_owned());
                ControlFlow::Continue(())
            });
            let answer = answer.await.expect("an answer");
            assert_eq!((answer.text.as_str(), answer.finish_reason.as_deref()), ("hällo", Some("stop")));
            assert_eq!(pieces, ["hä", "llo"]);
        }
    }

    #[tokio::test]
    async fn a_stream_without_an_end_is_no_answer() {
        let check = |events: &'static str, expected: Kind| async move {
            let failure = told(Body::from(events), |_| ControlFlow::Continue(())).await;
            assert_eq!(failure.expect_err(events).kind, expected, "{events}");
        };
        check("data: {\"choices\":[]}\n\n", Kind::ApiFailed).await;
        check("data: {\"error\":{\"message\":\"m\",\"code\":null}}\n\n", Kind::ServerError).await;
        check("data: nonsense\n\n", Kind::UnexpectedFormat).await;
    }
}
