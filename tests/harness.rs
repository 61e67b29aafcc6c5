//! What the tests stand on: the gateway under test, a caller, and a provider's server.

pub mod client;
pub mod server;
pub mod terminal;
pub mod upstream;

pub use client::{Connection, PATIENCE, Reply};
pub use server::{
    CLI, KEY, PLUGINS, SERVER, Server, Setup, eventually, finish, gateway, plugin_file, signal,
};
pub use terminal::Terminal;
pub use upstream::{Answer, Recorded, Upstream, chunk, completion, say, usage_chunk};
