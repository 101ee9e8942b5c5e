//! Bias and penalties on the logits, and the best of them. See sample_adjust.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::sampling::{Rules, halves};

use super::sizes::Sizes;
use super::{Grid, PITCH};

/// Declares `struct Choice` in WGSL.
pub(super) const CHOICE_WGSL: &str = wgsl!("shared/choice.wgsl");

/// Tokens of one workgroup.
pub const PER_GROUP: u32 = 1024;

/// Layout of `Choice` in shared/choice.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Choice {
    /// Options of the request.
    pub rules: Rules,
    /// Number of tokens.
    pub vocab: u32,
    /// Keys, in fours.
    pub quads: u32,
    /// Workgroups of this kernel.
    pub groups: u32,
    /// 0, but only at run time.
    pub zero: u32,
    /// The step's draw in 2^-64, low half.
    pub draw_low: u32,
    /// High half.
    pub draw_high: u32,
}

impl Choice {
    /// The choice among `vocab` tokens by a draw of 2^64.
    pub fn new(rules: &Rules, vocab: u32, draw: u64) -> Choice {
        let [draw_low, draw_high] = halves(draw);
        let quads = vocab.next_multiple_of(PITCH) / 4;
        Choice { rules: *rules, vocab, quads, groups: grid(vocab)[0], zero: 0, draw_low, draw_high }
    }
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("choice", size_of::<Choice>()),
    Binding::read("logits"),
    Binding::read("bias"),
    Binding::read("history"),
    Binding::write("keys"),
    Binding::write("bests"),
];

/// The kernel.
pub fn kernel(sizes: Sizes) -> Kernel {
    Kernel {
        name: "sample_adjust",
        parts: vec![CHOICE_WGSL, wgsl!("sample_adjust.wgsl")],
        constants: vec![("WG", if sizes == Sizes::Gpu { 64.0 } else { 16.0 })],
        bindings: BINDINGS,
    }
}

/// Workgroups for `vocab` tokens.
pub fn grid(vocab: u32) -> Grid {
    [vocab.div_ceil(PER_GROUP), 1, 1]
}
