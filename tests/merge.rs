//! Merging: the arithmetic against mergekit's, the result as a checkpoint, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "common/mod.rs"]
mod common;

#[path = "merge/checkpoints.rs"]
mod checkpoints;
#[path = "merge/support.rs"]
mod support;

#[path = "merge/dtypes.rs"]
mod dtypes;
#[path = "merge/export.rs"]
mod export;
#[path = "merge/fp8.rs"]
mod fp8;
#[path = "merge/golden.rs"]
mod golden;
#[path = "merge/iterated.rs"]
mod iterated;
#[path = "merge/mergekit.rs"]
mod mergekit;
#[path = "merge/methods.rs"]
mod methods;
#[path = "merge/properties.rs"]
mod properties;
#[path = "merge/refused.rs"]
mod refused;
#[path = "merge/reports.rs"]
mod reports;
#[path = "merge/slerp.rs"]
mod slerp;
#[path = "merge/streams.rs"]
mod streams;
#[path = "merge/tokenizers.rs"]
mod tokenizers;
