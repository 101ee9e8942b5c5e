//! What tuning chooses between.

use crate::gpu::DeviceTier;
use crate::steps::DecoderShape;

use super::{Sizes, Threads, Tile};

/// How a device computes products. Results differ by rounding alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Threads of matrix-vector products.
    pub threads: Threads,
    /// Tile of matrix-matrix products. A sum has the same bits in all of them.
    pub tile: Tile,
    /// Whether weights are unpacked by the fast decoder, where its test allows that.
    pub fast: bool,
    /// Whether sums meet by exchange within subgroups, where the device's test allows that.
    pub subgroups: bool,
    /// Most tokens of a prompt's end that matrix-vector products compute, where it need not be exact to the bit.
    pub short: u32,
}

/// What a choice is in numbers.
pub type Numbers = [u32; 10];

impl Choice {
    /// Longest end of a prompt that matrix-vector products may compute.
    pub const MOST_SHORT: u32 = 8;

    /// What a device gets untuned for a model of that shape.
    pub fn usual(tier: &DeviceTier, shape: &DecoderShape) -> Choice {
        let threads = Threads::of(Sizes::of(tier));
        Choice { threads, tile: Tile::for_model(tier, shape), fast: true, subgroups: true, short: 0 }
    }

    /// As numbers, to be remembered.
    pub fn numbers(&self) -> Numbers {
        let Threads { workgroup, lanes, .. } = self.threads;
        let Tile { across, down, rows, tokens, depth } = self.tile;
        let [fast, subgroups] = [self.fast, self.subgroups].map(u32::from);
        [workgroup, lanes, across, down, rows, tokens, depth, fast, subgroups, self.short]
    }

    /// What was remembered; `None` for what is no choice of a device of that kind.
    pub fn from_numbers(numbers: Numbers, sizes: Sizes) -> Option<Choice> {
        let [workgroup, lanes, across, down, rows, tokens, depth, fast, subgroups, short] = numbers;
        let choice = Choice {
            threads: Threads { workgroup, lanes, subgroup: 0 },
            tile: Tile { across, down, rows, tokens, depth },
            fast: fast == 1,
            subgroups: subgroups == 1,
            short,
        };
        let is_known = Threads::candidates(sizes).contains(&choice.threads)
            && Tile::candidates(sizes).contains(&choice.tile);
        (is_known && fast.max(subgroups) <= 1 && short <= Choice::MOST_SHORT).then_some(choice)
    }
}
