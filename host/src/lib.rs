//! sigoREST: one OpenAI-compatible address for every model, with providers as native plugins.
//!
//! Modules in reading order: the door, the request, and what serves all of it.

#![forbid(unsafe_code)]

pub mod error;
