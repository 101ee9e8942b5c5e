//! Tokens <-> text, against transformers' own values.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "text/support.rs"]
mod support;

#[path = "text/hostile.rs"]
mod hostile;
#[path = "text/sampler.rs"]
mod sampler;
#[path = "text/stop.rs"]
mod stop;
#[path = "text/stream.rs"]
mod stream;
#[path = "text/template.rs"]
mod template;
#[path = "text/tokenizer.rs"]
mod tokenizer;
