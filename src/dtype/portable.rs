//! The loops that every weight passes: the twins of those in `wasm.rs`, step by step the same.

use super::{E4M3_MAX, Halves, LANES, f32_to_bf16, f32_to_f16, round_to_f8};

/// Bits of the largest magnitude. For magnitudes the order of the bits is the order of the values,
/// with infinity and NaN on top: one integer maximum finds absmax and what is not finite.
pub(super) fn absmax_bits(blocks: &[[f32; LANES]]) -> u32 {
    let mut maxima = [0u32; LANES];
    for block in blocks {
        for (maximum, w) in maxima.iter_mut().zip(block) {
            *maximum = (*maximum).max(w.abs().to_bits());
        }
    }
    maxima.into_iter().fold(0, u32::max)
}

pub(super) fn quantize_block(values: &[f32; LANES], scale: f32) -> [u8; LANES] {
    values.map(|w| round_to_f8::<3, 7>(w / scale, E4M3_MAX))
}

pub(super) fn quantize_block_i8(values: &[f32; LANES], inverse: f32) -> [u8; LANES] {
    values.map(|w| (w * inverse).round_ties_even() as i8 as u8)
}

pub(super) fn narrow_block_bf16(block: &[f32; LANES]) -> Halves {
    block.map(f32_to_bf16)
}

pub(super) fn narrow_block_f16(block: &[f32; LANES]) -> Halves {
    block.map(f32_to_f16)
}

/// Whether in any half of these words, masked, adding the lowest bits reaches the sign bits.
pub(super) fn any_carry(words: &[[u8; 16]], [mask, lowest, sign]: [u64; 3]) -> bool {
    let halves = words.as_flattened().as_chunks::<8>().0;
    halves.iter().fold(0, |any, half| any | (((u64::from_le_bytes(*half) & mask) + lowest) & sign)) != 0
}
