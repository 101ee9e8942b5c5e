//! Load and generate: the loops that tie the floors together.

pub mod types;

pub use types::*;
