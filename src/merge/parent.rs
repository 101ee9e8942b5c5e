//! A checkpoint that a merge reads, checked before any weight is fetched.

use std::rc::Rc;

use serde_json::Value;

use super::MergeError;
use super::recipe::ModelRef;
use crate::checkpoint::foreign::found_instead;
use crate::checkpoint::scales::{Granularity, Scales};
use crate::checkpoint::source::read_all;
use crate::checkpoint::{ByteSource, CheckpointError, Manifest, SourceError};
use crate::dtype::Dtype;
use crate::model::{Config, ModelError, Precision, WeightPlan};

/// Largest config.json that is read, bytes.
const CONFIG_LIMIT_BYTES: u64 = 16 << 20;

/// One checkpoint of a recipe. Cheap to clone where the source is.
pub struct Parent<S> {
    /// As the recipe names it.
    pub name: ModelRef,
    /// Its files.
    pub source: S,
    /// Its architecture.
    pub config: Config,
    /// All of config.json.
    pub config_json: Value,
    /// Its tensors.
    pub manifest: Rc<Manifest>,
    /// Scales of its FP8 tensors.
    pub scales: Rc<Scales>,
}

impl<S: ByteSource> Parent<S> {
    /// Reads config.json and the headers of all weight files.
    ///
    /// # Errors
    /// [`MergeError::Source`] for what the source meets, and for a checkpoint that could not be run:
    /// tensors missing, mis-shaped or unknown, all named together.
    pub async fn open(name: ModelRef, source: S) -> Result<Parent<S>, MergeError> {
        let failed = |error: ModelError| MergeError::Source { model: name.to_string(), error: error.into() };
        let checkpoint = |error: CheckpointError| failed(error.into());
        let json = match read_all(&source, "config.json", None, CONFIG_LIMIT_BYTES).await {
            Err(error @ SourceError::NotFound { .. }) => {
                return Err(checkpoint(found_instead(&source).await.unwrap_or(error.into())));
            }
            json => json.map_err(|error| checkpoint(error.into()))?,
        };
        let config = Config::parse(&json).map_err(failed)?;
        // Parsed before, so this cannot fail.
        let config_json: Value = serde_json::from_slice(&json).unwrap_or_default();
        let manifest = Manifest::read(&source).await.map_err(checkpoint)?;
        WeightPlan::new(&config, &config_json, &manifest, Precision::Checkpoint).map_err(failed)?;
        let infos = manifest.tensors().map(|(_, info)| info);
        let scales = Rc::new(Scales::find(&config_json, infos).map_err(checkpoint)?);
        Ok(Parent { name, source, config, config_json, manifest: Rc::new(manifest), scales })
    }
}

impl<S> Parent<S> {
    /// Whether a tensor is F8_E4M3 with one scale per row, per tensor or higher block, or none.
    pub(super) fn has_row_scales(&self, tensor: &str) -> bool {
        let info = self.manifest.get(tensor).map(|(_, info)| info);
        let Some(info) = info.filter(|info| info.dtype == Dtype::F8E4m3) else { return false };
        match self.scales.weights.get(tensor).map(|weight| weight.granularity) {
            Some(Granularity::Block { cols, .. }) => info.shape.last().is_none_or(|width| *width <= cols),
            _ => true,
        }
    }

    /// The precision of its weights once they are dequantised: what config.json says, else BF16.
    pub(super) fn wide_dtype(&self) -> Dtype {
        let named = ["dtype", "torch_dtype"].iter().find_map(|key| self.config_json.get(key)?.as_str());
        named.and_then(parse_dtype).unwrap_or(Dtype::Bf16)
    }
}

/// A float type by torch's name, with or without its prefix.
pub(super) fn parse_dtype(name: &str) -> Option<Dtype> {
    Some(match name.strip_prefix("torch.").unwrap_or(name) {
        "bfloat16" => Dtype::Bf16,
        "float16" => Dtype::F16,
        "float32" => Dtype::F32,
        "float64" => Dtype::F64,
        _ => return None,
    })
}

/// torch's name of a float type, as config.json has it.
pub(super) fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        Dtype::F32 => "float32",
        Dtype::F64 => "float64",
        _ => "bfloat16",
    }
}
