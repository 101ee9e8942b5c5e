//! `model.safetensors.index.json`: which file holds which tensor.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::unique::UniqueMap;

/// Name of the index of a sharded checkpoint.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// Name of a checkpoint's only file.
pub const SINGLE_FILE: &str = "model.safetensors";

/// A sharded checkpoint's table of contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Tensor name to file name.
    pub weight_map: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: UniqueMap<String>,
}

impl Index {
    /// Parses an index. `metadata` is not read: `total_size` is often wrong in the wild.
    ///
    /// # Errors
    /// Not JSON, no `weight_map` of strings, a tensor twice, or a shard that is no plain file name.
    pub fn parse(json: &[u8]) -> Result<Index, CheckpointError> {
        let file = || INDEX_FILE.to_owned();
        let raw: RawIndex = serde_json::from_slice(json)
            .map_err(|error| CheckpointError::IndexJson { file: file(), detail: error.to_string() })?;
        if let Some(key) = raw.weight_map.duplicate {
            return Err(CheckpointError::DuplicateKey { file: file(), key });
        }
        for (tensor, shard) in &raw.weight_map.entries {
            if !is_plain_name(shard) || !shard.ends_with(".safetensors") {
                return Err(CheckpointError::IndexShard {
                    file: file(),
                    tensor: tensor.clone(),
                    shard: shard.clone(),
                });
            }
        }
        Ok(Index { weight_map: raw.weight_map.entries.into_iter().collect() })
    }

    /// The shards, each once, by name.
    pub fn shards(&self) -> Vec<&str> {
        let names: BTreeSet<_> = self.weight_map.values().map(String::as_str).collect();
        names.into_iter().collect()
    }
}

/// Whether `name` is that of a file in the directory itself, as a path and as a URL: no
/// separators, no parent, no drive, no query, no escapes.
pub fn is_plain_name(name: &str) -> bool {
    let forbidden = |c: char| matches!(c, '/' | '\\' | ':' | '?' | '#' | '%') || c.is_control();
    !name.is_empty() && name != "." && name != ".." && !name.contains(forbidden)
}
