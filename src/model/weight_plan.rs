//! Checkpoint names -> slots: where every tensor goes and in which form it is stored.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::config::Config;
use super::error::ModelError;
use crate::checkpoint::scales::{Granularity, Scales};
use crate::checkpoint::{Manifest, TensorInfo};
use crate::cpu::Cpu;
use crate::dtype::{Dtype, I8_BLOCK};
use crate::gpu::{GpuError, GpuMatrix};
use crate::kernels::WebGpu;
use crate::steps::MatrixSpec;

/// Problems that a message lists before it only counts them.
const MAX_LISTED: usize = 8;

/// Scales of FP8 blocks apply to whole 16-byte loads of 16 weights.
const BLOCK_STEP: u32 = 16;

/// How linear weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As in the checkpoint.
    Checkpoint,
    /// As F8_E4M3 with one scale per row, quantised while streaming where they are wider.
    F8,
    /// As I8 with one scale per [`I8_BLOCK`] columns where they are wider than FP8, quantised while
    /// streaming: on the CPU faster than FP8, and closer to what was stored. Rows of no whole number of
    /// 16 columns become FP8.
    I8,
}

/// A matrix or vector of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Role {
    Embed,
    Norm,
    Head,
    InputNorm(usize),
    /// All of a layer, or a part of it: the first row of the product that it computes.
    Qkv(usize, u32),
    Output(usize),
    PostNorm(usize),
    Gate(usize),
    Up(usize),
    Down(usize),
}

/// A tensor that the configuration calls for.
struct Expected {
    name: String,
    shape: Vec<u64>,
    role: Role,
    /// Row of the role's matrix at which the tensor starts.
    first_row: u32,
    /// Whether `f8` applies to it.
    linear: bool,
}

/// How a tensor's chunks become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    Keep,
    WidenToF32,
    QuantizeToF8,
    QuantizeToI8,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    Matrix { role: Role, first_row: u32, conversion: Conversion, unit_scales: Option<u32> },
    Vector { role: Role },
    Scale { role: Role, first_row: u32, rows: u64, cols: u64, granularity: Granularity },
    Skip,
}

/// Where every tensor of a checkpoint goes, checked against the configuration.
pub struct WeightPlan {
    pub(super) places: HashMap<String, Place>,
    pub(super) matrices: BTreeMap<Role, MatrixSpec>,
    pub(super) layers: usize,
    pub(super) hidden: u32,
    /// Number of weights, scales not counted.
    pub parameters: u64,
    /// How it stores linear weights.
    pub precision: Precision,
}

impl WeightPlan {
    /// Plans the load. `config_json` is all of config.json.
    ///
    /// # Errors
    /// [`ModelError::Tensors`] with every missing, extra and mis-shaped tensor;
    /// [`ModelError::Dtype`]; a quantisation that `checkpoint::scales` does not read.
    pub fn new(
        config: &Config,
        config_json: &Value,
        manifest: &Manifest,
        precision: Precision,
    ) -> Result<WeightPlan, ModelError> {
        let scales = Scales::find(config_json, manifest.tensors().map(|(_, info)| info))?;
        let expected = expected_tensors(config);
        check_tensors(&expected, config, manifest, &scales)?;

        let mut plan = WeightPlan {
            places: HashMap::new(),
            matrices: BTreeMap::new(),
            layers: config.layers as usize,
            hidden: config.hidden,
            parameters: 0,
            precision,
        };
        let mut by_role: BTreeMap<Role, Vec<(&Expected, &TensorInfo)>> = BTreeMap::new();
        for tensor in &expected {
            if let Some((_, info)) = manifest.get(&tensor.name) {
                plan.parameters += tensor.shape.iter().product::<u64>();
                by_role.entry(tensor.role).or_default().push((tensor, info));
            }
        }
        for (role, parts) in by_role {
            plan.place(role, &parts, &scales, precision)?;
        }
        for (_, info) in manifest.tensors() {
            plan.places.entry(info.name.clone()).or_insert(Place::Skip);
        }
        Ok(plan)
    }

    /// The precision that linear weights have in the end: what is FP8 in the checkpoint is kept so on the way to
    /// integers.
    pub fn stored_precision(&self) -> Precision {
        let has_integers = self.matrices.values().any(|spec| spec.dtype == Dtype::I8);
        if self.precision == Precision::I8 && !has_integers { Precision::F8 } else { self.precision }
    }

    /// Every matrix that a token is multiplied with: those of all layers, then the head.
    pub fn products(&self) -> Vec<MatrixSpec> {
        let head = if self.matrices.contains_key(&Role::Head) { Role::Head } else { Role::Embed };
        let of_layers = self
            .matrices
            .iter()
            .filter(|(role, _)| !matches!(role, Role::Embed | Role::Head))
            .map(|(_, spec)| spec);
        of_layers.chain(self.matrices.get(&head)).cloned().collect()
    }

    /// Whether both need the same matrices: then weights of one can be written over the other's.
    pub fn has_the_matrices_of(&self, other: &WeightPlan) -> bool {
        self.matrices == other.matrices && self.layers == other.layers && self.hidden == other.hidden
    }

    fn place(
        &mut self,
        role: Role,
        parts: &[(&Expected, &TensorInfo)],
        scales: &Scales,
        precision: Precision,
    ) -> Result<(), ModelError> {
        let Some((first, _)) = parts.first() else { return Ok(()) };
        let &[_, cols] = first.shape.as_slice() else {
            self.places.insert(first.name.clone(), Place::Vector { role });
            return Ok(());
        };
        let mut forms = Vec::new();
        for (tensor, info) in parts {
            forms.push(stored_form(tensor, info, scales, precision, cols as u32)?);
        }
        let Some((dtype, scale_cols)) = common_form(&forms) else {
            // Each keeps its own precision: a matrix of its own for its part of the product.
            for part in parts {
                let role = match role {
                    Role::Qkv(layer, _) => Role::Qkv(layer, part.0.first_row),
                    other => other,
                };
                self.place(role, std::slice::from_ref(part), scales, precision)?;
            }
            return Ok(());
        };
        let mut rows = 0;
        for ((tensor, info), form) in parts.iter().zip(&forms) {
            let tensor_rows = tensor.shape.first().copied().unwrap_or(0);
            rows += tensor_rows as u32;
            let conversion = match dtype {
                Dtype::I8 => Conversion::QuantizeToI8,
                _ if form.quantize => Conversion::QuantizeToF8,
                dtype if info.dtype == dtype => Conversion::Keep,
                _ => Conversion::WidenToF32,
            };
            let unit_scales = (scale_cols != 0 && form.scale_cols == 0).then_some(tensor_rows as u32);
            let first_row = tensor.first_row - first.first_row;
            let place = Place::Matrix { role, first_row, conversion, unit_scales };
            self.places.insert(tensor.name.clone(), place);
            if let Some(scale) = scales.weights.get(&tensor.name)
                && let Some(name) = &scale.scale
            {
                let granularity = scale.granularity;
                let place = Place::Scale { role, first_row, rows: tensor_rows, cols, granularity };
                self.places.insert(name.clone(), place);
            }
        }
        let label = match parts {
            [(single, _)] => single.name.clone(),
            _ => format!("{} and its neighbours", first.name),
        };
        self.matrices.insert(role, MatrixSpec { label, rows, cols: cols as u32, dtype, scale_cols });
        Ok(())
    }

    /// Tells this plan from others: where weights go, and in which form.
    pub fn fingerprint(&self) -> Vec<u8> {
        xxh3_64(format!("{:?}", self.matrices).as_bytes()).to_le_bytes().to_vec()
    }

    /// Device memory in bytes for the weights and their scales, where one binding holds `limit` bytes.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`] where it does not hold a row.
    pub fn device_bytes(&self, limit: u64) -> Result<u64, GpuError> {
        let norms = (2 * self.layers as u64 + 1) * WebGpu::vector_bytes(self.hidden);
        self.matrices.values().try_fold(norms, |sum, spec| Ok(sum + GpuMatrix::bytes(spec, limit)?))
    }

    /// Memory in bytes for the same on the CPU.
    pub fn host_bytes(&self) -> u64 {
        let norms = (2 * self.layers as u64 + 1) * u64::from(self.hidden) * 4;
        norms + self.matrices.values().map(Cpu::matrix_bytes).sum::<u64>()
    }
}

/// How one tensor would be stored by itself.
struct Form {
    dtype: Dtype,
    scale_cols: u32,
    quantize: bool,
}

fn stored_form(
    tensor: &Expected,
    info: &TensorInfo,
    scales: &Scales,
    precision: Precision,
    cols: u32,
) -> Result<Form, ModelError> {
    if !info.dtype.is_f8() {
        let quantize = precision != Precision::Checkpoint && tensor.linear;
        let wide = if info.dtype == Dtype::F64 { Dtype::F32 } else { info.dtype };
        let (dtype, scale_cols) = match precision {
            Precision::I8 if quantize && cols.is_multiple_of(BLOCK_STEP) => (Dtype::I8, I8_BLOCK as u32),
            _ if quantize => (Dtype::F8E4m3, cols),
            _ => (wide, 0),
        };
        return Ok(Form { dtype, scale_cols, quantize });
    }
    let scale_cols = match scales.weights.get(&tensor.name) {
        Some(scale) if scale.scale.is_some() => match scale.granularity {
            Granularity::Tensor | Granularity::Row => cols,
            Granularity::Block { cols: width, .. } => u32::try_from(width).unwrap_or(cols).min(cols),
        },
        _ => 0,
    };
    if scale_cols < cols && scale_cols % BLOCK_STEP != 0 {
        return Err(ModelError::Unsupported {
            file: "config.json",
            key: format!("block width of {}", tensor.name),
            value: scale_cols.to_string(),
            supported: "blocks must be a multiple of 16 columns wide",
        });
    }
    Ok(Form { dtype: info.dtype, scale_cols, quantize: false })
}

/// The dtype and scale width in which all of these can be stored side by side; a single one always can.
fn common_form(forms: &[Form]) -> Option<(Dtype, u32)> {
    let first = forms.first()?;
    let scale_cols = forms.iter().map(|form| form.scale_cols).find(|&cols| cols != 0).unwrap_or(0);
    if forms.iter().any(|form| form.scale_cols != 0 && form.scale_cols != scale_cols) {
        return None;
    }
    if forms.iter().all(|form| form.dtype == first.dtype) {
        return Some((first.dtype, scale_cols));
    }
    let wide = forms.iter().all(|form| !form.dtype.is_f8() && form.dtype != Dtype::I8);
    wide.then_some((Dtype::F32, 0))
}

fn expected_tensors(config: &Config) -> Vec<Expected> {
    let size = |n: u32| u64::from(n);
    let (hidden, mlp) = (size(config.hidden), size(config.intermediate));
    let q_rows = config.heads * config.head_dim;
    let kv_rows = config.kv_heads * config.head_dim;
    let mut expected = Vec::new();
    let mut add = |name: String, shape: &[u64], role, first_row, linear| {
        expected.push(Expected { name, shape: shape.to_vec(), role, first_row, linear });
    };
    add("model.embed_tokens.weight".into(), &[size(config.vocab), hidden], Role::Embed, 0, false);
    for l in 0..config.layers as usize {
        let name = |part: &str| format!("model.layers.{l}.{part}.weight");
        add(name("input_layernorm"), &[hidden], Role::InputNorm(l), 0, false);
        add(name("self_attn.q_proj"), &[size(q_rows), hidden], Role::Qkv(l, 0), 0, true);
        add(name("self_attn.k_proj"), &[size(kv_rows), hidden], Role::Qkv(l, 0), q_rows, true);
        add(name("self_attn.v_proj"), &[size(kv_rows), hidden], Role::Qkv(l, 0), q_rows + kv_rows, true);
        add(name("self_attn.o_proj"), &[hidden, size(q_rows)], Role::Output(l), 0, true);
        add(name("post_attention_layernorm"), &[hidden], Role::PostNorm(l), 0, false);
        add(name("mlp.gate_proj"), &[mlp, hidden], Role::Gate(l), 0, true);
        add(name("mlp.up_proj"), &[mlp, hidden], Role::Up(l), 0, true);
        add(name("mlp.down_proj"), &[hidden, mlp], Role::Down(l), 0, true);
    }
    add("model.norm.weight".into(), &[hidden], Role::Norm, 0, false);
    if !config.tied {
        add("lm_head.weight".into(), &[size(config.vocab), hidden], Role::Head, 0, false);
    }
    expected
}

/// Reports everything that is missing, mis-shaped or unknown at once.
fn check_tensors(
    expected: &[Expected],
    config: &Config,
    manifest: &Manifest,
    scales: &Scales,
) -> Result<(), ModelError> {
    let mut problems = Vec::new();
    let mut known: HashMap<&str, ()> = HashMap::new();
    for tensor in expected {
        known.insert(&tensor.name, ());
        match manifest.get(&tensor.name) {
            // Packed weights have other shapes, too; their dtype is what says why.
            Some((_, info)) if !info.dtype.is_float() => {
                return Err(ModelError::Dtype { tensor: tensor.name.clone(), dtype: info.dtype.name() });
            }
            None => problems.push(format!("{} is missing", tensor.name)),
            Some((_, info)) if info.shape != tensor.shape => {
                problems.push(format!("{} is {:?}, not {:?}", tensor.name, info.shape, tensor.shape));
            }
            Some(_) => {}
        }
    }
    for scale in scales.weights.values().filter_map(|weight| weight.scale.as_deref()) {
        known.insert(scale, ());
    }
    for (_, info) in manifest.tensors() {
        let name = info.name.as_str();
        let skipped = scales.skip.contains(name)
            || name.ends_with("rotary_emb.inv_freq")
            || (config.tied && name == "lm_head.weight");
        if !skipped && !known.contains_key(name) {
            problems.push(format!("{name} is not part of a {} model", config.model_type));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let more = problems.len().saturating_sub(MAX_LISTED);
    problems.truncate(MAX_LISTED);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    Err(ModelError::Tensors { problems })
}
