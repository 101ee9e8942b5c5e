//! `bench`: how fast this adapter runs a model, beside what the same adapter can do at most.
//!
//! What is measured, and how, is the library's ([`bise::engine::bench`]), and the same in browsers. Here are the
//! reference that logits are compared with, the merge on this machine's processor, and the text.

mod merge;
mod threads;

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use bise::checkpoint::Manifest;
use bise::checkpoint::source::read_all;
use bise::engine::bench::{BenchOptions, BenchReport, Figure, compared};
use bise::engine::fill::Target;
use bise::engine::{BackendChoice, CacheForm, Kept, LoadOptions, WeightMode};
use bise::model::config::CONFIG_FILE;
use bise::model::{Config, Decoder, KvCache, Precision, WeightPlan, Weights};
use bise::reference::Reference;
use pollster::block_on;

use crate::run::{KvCache as KvCacheArg, Weights as WeightArg, gpu_options, load_engine, print_json, source};

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of a checkpoint.
    model: PathBuf,
    /// Precision of linear weights.
    #[arg(long, value_enum, default_value = "f8")]
    weights: WeightArg,
    /// Precision of the key/value cache.
    #[arg(long, value_enum, default_value = "f16")]
    kv_cache: KvCacheArg,
    /// How often everything is timed.
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: u32,
    /// Longest prompt and context that are timed.
    #[arg(long, default_value_t = 2048, value_name = "TOKENS")]
    longest: u32,
    /// Fewer kernels, shorter prompts and samples.
    #[arg(long)]
    quick: bool,
    /// Leave the threads of an adapter that computes on the CPU to the scheduler.
    #[arg(long)]
    unpinned: bool,
    /// Print exactly one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `bench`.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if matches!(args.weights, WeightArg::I8) {
        return Err(
            "--weights i8 is a form for the CPU, and the bench measures WebGPU: f8 or checkpoint".into()
        );
    }
    let options = BenchOptions { rounds: args.rounds, longest: args.longest, quick: args.quick };
    let weights = args.weights.into();
    let say = |what: &str| {
        // With stderr closed nobody is told.
        let _ = writeln!(std::io::stderr(), "[{what}]");
    };
    let load = LoadOptions {
        weights,
        context_length: None,
        kv_cache: args.kv_cache.into(),
        backend: BackendChoice::Webgpu,
        gpu: gpu_options()?,
        ..LoadOptions::default()
    };
    say("the reference");
    let expected = block_on(expected(&args.model, &load))?;
    let mut engine = load_engine(&args.model, load)?;
    let apart = if engine.info().adapter.software && !args.unpinned { threads::keep_apart() } else { Ok(0) };
    let mut report =
        block_on(engine.bench(&expected, options, &mut |what, at| say(&format!("{what} {at}")), &|| false))?;
    drop(engine);
    report.notes.extend(match apart {
        Ok(0) => None,
        Ok(count) => Some(format!("{count} threads beside the main one kept to a processor each, in turn")),
        Err(error) => Some(format!("not all of the adapter's threads kept to one processor: {error}")),
    });
    say("the merge");
    merge::measure(&args.model, options, &mut report)?;
    if args.json {
        return print_json(&report);
    }
    print(&report)?;
    Ok(())
}

async fn config(directory: &Path) -> Result<(Config, serde_json::Value), Box<dyn Error>> {
    let bytes = read_all(&source(directory)?, CONFIG_FILE, None, 2 << 20).await?;
    Ok((Config::parse(&bytes)?, serde_json::from_slice(&bytes)?))
}

/// The logits that the plain-Rust reference gives.
async fn expected(directory: &Path, options: &LoadOptions) -> Result<Vec<f32>, Box<dyn Error>> {
    let source = source(directory)?;
    let (config, json) = config(directory).await?;
    let manifest = Manifest::read(&source).await?;
    let precision = match options.weights {
        WeightMode::Checkpoint => Precision::Checkpoint,
        WeightMode::Auto | WeightMode::F8 => Precision::F8,
        WeightMode::I8 => Precision::I8,
    };
    let plan = WeightPlan::new(&config, &json, &manifest, precision)?;
    let passes = compared(config.vocab);
    let mut shape = config.shape(passes.iter().map(|(ids, _)| ids.len() as u32).sum());
    shape.max_batch = shape.context;
    shape.kv_cache = options.kv_cache;
    let cache = KvCache::new(shape.cache_slots(), shape.window);
    let max_batch = shape.max_batch;
    let mut backend = Reference::new(shape);
    let weights = Weights::allocate(&plan, &mut backend)?;
    let mut target = Target { plan: &plan, weights: &weights, backend: &mut backend };
    Kept::nothing().fill(&source, &manifest, &mut target, &|| false, &mut |_| ()).await?;
    let mut decoder = Decoder::new(backend, weights, cache, max_batch);
    let mut all = Vec::new();
    for (ids, is_prompt) in passes {
        all.extend(decoder.forward(&ids, is_prompt, true).await?.unwrap_or_default());
    }
    Ok(all)
}

/// As text: kernels' own figures first, since there are many of them.
fn print(report: &BenchReport) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let (adapter, memory) = (&report.info.adapter, &report.info.memory);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (parameters, layers) = (report.info.parameters, report.info.layers);
    writeln!(out, "adapter    {}, {}", adapter.name, adapter.driver)?;
    writeln!(out, "model      {parameters} weights in {layers} layers")?;
    writeln!(out, "deviation  {:.1e} of the largest logit, beside the reference", report.deviation)?;
    let [weights, cache, rest] = [memory.weights, memory.kv_cache, memory.activations].map(mib);
    let form = if report.info.kv_cache == CacheForm::F8 { "f8" } else { "f16" };
    writeln!(
        out,
        "memory     weights {weights:.1} MiB, key/value cache {cache:.1} in {form}, activations {rest:.1}"
    )?;
    let walk_bytes = mib(report.walk_bytes);
    writeln!(out, "walk       {walk_bytes:.0} MiB, before a limit's reads come to the same bytes again")?;
    let (kernels, rest): (Vec<&Figure>, Vec<&Figure>) =
        report.figures.0.iter().partition(|figure| figure.kind == "kernel");
    for figure in kernels.into_iter().chain(rest) {
        let at = if figure.at > 0 { format!(" at {}", figure.at) } else { String::new() };
        let name = format!("{:<11} {}{at}", figure.kind, figure.name);
        let [least, most] = figure.spread;
        let spread = if figure.samples > 1 { format!("({least:.2} to {most:.2})") } else { String::new() };
        let ratio = match (figure.ratio, figure.limit) {
            (Some(ratio), Some(limit)) => format!("{ratio:.2} of {limit:.2}"),
            _ => String::new(),
        };
        writeln!(out, "{name:<72} {:>10.2} {:<10} {spread:<22} {ratio}", figure.value, figure.unit)?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}
