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
    /// 16-byte loads of a key, and threads along the keys.
    pub units: u32,
    /// Threads along the queries.
    pub down: u32,
    /// Queries of a thread: 4, and as many keys of a tile, which lie in workgroup memory; or 8, and 16 keys.
    pub queries: u32,
    /// Positions in the cache.
    pub slots: u32,
}

impl ManyTiling {
    /// `None` for head shapes that this kernel does not serve: heads of other than whole 16-byte loads of
    /// f16, or more than workgroup memory holds.
    pub fn new(shape: &DecoderShape, sizes: Sizes) -> Option<ManyTiling> {
        let units = units(shape)?;
        // 128 threads on a GPU, a vector's width on a CPU, where a thread has two loads of a value.
        match sizes {
            Sizes::Cpu if units.is_multiple_of(2) => ManyTiling::cut(shape, units, 8, 8, units / 2),
            Sizes::Cpu => ManyTiling::brief(shape),
            Sizes::Gpu => ManyTiling::cut(shape, units, 4, 128, units),
        }
    }

    /// For an adapter that computes on the CPU, what is compiled sooner than [`ManyTiling::new`] and runs slower.
    pub fn brief(shape: &DecoderShape) -> Option<ManyTiling> {
        let units = units(shape)?;
        ManyTiling::cut(shape, units, 4, 8, units)
    }

    /// That many queries to a thread, about `threads` threads, `lanes` of them along the keys.
    fn cut(shape: &DecoderShape, units: u32, queries: u32, threads: u32, lanes: u32) -> Option<ManyTiling> {
        // vec4 of weights and largest scores for each thread, and of staged keys.
        let (of_thread, staged) = if queries == 4 { (4 + 1, units * 4 * STRIDE) } else { (32 + 2, 0) };
        let fits = |down: &u32| (lanes * down * of_thread + staged) * 16 <= WORKGROUP_BYTES;
        let down = [64, 32, 16, 8, 4, 2, 1].into_iter().find(|down| down * lanes <= threads && fits(down));
        // A head of more units than that has a thread for each all the same.
        let down = down.or_else(|| Some(1).filter(fits)).filter(|down| down * lanes <= 256)?;
        Some(ManyTiling { units, down, queries, slots: shape.cache_slots().max(1) })
    }

    /// The kernel.
    pub fn kernel(&self) -> Kernel {
        let mut parts = vec![BATCH_WGSL, LOADS_F16, wgsl!("shared/attend_many_parts.wgsl")];
        let constants = [("UNITS", self.units), ("DOWN", self.down), ("SLOTS", self.slots)];
        if self.queries == 8 {
            parts.push(wgsl!("shared/attend_many_sums.wgsl"));
            parts.push(wgsl!("shared/attend_many_rows.wgsl"));
        } else {
            parts.push(wgsl!("attend_many.wgsl"));
        }
        let constants = constants.into_iter().map(|(name, value)| (name, f64::from(value))).collect();
        Kernel { name: "attend_many", parts, constants, bindings: BINDINGS }
    }

    /// Workgroups: query rows, key/value heads.
    pub fn grid(&self, shape: &DecoderShape, tokens: u32) -> Grid {
        let group = shape.heads / shape.kv_heads.max(1);
        [(tokens * group).div_ceil(self.down * self.queries), shape.kv_heads, 1]
    }
}

/// 16-byte loads of a key of f16, where it is whole ones.
fn units(shape: &DecoderShape) -> Option<u32> {
    Some(shape.head_dim / 8).filter(|units| *units > 0 && shape.head_dim.is_multiple_of(8))
}
