//! One element of `y = x W^T`: what `matvec`, `matmul` and `matvec_gated` share.

use super::weights::Weights;

/// A row of W with its scales applied. `(loads * per_load)`
///
/// `scales (rows, scale_blocks)`; each belongs to `loads_per_block` loads.
pub(super) fn scaled_row(
    row: u32,
    loads: u32,
    weights: Weights,
    scales: &[f32],
    scale_blocks: u32,
    loads_per_block: u32,
) -> Vec<f64> {
    let scale = |column: usize| match scale_blocks {
        0 => 1.0,
        // One scale belongs to the whole row, whatever its width.
        1 => f64::from(scales[row as usize]),
        blocks => {
            let block = column as u32 / weights.per_load() / loads_per_block;
            f64::from(scales[(row * blocks + block) as usize])
        }
    };
    let values = weights.row(row, loads).into_iter().enumerate();
    values.map(|(column, weight)| f64::from(weight) * scale(column)).collect()
}

/// Sum of products with the columns of `x` beside the row.
pub(super) fn dot(row: &[f64], x: &[f32]) -> f64 {
    row.iter().zip(x).map(|(w, v)| w * f64::from(*v)).sum()
}
