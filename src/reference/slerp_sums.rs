//! Sums of a\*a, b\*b and a\*b by blocks. Twin of slerp_sums.wgsl.

use crate::kernels::slerp_sums::{BLOCK, Params};

use super::weights::Weights;

/// What a block holds: the sums, then the largest |a| and |b|.
pub type BlockSums = [f64; 5];

/// Sums each block of the buffers into `sums`, from `first_block` on.
///
/// `a (loads)`, `b (loads)`, `sums (blocks)`.
pub fn slerp_sums(params: &Params, a: Weights, b: Weights, sums: &mut [BlockSums]) {
    let (a, b) = (a.row(0, params.loads), b.row(0, params.loads));
    let blocks = a.chunks(BLOCK as usize).zip(b.chunks(BLOCK as usize));
    for ((a, b), sums) in blocks.zip(&mut sums[params.first_block as usize..]) {
        *sums = [0.0; 5];
        for (x, y) in a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
            sums[0] += x * x;
            sums[1] += y * y;
            sums[2] += x * y;
            sums[3] = sums[3].max(x.abs());
            sums[4] = sums[4].max(y.abs());
        }
    }
}
