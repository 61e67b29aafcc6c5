//! The doors: sockets, connections and their deadlines; the start of every request.

use std::{future::Future, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

use crate::{
    access::{Access, Door, Peer},
    body::Body,
    config::{Limits, Settings},
};

/// Sockets that are bound and listen.
#[derive(Debug)]
pub struct Sockets {}

/// Why a socket cannot be had: one line that names the address and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BindError(pub String);

/// What all connections use; a reload swaps it, and connections that come from then on see it.
pub struct Shared {
    /// Who may come in.
    pub access: ArcSwap<Access>,
    /// Deadlines and caps.
    pub limits: ArcSwap<Limits>,
    /// The certificate.
    pub tls: ArcSwap<rustls::ServerConfig>,
}

impl Shared {
    /// Starts with these.
    pub fn new(access: Access, limits: Limits, tls: Arc<rustls::ServerConfig>) -> Self {
        Self {
            access: ArcSwap::from_pointee(access),
            limits: ArcSwap::from_pointee(limits),
            tls: ArcSwap::from(tls),
        }
    }
}

/// Binds every socket of these settings.
///
/// # Errors
/// An address that is taken or not ours.
pub fn bind(_settings: &Settings) -> Result<Sockets, BindError> {
    Err(BindError("not built yet".into()))
}

impl Sockets {
    /// Where they listen.
    pub fn addresses(&self) -> Vec<(Door, SocketAddr)> {
        Vec::new()
    }
}

/// Serves until `drain` is cancelled, then finishes what is open until the `drain` limit passes.
pub async fn serve<H, F>(_sockets: Sockets, _shared: Arc<Shared>, _handler: H, drain: CancellationToken)
where
    H: Fn(Peer, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    drain.cancelled().await;
}
