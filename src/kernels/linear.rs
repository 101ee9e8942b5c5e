//! What `matvec` and `matmul` share: bindings and parameters of y = x W^T.

use crate::gpu::{Binding, GpuMatrix, Part};
use crate::steps::{MatrixSpec, Write};

use super::BatchUniform;
use super::weights::per_load;

/// `Params` and bindings in shared/linear.wgsl.
pub(super) const WGSL: &str = wgsl!("shared/linear.wgsl");

/// Layout of `Params` in shared/linear.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Column of y for the buffer's first row of W.
    pub first_row: u32,
    /// Rows of W in the buffer.
    pub rows: u32,
    /// 16-byte loads per row of W.
    pub loads: u32,
    /// vec4 between rows of x.
    pub x_pitch: u32,
    /// f32 between rows of y.
    pub y_pitch: u32,
    /// Scales per row; 0: none.
    pub scale_blocks: u32,
    /// Loads that share a scale.
    pub loads_per_block: u32,
    /// 1: x and y have one row whatever the batch.
    pub single: u32,
    /// 1: added to y (residual). Not a specialisation: it would double the shaders to compile.
    pub add: u32,
    /// Uniform structs are multiples of 16 bytes.
    pub padding: [u32; 3],
}

impl Params {
    /// Parameters of one part of `matrix`, for x and y with rows of `x_pitch` and `y_pitch` f32, the
    /// matrix's first row being that of column `first` of y.
    pub fn new(
        matrix: &GpuMatrix,
        part: &Part,
        x_pitch: u32,
        y_pitch: u32,
        first: u32,
        single: bool,
        write: Write,
    ) -> Params {
        Params {
            first_row: first + part.first_row,
            rows: part.rows,
            loads: matrix.loads_per_row(),
            x_pitch: x_pitch / 4,
            y_pitch,
            scale_blocks: matrix.scale_blocks(),
            loads_per_block: loads_per_block(&matrix.spec),
            single: u32::from(single),
            add: u32::from(write == Write::Add),
            padding: [0; 3],
        }
    }
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("x"),
    Binding::read("weights"),
    Binding::read("scales"),
    Binding::write("y"),
];

/// 16-byte loads that share a scale; at least 1, so that shaders may divide by it.
pub fn loads_per_block(spec: &MatrixSpec) -> u32 {
    (spec.scale_cols / per_load(spec.dtype)).max(1)
}

/// Whether a row has several scales.
pub(super) fn has_blocks(spec: &MatrixSpec) -> bool {
    spec.scale_cols != 0 && spec.scale_cols < spec.cols
}

/// The override constant of both kernels.
pub(super) fn constant(spec: &MatrixSpec) -> (&'static str, f64) {
    ("BLOCKS", f64::from(u8::from(has_blocks(spec))))
}
