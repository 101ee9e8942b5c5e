//! `y = x W^T` for many tokens. See matmul.wgsl.

use crate::gpu::Kernel;
use crate::steps::{MatrixSpec, Write};

use super::weights::Decoder;
use super::{BATCH_WGSL, Grid, linear, weights};

/// Tokens and rows of a workgroup's tile, as in matmul.wgsl.
const TILE: (u32, u32) = (32, 64);

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, write: Write) -> Option<Kernel> {
    Some(Kernel {
        name: "matmul",
        parts: vec![
            BATCH_WGSL,
            weights::wgsl(spec.dtype, decoder)?,
            linear::WGSL,
            include_str!("matmul.wgsl"),
        ],
        constants: linear::constants(spec, write).to_vec(),
        bindings: linear::BINDINGS,
    })
}

/// Workgroups for `rows` rows of W and `tokens` tokens. A part of a matrix has fewer than
/// 64 * 65535 rows, so that no fold is needed.
pub fn grid(rows: u32, tokens: u32) -> Grid {
    [rows.div_ceil(TILE.1), tokens.div_ceil(TILE.0), 1]
}
