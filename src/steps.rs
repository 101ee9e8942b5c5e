//! The interface of a decoder's steps, implemented once per backend.
//!
//! `model::decoder` is written against [`Steps`] alone, so the decoder exists
//! once: `kernels` runs the steps as WGSL dispatches, `reference` as plain loops.
//! Activations are named by role ([`Slot`]); a backend owns their storage.

pub mod sampling;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;
use sampling::{Past, Rules, Sampled};

/// Activations of one forward pass, all f32, row-major. T = tokens of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Residual stream. `(T, hidden)`
    X,
    /// Normalised input of the next product. `(T, hidden)`
    Normed,
    /// Queries, keys and values of one layer, side by side. `(T, q_width + 2 * kv_width)`
    Qkv,
    /// Attention output before the output projection. `(T, q_width)`
    AttnOut,
    /// `silu(gate) * up`. `(T, intermediate)`
    Mlp,
    /// Normalised residual of the batch's last token. `(1, hidden)`
    LastNormed,
    /// Logits of the batch's last token. `(1, vocab)`
    Logits,
}

/// Whether a product replaces its destination or is added to it (residual).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// `y = x W^T`
    Set,
    /// `y += x W^T`
    Add,
}

/// How the key/value cache stores its elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheForm {
    /// As F16, clamped to its range.
    #[default]
    F16,
    /// As F8_E4M3, with a scale for each key and each value of a head; see [`CacheForm::scale`].
    F8,
}

impl CacheForm {
    /// What the codes of a key or a value are multiplied with, and its reciprocal: the largest magnitude
    /// becomes E4M3's largest. Rows of next to nothing become zeros.
    pub fn scale(row: &[f32]) -> [f32; 2] {
        let most = row.iter().fold(0_f32, |most, element| most.max(element.abs())).min(f32::MAX);
        if most < SMALLEST { [1.0; 2] } else { [most / E4M3_MAX, E4M3_MAX / most] }
    }
}

/// The largest finite F8_E4M3.
const E4M3_MAX: f32 = 448.0;

/// Below it, the reciprocal of a scale might overflow where it is used.
const SMALLEST: f32 = 1e-30;

/// Sizes that a backend needs before the first tensor arrives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecoderShape {
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the MLP.
    pub intermediate: u32,
    /// Number of layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of one head, even.
    pub head_dim: u32,
    /// Rows of the embedding table and of the output head.
    pub vocab: u32,
    /// Epsilon of every RMSNorm.
    pub norm_epsilon: f32,
    /// Keys visible to a query, itself included; `None`: all before it.
    pub window: Option<u32>,
    /// Positions a sequence may have.
    pub context: u32,
    /// Tokens that one forward pass may hold.
    pub max_batch: u32,
    /// Rotary frequencies in radians per position. `(head_dim / 2)`
    pub inv_freq: Vec<f32>,
    /// Factor on the cosine and sine tables (1 except for scaled rope types).
    pub rope_scale: f32,
    /// How keys and values are stored.
    pub kv_cache: CacheForm,
}

impl DecoderShape {
    /// Width of all query heads together.
    pub fn q_width(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn kv_width(&self) -> u32 {
        self.kv_heads * self.head_dim
    }

    /// Width of the fused q/k/v product.
    pub fn qkv_width(&self) -> u32 {
        self.q_width() + 2 * self.kv_width()
    }

    /// Slots of the rolling key/value cache: the context, or the window plus what
    /// one batch may write before its first query has read the window behind it.
    pub fn cache_slots(&self) -> u32 {
        match self.window {
            Some(window) => self.context.min(window.saturating_add(self.max_batch)),
            None => self.context,
        }
    }

    /// Bytes of a key of one head, or of a value. F8 has whole units of 8 bytes, and one of them for the scale.
    pub fn cache_row_bytes(&self) -> u64 {
        match self.kv_cache {
            CacheForm::F16 => u64::from(self.head_dim) * 2,
            CacheForm::F8 => (u64::from(self.head_dim.div_ceil(8)) + 1) * 8,
        }
    }

    /// Bytes of one layer's keys, or of its values.
    pub fn layer_cache_bytes(&self) -> u64 {
        u64::from(self.cache_slots()) * u64::from(self.kv_heads) * self.cache_row_bytes()
    }

    /// Bytes of the whole key/value cache.
    pub fn cache_bytes(&self) -> u64 {
        u64::from(self.layers) * 2 * self.layer_cache_bytes()
    }

    /// Most positions for which one layer's keys, and its values, each fit a buffer of that many
    /// bytes: caches are not split. `max_batch` counts where there is a window.
    pub fn largest_context(&self, buffer_bytes: u64) -> u32 {
        let slots = buffer_bytes / (u64::from(self.kv_heads) * self.cache_row_bytes()).max(1);
        let rolling = self.window.map(|window| window.saturating_add(self.max_batch));
        if rolling.is_some_and(|slots_needed| u64::from(slots_needed) <= slots) {
            return u32::MAX;
        }
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    /// Why a pass over that many tokens from `position` on cannot be run; `None` if it can. Not every pass
    /// may hold several tokens.
    pub fn misfit(&self, tokens: u32, position: u32, several: bool) -> Option<String> {
        let fits = u64::from(position) + u64::from(tokens) <= u64::from(self.context);
        if tokens > 0 && tokens <= self.max_batch && fits && (several || tokens == 1) {
            return None;
        }
        let (room, context) = (self.max_batch, self.context);
        Some(format!(
            "{tokens} tokens at position {position} with room for {room} and a context of {context}"
        ))
    }

    /// Width of `slot` in f32 elements per row.
    pub fn width(&self, slot: Slot) -> u32 {
        match slot {
            Slot::X | Slot::Normed | Slot::LastNormed => self.hidden,
            Slot::Qkv => self.qkv_width(),
            Slot::AttnOut => self.q_width(),
            Slot::Mlp => self.intermediate,
            Slot::Logits => self.vocab,
        }
    }

    /// Rows of `slot` in a batch of `tokens`.
    pub fn rows(&self, slot: Slot, tokens: u32) -> u32 {
        match slot {
            Slot::LastNormed | Slot::Logits => 1,
            _ => tokens,
        }
    }

    /// Cosines and sines for `tokens` positions from `position`, angles in f32 as
    /// transformers computes them. `(T, head_dim / 2)` pairs.
    pub fn rope_table(&self, position: u32, tokens: u32) -> Vec<[f32; 2]> {
        let angles = (position..position + tokens)
            .flat_map(|p| self.inv_freq.iter().map(move |frequency| p as f32 * frequency));
        angles.map(|a| [a.cos() * self.rope_scale, a.sin() * self.rope_scale]).collect()
    }
}

/// One weight matrix, `(rows, cols)` row-major: y = x W^T.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSpec {
    /// Name for error messages and GPU labels.
    pub label: String,
    /// Output features.
    pub rows: u32,
    /// Input features.
    pub cols: u32,
    /// How the elements are stored: F32, F16, BF16, F8_E4M3 or F8_E5M2.
    pub dtype: Dtype,
    /// Neighbouring columns that share a scale: a row has `ceil(cols / scale_cols)` of them; 0: none.
    pub scale_cols: u32,
}

/// Tokens that one forward pass processes, consecutive in one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids, each below the vocabulary size; at most `max_batch`.
    pub ids: &'a [u32],
    /// Position of the first of them in the sequence.
    pub position: u32,
    /// Whether these tokens are a prompt. Prompts always take the matrix-matrix
    /// path, so that a token's result does not depend on how a prompt was cut. Else it is one token,
    /// or at most [`Steps::short`] of them.
    pub prompt: bool,
}

/// Where weights go: allocation and upload, in whole rows.
#[allow(async_fn_in_trait, reason = "single-threaded by design: no future here needs Send")]
pub trait Store {
    /// A weight matrix on this backend.
    type Matrix;
    /// A vector of f32, such as a norm's weight.
    type Vector;
    /// What may go wrong.
    type Error: std::error::Error + 'static;

    /// Allocates an uninitialised matrix.
    fn matrix(&mut self, spec: &MatrixSpec) -> Result<Self::Matrix, Self::Error>;

    /// Writes whole rows from `first_row` on, tightly packed in the matrix's dtype.
    fn write_rows(&mut self, matrix: &Self::Matrix, first_row: u32, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Writes scales for whole rows from `first_row` on. `(rows, scale_cols)`
    fn write_scales(
        &mut self,
        matrix: &Self::Matrix,
        first_row: u32,
        scales: &[f32],
    ) -> Result<(), Self::Error>;

    /// Allocates a vector of `len` zeros.
    fn vector(&mut self, label: &str, len: u32) -> Result<Self::Vector, Self::Error>;

    /// Fills a vector.
    fn write_vector(&mut self, vector: &Self::Vector, values: &[f32]) -> Result<(), Self::Error>;

    /// Waits for the device's verdict on the allocations so far.
    async fn allocated(&mut self) -> Result<(), Self::Error>;

    /// Waits until all but a bounded part of the writes so far has left host memory, and
    /// reports any failure among them. Called after every chunk.
    async fn relieve(&mut self) -> Result<(), Self::Error>;

    /// Waits until all writes so far have left host memory.
    async fn flush(&mut self) -> Result<(), Self::Error>;
}

/// The steps of the decoder, in the order in which a layer takes them.
#[allow(async_fn_in_trait, reason = "single-threaded by design: no future here needs Send")]
pub trait Steps: Store {
    /// From here on steps are only noted, not run, until [`Steps::compile`]: a decoder that
    /// goes once through each kind of pass tells which kernels it will need.
    fn plan(&mut self);

    /// Ends planning and starts to compile what was noted.
    fn compile(&mut self);

    /// Waits for what prompts need; `progress` hears how many kernels are done, of how many.
    async fn compiled(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Self::Error>;

    /// Waits for what passes over one decoded token need besides.
    async fn decodable(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Most tokens for which a pass that is no prompt is faster than one that is: for the end of a prompt whose
    /// results may differ by rounding. 0: none.
    fn short(&mut self) -> u32 {
        0
    }

    /// Starts a forward pass.
    fn begin(&mut self, batch: &Batch) -> Result<(), Self::Error>;

    /// Says that the next step's result, [`Slot::X`], will be normed by this weight: a hint, for backends whose
    /// products leave what norms need.
    fn expect_norm(&mut self, _weight: &Self::Vector) -> Result<(), Self::Error> {
        Ok(())
    }

    /// `X[t] = table[ids[t]]`.
    fn embed(&mut self, table: &Self::Matrix) -> Result<(), Self::Error>;

    /// `y = x / rms(x) * weight`, by row; into [`Slot::LastNormed`] the last row only.
    fn rms_norm(&mut self, x: Slot, weight: &Self::Vector, y: Slot) -> Result<(), Self::Error>;

    /// `y = x W^T` or `y += x W^T`, for the columns of y from `first` on: `weight` may be a part of W.
    fn linear(
        &mut self,
        x: Slot,
        weight: &Self::Matrix,
        y: Slot,
        first: u32,
        write: Write,
    ) -> Result<(), Self::Error>;

    /// `Mlp = silu(x Wg^T) * (x Wu^T)`.
    fn gated_linear(&mut self, x: Slot, gate: &Self::Matrix, up: &Self::Matrix) -> Result<(), Self::Error>;

    /// Rotates the queries in [`Slot::Qkv`] in place and stores rotated keys, and values, in the
    /// layer's cache at the batch's positions.
    fn rope_store(&mut self, layer: u32) -> Result<(), Self::Error>;

    /// Attention of the batch's queries over the layer's cache, into [`Slot::AttnOut`].
    fn attend(&mut self, layer: u32) -> Result<(), Self::Error>;

    /// Submits the pass. With `logits`, waits and returns [`Slot::Logits`]. `(vocab)`
    async fn finish(&mut self, logits: bool) -> Result<Option<Vec<f32>>, Self::Error>;

    /// Prepares to choose tokens where the logits are. `bias`: what is added to logits, each token at
    /// most once; `past`: tokens that the penalties take as seen. Returns how many passes are worth having
    /// under way, or `None`, without effect, from a backend that leaves the choice to its caller, or does so
    /// until its kernels are compiled: only after `Some` are the methods below called.
    fn start_sampling(
        &mut self,
        _rules: &Rules,
        _bias: &[(u32, f32)],
        _past: Past,
    ) -> Result<Option<usize>, Self::Error> {
        Ok(None)
    }

    /// Starts a pass over one token, which the pass before chooses, at this position.
    fn begin_sampled(&mut self, _position: u32) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Chooses a token from [`Slot::Logits`]; `draw` from [0, 2^64), as [`sampling::share`] takes it.
    fn sample(&mut self, _draw: u64) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Submits the pass without waiting for it.
    fn submit(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Waits for the first choice that was submitted and not yet returned; `None` if there is none.
    async fn sampled(&mut self) -> Result<Option<Sampled>, Self::Error> {
        Ok(None)
    }
}
