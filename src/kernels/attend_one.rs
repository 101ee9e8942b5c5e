//! Attention of one token with its rotary embedding and its store. See attend_one.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::DecoderShape;

pub use super::attend::Params;
use super::attend::{MAX_SPLITS, Tiling};
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
    /// Threads that share a key's score; 0: each has keys of its own (shared/attend_walk.wgsl).
    pub parts: u32,
}

/// Most queries of a workgroup that walks.
const MOST_ROWS: u32 = 4;

/// Keys of a split that is walked, at most.
const WALK_KEYS: u32 = 256;

/// Keys per tile there, where splits begin; as in shared/attend_walk_parts.wgsl.
const WALK_TILE: u32 = 8;

/// Loads of a value that one of its threads takes there.
const WALK_LOADS: u32 = 4;

/// Threads that share a value there, and how many values they add up side by side: a vector's width together.
fn walkers(units: u32) -> [u32; 2] {
    let parts = units.div_ceil(WALK_LOADS);
    [parts, (8 / parts.max(1)).max(1)]
}

/// Keys for whose scores there is room; in the end, elements of all threads.
fn walk_room(threads: u32) -> u32 {
    WALK_KEYS.max(threads * WALK_LOADS * 8)
}

impl OneTiling {
    /// `None` for head shapes that this kernel does not serve: heads of other than whole 16-byte loads
    /// of f16, more than 8 queries to a key, or more than workgroup memory holds.
    pub fn new(shape: &DecoderShape, sizes: Sizes) -> Option<OneTiling> {
        let (half, rows) = (shape.head_dim / 2, shape.heads / shape.kv_heads.max(1));
        let units = half / 4;
        if half == 0 || !half.is_multiple_of(4) || rows == 0 {
            return None;
        }
        if sizes == Sizes::Cpu {
            // As many workgroups to a key/value head as it takes, with as many queries each as that leaves.
            let rows = rows.div_ceil(rows.div_ceil(MOST_ROWS));
            let [parts, lanes] = walkers(units);
            let workgroup = parts * lanes;
            // Vectors of three lie as far apart as those of four.
            let words = rows.next_power_of_two() * (units * 8 + walk_room(workgroup) + workgroup);
            if words * 4 <= WORKGROUP_BYTES {
                // No more keys to a split, however many splits that makes.
                let (keys, keys_per_split, limit) = (WALK_TILE, WALK_KEYS, u32::MAX);
                let tiling = Tiling { workgroup, rows, keys, keys_per_split, limit };
                return Some(OneTiling { tiling, parts: 0 });
            }
        }
        let (least, parts, most_keys, keys_per_split) = match sizes {
            // Enough splits for the many processors of a GPU.
            Sizes::Gpu => (64, units.min(4), 64, 64),
            // Heads whose tile is beyond workgroup memory. A thread walks its key alone.
            Sizes::Cpu => (16, 1, 32, 256),
        };
        let workgroup = units.next_power_of_two().max(least);
        let fits = |keys: u32| {
            (rows * half * 2 + rows * keys * (parts + 1) + 3 * rows + workgroup * 8) * 4 <= WORKGROUP_BYTES
        };
        let keys = [64, 32, 16].into_iter().find(|&keys| keys <= most_keys && fits(keys))?;
        if !(1..=8).contains(&rows) || workgroup > 256 {
            return None;
        }
        let tiling = Tiling { workgroup, rows, keys, keys_per_split, limit: MAX_SPLITS };
        Some(OneTiling { tiling, parts })
    }

    /// The kernel.
    pub fn kernel(&self, shape: &DecoderShape) -> Kernel {
        if self.parts == 0 {
            return self.walk(shape);
        }
        Kernel {
            name: "attend_one",
            parts: vec![
                BATCH_WGSL,
                LOADS_F16,
                ONE_F16,
                wgsl!("shared/attend_one_parts.wgsl"),
                wgsl!("attend_one.wgsl"),
            ],
            constants: vec![
                ("WG", f64::from(self.tiling.workgroup)),
                ("HALF", f64::from(shape.head_dim / 2)),
                ("ROWS", f64::from(self.tiling.rows)),
                ("KEYS", f64::from(self.tiling.keys)),
                ("PARTS", f64::from(self.parts)),
                ("SLOTS", f64::from(shape.cache_slots().max(1))),
            ],
            bindings: BINDINGS,
        }
    }

    fn walk(&self, shape: &DecoderShape) -> Kernel {
        let many = wgsl!("shared/rows_many.wgsl");
        // How `Rows` is called where there are several, and how many there are.
        let (names, rows) = match self.tiling.rows {
            1 => ("", wgsl!("shared/rows_one.wgsl")),
            2 => ("alias Rows = vec2<f32>;\nconst ROWS: u32 = 2u;\n", many),
            3 => ("alias Rows = vec3<f32>;\nconst ROWS: u32 = 3u;\n", many),
            _ => ("alias Rows = vec4<f32>;\nconst ROWS: u32 = 4u;\n", many),
        };
        let [parts, lanes] = walkers(shape.head_dim / 8);
        let numbers = [
            ("HALF", shape.head_dim / 2),
            ("UNITS", shape.head_dim / 8),
            ("WIDTH", shape.head_dim),
            ("LANES", lanes),
            ("THREADS", parts * lanes),
            ("ROOM", walk_room(parts * lanes)),
            ("CHUNKS", self.chunks(shape)),
            ("SLOTS", shape.cache_slots().max(1)),
        ];
        Kernel {
            name: "attend_one",
            parts: vec![
                BATCH_WGSL,
                LOADS_F16,
                ONE_F16,
                wgsl!("shared/attend_one_parts.wgsl"),
                names,
                rows,
                wgsl!("shared/attend_walk_parts.wgsl"),
                wgsl!("shared/attend_walk.wgsl"),
            ],
            constants: numbers.map(|(name, value)| (name, f64::from(value))).to_vec(),
            bindings: BINDINGS,
        }
    }

    /// Workgroups to a key/value head.
    fn chunks(&self, shape: &DecoderShape) -> u32 {
        (shape.heads / shape.kv_heads.max(1)).div_ceil(self.tiling.rows.max(1))
    }

    /// Workgroups: key/value heads, splits.
    pub fn grid(&self, shape: &DecoderShape, splits: u32) -> Grid {
        [shape.kv_heads * self.chunks(shape), splits, 1]
    }
}
