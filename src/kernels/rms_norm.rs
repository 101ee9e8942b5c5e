//! RMSNorm by row. See rms_norm.wgsl.

use crate::gpu::{Binding, Kernel};

use super::sizes::Sizes;
use super::{BATCH_WGSL, BatchUniform};

/// Layout of `Params` in rms_norm.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Elements per row.
    pub width: u32,
    /// vec4 between rows of x and y.
    pub pitch: u32,
    /// 1: only the batch's last row, into row 0 of y.
    pub last: u32,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("x"),
    Binding::read("weight"),
    Binding::write("y"),
];

/// The kernel for rows of `pitch` vec4. One workgroup per row, with four loads for each of its
/// threads; at least 8 threads, which join their sums, and no more than WebGPU guarantees.
pub fn kernel(pitch: u32, sizes: Sizes) -> Kernel {
    let (least, most) = if sizes == Sizes::Gpu { (32, 256) } else { (8, 16) };
    let workgroup = pitch.div_ceil(4).next_power_of_two().clamp(least, most);
    Kernel {
        name: "rms_norm",
        parts: vec![BATCH_WGSL, wgsl!("rms_norm.wgsl")],
        constants: vec![("WG", f64::from(workgroup))],
        bindings: BINDINGS,
    }
}
