//! `y = x W^T` for many tokens. See matmul.wgsl.

use crate::gpu::Kernel;
use crate::steps::MatrixSpec;

use super::sizes::Tile;
use super::weights::Decoder;
use super::{Grid, linear};

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, tile: Tile) -> Option<Kernel> {
    let mut parts = tile.parts(spec, decoder, &[linear::WGSL])?;
    parts.push(include_str!("matmul.wgsl"));
    let constants = tile.constants(spec, tile.rows);
    Some(Kernel { name: "matmul", parts, constants, bindings: linear::BINDINGS })
}

/// Workgroups for `rows` rows of W and `tokens` tokens.
pub fn grid(rows: u32, tokens: u32, tile: Tile) -> Grid {
    tile.grid(rows, tile.rows, tokens)
}
