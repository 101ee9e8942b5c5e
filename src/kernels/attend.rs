//! Attention over the rolling cache. See attend.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::DecoderShape;

use super::cache_form::WORDS_F16;
use super::sizes::Sizes;
use super::{BATCH_WGSL, BatchUniform, Grid};

/// Workgroup memory that WebGPU guarantees, bytes.
pub(super) const WORKGROUP_BYTES: u32 = 16_384;

/// Keys that one workgroup walks in decode before the cache is split over several.
const KEYS_PER_SPLIT: u32 = 256;

/// Most splits where a workgroup walks any number of keys.
pub const MAX_SPLITS: u32 = 32;

/// Largest head_dim: a thread accumulates at most four words of two elements.
pub const MAX_HEAD_DIM: u32 = 2048;

/// Layout of `Params` in attend.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Key/value heads.
    pub kv_heads: u32,
    /// Query heads per key/value head.
    pub group: u32,
    /// head_dim / 2.
    pub half: u32,
    /// f32 between rows of qkv.
    pub qkv_pitch: u32,
    /// f32 between rows of attn_out.
    pub out_pitch: u32,
    /// Positions in the cache.
    pub slots: u32,
    /// Keys visible to a query, itself included.
    pub window: u32,
    /// head_dim^-0.5.
    pub scale: f32,
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("qkv"),
    Binding::read("key_cache"),
    Binding::read("value_cache"),
    Binding::write("attn_out"),
    Binding::write("pieces"),
];

/// How attention is cut for one head shape: what a workgroup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Threads per workgroup.
    pub workgroup: u32,
    /// Queries per workgroup.
    pub rows: u32,
    /// Keys per tile; a power of two, the same for prompts and decode.
    pub keys: u32,
    /// Keys that one workgroup walks in decode before the cache is split over several.
    pub keys_per_split: u32,
    /// Most splits.
    pub limit: u32,
}

impl Tiling {
    /// On a GPU the largest tile that fits workgroup memory; `prompt`: eight queries at a time, else
    /// only those of one token's group. On a CPU smaller ones, and one kernel for both.
    pub fn new(shape: &DecoderShape, prompt: bool, sizes: Sizes) -> Tiling {
        let half = shape.head_dim / 2;
        let fits = |rows: u32, keys: u32| {
            (rows * half * 2 + keys * (half + 1) + rows * keys + 2 * rows) * 4 <= WORKGROUP_BYTES
        };
        let most = [8, 4, 2].into_iter().find(|&rows| fits(rows, 8)).unwrap_or(1);
        let most_keys = if sizes == Sizes::Gpu { 32 } else { 8 };
        let keys =
            [32, 16, 8, 4, 2].into_iter().find(|&keys| keys <= most_keys && fits(most, keys)).unwrap_or(1);
        let group = shape.heads / shape.kv_heads.max(1);
        let rows = if prompt && sizes == Sizes::Gpu { most } else { most.min(group.max(1)) };
        // A thread for each word of a head, and four words at most for each thread.
        let (least, most) = if sizes == Sizes::Gpu { (32, 64) } else { (16, 64) };
        let workgroup = if half <= 256 { half.next_power_of_two().clamp(least, most) } else { 256 };
        Tiling { workgroup, rows, keys, keys_per_split: KEYS_PER_SPLIT, limit: MAX_SPLITS }
    }

    /// The kernel.
    pub fn kernel(&self, shape: &DecoderShape) -> Kernel {
        Kernel {
            name: "attend",
            parts: vec![BATCH_WGSL, WORDS_F16, wgsl!("attend.wgsl")],
            constants: vec![
                ("WG", f64::from(self.workgroup)),
                ("HALF", f64::from(shape.head_dim / 2)),
                ("ROWS", f64::from(self.rows)),
                ("KEYS", f64::from(self.keys)),
                ("SLOTS", f64::from(shape.cache_slots().max(1))),
            ],
            bindings: BINDINGS,
        }
    }

    /// `(splits, tiles_per_split)` for a batch. Prompts are never split: a token's result
    /// must not depend on how a prompt was cut into batches.
    pub fn splits(&self, shape: &DecoderShape, position: u32, tokens: u32, prompt: bool) -> (u32, u32) {
        let window = shape.window.unwrap_or(u32::MAX);
        let first_key = position - position.min(window - 1);
        let tiles = (position + tokens - 1) / self.keys + 1 - first_key / self.keys;
        if prompt {
            return (1, tiles);
        }
        let splits = (tiles * self.keys).div_ceil(self.keys_per_split).clamp(1, self.limit);
        let tiles_per_split = tiles.div_ceil(splits);
        (tiles.div_ceil(tiles_per_split), tiles_per_split)
    }

    /// Splits at the longest context: sizes the scratch buffer.
    pub fn most_splits(&self, shape: &DecoderShape) -> u32 {
        // One tile more than the keys fill: neither end need lie at a tile's border.
        let keys = shape.window.unwrap_or(u32::MAX).min(shape.context).saturating_add(2 * self.keys);
        keys.div_ceil(self.keys_per_split).clamp(1, self.limit)
    }

    /// Workgroups: query rows, key/value heads, splits.
    pub fn grid(&self, shape: &DecoderShape, tokens: u32, splits: u32) -> Grid {
        let group = shape.heads / shape.kv_heads.max(1);
        [(tokens * group).div_ceil(self.rows), shape.kv_heads, splits]
    }
}
