//! `Mlp = silu(Mlp) * up`. See silu_mul.wgsl.

use crate::gpu::{Binding, Kernel};

use super::Grid;

/// Layout of `Params` in silu_mul.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// vec4 per row of both.
    pub pitch: u32,
    /// Uniform structs are multiples of 16 bytes.
    pub padding: [u32; 3],
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] =
    &[Binding::uniform("params", size_of::<Params>()), Binding::read("up"), Binding::write("mlp")];

/// The kernel.
pub fn kernel() -> Kernel {
    Kernel {
        name: "silu_mul",
        parts: vec![wgsl!("silu_mul.wgsl")],
        constants: Vec::new(),
        bindings: BINDINGS,
    }
}

/// Workgroups for rows of `pitch` vec4 and `tokens` tokens.
pub fn grid(pitch: u32, tokens: u32) -> Grid {
    [pitch.div_ceil(64), tokens, 1]
}
