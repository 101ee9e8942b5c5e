//! How fast a loaded model runs, beside what the same adapter can do at most. One text for the command line and for
//! browsers; the limits are those of [`crate::kernels::probe`].

mod limits;

use serde::Serialize;
use web_time::Instant;

use super::{Engine, EngineError, Info};
use crate::kernels::WebGpu;
use crate::kernels::probe::{Limits, median};
use crate::steps::DecoderShape;
use crate::steps::sampling::{Past, Rules};
use limits::{decode_limit_ms, of_limits, prompt_limit_ms};

/// Prompt lengths.
const PROMPTS: [u32; 4] = [16, 128, 512, 2048];
/// Tokens in the cache before a token is decoded.
const CONTEXTS: [u32; 3] = [16, 512, 2048];
/// Tokens decoded for one sample.
const STEPS: u32 = 8;
/// How long a token is computed again and again for the profile.
const PROFILE_MS: f64 = 1500.0;
/// Timestamps that come in larger steps than this tell nothing of one dispatch, but still something of many.
const COARSE_MS: f64 = 0.005;
/// A prompt that takes longer than this is timed once.
const LONG_MS: f64 = 4000.0;
/// A prompt that would take longer than this, by the shorter ones, is left out.
const TOO_LONG_MS: f64 = 90_000.0;
/// Tokens of the prompt whose logits are compared, and tokens decoded behind it: the prompt fills tiles of the
/// products, and a GPU divides the cache behind it.
const COMPARED: [u32; 2] = [64, 3];
/// How far logits may be from the reference's, of the largest: keys and values are rounded to f16.
const TOLERANCE: f32 = 5e-3;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// How often everything is timed.
    pub rounds: u32,
    /// Longest prompt and context that are timed.
    pub longest: u32,
    /// Fewer kernels, shorter samples.
    pub quick: bool,
}

impl Default for BenchOptions {
    fn default() -> BenchOptions {
        BenchOptions { rounds: 3, longest: 2048, quick: false }
    }
}

/// One figure: the median of its samples.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// `limit`, `kernel`, `merge`, `load`, `first token`, `prefill`, `decode`, `submits`, `dispatches`, `time` or
    /// `token`.
    pub kind: &'static str,
    /// Which of its kind.
    pub name: String,
    /// Tokens: of the prompt, or before the decoded one; else 0.
    pub at: u32,
    /// The median.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Least and most.
    pub spread: [f64; 2],
    /// Number of samples.
    pub samples: usize,
    /// What the adapter can do at most, in the same unit, where that was measured.
    pub limit: Option<f64>,
    /// How close to the limit it is; 1: reached.
    pub ratio: Option<f64>,
}

/// The result of a bench.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchReport {
    /// What was measured, and on which adapter; memory in bytes.
    pub info: Info,
    /// Largest deviation of a logit from the reference's, of the largest.
    pub deviation: f32,
    /// All figures.
    pub figures: Figures,
    /// Bytes that a sample of a limit walks through at least, before it comes to the same ones again.
    pub walk_bytes: u64,
    /// What was left out, and why; what to know of the figures.
    pub notes: Vec<String>,
}

/// All figures of a report.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Figures(pub Vec<Figure>);

/// How samples become a figure.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Each times this.
    Times(f64, &'static str),
    /// This by each.
    Per(f64, &'static str),
}

impl Figures {
    /// Adds the median of some samples; `limit` is in the figure's unit, and 0 where there is none.
    // One function, and not inlined: what is called so often would be half of the bench's code.
    #[inline(never)]
    pub fn add(
        &mut self,
        (kind, name, at): (&'static str, &str, u32),
        unit: Unit,
        samples: &[f64],
        limit: f64,
    ) {
        let mut figure = Figure {
            kind,
            name: name.to_owned(),
            at,
            value: 0.0,
            unit: "",
            spread: [f64::INFINITY, f64::NEG_INFINITY],
            samples: samples.len(),
            limit: None,
            ratio: None,
        };
        let mut values = samples.to_vec();
        for value in &mut values {
            (*value, figure.unit) = match unit {
                Unit::Times(factor, unit) => (*value * factor, unit),
                Unit::Per(work, unit) => (work / *value, unit),
            };
            let [least, most] = &mut figure.spread;
            (*least, *most) = (least.min(*value), most.max(*value));
        }
        figure.value = median(&values);
        if limit > 0.0 {
            (figure.limit, figure.ratio) = (Some(limit), Some(figure.value / limit));
        }
        self.0.push(figure);
    }

    /// Adds milliseconds that are each the sum over so many dispatches, by timestamps that come in steps.
    fn add_times(&mut self, name: (&'static str, &str, u32), samples: &[f64], step_ms: f64, dispatches: u64) {
        let (ms, count) = (Unit::Times(1.0, "ms"), samples.len());
        if count == 0 {
            return;
        }
        if step_ms <= COARSE_MS {
            return self.add(name, ms, samples, 0.0);
        }
        // Passes begin anywhere within a step, so that the mean is right; each is off by half a step at most, the
        // root of the mean square.
        let mean = samples.iter().sum::<f64>() / count as f64;
        let off = step_ms / 2.0 * (dispatches as f64 / count as f64).sqrt();
        self.add(name, ms, &[(mean - off).max(0.0), mean, mean + off], 0.0);
        self.0.last_mut().into_iter().for_each(|figure| figure.samples = count);
    }
}

/// Token ids that a model of that vocabulary takes.
fn ids(vocab: u32, count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 7919 + 13) % vocab.max(1)).collect()
}

/// The passes whose logits are compared: ids, and whether they are a prompt.
pub fn compared(vocab: u32) -> Vec<(Vec<u32>, bool)> {
    let [prompt, rest] = COMPARED;
    let ids = ids(vocab, prompt + rest);
    let (prompt, rest) = ids.split_at(prompt as usize);
    std::iter::once((prompt.to_vec(), true)).chain(rest.iter().map(|id| (vec![*id], false))).collect()
}

impl Engine {
    /// Logits of the passes that a bench compares, one behind the other: what an engine on another backend
    /// gives as `expected`. `(passes, vocab)`
    ///
    /// # Errors
    /// What the backend reports.
    pub async fn bench_logits(&mut self) -> Result<Vec<f32>, EngineError> {
        self.decoder.reset();
        let mut all = Vec::new();
        for (ids, is_prompt) in compared(self.config.vocab) {
            all.extend(self.logits_of(&ids, is_prompt).await?);
        }
        Ok(all)
    }

    /// Appends tokens in as many passes as it takes; the logits of the last one.
    async fn logits_of(&mut self, ids: &[u32], is_prompt: bool) -> Result<Vec<f32>, EngineError> {
        let mut last = Vec::new();
        for batch in ids.chunks(self.decoder.max_batch().max(1) as usize) {
            last = self.decoder.forward(batch, is_prompt, true).await?.unwrap_or_default();
        }
        Ok(last)
    }

    /// Compares logits with `expected`, as [`Engine::bench_logits`] gives them, then times everything. `progress`
    /// hears what is done next, and at which number of tokens.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] on the CPU; [`EngineError::WrongLogits`]; [`EngineError::Aborted`]; what the
    /// device reports.
    pub async fn bench(
        &mut self,
        expected: &[f32],
        options: BenchOptions,
        progress: &mut dyn FnMut(&'static str, u32),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<BenchReport, EngineError> {
        let shape = self.gpu()?.shape().clone();
        let mut say = |what: &'static str, at: u32| {
            progress(what, at);
            if cancelled() { Err(EngineError::Aborted) } else { Ok(()) }
        };
        say("comparing logits", 0)?;
        let (deviation, first_ms) = self.validate(expected).await?;
        let cold = self.loading.ms + first_ms;

        self.gpu()?.choosable().await?;
        say("preparing limits", 0)?;
        let matrices = self.plan.products();
        let mut limits = Limits::new(self.gpu()?, &matrices, options.quick).await?;
        let longest = if options.quick { options.longest.min(128) } else { options.longest };
        let mut notes = Vec::new();
        if shape.context < longest.saturating_add(STEPS + 8) {
            notes.push("the context holds no longer prompts".to_owned());
        }
        // Milliseconds: of prompts, then of tokens behind a context.
        let mut points: Vec<(bool, u32, Vec<f64>)> = Vec::new();
        for (is_prompt, lengths) in [(true, &PROMPTS[..]), (false, &CONTEXTS[..])] {
            let fit = lengths.iter().filter(|&&at| at <= longest && at + STEPS + 8 <= shape.context);
            points.extend(fit.map(|&at| (is_prompt, at, Vec::new())));
        }
        let mut submits = 0;
        for round in 0..options.rounds.max(1) {
            say("measuring limits", 0)?;
            limits.sample(self.gpu()?.gpu()).await?;
            let mut ms_per_token = 0.0;
            for (is_prompt, at, samples) in &mut points {
                let known = samples.first().copied();
                if *is_prompt && known.is_none() && (round > 0 || ms_per_token * f64::from(*at) > TOO_LONG_MS)
                {
                    if round == 0 {
                        notes.push("longer prompts would take minutes".to_owned());
                    }
                } else if !*is_prompt || known.is_none_or(|ms| ms < LONG_MS) {
                    say(if *is_prompt { "a prompt of" } else { "decoding behind" }, *at)?;
                    let before = self.traffic().submits;
                    samples.push(self.time(*is_prompt, *at, &shape).await?);
                    submits = self.traffic().submits - before;
                }
                ms_per_token = samples.first().map_or(ms_per_token, |ms| ms / f64::from(*at));
            }
        }

        say("profiling", 0)?;
        if !self.gpu()?.gpu().tier().timestamps {
            notes.push("this adapter has no timestamps: kernels are counted, not timed".to_owned());
        }
        let mut figures = of_limits(&limits);
        let loading = Unit::Per(self.loading.bytes as f64 / 1e3, "MB/s");
        figures.add(
            ("load", "weights", 0),
            loading,
            &[self.loading.weights_ms],
            median(&limits.writes) / 1e6,
        );
        figures.add(("first token", "cold, from the load on", 0), Unit::Times(1.0, "ms"), &[cold], 0.0);
        if let Some((true, at, samples)) = points.first() {
            figures.add(("first token", "warm", *at), Unit::Times(1.0, "ms"), samples, 0.0);
        }
        for (is_prompt, at, samples) in points.iter().filter(|(_, _, samples)| !samples.is_empty()) {
            let (kind, name, tokens, limit_ms) = match is_prompt {
                true => ("prefill", "prompt", f64::from(*at), prompt_limit_ms(*at, &matrices, &limits)),
                false => ("decode", "token", 1.0, decode_limit_ms(*at, &shape, &matrices, &limits)),
            };
            let tokens_ms = tokens * 1e3;
            figures.add((kind, name, *at), Unit::Per(tokens_ms, "tokens/s"), samples, tokens_ms / limit_ms);
        }
        // The first of them ends a prompt; the rest were decoded.
        let per_token = submits as f64 / f64::from(STEPS + 1);
        figures.add(("submits", "per token", 0), Unit::Times(1.0, "submits"), &[per_token], 0.0);
        let budget_ms = if options.quick { PROFILE_MS / 5.0 } else { PROFILE_MS };
        for (_, at, samples) in points.iter().filter(|(is_prompt, ..)| !is_prompt) {
            let note = self.profile((*at, samples), &shape, budget_ms, &mut figures).await?;
            notes.extend(note.filter(|note| !notes.contains(note)));
        }
        Ok(BenchReport { info: self.info(), deviation, figures, walk_bytes: limits.walk_bytes, notes })
    }

    fn gpu(&mut self) -> Result<&mut WebGpu, EngineError> {
        let cpu =
            || EngineError::BadRequest("the bench measures WebGPU: load with the backend webgpu".into());
        self.decoder.backend_mut().webgpu().ok_or_else(cpu)
    }

    /// The largest deviation of a logit, and milliseconds until the first ones were there.
    async fn validate(&mut self, expected: &[f32]) -> Result<(f32, f64), EngineError> {
        self.decoder.reset();
        let vocab = self.config.vocab as usize;
        let passes = compared(self.config.vocab);
        let started = Instant::now();
        let (mut worst, mut first_ms) = (0.0_f32, 0.0);
        if expected.len() != vocab * passes.len() {
            worst = f32::INFINITY;
        }
        for ((ids, is_prompt), want) in passes.iter().zip(expected.chunks(vocab.max(1))) {
            let got = self.logits_of(ids, *is_prompt).await?;
            if *is_prompt {
                first_ms = started.elapsed().as_secs_f64() * 1e3;
            }
            let largest = want.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            for (g, w) in got.iter().zip(want) {
                let off = (g - w).abs() / largest;
                // What is not a number is no result either, and `max` would drop it.
                worst = if off <= worst || worst.is_nan() { worst } else { off };
            }
        }
        if worst <= TOLERANCE { Ok((worst, first_ms)) } else { Err(EngineError::WrongLogits(worst)) }
    }

    /// Milliseconds for a prompt of that many tokens, the choice of the first token included; or for one token of
    /// the token loop behind that many.
    async fn time(&mut self, is_prompt: bool, at: u32, shape: &DecoderShape) -> Result<f64, EngineError> {
        let (ids, one) = (ids(shape.vocab, at), [1]);
        self.decoder.reset();
        let (mut next, steps) = if is_prompt { (&ids[..], 0) } else { (&one[..], STEPS) };
        if !is_prompt {
            self.decoder.assume(&ids);
        }
        let mut started = Instant::now();
        let rules = Rules { greedy: 1, ..Rules::default() };
        let ahead = self.decoder.start_sampling(&rules, &[], Past::default())?.unwrap_or(1);
        while let Some((batch, rest)) = next.split_at_checked(self.decoder.max_batch().max(1) as usize)
            && !rest.is_empty()
        {
            self.decoder.forward(batch, true, false).await?;
            next = rest;
        }
        let mut submitted = 0;
        for step in 0..=steps {
            while submitted <= steps && self.decoder.under_way() < ahead {
                self.decoder.advance(next, is_prompt, 0)?;
                next = &[];
                submitted += 1;
            }
            self.decoder.chosen().await?;
            if step == 0 && !is_prompt {
                started = Instant::now();
            }
        }
        Ok(started.elapsed().as_secs_f64() * 1e3 / f64::from(steps.max(1)))
    }

    /// What one token behind others is made of, whose time in the token loop is known; with what is to be said of it.
    async fn profile(
        &mut self,
        (context, decoded): (u32, &[f64]),
        shape: &DecoderShape,
        budget_ms: f64,
        figures: &mut Figures,
    ) -> Result<Option<String>, EngineError> {
        self.decoder.reset();
        self.decoder.assume(&ids(shape.vocab, context));
        let rules = Rules { greedy: 1, ..Rules::default() };
        self.decoder.start_sampling(&rules, &[], Past::default())?;
        self.decoder.advance(&[1], false, 0)?;
        self.decoder.chosen().await?;
        let profile = self.gpu()?.profile(budget_ms).await?;
        // What was computed again and again is no sequence.
        self.decoder.reset();
        let layers = u64::from(shape.layers.max(1));
        let (mut all, mut per_layer) = (0, 0);
        let mut sums = Vec::new();
        let counted = Unit::Times(1.0, "dispatches");
        for kernel in &profile.kernels {
            all += kernel.dispatches;
            // Of what runs once for a token, a layer has none.
            per_layer += kernel.dispatches / layers;
            figures.add(("dispatches", kernel.name, context), counted, &[kernel.dispatches as f64], 0.0);
            figures.add_times(
                ("time", kernel.name, context),
                &kernel.samples,
                profile.step_ms,
                kernel.dispatches,
            );
            sums.resize(kernel.samples.len(), 0.0);
            sums.iter_mut().zip(&kernel.samples).for_each(|(sum, ms)| *sum += ms);
        }
        figures.add(("dispatches", "per layer", context), counted, &[per_layer as f64], 0.0);
        figures.add(("dispatches", "per token", context), counted, &[all as f64], 0.0);
        if sums.is_empty() || decoded.is_empty() {
            return Ok(None);
        }
        let ms = Unit::Times(1.0, "ms");
        figures.add_times(("token", "its kernels, summed", context), &sums, profile.step_ms, all);
        let summed = figures.0.last().map_or(0.0, |figure| figure.value);
        figures.add(("token", "in the token loop", context), ms, decoded, 0.0);
        figures.add(("token", "beside its kernels", context), ms, &[median(decoded) - summed], 0.0);
        Ok((profile.step_ms > COARSE_MS).then(|| {
            format!(
                "timestamps come in steps of {:.0} µs here: a kernel's time is the mean over some tokens, with how far \
                 off that may be as its spread",
                profile.step_ms * 1e3
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::Figures;

    #[test]
    fn times_by_coarse_stamps_are_means_with_their_error() {
        // 30 dispatches of 37 µs in a token of 3.1 ms, by stamps that are cut to 100 µs.
        let (step_ms, dispatches, tokens) = (0.1_f64, 30_u64, 400_u32);
        let cut = |ms: f64| (ms / step_ms).floor() * step_ms;
        let of_token = |token: u32| -> f64 {
            let begin = |i: u64| f64::from(token) * 3.1417 + i as f64 * 0.1037;
            (0..dispatches).map(|i| cut(begin(i) + 0.037) - cut(begin(i))).sum()
        };
        let samples: Vec<f64> = (0..tokens).map(of_token).collect();
        let mut figures = Figures::default();
        figures.add_times(("time", "kernel", 16), &samples, step_ms, dispatches);
        figures.add_times(("time", "fine", 16), &[3.0, 1.0, 2.0], 0.001, dispatches);
        figures.add_times(("time", "none", 16), &[], 0.0, dispatches);
        let [coarse, fine] = &figures.0[..] else { panic!("{figures:?}") };
        let right = dispatches as f64 * 0.037;
        assert!((coarse.value - right).abs() < 0.03 && coarse.samples == 400, "{coarse:?}, not {right}");
        assert!(coarse.spread[0] < right && right < coarse.spread[1] && coarse.unit == "ms", "{coarse:?}");
        assert_eq!((fine.value, fine.spread, fine.samples), (2.0, [1.0, 3.0], 3));
    }
}
