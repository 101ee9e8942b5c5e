//! Which FP8 format a checkpoint has, and which tensor scales which weight.
//!
//! In all formats W = float(fp8) * scale. They differ in what the scale is called and in how many
//! weights share one; the latter is read off the scale's shape, since only the size of blocks
//! cannot be told from it. Activation and cache scales are named to be skipped: execution is
//! weight-only.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::Value;

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::header::TensorInfo;
use crate::dtype::Dtype;

/// How many weights of a matrix share one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// All.
    Tensor,
    /// Those of one output row.
    Row,
    /// Those of one block.
    Block {
        /// Height of a block; the last may be lower.
        rows: u64,
        /// Width of a block; the last may be narrower.
        cols: u64,
    },
}

impl std::fmt::Display for Granularity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Granularity::Tensor => f.write_str("one scale per tensor"),
            Granularity::Row => f.write_str("one scale per row"),
            Granularity::Block { rows, cols } => write!(f, "one scale per {rows} x {cols} block"),
        }
    }
}

/// The scale of one FP8 weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightScale {
    /// Name of the scale tensor; `None` for a raw cast, whose scale is 1.
    pub scale: Option<String>,
    /// How its values apply.
    pub granularity: Granularity,
}

/// The FP8 layout of a checkpoint; empty for one without FP8 tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scales {
    /// FP8 tensor to its scale.
    pub weights: BTreeMap<String, WeightScale>,
    /// Tensors that weight-only execution has no use for: activation and cache scales.
    pub skip: BTreeSet<String>,
}

/// Last components of names that weight-only execution skips.
const SKIPPED: [&str; 10] = [
    "input_scale",
    "input_scale_ub",
    "input_zero_point",
    "activation_scale",
    "output_scale",
    "q_scale",
    "k_scale",
    "v_scale",
    "kv_scale",
    "prob_output_scale",
];

/// Last components of names that only packed weights have, and whose they are.
const PACKED: [(&str, &str); 9] = [
    ("qweight", "packed by GPTQ or AWQ"),
    ("weight_packed", "packed integers"),
    ("SCB", "bitsandbytes int8"),
    ("absmax", "bitsandbytes nf4 or fp4"),
    ("quant_map", "bitsandbytes nf4 or fp4"),
    ("weight_blocks", "mxfp4"),
    ("down_proj_blocks", "mxfp4"),
    ("gate_up_proj_blocks", "mxfp4"),
    ("weight_scale_2", "nvfp4"),
];

impl Scales {
    /// Finds the scale of every FP8 tensor. `config` is all of config.json.
    ///
    /// # Errors
    /// A quantisation that is not in the table, by name; an FP8 tensor without scale in a
    /// quantised checkpoint; a scale whose shape or dtype fits nothing.
    pub fn find<'a>(
        config: &Value,
        tensors: impl IntoIterator<Item = &'a TensorInfo>,
    ) -> Result<Scales, CheckpointError> {
        let layout = Layout::read(config)?;
        // By name, so that of several errors always the same is reported.
        let tensors: BTreeMap<&str, &TensorInfo> =
            tensors.into_iter().map(|t| (t.name.as_str(), t)).collect();
        let mut scales = Scales::default();
        for (name, info) in &tensors {
            let last = name.rsplit('.').next().unwrap_or(name);
            if let Some((_, found)) = PACKED.iter().find(|(packed, _)| *packed == last) {
                let supported = "FP8 weights, each with its scale, or wide ones";
                return Err(unsupported(name, &Value::from(*found), supported));
            }
            if SKIPPED.contains(&last) {
                scales.skip.insert((*name).to_owned());
            } else if info.dtype.is_f8() {
                scales.weights.insert((*name).to_owned(), layout.scale_of(info, &tensors)?);
            }
        }
        Ok(scales)
    }
}

/// What the config says and shapes do not.
#[derive(Debug, Default)]
struct Layout {
    /// Whether FP8 tensors need a scale.
    quantized: bool,
    /// Height and width of blocks.
    block: Option<(u64, u64)>,
}

fn unsupported(key: &str, found: &Value, supported: &str) -> CheckpointError {
    let found = match found {
        Value::Null => "absent".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let (key, supported) = (key.to_owned(), format!("supported: {supported}"));
    CheckpointError::UnsupportedQuantization { key, found, supported }
}

impl Layout {
    fn read(config: &Value) -> Result<Layout, CheckpointError> {
        // compressed-tensors once wrote its part under another key.
        let present = |key| config.get(key).filter(|value| !value.is_null());
        let Some(quantization) = present("quantization_config").or_else(|| present("compression_config"))
        else {
            return Ok(Layout::default());
        };
        let method = quantization.get("quant_method").unwrap_or(&Value::Null);
        let block = match method.as_str() {
            Some("compressed-tensors") => compressed_tensors(quantization)?,
            Some("fp8") => match quantization.get("weight_block_size").unwrap_or(&Value::Null) {
                Value::Null => None,
                size => Some(block_size("weight_block_size", size)?),
            },
            Some("fbgemm_fp8") => None,
            Some("modelopt") => {
                // Newer files have the algorithm beside the method, older ones one level down.
                let nested = quantization.get("quantization").and_then(|inner| inner.get("quant_algo"));
                let algorithm = quantization.get("quant_algo").or(nested).unwrap_or(&Value::Null);
                one_of("quant_algo", algorithm, &["FP8", "FP8_PER_CHANNEL_PER_TOKEN"])?;
                None
            }
            _ => {
                let known = "compressed-tensors, fp8, fbgemm_fp8, modelopt";
                return Err(unsupported("quant_method", method, known));
            }
        };
        Ok(Layout { quantized: true, block })
    }

    fn scale_of(
        &self,
        info: &TensorInfo,
        tensors: &BTreeMap<&str, &TensorInfo>,
    ) -> Result<WeightScale, CheckpointError> {
        let tensor = &info.name;
        for suffix in ["_zero_point", "_scale_2", "_global_scale"] {
            let name = format!("{tensor}{suffix}");
            if tensors.contains_key(name.as_str()) {
                return Err(unsupported(&name, &Value::from("present"), "one symmetric scale per weight"));
            }
        }
        let names = [format!("{tensor}_scale"), format!("{tensor}_scale_inv")];
        let found = names.iter().find_map(|name| tensors.get(name.as_str()));
        match found {
            Some(scale) => self
                .granularity(info, scale)
                .map(|granularity| WeightScale { scale: Some(scale.name.clone()), granularity }),
            // A cast without scales: every value stands for itself.
            None if !self.quantized => Ok(WeightScale { scale: None, granularity: Granularity::Tensor }),
            None => {
                let (tensor, looked_for) = (tensor.clone(), names.join(", "));
                Err(CheckpointError::MissingScale { tensor, looked_for })
            }
        }
    }

    fn granularity(&self, info: &TensorInfo, scale: &TensorInfo) -> Result<Granularity, CheckpointError> {
        if !matches!(scale.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            return Err(CheckpointError::ScaleDtype { scale: scale.name.clone(), dtype: scale.dtype });
        }
        let (rows, cols) = (info.rows(), info.shape.last().copied().unwrap_or(1));
        if scale.elements() == 1 {
            return Ok(Granularity::Tensor);
        }
        if scale.shape == [rows] || scale.shape == [rows, 1] {
            return Ok(Granularity::Row);
        }
        let mut expected = format!("[1], [{rows}, 1]");
        if let Some((height, width)) = self.block {
            let blocks = [rows.div_ceil(height), cols.div_ceil(width)];
            if scale.shape == blocks {
                return Ok(Granularity::Block { rows: height, cols: width });
            }
            expected += &format!(" or {blocks:?} for blocks of {height} x {width}");
        }
        Err(CheckpointError::ScaleShape {
            tensor: info.name.clone(),
            tensor_shape: info.shape.clone(),
            scale: scale.name.clone(),
            shape: scale.shape.clone(),
            expected: format!("expected {expected}"),
        })
    }
}

fn one_of(key: &str, value: &Value, known: &[&str]) -> Result<(), CheckpointError> {
    match value.as_str() {
        Some(text) if known.contains(&text) => Ok(()),
        _ => Err(unsupported(key, value, &known.join(", "))),
    }
}

/// `[height, width]`, or `"128x128"` as compressed-tensors once wrote it.
fn block_size(key: &str, value: &Value) -> Result<(u64, u64), CheckpointError> {
    let pair: Option<(u64, u64)> = match value {
        Value::Array(sides) => match sides.as_slice() {
            [height, width] => height.as_u64().zip(width.as_u64()),
            _ => None,
        },
        Value::String(text) => {
            text.split_once('x').and_then(|(height, width)| height.parse().ok().zip(width.parse().ok()))
        }
        _ => None,
    };
    pair.filter(|(height, width)| *height > 0 && *width > 0)
        .ok_or_else(|| unsupported(key, value, "[height, width] in weights"))
}

/// Checks a compressed-tensors config; the size of blocks, if any group has them.
fn compressed_tensors(quantization: &Value) -> Result<Option<(u64, u64)>, CheckpointError> {
    const FORMATS: [&str; 2] = ["float-quantized", "naive-quantized"];
    let get = |value: &'_ Value, key: &str| value.get(key).cloned().unwrap_or(Value::Null);
    one_of("format", &get(quantization, "format"), &FORMATS)?;
    let sparsity = get(&get(quantization, "sparsity_config"), "format");
    if !sparsity.is_null() {
        one_of("sparsity_config.format", &sparsity, &["dense"])?;
    }
    let transform = get(&get(quantization, "transform_config"), "config_groups");
    if transform.as_object().is_some_and(|groups| !groups.is_empty()) {
        return Err(unsupported("transform_config", &Value::from("present"), "weights as they are"));
    }
    let mut block = None;
    for (name, group) in get(quantization, "config_groups").as_object().into_iter().flatten() {
        let key = |field: &str| format!("config_groups.{name}.{field}");
        let format = get(group, "format");
        if !format.is_null() {
            one_of(&key("format"), &format, &FORMATS)?;
        }
        let weights = get(group, "weights");
        if weights.is_null() {
            continue; // A group that quantises activations only.
        }
        one_of(&key("weights.type"), &get(&weights, "type"), &["float"])?;
        if get(&weights, "num_bits") != 8 {
            return Err(unsupported(&key("weights.num_bits"), &get(&weights, "num_bits"), "8"));
        }
        if get(&weights, "symmetric") == false {
            return Err(unsupported(&key("weights.symmetric"), &Value::from(false), "true"));
        }
        let strategy = get(&weights, "strategy");
        one_of(&key("weights.strategy"), &strategy, &["tensor", "channel", "block"])?;
        if strategy == "block" {
            let structure = get(&weights, "block_structure");
            let size = block_size(&key("weights.block_structure"), &structure)?;
            if block.is_some_and(|block| block != size) {
                let supported = "one size of blocks in all groups";
                return Err(unsupported(&key("weights.block_structure"), &structure, supported));
            }
            block = Some(size);
        }
    }
    Ok(block)
}

/// Checks that a scale tensor has as many values as its matrix needs.
///
/// # Errors
/// [`CheckpointError::ScaleCount`].
pub fn check_count(
    granularity: Granularity,
    rows: u64,
    cols: u64,
    values: &[f32],
) -> Result<(), CheckpointError> {
    let expected = match granularity {
        Granularity::Tensor => 1,
        Granularity::Row => rows,
        Granularity::Block { rows: height, cols: width } => {
            rows.div_ceil(height.max(1)).saturating_mul(cols.div_ceil(width.max(1)))
        }
    };
    let values = values.len() as u64;
    if values == expected {
        return Ok(());
    }
    Err(CheckpointError::ScaleCount { granularity: granularity.to_string(), rows, cols, values, expected })
}

/// Appends the scales of some rows of a matrix to `out`: for each row one per block of columns.
/// `values` are as [`check_count`] wants them.
pub fn spread(granularity: Granularity, rows: Range<u64>, cols: u64, values: &[f32], out: &mut Vec<f32>) {
    // All indices are at most the number of values, so they fit usize.
    match granularity {
        Granularity::Tensor => out.extend(rows.flat_map(|_| values)),
        Granularity::Row => {
            out.extend_from_slice(values.get(rows.start as usize..rows.end as usize).unwrap_or_default());
        }
        Granularity::Block { rows: height, cols: width } => {
            let per_row = cols.div_ceil(width.max(1)) as usize;
            let of_row = |row: u64| {
                let first = (row / height.max(1)) as usize * per_row;
                values.get(first..first + per_row).unwrap_or_default()
            };
            out.extend(rows.flat_map(of_row));
        }
    }
}
