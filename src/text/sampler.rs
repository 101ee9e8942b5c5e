//! Logits -> the next token.
//!
//! The order of the steps is that of transformers and vLLM:
//!
//! 1. `logit_bias` is added;
//! 2. repetition penalty r, once per token seen in prompt or output: a positive
//!    logit is multiplied by 1/r, another by r;
//! 3. frequency penalty times the token's count in the output, and presence
//!    penalty if it is there at all, are subtracted;
//! 4. temperature 0: the largest logit, of equal ones the lowest id; no draw;
//! 5. logits are divided by the temperature;
//! 6. `top_k`: the k largest stay, of equal ones the lower ids;
//! 7. `top_p`: of these, renormalised, the smallest set of the likeliest whose
//!    probabilities sum to at least top_p stays;
//! 8. `min_p`: of these, those at or above min_p times the largest stay;
//! 9. one draw from what stays, in the order of ids.
//!
//! Draws come from ChaCha8 keyed with the seed (`seed_from_u64`), 53 bits each,
//! one per sampled token: the same on every platform. Probabilities are integers
//! ([`crate::steps::sampling`]), so that a GPU which follows the same rules chooses
//! the same tokens.

use std::cmp::Ordering;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::error::TextError;
use crate::steps::sampling::{Options, Rules, powers, share};

/// How to choose tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// 0 is greedy; at least 0.
    pub temperature: f32,
    /// Keep this many tokens; 0: all.
    pub top_k: u32,
    /// Keep the smallest set of tokens with at least this probability, (0, 1].
    pub top_p: f32,
    /// Drop tokens below this share of the best one's probability, [0, 1].
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; above 0.
    pub repetition_penalty: f32,
    /// Subtracted per occurrence in the output, [-2, 2].
    pub frequency_penalty: f32,
    /// Subtracted once if it occurs in the output, [-2, 2].
    pub presence_penalty: f32,
    /// Added to the logits of these tokens, [-100, 100].
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// Neutral: the model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// The same options as every backend takes them.
    fn rules(&self) -> Rules {
        let options = Options {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
        };
        Rules::new(&options, !self.logit_bias.is_empty())
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`TextError::BadOption`], naming the first that is out of its range or not a finite number.
    pub fn validate(&self) -> Result<(), TextError> {
        let check = |option, range, value: f32, ok: bool| {
            if ok && value.is_finite() {
                return Ok(());
            }
            Err(TextError::BadOption { option, range, value: f64::from(value) })
        };
        let t = self.temperature;
        check("temperature", "at least 0", t, t >= 0.0)?;
        check("top_p", "above 0 and at most 1", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0)?;
        check("min_p", "from 0 to 1", self.min_p, (0.0..=1.0).contains(&self.min_p))?;
        check("repetition_penalty", "above 0", self.repetition_penalty, self.repetition_penalty > 0.0)?;
        let two = -2.0..=2.0;
        check(
            "frequency_penalty",
            "from -2 to 2",
            self.frequency_penalty,
            two.contains(&self.frequency_penalty),
        )?;
        check(
            "presence_penalty",
            "from -2 to 2",
            self.presence_penalty,
            two.contains(&self.presence_penalty),
        )?;
        let hundred = -100.0..=100.0;
        self.logit_bias
            .iter()
            .try_for_each(|&(_, b)| check("logit_bias", "from -100 to 100", b, hundred.contains(&b)))
    }
}

/// Chooses tokens, one after the other. Allocates nothing per token.
#[derive(Clone, Debug)]
pub struct Sampler {
    rules: Rules,
    /// What is added to logits, each token once.
    bias: Vec<(u32, f32)>,
    random: ChaCha8Rng,
    powers: Vec<u32>,
    /// Per token: how often it is in the output. (vocab)
    counts: Vec<u32>,
    /// Per token: whether it is in prompt or output. (vocab)
    seen: Vec<bool>,
    /// The tokens that are `seen`, each once.
    touched: Vec<u32>,
    /// Logits after bias and penalties. (vocab)
    logits: Vec<f32>,
    /// exp((logit - largest) / temperature) in 2^-31, 0 for dropped tokens. (vocab)
    weights: Vec<u32>,
    /// Token ids, partly ordered. At most (vocab)
    order: Vec<u32>,
}

impl Sampler {
    /// A sampler over `vocab` tokens (the model's, which may exceed the tokenizer's).
    ///
    /// # Errors
    /// Those of [`SamplerOptions::validate`]; [`TextError::UnknownToken`] for a bias on an id that does not exist.
    pub fn new(options: SamplerOptions, vocab: usize) -> Result<Self, TextError> {
        options.validate()?;
        if let Some(&(id, _)) = options.logit_bias.iter().find(|&&(id, _)| index(id) >= vocab) {
            return Err(TextError::UnknownToken { id, vocab });
        }
        let mut bias = options.logit_bias.clone();
        bias.sort_by_key(|&(id, _)| id);
        bias.dedup_by(|again, first| {
            let same = again.0 == first.0;
            first.1 += if same { again.1 } else { 0.0 };
            same
        });
        Ok(Self {
            random: ChaCha8Rng::seed_from_u64(options.seed),
            rules: options.rules(),
            bias,
            powers: powers(),
            counts: vec![0; vocab],
            seen: vec![false; vocab],
            touched: Vec::new(),
            logits: Vec::with_capacity(vocab),
            weights: Vec::with_capacity(vocab),
            order: Vec::with_capacity(vocab),
        })
    }

    /// Tells the sampler the prompt, for the repetition penalty.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`].
    pub fn accept_prompt(&mut self, ids: &[u32]) -> Result<(), TextError> {
        ids.iter().try_for_each(|&id| self.see(id))
    }

    /// Chooses the next token and records it as part of the output.
    ///
    /// # Errors
    /// [`TextError::LogitCount`], [`TextError::NonFiniteLogits`]; neither changes the sampler.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, TextError> {
        check_logits(logits, self.counts.len())?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.adjust();
        let best = best(&self.logits).ok_or(TextError::LogitCount { got: 0, vocab: 0 })?;
        let id = if self.rules.greedy == 1 { best } else { self.draw(best) };
        self.see(id)?;
        if let Some(count) = self.counts.get_mut(index(id)) {
            *count = count.saturating_add(1);
        }
        Ok(id)
    }

    /// The rules, for a backend that chooses by them.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What is added to logits, each token once.
    pub fn bias(&self) -> &[(u32, f32)] {
        &self.bias
    }

    /// The draw for the next token, of 2^64; none is spent where there is nothing to draw.
    pub fn next_draw(&mut self) -> u64 {
        if self.rules.greedy == 1 { 0 } else { self.random.next_u64() >> 11 << 11 }
    }

    fn see(&mut self, id: u32) -> Result<(), TextError> {
        let vocab = self.seen.len();
        let seen = self.seen.get_mut(index(id)).ok_or(TextError::UnknownToken { id, vocab })?;
        if !std::mem::replace(seen, true) {
            self.touched.push(id);
        }
        Ok(())
    }

    /// Steps 1 to 3.
    fn adjust(&mut self) {
        for &(id, bias) in &self.bias {
            if let Some(logit) = self.logits.get_mut(index(id)) {
                *logit += bias;
            }
        }
        if self.rules.penalties == 0 {
            return;
        }
        for &id in &self.touched {
            let (Some(logit), Some(&count)) = (self.logits.get_mut(index(id)), self.counts.get(index(id)))
            else {
                continue;
            };
            *logit = self.rules.penalised(*logit, count);
        }
    }

    /// Steps 5 to 9.
    fn draw(&mut self, best: u32) -> u32 {
        let largest = value(&self.logits, best);
        let top_k = index(self.rules.top_k);
        let cut_k = top_k > 0 && top_k < self.logits.len();
        let cut_p = self.rules.cuts_top_p();
        if cut_k || cut_p {
            self.order.clear();
            self.order.extend((0u32..).zip(&self.logits).map(|(id, _)| id));
        }
        let mut last_kept = None;
        if cut_k {
            let logits = &self.logits;
            self.order.select_nth_unstable_by(top_k - 1, |&a, &b| by_rank(logits, a, b));
            self.order.truncate(top_k);
            last_kept = self.order.last().copied();
        }
        self.weights.clear();
        for (id, &logit) in (0u32..).zip(&self.logits) {
            let kept = last_kept.is_none_or(|last| by_rank(&self.logits, id, last) != Ordering::Greater);
            let weight = if kept { self.rules.weight(&self.powers, largest, logit) } else { 0 };
            self.weights.push(weight);
        }
        if cut_p {
            let enough = share(sum(&self.weights), self.rules.top_p());
            let last = nucleus(&mut self.order, &self.logits, &self.weights, enough);
            for (id, w) in (0u32..).zip(&mut self.weights) {
                if by_rank(&self.logits, id, last.unwrap_or(best)) == Ordering::Greater {
                    *w = 0;
                }
            }
        }
        // The best token weighs 2^31, so a share of it is min_p itself.
        let least = self.rules.min_weight;
        self.weights.iter_mut().filter(|w| **w < least).for_each(|w| *w = 0);

        let reached = share(sum(&self.weights), self.next_draw());
        let mut sum = 0;
        let drawn = (0u32..).zip(&self.weights).find(|&(_, &w)| {
            sum += u64::from(w);
            sum >= reached
        });
        drawn.map_or(best, |(id, _)| id)
    }
}

fn sum(weights: &[u32]) -> u64 {
    weights.iter().map(|&w| u64::from(w)).sum()
}

/// The likeliest tokens of `order` whose weights sum to `enough`: returns the
/// last of them. Orders only as many as that takes.
fn nucleus(order: &mut [u32], logits: &[f32], weights: &[u32], enough: u64) -> Option<u32> {
    let (mut rest, mut size, mut sum, mut last) = (order, 64, 0, None);
    while !rest.is_empty() {
        let n = size.min(rest.len());
        if n < rest.len() {
            rest.select_nth_unstable_by(n - 1, |&a, &b| by_rank(logits, a, b));
        }
        let (head, tail) = rest.split_at_mut(n);
        head.sort_unstable_by(|&a, &b| by_rank(logits, a, b));
        for &id in head.iter() {
            last = Some(id);
            sum += weights.get(index(id)).copied().map_or(0, u64::from);
            if sum >= enough {
                return last;
            }
        }
        (rest, size) = (tail, size * 4);
    }
    last
}

/// Log-probabilities under the model's own distribution (softmax of the logits
/// as they are): of `chosen`, and of the `n` likeliest tokens, likeliest first
/// and of equal ones the lower id first.
///
/// # Errors
/// [`TextError::NonFiniteLogits`], [`TextError::UnknownToken`].
pub fn log_probs(logits: &[f32], chosen: u32, n: usize) -> Result<(f32, Vec<(u32, f32)>), TextError> {
    check_logits(logits, logits.len())?;
    let unknown = TextError::UnknownToken { id: chosen, vocab: logits.len() };
    let chosen = *logits.get(index(chosen)).ok_or(unknown)?;
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&l| (f64::from(l) - f64::from(largest)).exp()).sum();
    let log_sum = f64::from(largest) + sum.ln();
    let log_prob = |logit: f32| (f64::from(logit) - log_sum) as f32;

    let n = n.min(logits.len());
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
    for (id, &logit) in (0u32..).zip(logits) {
        if top.len() == n && top.last().is_none_or(|&(_, least)| logit <= least) {
            continue;
        }
        // Ids ascend, so an equal logit goes behind those that are there.
        let place = top.partition_point(|&(_, other)| other >= logit);
        top.insert(place, (id, logit));
        top.truncate(n);
    }
    Ok((log_prob(chosen), top.into_iter().map(|(id, logit)| (id, log_prob(logit))).collect()))
}

/// Refuses logits that are not one finite number per token.
///
/// # Errors
/// [`TextError::LogitCount`], [`TextError::NonFiniteLogits`].
pub fn check_logits(logits: &[f32], vocab: usize) -> Result<(), TextError> {
    if logits.len() != vocab || vocab == 0 {
        return Err(TextError::LogitCount { got: logits.len(), vocab });
    }
    match (0u32..).zip(logits).find(|(_, l)| !l.is_finite()) {
        Some((id, &value)) => Err(TextError::NonFiniteLogits { id, value }),
        None => Ok(()),
    }
}

fn best(logits: &[f32]) -> Option<u32> {
    (0u32..).zip(logits).reduce(|a, b| if b.1 > a.1 { b } else { a }).map(|(id, _)| id)
}

/// Larger logits first, of equal ones the lower id.
fn by_rank(logits: &[f32], a: u32, b: u32) -> Ordering {
    // Adding 0 makes -0 equal to 0, as every other comparison has it.
    (value(logits, b) + 0.0).total_cmp(&(value(logits, a) + 0.0)).then(a.cmp(&b))
}

fn value(logits: &[f32], id: u32) -> f32 {
    logits.get(index(id)).copied().unwrap_or(f32::MIN)
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}
