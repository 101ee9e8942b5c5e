//! `bench`: how fast this adapter runs a model, beside what the same adapter can do at most.
//!
//! ```text
//! model    a checkpoint, or a stack of layers of Mistral 7B's shape; validated before it is timed
//! limits   streaming reads, matrix products over several kernel shapes, dispatches, readbacks
//! report   medians, spreads and ratios, as text and as JSON
//! ```

mod limits;
mod model;
mod report;

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use bise::steps::DecoderShape;
use pollster::block_on;

use self::limits::Limits;
use self::model::{Loaded, Origin};
use self::report::{Decode, Prefill, Report, median};
use crate::run::{Weights, print_json};

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of a checkpoint, or `mistral-7b`: layers of its shape with random FP8 weights.
    model: PathBuf,
    /// Layers of `mistral-7b`.
    #[arg(long, default_value_t = 2, value_name = "N")]
    layers: u32,
    /// Precision of linear weights.
    #[arg(long, value_enum, default_value = "f8")]
    weights: Weights,
    /// How often everything is timed.
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,
    /// Longest prompt and context that are timed.
    #[arg(long, default_value_t = 2048, value_name = "TOKENS")]
    longest: u32,
    /// Print exactly one JSON object.
    #[arg(long)]
    json: bool,
}

/// Prompt lengths.
const PROMPTS: [u32; 4] = [16, 128, 512, 2048];
/// Tokens in the cache before a token is decoded.
const CONTEXTS: [u32; 3] = [16, 512, 2048];
/// Tokens decoded for one sample.
const STEPS: u32 = 8;
/// A prompt that takes longer than this is timed once.
const LONG_MS: f64 = 4000.0;

/// Runs `bench`.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let origin = if args.model.as_os_str() == "mistral-7b" {
        Origin::Mistral7b { layers: args.layers }
    } else {
        Origin::Directory(args.model.clone())
    };
    let context = args.longest.saturating_add(64);
    let mut loaded = block_on(Loaded::open(&origin, args.weights.into(), context))?;
    // Nothing is timed that does not compute what it should.
    let deviation = block_on(loaded.validate(&origin, args.weights.into()))?;
    let shape = loaded.shape.clone();
    let fits = |tokens: &u32| *tokens <= args.longest && tokens + STEPS <= shape.context;

    let mut limits = block_on(Limits::new(loaded.decoder.backend(), &loaded.matrices))?;
    let mut prompts: Vec<(u32, Vec<f64>)> = PROMPTS.into_iter().filter(fits).map(|t| (t, vec![])).collect();
    let mut contexts: Vec<(u32, Vec<f64>)> = CONTEXTS.into_iter().filter(fits).map(|t| (t, vec![])).collect();
    for round in 0..args.rounds.max(1) {
        block_on(limits.sample(loaded.decoder.backend().gpu(), round))?;
        for (context, samples) in &mut contexts {
            samples.push(block_on(decode(&mut loaded, *context))?);
        }
        // What takes long is timed once, and nothing longer is.
        let mut is_long = false;
        for (tokens, samples) in &mut prompts {
            let known = samples.first().copied();
            if !is_long && (known.is_none() && round == 0 || known.is_some_and(|ms| ms < LONG_MS)) {
                samples.push(block_on(prefill(&mut loaded, *tokens))?);
            }
            is_long |= samples.first().is_none_or(|ms| *ms >= LONG_MS);
        }
    }

    let submits = loaded.decoder.backend().gpu().traffic().submits;
    block_on(decode(&mut loaded, 16.min(shape.context / 2)))?;
    // One token to warm up.
    let submits = (loaded.decoder.backend().gpu().traffic().submits - submits) as f64 / f64::from(STEPS + 1);
    let mut report = Report::new(&loaded, &limits, deviation, submits);
    for (context, _) in &contexts {
        let profile = block_on(profile(&mut loaded, *context))?;
        report.dispatches(*context, &shape, &profile);
    }
    for (context, samples) in contexts {
        report.decode.push(Decode::new(context, &samples, &limits, &loaded));
    }
    for (tokens, samples) in prompts.into_iter().filter(|(_, samples)| !samples.is_empty()) {
        report.prefill.push(Prefill::new(tokens, &samples, &limits, &loaded));
    }
    if args.json {
        return print_json(&report);
    }
    report.print()?;
    Ok(())
}

/// Token ids that a model of that vocabulary takes.
fn ids(shape: &DecoderShape, count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 7919 + 13) % shape.vocab).collect()
}

/// Milliseconds for one token behind that many.
async fn decode(loaded: &mut Loaded, context: u32) -> Result<f64, Box<dyn Error>> {
    let ids = ids(&loaded.shape, context);
    loaded.decoder.reset();
    loaded.decoder.assume(&ids);
    loaded.decoder.forward(&[1], false, true).await?;
    let mut samples = Vec::new();
    for id in 0..STEPS {
        let started = Instant::now();
        loaded.decoder.forward(&[id], false, true).await?;
        samples.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(&samples))
}

/// Milliseconds for a prompt of that many tokens, logits included.
async fn prefill(loaded: &mut Loaded, tokens: u32) -> Result<f64, Box<dyn Error>> {
    let ids = ids(&loaded.shape, tokens);
    loaded.decoder.reset();
    let started = Instant::now();
    let batches = ids.chunks(loaded.decoder.max_batch().max(1) as usize);
    let last = batches.len();
    for (index, batch) in (1..).zip(batches) {
        loaded.decoder.forward(batch, true, index == last).await?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Dispatches and milliseconds of one token, by kernel.
async fn profile(loaded: &mut Loaded, context: u32) -> Result<Vec<(&'static str, u64, f64)>, Box<dyn Error>> {
    let ids = ids(&loaded.shape, context);
    loaded.decoder.reset();
    loaded.decoder.assume(&ids);
    loaded.decoder.backend_mut().profile(true);
    loaded.decoder.forward(&[1], false, true).await?;
    let kernels = loaded.decoder.backend().profiled().iter();
    let kernels = kernels.map(|(name, (count, ms))| (*name, *count, *ms)).collect();
    loaded.decoder.backend_mut().profile(false);
    Ok(kernels)
}
