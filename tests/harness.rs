//! What the tests stand on: the gateway under test, a caller, and a provider's server.

pub mod client;
pub mod server;
pub mod steady;
pub mod terminal;
pub mod upstream;

pub use client::{Connection, PATIENCE, Reply};
pub use server::{
    CLI, KEY, PLUGINS, SERVER, Server, Setup, eventually, finish, gateway, plugin_file, signal, trusting,
};
pub use steady::{Steady, cpu_time, memory_peak, memory_settled, memory_used, reset_memory_peak};
pub use terminal::Terminal;
pub use upstream::{Answer, Recorded, Upstream, chunk, completion, say, usage_chunk};
