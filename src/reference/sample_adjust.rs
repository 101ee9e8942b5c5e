//! Bias and penalties on the logits, and the best of them. Twin of sample_adjust.wgsl.

use crate::kernels::sample_adjust::{Choice, PER_GROUP};

/// Number of tokens that means none.
pub const NONE: u32 = u32::MAX;

/// Greater for greater logits, never 0.
pub fn key_of(logit: f32) -> u32 {
    // The order of f32 as sign and magnitude; -0 is 0.
    let order =
        if logit < 0.0 { -i64::from((-logit).to_bits()) - 1 } else { i64::from(logit.abs().to_bits()) };
    (order + (1 << 31)) as u32
}

/// The logit of a key.
pub fn logit_of(key: u32) -> f32 {
    let order = i64::from(key) - (1 << 31);
    if order < 0 { -f32::from_bits((-1 - order) as u32) } else { f32::from_bits(order as u32) }
}

/// `logits (vocab)` as bits, `bias (vocab)`, `history (vocab)`, `keys (4 * quads)`, `bests (groups)`.
pub fn sample_adjust(
    choice: &Choice,
    logits: &[u32],
    bias: &[f32],
    history: &[u32],
    keys: &mut [u32],
    bests: &mut [[u32; 4]],
) {
    let rules = &choice.rules;
    keys.fill(0);
    for (group, best) in bests.iter_mut().enumerate() {
        let first = group as u32 * PER_GROUP;
        *best = [0, NONE, NONE, 0];
        for id in first..(first + PER_GROUP).min(choice.vocab) {
            let at = id as usize;
            let mut logit = f32::from_bits(logits[at]);
            if !logit.is_finite() {
                if best[2] == NONE {
                    (best[2], best[3]) = (id, logits[at]);
                }
                continue;
            }
            if rules.bias == 1 {
                logit += bias[at];
            }
            if rules.penalties == 1 && history[at] > 0 {
                logit = rules.penalised(logit, history[at] / 2);
            }
            keys[at] = key_of(logit);
            if keys[at] > best[0] {
                (best[0], best[1]) = (keys[at], id);
            }
        }
    }
}
