//! Joins attention's splits. See attend_reduce.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::DecoderShape;

use super::{BATCH_WGSL, BatchUniform, Grid};

/// Layout of `Params` in attend_reduce.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Query heads.
    pub heads: u32,
    /// Elements per head.
    pub head_dim: u32,
    /// f32 between rows of attn_out.
    pub out_pitch: u32,
    /// Uniform structs are multiples of 16 bytes.
    pub padding: u32,
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("pieces"),
    Binding::write("attn_out"),
];

/// The kernel.
pub fn kernel() -> Kernel {
    Kernel {
        name: "attend_reduce",
        parts: vec![BATCH_WGSL, wgsl!("attend_reduce.wgsl")],
        constants: Vec::new(),
        bindings: BINDINGS,
    }
}

/// Workgroups: a thread for two elements of the output.
pub fn grid(shape: &DecoderShape, tokens: u32) -> Grid {
    [(shape.q_width() / 2).div_ceil(64), tokens, 1]
}
