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

#[path = "gpu_model/alike.rs"]
mod alike;
#[path = "gpu_model/bench.rs"]
mod bench;
#[path = "gpu_model/choices.rs"]
mod choices;
#[path = "gpu_model/golden.rs"]
mod golden;
#[path = "gpu_model/layouts.rs"]
mod layouts;
#[path = "gpu_model/limits.rs"]
mod limits;
#[path = "gpu_model/merge_lost.rs"]
mod merge_lost;
#[path = "gpu_model/merge_paths.rs"]
mod merge_paths;
#[path = "gpu_model/merged.rs"]
mod merged;
#[path = "gpu_model/requests.rs"]
mod requests;
#[path = "gpu_model/support.rs"]
mod support;
#[path = "gpu_model/tuning.rs"]
mod tuning;

/// The embedded model as it is stored, on this binary's backend.
fn tale() -> bise::engine::Engine {
    support::load("www/models/tale", bise::engine::WeightMode::Checkpoint, common::limits())
}
