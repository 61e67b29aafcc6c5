//! Clients' wire formats: what a request's envelope says, and how an answer or an error is written.
//!
//! The canonical form is OpenAI's chat JSON as bytes: spans are found and spliced, nothing is rebuilt.

pub mod answer;
pub mod chat;
pub mod embeddings;
pub mod events;
pub mod splice;
