//! Whole models on the adapter against transformers: the embedded pair and SmolLM2-135M.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

#[path = "model/golden.rs"]
mod golden;
#[path = "model/requests.rs"]
mod requests;
#[path = "model/smollm2.rs"]
mod smollm2;
#[path = "model/support.rs"]
mod support;
