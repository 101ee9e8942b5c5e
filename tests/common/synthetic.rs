//! A Mistral checkpoint of any size that is computed, never stored: what bounded memory and large
//! offsets are measured against. The bytes are those that tests/browser/synthetic.js defines, so
//! that tests/seven_billion_reference.py knows the logits.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use bise::checkpoint::writer::{Plan, TensorSpec, distribute};
use bise::checkpoint::{ByteSource, ByteStream, Header, Opened, SourceError, TensorInfo};
use bise::dtype::Dtype;

/// How linear weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// F8_E4M3 with a BF16 scale per row, as compressed-tensors has them.
    Fp8,
    Bf16,
}

/// What a tensor is filled with; matrices with exponents that are larger by that much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Codes,
    Wide(u32),
    Scales(u32),
    Vector,
    Zeros,
}

/// The checkpoint: config.json, index and shards.
#[derive(Clone)]
pub struct SyntheticSource {
    config_json: String,
    plan: Rc<Plan>,
    fills: Rc<HashMap<String, Fill>>,
    /// Bytes per piece.
    pub piece_bytes: u64,
    /// Bytes handed out so far.
    pub served_bytes: Rc<Cell<u64>>,
}

impl SyntheticSource {
    /// A BF16 checkpoint of that config in that many shards of about equal size.
    pub fn new(config_json: &str, shards: usize) -> SyntheticSource {
        let (tensors, fills) = mistral_tensors(config_json, Layout::Bf16);
        let bytes = |t: &TensorSpec| t.shape.iter().product::<u64>() * t.dtype.size_bytes();
        let total: u64 = tensors.iter().map(bytes).sum();
        let mut groups = vec![Vec::new(); shards];
        let mut before = 0;
        for tensor in tensors {
            let group = (before * shards as u64 / total.max(1)) as usize;
            before += bytes(&tensor);
            groups[group.min(shards - 1)].push(tensor);
        }
        SyntheticSource::of(config_json.to_owned(), groups, fills)
    }

    /// A checkpoint in shards of that many bytes of data at most.
    pub fn with_layout(config_json: &str, layout: Layout, shard_bytes: u64) -> SyntheticSource {
        let (tensors, fills) = mistral_tensors(config_json, layout);
        let mut config: serde_json::Value = serde_json::from_str(config_json).unwrap();
        if layout == Layout::Fp8 {
            config["quantization_config"] = serde_json::json!({
                "quant_method": "compressed-tensors", "format": "naive-quantized", "ignore": ["lm_head"],
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
                    "num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel", "dynamic": false
                }}}
            });
        }
        SyntheticSource::of(config.to_string(), distribute(tensors, shard_bytes).unwrap(), fills)
    }

    fn of(
        config_json: String,
        shards: Vec<Vec<TensorSpec>>,
        fills: HashMap<String, Fill>,
    ) -> SyntheticSource {
        SyntheticSource {
            config_json,
            plan: Rc::new(Plan::from_shards(shards).unwrap()),
            fills: Rc::new(fills),
            piece_bytes: 256 << 10,
            served_bytes: Rc::default(),
        }
    }

    /// The same with a tensor of `rows` KiB of zeros, which no decoder reads, at the start of the
    /// first shard.
    pub fn with_filler(self, rows: u64) -> SyntheticSource {
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
        let spec =
            |t: &TensorInfo| TensorSpec { name: t.name.clone(), dtype: t.dtype, shape: t.shape.clone() };
        let shard =
            |shard: &bise::checkpoint::writer::PlannedShard| shard.header.tensors.iter().map(spec).collect();
        let mut shards: Vec<Vec<TensorSpec>> = self.plan.shards.iter().map(shard).collect();
        // Of the widest type, so that it comes first.
        shards[0].push(TensorSpec { name: name.into(), dtype: Dtype::F64, shape: vec![rows, 128] });
        let mut fills = (*self.fills).clone();
        fills.insert(name.into(), Fill::Zeros);
        SyntheticSource::of(self.config_json, shards, fills)
    }

    /// Size of all tensors together, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.plan.total_bytes()
    }

    /// The bytes of a tensor at `range`, as the streams serve them.
    pub fn tensor_bytes(&self, info: &TensorInfo, range: Range<u64>) -> Vec<u8> {
        let mut out = Vec::with_capacity((range.end - range.start) as usize);
        append(info, self.fills[&info.name], range, &mut out);
        out
    }
}

/// Names and shapes as transformers saves them.
fn mistral_tensors(config_json: &str, layout: Layout) -> (Vec<TensorSpec>, HashMap<String, Fill>) {
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
    let mut fills = HashMap::new();
    let mut add = |name: String, shape: &[u64], linear: bool| {
        let shift = shift_for(shape[shape.len() - 1]);
        let mut push = |name: String, dtype, shape: &[u64], fill| {
            fills.insert(name.clone(), fill);
            tensors.push(TensorSpec { name, dtype, shape: shape.to_vec() });
        };
        match (shape, linear && layout == Layout::Fp8) {
            ([rows, _], true) => {
                push(format!("{name}.weight"), Dtype::F8E4m3, shape, Fill::Codes);
                push(format!("{name}.weight_scale"), Dtype::Bf16, &[*rows, 1], Fill::Scales(shift));
            }
            ([_, _], false) => push(format!("{name}.weight"), Dtype::Bf16, shape, Fill::Wide(shift)),
            _ => push(format!("{name}.weight"), Dtype::Bf16, shape, Fill::Vector),
        }
    };
    add("model.embed_tokens".into(), &[vocab, hidden], false);
    for layer in 0..number("num_hidden_layers").unwrap() {
        let mut add = |name: &str, shape: &[u64]| add(format!("model.layers.{layer}.{name}"), shape, true);
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
    add("model.norm".into(), &[hidden], false);
    if config["tie_word_embeddings"] != true {
        add("lm_head".into(), &[vocab, hidden], false);
    }
    (tensors, fills)
}

fn shift_for(cols: u64) -> u32 {
    12u32.saturating_sub(cols.ilog2()) / 2
}

fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

fn seed(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Appends a tensor's bytes at `range`.
fn append(info: &TensorInfo, fill: Fill, range: Range<u64>, out: &mut Vec<u8>) {
    if fill == Fill::Zeros {
        out.resize(out.len() + (range.end - range.start) as usize, 0);
        return;
    }
    let matrix = matches!(fill, Fill::Codes | Fill::Wide(_));
    let row_bytes = if matrix { info.row_bytes() } else { info.bytes() };
    let per_row = row_bytes.div_ceil(4); // only a single row may end inside a word
    let seed = seed(&info.name);
    let mut at = range.start;
    while at < range.end {
        let row = at / 4 / per_row;
        let key = mix(mix(row as u32).wrapping_add(seed));
        let row_start = row * per_row * 4;
        let end = range.end.min(row_start + per_row * 4);
        let words = (at - row_start) / 4..(end - row_start).div_ceil(4);
        let begin = out.len();
        match fill {
            Fill::Codes => append_row(key, words, out, |word| {
                let nan = ((word & 0x7f7f_7f7f) + 0x0101_0101) & 0x8080_8080;
                word ^ (nan >> 7)
            }),
            Fill::Wide(shift) => {
                let (cap, base) = (128 + (key & 127), 0x3c00 + (shift << 7));
                append_row(key, words, out, |word| {
                    let low = (((word & 0xff) * cap) >> 8) + base;
                    let high = ((((word >> 16) & 0xff) * cap) >> 8) + base;
                    (word & 0x8000_8000) | low | (high << 16)
                })
            }
            Fill::Scales(shift) => {
                append_row(key, words, out, |word| (word & 0x007f_007f) + (0x3900 + (shift << 7)) * 0x1_0001)
            }
            Fill::Vector | Fill::Zeros => {
                append_row(key, words, out, |word| (word & 0x007f_007f) | 0x3f00_3f00)
            }
        }
        let skipped = ((at - row_start) % 4) as usize;
        if skipped > 0 {
            out.drain(begin..begin + skipped);
        }
        out.truncate(begin + (end - at) as usize);
        at = end;
    }
}

/// Appends words of one row.
fn append_row(key: u32, words: Range<u64>, out: &mut Vec<u8>, weight: impl Fn(u32) -> u32) {
    let from = key.wrapping_add(words.start as u32);
    let begin = out.len();
    out.resize(begin + (words.end - words.start) as usize * 4, 0);
    for (word, index) in out[begin..].as_chunks_mut::<4>().0.iter_mut().zip(0u32..) {
        *word = weight(mix(from.wrapping_add(index))).to_le_bytes();
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
            fills: self.fills.clone(),
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
    fills: Rc<HashMap<String, Fill>>,
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
            append(info, self.fills[&info.name], within.start - start..within.end - start, &mut piece);
            self.at = within.end;
        }
        Ok(Some(piece))
    }
}
