//! Rotary embedding and the store into the key/value cache. Twin of rope_store.wgsl.

use half::f16;

use crate::kernels::BatchUniform;
use crate::kernels::rope_store::Params;

/// Two values of a cache word, the first in the low half.
pub fn pack(a: f32, b: f32) -> u32 {
    // Beyond the largest f16 a stored value would become infinite.
    let bits = |v: f32| u32::from(f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits());
    bits(a) | bits(b) << 16
}

/// The values of a cache word.
pub fn unpack(word: u32) -> [f32; 2] {
    [word as u16, (word >> 16) as u16].map(|bits| f16::from_bits(bits).to_f32())
}

/// Rotates queries in place; stores rotated keys, and values, at the batch's positions.
///
/// `rope (T, half)` cosine and sine, `qkv (T, pitch)`, caches `(kv_heads, slots, half)`.
pub fn rope_store(
    batch: &BatchUniform,
    params: &Params,
    rope: &[[f32; 2]],
    qkv: &mut [f32],
    key_cache: &mut [u32],
    value_cache: &mut [u32],
) {
    let packed = |row: &[f32]| row.chunks(2).map(|pair| pack(pair[0], pair[1])).collect();
    rope_store_as(packed, batch, params, rope, qkv, key_cache, value_cache);
}

/// The same, with what turns a key or a value of one head into words of the cache.
pub(super) fn rope_store_as(
    packed: impl Fn(&[f32]) -> Vec<u32>,
    batch: &BatchUniform,
    params: &Params,
    rope: &[[f32; 2]],
    qkv: &mut [f32],
    key_cache: &mut [u32],
    value_cache: &mut [u32],
) {
    let half = params.half as usize;
    let (heads, kv_heads) = (params.heads as usize, params.kv_heads as usize);
    for token in 0..batch.tokens as usize {
        let row = &mut qkv[token * params.pitch as usize..];
        let rope = &rope[token * half..][..half];
        let (queries, rest) = row.split_at_mut(heads * half * 2);
        let (keys, values) = rest.split_at(kv_heads * half * 2);
        for head in queries.chunks_exact_mut(half * 2) {
            head.copy_from_slice(&rotate(head, rope));
        }
        let keys: Vec<f32> = keys.chunks_exact(half * 2).flat_map(|head| rotate(head, rope)).collect();
        let slots = params.slots as usize;
        let slot = (batch.position as usize + token) % slots;
        for (rows, cache) in [(&keys[..], &mut *key_cache), (values, &mut *value_cache)] {
            for (head, row) in rows.chunks_exact(half * 2).enumerate().take(kv_heads) {
                let words = packed(row);
                cache[(head * slots + slot) * words.len()..][..words.len()].copy_from_slice(&words);
            }
        }
    }
}

/// One head, element i rotated with element i + half.
fn rotate(head: &[f32], rope: &[[f32; 2]]) -> Vec<f32> {
    let (low, high) = head.split_at(rope.len());
    let pairs = || low.iter().zip(high).zip(rope);
    let rotated_low = pairs().map(|((a, b), [cos, sin])| a * cos - b * sin);
    let rotated_high = pairs().map(|((a, b), [cos, sin])| b * cos + a * sin);
    rotated_low.chain(rotated_high).collect()
}
