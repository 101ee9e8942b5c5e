//! `y = x W^T` for many tokens. See matmul.wgsl.

use crate::gpu::Kernel;
use crate::steps::MatrixSpec;

use super::sizes::Sizes;
use super::weights::Decoder;
use super::{BATCH_WGSL, Grid, linear, weights};

/// Rows and tokens that one thread computes, as in matmul.wgsl.
const PER_THREAD: u32 = 4;

/// What a workgroup computes and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Threads along the rows of W.
    across: u32,
    /// Threads along the tokens.
    down: u32,
    /// vec4 of columns in workgroup memory at a time; whole loads of every dtype.
    depth: u32,
    /// vec4 between rows in workgroup memory.
    stride: u32,
}

impl Tile {
    const fn new(sizes: Sizes) -> Tile {
        match sizes {
            // An odd stride against bank conflicts.
            Sizes::Gpu => Tile { across: 16, down: 8, depth: 8, stride: 9 },
            Sizes::Cpu => Tile { across: 8, down: 4, depth: 4, stride: 4 },
        }
    }
}

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, sizes: Sizes) -> Option<Kernel> {
    let Tile { across, down, depth, stride } = Tile::new(sizes);
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
pub fn grid(rows: u32, tokens: u32, sizes: Sizes) -> Grid {
    let Tile { across, down, .. } = Tile::new(sizes);
    [rows.div_ceil(across * PER_THREAD), tokens.div_ceil(down * PER_THREAD), 1]
}
