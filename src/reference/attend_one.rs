//! Attention of one token with its rotary embedding and its store. Twin of attend_one.wgsl.

use crate::kernels::attend::Params;
use crate::kernels::{BatchUniform, rope_store};
use crate::steps::CacheForm;

use super::attend::attend_as;
use super::rope_store_f8::store_as;

/// Rotates and stores, then attends: what the kernel does at once. `qkv` stays as it is.
///
/// `rope (half)` cosine and sine, `qkv (1, qkv_pitch)`, caches `(kv_heads, slots, half)`, the rest as in
/// [`attend`](super::attend::attend).
#[allow(clippy::too_many_arguments, reason = "one argument per binding, as in the kernel")]
pub fn attend_one(
    batch: &BatchUniform,
    params: &Params,
    rope: &[[f32; 2]],
    qkv: &[f32],
    key_cache: &mut [u32],
    value_cache: &mut [u32],
    attn_out: &mut [f32],
    pieces: &mut [f32],
    keys_per_tile: u32,
) {
    let form = CacheForm::F16;
    attend_one_as(form, batch, params, rope, qkv, key_cache, value_cache, attn_out, pieces, keys_per_tile);
}

/// The same with a cache of either form.
#[allow(clippy::too_many_arguments, reason = "one argument per binding, as in the kernel")]
pub fn attend_one_as(
    form: CacheForm,
    batch: &BatchUniform,
    params: &Params,
    rope: &[[f32; 2]],
    qkv: &[f32],
    key_cache: &mut [u32],
    value_cache: &mut [u32],
    attn_out: &mut [f32],
    pieces: &mut [f32],
    keys_per_tile: u32,
) {
    let store = rope_store::Params {
        heads: params.kv_heads * params.group,
        kv_heads: params.kv_heads,
        half: params.half,
        pitch: params.qkv_pitch,
        slots: params.slots,
        padding: [0; 3],
    };
    let mut rotated = qkv.to_vec();
    store_as(form)(batch, &store, rope, &mut rotated, key_cache, value_cache);
    attend_as(form, batch, params, &rotated, key_cache, value_cache, attn_out, pieces, keys_per_tile);
}
