//! `inspect`: what a checkpoint holds and what it would take on this machine's device.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Write, stdout};
use std::path::PathBuf;

use bise::engine::{Inspection, LoadOptions, inspect as inspect_source};
use bise::gpu::DeviceTier;
use pollster::block_on;

use crate::run::{Backend, KvCache, Weights, gpu_options, print_json, source};

/// Arguments of `inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of a Hugging Face checkpoint.
    model: PathBuf,
    /// Positions of key/value cache to count [default: the model's limit, at most 4096].
    #[arg(long, value_name = "TOKENS")]
    context: Option<u32>,
    /// Precision of the key/value cache.
    #[arg(long, value_enum, default_value = "f16")]
    kv_cache: KvCache,
    /// Precision of the weights on the device.
    #[arg(long, value_enum, default_value = "checkpoint")]
    weights: Weights,
    /// Where it would run.
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
    /// Print exactly one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `inspect`.
pub fn inspect(args: &Args) -> Result<(), Box<dyn Error>> {
    let gpu = gpu_options()?;
    let tier = match block_on(DeviceTier::probe(&gpu)) {
        // One that was asked for by name has to be there.
        Err(error) if gpu.adapter.is_some() => return Err(error.into()),
        tier => tier.ok(),
    };
    let options = LoadOptions {
        weights: args.weights.into(),
        context_length: args.context,
        kv_cache: args.kv_cache.into(),
        backend: args.backend.into(),
        gpu,
        ..LoadOptions::default()
    };
    let inspection = block_on(inspect_source(&source(&args.model)?, &options, tier.as_ref()))?;
    if args.json {
        return print_json(&inspection);
    }
    let Inspection { architecture, parameters, layers, vocab, context_length, sliding_window, .. } =
        &inspection;
    let mut out = stdout().lock();
    writeln!(out, "architecture      {architecture}, {layers} layers, vocabulary {vocab}")?;
    writeln!(out, "parameters        {parameters}, mostly {}", inspection.dtype)?;
    let scales = inspection.scales.as_ref().map_or_else(String::new, |scales| format!("; {scales}"));
    writeln!(out, "tensors           {}{scales}", dtypes(&inspection.tensors))?;
    writeln!(
        out,
        "files             {} with {} bytes of weights",
        inspection.shards, inspection.weight_bytes
    )?;
    writeln!(
        out,
        "context           {context_length} of {} positions{}",
        inspection.max_context_length,
        sliding_window.map_or_else(String::new, |w| format!(", sliding window {w}"))
    )?;
    writeln!(
        out,
        "largest context   {} on a device with WebGPU's default limits",
        inspection.context_length_at_default_limits
    )?;
    writeln!(
        out,
        "memory, weights   {} bytes as they are, {} as f8",
        inspection.device_bytes, inspection.device_bytes_f8
    )?;
    writeln!(out, "memory, kv cache  {} bytes", inspection.kv_cache_bytes)?;
    writeln!(out, "memory, other     {} bytes", inspection.activation_bytes)?;
    writeln!(out, "memory, in all    {} bytes", inspection.total_bytes)?;
    let reason =
        inspection.backend_reason.as_ref().map_or_else(String::new, |reason| format!(", since {reason}"));
    writeln!(out, "runs on           {}{reason}", inspection.backend)?;
    if inspection.backend == "webgpu" {
        let adapter = inspection.adapter.as_deref().unwrap_or("none here; WebGPU's default limits assumed");
        writeln!(out, "adapter           {adapter}")?;
    }
    if inspection.problems.is_empty() {
        writeln!(out, "its limits        hold this model")?;
    }
    for problem in &inspection.problems {
        writeln!(out, "its limits        {problem}")?;
    }
    writeln!(out, "tokenizer         {}", if inspection.tokenizer { "yes" } else { "no" })?;
    writeln!(out, "chat template     {}", if inspection.chat { "yes" } else { "no" })?;
    Ok(())
}

fn dtypes(tensors: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = tensors.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
    parts.join(", ")
}
