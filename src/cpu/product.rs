//! `y = x W^T` from rows as they are stored.

use super::formats::{Bf16, E4m3, E5m2, F16, Format, ROWS as DOT_ROWS, STEP, Words, dots, widen};
use super::int8;
use super::lanes::{Lanes, load, mul_add, splat, total};
use crate::dtype::Dtype;

/// Tokens whose sums are kept side by side, and rows of W.
pub(super) const TOKENS: usize = 4;
const ROWS: usize = 2;

/// A stored matrix: rows tightly packed, a scale per block of `scale_cols` columns, or none.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub dtype: Dtype,
    pub cols: usize,
    /// `(rows, cols)`; I8 as `int8` has it, scales as well.
    pub bytes: &'a [u8],
    /// `(rows, ceil(cols / scale_cols))`
    pub scales: &'a [f32],
    /// 0: none. Else a multiple of [`STEP`], or at least `cols`.
    pub scale_cols: usize,
}

/// Where sums go: `(T, pitch)`, `rows` of them from column `first` on.
pub(super) struct Out<'a> {
    pub y: &'a mut [f32],
    pub pitch: usize,
    pub first: usize,
    pub rows: usize,
    pub add: bool,
}

impl Out<'_> {
    fn put(&mut self, token: usize, row: usize, value: f32) {
        if let Some(at) = self.y.get_mut(token * self.pitch + self.first + row) {
            *at = if self.add { *at + value } else { value };
        }
    }

    pub fn put_four(&mut self, token: usize, row: usize, values: [f32; 4]) {
        // Of the next part of the row, or the next token, nothing may be touched.
        let at = token * self.pitch + self.first + row;
        let end = (at + 4).min(token * self.pitch + self.first + self.rows);
        for (at, value) in self.y.get_mut(at..end).unwrap_or_default().iter_mut().zip(values) {
            *at = if self.add { *at + value } else { value };
        }
    }
}

/// `y` of one token. `x (cols)`; `scratch` keeps its size between calls.
pub(super) fn matvec(matrix: Stored, x: &[f32], scratch: &mut Vec<[f32; STEP]>, out: &mut Out) {
    match matrix.dtype {
        Dtype::F8E4m3 => matvec_of::<E4m3>(matrix, x, scratch, out),
        Dtype::F8E5m2 => matvec_of::<E5m2>(matrix, x, scratch, out),
        Dtype::F16 => matvec_of::<F16>(matrix, x, scratch, out),
        Dtype::Bf16 => matvec_of::<Bf16>(matrix, x, scratch, out),
        _ => matvec_of::<Words>(matrix, x, scratch, out),
    }
}

fn matvec_of<F: Format>(matrix: Stored, x: &[f32], scratch: &mut Vec<[f32; STEP]>, out: &mut Out) {
    let x = x.get(..matrix.cols).unwrap_or_default();
    scratch.clear();
    scratch.extend(x.chunks(STEP).map(|from| {
        let mut step = [0.0; STEP];
        step.iter_mut().zip(from).for_each(|(to, x)| *to = x * F::HALF);
        F::arrange(step)
    }));
    let x = scratch.as_slice();
    let (per_row, add) = (matrix.scales_per_row(), out.add);
    let row_bytes = (matrix.cols * F::BYTES).max(1);
    let mut scales = matrix.scales.chunks(per_row.max(1) * DOT_ROWS);
    let outs = out.y.get_mut(out.first..).unwrap_or_default().chunks_mut(DOT_ROWS);
    for (bytes, out) in matrix.bytes.chunks(row_bytes * DOT_ROWS).zip(outs) {
        // The last rows may be fewer: what is missing is the first of them again, and goes nowhere.
        let first = bytes.get(..row_bytes).unwrap_or_default();
        let row = |at: usize| bytes.get(at * row_bytes..(at + 1) * row_bytes).unwrap_or(first);
        let rows = [first, row(1), row(2), row(3)];
        let scales = scales.next().unwrap_or_default();
        let sums = if per_row <= 1 {
            let mut sums = dots::<F>(rows, x);
            sums.iter_mut().zip(scales).for_each(|(sum, scale)| *sum *= scale);
            sums
        } else {
            let mut sums = [0.0; DOT_ROWS];
            for (block, x) in x.chunks(matrix.scale_cols / STEP).enumerate() {
                let from = block * matrix.scale_cols * F::BYTES;
                let end = (from + matrix.scale_cols * F::BYTES).min(row_bytes);
                let part = rows.map(|row| row.get(from..end).unwrap_or_default());
                for ((sum, dot), scales) in
                    sums.iter_mut().zip(dots::<F>(part, x)).zip(scales.chunks(per_row))
                {
                    *sum += dot * scales.get(block).copied().unwrap_or_default();
                }
            }
            sums
        };
        for (out, sum) in out.iter_mut().zip(sums).take(bytes.len() / row_bytes) {
            let sum = sum * F::HALF;
            *out = if add { *out + sum } else { sum };
        }
    }
}

/// `y` of several tokens: each row of W is widened once. Sums of a token do not depend on how many are
/// beside it. `x (T, x_pitch)`, with room for whole tiles of [`TOKENS`], and zeros behind `cols`.
pub(super) fn matmul(
    matrix: Stored,
    (x, x_pitch): (&[f32], usize),
    tokens: usize,
    wide: &mut Vec<Lanes>,
    out: &mut Out,
) {
    let lanes = matrix.cols.next_multiple_of(STEP) / 4;
    wide.clear();
    wide.resize(lanes * ROWS, splat(0.0));
    let (first, second) = wide.split_at_mut(lanes);
    let rows = matrix.bytes.len() / matrix.row_bytes().max(1);
    for row in (0..rows).step_by(ROWS) {
        widen_row(matrix, row, first);
        widen_row(matrix, row + 1, second);
        let tiles = x.chunks_exact((x_pitch * TOKENS).max(1)).take(tokens.div_ceil(TOKENS));
        for (tile, x) in tiles.enumerate() {
            let sums = tile_sums([first, second], x, x_pitch);
            for (row, sums) in (row..rows).zip(sums) {
                for (token, sum) in (tile * TOKENS..tokens).zip(sums) {
                    out.put(token, row, sum);
                }
            }
        }
    }
}

/// A row with its scales; nothing where there is no such row.
pub(super) fn widen_row(matrix: Stored, row: usize, out: &mut [Lanes]) {
    match matrix.dtype {
        Dtype::I8 => int8::widen_row(matrix.int8(), row, out),
        Dtype::F8E4m3 => widen_row_of::<E4m3>(matrix, row, out),
        Dtype::F8E5m2 => widen_row_of::<E5m2>(matrix, row, out),
        Dtype::F16 => widen_row_of::<F16>(matrix, row, out),
        Dtype::Bf16 => widen_row_of::<Bf16>(matrix, row, out),
        _ => widen_row_of::<Words>(matrix, row, out),
    }
}

fn widen_row_of<F: Format>(matrix: Stored, row: usize, out: &mut [Lanes]) {
    let (bytes, scales) = matrix.row(row);
    match scales {
        [scale] => widen::<F>(bytes, *scale, out),
        [] => widen::<F>(bytes, 1.0, out),
        scales => {
            let outs = out.chunks_mut(matrix.scale_cols / 4);
            for ((bytes, out), scale) in bytes.chunks(matrix.scale_cols * F::BYTES).zip(outs).zip(scales) {
                widen::<F>(bytes, *scale, out);
            }
        }
    }
}

/// `ROWS` rows of W by `TOKENS` rows of x. Every sum has a name: in an array they would lie in memory.
fn tile_sums([first, second]: [&[Lanes]; ROWS], x: &[f32], x_pitch: usize) -> [[f32; TOKENS]; ROWS] {
    let zero = splat(0.0);
    let (mut a0, mut a1, mut a2, mut a3) = (zero, zero, zero, zero);
    let (mut b0, mut b1, mut b2, mut b3) = (zero, zero, zero, zero);
    let mut rows = x.chunks_exact(x_pitch).map(|row| row.as_chunks::<4>().0);
    let (Some(x0), Some(x1), Some(x2), Some(x3)) = (rows.next(), rows.next(), rows.next(), rows.next())
    else {
        return [[0.0; TOKENS]; ROWS];
    };
    let tokens = x0.iter().zip(x1).zip(x2.iter().zip(x3));
    for ((a, b), ((x0, x1), (x2, x3))) in first.iter().zip(second).zip(tokens) {
        let (x0, x1, x2, x3) = (load(x0), load(x1), load(x2), load(x3));
        a0 = mul_add(a0, *a, x0);
        b0 = mul_add(b0, *b, x0);
        a1 = mul_add(a1, *a, x1);
        b1 = mul_add(b1, *b, x1);
        a2 = mul_add(a2, *a, x2);
        b2 = mul_add(b2, *b, x2);
        a3 = mul_add(a3, *a, x3);
        b3 = mul_add(b3, *b, x3);
    }
    [[total(a0), total(a1), total(a2), total(a3)], [total(b0), total(b1), total(b2), total(b3)]]
}

impl<'a> Stored<'a> {
    /// The same, if it is I8.
    pub fn int8(&self) -> int8::Weights<'a> {
        int8::Weights { bytes: self.bytes, scales: self.scales, cols: self.cols }
    }

    /// A row and its scales; nothing where there is no such row.
    fn row(&self, row: usize) -> (&[u8], &[f32]) {
        let (row_bytes, per_row) = (self.row_bytes(), self.scales_per_row());
        let bytes = self.bytes.get(row * row_bytes..(row + 1) * row_bytes);
        let scales = self.scales.get(row * per_row..(row + 1) * per_row);
        (bytes.unwrap_or_default(), scales.unwrap_or_default())
    }

    fn row_bytes(&self) -> usize {
        self.cols * self.dtype.size_bytes() as usize
    }

    fn scales_per_row(&self) -> usize {
        if self.scale_cols == 0 { 0 } else { self.cols.div_ceil(self.scale_cols) }
    }
}
