//! The forward pass, once for all backends.

use crate::steps::sampling::{Past, Rules, Sampled};
use crate::steps::{Batch, Slot, Steps, Write};

use super::kv_cache::KvCache;
use super::weights::Weights;

/// A decoder with its weights and its one sequence.
pub struct Decoder<B: Steps> {
    weights: Weights<B>,
    cache: KvCache,
    max_batch: u32,
    /// Choices under way: every pass but the last of theirs has taken in the one before.
    under_way: u32,
    /// A choice that is known and that no pass has taken in.
    latest: Option<u32>,
    // Last: weights are dropped before the device they lie on.
    backend: B,
}

impl<B: Steps> Decoder<B> {
    /// Puts the parts together; `backend` has compiled what [`plan`] noted.
    pub fn new(backend: B, weights: Weights<B>, cache: KvCache, max_batch: u32) -> Decoder<B> {
        Decoder { weights, cache, max_batch, under_way: 0, latest: None, backend }
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

    /// Begins a sequence: keeps what it shares with the last one and returns how much that is. With
    /// `exact` only what prompts computed: then the same prompt has the same logits, to the bit.
    pub fn start(&mut self, prompt: &[u32], exact: bool) -> u32 {
        (self.under_way, self.latest) = (0, None);
        self.cache.rewind(prompt, exact)
    }

    /// Drops the sequence, as after a pass that failed half-way.
    pub fn reset(&mut self) {
        (self.under_way, self.latest) = (0, None);
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
        if !prompt {
            self.backend.decodable().await?;
        }
        let batch = Batch { ids, position: self.cache.len(), prompt };
        let begun = self.backend.begin(&batch);
        let result = match begun.and_then(|()| record(&mut self.backend, &self.weights, logits)) {
            Ok(()) => self.backend.finish(logits).await,
            Err(error) => Err(error),
        };
        match &result {
            Ok(_) => self.cache.push(ids, prompt),
            Err(_) => self.cache.clear(),
        }
        result
    }

    /// Prepares to choose tokens on the device; see [`Steps::start_sampling`]. Belongs behind
    /// [`Decoder::start`], with no choice under way.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn start_sampling(
        &mut self,
        rules: &Rules,
        bias: &[(u32, f32)],
        past: Past,
    ) -> Result<Option<usize>, B::Error> {
        self.backend.start_sampling(rules, bias, past)
    }

    /// Appends the end of the prompt, or one token that was chosen elsewhere, or without any `ids` the token
    /// that the pass before chooses, whether it is known or not; submits the choice of the next by `draw` and
    /// does not wait.
    ///
    /// # Errors
    /// What the backend reports; the sequence is then dropped.
    pub fn advance(&mut self, ids: &[u32], prompt: bool, draw: u64) -> Result<(), B::Error> {
        let known = self.cache.len();
        // The first choice under way is one that the sequence does not have yet.
        let position = known + self.under_way.saturating_sub(1);
        let begun = match ids {
            [] => self.backend.begin_sampled(position),
            ids => self.backend.begin(&Batch { ids, position: known, prompt }),
        };
        let submitted = begun
            .and_then(|()| record(&mut self.backend, &self.weights, true))
            .and_then(|()| self.backend.sample(draw))
            .and_then(|()| self.backend.submit());
        if submitted.is_err() {
            self.cache.clear();
            return submitted;
        }
        match (ids, self.latest.take()) {
            ([], Some(id)) => self.cache.push(&[id], false),
            ([], None) => self.cache.reach(position + 1),
            (ids, _) => self.cache.push(ids, prompt),
        }
        self.under_way += 1;
        Ok(())
    }

    /// Number of choices that were submitted and are not known.
    pub fn under_way(&self) -> usize {
        self.under_way as usize
    }

    /// Waits for the first of the choices under way; `None` if there is none.
    ///
    /// # Errors
    /// What the backend reports; the sequence is then dropped.
    pub async fn chosen(&mut self) -> Result<Option<Sampled>, B::Error> {
        let sampled = self.backend.sampled().await;
        match &sampled {
            Ok(Some(Sampled { id, .. })) => {
                self.under_way = self.under_way.saturating_sub(1);
                match self.under_way {
                    0 => self.latest = Some(*id),
                    _ => self.cache.push(&[*id], false),
                }
            }
            Ok(None) => {}
            Err(_) => self.cache.clear(),
        }
        sampled
    }
}

/// Lets `backend` note every kernel that a prompt and a decode pass need.
///
/// # Errors
/// What the backend reports.
pub fn plan<B: Steps>(backend: &mut B, weights: &Weights<B>) -> Result<(), B::Error> {
    backend.plan();
    for prompt in [true, false] {
        backend.begin(&Batch { ids: &[0], position: 0, prompt })?;
        record(backend, weights, true)?;
    }
    backend.sample(0)
}

/// One pass over the layers.
fn record<B: Steps>(b: &mut B, weights: &Weights<B>, logits: bool) -> Result<(), B::Error> {
    b.embed(&weights.embed)?;
    for (index, layer) in (0..).zip(&weights.layers) {
        b.rms_norm(Slot::X, &layer.input_norm, Slot::Normed)?;
        for (first, part) in &layer.qkv {
            b.linear(Slot::Normed, part, Slot::Qkv, *first, Write::Set)?;
        }
        b.rope_store(index)?;
        b.attend(index)?;
        b.expect_norm(&layer.post_norm)?;
        b.linear(Slot::AttnOut, &layer.output, Slot::X, 0, Write::Add)?;

        b.rms_norm(Slot::X, &layer.post_norm, Slot::Normed)?;
        b.gated_linear(Slot::Normed, &layer.gate, &layer.up)?;
        let following = weights.layers.get(index as usize + 1).map(|following| &following.input_norm);
        b.expect_norm(following.unwrap_or(&weights.norm))?;
        b.linear(Slot::Mlp, &layer.down, Slot::X, 0, Write::Add)?;
    }
    if logits {
        b.rms_norm(Slot::X, &weights.norm, Slot::LastNormed)?;
        b.linear(Slot::LastNormed, weights.head(), Slot::Logits, 0, Write::Set)?;
    }
    Ok(())
}
