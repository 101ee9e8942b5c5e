//! Small checkpoints in memory, and their tensors as numbers: nothing here uses bise's own codecs.

use std::collections::BTreeMap;

use bise::checkpoint::sink::{ByteSink, MemorySink};
use bise::checkpoint::source::MemorySource;
use bise::checkpoint::writer::{Plan, TensorSpec};
use bise::dtype::Dtype;
use half::{bf16, f16};
use pollster::block_on;
use serde_json::{Value, json};

use crate::common::Random;

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Tensors by name: dtype, shape, bytes.
pub type Tensors = BTreeMap<String, (Dtype, Vec<u64>, Vec<u8>)>;

/// A Mistral of a few hundred weights. Siblings are made from the same numbers plus noise of their
/// own, so that some pairs of tensors are nearly parallel and others are not.
#[derive(Clone, Debug)]
pub struct Maker {
    pub seed: u64,
    pub layers: u64,
    pub hidden: u64,
    pub vocab: u64,
    pub dtype: Dtype,
    pub tied: bool,
    /// Share of noise in even layers; a tenth of a percent of it in odd ones.
    pub noise: f32,
}

impl Default for Maker {
    fn default() -> Maker {
        Maker { seed: 1, layers: 2, hidden: 8, vocab: 11, dtype: Dtype::Bf16, tied: false, noise: 0.5 }
    }
}

impl Maker {
    pub fn config(&self) -> Value {
        let dtype = match self.dtype {
            Dtype::F16 => "float16",
            Dtype::F32 => "float32",
            _ => "bfloat16",
        };
        json!({
            "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": self.hidden,
            "intermediate_size": self.hidden + 4, "num_hidden_layers": self.layers, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 4, "vocab_size": self.vocab, "tie_word_embeddings": self.tied,
            "torch_dtype": dtype
        })
    }

    pub fn tensors(&self) -> Tensors {
        let (hidden, wide) = (self.hidden, self.hidden + 4);
        let mut tensors = Tensors::new();
        let mut add = |name: String, shape: &[u64], noise: f32| {
            let name = format!("{name}.weight");
            let common = values(&name, 0, shape);
            let own = values(&name, self.seed, shape);
            let mixed =
                common.iter().zip(own).map(|(c, o)| c * (1.0 - noise) + o * noise).collect::<Vec<_>>();
            tensors.insert(name, (self.dtype, shape.to_vec(), encode(self.dtype, &mixed)));
        };
        add("model.embed_tokens".into(), &[self.vocab, hidden], self.noise);
        for layer in 0..self.layers {
            let noise = if layer % 2 == 0 { self.noise } else { self.noise * 1e-3 };
            let mut add =
                |part: &str, shape: &[u64]| add(format!("model.layers.{layer}.{part}"), shape, noise);
            add("input_layernorm", &[hidden]);
            add("self_attn.q_proj", &[8, hidden]);
            add("self_attn.k_proj", &[4, hidden]);
            add("self_attn.v_proj", &[4, hidden]);
            add("self_attn.o_proj", &[hidden, 8]);
            add("post_attention_layernorm", &[hidden]);
            add("mlp.gate_proj", &[wide, hidden]);
            add("mlp.up_proj", &[wide, hidden]);
            add("mlp.down_proj", &[hidden, wide]);
        }
        add("model.norm".into(), &[hidden], self.noise);
        if !self.tied {
            add("lm_head".into(), &[self.vocab, hidden], self.noise);
        }
        tensors
    }

    pub fn files(&self) -> Files {
        checkpoint(&self.config(), &self.tensors())
    }
}

/// Numbers in [-1, 1) that follow from name and seed.
fn values(name: &str, seed: u64, shape: &[u64]) -> Vec<f32> {
    let hash = name.bytes().fold(seed, |hash, byte| hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
    let mut random = Random::new(hash);
    (0..shape.iter().product()).map(|_| random.weight()).collect()
}

/// config.json and one weight file.
pub fn checkpoint(config: &Value, tensors: &Tensors) -> Files {
    let spec = |(name, (dtype, shape, _)): (&String, &(Dtype, Vec<u64>, Vec<u8>))| TensorSpec {
        name: name.clone(),
        dtype: *dtype,
        shape: shape.clone(),
    };
    let plan = Plan::new(tensors.iter().map(spec).collect(), u64::MAX).unwrap();
    let mut sink = MemorySink::default();
    block_on(async {
        for shard in &plan.shards {
            sink.create(&shard.file, shard.header.file_bytes()).await.unwrap();
            sink.write(&shard.head).await.unwrap();
            for info in &shard.header.tensors {
                sink.write(&tensors[&info.name].2).await.unwrap();
            }
            sink.finish().await.unwrap();
        }
    });
    sink.files.insert("config.json".into(), config.to_string().into_bytes());
    sink.files
}

/// The tensors of a checkpoint in memory.
pub fn decode(files: &Files) -> Tensors {
    let manifest = block_on(bise::checkpoint::Manifest::read(&MemorySource::new(files.clone()))).unwrap();
    let bytes = super::support::tensors(files);
    let mut tensors = Tensors::new();
    for (_, info) in manifest.tensors() {
        let value = (info.dtype, info.shape.clone(), bytes[&info.name].clone());
        tensors.insert(info.name.clone(), value);
    }
    tensors
}

/// Values of a tensor in a wide type.
pub fn numbers((dtype, _, bytes): &(Dtype, Vec<u64>, Vec<u8>)) -> Vec<f32> {
    match dtype {
        Dtype::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        other => panic!("{other} is not wide"),
    }
}

pub fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
        other => panic!("{other} is not wide"),
    }
}

/// Rounds to a type and back.
pub fn round(dtype: Dtype, value: f32) -> f32 {
    match dtype {
        Dtype::Bf16 => bf16::from_f32(value).to_f32(),
        Dtype::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    }
}
