//! `y = x W^T` for many tokens. See matmul.wgsl.

use crate::gpu::Kernel;
use crate::steps::MatrixSpec;

use super::sizes::Tile;
use super::weights::Decoder;
use super::{BATCH_WGSL, Grid, linear, weights};

/// The sums of a thread.
pub(super) const REGISTERS_WGSL: &str = wgsl!("shared/register_tile.wgsl");

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, tile: Tile) -> Option<Kernel> {
    Some(Kernel {
        name: "matmul",
        parts: vec![
            BATCH_WGSL,
            weights::wgsl(spec.dtype, decoder)?,
            linear::WGSL,
            REGISTERS_WGSL,
            tile.walk(),
            wgsl!("matmul.wgsl"),
        ],
        constants: tile.constants(spec, tile.rows),
        bindings: linear::BINDINGS,
    })
}

/// Workgroups for `rows` rows of W and `tokens` tokens.
pub fn grid(rows: u32, tokens: u32, tile: Tile) -> Grid {
    tile.grid(rows, tile.rows, tokens)
}
