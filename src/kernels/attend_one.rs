//! Attention of one token with its rotary embedding and its store. See attend_one.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::DecoderShape;

pub use super::attend::Params;
use super::attend::Tiling;
use super::cache_form::{LOADS_F16, ONE_F16};
use super::sizes::Sizes;
use super::{BATCH_WGSL, BatchUniform, Grid};

/// Workgroup memory that WebGPU guarantees, bytes.
const WORKGROUP_BYTES: u32 = 16_384;

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("rope"),
    Binding::read("qkv"),
    Binding::write("key_cache"),
    Binding::write("value_cache"),
    Binding::write("attn_out"),
    Binding::write("pieces"),
];

/// How the attention of one token is cut for one head shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneTiling {
    /// Threads per workgroup, keys per tile.
    pub tiling: Tiling,
    /// Threads that share a key's score.
    pub parts: u32,
}

impl OneTiling {
    /// `None` for head shapes that this kernel does not serve: heads of other than whole 16-byte loads
    /// of f16, more than 8 queries to a key, or more than workgroup memory holds.
    pub fn new(shape: &DecoderShape, sizes: Sizes) -> Option<OneTiling> {
        let (half, rows) = (shape.head_dim / 2, shape.heads / shape.kv_heads.max(1));
        let units = half / 4;
        let (least, parts, most_keys, keys_per_split) = match sizes {
            // Enough splits for the many processors of a GPU.
            Sizes::Gpu => (64, units.min(4), 64, 64),
            // A thread walks its key alone: one sum less to join.
            Sizes::Cpu => (16, 1, 32, 256),
        };
        let workgroup = units.next_power_of_two().max(least);
        let fits = |keys: u32| {
            (rows * half * 2 + rows * keys * (parts + 1) + 3 * rows + workgroup * 8) * 4 <= WORKGROUP_BYTES
        };
        let keys = [64, 32, 16].into_iter().find(|&keys| keys <= most_keys && fits(keys))?;
        if half == 0 || !half.is_multiple_of(4) || !(1..=8).contains(&rows) || workgroup > 256 {
            return None;
        }
        Some(OneTiling { tiling: Tiling { workgroup, rows, keys, keys_per_split }, parts })
    }

    /// The kernel.
    pub fn kernel(&self, shape: &DecoderShape) -> Kernel {
        Kernel {
            name: "attend_one",
            parts: vec![
                BATCH_WGSL,
                LOADS_F16,
                ONE_F16,
                include_str!("shared/attend_one_parts.wgsl"),
                include_str!("attend_one.wgsl"),
            ],
            constants: vec![
                ("WG", f64::from(self.tiling.workgroup)),
                ("HALF", f64::from(shape.head_dim / 2)),
                ("ROWS", f64::from(self.tiling.rows)),
                ("KEYS", f64::from(self.tiling.keys)),
                ("PARTS", f64::from(self.parts)),
            ],
            bindings: BINDINGS,
        }
    }

    /// Workgroups: key/value heads, splits.
    pub fn grid(shape: &DecoderShape, splits: u32) -> Grid {
        [shape.kv_heads, splits, 1]
    }
}
