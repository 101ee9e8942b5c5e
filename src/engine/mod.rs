//! Load and generate: the loops that tie the floors together.
//!
//! ```text
//! backend   WebGPU or the CPU, as one
//! room      what either has room for
//! tuning    how a load comes to its choice of kernels
//! tuning_file  where native programs remember it
//! load      from a source of bytes to a model on the device
//! fill      its weights: from the cache, then from the source
//! cached    the source with what is kept of it, and the hashes of its files
//! keeper    the cache of a load while it works
//! cache     what is kept of one model: a pack and a journal
//! generate  the token loop
//! inspect   what a checkpoint holds and would take
//! bench     how fast a loaded model runs, beside what its adapter can do at most
//! ```

mod backend;
#[cfg(any(feature = "bench", not(target_arch = "wasm32")))]
pub mod bench;
pub mod cache;
pub mod cached;
mod error;
pub mod fill;
mod generate;
mod inspect;
pub mod keeper;
mod load;
mod room;
mod tuning;
#[cfg(not(target_arch = "wasm32"))]
mod tuning_file;
pub mod types;

pub use cache::CacheFiles;
pub use cached::{CachedSource, Kept, Trust};
pub use error::EngineError;
pub use inspect::{ContextMemory, Inspection, inspect, inspect_cached};
pub use load::load_tokenizer;
#[cfg(not(target_arch = "wasm32"))]
pub use tuning_file::TuningFile;
pub use types::*;

use std::collections::BTreeMap;

use backend::Backend;

use crate::gpu::Traffic;
use crate::model::{Config, Decoder, GenerationConfig, WeightPlan};
use crate::text::{ChatTemplate, Tokenizer, check_logits, log_probs};

/// A loaded model, ready to generate. One request at a time.
pub struct Engine {
    decoder: Decoder<Backend>,
    config: Config,
    generation: GenerationConfig,
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
    context: u32,
    weights: WeightMode,
    kv_cache: CacheForm,
    plan: WeightPlan,
    /// Whether a merge into the weights ended half-way.
    incomplete: bool,
    requests: u64,
    cache: CacheReport,
    /// Why this backend, where the choice was left to the engine.
    reason: Option<String>,
    tuning: TuningReport,
    sha256: BTreeMap<String, String>,
    /// Of a request, so many tokens are chosen on the host even where the device could.
    host_tokens: usize,
    loading: Loading,
}

/// How long the load took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loading {
    /// From the request for the adapter to the end, milliseconds.
    pub ms: f64,
    /// Of it, with weights on their way.
    pub weights_ms: f64,
    /// Bytes of weight files.
    pub bytes: u64,
}

impl Engine {
    /// Lets tokens be chosen on the host, from logits that are read back, or again where the backend
    /// prefers to. The tokens are the same; for tests and measurements.
    pub fn sample_on_host(&mut self, on_host: bool) {
        self.host_tokens = if on_host { usize::MAX } else { 0 };
    }

    /// Lets the first so many tokens of a request be chosen on the host, as happens while the device has
    /// not compiled what chooses. For tests.
    pub fn sample_first_on_host(&mut self, tokens: usize) {
        self.host_tokens = tokens;
    }

    /// What is loaded and what it takes.
    pub fn info(&self) -> Info {
        let backend = self.decoder.backend();
        let [weights, kv_cache, activations] = backend.bytes();
        Info {
            architecture: self.config.model_type.clone(),
            parameters: self.plan.parameters,
            context_length: self.context,
            max_context_length: self.config.max_positions,
            sliding_window: self.config.window,
            layers: self.config.layers,
            vocab: self.config.vocab,
            weights: self.weights,
            kv_cache: self.kv_cache,
            backend: backend.name().into(),
            backend_reason: self.reason.clone(),
            adapter: backend.adapter(),
            tuning: self.tuning.clone(),
            memory: Memory { weights, kv_cache, activations, total: weights + kv_cache + activations },
            chat: self.template.is_some(),
            tokenizer: self.tokenizer.is_some(),
            cache: self.cache.clone(),
            sha256: self.sha256.clone(),
        }
    }

    /// How long the load took.
    pub fn loading(&self) -> Loading {
        self.loading
    }

    /// What went between host and device since the load.
    pub fn traffic(&self) -> Traffic {
        self.decoder.backend().traffic()
    }

    /// Logits of the last of `ids`, with the sequence computed anew. `(vocab)`
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] for ids outside the vocabulary or beyond the context;
    /// [`TextError::NonFiniteLogits`](crate::text::TextError::NonFiniteLogits).
    pub async fn logits(&mut self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.check_prompt(ids, 0)?;
        self.decoder.reset();
        let logits = self.run_prompt(ids, &|| false).await?;
        check_logits(&logits, self.config.vocab as usize)?;
        Ok(logits)
    }

    /// Natural logarithm of each id's probability after those before it, the first one left out:
    /// what perplexity is made of. `(ids - 1)`
    ///
    /// # Errors
    /// As [`Engine::logits`]; [`EngineError::Text`] for logits that are not finite.
    pub async fn log_likelihoods(&mut self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.check_prompt(ids, 0)?;
        self.decoder.reset();
        let mut scores = Vec::with_capacity(ids.len().saturating_sub(1));
        for pair in ids.windows(2) {
            let &[id, next] = pair else { continue };
            let logits = self.decoder.forward(&[id], false, true).await?.unwrap_or_default();
            scores.push(log_probs(&logits, next, 0)?.0);
        }
        Ok(scores)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] if the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, EngineError> {
        self.tokenizer.as_ref().ok_or_else(|| {
            let what = "this checkpoint has no tokenizer.json; pass token ids instead of text";
            EngineError::BadRequest(what.into())
        })
    }
}
