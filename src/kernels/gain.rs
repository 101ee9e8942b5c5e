//! `x * gain` and the squares of x, for the readers of a norm. See gain.wgsl.

use crate::gpu::{Binding, Kernel};

use super::sizes::Sizes;
use super::{BATCH_WGSL, BatchUniform, Grid};

/// Layout of `Params` in gain.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// vec4 between rows of x, a multiple of 4.
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

/// Columns of x whose squares make one number: what the rows of a workgroup are a multiple of, for all its
/// [`Threads`](super::Threads).
pub fn span(sizes: Sizes) -> u32 {
    match sizes {
        // A group of lanes leaves one.
        Sizes::Gpu => 4,
        // A quarter as many, where reading them costs as much as reading weights.
        Sizes::Cpu => 16,
    }
}

/// f32 between rows of squares, for rows of x of `pitch` f32: whole vec4.
pub fn squares_pitch(pitch: u32, span: u32) -> u32 {
    pitch.div_ceil(4 * span) * 4
}

/// The override constant of all kernels that write or read squares.
pub(super) fn constant(sizes: Sizes) -> (&'static str, f64) {
    ("SPAN", f64::from(span(sizes)))
}

/// The kernel.
pub fn kernel(sizes: Sizes) -> Kernel {
    Kernel {
        name: "gain",
        parts: vec![BATCH_WGSL, include_str!("gain.wgsl")],
        constants: vec![constant(sizes)],
        bindings: BINDINGS,
    }
}

/// Workgroups for rows of `pitch` f32.
pub fn grid(pitch: u32, rows: u32) -> Grid {
    [pitch.div_ceil(16 * 64), rows, 1]
}
