//! Attention over the rolling cache. Twin of attend.wgsl.

use crate::kernels::BatchUniform;
use crate::kernels::attend::Params;
use crate::steps::CacheForm;

use super::rope_store::unpack;
use super::rope_store_f8::{decode, row_words};

/// What the kernel writes as the maximum of a split that sees no key.
const HIDDEN: f64 = -1e30;

/// Softmax attention of every query over the keys that it sees, one split at a time.
///
/// `qkv (T, qkv_pitch)`, caches `(kv_heads, slots, half)`, `attn_out (T, out_pitch)`, written where
/// there is one split; else `pieces (T * heads, splits, head_dim + 2)`: output, maximum, norm.
/// `keys_per_tile` places the bounds of the splits.
#[allow(clippy::too_many_arguments, reason = "one argument per binding, as in the kernel")]
pub fn attend(
    batch: &BatchUniform,
    params: &Params,
    qkv: &[f32],
    key_cache: &[u32],
    value_cache: &[u32],
    attn_out: &mut [f32],
    pieces: &mut [f32],
    keys_per_tile: u32,
) {
    let form = CacheForm::F16;
    attend_as(form, batch, params, qkv, key_cache, value_cache, attn_out, pieces, keys_per_tile);
}

/// The same over a cache of either form; of FP8, `(kv_heads, slots, row_words)`.
#[allow(clippy::too_many_arguments, reason = "one argument per binding, as in the kernel")]
pub fn attend_as(
    form: CacheForm,
    batch: &BatchUniform,
    params: &Params,
    qkv: &[f32],
    key_cache: &[u32],
    value_cache: &[u32],
    attn_out: &mut [f32],
    pieces: &mut [f32],
    keys_per_tile: u32,
) {
    let half = params.half as usize;
    let heads = params.kv_heads * params.group;
    for token in 0..batch.tokens {
        let position = batch.position + token;
        let first_key = position - position.min(params.window - 1);
        for head in 0..heads {
            let query = (token * params.qkv_pitch) as usize + head as usize * half * 2;
            let query = &qkv[query..][..half * 2];
            let cached = |cache: &[u32], key: u32| -> Vec<f32> {
                let row = head / params.group * params.slots + key % params.slots;
                match form {
                    CacheForm::F16 => {
                        cache[row as usize * half..][..half].iter().flat_map(|w| unpack(*w)).collect()
                    }
                    CacheForm::F8 => {
                        let words = row_words(half * 2);
                        decode(&cache[row as usize * words..][..words], half * 2)
                    }
                }
            };
            for split in 0..batch.splits {
                let tile = first_key / keys_per_tile + split * batch.tiles_per_split;
                let mut keys = (tile * keys_per_tile).max(first_key)
                    ..((tile + batch.tiles_per_split) * keys_per_tile).min(position + 1);
                if batch.splits == 1 {
                    keys = first_key..position + 1;
                }
                let scores: Vec<f64> = keys
                    .clone()
                    .map(|key| {
                        let products = query.iter().zip(cached(key_cache, key));
                        products.map(|(q, k)| f64::from(q * params.scale) * f64::from(k)).sum()
                    })
                    .collect();
                let maximum = scores.iter().copied().fold(HIDDEN, f64::max);
                let mut norm = 0.0;
                let mut sum = vec![0.0; half * 2];
                for (score, key) in scores.iter().zip(keys) {
                    let weight = (score - maximum).exp();
                    norm += weight;
                    for (sum, value) in sum.iter_mut().zip(cached(value_cache, key)) {
                        *sum += weight * f64::from(value);
                    }
                }
                let out = if batch.splits == 1 {
                    &mut attn_out[(token * params.out_pitch) as usize + head as usize * half * 2..]
                } else {
                    let slice = ((token * heads + head) * batch.splits + split) as usize;
                    &mut pieces[slice * (half * 2 + 2)..]
                };
                for (out, sum) in out.iter_mut().zip(&sum) {
                    *out = (sum / norm.max(1e-30)) as f32;
                }
                if batch.splits > 1 {
                    out[half * 2] = maximum as f32;
                    out[half * 2 + 1] = norm as f32;
                }
            }
        }
    }
}
