//! Safetensors in and out: parser, manifest, scales, writer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "../common/mod.rs"]
mod common;

mod support;

mod errors;
mod foreign;
mod manifest;
mod oracle;
mod parser;
mod retry;
mod scales;
mod script;
mod steady;
mod steady_ends;
mod steady_whole;
mod writer;
