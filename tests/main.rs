//! One test binary: a file per step of a request, through the front door of the real programs.

mod harness;
mod tidy;
