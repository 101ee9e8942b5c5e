//! The scales of an FP8 tensor as the checkpoint has them: one per tensor, row or block, never one
//! per row of every block.

use crate::checkpoint::CheckpointError;
use crate::checkpoint::scales::Granularity;

/// Scales, and where each applies.
#[derive(Debug)]
pub(super) struct BlockScales {
    /// Height and width of a block.
    block: (u64, u64),
    /// Width of the matrix.
    cols: u64,
    /// `(ceil(rows / height), ceil(cols / width))`
    values: Vec<f32>,
}

impl BlockScales {
    /// Scales of a matrix.
    ///
    /// # Errors
    /// [`CheckpointError::ScaleCount`] for another number of values than the granularity has.
    pub(super) fn new(
        granularity: Granularity,
        rows: u64,
        cols: u64,
        values: Vec<f32>,
    ) -> Result<BlockScales, CheckpointError> {
        let (height, width) = match granularity {
            Granularity::Tensor => (rows, cols),
            Granularity::Row => (1, cols),
            Granularity::Block { rows, cols } => (rows, cols),
        };
        let block @ (height, width) = (height.max(1), width.max(1));
        let expected = rows.div_ceil(height).saturating_mul(cols.div_ceil(width));
        if values.len() as u64 != expected {
            let (granularity, values) = (granularity.to_string(), values.len() as u64);
            return Err(CheckpointError::ScaleCount { granularity, rows, cols, values, expected });
        }
        Ok(BlockScales { block, cols: cols.max(1), values })
    }

    /// The scale of a row; of several, the first.
    pub(super) fn of_row(&self, row: u64) -> f32 {
        let (height, width) = self.block;
        let index = row / height * self.cols.div_ceil(width);
        self.values.get(index as usize).copied().unwrap_or(1.0)
    }

    /// Scales neighbouring elements, of which `first` is the index of the first in the matrix.
    pub(super) fn apply(&self, first: u64, values: &mut [f32]) {
        let ((height, width), cols) = (self.block, self.cols);
        let (mut row, mut col) = (first / cols, first % cols);
        let mut rest = values;
        while !rest.is_empty() {
            // At most the length of a slice, so it fits usize.
            let run = (width - col % width).min(cols - col).min(rest.len() as u64);
            let (now, later) = rest.split_at_mut(run as usize);
            let at = row / height * cols.div_ceil(width) + col / width;
            let scale = self.values.get(at as usize).copied().unwrap_or(1.0);
            now.iter_mut().for_each(|value| *value *= scale);
            rest = later;
            col += run;
            if col == cols {
                (row, col) = (row + 1, 0);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn one_value_per_block_scales_what_one_per_element_would() {
        let (rows, cols) = (7_u64, 11_u64);
        let block = |rows, cols| Granularity::Block { rows, cols };
        for (granularity, height, width) in [
            (Granularity::Tensor, 7, 11),
            (Granularity::Row, 1, 11),
            (block(3, 4), 3, 4),
            (block(1, 1), 1, 1),
            (block(128, 128), 128, 128),
            (block(7, 2), 7, 2),
        ] {
            let count = rows.div_ceil(height) * cols.div_ceil(width);
            let values: Vec<f32> = (0..count).map(|i| (i + 1) as f32).collect();
            let scales = BlockScales::new(granularity, rows, cols, values.clone()).unwrap();
            // What it keeps is what the checkpoint has.
            assert_eq!(scales.values, values);
            let of = |element: u64| {
                let (row, col) = (element / cols, element % cols);
                values[(row / height * cols.div_ceil(width) + col / width) as usize]
            };
            for first in 0..rows * cols {
                for length in [1, 5, 13, rows * cols - first] {
                    let length = length.min(rows * cols - first);
                    let mut ones = vec![1.0; length as usize];
                    scales.apply(first, &mut ones);
                    let expected: Vec<f32> = (first..first + length).map(of).collect();
                    assert_eq!(ones, expected, "{granularity}, {length} from {first}");
                }
            }
            for wrong in [count - 1, count + 1] {
                let error = BlockScales::new(granularity, rows, cols, vec![1.0; wrong as usize]).unwrap_err();
                assert!(matches!(error, CheckpointError::ScaleCount { expected, .. } if expected == count));
            }
        }
    }
}
