//! A Mistral checkpoint of any size that is computed, never stored: what bounded memory is
//! measured against. Every byte is a function of the tensor's name and the place in it.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::rc::Rc;

use bise::checkpoint::writer::{Plan, TensorSpec};
use bise::checkpoint::{ByteSource, ByteStream, Header, Opened, SourceError, TensorInfo};
use bise::dtype::Dtype;

/// The checkpoint: config.json, index and BF16 shards. Matrices hold values of magnitude 2^-7 to
/// 2^-5 of either sign, vectors values in [1, 2).
#[derive(Clone)]
pub struct SyntheticSource {
    config_json: String,
    plan: Rc<Plan>,
    /// Bytes per piece.
    pub piece_bytes: u64,
    /// Bytes handed out so far.
    pub served_bytes: Rc<Cell<u64>>,
}

impl SyntheticSource {
    /// A checkpoint of that config in that many shards of about equal size.
    pub fn new(config_json: &str, shards: usize) -> SyntheticSource {
        let tensors = mistral_tensors(config_json);
        let bytes = |t: &TensorSpec| t.shape.iter().product::<u64>() * t.dtype.size_bytes();
        let total: u64 = tensors.iter().map(bytes).sum();
        let mut groups = vec![Vec::new(); shards];
        let mut before = 0;
        for tensor in tensors {
            let group = (before * shards as u64 / total.max(1)) as usize;
            before += bytes(&tensor);
            groups[group.min(shards - 1)].push(tensor);
        }
        SyntheticSource {
            config_json: config_json.to_owned(),
            plan: Rc::new(Plan::from_shards(groups).unwrap()),
            piece_bytes: 256 << 10,
            served_bytes: Rc::default(),
        }
    }

    /// Size of all tensors together, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.plan.total_bytes()
    }

    /// The bytes of a tensor at `range`, as the streams serve them.
    pub fn tensor_bytes(info: &TensorInfo, range: Range<u64>) -> Vec<u8> {
        let mut out = Vec::with_capacity((range.end - range.start) as usize);
        append(info, seed(info), range, &mut out);
        out
    }
}

/// Names and shapes as transformers saves them.
fn mistral_tensors(config_json: &str) -> Vec<TensorSpec> {
    let config: serde_json::Value = serde_json::from_str(config_json).unwrap();
    let number = |key: &str| config[key].as_u64();
    let hidden = number("hidden_size").unwrap();
    let intermediate = number("intermediate_size").unwrap();
    let heads = number("num_attention_heads").unwrap();
    let head_dim = number("head_dim").unwrap_or(hidden / heads);
    let kv_width = number("num_key_value_heads").unwrap_or(8) * head_dim;
    let q_width = heads * head_dim;
    let vocab = number("vocab_size").unwrap();
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[u64]| {
        tensors.push(TensorSpec {
            name: format!("{name}.weight"),
            dtype: Dtype::Bf16,
            shape: shape.to_vec(),
        });
    };
    add("model.embed_tokens".into(), &[vocab, hidden]);
    for layer in 0..number("num_hidden_layers").unwrap() {
        let mut add = |name: &str, shape: &[u64]| add(format!("model.layers.{layer}.{name}"), shape);
        add("input_layernorm", &[hidden]);
        add("self_attn.q_proj", &[q_width, hidden]);
        add("self_attn.k_proj", &[kv_width, hidden]);
        add("self_attn.v_proj", &[kv_width, hidden]);
        add("self_attn.o_proj", &[hidden, q_width]);
        add("post_attention_layernorm", &[hidden]);
        add("mlp.gate_proj", &[intermediate, hidden]);
        add("mlp.up_proj", &[intermediate, hidden]);
        add("mlp.down_proj", &[hidden, intermediate]);
    }
    add("model.norm".into(), &[hidden]);
    if config["tie_word_embeddings"] != true {
        add("lm_head".into(), &[vocab, hidden]);
    }
    tensors
}

fn seed(info: &TensorInfo) -> u64 {
    let mut hasher = DefaultHasher::new();
    info.name.hash(&mut hasher);
    hasher.finish()
}

/// Appends a tensor's bytes at `range`: four BF16 per hashed word.
fn append(info: &TensorInfo, seed: u64, range: Range<u64>, out: &mut Vec<u8>) {
    let (kept, set) = if info.shape.len() == 1 {
        (0x007f_007f_007f_007f, 0x3f80_3f80_3f80_3f80)
    } else {
        (0x80ff_80ff_80ff_80ff, 0x3c00_3c00_3c00_3c00)
    };
    for word in range.start / 8..range.end.div_ceil(8) {
        let z = (seed ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bytes = ((z ^ (z >> 32)) & kept | set).to_le_bytes();
        let from = range.start.saturating_sub(word * 8).min(8) as usize;
        let to = (range.end - word * 8).min(8) as usize;
        out.extend_from_slice(&bytes[from..to]);
    }
}

impl ByteSource for SyntheticSource {
    type Stream = SyntheticStream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<Self::Stream>, SourceError> {
        let index = self.plan.index_json().filter(|_| file == "model.safetensors.index.json");
        let text = if file == "config.json" { Some(self.config_json.clone()) } else { index };
        let shard = self.plan.shards.iter().find(|shard| shard.file == file);
        let (head, header) = match (text, shard) {
            (Some(text), _) => {
                let header = Header { data_start: text.len() as u64, ..Header::default() };
                (text.into_bytes(), header)
            }
            (None, Some(shard)) => (shard.head.clone(), shard.header.clone()),
            (None, None) => return Err(SourceError::NotFound { file: file.to_owned() }),
        };
        let length = header.file_bytes();
        let range = range.unwrap_or(0..length);
        let end = range.end.min(length);
        let stream = SyntheticStream {
            head,
            header,
            at: range.start.min(end),
            end,
            piece_bytes: self.piece_bytes,
            served_bytes: self.served_bytes.clone(),
        };
        Ok(Opened::new(stream, Some(length)))
    }
}

/// A range of one file.
pub struct SyntheticStream {
    head: Vec<u8>,
    header: Header,
    at: u64,
    end: u64,
    piece_bytes: u64,
    served_bytes: Rc<Cell<u64>>,
}

impl ByteStream for SyntheticStream {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let end = self.end.min(self.at + self.piece_bytes);
        if self.at == end {
            return Ok(None);
        }
        let mut piece = Vec::with_capacity((end - self.at) as usize);
        self.served_bytes.set(self.served_bytes.get() + end - self.at);
        let data_start = self.header.data_start;
        if self.at < data_start {
            let head_end = end.min(data_start);
            piece.extend_from_slice(&self.head[self.at as usize..head_end as usize]);
            self.at = head_end;
        }
        let tensors = &self.header.tensors;
        let first = tensors.partition_point(|t| data_start + t.end <= self.at);
        for info in &tensors[first..] {
            let within = self.at.max(data_start + info.begin)..end.min(data_start + info.end);
            if within.start >= within.end {
                break;
            }
            let start = data_start + info.begin;
            append(info, seed(info), within.start - start..within.end - start, &mut piece);
            self.at = within.end;
        }
        Ok(Some(piece))
    }
}
