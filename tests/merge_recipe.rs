//! mergekit recipes: what is read, what is refused and where, and the values of their parameters.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "merge_recipe/support.rs"]
mod support;

#[path = "merge_recipe/accepted.rs"]
mod accepted;
#[path = "merge_recipe/chain.rs"]
mod chain;
#[path = "merge_recipe/hostile.rs"]
mod hostile;
#[path = "merge_recipe/outline.rs"]
mod outline;
#[path = "merge_recipe/properties.rs"]
mod properties;
#[path = "merge_recipe/refused.rs"]
mod refused;
#[path = "merge_recipe/refused_values.rs"]
mod refused_values;
#[path = "merge_recipe/schedule.rs"]
mod schedule;
