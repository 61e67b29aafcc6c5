//! What the tests stand on: the gateway under test, a caller, and a provider's server.

// Each part serves some of the tests; the lists below are its whole.
#![allow(dead_code, unused_imports)]

pub mod client;
pub mod server;
pub mod upstream;

pub use client::{Connection, PATIENCE, Reply};
pub use server::{
    CLI, KEY, PLUGINS, SERVER, Server, Setup, eventually, finish, gateway, plugin_file, signal,
};
pub use upstream::{Answer, Recorded, Upstream, chunk, completion, say, usage_chunk};
