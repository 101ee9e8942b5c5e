//! The forward pass, once for all backends.

use crate::steps::{Batch, Slot, Steps, Write};

use super::kv_cache::KvCache;
use super::weights::Weights;

/// A decoder with its weights and its one sequence.
pub struct Decoder<B: Steps> {
    weights: Weights<B>,
    cache: KvCache,
    max_batch: u32,
    // Last: weights are dropped before the device they lie on.
    backend: B,
}

impl<B: Steps> Decoder<B> {
    /// Puts the parts together; `backend` has compiled what [`plan`] noted.
    pub fn new(backend: B, weights: Weights<B>, cache: KvCache, max_batch: u32) -> Decoder<B> {
        Decoder { weights, cache, max_batch, backend }
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The backend, to change what does not touch the sequence.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Takes `ids` for the sequence without computing anything: to time passes at a position.
    pub fn assume(&mut self, ids: &[u32]) {
        self.cache.push(ids, false);
    }

    /// The backend and the weights, to write others into them: the sequence is dropped.
    pub fn rewrite(&mut self) -> (&mut B, &Weights<B>) {
        self.cache.clear();
        (&mut self.backend, &self.weights)
    }

    /// What the cache holds.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Begins a sequence: keeps what it shares with the last one and returns how much that is.
    pub fn start(&mut self, prompt: &[u32]) -> u32 {
        self.cache.rewind(prompt)
    }

    /// Drops the sequence, as after a pass that failed half-way.
    pub fn reset(&mut self) {
        self.cache.clear();
    }

    /// Tokens that one prompt pass may hold.
    pub fn max_batch(&self) -> u32 {
        self.max_batch
    }

    /// Appends `ids` to the sequence; with `logits`, returns those of the last one. `(vocab)`
    ///
    /// # Errors
    /// What the backend reports; the sequence is then dropped.
    pub async fn forward(
        &mut self,
        ids: &[u32],
        prompt: bool,
        logits: bool,
    ) -> Result<Option<Vec<f32>>, B::Error> {
        let batch = Batch { ids, position: self.cache.len(), prompt };
        let result = match record(&mut self.backend, &self.weights, &batch, logits) {
            Ok(()) => self.backend.finish(logits).await,
            Err(error) => Err(error),
        };
        match &result {
            Ok(_) => self.cache.push(ids, prompt),
            Err(_) => self.cache.clear(),
        }
        result
    }
}

/// Lets `backend` note every kernel that a prompt and a decode pass need.
///
/// # Errors
/// What the backend reports.
pub fn plan<B: Steps>(backend: &mut B, weights: &Weights<B>) -> Result<(), B::Error> {
    backend.plan();
    for prompt in [true, false] {
        record(backend, weights, &Batch { ids: &[0], position: 0, prompt }, true)?;
    }
    Ok(())
}

/// One pass over the layers.
fn record<B: Steps>(b: &mut B, weights: &Weights<B>, batch: &Batch, logits: bool) -> Result<(), B::Error> {
    b.begin(batch)?;
    b.embed(&weights.embed)?;
    for (index, layer) in (0..).zip(&weights.layers) {
        b.rms_norm(Slot::X, &layer.input_norm, Slot::Normed)?;
        for (first, part) in &layer.qkv {
            b.linear(Slot::Normed, part, Slot::Qkv, *first, Write::Set)?;
        }
        b.rope_store(index)?;
        b.attend(index)?;
        b.linear(Slot::AttnOut, &layer.output, Slot::X, 0, Write::Add)?;

        b.rms_norm(Slot::X, &layer.post_norm, Slot::Normed)?;
        b.gated_linear(Slot::Normed, &layer.gate, &layer.up)?;
        b.linear(Slot::Mlp, &layer.down, Slot::X, 0, Write::Add)?;
    }
    if logits {
        b.rms_norm(Slot::X, &weights.norm, Slot::LastNormed)?;
        b.linear(Slot::LastNormed, weights.head(), Slot::Logits, 0, Write::Set)?;
    }
    Ok(())
}
