//! `Mlp = silu(n Wg^T) * (n Wu^T)`, n = norm(x), for few tokens, x with the norm's gain. Twin of matvec_gated.wgsl.

use crate::kernels::matvec_gated::Params;

use super::gain::Norm;
use super::linear::{dot, scaled_row};
use super::silu_mul::silu;
use super::weights::Weights;

/// The rows of `y` for this part of both matrices.
///
/// `x (T, 4 * x_pitch)`, weights `(rows, loads)`, scales `(rows, scale_blocks)`, `squares (T, x_pitch)`,
/// `y (T, y_pitch)`.
#[allow(clippy::too_many_arguments, reason = "one argument per binding, as in the kernel")]
pub fn matvec_gated(
    tokens: u32,
    params: &Params,
    norm: Norm,
    x: &[f32],
    gate_weights: Weights,
    gate_scales: &[f32],
    up_weights: Weights,
    up_scales: &[f32],
    squares: &[f32],
    y: &mut [f32],
) {
    let n = super::gain::scaled(params.x_pitch * 4, norm, x, squares);
    let scaled = |row: u32, weights: Weights, scales: &[f32]| {
        scaled_row(row, params.loads, weights, scales, params.scale_blocks, params.loads_per_block)
    };
    for row in 0..params.rows {
        let gate = scaled(row, gate_weights, gate_scales);
        let up = scaled(row, up_weights, up_scales);
        for token in 0..tokens as usize {
            let n = &n[token * params.x_pitch as usize * 4..];
            let at = token * params.y_pitch as usize + (params.first_row + row) as usize;
            y[at] = (silu(dot(&gate, n)) * dot(&up, n)) as f32;
        }
    }
}
