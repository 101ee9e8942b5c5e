//! `Mlp = silu(n Wg^T) * (n Wu^T)`, n = norm(x), for few tokens, x with the norm's gain. See matvec_gated.wgsl.

use crate::gpu::{Binding, GpuMatrix, Kernel, Part};
use crate::steps::MatrixSpec;

use super::matvec::{SCALED, scaled_constants};
use super::sizes::Threads;
use super::weights::Decoder;
use super::{Grid, fold, linear, weights};

/// Layout of `Params` in matvec_gated.wgsl and matmul_gated.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Row of Wg and Wu at which the buffers start.
    pub first_row: u32,
    /// Rows in each.
    pub rows: u32,
    /// 16-byte loads per row.
    pub loads: u32,
    /// vec4 between rows of x.
    pub x_pitch: u32,
    /// f32 between rows of y.
    pub y_pitch: u32,
    /// Scales per row; 0: none.
    pub scale_blocks: u32,
    /// Loads that share a scale.
    pub loads_per_block: u32,
    /// Uniform structs are multiples of 16 bytes.
    pub padding: u32,
}

impl Params {
    /// Parameters of one part, for x and y with rows of `x_pitch` and `y_pitch` f32.
    pub fn new(matrix: &GpuMatrix, part: &Part, x_pitch: u32, y_pitch: u32) -> Params {
        Params {
            first_row: part.first_row,
            rows: part.rows,
            loads: matrix.loads_per_row(),
            x_pitch: x_pitch / 4,
            y_pitch,
            scale_blocks: matrix.scale_blocks(),
            loads_per_block: linear::loads_per_block(&matrix.spec),
            padding: 0,
        }
    }
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("x"),
    Binding::read("gate_weights"),
    Binding::read("gate_scales"),
    Binding::read("up_weights"),
    Binding::read("up_scales"),
    Binding::read("squares"),
    Binding::write("y"),
];

/// The kernel for a pair of matrices of this shape; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, threads: Threads, epsilon: f32) -> Option<Kernel> {
    let mut constants = threads.constants(spec);
    constants.extend(scaled_constants(spec, threads, epsilon));
    constants.push(("ROWS", f64::from(threads.gated_rows())));
    constants.push(("OTHERS", f64::from(threads.partials(spec))));
    let weights = weights::wgsl(spec.dtype, decoder)?;
    let parts = vec![weights, wgsl!("matvec_gated.wgsl"), SCALED, threads.reduce()];
    Some(Kernel { name: "matvec_gated", parts, constants, bindings: BINDINGS })
}

/// Workgroups for `rows` rows of each matrix and `tokens` tokens.
pub fn grid(spec: &MatrixSpec, rows: u32, tokens: u32, threads: Threads) -> Grid {
    let (x, z) = fold(rows.div_ceil(threads.gated_rows() * threads.groups(spec)));
    [x, tokens, z]
}
