//! How fast a loaded model runs, beside what the same adapter can do at most. One text for the command line and for
//! browsers; the limits are those of [`crate::kernels::probe`].

use serde::{Deserialize, Serialize};
use web_time::Instant;

use super::{Engine, EngineError, Info};
use crate::kernels::WebGpu;
use crate::kernels::probe::{Kind, Limits, median};
use crate::steps::sampling::Rules;
use crate::steps::{DecoderShape, MatrixSpec};

/// Prompt lengths.
const PROMPTS: [u32; 4] = [16, 128, 512, 2048];
/// Tokens in the cache before a token is decoded.
const CONTEXTS: [u32; 3] = [16, 512, 2048];
/// Tokens decoded for one sample.
const STEPS: u32 = 8;
/// A prompt that takes longer than this is timed once.
const LONG_MS: f64 = 4000.0;
/// A prompt that would take longer than this, by the shorter ones, is left out.
const TOO_LONG_MS: f64 = 90_000.0;
/// Tokens of the prompt whose logits are compared, and tokens decoded behind it.
const COMPARED: [u32; 2] = [12, 3];
/// How far logits may be from the reference's, of the largest: keys and values are rounded to f16.
const TOLERANCE: f32 = 5e-3;

/// What to measure.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
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
    /// `limit`, `kernel`, `merge`, `load`, `first token`, `prefill`, `decode`, `submits`, `dispatches` or `time`.
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
pub struct BenchReport {
    /// What was measured, and on which adapter; memory in bytes.
    pub info: Info,
    /// Largest deviation of a logit from the reference's, of the largest.
    pub deviation: f32,
    /// All figures.
    pub figures: Vec<Figure>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// Least and most.
fn spread(values: &[f64]) -> [f64; 2] {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    [least, values.iter().copied().fold(0.0, f64::max)]
}

impl Figure {
    /// A figure of no limit.
    pub fn new(kind: &'static str, name: &str, unit: &'static str, values: &[f64]) -> Figure {
        let (name, samples) = (name.to_owned(), values.len());
        let (value, spread) = (median(values), spread(values));
        Figure { kind, name, at: 0, value, unit, spread, samples, limit: None, ratio: None }
    }

    /// The same at a number of tokens.
    #[must_use]
    pub fn at(self, at: u32) -> Figure {
        Figure { at, ..self }
    }

    /// The same beside a limit that it may reach from below.
    #[must_use]
    pub fn of(self, limit: f64) -> Figure {
        Figure { limit: Some(limit), ratio: Some(self.value / limit), ..self }
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
            all.extend(self.decoder.forward(&ids, is_prompt, true).await?.unwrap_or_default());
        }
        Ok(all)
    }

    /// Compares logits with `expected`, as [`Engine::bench_logits`] gives them, then times everything.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] on the CPU; [`EngineError::WrongLogits`]; [`EngineError::Aborted`]; what the device reports.
    pub async fn bench(
        &mut self,
        expected: &[f32],
        options: BenchOptions,
        progress: &mut dyn FnMut(&str),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<BenchReport, EngineError> {
        let shape = self.gpu()?.shape().clone();
        let mut say = |what: &str| {
            progress(what);
            if cancelled() { Err(EngineError::Aborted) } else { Ok(()) }
        };
        say("comparing logits")?;
        let started = Instant::now();
        let (deviation, first_ms) = self.validate(expected, started).await?;
        let cold = self.loading.ms + first_ms;

        say("preparing limits")?;
        let matrices = self.plan.products();
        let mut limits = Limits::new(self.gpu()?, &matrices, options.quick).await?;
        let longest = if options.quick { options.longest.min(128) } else { options.longest };
        let fits = |tokens: &u32| *tokens <= longest && tokens + STEPS + 8 <= shape.context;
        let mut notes = Vec::new();
        let mut decodes: Vec<(u32, Vec<f64>)> = CONTEXTS.into_iter().filter(fits).map(|t| (t, vec![])).collect();
        let mut prompts: Vec<(u32, Vec<f64>)> = PROMPTS.into_iter().filter(fits).map(|t| (t, vec![])).collect();
        if shape.context < options.longest + STEPS + 8 {
            notes.push(format!("the context of {} holds no longer prompts", shape.context));
        }
        let mut submits = 0;
        for round in 1..=options.rounds.max(1) {
            say(&format!("limits, round {round}"))?;
            limits.sample(self.gpu()?.gpu()).await?;
            for (context, samples) in &mut decodes {
                say(&format!("decoding at {context}, round {round}"))?;
                let before = self.traffic().submits;
                samples.push(self.time_decode(*context, &shape).await?);
                submits = self.traffic().submits - before;
            }
            let mut estimate = 0.0;
            for (tokens, samples) in &mut prompts {
                let known = samples.first().copied();
                if round == 1 && estimate * f64::from(*tokens) > TOO_LONG_MS {
                    notes.push(format!("a prompt of {tokens} tokens would take minutes"));
                } else if round == 1 || known.is_some_and(|ms| ms < LONG_MS) {
                    say(&format!("prompt of {tokens}, round {round}"))?;
                    samples.push(self.time_prompt(*tokens, &shape).await?);
                }
                estimate = known.or(samples.first().copied()).map_or(estimate, |ms| ms / f64::from(*tokens));
            }
        }

        say("profiling")?;
        let mut figures = of_limits(&limits);
        let timed = self.gpu()?.gpu().tier().timestamps;
        if !timed {
            notes.push("this adapter has no timestamps: kernels are counted, not timed".into());
        }
        let loaded = self.loading.bytes as f64 / self.loading.weights_ms / 1e3;
        figures.push(Figure::new("load", "weights", "MB/s", &[loaded]).of(median(&limits.writes) / 1e6));
        figures.push(Figure::new("first token", "cold, from the load on", "ms", &[cold]));
        if let Some((tokens, samples)) = prompts.first() {
            figures.push(Figure::new("first token", "warm", "ms", samples).at(*tokens));
        }
        for (tokens, samples) in prompts.iter().filter(|(_, samples)| !samples.is_empty()) {
            let rates: Vec<f64> = samples.iter().map(|ms| f64::from(*tokens) * 1e3 / ms).collect();
            let limit_ms = prompt_limit_ms(*tokens, &matrices, &limits);
            let limit = f64::from(*tokens) * 1e3 / limit_ms;
            figures.push(Figure::new("prefill", "prompt", "tokens/s", &rates).at(*tokens).of(limit));
        }
        for (context, samples) in &decodes {
            let rates: Vec<f64> = samples.iter().map(|ms| 1e3 / ms).collect();
            let limit = 1e3 / decode_limit_ms(*context, &shape, &matrices, &limits);
            figures.push(Figure::new("decode", "token", "tokens/s", &rates).at(*context).of(limit));
        }
        // The first of them ends a prompt; the rest were decoded.
        let per_token = submits as f64 / f64::from(STEPS + 1);
        figures.push(Figure::new("submits", "per token", "submits", &[per_token]));
        for (context, _) in &decodes {
            self.profile(*context, &shape, timed, &mut figures).await?;
        }
        Ok(BenchReport { info: self.info(), deviation, figures, notes })
    }

    fn gpu(&mut self) -> Result<&mut WebGpu, EngineError> {
        let cpu = || EngineError::BadRequest("the bench measures WebGPU: load with the backend webgpu".into());
        self.decoder.backend_mut().webgpu().ok_or_else(cpu)
    }

    /// The largest deviation of a logit, and milliseconds until the first ones were there.
    async fn validate(&mut self, expected: &[f32], started: Instant) -> Result<(f32, f64), EngineError> {
        self.decoder.reset();
        let vocab = self.config.vocab as usize;
        let passes = compared(self.config.vocab);
        if expected.len() != vocab * passes.len() {
            let what = format!("{} logits to compare with where {} are needed", expected.len(), vocab * passes.len());
            return Err(EngineError::WrongLogits(what));
        }
        let (mut worst, mut first_ms) = (0.0_f32, None);
        for ((ids, is_prompt), want) in passes.iter().zip(expected.chunks(vocab.max(1))) {
            let got = self.decoder.forward(ids, *is_prompt, true).await?.unwrap_or_default();
            first_ms.get_or_insert_with(|| started.elapsed().as_secs_f64() * 1e3);
            let largest = want.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            let off = got.iter().zip(want).map(|(g, w)| (g - w).abs() / largest);
            // What is not a number is no result either, and `max` would drop it.
            let off = off.fold(0.0_f32, |most, off| if off <= most { most } else { off });
            if got.len() != want.len() || !off.is_finite() {
                return Err(EngineError::WrongLogits("the adapter's logits are no numbers, or too few".into()));
            }
            worst = worst.max(off);
        }
        if worst > TOLERANCE {
            let what = format!("logits are {worst:.1e} of the largest off the reference's, {TOLERANCE:.0e} are allowed");
            return Err(EngineError::WrongLogits(what));
        }
        Ok((worst, first_ms.unwrap_or_default()))
    }

    /// Milliseconds for one token of the token loop behind that many.
    async fn time_decode(&mut self, context: u32, shape: &DecoderShape) -> Result<f64, EngineError> {
        self.decoder.reset();
        self.decoder.assume(&ids(shape.vocab, context));
        let rules = Rules { greedy: 1, ..Rules::default() };
        let ahead = self.decoder.start_sampling(&rules, &[], &[])?.unwrap_or(1);
        self.decoder.advance(&[1], 0)?;
        let mut started = Instant::now();
        let mut left = STEPS;
        for step in 0..=STEPS {
            while left > 0 && self.decoder.under_way() < ahead {
                self.decoder.advance(&[], 0)?;
                left -= 1;
            }
            self.decoder.chosen().await?;
            if step == 0 {
                started = Instant::now();
            }
        }
        Ok(started.elapsed().as_secs_f64() * 1e3 / f64::from(STEPS))
    }

    /// Milliseconds for a prompt of that many tokens, the choice of the first token included.
    async fn time_prompt(&mut self, tokens: u32, shape: &DecoderShape) -> Result<f64, EngineError> {
        let ids = ids(shape.vocab, tokens);
        self.decoder.reset();
        let started = Instant::now();
        let rules = Rules { greedy: 1, ..Rules::default() };
        self.decoder.start_sampling(&rules, &[], &[])?;
        let batches = ids.chunks(self.decoder.max_batch().max(1) as usize);
        let last = batches.len();
        for (index, batch) in (1..).zip(batches) {
            if index == last {
                self.decoder.advance(batch, 0)?;
                self.decoder.chosen().await?;
            } else {
                self.decoder.forward(batch, true, false).await?;
            }
        }
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }

    /// What one token behind `context` others is made of.
    async fn profile(
        &mut self,
        context: u32,
        shape: &DecoderShape,
        timed: bool,
        figures: &mut Vec<Figure>,
    ) -> Result<(), EngineError> {
        self.decoder.reset();
        self.decoder.assume(&ids(shape.vocab, context));
        self.gpu()?.profile(true);
        self.decoder.forward(&[1], false, true).await?;
        let kernels = self.gpu()?.profiled().clone();
        self.gpu()?.profile(false);
        let layers = u64::from(shape.layers.max(1));
        let mut per_layer = 0;
        for (name, (count, ms)) in &kernels {
            // Of what runs once for a token, a layer has none.
            per_layer += count / layers;
            figures.push(Figure::new("dispatches", name, "dispatches", &[*count as f64]).at(context));
            if timed {
                figures.push(Figure::new("time", name, "ms", &[*ms]).at(context));
            }
        }
        figures.push(Figure::new("dispatches", "per layer", "dispatches", &[per_layer as f64]).at(context));
        Ok(())
    }
}

/// What the adapter can do at most, and each kernel that was tried.
fn of_limits(limits: &Limits) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut kinds: Vec<Kind> = Vec::new();
    for probe in &limits.probes {
        let name = format!("{} {}", probe.shape, probe.variant);
        let (kind, what, unit, scale) = match probe.kind {
            Kind::Stream => ("limit", "streaming read".into(), "GB/s", 1e-9),
            Kind::Matvec(dtype) => ("limit", format!("matrix-vector {dtype}"), "GB/s", 1e-9),
            Kind::Matmul(dtype) => ("limit", format!("matrix-matrix {dtype}"), "GFLOP/s", 1e-9),
            Kind::Dispatch => ("limit", "dispatches".into(), "per ms", 1e-3),
            Kind::Reduce => ("merge", "reduce".into(), "GB/s", 1e-9),
            Kind::Blend => ("merge", "blend".into(), "GB/s", 1e-9),
        };
        let scaled = |samples: &[f64]| -> Vec<f64> { samples.iter().map(|rate| rate * scale).collect() };
        if !kinds.contains(&probe.kind) {
            kinds.push(probe.kind);
            let best = limits.probes.iter().filter(|other| other.kind == probe.kind);
            let best = best.max_by(|a, b| a.rate().total_cmp(&b.rate())).unwrap_or(probe);
            let figure = Figure::new(kind, &what, unit, &scaled(&best.samples));
            figures.push(match kind {
                "merge" => figure.of(limits.best(Kind::Stream) * scale),
                _ => figure,
            });
        }
        if matches!(probe.kind, Kind::Matvec(_) | Kind::Matmul(_)) {
            let figure = Figure::new("kernel", &format!("{what} {name}"), unit, &scaled(&probe.samples));
            figures.push(figure.of(limits.best(probe.kind) * scale));
        }
    }
    let writes: Vec<f64> = limits.writes.iter().map(|rate| rate / 1e6).collect();
    figures.push(Figure::new("limit", "writes to the device", "MB/s", &writes));
    figures.push(Figure::new("limit", "submit and read back", "ms", &limits.readbacks));
    figures
}

fn size(spec: &MatrixSpec) -> f64 {
    f64::from(spec.rows) * f64::from(spec.cols)
}

/// Milliseconds in which every weight is read once at the best rate of its type, and the cache at the streaming rate.
fn decode_limit_ms(context: u32, shape: &DecoderShape, matrices: &[MatrixSpec], limits: &Limits) -> f64 {
    let positions = f64::from(context.min(shape.cache_slots()));
    let cache_bytes = positions * f64::from(shape.kv_width()) * 4.0 * f64::from(shape.layers);
    let matvec = |spec: &MatrixSpec| {
        size(spec) * spec.dtype.size_bytes() as f64 / limits.best(Kind::Matvec(spec.dtype))
    };
    (cache_bytes / limits.best(Kind::Stream) + matrices.iter().map(matvec).sum::<f64>()) * 1e3
}

/// Milliseconds in which every matrix is multiplied with so many tokens at the best rate of its type, or read once
/// where that takes longer, and the head with the last of them.
fn prompt_limit_ms(tokens: u32, matrices: &[MatrixSpec], limits: &Limits) -> f64 {
    let Some((head, layers)) = matrices.split_last() else { return 0.0 };
    let bytes = |spec: &MatrixSpec| size(spec) * spec.dtype.size_bytes() as f64;
    let matmul = |spec: &MatrixSpec| {
        let work = 2.0 * size(spec) * f64::from(tokens) / limits.best(Kind::Matmul(spec.dtype));
        work.max(bytes(spec) / limits.best(Kind::Stream))
    };
    let head = bytes(head) / limits.best(Kind::Matvec(head.dtype));
    (head + layers.iter().map(matmul).sum::<f64>()) * 1e3
}
