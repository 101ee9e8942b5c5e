//! `y = x W^T` for few tokens. See matvec.wgsl.

use crate::gpu::Kernel;
use crate::steps::{MatrixSpec, Write};

use super::weights::{Decoder, per_load};
use super::{BATCH_WGSL, Grid, fold, linear, weights};

/// Rows of W that a group of lanes computes together.
const ROWS: u32 = 4;

/// Threads per workgroup.
pub(super) const WORKGROUP: u32 = 64;

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, write: Write) -> Option<Kernel> {
    let lanes = lanes(spec);
    let mut constants = vec![("WG", f64::from(WORKGROUP)), ("LANES", f64::from(lanes))];
    constants.extend(linear::constants(spec, write));
    Some(Kernel {
        name: "matvec",
        parts: vec![
            BATCH_WGSL,
            weights::wgsl(spec.dtype, decoder)?,
            linear::WGSL,
            include_str!("matvec.wgsl"),
        ],
        constants,
        bindings: linear::BINDINGS,
    })
}

/// Threads along a row: enough for at least two loads each, so that short rows do not idle a warp.
pub(super) fn lanes(spec: &MatrixSpec) -> u32 {
    let loads = spec.cols.div_ceil(per_load(spec.dtype));
    (loads / 2).clamp(8, WORKGROUP).next_power_of_two().min(WORKGROUP)
}

/// Workgroups for `rows` rows of W and `tokens` tokens.
pub fn grid(spec: &MatrixSpec, rows: u32, tokens: u32) -> Grid {
    let (x, z) = fold(rows.div_ceil(ROWS * (WORKGROUP / lanes(spec))));
    [x, tokens, z]
}
