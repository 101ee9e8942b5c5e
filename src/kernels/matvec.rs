//! `y = x W^T` for few tokens. See matvec.wgsl.

use crate::gpu::Kernel;
use crate::steps::MatrixSpec;

use super::sizes::Threads;
use super::weights::Decoder;
use super::{BATCH_WGSL, Grid, fold, linear, weights};

/// Rows of W that a group of lanes computes together.
const ROWS: u32 = 4;

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, threads: Threads) -> Option<Kernel> {
    Some(Kernel {
        name: "matvec",
        parts: vec![
            BATCH_WGSL,
            weights::wgsl(spec.dtype, decoder)?,
            linear::WGSL,
            include_str!("matvec.wgsl"),
        ],
        constants: threads.constants(spec),
        bindings: linear::BINDINGS,
    })
}

/// Workgroups for `rows` rows of W and `tokens` tokens.
pub fn grid(spec: &MatrixSpec, rows: u32, tokens: u32, threads: Threads) -> Grid {
    let (x, z) = fold(rows.div_ceil(ROWS * threads.groups(spec)));
    [x, tokens, z]
}
