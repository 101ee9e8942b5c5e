//! One token out of the keys. See sample_pick.wgsl.
//!
//! The best one, by a walk over the best of each 1024: one thread's work, a few microseconds. Or a drawn one:
//!
//! On a GPU: one workgroup of 256 threads goes over the keys, 16 bytes a load and neighbouring loads by
//! neighbouring threads, from its caches: 200 KB for 50,000 tokens. A draw without top_k and top_p takes
//! two rounds, each of these four more, ties two besides. A round has two barriers; adding is one or three
//! atomics in workgroup memory (3 KiB), few registers. All of it is hidden by no other work, which is why
//! there are no more rounds than that: several workgroups would need a dispatch for each.

use crate::gpu::{Binding, Kernel};

use super::sample_adjust::{CHOICE_WGSL, Choice};
use super::sizes::Sizes;

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("choice", size_of::<Choice>()),
    Binding::read("powers"),
    Binding::read("keys"),
    Binding::read("bests"),
    Binding::write("history"),
    Binding::write("ids"),
    Binding::write("chosen"),
];

/// Words of `chosen`.
pub const CHOSEN_WORDS: u32 = 4;

/// The kernel; `greedy`: the best token, nothing is drawn.
pub fn kernel(sizes: Sizes, greedy: bool) -> Kernel {
    // A CPU runs the workgroup on one core, and compiles the zeroing of workgroup memory word by word.
    let (threads, digit) = if sizes == Sizes::Gpu { (256, 8) } else { (32, 6) };
    let mut constants = vec![("WG", f64::from(threads))];
    let mut parts = vec![CHOICE_WGSL];
    if greedy {
        parts.push(wgsl!("shared/draw_none.wgsl"));
    } else {
        constants.extend([("DIGIT", f64::from(digit)), ("BINS", f64::from(1 << digit))]);
        let wide = wgsl!("shared/wide.wgsl");
        parts.extend([wide, wgsl!("shared/search.wgsl"), wgsl!("shared/draw.wgsl")]);
    }
    parts.push(wgsl!("sample_pick.wgsl"));
    Kernel { name: "sample_pick", parts, constants, bindings: BINDINGS }
}
