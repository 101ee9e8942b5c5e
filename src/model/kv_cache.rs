//! What the key/value cache holds, position by position. The numbers themselves are the
//! backend's; here is only which tokens they belong to and which of them may be used again.

/// Bookkeeping of one sequence's rolling cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvCache {
    tokens: Vec<u32>,
    /// Positions from the start that prompt passes computed. Those of decode passes agree with
    /// them only up to rounding: a text that is to be the same each time cannot build on them.
    exact: usize,
    /// Longest sequence since the start: later positions have rolled over earlier ones.
    high_water: usize,
    slots: usize,
    window: usize,
}

impl KvCache {
    /// An empty cache of `slots` positions for queries that see `window` keys.
    pub fn new(slots: u32, window: Option<u32>) -> KvCache {
        KvCache {
            slots: slots as usize,
            window: window.map_or(usize::MAX, |w| w as usize),
            ..KvCache::default()
        }
    }

    /// Number of positions held.
    pub fn len(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.exact = 0;
        self.high_water = 0;
    }

    /// Notes that `ids` have been computed at the end of the sequence.
    pub fn push(&mut self, ids: &[u32], prompt: bool) {
        if prompt && self.exact == self.tokens.len() {
            self.exact += ids.len();
        }
        self.tokens.extend_from_slice(ids);
        self.reach(self.tokens.len() as u32);
    }

    /// Notes that positions below `end` are written, by tokens that may never be part of the sequence.
    pub fn reach(&mut self, end: u32) {
        self.high_water = self.high_water.max(end as usize);
    }

    /// Keeps what `prompt` has in common with the sequence and returns its length: at most all but one
    /// token of the prompt, and with `exact` only what it can be continued from to the bit.
    pub fn rewind(&mut self, prompt: &[u32], exact: bool) -> u32 {
        let common = self.tokens.iter().zip(prompt).take_while(|(held, wanted)| held == wanted).count();
        let usable = if exact { self.exact } else { common };
        let keep = common.min(usable).min(prompt.len().saturating_sub(1));
        // The next query sees positions from keep + 1 - window on; those before
        // high_water - slots have been overwritten.
        let first_needed = (keep + 1).saturating_sub(self.window);
        let first_held = self.high_water.saturating_sub(self.slots);
        if keep == 0 || first_needed < first_held {
            self.clear();
            return 0;
        }
        self.tokens.truncate(keep);
        self.exact = self.exact.min(keep);
        keep as u32
    }
}

#[cfg(test)]
mod tests {
    use super::KvCache;

    #[test]
    fn keeps_only_what_a_prompt_computed() {
        let mut cache = KvCache::new(100, None);
        cache.push(&[1, 2, 3], true);
        cache.push(&[4], false);
        cache.push(&[5], false);
        assert_eq!(cache.rewind(&[1, 2, 3, 4, 5, 6], true), 3);
        assert_eq!(cache.len(), 3);
        cache.push(&[4, 5, 6], true);
        assert_eq!(
            cache.rewind(&[1, 2, 3, 4, 5, 6], true),
            5,
            "the last token is computed anew for its logits"
        );
        assert_eq!(cache.rewind(&[1, 9], true), 1);
        assert_eq!(cache.rewind(&[7], true), 0);
        assert!(cache.is_empty());
    }

    #[test]
    fn keeps_replies_where_rounding_may_show() {
        let mut cache = KvCache::new(100, None);
        cache.push(&[1, 2, 3], true);
        cache.push(&[4], false);
        cache.push(&[5], false);
        assert_eq!(cache.rewind(&[1, 2, 3, 4, 5, 6], false), 5);
        // What follows builds on the reply, so it is not exact either.
        cache.push(&[6, 7], true);
        assert_eq!(cache.clone().rewind(&[1, 2, 3, 4, 5, 6, 7, 8], false), 7);
        assert_eq!(cache.clone().rewind(&[1, 2, 3, 9, 5, 6, 7, 8], false), 3, "an edited message");
        assert_eq!(cache.rewind(&[1, 2, 3, 4, 5, 6, 7, 8], true), 3);
        cache.push(&[4, 5, 6, 7, 8], true);
        assert_eq!(cache.rewind(&[1, 2, 3, 4, 5, 6, 7, 8, 9], true), 8);
    }

    #[test]
    fn remembers_what_was_computed_past_the_end() {
        // Window 4, 6 slots, 7 positions: 1 to 6 are held, and position 4 sees 1 to 4.
        let prompt: Vec<u32> = (0..7).collect();
        let filled = |end| {
            let mut cache = KvCache::new(6, Some(4));
            cache.push(&prompt, true);
            cache.reach(end);
            cache
        };
        assert_eq!(filled(7).rewind(&[0, 1, 2, 3, 99], true), 4);
        // Three more tokens that were thrown away have rolled over 1 to 3.
        assert_eq!(filled(10).rewind(&[0, 1, 2, 3, 99], true), 0);
    }

    #[test]
    fn does_not_reuse_what_has_rolled_over() {
        // Window 4, 6 slots: after 10 positions, 4 to 9 are held.
        let prompt: Vec<u32> = (0..10).collect();
        let filled = || {
            let mut cache = KvCache::new(6, Some(4));
            cache.push(&prompt, true);
            cache
        };
        assert_eq!(filled().rewind(&prompt, true), 9);
        assert_eq!(filled().rewind(&[0, 1, 2, 3, 4, 5, 6, 99], true), 7, "position 7 sees 4 to 7: all held");
        assert_eq!(filled().rewind(&[0, 1, 2, 3, 4, 5, 99], true), 0, "position 6 sees 3, which is gone");
    }

    #[test]
    fn remembers_what_rolled_over_before_a_rewind() {
        let mut cache = KvCache::new(6, Some(4));
        cache.push(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], true);
        assert_eq!(cache.rewind(&[0, 1, 2, 3, 4, 5, 6, 99], true), 7);
        // Positions 0 to 3 are still overwritten although the sequence is shorter now.
        assert_eq!(cache.rewind(&[0, 1, 2, 3, 4, 99], true), 0);
    }
}
