//! `Mlp = silu(x Wg^T) * (x Wu^T)` for many tokens. Twin of matmul_gated.wgsl.

use crate::kernels::BatchUniform;
use crate::kernels::matmul_gated::Params;

use super::linear::{dot, scaled_row};
use super::silu_mul::silu;
use super::weights::Weights;

/// The rows of `y` for this part of both matrices.
///
/// `x (T, 4 * x_pitch)`, weights `(rows, loads)`, scales `(rows, scale_blocks)`, `y (T, y_pitch)`.
#[allow(clippy::too_many_arguments, reason = "one argument per binding, as in the kernel")]
pub fn matmul_gated(
    batch: &BatchUniform,
    params: &Params,
    x: &[f32],
    gate_weights: Weights,
    gate_scales: &[f32],
    up_weights: Weights,
    up_scales: &[f32],
    y: &mut [f32],
) {
    let scaled = |row: u32, weights: Weights, scales: &[f32]| {
        scaled_row(row, params.loads, weights, scales, params.scale_blocks, params.loads_per_block)
    };
    for row in 0..params.rows {
        let gate = scaled(row, gate_weights, gate_scales);
        let up = scaled(row, up_weights, up_scales);
        for token in 0..batch.tokens as usize {
            let x = &x[token * params.x_pitch as usize * 4..];
            let at = token * params.y_pitch as usize + (params.first_row + row) as usize;
            y[at] = (silu(dot(&gate, x)) * dot(&up, x)) as f32;
        }
    }
}
