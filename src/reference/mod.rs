//! Plain-Rust twins of the kernels, and a backend made of them: the oracle, simple on purpose.
//!
//! One file per kernel, with its name, its binding order and its buffers: rows of activations
//! and weights are padded here as they are on the GPU. What a kernel takes from the dispatch
//! (tokens) comes first, what it is specialised with (dtype, write) where it is needed. Sums run
//! in f64, so that a difference from a kernel is the kernel's.
#![allow(
    clippy::indexing_slicing,
    reason = "an oracle for tests, native builds only: a panic here is a failed test, and loops that read like the formula are the point"
)]

pub mod attend;
pub mod attend_many;
pub mod attend_one;
pub mod attend_reduce;
mod backend;
pub mod blend;
pub mod decode_fp8;
pub mod embed;
pub mod gain;
pub mod linear;
pub mod matmul;
pub mod matmul_gated;
pub mod matvec;
pub mod matvec_gated;
pub mod rms_norm;
pub mod rope_store;
pub mod rope_store_f8;
pub mod sample_adjust;
pub mod sample_pick;
pub mod silu_mul;
pub mod slerp_sums;
pub mod subgroups;
pub mod weights;

pub use backend::{RefMatrix, RefVector, Reference, ReferenceError};
