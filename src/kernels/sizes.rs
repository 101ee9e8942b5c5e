//! How large workgroups and their tiles are.

use crate::gpu::DeviceTier;
use crate::steps::{DecoderShape, MatrixSpec};

use super::weights::per_load;
use super::{Grid, linear};

/// What workgroups are sized for. The mathematics is the same; sizes are override constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// A GPU: tiles that keep its registers and workgroup memory busy.
    Gpu,
    /// An adapter that computes on the CPU. A barrier is dear there, workgroup memory is no nearer
    /// than any other, and SwiftShader compiles the zeroing of each of its words into
    /// instructions of their own: half a millisecond a word, 1.5 s for a GPU's tile of `matmul`.
    Cpu,
}

impl Sizes {
    /// Both, for tests.
    pub const ALL: [Sizes; 2] = [Sizes::Gpu, Sizes::Cpu];

    /// What suits a device.
    pub fn of(tier: &DeviceTier) -> Sizes {
        if tier.software { Sizes::Cpu } else { Sizes::Gpu }
    }

    /// Whether a model is so small that a device that computes on the CPU takes what is compiled soonest: what would be
    /// faster at its longest prompt saves less time there than the compiler takes.
    pub fn is_brief(tier: &DeviceTier, shape: &DecoderShape) -> bool {
        let [hidden, qkv, heads, intermediate, layers, context] = [
            shape.hidden,
            shape.qkv_width(),
            shape.q_width(),
            shape.intermediate,
            shape.layers,
            shape.context,
        ]
        .map(f64::from);
        // Scores and values are each half of a square.
        let of_token = hidden * (qkv + heads + 3.0 * intermediate) + heads * context;
        Sizes::of(tier) == Sizes::Cpu && layers * context * of_token < BRIEF
    }
}

/// Multiply-adds of a longest prompt below which compiling counts for more: the embedded models' have 1.5e9.
const BRIEF: f64 = (1_u64 << 31) as f64;

/// Fewest threads along a row of a matrix-vector product on a GPU.
const MIN_LANES: u32 = 8;

/// Threads of a matrix-vector product: what tuning chooses. Results differ by rounding alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Threads {
    /// Threads of a workgroup, a multiple of `lanes`.
    pub workgroup: u32,
    /// Most threads that share a group of rows, a power of two, at least 4: as many finish its rows.
    pub lanes: u32,
    /// Threads that every subgroup has, where the sums of lanes meet by exchange within one; 0: they meet in
    /// workgroup memory alone.
    pub subgroup: u32,
}

impl Threads {
    /// What is worth trying on a device of that kind; the first is what an untuned one gets.
    pub fn candidates(sizes: Sizes) -> &'static [Threads] {
        const fn threads(workgroup: u32, lanes: u32) -> Threads {
            Threads { workgroup, lanes, subgroup: 0 }
        }
        const GPU: [Threads; 6] = [
            threads(64, 64),
            threads(64, 32),
            threads(64, 16),
            threads(128, 32),
            threads(256, 32),
            threads(128, 128),
        ];
        const CPU: [Threads; 4] = [threads(32, 8), threads(16, 8), threads(8, 8), threads(64, 8)];
        match sizes {
            Sizes::Gpu => &GPU,
            Sizes::Cpu => &CPU,
        }
    }

    /// What a device of that kind gets untuned.
    pub fn of(sizes: Sizes) -> Threads {
        Threads::candidates(sizes).first().copied().unwrap_or(Threads {
            workgroup: 64,
            lanes: 32,
            subgroup: 0,
        })
    }

    /// The same with subgroups of at least so many threads. Where lanes are few, on adapters that compute on the
    /// CPU, a subgroup is a vector of the CPU, and has its rows for itself.
    pub fn within(self, subgroup: u32) -> Threads {
        let is_vector = self.lanes <= MIN_LANES && subgroup > 0;
        Threads { subgroup, lanes: if is_vector { self.lanes.min(subgroup) } else { self.lanes }, ..self }
    }

    /// Threads that share a group of rows of this matrix: at least two loads for each, so that
    /// short rows do not idle a warp.
    pub fn lanes(self, spec: &MatrixSpec) -> u32 {
        let loads = spec.cols.div_ceil(per_load(spec.dtype));
        (loads / 2).max(MIN_LANES).next_power_of_two().min(self.lanes)
    }

    /// Rows of gate, and of up, that a group of lanes computes together: more where x is dear, which is where
    /// lanes are few, on adapters that compute on the CPU.
    pub(super) fn gated_rows(self) -> u32 {
        if self.lanes <= MIN_LANES { 4 } else { 2 }
    }

    /// The part of WGSL that joins the sums of lanes.
    pub(super) fn reduce(self) -> &'static str {
        match self.subgroup {
            0 => wgsl!("shared/reduce_plain.wgsl"),
            _ => wgsl!("shared/reduce_subgroup.wgsl"),
        }
    }

    /// Partial sums of a workgroup that meet in its memory, of each kind.
    pub(super) fn partials(self, spec: &MatrixSpec) -> u32 {
        match self.subgroup {
            0 => self.workgroup,
            least if least >= self.lanes(spec) => 1,
            least => self.workgroup / least,
        }
    }

    /// Groups of rows to a workgroup.
    pub(super) fn groups(self, spec: &MatrixSpec) -> u32 {
        self.workgroup / self.lanes(spec).max(1)
    }

    /// Override constants.
    pub(super) fn constants(self, spec: &MatrixSpec) -> Vec<(&'static str, f64)> {
        let lanes = self.lanes(spec);
        let number = |(name, value)| (name, f64::from(value));
        let mut constants = [("WG", self.workgroup), ("LANES", lanes)].map(number).to_vec();
        constants.push(linear::constant(spec));
        if self.subgroup > 0 {
            constants.extend([("FOLD", self.subgroup.min(lanes)), ("SUMS", self.partials(spec))].map(number));
        }
        constants
    }
}

/// What a workgroup of a matrix-matrix product computes and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Threads along the rows of W.
    pub across: u32,
    /// Threads along the tokens; 1 without workgroup memory.
    pub down: u32,
    /// Rows of W of a thread, 4 or 8; always 8 where gate and up are one product: four of each.
    pub rows: u32,
    /// Tokens of a thread, 4 or 8.
    pub tokens: u32,
    /// vec4 of columns in workgroup memory at a time; whole loads of every dtype. 0: no workgroup memory.
    pub depth: u32,
}

impl Tile {
    /// What is compiled soonest for a device that computes on the CPU.
    const BRIEF: Tile = Tile { across: 8, down: 1, rows: 4, tokens: 4, depth: 0 };

    /// What is worth trying on a device of that kind; the first is what an untuned one gets but for small models.
    pub fn candidates(sizes: Sizes) -> &'static [Tile] {
        const fn tile(across: u32, down: u32, rows: u32, tokens: u32, depth: u32) -> Tile {
            Tile { across, down, rows, tokens, depth }
        }
        const GPU: [Tile; 5] = [
            tile(8, 8, 8, 4, 8),
            tile(8, 8, 8, 8, 4),
            tile(16, 8, 8, 4, 4),
            tile(16, 8, 8, 8, 4),
            tile(8, 8, 4, 4, 8),
        ];
        const CPU: [Tile; 3] = [tile(8, 1, 8, 8, 0), tile(8, 1, 8, 4, 0), Tile::BRIEF];
        match sizes {
            Sizes::Gpu => &GPU,
            Sizes::Cpu => &CPU,
        }
    }

    /// What a device of that kind gets.
    pub fn of(sizes: Sizes) -> Tile {
        let first = Tile::candidates(sizes).first();
        first.copied().unwrap_or(Tile::BRIEF)
    }

    /// What a device gets untuned for a model of that shape.
    pub fn for_model(tier: &DeviceTier, shape: &DecoderShape) -> Tile {
        if Sizes::is_brief(tier, shape) { Tile::BRIEF } else { Tile::of(Sizes::of(tier)) }
    }

    /// The part of WGSL that walks the columns.
    pub(super) fn walk(self) -> &'static str {
        match self.depth {
            0 => wgsl!("shared/walk_rows.wgsl"),
            _ => wgsl!("shared/walk_tiles.wgsl"),
        }
    }

    /// Override constants, a thread having that many rows.
    pub(super) fn constants(self, spec: &MatrixSpec, rows: u32) -> Vec<(&'static str, f64)> {
        let mut constants =
            vec![("R", rows), ("T", self.tokens), ("ACROSS", self.across), ("DOWN", self.down)];
        if self.depth > 0 {
            // An odd distance against bank conflicts.
            constants.extend([("DEPTH", self.depth), ("STRIDE", self.depth + 1)]);
        }
        let constants = constants.into_iter().map(|(name, value)| (name, f64::from(value)));
        constants.chain([linear::constant(spec)]).collect()
    }

    /// Workgroups for `rows` rows of W, `of_thread` of them to a thread, and `tokens` tokens. A part of a
    /// matrix has fewer than 32 * 65535 rows, so that no fold is needed.
    pub(super) fn grid(self, rows: u32, of_thread: u32, tokens: u32) -> Grid {
        [rows.div_ceil(self.across * of_thread), tokens.div_ceil(self.down * self.tokens), 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_models_are_brief_on_software_alone() {
        let tale = DecoderShape {
            hidden: 192,
            intermediate: 512,
            layers: 6,
            heads: 6,
            kv_heads: 2,
            head_dim: 32,
            context: 512,
            ..DecoderShape::default()
        };
        let smollm2 = DecoderShape {
            hidden: 576,
            intermediate: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            context: 512,
            ..DecoderShape::default()
        };
        let hardware = DeviceTier::at_default_limits();
        let software = DeviceTier { software: true, ..hardware.clone() };
        let tiles = [&software, &hardware].map(|tier| [&tale, &smollm2].map(|s| Tile::for_model(tier, s)));
        assert_eq!(tiles, [[Tile::BRIEF, Tile::of(Sizes::Cpu)], [Tile::of(Sizes::Gpu); 2]]);
        assert_ne!(Tile::BRIEF, Tile::of(Sizes::Cpu));
    }
}
