//! x
pub mod abi;
