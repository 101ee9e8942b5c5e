//! Rows of weights to one byte each.

use super::blocks::{absmax_bits, quantize_block, quantize_block_i8};
use super::{DtypeError, E4M3_MAX, LANES, round_to_f8};

/// Columns that share a scale in rows of I8.
pub const I8_BLOCK: usize = 128;

/// Quantises one row to I8 in blocks of [`I8_BLOCK`]: appends `scale = absmax / 127` of each to `scales`,
/// and writes `q = round(w / scale)`, so that `w ~ q * scale`. What is too small for that becomes zeros
/// with a scale of 1. The row is whole steps of 16.
///
/// # Errors
/// A NaN or infinity in the row, or `out` of another length.
pub fn quantize_row_i8(row: &[f32], out: &mut [u8], scales: &mut Vec<f32>) -> Result<(), DtypeError> {
    if row.len() != out.len() || !row.len().is_multiple_of(LANES) {
        return Err(DtypeError::Length { values: row.len(), slots: out.len() });
    }
    for (values, codes) in row.chunks(I8_BLOCK).zip(out.chunks_mut(I8_BLOCK)) {
        let (steps, _) = values.as_chunks::<LANES>();
        let absmax = f32::from_bits(absmax_bits(steps));
        if !absmax.is_finite() {
            let element = row.iter().position(|w| !w.is_finite()).unwrap_or(0);
            return Err(DtypeError::NotFinite { element });
        }
        let scale = absmax / I8_MAX;
        let (scale, inverse) = if scale < f32::MIN_POSITIVE { (1.0, 0.0) } else { (scale, I8_MAX / absmax) };
        scales.push(scale);
        for (step, codes) in steps.iter().zip(codes.as_chunks_mut::<LANES>().0) {
            *codes = quantize_block_i8(step, inverse);
        }
    }
    Ok(())
}

/// Largest magnitude of a code.
const I8_MAX: f32 = 127.0;

/// Quantises one row to F8_E4M3: returns `scale = absmax / 448` and writes
/// `q = encode_e4m3(w / scale)`, so that `w ~ q * scale`. The scale is 1 where absmax / 448 is
/// zero, as in a row of zeros.
///
/// # Errors
/// A NaN or infinity in the row, or `out` of another length.
pub fn quantize_row_e4m3(row: &[f32], out: &mut [u8]) -> Result<f32, DtypeError> {
    if row.len() != out.len() {
        return Err(DtypeError::Length { values: row.len(), slots: out.len() });
    }
    let (blocks, rest) = row.as_chunks::<LANES>();
    let absmax = rest.iter().map(|w| w.abs().to_bits()).fold(absmax_bits(blocks), u32::max);
    let absmax = f32::from_bits(absmax);
    if !absmax.is_finite() {
        let element = row.iter().position(|w| !w.is_finite()).unwrap_or(0);
        return Err(DtypeError::NotFinite { element });
    }
    let scale = match absmax / E4M3_MAX {
        0.0 => 1.0,
        scale => scale,
    };
    let (codes, codes_rest) = out.as_chunks_mut::<LANES>();
    for (block, codes) in blocks.iter().zip(codes) {
        *codes = quantize_block(block, scale);
    }
    for (code, w) in codes_rest.iter_mut().zip(rest) {
        *code = round_to_f8::<3, 7>(w / scale, E4M3_MAX);
    }
    Ok(scale)
}
