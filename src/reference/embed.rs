//! `X[t] = table[ids[t]]`. Twin of embed.wgsl.

use crate::kernels::embed::Params;

use super::weights::Weights;

/// Fills the rows of `x` whose id lies in this part of the table.
///
/// `ids (T)`, `weights (rows, loads)`, `scales (rows, scale_blocks)`, `x (T, 4 * pitch)`.
pub fn embed(tokens: u32, params: &Params, ids: &[u32], weights: Weights, scales: &[f32], x: &mut [f32]) {
    for token in 0..tokens as usize {
        let Some(row) = ids[token].checked_sub(params.first_row) else { continue };
        if row >= params.rows {
            continue;
        }
        let out = &mut x[token * params.pitch as usize * 4..];
        for (column, weight) in weights.row(row, params.loads).into_iter().enumerate() {
            let block = column as u32 / weights.per_load() / params.loads_per_block;
            let scale = match params.scale_blocks {
                0 => 1.0,
                // One scale belongs to the whole row, whatever its width.
                1 => scales[row as usize],
                blocks => scales[(row * blocks + block) as usize],
            };
            out[column] = weight * scale;
        }
    }
}
