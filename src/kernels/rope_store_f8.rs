//! Rotary embedding and the store into a key/value cache of FP8. See rope_store_f8.wgsl.

use crate::gpu::Kernel;
use crate::steps::DecoderShape;

use super::cache_form::ENCODE;
pub use super::rope_store::{BINDINGS, Params};
use super::{BATCH_WGSL, Grid};

/// The kernel.
pub fn kernel() -> Kernel {
    Kernel {
        name: "rope_store_f8",
        parts: vec![BATCH_WGSL, ENCODE, wgsl!("rope_store_f8.wgsl")],
        constants: Vec::new(),
        bindings: BINDINGS,
    }
}

/// Workgroups: one for each query, key and value head.
pub fn grid(shape: &DecoderShape, tokens: u32) -> Grid {
    [shape.heads + 2 * shape.kv_heads, tokens, 1]
}
