//! `X[t] = table[ids[t]]`. See embed.wgsl.

use crate::gpu::{Binding, GpuMatrix, Kernel, Part};
use crate::steps::MatrixSpec;

use super::weights::Decoder;
use super::{Grid, linear, weights};

/// Layout of `Params` in embed.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Row of the table at which the buffer starts.
    pub first_row: u32,
    /// Rows in the buffer.
    pub rows: u32,
    /// 16-byte loads per row.
    pub loads: u32,
    /// vec4 between rows of X.
    pub pitch: u32,
    /// Scales per row; 0: none.
    pub scale_blocks: u32,
    /// Loads that share a scale.
    pub loads_per_block: u32,
    /// Columns.
    pub width: u32,
    /// Uniform structs are multiples of 16 bytes.
    pub padding: u32,
}

impl Params {
    /// Parameters of one part of the table, for X with rows of `pitch` f32.
    pub fn new(table: &GpuMatrix, part: &Part, pitch: u32) -> Params {
        Params {
            first_row: part.first_row,
            rows: part.rows,
            loads: table.loads_per_row(),
            pitch: pitch / 4,
            scale_blocks: table.scale_blocks(),
            loads_per_block: linear::loads_per_block(&table.spec),
            width: table.spec.cols,
            padding: 0,
        }
    }
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("ids"),
    Binding::read("weights"),
    Binding::read("scales"),
    Binding::write("x"),
];

/// The kernel for a table; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder) -> Option<Kernel> {
    Some(Kernel {
        name: "embed",
        parts: vec![weights::wgsl(spec.dtype, decoder)?, wgsl!("embed.wgsl")],
        constants: Vec::new(),
        bindings: BINDINGS,
    })
}

/// Workgroups for rows of `loads` loads and `tokens` tokens.
pub fn grid(loads: u32, tokens: u32) -> Grid {
    [loads.div_ceil(64), tokens, 1]
}
