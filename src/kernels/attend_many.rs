//! Attention of a prompt. See attend_many.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::DecoderShape;

pub use super::attend::Params;
use super::attend::WORKGROUP_BYTES;
use super::cache_form::LOADS_F16;
use super::sizes::Sizes;
use super::{BATCH_WGSL, BatchUniform, Grid};

/// vec4 between keys in workgroup memory, as in attend_many.wgsl.
const STRIDE: u32 = 5;

/// Queries of a thread.
const QUERIES: u32 = 4;

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("qkv"),
    Binding::read("key_cache"),
    Binding::read("value_cache"),
    Binding::write("attn_out"),
];

/// How the attention of a prompt is cut for one head shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManyTiling {
    /// 16-byte loads of a key, and threads along the keys; a tile has four keys for each.
    pub units: u32,
    /// Threads along the queries, four of them each.
    pub down: u32,
    /// vec4 of workgroup memory for keys; 1: none.
    pub staged: u32,
}

impl ManyTiling {
    /// `None` for head shapes that this kernel does not serve: heads of other than whole 16-byte loads of
    /// f16, or more than workgroup memory holds.
    pub fn new(shape: &DecoderShape, sizes: Sizes) -> Option<ManyTiling> {
        let units = shape.head_dim / 8;
        if units == 0 || !shape.head_dim.is_multiple_of(8) {
            return None;
        }
        // 128 threads on a GPU; on a CPU a vector's width, and keys stay where they are.
        let (threads, staged) = match sizes {
            Sizes::Gpu => (128, units * 4 * STRIDE),
            Sizes::Cpu => (8, 1),
        };
        let fits = |down: &u32| (units * 4 * down + units * down + staged) * 16 <= WORKGROUP_BYTES;
        let down = [64, 32, 16, 8, 4, 2, 1].into_iter().find(|down| down * units <= threads && fits(down));
        // A head of more units than that has a thread for each all the same.
        let down = down.or_else(|| Some(1).filter(fits)).filter(|down| down * units <= 256)?;
        Some(ManyTiling { units, down, staged })
    }

    /// The kernel.
    pub fn kernel(&self) -> Kernel {
        Kernel {
            name: "attend_many",
            parts: vec![
                BATCH_WGSL,
                LOADS_F16,
                include_str!("shared/attend_many_parts.wgsl"),
                include_str!("attend_many.wgsl"),
            ],
            constants: vec![
                ("UNITS", f64::from(self.units)),
                ("DOWN", f64::from(self.down)),
                ("STAGED", f64::from(self.staged)),
            ],
            bindings: BINDINGS,
        }
    }

    /// Workgroups: query rows, key/value heads.
    pub fn grid(&self, shape: &DecoderShape, tokens: u32) -> Grid {
        let group = shape.heads / shape.kv_heads.max(1);
        [(tokens * group).div_ceil(self.down * QUERIES), shape.kv_heads, 1]
    }
}
