//! The cache of a model: a load that was interrupted goes on, one that is kept asks for nothing, and
//! nothing damaged ever reaches the device.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

#[path = "cache/crash.rs"]
mod crash;
#[path = "cache/damage.rs"]
mod damage;
#[path = "cache/disk.rs"]
mod disk;
#[path = "cache/format.rs"]
mod format;
#[path = "cache/forms.rs"]
mod forms;
#[path = "cache/kept.rs"]
mod kept;
#[path = "cache/support.rs"]
mod support;
