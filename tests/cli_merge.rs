//! `bise merge` and `bise export`: what they leave in a directory, and what they leave when they fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "common/command.rs"]
mod command;

#[path = "cli_merge/export.rs"]
mod export;
#[path = "cli_merge/failures.rs"]
mod failures;
#[path = "cli_merge/output.rs"]
mod output;
#[path = "cli_merge/support.rs"]
mod support;
