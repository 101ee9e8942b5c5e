//! `y = x W^T` for few tokens. Twin of matvec.wgsl.

use crate::kernels::BatchUniform;
use crate::kernels::linear::Params;

use super::linear::{dot, scaled_row};
use super::weights::Weights;

/// The rows of `y` for this part of W.
///
/// `x (T, 4 * x_pitch)`, `weights (rows, loads)`, `scales (rows, scale_blocks)`, `y (T, y_pitch)`.
pub fn matvec(
    batch: &BatchUniform,
    params: &Params,
    x: &[f32],
    weights: Weights,
    scales: &[f32],
    y: &mut [f32],
) {
    let tokens = if params.single == 1 { 1 } else { batch.tokens as usize };
    for row in 0..params.rows {
        let w = scaled_row(row, params.loads, weights, scales, params.scale_blocks, params.loads_per_block);
        for token in 0..tokens {
            let value = dot(&w, &x[token * params.x_pitch as usize * 4..]);
            let at = &mut y[token * params.y_pitch as usize + (params.first_row + row) as usize];
            *at = if params.add == 1 { (f64::from(*at) + value) as f32 } else { value as f32 };
        }
    }
}
