//! `Mlp = silu(n Wg^T) * (n Wu^T)`, n = norm(x), for few tokens. Twin of matvec_gated.wgsl.

use crate::kernels::matvec_gated::Params;
use crate::kernels::{BatchUniform, rms_norm};

use super::linear::{dot, scaled_row};
use super::silu_mul::silu;
use super::weights::Weights;

/// The rows of `y` for this part of both matrices; `width` and `epsilon` of the norm.
///
/// `x (T, 4 * x_pitch)`, weights `(rows, loads)`, scales `(rows, scale_blocks)`, `y (T, y_pitch)`,
/// `gain (4 * x_pitch)`.
#[allow(clippy::too_many_arguments, reason = "one argument per binding, as in the kernel")]
pub fn matvec_gated(
    tokens: u32,
    params: &Params,
    (width, epsilon): (u32, f32),
    x: &[f32],
    gate_weights: Weights,
    gate_scales: &[f32],
    up_weights: Weights,
    up_scales: &[f32],
    y: &mut [f32],
    gain: &[f32],
) {
    let batch = BatchUniform { tokens, ..BatchUniform::default() };
    let norm = rms_norm::Params { width, pitch: params.x_pitch, last: 0, epsilon };
    let mut n = vec![0.0; x.len()];
    super::rms_norm::rms_norm(&batch, &norm, x, gain, &mut n);
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
