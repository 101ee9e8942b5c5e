//! A small decoder with random weights, the same on every backend.

use bise::dtype::{Dtype, narrow};
use bise::model::decoder::{Decoder, plan};
use bise::model::kv_cache::KvCache;
use bise::model::weights::{LayerWeights, Weights};
use bise::steps::{CacheForm, DecoderShape, MatrixSpec, Steps};

use super::common::random_rows;
use crate::common::Random;

/// How the matrices are stored: dtype and columns per scale, 0: none, `u32::MAX`: the whole row.
pub type Stored = (Dtype, u32);

#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub seed: u64,
    pub embed: Stored,
    pub linear: Stored,
    /// Where it differs from `linear`, gate and up are computed apart.
    pub up: Stored,
    pub window: Option<u32>,
    pub kv_cache: CacheForm,
    pub hidden: u32,
    pub intermediate: u32,
    pub head_dim: u32,
    pub context: u32,
    pub max_batch: u32,
    /// Rows in one write.
    pub rows_per_write: u32,
}

impl Model {
    pub fn shape(&self) -> DecoderShape {
        let head_dim = self.head_dim;
        DecoderShape {
            hidden: self.hidden,
            intermediate: self.intermediate,
            layers: 2,
            heads: 6,
            kv_heads: 2,
            head_dim,
            vocab: 101,
            norm_epsilon: 1e-5,
            window: self.window,
            context: self.context,
            max_batch: self.max_batch,
            inv_freq: (0..head_dim / 2).map(|i| 100_f32.powf(-2.0 * i as f32 / head_dim as f32)).collect(),
            rope_scale: 1.0,
            kv_cache: self.kv_cache,
        }
    }

    /// A decoder on `backend`, ready to run.
    pub fn decoder<B: Steps>(&self, mut backend: B) -> Decoder<B> {
        let weights = self.weights(&mut backend).unwrap();
        plan(&mut backend, &weights).unwrap();
        backend.compile();
        pollster::block_on(async {
            backend.allocated().await.unwrap();
            backend.flush().await.unwrap();
            backend.compiled(&mut |_, _| ()).await.unwrap();
        });
        let shape = self.shape();
        Decoder::new(backend, weights, KvCache::new(shape.cache_slots(), shape.window), shape.max_batch)
    }

    /// Uploads the weights that follow from the seed.
    pub fn weights<B: Steps>(&self, b: &mut B) -> Result<Weights<B>, B::Error> {
        let random = &mut Random::new(self.seed);
        let s = self.shape();
        let embed = self.matrix(b, random, self.embed, s.vocab, s.hidden)?;
        let mut layers = Vec::new();
        for _ in 0..s.layers {
            layers.push(LayerWeights {
                input_norm: norm(b, random, s.hidden)?,
                qkv: self.qkv(b, random)?,
                output: self.matrix(b, random, self.linear, s.hidden, s.q_width())?,
                post_norm: norm(b, random, s.hidden)?,
                gate: self.matrix(b, random, self.linear, s.intermediate, s.hidden)?,
                up: self.matrix(b, random, self.up, s.intermediate, s.hidden)?,
                down: self.matrix(b, random, self.linear, s.hidden, s.intermediate)?,
            });
        }
        let norm = norm(b, random, s.hidden)?;
        let lm_head = Some(self.matrix(b, random, self.embed, s.vocab, s.hidden)?);
        Ok(Weights { embed, layers, norm, lm_head })
    }

    /// In parts where the dtypes are mixed.
    fn qkv<B: Steps>(&self, b: &mut B, random: &mut Random) -> Result<Vec<(u32, B::Matrix)>, B::Error> {
        let s = self.shape();
        if self.up == self.linear {
            return Ok(vec![(0, self.matrix(b, random, self.linear, s.qkv_width(), s.hidden)?)]);
        }
        let q = self.matrix(b, random, self.linear, s.q_width(), s.hidden)?;
        let k = self.matrix(b, random, self.up, s.kv_width(), s.hidden)?;
        let v = self.matrix(b, random, (Dtype::Bf16, 0), s.kv_width(), s.hidden)?;
        Ok(vec![(0, q), (s.q_width(), k), (s.q_width() + s.kv_width(), v)])
    }

    fn matrix<B: Steps>(
        &self,
        b: &mut B,
        random: &mut Random,
        (dtype, scale_cols): Stored,
        rows: u32,
        cols: u32,
    ) -> Result<B::Matrix, B::Error> {
        let scale_cols = scale_cols.min(cols);
        let spec = MatrixSpec { label: format!("{rows} x {cols}"), rows, cols, dtype, scale_cols };
        let matrix = b.matrix(&spec)?;
        let blocks = if scale_cols == 0 { 0 } else { cols.div_ceil(scale_cols) };
        let mut first = 0;
        while first < rows {
            let count = self.rows_per_write.min(rows - first);
            // Products of about the size of what they multiply.
            let size = if blocks == 0 { 2.0 / (cols as f32).sqrt() } else { 1.0 };
            let values: Vec<f32> = random_rows(random, count, cols, cols).iter().map(|w| w * size).collect();
            let mut bytes = Vec::new();
            narrow(dtype, &values, &mut bytes).unwrap();
            b.write_rows(&matrix, first, &bytes)?;
            first += count;
        }
        // Apart from the rows, so that the numbers do not depend on rows_per_write.
        let scale = 2.0 / (cols as f32).sqrt();
        let scales: Vec<f32> = (0..rows * blocks).map(|_| (1.0 + 0.5 * random.weight()) * scale).collect();
        if blocks > 0 {
            for (index, scales) in scales.chunks((self.rows_per_write * blocks) as usize).enumerate() {
                b.write_scales(&matrix, index as u32 * self.rows_per_write, scales)?;
            }
        }
        Ok(matrix)
    }
}

fn norm<B: Steps>(b: &mut B, random: &mut Random, width: u32) -> Result<B::Vector, B::Error> {
    let vector = b.vector("norm", width)?;
    let values: Vec<f32> = (0..width).map(|_| 1.0 + 0.3 * random.weight()).collect();
    b.write_vector(&vector, &values)?;
    Ok(vector)
}

/// Random token ids.
pub fn ids(seed: u64, count: u32) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.below(101) as u32).collect()
}

/// Begins a sequence with `prompt`, cut into passes of these lengths, then decodes `rest` token by
/// token. The logits after the prompt and after each of the tokens.
pub fn logits<B: Steps>(
    decoder: &mut Decoder<B>,
    prompt: &[u32],
    cuts: &[usize],
    rest: &[u32],
) -> Vec<Vec<f32>> {
    assert_eq!(cuts.iter().sum::<usize>(), prompt.len());
    decoder.reset();
    let mut left = prompt;
    let mut all = Vec::new();
    for cut in cuts {
        let (ids, after) = left.split_at(*cut);
        left = after;
        all.extend(pollster::block_on(decoder.forward(ids, true, after.is_empty())).unwrap());
    }
    for id in rest {
        all.extend(pollster::block_on(decoder.forward(&[*id], false, true)).unwrap());
    }
    assert_eq!(all.len(), rest.len() + 1);
    all
}
