//! `y = x W^T` for many tokens. Twin of matmul.wgsl.

use crate::kernels::BatchUniform;
use crate::kernels::linear::Params;

use super::matvec::matvec;
use super::weights::Weights;

/// The same product as [`matvec`]: the kernels differ in how they walk it, not in what it is.
pub fn matmul(
    batch: &BatchUniform,
    params: &Params,
    x: &[f32],
    weights: Weights,
    scales: &[f32],
    y: &mut [f32],
) {
    matvec(batch, params, x, weights, scales, y);
}
