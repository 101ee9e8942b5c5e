//! Attention of a prompt. Twin of attend_many.wgsl.

use crate::kernels::BatchUniform;
use crate::kernels::attend::Params;

use super::attend::attend;

/// The same as [`attend`] in one split: the kernels differ in how they walk the keys.
pub fn attend_many(
    batch: &BatchUniform,
    params: &Params,
    qkv: &[f32],
    key_cache: &[u32],
    value_cache: &[u32],
    attn_out: &mut [f32],
) {
    let batch = BatchUniform { splits: 1, ..*batch };
    attend(&batch, params, qkv, key_cache, value_cache, attn_out, &mut [], 1);
}
