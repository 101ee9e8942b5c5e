//! The decoder: configuration, weights, key/value cache, forward pass.

pub mod config;
pub mod decoder;
pub mod error;
pub mod kv_cache;
pub mod rope;
pub mod weight_cache;
pub mod weight_plan;
pub mod weights;

pub use config::{Config, GenerationConfig};
pub use decoder::Decoder;
pub use error::ModelError;
pub use kv_cache::KvCache;
pub use weight_plan::{Precision, WeightPlan};
pub use weights::{WeightLoader, Weights};
