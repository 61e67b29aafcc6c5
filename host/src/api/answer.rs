//! Requests that ask no model: which function makes which answer.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body::Body as HttpBody;

use super::{
    HealthInput, PluginHealth,
    channels::{self, Path},
};
use crate::{
    access::Caller,
    account::{MetricsInput, PluginMetrics},
    admin,
    body::Body,
    error::Error,
    gateway::Gateway,
    limits,
    plugins::{Generation, Snapshot, meter::Meter},
};

/// Providers that list their models are asked again for a list, but not more often than this.
const LIST_GAP: std::time::Duration = std::time::Duration::from_secs(2);

/// What stands before a plugin's name.
const PLUGINS: &str = "/api/plugins/";

/// Methods of a path that is not served under the one asked for.
fn allowed(path: &str) -> Option<&'static str> {
    Some(match path {
        "/v1/chat/completions" | "/v1/embeddings" => "POST",
        "/api/memory" => "GET, HEAD, PUT",
        "/v1/models" | "/api/models" | "/api/health" | "/api/help" | "/api/version" | "/api/usage"
        | "/metrics" | "/ping" => "GET, HEAD",
        "/api/plugins" | "/api/channels" => "GET, HEAD",
        path if path.starts_with("/v1/models/") => "GET, HEAD",
        path if path.strip_prefix(PLUGINS).is_some_and(admin::takes_orders) => "POST",
        path if path.strip_prefix(PLUGINS).is_some_and(|name| !name.is_empty() && !name.contains('/')) => {
            "GET, HEAD"
        }
        path => match Path::of(path)? {
            Path::One(..) => "GET, HEAD",
            Path::Switch(..) => "POST",
        },
    })
}

/// Answers a request that asks no model.
///
/// # Errors
/// 404, 405 with `Allow`, or what the endpoint refuses.
pub async fn answer<B>(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    head: &Parts,
    body: B,
) -> Result<Response<Body>, Error>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let path = head.uri.path();
    match (&head.method, path) {
        (&Method::PUT, "/api/memory") => {
            gateway.shared.access.load().memory_write(caller)?;
            let body = limits::read_body(body, head, &gateway.shared.limits.load_full()).await?;
            Ok(json(gateway.memory.put(&body).await?.json()))
        }
        (&Method::POST, path) if path.strip_prefix(PLUGINS).is_some_and(admin::takes_orders) => {
            gateway.shared.access.load().admin(caller)?;
            admin::order(gateway, path.strip_prefix(PLUGINS).unwrap_or_default()).await.map(json)
        }
        (&Method::POST, path) if let Some(Path::Switch(provider, name, on)) = Path::of(path) => {
            gateway.shared.access.load().admin(caller)?;
            channels::switch(gateway, provider, name, on).await.map(json)
        }
        (&Method::GET | &Method::HEAD, _) => read(gateway, head).await,
        // Who may not write does not learn either what could be written.
        (_, path) if path.starts_with("/api/") && path != "/api/memory" => {
            gateway.shared.access.load().admin(caller)?;
            Err(refused(head))
        }
        _ => Err(refused(head)),
    }
}

async fn read(gateway: &Arc<Gateway>, head: &Parts) -> Result<Response<Body>, Error> {
    let catalog = || gateway.catalog.load_full();
    Ok(json(match head.uri.path() {
        "/v1/models" => {
            gateway.discover(LIST_GAP).await;
            super::models(&catalog())
        }
        "/api/models" => {
            gateway.discover(LIST_GAP).await;
            super::model_rows(&catalog())
        }
        "/api/health" => super::health(health(gateway, &gateway.plugins.current(), &catalog())),
        "/api/memory" => gateway.memory.block().json(),
        "/api/help" => super::help(&catalog(), &base(head)),
        "/api/version" => super::version(),
        "/api/usage" => gateway.account.usage(),
        "/metrics" => return Ok(text(metrics(gateway), "text/plain; version=0.0.4; charset=utf-8")),
        "/api/channels" => channels::list(&gateway.plugins.current()),
        "/ping" => return Ok(text("pong".into(), "text/plain; charset=utf-8")),
        "/api/plugins" => admin::list(&gateway.plugins.current(), &catalog()),
        path if allowed(path).is_some()
            && path.starts_with(PLUGINS)
            && !admin::takes_orders(&path[PLUGINS.len()..]) =>
        {
            admin::one(&gateway.plugins.current(), &catalog(), &path[PLUGINS.len()..])?
        }
        path if let Some(Path::One(provider, name)) = Path::of(path) => {
            channels::one(&gateway.plugins.current(), provider, name)?
        }
        path => match path.strip_prefix("/v1/models/") {
            Some(rest) => {
                let found = super::model(&catalog(), rest);
                if found.is_err() {
                    gateway.discover(LIST_GAP).await;
                    return super::model(&catalog(), rest).map(json);
                }
                found?
            }
            None => return Err(refused(head)),
        },
    }))
}

/// Where the caller reached us, for examples to paste.
fn base(head: &Parts) -> String {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| head.uri.authority().map(http::uri::Authority::as_str));
    format!("{}://{}", head.uri.scheme_str().unwrap_or("http"), host.unwrap_or("localhost:9080"))
}

fn refused(head: &Parts) -> Error {
    let path: String = head.uri.path().chars().take(200).collect();
    match allowed(head.uri.path()) {
        Some(methods) => {
            let text = format!("{} is not served at {path}; use {methods}", head.method);
            let mut error = Error::new(StatusCode::METHOD_NOT_ALLOWED, text).code("method_not_allowed");
            error.allow = Some(methods.into());
            error
        }
        None => {
            let text = format!("there is nothing at {path}; GET /api/help lists what there is");
            Error::new(StatusCode::NOT_FOUND, text).code("not_found")
        }
    }
}

fn health<'a>(
    gateway: &Gateway,
    snapshot: &Snapshot,
    catalog: &'a crate::catalog::Catalog,
) -> HealthInput<'a> {
    let serving = snapshot.plugins.values().map(|generation| {
        let mine = snapshot.providers.values().filter(|provider| provider.generation.id == generation.id);
        let quarantine = generation.meter.quarantine();
        PluginHealth {
            id: generation.id.to_string(),
            version: generation.manifest.version.clone(),
            status: if quarantine.is_some() { "quarantined" } else { "ok" }.into(),
            reason: quarantine.map(|quarantine| quarantine.message.clone()),
            providers: mine.map(|provider| provider.name.to_string()).collect(),
            faults: snapshot.faults(&generation.id),
        }
    });
    let refused = snapshot.refused.iter().map(|file| PluginHealth {
        id: file.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        version: String::new(),
        status: "refused".into(),
        reason: Some(file.refused.message.clone()),
        providers: Vec::new(),
        faults: 0,
    });
    HealthInput {
        catalog,
        breakers: gateway.breakers.states(),
        memory_set: !gateway.memory.block().content.is_empty(),
        plugins: serving.chain(refused).collect(),
        reasons: channels::reasons(snapshot),
        uptime: gateway.account.uptime(),
    }
}

/// What the loaded versions of a plugin do.
fn generations(all: &[Arc<Meter>], serving: Option<&Arc<Generation>>) -> [(&'static str, usize); 3] {
    let serves = |meter: &&Arc<Meter>| serving.is_some_and(|serving| Arc::ptr_eq(&serving.meter, meter));
    let past = || all.iter().filter(|meter| !serves(meter));
    let draining = past().filter(|meter| meter.in_flight() > 0).count();
    [("serving", all.len() - past().count()), ("draining", draining), ("retired", past().count() - draining)]
}

fn metrics(gateway: &Gateway) -> String {
    let snapshot = gateway.plugins.current();
    let quantiles = |id: &str| {
        let serving = snapshot.plugins.get(id).map(|generation| &generation.meter.steps);
        serving
            .map_or_else(Vec::new, |steps| [0.5, 0.99].map(|share| (share, steps.quantile(share))).to_vec())
    };
    let quantiles: Vec<_> = snapshot.meters.keys().map(|id| quantiles(id)).collect();
    let plugins: Vec<_> = snapshot
        .meters
        .iter()
        .zip(&quantiles)
        .map(|((id, meters), quantiles)| PluginMetrics {
            plugin: id,
            faults: snapshot.faults(id),
            steps: meters.iter().map(|meter| meter.steps.count()).sum(),
            step_cpu: meters.iter().map(|meter| meter.steps.total()).sum(),
            generations: generations(meters, snapshot.plugins.get(id)),
            step_cpu_quantiles: quantiles,
        })
        .collect();
    gateway.account.metrics(&MetricsInput {
        version: super::VERSION,
        in_flight: gateway.in_flight.count(),
        breakers: &gateway.breakers.states(),
        channels: &channels::rows(&snapshot).collect::<Vec<_>>(),
        plugins: &plugins,
    })
}

fn json(body: String) -> Response<Body> {
    text(body, "application/json")
}

fn text(body: String, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
