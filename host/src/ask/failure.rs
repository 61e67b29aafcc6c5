//! Why a question has no answer, as a person at a terminal is told: a type, a sentence, and what may help.

use std::time::Duration;

use serde::Deserialize;

use crate::error::Error;

/// The types that scripts tell failures apart by, under the original's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No such model.
    ConfigNotFound,
    /// The provider's key is not set.
    ApiKeyMissing,
    /// The provider cannot be reached, or something between us failed.
    ApiFailed,
    /// The question itself is wrong.
    InvalidInput,
    /// The stored conversation cannot be read.
    SessionError,
    /// The model failed too often and is left alone.
    CircuitOpen,
    /// The provider answered what nobody can use.
    UnexpectedFormat,
    /// Too many requests, or no budget left.
    RateLimit,
    /// The provider refuses the key.
    AuthFailed,
    /// No answer in time.
    Timeout,
    /// The provider failed.
    ServerError,
    /// The provider refuses the question.
    ClientError,
}

impl Kind {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigNotFound => "CONFIG_NOT_FOUND",
            Self::ApiKeyMissing => "API_KEY_MISSING",
            Self::ApiFailed => "API_FAILED",
            Self::InvalidInput => "INVALID_INPUT",
            Self::SessionError => "SESSION_ERROR",
            Self::CircuitOpen => "CIRCUIT_OPEN",
            Self::UnexpectedFormat => "UNEXPECTED_FORMAT",
            Self::RateLimit => "RATE_LIMIT",
            Self::AuthFailed => "AUTH_FAILED",
            Self::Timeout => "TIMEOUT",
            Self::ServerError => "SERVER_ERROR",
            Self::ClientError => "CLIENT_ERROR",
        }
    }

    /// What may help, if the message does not say it already.
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::ConfigNotFound => Some("sigoE -l lists the models"),
            Self::CircuitOpen => Some("wait a moment, or ask another model with -m"),
            Self::Timeout => Some("allow more time with -t"),
            _ => None,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For scripts.
    pub kind: Kind,
    /// For people: what happened, to what, and what to do.
    pub message: String,
    /// HTTP status of the provider's answer, if it gave one.
    pub status: Option<u16>,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// One without an answer of a provider.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), status: None, retry_after: None }
    }

    /// What an error event in a stream says; the provider's status is not in it.
    pub(super) fn from_event(data: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event {
            error: Body,
        }
        #[derive(Deserialize)]
        struct Body {
            message: String,
            code: Option<String>,
        }
        let Event { error } = serde_json::from_slice(data).ok()?;
        let kind = match error.code.as_deref() {
            Some("timeout") => Kind::Timeout,
            Some("provider_key") => Kind::AuthFailed,
            Some("rate_limit_exceeded" | "insufficient_quota") => Kind::RateLimit,
            Some("context_length_exceeded" | "content_filter") => Kind::ClientError,
            _ => Kind::ServerError,
        };
        Some(Self::new(kind, error.message))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let own = error.upstream.is_none();
        let kind = match (error.code.as_deref(), error.status.as_u16()) {
            (Some("circuit_open"), _) => Kind::CircuitOpen,
            (Some("provider_key"), _) => Kind::AuthFailed,
            (_, 429) => Kind::RateLimit,
            (_, 504) => Kind::Timeout,
            (_, 500) => Kind::ApiFailed,
            (_, 400..=499) if own => Kind::InvalidInput,
            (_, 400..=499) => Kind::ClientError,
            _ if error.upstream.is_some_and(|status| status < 400) => Kind::UnexpectedFormat,
            _ if own => Kind::ApiFailed,
            _ => Kind::ServerError,
        };
        Self { kind, message: error.message, status: error.upstream, retry_after: error.retry_after }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn every_refusal_has_its_type() {
        let check = |status: u16, code: &'static str, upstream: u16, expected: &str| {
            let error = Error::new(StatusCode::from_u16(status).expect("a status"), "why").code(code);
            let failure = Failure::from(Error { upstream: Some(upstream).filter(|s| *s > 0), ..error });
            assert_eq!(failure.kind.name(), expected, "{status} {code} {upstream}");
            assert_eq!((failure.message.as_str(), failure.status.unwrap_or(0)), ("why", upstream));
        };
        check(502, "provider_key", 401, "AUTH_FAILED");
        check(429, "rate_limit_exceeded", 429, "RATE_LIMIT");
        check(429, "insufficient_quota", 402, "RATE_LIMIT");
        check(503, "circuit_open", 0, "CIRCUIT_OPEN");
        check(504, "timeout", 0, "TIMEOUT");
        check(502, "provider_error", 0, "API_FAILED");
        check(502, "provider_error", 500, "SERVER_ERROR");
        check(503, "provider_overloaded", 529, "SERVER_ERROR");
        check(502, "provider_error", 200, "UNEXPECTED_FORMAT");
        check(400, "context_length_exceeded", 400, "CLIENT_ERROR");
        check(400, "", 0, "INVALID_INPUT");
    }

    #[test]
    fn an_error_event_is_one_and_a_chunk_is_none() {
        let event = br#"{"error":{"message":"late","type":"server_error","param":null,"code":"timeout"}}"#;
        assert_eq!(Failure::from_event(event), Some(Failure::new(Kind::Timeout, "late")));
        assert_eq!(Failure::from_event(br#"{"choices":[]}"#), None);
    }
}
