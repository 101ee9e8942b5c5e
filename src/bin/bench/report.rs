//! Medians, spreads and ratios.

use std::collections::BTreeMap;
use std::io::Write;

use bise::steps::DecoderShape;
use serde::Serialize;

use super::limits::{Kind, Limits};
use super::model::Loaded;

/// The middle value; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Least and largest.
fn spread(values: &[f64]) -> [f64; 2] {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    [least, values.iter().copied().fold(0.0, f64::max)]
}

/// Everything, as `--json` prints it.
#[derive(Serialize)]
pub struct Report {
    adapter: String,
    driver: String,
    timestamps: bool,
    /// Largest deviation of a logit from the reference's, of the largest.
    deviation: f32,
    stream_gb_per_s: f64,
    dispatch_us: f64,
    readback_us: f64,
    kernels: Vec<KernelRate>,
    pub decode: Vec<Decode>,
    pub prefill: Vec<Prefill>,
    submits_per_token: f64,
    passes: Vec<Pass>,
}

/// A kernel on a shape of the model's: GB/s of weights, or GFLOP/s.
#[derive(Serialize)]
struct KernelRate {
    kind: &'static str,
    shape: String,
    variant: String,
    rate: f64,
    spread: [f64; 2],
}

/// One token behind a context.
#[derive(Serialize)]
pub struct Decode {
    context: u32,
    ms: f64,
    spread: [f64; 2],
    tokens_per_s: f64,
    /// Of what the weights take at the best rate of any shape, and the cache at the streaming rate.
    ratio: f64,
    /// The same with the best rate of each shape for itself.
    ratio_by_shape: f64,
    limit_ms: f64,
}

/// A prompt.
#[derive(Serialize)]
pub struct Prefill {
    tokens: u32,
    ms: f64,
    spread: [f64; 2],
    tokens_per_s: f64,
    /// Of the best tiled product's rate.
    ratio: f64,
    limit_ms: f64,
}

/// Dispatches of a token.
#[derive(Serialize)]
struct Pass {
    context: u32,
    dispatches: u64,
    per_layer: f64,
    kernels: BTreeMap<&'static str, (u64, f64)>,
}

impl Decode {
    pub fn new(context: u32, samples: &[f64], limits: &Limits, loaded: &Loaded) -> Decode {
        let cache_bytes =
            f64::from(context) * f64::from(loaded.shape.kv_width()) * 4.0 * f64::from(loaded.shape.layers);
        let cache_ms = cache_bytes / limits.best(Kind::Stream) / 1e6;
        let (mut by_best, mut by_shape) = (cache_ms, cache_ms);
        for spec in &loaded.matrices {
            let bytes = f64::from(spec.rows) * f64::from(spec.cols) * spec.dtype.size_bytes() as f64;
            let shape = format!("{} x {} {}", spec.rows, spec.cols, spec.dtype);
            let kind = Kind::Matvec(spec.dtype);
            by_best += bytes / limits.best(kind) / 1e6;
            by_shape += bytes / limits.best_of(|p| p.kind == kind && p.shape == shape) / 1e6;
        }
        let ms = median(samples);
        Decode {
            context,
            ms,
            spread: spread(samples),
            tokens_per_s: 1e3 / ms,
            ratio: by_best / ms,
            ratio_by_shape: by_shape / ms,
            limit_ms: by_best,
        }
    }
}

impl Prefill {
    pub fn new(tokens: u32, samples: &[f64], limits: &Limits, loaded: &Loaded) -> Prefill {
        let mut limit_ms = 0.0;
        if let Some((head, layers)) = loaded.matrices.split_last() {
            let size = |rows: u32, cols: u32| f64::from(rows) * f64::from(cols);
            for spec in layers {
                let best = limits.best(Kind::Matmul(spec.dtype));
                limit_ms += 2.0 * size(spec.rows, spec.cols) * f64::from(tokens) / best / 1e6;
            }
            // The last token alone has logits.
            limit_ms += size(head.rows, head.cols) * head.dtype.size_bytes() as f64
                / limits.best(Kind::Matvec(head.dtype))
                / 1e6;
        }
        let ms = median(samples);
        let tokens_per_s = f64::from(tokens) * 1e3 / ms;
        Prefill { tokens, ms, spread: spread(samples), tokens_per_s, ratio: limit_ms / ms, limit_ms }
    }
}

impl Report {
    pub fn new(loaded: &Loaded, limits: &Limits, deviation: f32, submits: f64) -> Report {
        let tier = loaded.decoder.backend().gpu().tier();
        let kernels = limits.probes.iter().filter_map(|probe| {
            let kind = match probe.kind {
                Kind::Matvec(_) => "matvec",
                Kind::Matmul(_) => "matmul",
                Kind::Stream | Kind::Dispatch => return None,
            };
            let (shape, variant) = (probe.shape.clone(), probe.variant.clone());
            Some(KernelRate { kind, shape, variant, rate: probe.rate(), spread: spread(&probe.samples) })
        });
        Report {
            adapter: tier.name.clone(),
            driver: tier.driver.clone(),
            timestamps: tier.timestamps,
            deviation,
            stream_gb_per_s: limits.best(Kind::Stream),
            // 1e-3 dispatches per nanosecond is one per microsecond.
            dispatch_us: 1e-6 / limits.best(Kind::Dispatch),
            readback_us: median(&limits.readback_ms) * 1e3,
            kernels: kernels.collect(),
            decode: Vec::new(),
            prefill: Vec::new(),
            submits_per_token: submits,
            passes: Vec::new(),
        }
    }

    /// Notes what one token behind `context` others is made of.
    pub fn dispatches(&mut self, context: u32, shape: &DecoderShape, kernels: &[(&'static str, u64, f64)]) {
        let dispatches = kernels.iter().map(|(_, count, _)| count).sum::<u64>();
        // The embedding before the layers, norm and head behind them.
        let once = kernels
            .iter()
            .filter(|(_, count, _)| *count < u64::from(shape.layers))
            .map(|(_, count, _)| count);
        let per_layer = (dispatches - once.sum::<u64>()) as f64 / f64::from(shape.layers.max(1));
        let kernels = kernels.iter().map(|(name, count, ms)| (*name, (*count, *ms))).collect();
        self.passes.push(Pass { context, dispatches, per_layer, kernels });
    }

    /// As text.
    pub fn print(&self) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "adapter            {}, {}", self.adapter, self.driver)?;
        writeln!(
            out,
            "deviation          {:.1e} of the largest logit, beside the reference",
            self.deviation
        )?;
        writeln!(out, "streaming read     {:.2} GB/s", self.stream_gb_per_s)?;
        writeln!(out, "dispatch, readback {:.1} us, {:.0} us", self.dispatch_us, self.readback_us)?;
        for kind in ["matvec", "matmul"] {
            let unit = if kind == "matvec" { "GB/s" } else { "GFLOP/s" };
            let mut of_kind: Vec<&KernelRate> = self.kernels.iter().filter(|k| k.kind == kind).collect();
            of_kind.sort_by(|a, b| a.shape.cmp(&b.shape).then(b.rate.total_cmp(&a.rate)));
            for k in of_kind {
                let [least, most] = k.spread;
                let rate = format!("{:8.2} {unit} ({least:.2} to {most:.2})", k.rate);
                writeln!(out, "{kind}  {:<22} {:<34} {rate}", k.shape, k.variant)?;
            }
        }
        for d in &self.decode {
            let [least, most] = d.spread;
            writeln!(
                out,
                "decode at {:<5}    {:8.2} ms ({least:.2} to {most:.2})  {:7.2} tokens/s  {:.2} of the limit, {:.2} by shape",
                d.context, d.ms, d.tokens_per_s, d.ratio, d.ratio_by_shape
            )?;
        }
        for p in &self.prefill {
            let [least, most] = p.spread;
            writeln!(
                out,
                "prompt of {:<5}    {:8.1} ms ({least:.1} to {most:.1})  {:7.1} tokens/s  {:.2} of the limit",
                p.tokens, p.ms, p.tokens_per_s, p.ratio
            )?;
        }
        writeln!(out, "submits per token  {}", self.submits_per_token)?;
        for pass in &self.passes {
            writeln!(
                out,
                "token at {:<5}     {} dispatches, {:.1} per layer",
                pass.context, pass.dispatches, pass.per_layer
            )?;
            for (name, (count, ms)) in &pass.kernels {
                let time = if self.timestamps { format!("{ms:9.3} ms") } else { String::new() };
                writeln!(out, "  {name:<16} {count:>4} {time}")?;
            }
        }
        Ok(())
    }
}
