//! One token out of the keys. Twin of sample_pick.wgsl: sorts them all.

use crate::kernels::sample_adjust::Choice;
use crate::steps::sampling::share;

use super::sample_adjust::{NONE, logit_of};

/// Chooses a token and notes it.
///
/// `powers (256)`, `keys (4 * quads)`, `bests (groups)`, `history (vocab)`, `ids (max_batch)`, `chosen (4)`.
pub fn sample_pick(
    choice: &Choice,
    powers: &[u32],
    keys: &[u32],
    bests: &[[u32; 4]],
    history: &mut [u32],
    ids: &mut [u32],
    chosen: &mut [u32],
) {
    let rules = &choice.rules;
    let mut order: Vec<u32> = (0..choice.vocab).filter(|id| keys[*id as usize] > 0).collect();
    // Sorting is stable: equal keys stay in the order of ids.
    order.sort_by_key(|id| std::cmp::Reverse(keys[*id as usize]));
    let bad = bests.iter().map(|best| [best[2], best[3]]).min().unwrap_or([NONE, 0]);
    let mut id = order.first().copied().unwrap_or(choice.vocab - 1);
    if rules.greedy == 0 && !order.is_empty() {
        let top = logit_of(keys[id as usize]);
        let weight = |id: &u32| u64::from(rules.weight(powers, top, logit_of(keys[*id as usize])));
        if rules.top_k > 0 {
            order.truncate(rules.top_k as usize);
        }
        if rules.cuts_top_p() {
            let enough = share(order.iter().map(weight).sum(), rules.top_p());
            let mut sum = 0;
            let last = order.iter().position(|id| {
                sum += weight(id);
                sum >= enough
            });
            order.truncate(last.map_or(order.len(), |last| last + 1));
        }
        order.retain(|id| weight(id) >= u64::from(rules.min_weight));
        order.sort_unstable();
        let draw = u64::from(choice.draw_high) << 32 | u64::from(choice.draw_low);
        let reached = share(order.iter().map(weight).sum(), draw);
        let mut sum = 0;
        let drawn = order.iter().find(|id| {
            sum += weight(id);
            sum >= reached
        });
        id = drawn.copied().unwrap_or(id);
    }
    ids[0] = id;
    chosen[..3].copy_from_slice(&[id, bad[0], bad[1]]);
    if rules.penalties == 1 {
        history[id as usize] = (history[id as usize] | 1) + 2;
    }
}
