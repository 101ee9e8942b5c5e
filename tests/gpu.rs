//! Kernels and backend on a GPU adapter, against their plain-Rust twins.
//!
//! `BISE_ADAPTER=name` picks the adapter; `BISE_LIMITS=adapter|default|<bytes>` the limits that are
//! asked of it, bytes being those of a storage binding, at least 262144. Without an adapter every
//! test fails, unless `BISE_NO_GPU=1` says that there is none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

mod gpu {
    mod common;

    mod attention;
    mod cache_f8;
    mod decoder;
    mod fp8;
    mod gated;
    mod merge;
    mod merge_blend;
    mod merge_counts;
    mod merge_kernels;
    mod model;
    mod products;
    mod rows;
    mod sample;
    mod split;
    mod subgroups;
    mod wgsl;
}
