//! `tale` in every FP8 checkpoint format, and the wide checkpoint that each stands for. Codes are
//! decoded here by the formats' definitions, not by the crate.

use std::collections::BTreeMap;

use bise::checkpoint::Manifest;
use bise::checkpoint::source::{FileSource, MemorySource};
use bise::dtype::{Dtype, narrow};
use pollster::block_on;
use serde_json::{Value, json};

/// How many weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// All; the scale has this shape.
    Tensor(&'static [u64]),
    /// A row's; whether the scale is `[out, 1]` or `[out]`.
    Row(bool),
    /// Those of a block.
    Block(u64, u64),
    /// A raw cast: no scale.
    Cast,
}

/// How one FP8 weight is stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub dtype: Dtype,
    pub share: Share,
    pub scale_dtype: Dtype,
    /// Behind `.weight` in the scale's name.
    pub suffix: &'static str,
}

const fn stored(share: Share, scale_dtype: Dtype, suffix: &'static str) -> Stored {
    Stored { dtype: Dtype::F8E4m3, share, scale_dtype, suffix }
}

pub struct Layout {
    pub name: &'static str,
    /// `quantization_config`, null for raw casts.
    pub config: Value,
    /// `None`: left as it is.
    pub of: fn(&str) -> Option<Stored>,
    /// Beside each FP8 weight: tensors that weight-only execution has no use for.
    pub extra: &'static [&'static str],
    pub tied: bool,
    /// Whether scales lie in the first file and weights behind them, or the other way round.
    pub scales_first: bool,
}

fn is_linear(name: &str) -> bool {
    name.contains("_proj.")
}

fn compressed(strategy: &str, format: &str, block: Option<[u64; 2]>) -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
            "num_bits": 8, "type": "float", "symmetric": true, "strategy": strategy, "block_structure": block,
        }, "input_activations": null}},
    })
}

/// Every format of the table, and mixtures that checkpoints in use have.
pub fn layouts() -> Vec<Layout> {
    const F32: Dtype = Dtype::F32;
    let layout = |name, config, of: fn(&str) -> Option<Stored>| Layout {
        name,
        config,
        of,
        extra: &[],
        tied: false,
        scales_first: false,
    };
    vec![
        Layout {
            extra: &["input_scale"],
            ..layout("compressed-tensors, tensor", compressed("tensor", "float-quantized", None), |name| {
                is_linear(name).then_some(stored(Share::Tensor(&[1]), Dtype::Bf16, "_scale"))
            })
        },
        layout("compressed-tensors, channel", compressed("channel", "naive-quantized", None), |name| {
            is_linear(name).then_some(stored(Share::Row(true), F32, "_scale"))
        }),
        Layout {
            scales_first: true,
            ..layout(
                "compressed-tensors, channel, F16",
                compressed("channel", "float-quantized", None),
                |name| is_linear(name).then_some(stored(Share::Row(true), Dtype::F16, "_scale")),
            )
        },
        Layout {
            scales_first: true,
            ..layout(
                "compressed-tensors, block",
                compressed("block", "float-quantized", Some([128, 128])),
                |name| is_linear(name).then_some(stored(Share::Block(128, 128), Dtype::Bf16, "_scale")),
            )
        },
        // Heights and widths that divide nothing here.
        layout("blocks of 48 x 80", json!({"quant_method": "fp8", "weight_block_size": [48, 80]}), |name| {
            is_linear(name).then_some(stored(Share::Block(48, 80), F32, "_scale_inv"))
        }),
        Layout {
            extra: &["input_scale"],
            ..layout(
                "AutoFP8",
                json!({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}),
                |name| is_linear(name).then_some(stored(Share::Tensor(&[]), F32, "_scale")),
            )
        },
        layout(
            "block FP8",
            json!({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}),
            |name| is_linear(name).then_some(stored(Share::Block(128, 128), F32, "_scale_inv")),
        ),
        Layout {
            extra: &["activation_scale"],
            ..layout(
                "scalar weight_scale_inv",
                json!({"quant_method": "fp8", "weight_block_size": null}),
                |name| is_linear(name).then_some(stored(Share::Tensor(&[]), Dtype::Bf16, "_scale_inv")),
            )
        },
        Layout {
            extra: &["input_scale_ub"],
            ..layout(
                "fbgemm",
                json!({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}),
                |name| is_linear(name).then_some(stored(Share::Row(true), F32, "_scale")),
            )
        },
        Layout {
            extra: &["input_scale", "k_scale", "v_scale"],
            ..layout(
                "ModelOpt",
                json!({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]}),
                |name| is_linear(name).then_some(stored(Share::Tensor(&[]), F32, "_scale")),
            )
        },
        layout("raw E4M3", Value::Null, |name| {
            name.ends_with("_proj.weight").then_some(stored(Share::Cast, F32, ""))
        }),
        layout("raw E5M2, head and embeddings too", Value::Null, |name| {
            let stored = Stored { dtype: Dtype::F8E5m2, ..stored(Share::Cast, F32, "") };
            (!name.contains("norm")).then_some(stored)
        }),
        layout("FP8 head and embeddings", compressed("channel", "float-quantized", None), |name| {
            (!name.contains("norm")).then_some(stored(Share::Row(name.contains("lm_head")), F32, "_scale"))
        }),
        Layout {
            tied: true,
            ..layout(
                "tied FP8 embeddings",
                json!({"quant_method": "fp8", "weight_block_size": [128, 128]}),
                |name| (!name.contains("norm")).then_some(stored(Share::Block(128, 128), F32, "_scale_inv")),
            )
        },
        // An ignore list that names one of three fused projections, and one of two paired ones.
        layout("ignored q and up", compressed("block", "float-quantized", Some([128, 128])), |name| {
            (is_linear(name) && !name.contains("q_proj") && !name.contains("up_proj")).then_some(stored(
                Share::Block(128, 128),
                Dtype::Bf16,
                "_scale",
            ))
        }),
        layout("ignored v", json!({"quant_method": "fp8", "ignored_layers": ["v_proj"]}), |name| {
            (is_linear(name) && !name.contains("v_proj")).then_some(stored(
                Share::Tensor(&[1]),
                F32,
                "_scale",
            ))
        }),
        layout(
            "q, k and v in three formats",
            json!({"quant_method": "fp8", "weight_block_size": [64, 64]}),
            |name| {
                let share = match () {
                    () if name.contains("k_proj") => Share::Block(64, 64),
                    () if name.contains("v_proj") => Share::Tensor(&[1]),
                    () => Share::Row(false),
                };
                let e5m2 = name.contains("q_proj") || name.contains("down_proj");
                let dtype = if e5m2 { Dtype::F8E5m2 } else { Dtype::F8E4m3 };
                is_linear(name).then_some(Stored { dtype, ..stored(share, F32, "_scale") })
            },
        ),
    ]
}

/// The value of an FP8 code, as the formats define it.
pub fn decode(dtype: Dtype, code: u8) -> f32 {
    let (mantissa_bits, bias) = if dtype == Dtype::F8E4m3 { (3, 7) } else { (2, 15) };
    let exponent = i32::from((code & 0x7f) >> mantissa_bits);
    let steps = f32::from(1u8 << mantissa_bits);
    let fraction = f32::from(code & ((1 << mantissa_bits) - 1)) / steps;
    let value = if exponent == 0 {
        fraction * 2f32.powi(1 - bias)
    } else {
        (1.0 + fraction) * 2f32.powi(exponent - bias)
    };
    if code & 0x80 == 0 { value } else { -value }
}

fn largest(dtype: Dtype) -> f32 {
    if dtype == Dtype::F8E4m3 { 448.0 } else { 57344.0 }
}

/// What of the device's memory the weights of a layout take: bytes of codes or wide values, and scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub weights: u64,
    pub scales: u64,
    /// Matrices and vectors, each of which may be padded.
    pub tensors: u64,
}

pub struct Made {
    pub fp8: MemorySource,
    pub wide: MemorySource,
    pub sizes: Sizes,
}

type Tensor = (Dtype, Vec<u64>, Vec<u8>);

/// Makes both checkpoints. `damage` multiplies the scales of one tensor in the FP8 one.
pub fn make(layout: &Layout, damage: Option<(&str, f32)>) -> Made {
    let tale = FileSource::new("www/models/tale");
    let manifest = block_on(Manifest::read(&tale)).unwrap();
    let (mut weights, mut scales, mut wide) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut sizes = Sizes::default();
    for (_, info) in manifest.tensors() {
        if layout.tied && info.name == "lm_head.weight" {
            continue;
        }
        let values = block_on(manifest.read_f32(&tale, &info.name, u64::MAX, &|| false)).unwrap();
        sizes.tensors += 1;
        let Some(stored) = (layout.of)(&info.name) else {
            weights.insert(info.name.clone(), tensor(info.dtype, &info.shape, &values));
            wide.insert(info.name.clone(), tensor(Dtype::F32, &info.shape, &values));
            // Vectors are kept as F32.
            let size = if info.shape.len() == 1 { 4 } else { info.dtype.size_bytes() };
            sizes.weights += values.len() as u64 * size;
            continue;
        };
        let (rows, cols) = (info.shape[0], info.shape[1]);
        let (shape, height, width) = match stored.share {
            Share::Tensor(shape) => (shape.to_vec(), rows, cols),
            Share::Row(true) => (vec![rows, 1], 1, cols),
            Share::Row(false) => (vec![rows], 1, cols),
            Share::Block(height, width) => (vec![rows.div_ceil(height), cols.div_ceil(width)], height, width),
            Share::Cast => (vec![], rows, cols),
        };
        let per_row = cols.div_ceil(width);
        let block_of = |at: usize| {
            let (row, col) = (at as u64 / cols, at as u64 % cols);
            ((row / height) * per_row + col / width) as usize
        };
        let mut absmax = vec![0f32; (rows.div_ceil(height) * per_row) as usize];
        for (at, value) in values.iter().enumerate() {
            absmax[block_of(at)] = absmax[block_of(at)].max(value.abs());
        }
        let limit = largest(stored.dtype);
        let scale_bytes: Vec<f32> =
            absmax.iter().map(|max| if *max > 0.0 { max / limit } else { 1.0 }).collect();
        let (_, _, scale_bytes) = tensor(stored.scale_dtype, &[], &scale_bytes);
        // As stored: narrower ones are rounded.
        let mut exact = Vec::new();
        bise::dtype::widen(stored.scale_dtype, &scale_bytes, &mut exact).unwrap();
        if stored.share == Share::Cast {
            exact = vec![1.0];
        }
        let scaled: Vec<f32> =
            values.iter().enumerate().map(|(at, v)| (v / exact[block_of(at)]).clamp(-limit, limit)).collect();
        let (_, _, codes) = tensor(stored.dtype, &[], &scaled);
        let meant: Vec<f32> = codes
            .iter()
            .enumerate()
            .map(|(at, code)| decode(stored.dtype, *code) * exact[block_of(at)])
            .collect();
        wide.insert(info.name.clone(), tensor(Dtype::F32, &info.shape, &meant));
        weights.insert(info.name.clone(), (stored.dtype, info.shape.clone(), codes));
        sizes.weights += values.len() as u64;
        if stored.share != Share::Cast {
            if let Some((name, factor)) = damage
                && name == info.name
            {
                exact.iter_mut().for_each(|scale| *scale *= factor);
            }
            sizes.scales += rows * per_row * 4;
            scales.insert(
                format!("{}{}", info.name, stored.suffix),
                tensor(stored.scale_dtype, &shape, &exact),
            );
        }
        for extra in layout.extra {
            let name = info.name.replace(".weight", &format!(".{extra}"));
            scales.insert(name, tensor(Dtype::F32, &[], &[0.5]));
        }
    }
    let files = if layout.scales_first { [scales, weights] } else { [weights, scales] };
    Made {
        fp8: checkpoint(files, &layout.config, layout.tied),
        wide: checkpoint([wide, BTreeMap::new()], &Value::Null, layout.tied),
        sizes,
    }
}

fn tensor(dtype: Dtype, shape: &[u64], values: &[f32]) -> Tensor {
    let mut bytes = Vec::new();
    narrow(dtype, values, &mut bytes).unwrap();
    (dtype, shape.to_vec(), bytes)
}

fn checkpoint(files: [BTreeMap<String, Tensor>; 2], quantization: &Value, tied: bool) -> MemorySource {
    let mut source = MemorySource::new([]);
    let mut config: Value =
        serde_json::from_slice(&std::fs::read("www/models/tale/config.json").unwrap()).unwrap();
    config["quantization_config"] = quantization.clone();
    config["tie_word_embeddings"] = tied.into();
    source.files.insert("config.json".into(), config.to_string().into_bytes());
    let mut map = serde_json::Map::new();
    for (index, tensors) in files.into_iter().enumerate().filter(|(_, tensors)| !tensors.is_empty()) {
        let file = format!("model-0000{}-of-00002.safetensors", index + 1);
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, (dtype, shape, bytes)) in tensors {
            let begin = data.len();
            data.extend_from_slice(&bytes);
            let entry = json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [begin, data.len()]});
            map.insert(name.clone(), file.clone().into());
            header.insert(name, entry);
        }
        let json = Value::from(header).to_string();
        let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat();
        source.files.insert(file, bytes);
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    source.files.insert("model.safetensors.index.json".into(), index.to_string().into_bytes());
    source
}
