//! `Mlp = silu(x Wg^T) * (x Wu^T)` for many tokens. See matmul_gated.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::MatrixSpec;

use super::matmul::REGISTERS_WGSL;
use super::sizes::Tile;
use super::weights::Decoder;
use super::{BATCH_WGSL, BatchUniform, Grid, weights};

/// Rows of each matrix that a thread computes.
const ROWS: u32 = 4;

/// The same as for one token.
pub use super::matvec_gated::Params;

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("x"),
    Binding::read("gate_weights"),
    Binding::read("gate_scales"),
    Binding::read("up_weights"),
    Binding::read("up_scales"),
    Binding::write("y"),
];

/// The kernel for a pair of matrices of this shape; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, tile: Tile) -> Option<Kernel> {
    Some(Kernel {
        name: "matmul_gated",
        parts: vec![
            BATCH_WGSL,
            weights::wgsl(spec.dtype, decoder)?,
            REGISTERS_WGSL,
            tile.walk(),
            wgsl!("matmul_gated.wgsl"),
        ],
        constants: tile.constants(spec, 2 * ROWS),
        bindings: BINDINGS,
    })
}

/// Workgroups for `rows` rows of each matrix and `tokens` tokens.
pub fn grid(rows: u32, tokens: u32, tile: Tile) -> Grid {
    tile.grid(rows, ROWS, tokens)
}
