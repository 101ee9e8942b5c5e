//! `x * gain` and the squares of x. Twin of gain.wgsl.

use crate::kernels::BatchUniform;
use crate::kernels::gain::Params;

/// The norm that readers of both make of them: its width and its epsilon.
pub type Norm = (u32, f32);

/// `gained / sqrt(mean(x^2) + epsilon)`, rows of `pitch` f32.
pub(super) fn scaled(pitch: u32, (width, epsilon): Norm, gained: &[f32], squares: &[f32]) -> Vec<f32> {
    let rows = gained.chunks(pitch as usize).zip(squares.chunks(pitch as usize / 4));
    let scaled = rows.flat_map(|(row, squares)| {
        let mean = squares.iter().map(|square| f64::from(*square)).sum::<f64>() / f64::from(width);
        let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
        row.iter().map(move |v| (f64::from(*v) * scale) as f32)
    });
    scaled.collect()
}

/// What the readers of a norm take in.
///
/// `x (T, 4 * pitch)`, `weight (4 * pitch)`, `gained (T, 4 * pitch)`, `squares (T, pitch)`, each of four columns;
/// with `last` only the batch's last row, into row 0.
pub fn gain(
    batch: &BatchUniform,
    params: &Params,
    x: &[f32],
    weight: &[f32],
    gained: &mut [f32],
    squares: &mut [f32],
) {
    let pitch = params.pitch as usize * 4;
    let tokens = batch.tokens as usize;
    let rows = if params.last == 1 { tokens - 1..tokens } else { 0..tokens };
    for (to, from) in rows.enumerate() {
        let x = &x[from * pitch..][..pitch];
        for (out, (v, gain)) in gained[to * pitch..].iter_mut().zip(x.iter().zip(weight)) {
            *out = v * gain;
        }
        let out = &mut squares[to * params.pitch as usize..];
        for (square, columns) in out.iter_mut().zip(x.chunks(4)) {
            *square = columns.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() as f32;
        }
    }
}
