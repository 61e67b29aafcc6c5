//! The only place that turns an error into a status and a body, in OpenAI's error shape.
//!
//! A message says what happened, to what, and what to do next. Callers see their own mistakes;
//! internals go to the log under the request's id.

use std::{borrow::Cow, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};

use provider_api::{Fault, FaultKind};

use crate::{body::Body, channel::Channel, plugins::Provider};

/// A refusal or failure as a caller sees it: `{"error":{"message","type","param","code"}}`.
#[derive(Debug, Clone)]
pub struct Error {
    /// HTTP status of the answer.
    pub status: StatusCode,
    /// OpenAI's error type, for example `invalid_request_error`.
    pub kind: Cow<'static, str>,
    /// Machine-readable code, for example `model_not_found`.
    pub code: Option<Cow<'static, str>>,
    /// The request field that is wrong.
    pub param: Option<String>,
    /// What happened, to what, and what to do next.
    pub message: String,
    /// Sent as `Retry-After` in whole seconds, rounded up.
    pub retry_after: Option<Duration>,
    /// Sent as `x-should-retry`, which OpenAI's SDKs obey.
    pub should_retry: Option<bool>,
    /// Sent as `Allow` with a 405.
    pub allow: Option<String>,
    /// Status of the upstream's answer, if that is what went wrong; callers never see it.
    pub upstream: Option<u16>,
}

impl Error {
    /// An error with the type that OpenAI uses for this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        // A caller's mistake stays one however often it is sent; waiting helps with these four.
        let mistake = status.is_client_error() && !matches!(status.as_u16(), 408 | 409 | 425 | 429);
        Self {
            status,
            kind: Cow::Borrowed(kind),
            code: None,
            param: None,
            message: message.into(),
            retry_after: None,
            should_retry: mistake.then_some(false),
            allow: None,
            upstream: None,
        }
    }

    /// 400: the caller's request is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 403: the caller may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 503 with `Retry-After`: not now.
    pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, message);
        error.retry_after = Some(retry_after);
        error
    }

    /// 500: the gateway itself failed; `message` must hold nothing internal.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Names the request field that is wrong.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets the machine-readable code.
    #[must_use]
    pub fn code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Sets OpenAI's error type where it differs from the status's usual one.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<Cow<'static, str>>) -> Self {
        self.kind = kind.into();
        self
    }

    /// Tells SDKs whether another try can help.
    #[must_use]
    pub fn should_retry(mut self, yes: bool) -> Self {
        self.should_retry = Some(yes);
        self
    }

    /// What a fault means for the caller; what does not concern the caller's request stays inside.
    pub fn from_fault(fault: &Fault, provider: &Provider, channel: &Channel) -> Self {
        let upstream = Some(fault.status).filter(|status| *status > 0);
        Self { upstream, ..Self::meaning(fault, provider, channel) }
    }

    /// 502: the provider refuses the key of this variable.
    pub fn key_refused(provider: &str, variable: &str) -> Self {
        let text = format!("provider `{provider}` refused the gateway's key; check {variable}");
        Self::new(StatusCode::BAD_GATEWAY, text).code("provider_key")
    }

    /// 502: the provider refused the key of this variable before, and its channel is out since.
    pub fn key_out(provider: &str, variable: &str, channel: &str) -> Self {
        let text = format!(
            "provider `{provider}` refused the gateway's key and is not asked with it again; check {variable}, \
             then reload a changed key with SIGHUP, or try the same one with \
             POST /api/channels/{provider}/{channel}/enable"
        );
        Self::new(StatusCode::BAD_GATEWAY, text).code("provider_key")
    }

    /// 429: too many requests at once or in a time.
    pub fn rate_limited(text: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, text).code("rate_limit_exceeded")
    }

    /// 429: no money is left at the provider.
    pub fn quota(provider: &str) -> Self {
        let text = format!("the budget of the gateway's account at provider `{provider}` is used up");
        Self::new(StatusCode::TOO_MANY_REQUESTS, text).kind("insufficient_quota").code("insufficient_quota")
    }

    fn meaning(fault: &Fault, provider: &Provider, channel: &Channel) -> Self {
        let (name, plugin) = (&provider.name, &provider.generation.id);
        let retry_after = Some(Duration::from_millis(fault.retry_after_ms)).filter(|time| !time.is_zero());
        let bad_gateway =
            |text: String, code: &'static str| Self::new(StatusCode::BAD_GATEWAY, text).code(code);
        match fault.kind {
            FaultKind::BAD_REQUEST
            | FaultKind::UNSUPPORTED
            | FaultKind::CONTEXT_LENGTH
            | FaultKind::CONTENT_FILTER
            | FaultKind::NOT_FOUND => Self::callers_own(fault, provider),
            FaultKind::AUTH if channel.key().is_none() => {
                let variable = &channel.variable;
                let text =
                    format!("the key for provider `{name}` is missing; set {variable} for the gateway");
                bad_gateway(text, "provider_key")
            }
            FaultKind::AUTH => Self::key_refused(name, &channel.variable),
            FaultKind::RATE_LIMIT => {
                let text = format!("provider `{name}` limits the rate of requests; try again later");
                Self { retry_after, ..Self::rate_limited(text) }
            }
            FaultKind::QUOTA => Self::quota(name),
            FaultKind::OVERLOADED => {
                let text = format!("provider `{name}` is overloaded; try again later");
                Self::unavailable(text, retry_after.unwrap_or(Duration::from_secs(1)))
                    .code("provider_overloaded")
            }
            FaultKind::TIMEOUT if fault.status == 0 => {
                let text = format!("provider `{name}` did not answer in time; allow more with `timeout`");
                Self::new(StatusCode::GATEWAY_TIMEOUT, text).code("timeout")
            }
            FaultKind::PANIC | FaultKind::INTERNAL => {
                bad_gateway(format!("plugin `{plugin}` failed; the gateway's log says why"), "plugin_fault")
            }
            _ if fault.status == 0 => {
                let text = provider.redact(&fault.message);
                bad_gateway(format!("provider `{name}` failed: {text}"), "provider_error")
            }
            _ => bad_gateway(
                format!("provider `{name}` answered with HTTP {}", fault.status),
                "provider_error",
            ),
        }
    }

    /// The caller's own mistake, in the upstream's words.
    fn callers_own(fault: &Fault, provider: &Provider) -> Self {
        #[derive(serde::Deserialize, Default)]
        #[serde(default)]
        struct Detail {
            r#type: Option<String>,
            param: Option<String>,
            code: Option<String>,
        }
        let detail: Detail = serde_json::from_slice(&fault.detail).unwrap_or_default();
        let own = match fault.kind {
            FaultKind::NOT_FOUND => 404,
            FaultKind::BAD_REQUEST if [400, 404, 409, 413, 415, 422].contains(&fault.status) => fault.status,
            _ => 400,
        };
        let code = match fault.kind {
            FaultKind::NOT_FOUND => Some("model_not_found".to_owned()),
            FaultKind::CONTEXT_LENGTH => Some("context_length_exceeded".to_owned()),
            FaultKind::CONTENT_FILTER => Some("content_filter".to_owned()),
            _ => detail.code,
        };
        let mut error = Self::new(
            StatusCode::from_u16(own).unwrap_or(StatusCode::BAD_REQUEST),
            provider.redact(&fault.message),
        );
        let plain = |text: &String| !text.is_empty() && text.len() < 100;
        if let Some(kind) = detail.r#type.filter(plain) {
            error = error.kind(provider.redact(&kind));
        }
        error.code = code.filter(plain).map(|code| Cow::Owned(provider.redact(&code)));
        error.param = detail.param.map(|param| provider.redact(&param));
        error
    }

    /// The JSON body, one line, shared by answers and by error events inside streams.
    pub fn json(&self) -> String {
        serde_json::json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
        .to_string()
    }
}

impl Error {
    /// The whole answer.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            let secs = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs.max(1)));
        }
        if let Some(yes) = self.should_retry {
            headers.insert("x-should-retry", HeaderValue::from_static(if yes { "true" } else { "false" }));
        }
        if let Some(value) = self.allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
            headers.insert(header::ALLOW, value);
        }
        response
    }
}
