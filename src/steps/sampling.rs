//! The arithmetic of choosing a token, defined so that every backend gets the same bits.
//!
//! Logits and penalties are single f32 operations, each rounded once. From there on all is integer:
//! a token weighs `2^31 * exp((logit - largest) / temperature)`, rounded down, and what weighs less than
//! 2^-31 of the best does not count. Sums of such weights do not depend on the order of adding, so a
//! GPU's histograms and a loop over the vocabulary agree to the last bit, and so do their choices.

/// Log2 of the steps of an octave by which weights are looked up.
const STEP_BITS: u32 = 8;

/// Fraction bits of a weight's exponent.
const EXPONENT_BITS: u32 = 26;

/// Options of one request as the arithmetic takes them, laid out for shaders.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Rules {
    /// 1: the largest logit, without a draw.
    pub greedy: u32,
    /// The likeliest tokens that stay; 0: all.
    pub top_k: u32,
    /// Low half of top_p in 2^-64, less one such unit; all bits set: 1.
    pub top_p_low: u32,
    /// High half of it.
    pub top_p_high: u32,
    /// Weights below this one are dropped.
    pub min_weight: u32,
    /// 1: some token has a bias.
    pub bias: u32,
    /// 1: some penalty is not neutral.
    pub penalties: u32,
    /// From half the distance to the largest logit to the exponent of a weight.
    pub scale: f32,
    /// Beyond this half distance a weight is 0.
    pub limit: f32,
    /// Factor on logits of seen tokens that are 0 or less.
    pub repetition: f32,
    /// Factor on those above 0.
    pub reciprocal: f32,
    /// Largest magnitude that the larger of both factors may meet.
    pub most: f32,
    /// Subtracted per occurrence in the output.
    pub frequency: f32,
    /// Subtracted once for a token in the output.
    pub presence: f32,
}

/// Options by their usual names; see `text::SamplerOptions` for their ranges.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// 0: greedy.
    pub temperature: f32,
    /// 0: all.
    pub top_k: u32,
    /// 1: all.
    pub top_p: f32,
    /// 0: all.
    pub min_p: f32,
    /// 1: none.
    pub repetition_penalty: f32,
    /// 0: none.
    pub frequency_penalty: f32,
    /// 0: none.
    pub presence_penalty: f32,
}

impl Rules {
    /// Rules of valid options; `bias`: whether there is any.
    pub fn new(o: &Options, bias: bool) -> Rules {
        let [low, high] = halves(if o.top_p < 1.0 { of_2_64(o.top_p).saturating_sub(1) } else { u64::MAX });
        let neutral = o.repetition_penalty == 1.0 && o.frequency_penalty == 0.0 && o.presence_penalty == 0.0;
        // Twice the steps of an octave per natural unit, since half the distance is what it multiplies.
        let scale =
            f64::from(1u32 << EXPONENT_BITS) * std::f64::consts::LOG2_E * 2.0 / f64::from(o.temperature);
        let scale = finite(scale);
        let reciprocal = finite(1.0 / f64::from(o.repetition_penalty));
        Rules {
            greedy: u32::from(o.temperature == 0.0),
            top_k: o.top_k,
            top_p_low: low,
            top_p_high: high,
            min_weight: (f64::from(o.min_p) * f64::from(1u32 << 31)).ceil() as u32,
            bias: u32::from(bias),
            penalties: u32::from(!neutral),
            scale,
            limit: finite(f64::from(1u32 << 31) / f64::from(scale)),
            repetition: o.repetition_penalty,
            reciprocal,
            // A little less, so that the product is finite however it is rounded.
            most: finite(
                f64::from(f32::MAX) / f64::from(o.repetition_penalty.max(reciprocal)) * (1.0 - 1e-6),
            ),
            frequency: o.frequency_penalty,
            presence: o.presence_penalty,
        }
    }

    /// Whether only some of the likeliest tokens stay, by their probability.
    pub fn cuts_top_p(&self) -> bool {
        self.top_p() != u64::MAX
    }

    /// The fraction that [`share`] takes for top_p.
    pub fn top_p(&self) -> u64 {
        u64::from(self.top_p_high) << 32 | u64::from(self.top_p_low)
    }

    /// A logit, bias included, with the penalties of a token that is in prompt or output, `count` times
    /// in the output.
    pub fn penalised(&self, logit: f32, count: u32) -> f32 {
        let factor = if logit > 0.0 { self.reciprocal } else { self.repetition };
        let scaled = if factor > 1.0 && logit.abs() > self.most {
            // The largest finite value keeps the order.
            f32::MAX.copysign(logit)
        } else {
            logit * factor
        };
        if count > 0 { scaled - (self.frequency * count as f32 + self.presence) } else { scaled }
    }

    /// What a logit weighs beside the largest, of [`powers`].
    pub fn weight(&self, powers: &[u32], largest: f32, logit: f32) -> u32 {
        let gap = largest * 0.5 - logit * 0.5;
        if gap > self.limit {
            return 0;
        }
        let exponent = (gap * self.scale) as u32;
        let octaves = exponent >> EXPONENT_BITS;
        let step = exponent >> (EXPONENT_BITS - STEP_BITS) & ((1 << STEP_BITS) - 1);
        let power = powers.get(step as usize).copied().unwrap_or(0);
        // Within a step 2^-f = 1 - z + z^2 / 2, z = f ln 2 in units of 2^-24; 45426 is 2^16 ln 2.
        let z = ((exponent >> 2 & 0xffff) * 45426) >> 16;
        let less = z - ((z * z) >> 25);
        let weight = power - (((power >> 16) * less) >> 8) - (((power & 0xffff) * less) >> 24);
        weight.checked_shr(octaves).unwrap_or(0)
    }
}

/// 2^(31 - i / 256) for i below 256, rounded down; in integers, so that it is the same everywhere.
pub fn powers() -> Vec<u32> {
    // 2^(64 - 1/256)
    const STEP: u128 = 0xff4e_cb59_511e_c8a5;
    let all =
        std::iter::successors(Some(1u64 << 63), |power| Some(((u128::from(*power) * STEP) >> 64) as u64));
    all.take(1 << STEP_BITS).map(|power| (power >> 32) as u32).collect()
}

/// The least sum that makes up a fraction of `total`: `fraction` in 2^-64, less one such unit. For a draw
/// in place of the fraction: the sum at which the drawn token is reached.
pub fn share(total: u64, fraction: u64) -> u64 {
    ((u128::from(total) * u128::from(fraction)) >> 64) as u64 + 1
}

/// Low and high half.
pub fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// A number in (0, 1) in units of 2^-64, rounded down.
fn of_2_64(value: f32) -> u64 {
    (f64::from(value) * 2f64.powi(64)) as u64
}

fn finite(value: f64) -> f32 {
    value.min(f64::from(f32::MAX)) as f32
}

/// The tokens that penalties know when a device begins to choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past<'a> {
    /// Those of the prompt.
    pub prompt: &'a [u32],
    /// Those that were chosen before.
    pub output: &'a [u32],
}

/// What a backend chose.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampled {
    /// The token.
    pub id: u32,
    /// A token whose logit was no finite number, and that logit: then `id` means nothing.
    pub not_finite: Option<(u32, f32)>,
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const NEUTRAL: Options = Options {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
    };

    #[test]
    fn weights_are_exponentials() {
        let powers = powers();
        assert_eq!((powers.len(), powers[0], powers[128]), (256, 1 << 31, 1_518_500_249));
        for temperature in [0.3f32, 1.0, 1.7] {
            let rules = Rules::new(&Options { temperature, ..NEUTRAL }, false);
            for step in 0..30_000 {
                let logit = 11.5 - 0.001 * step as f32;
                let exact = 2f64.powi(31) * ((f64::from(logit) - 11.5) / f64::from(temperature)).exp();
                let weight = f64::from(rules.weight(&powers, 11.5, logit));
                // f32 carries the distance to 2^-24 of itself, which is up to 22 where a weight is above 0.
                let tolerance = 1.0 + exact * 22.0 * 2f64.powi(-23);
                assert!((weight - exact).abs() <= tolerance, "{temperature} {logit}: {weight}, not {exact}");
            }
        }
    }

    #[test]
    fn shares_are_the_least_sums() {
        assert_eq!(share(10, u64::MAX), 10);
        let rules = Rules::new(&Options { top_p: 0.5, ..NEUTRAL }, false);
        assert!(rules.cuts_top_p() && !Rules::new(&NEUTRAL, false).cuts_top_p());
        assert_eq!([share(9, rules.top_p()), share(10, rules.top_p()), share(11, rules.top_p())], [5, 5, 6]);
        // A draw from [0, 1): the first unit of the sum, and the last.
        assert_eq!([share(7, 0), share(7, !0 << 11)], [1, 7]);
        assert_eq!(share(1 << 51, 1 << 63), (1 << 50) + 1);
    }
}
