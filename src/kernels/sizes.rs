//! How large workgroups and their tiles are.

use crate::gpu::DeviceTier;
use crate::steps::MatrixSpec;

use super::linear;
use super::weights::per_load;

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
}

/// Fewest threads along a row of a matrix-vector product: so many join their sums at the end.
const MIN_LANES: u32 = 8;

/// Threads of a matrix-vector product: what tuning chooses. Results differ by rounding alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Threads {
    /// Threads of a workgroup, a multiple of `lanes`.
    pub workgroup: u32,
    /// Most threads that share a group of rows, a power of two, at least 8.
    pub lanes: u32,
}

impl Threads {
    /// What is worth trying on a device of that kind; the first is what an untuned one gets.
    pub fn candidates(sizes: Sizes) -> &'static [Threads] {
        const fn threads(workgroup: u32, lanes: u32) -> Threads {
            Threads { workgroup, lanes }
        }
        const GPU: [Threads; 6] = [
            threads(64, 64),
            threads(64, 32),
            threads(64, 16),
            threads(128, 32),
            threads(256, 32),
            threads(128, 128),
        ];
        const CPU: [Threads; 4] = [threads(16, 8), threads(8, 8), threads(32, 8), threads(64, 8)];
        match sizes {
            Sizes::Gpu => &GPU,
            Sizes::Cpu => &CPU,
        }
    }

    /// What a device of that kind gets untuned.
    pub fn of(sizes: Sizes) -> Threads {
        Threads::candidates(sizes).first().copied().unwrap_or(Threads { workgroup: 64, lanes: 32 })
    }

    /// Threads that share a group of rows of this matrix: at least two loads for each, so that
    /// short rows do not idle a warp.
    pub fn lanes(self, spec: &MatrixSpec) -> u32 {
        let loads = spec.cols.div_ceil(per_load(spec.dtype));
        (loads / 2).max(MIN_LANES).next_power_of_two().min(self.lanes)
    }

    /// Groups of rows to a workgroup.
    pub(super) fn groups(self, spec: &MatrixSpec) -> u32 {
        self.workgroup / self.lanes(spec).max(1)
    }

    /// Override constants.
    pub(super) fn constants(self, spec: &MatrixSpec) -> Vec<(&'static str, f64)> {
        let lanes = f64::from(self.lanes(spec));
        vec![("WG", f64::from(self.workgroup)), ("LANES", lanes), linear::constant(spec)]
    }
}

/// What a workgroup of a matrix-matrix product computes and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Threads along the rows of W.
    pub across: u32,
    /// Threads along the tokens.
    pub down: u32,
    /// vec4 of columns in workgroup memory at a time; whole loads of every dtype.
    pub depth: u32,
    /// vec4 between rows in workgroup memory.
    pub stride: u32,
}

impl Tile {
    /// What is worth trying on a device of that kind; the first is what an untuned one gets.
    pub fn candidates(sizes: Sizes) -> &'static [Tile] {
        const fn tile(across: u32, down: u32, depth: u32, stride: u32) -> Tile {
            Tile { across, down, depth, stride }
        }
        // An odd stride against bank conflicts.
        const GPU: [Tile; 3] = [tile(16, 8, 8, 9), tile(16, 16, 4, 5), tile(8, 8, 8, 9)];
        const CPU: [Tile; 3] = [tile(8, 4, 4, 4), tile(8, 2, 4, 4), tile(8, 8, 8, 8)];
        match sizes {
            Sizes::Gpu => &GPU,
            Sizes::Cpu => &CPU,
        }
    }

    /// What a device of that kind gets.
    pub fn of(sizes: Sizes) -> Tile {
        let first = Tile::candidates(sizes).first();
        first.copied().unwrap_or(Tile { across: 8, down: 4, depth: 4, stride: 4 })
    }
}
