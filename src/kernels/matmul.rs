//! `y = x W^T` for many tokens. See matmul.wgsl.

use crate::gpu::Kernel;
use crate::steps::MatrixSpec;

use super::sizes::Tile;
use super::weights::Decoder;
use super::{BATCH_WGSL, Grid, linear, weights};

/// Rows and tokens that one thread computes, as in matmul.wgsl.
const PER_THREAD: u32 = 4;

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, tile: Tile) -> Option<Kernel> {
    let Tile { across, down, depth, stride } = tile;
    Some(Kernel {
        name: "matmul",
        parts: vec![
            BATCH_WGSL,
            weights::wgsl(spec.dtype, decoder)?,
            linear::WGSL,
            include_str!("matmul.wgsl"),
        ],
        constants: vec![
            ("ACROSS", f64::from(across)),
            ("DOWN", f64::from(down)),
            ("DEPTH", f64::from(depth)),
            ("STRIDE", f64::from(stride)),
            linear::constant(spec),
        ],
        bindings: linear::BINDINGS,
    })
}

/// Workgroups for `rows` rows of W and `tokens` tokens. A part of a matrix has fewer than
/// 32 * 65535 rows, so that no fold is needed.
pub fn grid(rows: u32, tokens: u32, tile: Tile) -> Grid {
    let Tile { across, down, .. } = tile;
    [rows.div_ceil(across * PER_THREAD), tokens.div_ceil(down * PER_THREAD), 1]
}
