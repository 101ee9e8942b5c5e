//! Rotary embedding and the store into a key/value cache of FP8. Twin of rope_store_f8.wgsl.

use crate::dtype::{decode_e4m3, encode_e4m3};
use crate::kernels::BatchUniform;
use crate::kernels::rope_store::Params;
use crate::steps::CacheForm;

use super::rope_store::rope_store_as;

/// Words of a row of `head_dim` elements: four codes each, in pairs, and a pair with the scale.
pub fn row_words(head_dim: usize) -> usize {
    (head_dim.div_ceil(8) + 1) * 2
}

/// A key or a value as it lies in the cache.
pub fn encode(row: &[f32]) -> Vec<u32> {
    let [scale, inverse] = CacheForm::scale(row);
    let mut codes: Vec<u8> = row.iter().map(|element| encode_e4m3(element * inverse)).collect();
    codes.resize((row_words(row.len()) - 2) * 4, 0);
    let words = codes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    words.chain([scale.to_bits(), 0]).collect()
}

/// What such a row stands for.
pub fn decode(words: &[u32], head_dim: usize) -> Vec<f32> {
    let scale = f32::from_bits(words[words.len() - 2]);
    let codes = words.iter().flat_map(|word| word.to_le_bytes()).take(head_dim);
    codes.map(|code| decode_e4m3(code) * scale).collect()
}

/// The store into a cache of that form.
pub(super) fn store_as(form: CacheForm) -> Store {
    match form {
        CacheForm::F16 => super::rope_store::rope_store,
        CacheForm::F8 => rope_store_f8,
    }
}

type Store = fn(&BatchUniform, &Params, &[[f32; 2]], &mut [f32], &mut [u32], &mut [u32]);

/// Rotates queries in place; stores rotated keys, and values, at the batch's positions.
///
/// `rope (T, half)` cosine and sine, `qkv (T, pitch)`, caches `(kv_heads, slots, row_words)`.
pub fn rope_store_f8(
    batch: &BatchUniform,
    params: &Params,
    rope: &[[f32; 2]],
    qkv: &mut [f32],
    key_cache: &mut [u32],
    value_cache: &mut [u32],
) {
    rope_store_as(encode, batch, params, rope, qkv, key_cache, value_cache);
}
