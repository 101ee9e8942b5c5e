//! RMSNorm by row. Twin of rms_norm.wgsl.

use crate::kernels::BatchUniform;
use crate::kernels::rms_norm::Params;

/// `y = x / sqrt(mean(x^2) + epsilon) * weight`.
///
/// `x (T, 4 * pitch)`, `weight (4 * pitch)`, `y (T, 4 * pitch)`; with `last` only the batch's last
/// row, into row 0 of `y`. Padding is zero and stays zero.
pub fn rms_norm(batch: &BatchUniform, params: &Params, x: &[f32], weight: &[f32], y: &mut [f32]) {
    let (pitch, width) = (params.pitch as usize * 4, params.width as usize);
    let tokens = batch.tokens as usize;
    let rows = if params.last == 1 { tokens - 1..tokens } else { 0..tokens };
    for (out_row, in_row) in rows.enumerate() {
        let x = &x[in_row * pitch..][..pitch];
        let mean = x[..width].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
        let scale = 1.0 / (mean + f64::from(params.epsilon)).sqrt();
        for i in 0..pitch {
            y[out_row * pitch + i] = (f64::from(x[i]) * scale * f64::from(weight[i])) as f32;
        }
    }
}
