//! What a checkpoint holds and what it would take, from its small files and headers alone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cached::Kept;
use super::load::{context_length, read_side_files, reported};
use super::room::Room;
use super::{EngineError, LoadOptions, WeightMode};
use crate::checkpoint::scales::Scales;
use crate::checkpoint::{ByteSource, Manifest};
use crate::dtype::Dtype;
use crate::gpu::DeviceTier;
use crate::model::{Precision, WeightPlan};

/// Positions that a choice of context lengths starts with.
const SHORTEST_CHOICE: u32 = 1024;

/// A checkpoint, described without loading it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// `model_type` of config.json.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Layers.
    pub layers: u32,
    /// Vocabulary size.
    pub vocab: u32,
    /// Positions that the figures assume.
    pub context_length: u32,
    /// Positions the model was made for.
    pub max_context_length: u32,
    /// Positions that a device with WebGPU's default limits holds: keys of one layer are not split
    /// over several buffers. Other devices hold more.
    pub context_length_at_default_limits: u32,
    /// Sliding window, if any.
    pub sliding_window: Option<u32>,
    /// Number of tensors by dtype.
    pub tensors: BTreeMap<String, u64>,
    /// The dtype of most weights.
    pub dtype: String,
    /// How many of its FP8 weights share a scale, in words; absent without FP8 weights.
    pub scales: Option<String>,
    /// Weight files.
    pub shards: usize,
    /// Bytes of weights to read.
    pub weight_bytes: u64,
    /// How weights would be stored.
    pub weights: WeightMode,
    /// Device memory for the weights as they are, bytes.
    pub device_bytes: u64,
    /// Device memory for the weights as `f8`, bytes.
    pub device_bytes_f8: u64,
    /// Device memory for the key/value cache, bytes.
    pub kv_cache_bytes: u64,
    /// Device memory for everything else, bytes.
    pub activation_bytes: u64,
    /// Device memory in all, with the weights stored as `weights` says.
    pub total_bytes: u64,
    /// Key/value cache and everything else at other context lengths that this device holds: none where it does not
    /// hold the weights.
    pub contexts: Vec<ContextMemory>,
    /// Where a load with these options would run, `webgpu` or `cpu`: whose memory and limits are told.
    pub backend: String,
    /// Why, where the choice was left to the engine.
    pub backend_reason: Option<String>,
    /// The adapter there is; on WebGPU its limits were looked at, or, where there is none, WebGPU's defaults.
    pub adapter: Option<String>,
    /// Whether it computes on the CPU.
    pub software: bool,
    /// Its largest binding in bytes.
    pub max_binding_bytes: u64,
    /// Why this model does not fit, and what to do: the adapter's limits, or the memory of WebAssembly. How
    /// much memory is free no API tells.
    pub problems: Vec<String>,
    /// Whether there is a tokenizer.
    pub tokenizer: bool,
    /// Whether there is a chat template.
    pub chat: bool,
    /// Whether all weights are kept in that form: a load fetches none.
    pub kept: bool,
}

/// Memory at a context length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContextMemory {
    /// Positions.
    pub context_length: u32,
    /// Device memory for the key/value cache, bytes.
    pub kv_cache_bytes: u64,
    /// Device memory for activations, bytes.
    pub activation_bytes: u64,
}

/// Describes what a load with these options would take with such an adapter, or, without one, on the CPU,
/// unless WebGPU is asked for: then on a device of its default limits.
///
/// # Errors
/// As for a load, as far as files are concerned.
pub async fn inspect<S: ByteSource>(
    source: &S,
    options: &LoadOptions,
    tier: Option<&DeviceTier>,
) -> Result<Inspection, EngineError> {
    inspect_cached(source, &Kept::nothing(), options, tier).await
}

/// [`inspect`] of a source of which something may be kept: a [`CachedSource`](super::CachedSource) with the same `kept`.
///
/// # Errors
/// As [`inspect`].
pub async fn inspect_cached<S: ByteSource>(
    source: &S,
    kept: &Kept,
    options: &LoadOptions,
    tier: Option<&DeviceTier>,
) -> Result<Inspection, EngineError> {
    let side = read_side_files(source).await?;
    let manifest = Manifest::read(source).await?;
    let config = &side.config;
    let least = DeviceTier::at_default_limits();
    let (room, backend_reason) = Room::of(options, tier, &least);
    let device = tier.unwrap_or(&least);
    let plan_as = |precision| WeightPlan::new(config, &side.config_json, &manifest, precision);
    let (weights, plan) = room.form(options.weights, kept, &plan_as)?;
    let mut problems = Vec::new();
    let mut bytes_of = |plan: &WeightPlan| {
        // Where a row is too long for the device, the memory is that of one that has no limit.
        room.weight_bytes(plan, room.max_buffer_bytes()).or_else(|error| {
            if plan.precision == weights.precision() {
                problems.push(error.to_string());
            }
            room.weight_bytes(plan, u64::MAX)
        })
    };
    let device_bytes = bytes_of(&plan_as(Precision::Checkpoint)?)?;
    let device_bytes_f8 = bytes_of(&plan_as(Precision::F8)?)?;
    let stored = match weights.precision() {
        Precision::Checkpoint => device_bytes,
        Precision::F8 => device_bytes_f8,
        Precision::I8 => bytes_of(&plan)?,
    };
    let parameters = plan.parameters;
    let holds_weights = problems.is_empty();

    let max = config.max_positions;
    let kv_cache = options.kv_cache;
    let positions = room.largest_context(config, kv_cache);
    let wanted = options.context_length;
    let context = context_length(config, wanted, if wanted.is_some() { max } else { positions.max(2) })?;
    if let Err(error) = context_length(config, Some(context), positions) {
        problems.push(error.to_string());
    }
    let fits = |context| room.check(&room.shape(config, context, kv_cache), stored);
    if let Err(error) = fits(context) {
        problems.push(error.to_string());
    }
    let memory = |context_length| {
        let [kv_cache_bytes, activation_bytes] = room.memory(&room.shape(config, context_length, kv_cache));
        ContextMemory { context_length, kv_cache_bytes, activation_bytes }
    };
    let largest = max.min(positions);
    let mut contexts = Vec::new();
    let mut length = SHORTEST_CHOICE;
    while length < largest {
        contexts.push(memory(length));
        length = length.saturating_mul(2);
    }
    contexts.push(memory(largest));
    contexts.retain(|each| holds_weights && fits(each.context_length).is_ok());
    if options.lost && options.is_free() && !problems.is_empty() {
        // Larger than what the CPU holds: as a load does.
        let options = LoadOptions { lost: false, ..options.clone() };
        return Box::pin(inspect_cached(source, kept, &options, tier)).await;
    }

    let mut tensors = BTreeMap::new();
    let mut elements: Vec<(Dtype, u64)> = Vec::new();
    for (_, info) in manifest.tensors() {
        *tensors.entry(info.dtype.name().to_owned()).or_insert(0) += 1;
        match elements.iter_mut().find(|(dtype, _)| *dtype == info.dtype) {
            Some((_, count)) => *count += info.elements(),
            None => elements.push((info.dtype, info.elements())),
        }
    }
    let dtype = elements.iter().max_by_key(|(_, count)| *count).map_or("", |(dtype, _)| dtype.name());
    let scales = Scales::find(&side.config_json, manifest.tensors().map(|(_, info)| info))?;
    let mut granularities = String::new();
    for weight in scales.weights.values() {
        let words = match weight.scale {
            Some(_) => weight.granularity.to_string(),
            None => "no scales".to_owned(),
        };
        if !granularities.contains(&words) {
            granularities += if granularities.is_empty() { "" } else { ", " };
            granularities += &words;
        }
    }
    let ContextMemory { kv_cache_bytes, activation_bytes, .. } = memory(context);
    Ok(Inspection {
        architecture: config.model_type.clone(),
        parameters,
        layers: config.layers,
        vocab: config.vocab,
        context_length: context,
        max_context_length: max,
        context_length_at_default_limits: Room::Gpu(&least).largest_context(config, kv_cache).min(max),
        sliding_window: config.window,
        tensors,
        dtype: dtype.to_owned(),
        scales: (!granularities.is_empty()).then_some(granularities),
        shards: manifest.shards.len(),
        weight_bytes: manifest.total_bytes(),
        weights: reported(weights, &plan),
        device_bytes,
        device_bytes_f8,
        kv_cache_bytes,
        activation_bytes,
        total_bytes: stored + kv_cache_bytes + activation_bytes,
        contexts,
        backend: if let Room::Cpu = room { "cpu" } else { "webgpu" }.into(),
        backend_reason,
        adapter: tier.map(|tier| tier.name.clone()),
        software: device.software,
        max_binding_bytes: device.max_binding_bytes,
        problems,
        tokenizer: side.tokenizer.is_some(),
        chat: side.template.is_some(),
        kept: kept.holds_all(&plan),
    })
}
