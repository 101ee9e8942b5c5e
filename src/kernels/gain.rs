//! `x * gain` and the squares of x, for the readers of a norm. See gain.wgsl.

use crate::gpu::{Binding, Kernel};

use super::{BATCH_WGSL, BatchUniform, Grid};

/// Layout of `Params` in gain.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// vec4 between rows of x.
    pub pitch: u32,
    /// 1: only the batch's last row, into row 0.
    pub last: u32,
    /// Uniform structs are multiples of 16 bytes.
    pub padding: [u32; 2],
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("x"),
    Binding::read("weight"),
    Binding::write("gained"),
    Binding::write("squares"),
];

/// The kernel.
pub fn kernel() -> Kernel {
    Kernel {
        name: "gain",
        parts: vec![BATCH_WGSL, wgsl!("gain.wgsl")],
        constants: Vec::new(),
        bindings: BINDINGS,
    }
}

/// Workgroups for rows of `pitch` f32.
pub fn grid(pitch: u32, rows: u32) -> Grid {
    [(pitch / 4).div_ceil(64), rows, 1]
}
