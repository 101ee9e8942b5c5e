//! `y = x W^T` for few tokens. See matvec.wgsl.

use crate::gpu::Kernel;
use crate::steps::MatrixSpec;

use super::sizes::Sizes;
use super::weights::{Decoder, per_load};
use super::{BATCH_WGSL, Grid, fold, linear, weights};

/// Rows of W that a group of lanes computes together.
const ROWS: u32 = 4;

/// Fewest threads along a row: so many join their sums at the end.
const MIN_LANES: u32 = 8;

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, sizes: Sizes) -> Option<Kernel> {
    let threads = Threads::new(spec, sizes);
    Some(Kernel {
        name: "matvec",
        parts: vec![
            BATCH_WGSL,
            weights::wgsl(spec.dtype, decoder)?,
            linear::WGSL,
            include_str!("matvec.wgsl"),
        ],
        constants: threads.constants(spec).to_vec(),
        bindings: linear::BINDINGS,
    })
}

/// Threads of a workgroup, and how many of them share a row.
pub(super) struct Threads {
    pub(super) workgroup: u32,
    pub(super) lanes: u32,
}

impl Threads {
    pub(super) fn new(spec: &MatrixSpec, sizes: Sizes) -> Threads {
        match sizes {
            // At least two loads for each, so that short rows do not idle a warp.
            Sizes::Gpu => {
                let loads = spec.cols.div_ceil(per_load(spec.dtype));
                Threads { workgroup: 64, lanes: (loads / 2).clamp(MIN_LANES, 64).next_power_of_two().min(64) }
            }
            // The same for all widths: fewer kernels to compile.
            Sizes::Cpu => Threads { workgroup: 16, lanes: MIN_LANES },
        }
    }

    /// Groups of rows to a workgroup.
    pub(super) fn groups(&self) -> u32 {
        self.workgroup / self.lanes
    }

    /// Override constants.
    pub(super) fn constants(&self, spec: &MatrixSpec) -> [(&'static str, f64); 3] {
        [("WG", f64::from(self.workgroup)), ("LANES", f64::from(self.lanes)), linear::constant(spec)]
    }
}

/// Workgroups for `rows` rows of W and `tokens` tokens.
pub fn grid(spec: &MatrixSpec, rows: u32, tokens: u32, sizes: Sizes) -> Grid {
    let (x, z) = fold(rows.div_ceil(ROWS * Threads::new(spec, sizes).groups()));
    [x, tokens, z]
}
