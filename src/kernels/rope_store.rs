//! Rotary embedding and the store into the key/value cache. See rope_store.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::DecoderShape;

use super::{BATCH_WGSL, BatchUniform, Grid};

/// Layout of `Params` in rope_store.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// head_dim / 2.
    pub half: u32,
    /// f32 between rows of qkv.
    pub pitch: u32,
    /// Positions in the cache.
    pub slots: u32,
    /// Uniform structs are multiples of 16 bytes.
    pub padding: [u32; 3],
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("rope"),
    Binding::write("qkv"),
    Binding::write("key_cache"),
    Binding::write("value_cache"),
];

/// The kernel.
pub fn kernel() -> Kernel {
    Kernel {
        name: "rope_store",
        parts: vec![BATCH_WGSL, wgsl!("rope_store.wgsl")],
        constants: Vec::new(),
        bindings: BINDINGS,
    }
}

/// Workgroups: a thread per pair of every query, key and value head.
pub fn grid(shape: &DecoderShape, tokens: u32) -> Grid {
    [((shape.heads + 2 * shape.kv_heads) * (shape.head_dim / 2)).div_ceil(64), tokens, 1]
}
