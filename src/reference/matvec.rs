//! `y = x W^T` for few tokens. Twin of matvec.wgsl.

use crate::kernels::linear::Params;
use crate::kernels::{BatchUniform, rms_norm};

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

/// The same with a norm in front of the product, over `width` columns: x becomes `x / sqrt(mean(x^2) + epsilon) * gain`.
///
/// `gain (4 * x_pitch)`; with `params.single` the last of the batch's rows of x.
#[allow(clippy::too_many_arguments, reason = "one argument per binding and constant, as in the kernel")]
pub fn normed(
    batch: &BatchUniform,
    params: &Params,
    (width, epsilon): (u32, f32),
    x: &[f32],
    weights: Weights,
    scales: &[f32],
    y: &mut [f32],
    gain: &[f32],
) {
    let norm = rms_norm::Params { width, pitch: params.x_pitch, last: params.single, epsilon };
    let mut n = vec![0.0; x.len()];
    super::rms_norm::rms_norm(batch, &norm, x, gain, &mut n);
    matvec(batch, params, &n, weights, scales, y);
}
