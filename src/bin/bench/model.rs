//! What is timed, and its validation against the plain-Rust reference.

use std::error::Error;
use std::path::PathBuf;

use bise::checkpoint::Manifest;
use bise::checkpoint::source::{FileSource, read_all};
use bise::dtype::Dtype;
use bise::engine::fill::Target;
use bise::engine::{Kept, WeightMode};
use bise::gpu::Gpu;
use bise::kernels::WebGpu;
use bise::model::config::CONFIG_FILE;
use bise::model::rope::{RopeScaling, inv_freq};
use bise::model::weights::LayerWeights;
use bise::model::{Config, Decoder, KvCache, Precision, WeightPlan, Weights, decoder};
use bise::reference::Reference;
use bise::steps::{DecoderShape, MatrixSpec, Steps, Store};

use super::ids;
use crate::run::{gpu_options, source};

/// Where a model comes from.
pub enum Origin {
    /// A checkpoint.
    Directory(PathBuf),
    /// Layers of Mistral 7B's shape with random weights.
    Mistral7b {
        /// How many.
        layers: u32,
    },
}

/// How far logits may be from the reference's, of the largest: keys and values are rounded to f16.
const TOLERANCE: f32 = 5e-3;

/// Tokens of the prompt that is compared, and tokens decoded behind it.
const COMPARED: [u32; 2] = [12, 3];

/// A model on the device.
pub struct Loaded {
    /// Ready to run.
    pub decoder: Decoder<WebGpu>,
    /// Its sizes.
    pub shape: DecoderShape,
    /// Every matrix that a token is multiplied with, the head last.
    pub matrices: Vec<MatrixSpec>,
}

impl Loaded {
    /// Loads it with room for `context` positions, where the model has so many.
    pub async fn open(origin: &Origin, weights: WeightMode, context: u32) -> Result<Loaded, Box<dyn Error>> {
        let gpu = Gpu::open(&gpu_options()?).await?;
        let mut shape = origin.shape(context).await?;
        shape.max_batch = WebGpu::max_batch(gpu.tier(), &shape);
        let backend = WebGpu::new(gpu, shape.clone()).await?;
        let (decoder, matrices) = origin.load(backend, &shape, weights).await?;
        Ok(Loaded { decoder, shape, matrices })
    }

    /// Compares logits after a prompt and after each decoded token with the reference; returns the
    /// largest deviation, of the largest logit.
    pub async fn validate(&mut self, origin: &Origin, weights: WeightMode) -> Result<f32, Box<dyn Error>> {
        let [prompt, rest] = COMPARED;
        let mut shape = self.shape.clone();
        (shape.context, shape.max_batch) = (prompt + rest, prompt);
        let (mut reference, _) = origin.load(Reference::new(shape), &self.shape, weights).await?;
        let ids = ids(&self.shape, prompt + rest);
        let (prompt, rest) = ids.split_at(prompt as usize);
        self.decoder.reset();
        let mut worst = 0.0_f32;
        let passes = std::iter::once((prompt, true)).chain(rest.chunks(1).map(|id| (id, false)));
        for (ids, is_prompt) in passes {
            let got = self.decoder.forward(ids, is_prompt, true).await?.unwrap_or_default();
            let want = reference.forward(ids, is_prompt, true).await?.unwrap_or_default();
            let largest = want.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            let off = got.iter().zip(&want).fold(0.0_f32, |most, (g, w)| most.max((g - w).abs()));
            // Anything that is not a number is no result either.
            if got.len() != want.len() || largest == 0.0 || !got.iter().all(|v| v.is_finite()) {
                return Err("the adapter's logits are no numbers, or too few".into());
            }
            worst = worst.max(off / largest);
        }
        if worst > TOLERANCE {
            return Err(format!("the adapter's logits are {worst} off the reference's; {TOLERANCE} are allowed: nothing was timed").into());
        }
        Ok(worst)
    }
}

impl Origin {
    async fn shape(&self, context: u32) -> Result<DecoderShape, Box<dyn Error>> {
        match self {
            Origin::Directory(directory) => {
                let (config, _) = config(&source(directory)?).await?;
                Ok(config.shape(context.min(config.max_positions)))
            }
            Origin::Mistral7b { layers } => Ok(DecoderShape {
                hidden: 4096,
                intermediate: 14_336,
                layers: *layers,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                vocab: 8192,
                norm_epsilon: 1e-5,
                window: None,
                context,
                max_batch: 1,
                inv_freq: inv_freq(128, 10_000.0, RopeScaling::Default),
                rope_scale: 1.0,
            }),
        }
    }

    async fn load<B: Steps>(
        &self,
        mut backend: B,
        shape: &DecoderShape,
        mode: WeightMode,
    ) -> Result<(Decoder<B>, Vec<MatrixSpec>), Box<dyn Error>> {
        let (weights, matrices) = match self {
            Origin::Directory(directory) => {
                let source = source(directory)?;
                let (config, json) = config(&source).await?;
                let manifest = Manifest::read(&source).await?;
                let precision = match mode {
                    WeightMode::Checkpoint => Precision::Checkpoint,
                    WeightMode::Auto | WeightMode::F8 => Precision::F8,
                    WeightMode::I8 => Precision::I8,
                };
                let plan = WeightPlan::new(&config, &json, &manifest, precision)?;
                let weights = Weights::allocate(&plan, &mut backend)?;
                let mut target = Target { plan: &plan, weights: &weights, backend: &mut backend };
                Kept::nothing().fill(&source, &manifest, &mut target, &|| false, &mut |_| ()).await?;
                (weights, plan.products())
            }
            Origin::Mistral7b { .. } => random_weights(shape, &mut backend).await?,
        };
        decoder::plan(&mut backend, &weights)?;
        backend.compile();
        backend.compiled(&mut |_, _| ()).await?;
        backend.allocated().await?;
        backend.flush().await?;
        let cache = KvCache::new(shape.cache_slots(), shape.window);
        Ok((Decoder::new(backend, weights, cache, shape.max_batch), matrices))
    }
}

async fn config(source: &FileSource) -> Result<(Config, serde_json::Value), Box<dyn Error>> {
    let bytes = read_all(source, CONFIG_FILE, None, 2 << 20).await?;
    Ok((Config::parse(&bytes)?, serde_json::from_slice(&bytes)?))
}

/// FP8 weights with one scale per row, of a size that keeps activations at about theirs.
async fn random_weights<B: Steps>(
    s: &DecoderShape,
    b: &mut B,
) -> Result<(Weights<B>, Vec<MatrixSpec>), Box<dyn Error>> {
    let mut random = 1_u64;
    let mut specs = Vec::new();
    let embed = random_matrix(b, &mut random, [s.vocab, s.hidden], Dtype::Bf16).await?.0;
    let mut layers = Vec::new();
    for _ in 0..s.layers {
        let mut matrix = Vec::new();
        for size in [
            [s.qkv_width(), s.hidden],
            [s.hidden, s.q_width()],
            [s.intermediate, s.hidden],
            [s.intermediate, s.hidden],
            [s.hidden, s.intermediate],
        ] {
            let (made, spec) = random_matrix(b, &mut random, size, Dtype::F8E4m3).await?;
            matrix.push(made);
            specs.push(spec);
        }
        let made: Result<[B::Matrix; 5], _> = matrix.try_into();
        let Ok([qkv, output, gate, up, down]) = made else { return Err("a layer has five matrices".into()) };
        let (input_norm, post_norm) = (ones(b, s.hidden)?, ones(b, s.hidden)?);
        layers.push(LayerWeights { input_norm, qkv: vec![(0, qkv)], output, post_norm, gate, up, down });
    }
    let norm = ones(b, s.hidden)?;
    let (head, spec) = random_matrix(b, &mut random, [s.vocab, s.hidden], Dtype::F8E4m3).await?;
    specs.push(spec);
    Ok((Weights { embed, layers, norm, lm_head: Some(head) }, specs))
}

fn ones<B: Store>(b: &mut B, len: u32) -> Result<B::Vector, B::Error> {
    let vector = b.vector("norm", len)?;
    b.write_vector(&vector, &vec![1.0; len as usize])?;
    Ok(vector)
}

async fn random_matrix<B: Store>(
    b: &mut B,
    random: &mut u64,
    [rows, cols]: [u32; 2],
    dtype: Dtype,
) -> Result<(B::Matrix, MatrixSpec), Box<dyn Error>> {
    let f8 = dtype == Dtype::F8E4m3;
    let spec = MatrixSpec {
        label: format!("{rows} x {cols}"),
        rows,
        cols,
        dtype,
        scale_cols: if f8 { cols } else { 0 },
    };
    let matrix = b.matrix(&spec)?;
    let mut bytes = vec![0; cols as usize * dtype.size_bytes() as usize];
    for row in 0..rows {
        fill(&mut bytes, random, dtype);
        b.write_rows(&matrix, row, &bytes)?;
        if row % 256 == 0 {
            b.relieve().await?;
        }
    }
    if f8 {
        // Codes are mostly near 1.
        b.write_scales(&matrix, 0, &vec![0.5 / (cols as f32).sqrt(); rows as usize])?;
    }
    Ok((matrix, spec))
}

/// Random weights between -2 and 2, all finite.
pub fn fill(bytes: &mut [u8], random: &mut u64, dtype: Dtype) {
    for word in bytes.chunks_mut(8) {
        // xorshift64
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        for (index, (to, from)) in word.iter_mut().zip(random.to_le_bytes()).enumerate() {
            *to = match dtype {
                // E4M3: 0x38 is 1, 0x3f 1.875.
                Dtype::F8E4m3 => from & 0x87 | 0x38,
                Dtype::Bf16 if index % 2 == 1 => from & 0x80 | 0x3e,
                _ => from,
            };
        }
    }
}
