//! Shaders: one kernel = `x.wgsl` (the mathematics) and `x.rs` (parameters, bindings, dispatch).
//!
//! `backend` implements the decoder's steps with them. Every kernel has a plain-Rust
//! twin of the same name in `reference`.

pub mod attend;
pub mod attend_reduce;
mod backend;
pub mod decode_fp8;
pub mod embed;
pub mod linear;
pub mod matmul;
pub mod matvec;
pub mod matvec_gated;
pub mod rms_norm;
pub mod rope_store;
pub mod silu_mul;
pub mod weights;

pub use backend::{BackendInfo, WebGpu};

/// Declares `struct Batch` in WGSL; every kernel that binds it starts with this part.
pub(crate) const BATCH_WGSL: &str = include_str!("shared/batch.wgsl");

/// What changes from one forward pass to the next. Layout of `Batch` in shared/batch.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct BatchUniform {
    /// Tokens of this batch.
    pub tokens: u32,
    /// Position of the first of them.
    pub position: u32,
    /// Parts into which attention divides the cache.
    pub splits: u32,
    /// Key tiles in each of them.
    pub tiles_per_split: u32,
}

/// Workgroups in three dimensions.
pub type Grid = [u32; 3];

/// Most workgroups WebGPU guarantees in one dimension.
const MAX_GROUPS: u32 = 65_535;

/// `groups` workgroups as (x, z), folded where one dimension cannot hold them.
pub(crate) fn fold(groups: u32) -> (u32, u32) {
    let z = groups.div_ceil(MAX_GROUPS).max(1);
    (groups.div_ceil(z), z)
}
