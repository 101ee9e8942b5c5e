//! Joins attention's splits. Twin of attend_reduce.wgsl.

use crate::kernels::BatchUniform;
use crate::kernels::attend_reduce::Params;

/// Each split's output weighs `norm * exp(maximum - top)`.
///
/// `pieces (T * heads, splits, head_dim + 2)`, `attn_out (T, out_pitch)`.
pub fn attend_reduce(batch: &BatchUniform, params: &Params, pieces: &[f32], attn_out: &mut [f32]) {
    let head_dim = params.head_dim as usize;
    let pitch = head_dim + 2;
    let splits = batch.splits as usize;
    for token in 0..batch.tokens as usize {
        for head in 0..params.heads as usize {
            let first = (token * params.heads as usize + head) * splits * pitch;
            let of_head: Vec<&[f32]> = pieces[first..][..splits * pitch].chunks_exact(pitch).collect();
            let top = of_head.iter().map(|piece| f64::from(piece[head_dim])).fold(f64::MIN, f64::max);
            let weights: Vec<f64> = of_head
                .iter()
                .map(|piece| f64::from(piece[head_dim + 1]) * (f64::from(piece[head_dim]) - top).exp())
                .collect();
            let norm: f64 = weights.iter().sum();
            for element in 0..head_dim {
                let parts = weights.iter().zip(&of_head).map(|(w, piece)| w * f64::from(piece[element]));
                let at = token * params.out_pitch as usize + head * head_dim + element;
                attn_out[at] = (parts.sum::<f64>() / norm) as f32;
            }
        }
    }
}
