//! What a checkpoint holds and what it would take, from its small files and headers alone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::EngineError;
use super::load::{context_length, read_side_files};
use crate::checkpoint::{ByteSource, Manifest};
use crate::gpu::DEFAULT_BINDING_BYTES;
use crate::model::Precision;
use crate::model::WeightPlan;

/// Tokens per prompt pass that the estimate of a rolling cache assumes.
const ASSUMED_BATCH: u32 = 256;

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
    /// Weight files.
    pub shards: usize,
    /// Bytes of weights to read.
    pub weight_bytes: u64,
    /// Device memory for the weights as they are, bytes.
    pub device_bytes: u64,
    /// Device memory for the weights as `f8`, bytes.
    pub device_bytes_f8: u64,
    /// Device memory for the key/value cache, bytes.
    pub kv_cache_bytes: u64,
    /// Whether there is a tokenizer.
    pub tokenizer: bool,
    /// Whether there is a chat template.
    pub chat: bool,
}

/// Describes a checkpoint for a context of that many positions.
///
/// # Errors
/// As for a load, as far as files are concerned.
pub async fn inspect<S: ByteSource>(source: &S, context: Option<u32>) -> Result<Inspection, EngineError> {
    let side = read_side_files(source).await?;
    let manifest = Manifest::read(source).await?;
    let plan = |precision| WeightPlan::new(&side.config, &side.config_json, &manifest, precision);
    let (kept, f8) = (plan(Precision::Checkpoint)?, plan(Precision::F8)?);
    let max_context_length = side.config.max_positions;
    let context = context_length(&side.config, context, max_context_length)?;
    let mut shape = side.config.shape(context);
    shape.max_batch = ASSUMED_BATCH;
    let at_default_limits = shape.largest_context(DEFAULT_BINDING_BYTES).min(max_context_length);
    shape.max_batch = ASSUMED_BATCH.min(context);
    let mut tensors = BTreeMap::new();
    for (_, info) in manifest.tensors() {
        *tensors.entry(info.dtype.name().to_owned()).or_insert(0) += 1;
    }
    Ok(Inspection {
        architecture: side.config.model_type.clone(),
        parameters: kept.parameters,
        layers: side.config.layers,
        vocab: side.config.vocab,
        context_length: context,
        max_context_length,
        context_length_at_default_limits: at_default_limits,
        sliding_window: side.config.window,
        tensors,
        shards: manifest.shards.len(),
        weight_bytes: manifest.total_bytes(),
        device_bytes: kept.device_bytes(),
        device_bytes_f8: f8.device_bytes(),
        kv_cache_bytes: shape.cache_bytes(),
        tokenizer: side.tokenizer.is_some(),
        chat: side.template.is_some(),
    })
}
