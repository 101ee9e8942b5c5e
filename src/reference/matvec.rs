//! `y = x W^T` for few tokens. Twin of matvec.wgsl.

use crate::kernels::BatchUniform;
use crate::kernels::linear::Params;

use super::gain::Norm;
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

/// The same behind a norm, whose gain x has: x becomes `x / sqrt(mean + epsilon)`, the mean of `squares`.
///
/// `squares (T, x_pitch)`; with `params.single` the first row of both.
#[allow(clippy::too_many_arguments, reason = "one argument per binding and constant, as in the kernel")]
pub fn scaled(
    batch: &BatchUniform,
    params: &Params,
    norm: Norm,
    x: &[f32],
    weights: Weights,
    scales: &[f32],
    y: &mut [f32],
    squares: &[f32],
) {
    matvec(batch, params, &super::gain::scaled(params.x_pitch * 4, norm, x, squares), weights, scales, y);
}

/// The same in front of a norm: leaves `y * gain`, and squares of each four rows of y, for the rows of this part.
///
/// `gain (y_pitch)`, `gained (T, y_pitch)`, `squares (T, y_pitch / 4)`.
#[allow(clippy::too_many_arguments, reason = "one argument per binding and constant, as in the kernel")]
pub fn gaining(
    batch: &BatchUniform,
    params: &Params,
    x: &[f32],
    weights: Weights,
    scales: &[f32],
    y: &mut [f32],
    (gain, gained, squares): (&[f32], &mut [f32], &mut [f32]),
) {
    matvec(batch, params, x, weights, scales, y);
    let (first, end) = (params.first_row as usize, (params.first_row + params.rows) as usize);
    let pitch = params.y_pitch as usize;
    for token in 0..batch.tokens as usize {
        let y = &y[token * pitch..][..end];
        for column in first..end {
            gained[token * pitch + column] = y[column] * gain[column];
        }
        for (column, rows) in (first..).step_by(4).zip(y[first..].chunks(4)) {
            let square = rows.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            squares[(token * pitch + column) / 4] = square as f32;
        }
    }
}
