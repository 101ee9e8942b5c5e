//! `generate`, `logits` and `tokenize`.

use std::error::Error;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use bise::checkpoint::source::FileSource;
use bise::engine::{
    BackendChoice, CacheForm, Engine, LoadOptions, Message, Prompt, Request, TuningFile, WeightMode,
    load_tokenizer,
};
use bise::gpu::{GpuOptions, LimitChoice};
use clap::{Args, ValueEnum};
use pollster::block_on;
use serde_json::json;

/// Precision of linear weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Weights {
    /// As in the checkpoint.
    Checkpoint,
    /// F8_E4M3 with one scale per row.
    F8,
    /// I8 with one scale per 128 columns, on the CPU.
    I8,
}

impl From<Weights> for WeightMode {
    fn from(weights: Weights) -> WeightMode {
        match weights {
            Weights::Checkpoint => WeightMode::Checkpoint,
            Weights::F8 => WeightMode::F8,
            Weights::I8 => WeightMode::I8,
        }
    }
}

/// Where to compute.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Backend {
    /// On WebGPU where there is an adapter that is no software, else on the CPU; one that BISE_ADAPTER names must
    /// be there, and is taken.
    Auto,
    /// On WebGPU.
    Webgpu,
    /// On the CPU, in one thread.
    Cpu,
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum KvCache {
    /// As F16.
    F16,
    /// As F8_E4M3 with a scale for each key and value of a head: about half the memory.
    F8,
}

impl From<KvCache> for CacheForm {
    fn from(form: KvCache) -> CacheForm {
        match form {
            KvCache::F16 => CacheForm::F16,
            KvCache::F8 => CacheForm::F8,
        }
    }
}

impl From<Backend> for BackendChoice {
    fn from(backend: Backend) -> BackendChoice {
        match backend {
            Backend::Auto => BackendChoice::Auto,
            Backend::Webgpu => BackendChoice::Webgpu,
            Backend::Cpu => BackendChoice::Cpu,
        }
    }
}

/// What every command that loads a model takes.
#[derive(Args)]
pub struct ModelArgs {
    /// Directory of a Hugging Face checkpoint.
    model: PathBuf,
    /// Precision of linear weights.
    #[arg(long, value_enum, default_value = "checkpoint")]
    weights: Weights,
    /// Positions to reserve key/value cache for [default: the model's limit, at most 4096].
    #[arg(long, value_name = "TOKENS")]
    context: Option<u32>,
    /// Precision of the key/value cache.
    #[arg(long, value_enum, default_value = "f16")]
    kv_cache: KvCache,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
    /// Neither time on a GPU how it computes fastest, nor take up what was remembered of that.
    #[arg(long)]
    no_autotune: bool,
    /// Time it on a software adapter as well.
    #[arg(long, conflicts_with = "no_autotune")]
    autotune: bool,
    /// Print exactly one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `generate`.
#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Text to continue.
    #[arg(long, required_unless_present = "ids", conflicts_with = "ids")]
    prompt: Option<String>,
    /// Token ids to continue, instead of a text.
    #[arg(long, value_delimiter = ',', value_name = "ID,ID,...")]
    ids: Option<Vec<u32>>,
    /// Choose tokens on the host, from logits that are read back: the same ones, for comparison.
    #[arg(long)]
    choose_on_host: bool,
    /// Take the prompt as a user's message and render the checkpoint's chat template.
    #[arg(long, conflicts_with = "ids")]
    chat: bool,
    /// Most tokens to generate [default: what the context holds].
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// 0 is greedy [default: the checkpoint's, else 1].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the smallest set of tokens with this probability.
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Keep this many tokens; 0: all.
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Drop tokens below this share of the best one's probability.
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Penalty on tokens that have occurred; 1: none.
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f32>,
    /// Penalty per occurrence in the output; 0: none.
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Penalty on tokens that have occurred in the output; 0: none.
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Seed of the draws: the same seed gives the same text [default: a new one each time].
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// End the text at this string; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after an end-of-sequence token.
    #[arg(long)]
    ignore_eos: bool,
    /// With --json, log-probabilities with this many alternatives per token.
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<u32>,
}

/// Arguments of `logits`.
#[derive(Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids.
    #[arg(long, value_delimiter = ',', required = true, value_name = "ID,ID,...")]
    ids: Vec<u32>,
    /// How many of the largest logits to print.
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
}

/// Arguments of `tokenize`.
#[derive(Args)]
pub struct TokenizeArgs {
    /// Directory with a tokenizer.json.
    model: PathBuf,
    /// Text to encode.
    text: String,
    /// Do not add the tokenizer's special tokens, such as the begin-of-sequence token.
    #[arg(long)]
    no_special: bool,
    /// Print exactly one JSON object.
    #[arg(long)]
    json: bool,
}

/// The checkpoint directory as a source.
pub fn source(directory: &Path) -> Result<FileSource, Box<dyn Error>> {
    if directory.is_dir() {
        return Ok(FileSource::new(directory));
    }
    Err(format!("{} is not a directory; MODEL is a directory holding a checkpoint", directory.display())
        .into())
}

/// The adapter that BISE_ADAPTER names, with the limits that BISE_LIMITS asks for.
pub fn gpu_options() -> Result<GpuOptions, Box<dyn Error>> {
    let adapter = std::env::var("BISE_ADAPTER").ok().filter(|name| !name.is_empty());
    let limits =
        match std::env::var("BISE_LIMITS").as_deref() {
            Err(_) | Ok("" | "adapter") => LimitChoice::Adapter,
            Ok("default") => LimitChoice::Default,
            Ok(bytes) => LimitChoice::Binding(bytes.parse().map_err(|_| {
                format!("BISE_LIMITS is {bytes:?}, not adapter, default or a number of bytes")
            })?),
        };
    Ok(GpuOptions { adapter, limits, ..GpuOptions::default() })
}

fn load(args: &ModelArgs) -> Result<Engine, Box<dyn Error>> {
    let options = LoadOptions {
        weights: args.weights.into(),
        context_length: args.context,
        kv_cache: args.kv_cache.into(),
        backend: args.backend.into(),
        autotune: if args.no_autotune { Some(false) } else { args.autotune.then_some(true) },
        gpu: gpu_options()?,
        ..LoadOptions::default()
    };
    load_engine(&args.model, options)
}

/// Loads with what was remembered of this machine's adapters, and remembers what is timed now.
pub fn load_engine(model: &Path, mut options: LoadOptions) -> Result<Engine, Box<dyn Error>> {
    let file = TuningFile::of_user();
    if options.autotune != Some(false) {
        options.tunings = file.read();
    }
    let engine = block_on(Engine::load(&source(model)?, &options, &mut |_| (), &|| false))?;
    file.note(&engine.info().tuning);
    Ok(engine)
}

/// Prints one JSON object.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Runs `generate`.
pub fn generate(args: GenerateArgs) -> Result<(), Box<dyn Error>> {
    let prompt = match (args.ids, args.prompt.unwrap_or_default()) {
        (Some(ids), _) => Prompt::Ids(ids),
        (None, text) if args.chat => Prompt::Messages(vec![Message { role: "user".into(), content: text }]),
        (None, text) => Prompt::Text(text),
    };
    let request = Request {
        prompt,
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        min_p: args.min_p,
        max_tokens: args.max_tokens,
        stop: args.stop,
        seed: args.seed,
        logit_bias: Default::default(),
        repetition_penalty: args.repetition_penalty,
        frequency_penalty: args.frequency_penalty,
        presence_penalty: args.presence_penalty,
        ignore_eos: args.ignore_eos,
        logprobs: args.logprobs,
    };
    let mut engine = load(&args.model)?;
    engine.sample_on_host(args.choose_on_host);
    let json = args.model.json;
    let mut broken = None;
    let output = block_on(engine.generate(
        &request,
        &mut |delta| {
            if !json && broken.is_none() {
                let mut out = stdout().lock();
                broken = write!(out, "{}", delta.text).and_then(|()| out.flush()).err();
            }
        },
        &|| false,
    ))?;
    if let Some(error) = broken {
        return Err(error.into());
    }
    if json {
        return print_json(&output);
    }
    writeln!(stdout())?;
    let timings = output.timings;
    writeln!(
        std::io::stderr(),
        "[{} prompt tokens in {:.0} ms, {} tokens at {:.1} tokens/s on {}]",
        timings.prompt_tokens,
        timings.prompt_ms,
        timings.completion_tokens,
        timings.tokens_per_second,
        engine.info().adapter.name
    )?;
    Ok(())
}

/// Runs `logits`.
pub fn logits(args: LogitsArgs) -> Result<(), Box<dyn Error>> {
    let mut engine = load(&args.model)?;
    let logits = block_on(engine.logits(&args.ids))?;
    let mut top: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
    top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    top.truncate(args.top);
    let sum: f64 = logits.iter().map(|&l| f64::from(l)).sum();
    let norm = logits.iter().map(|&l| f64::from(l).powi(2)).sum::<f64>().sqrt();
    if args.model.json {
        return print_json(
            &json!({ "top": top, "sum": sum, "norm": norm, "adapter": engine.info().adapter.name }),
        );
    }
    let mut out = stdout().lock();
    for (id, logit) in top {
        writeln!(out, "{id:>8}  {logit:.4}")?;
    }
    writeln!(out, "sum {sum:.4}, norm {norm:.4}, on {}", engine.info().adapter.name)?;
    Ok(())
}

/// Runs `tokenize`.
pub fn tokenize(args: &TokenizeArgs) -> Result<(), Box<dyn Error>> {
    let tokenizer = block_on(load_tokenizer(&source(&args.model)?))?;
    let ids = tokenizer.encode(&args.text, !args.no_special)?;
    let text = tokenizer.decode(&ids, true);
    if args.json {
        return print_json(&json!({ "ids": ids, "text": text }));
    }
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    writeln!(stdout(), "{}\n{text}", ids.join(","))?;
    Ok(())
}
