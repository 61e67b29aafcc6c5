//! One test binary: a file per step of a request, through the front door of the real programs.

mod harness;

mod access;
mod api;
mod author;
mod breaker;
mod channels;
mod chat;
mod cli;
mod config;
mod disk;
mod embeddings;
mod errors;
mod fallbacks;
mod fuzz;
mod kill;
mod life;
mod listen;
mod logs;
mod memory;
mod models;
mod ollama;
mod packaging;
mod plugins;
mod plugins_guard;
mod plugins_swap;
mod plugins_vetting;
mod providers;
mod retry;
mod sdk;
mod session;
mod stream;
mod tidy;
mod tiny;
mod tls;
mod worker;
