//! sigoREST: one OpenAI-compatible address for every model, with providers as native plugins.
//!
//! Modules in reading order: the door, the request, and what serves all of it.

#![forbid(unsafe_code)]

pub mod access;
pub mod admin;
pub mod api;
pub mod listen;
pub mod tls;

pub mod account;
pub mod breaker;
pub mod catalog;
pub mod channel;
pub mod dialect;
pub mod limits;
pub mod memory;
pub mod pipeline;
pub mod plugins;
pub mod relay;
pub mod route;
pub mod session;
pub mod upstream;

pub mod ask;
pub mod body;
pub mod cli;
pub mod config;
pub mod drain;
pub mod error;
pub mod files;
pub mod gateway;
pub mod sync;
pub mod telemetry;
