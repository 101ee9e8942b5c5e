//! `bise merge`: what it leaves in a directory, and what it leaves when it fails.
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

#[path = "cli_merge/failures.rs"]
mod failures;
#[path = "cli_merge/output.rs"]
mod output;
#[path = "cli_merge/support.rs"]
mod support;
