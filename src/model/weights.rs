//! Checkpoint names -> slots, and tensor chunks into them, converted on the way.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::config::Config;
use super::error::ModelError;
use crate::checkpoint::scales::{Granularity, Scales, expand};
use crate::checkpoint::{CheckpointError, Manifest, TensorChunk, TensorInfo};
use crate::dtype::{self, Dtype};
use crate::steps::{MatrixSpec, Store};

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
}

/// The weights of one layer.
pub struct LayerWeights<B: Store> {
    /// `(hidden)`
    pub input_norm: B::Vector,
    /// Queries, keys and values, one below the other. `(q_width + 2 * kv_width, hidden)`
    pub qkv: B::Matrix,
    /// `(hidden, q_width)`
    pub output: B::Matrix,
    /// `(hidden)`
    pub post_norm: B::Vector,
    /// `(intermediate, hidden)`
    pub gate: B::Matrix,
    /// `(intermediate, hidden)`
    pub up: B::Matrix,
    /// `(hidden, intermediate)`
    pub down: B::Matrix,
}

/// All weights of a decoder.
pub struct Weights<B: Store> {
    /// `(vocab, hidden)`
    pub embed: B::Matrix,
    /// In order.
    pub layers: Vec<LayerWeights<B>>,
    /// `(hidden)`
    pub norm: B::Vector,
    /// `(vocab, hidden)`; `None`: the embedding table.
    pub lm_head: Option<B::Matrix>,
}

impl<B: Store> Weights<B> {
    /// The output head.
    pub fn head(&self) -> &B::Matrix {
        self.lm_head.as_ref().unwrap_or(&self.embed)
    }
}

/// A matrix or vector of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Role {
    Embed,
    Norm,
    Head,
    InputNorm(usize),
    Qkv(usize),
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
enum Conversion {
    Keep,
    WidenToF32,
    QuantizeToF8,
}

#[derive(Clone, Debug)]
enum Place {
    Matrix { role: Role, first_row: u32, conversion: Conversion, unit_scales: Option<u32> },
    Vector { role: Role },
    Scale { role: Role, first_row: u32, rows: u64, cols: u64, granularity: Granularity },
    Skip,
}

/// Where every tensor of a checkpoint goes, checked against the configuration.
pub struct WeightPlan {
    places: HashMap<String, Place>,
    matrices: BTreeMap<Role, MatrixSpec>,
    layers: usize,
    hidden: u32,
    /// Number of weights, scales not counted.
    pub parameters: u64,
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

    fn place(
        &mut self,
        role: Role,
        parts: &[(&Expected, &TensorInfo)],
        scales: &Scales,
        precision: Precision,
    ) -> Result<(), ModelError> {
        for (tensor, info) in parts {
            if !info.dtype.is_float() {
                return Err(ModelError::Dtype { tensor: tensor.name.clone(), dtype: info.dtype.name() });
            }
        }
        let Some((first, _)) = parts.first() else { return Ok(()) };
        let &[_, cols] = first.shape.as_slice() else {
            self.places.insert(first.name.clone(), Place::Vector { role });
            return Ok(());
        };
        let mut forms = Vec::new();
        for (tensor, info) in parts {
            forms.push(stored_form(tensor, info, scales, precision, cols as u32)?);
        }
        let (dtype, scale_cols) = common_form(&forms).ok_or_else(|| ModelError::Tensors {
            problems: vec![format!("{} and its neighbours are stored in different FP8 formats", first.name)],
        })?;
        let mut rows = 0;
        for ((tensor, info), form) in parts.iter().zip(&forms) {
            let tensor_rows = tensor.shape.first().copied().unwrap_or(0);
            rows += tensor_rows as u32;
            let conversion = if form.quantize {
                Conversion::QuantizeToF8
            } else if info.dtype == dtype {
                Conversion::Keep
            } else {
                Conversion::WidenToF32
            };
            let unit_scales = (scale_cols != 0 && form.scale_cols == 0).then_some(tensor_rows as u32);
            let first_row = tensor.first_row;
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

    /// Bytes that the weights and their scales take, before padding.
    pub fn device_bytes(&self) -> u64 {
        let matrix = |spec: &MatrixSpec| {
            let scales = if spec.scale_cols == 0 { 0 } else { spec.cols.div_ceil(spec.scale_cols) };
            u64::from(spec.rows) * (u64::from(spec.cols) * spec.dtype.size_bytes() + u64::from(scales) * 4)
        };
        let norms = (2 * self.layers as u64 + 1) * u64::from(self.hidden) * 4;
        self.matrices.values().map(matrix).sum::<u64>() + norms
    }

    /// Allocates all weights.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn allocate<B: Store>(&self, backend: &mut B) -> Result<Weights<B>, B::Error> {
        // check_tensors has made sure of every role but the head; an empty matrix stands in for none.
        let required = |backend: &mut B, role: Role| match self.matrices.get(&role) {
            Some(spec) => backend.matrix(spec),
            None => {
                let label = format!("{role:?}");
                backend.matrix(&MatrixSpec { label, rows: 0, cols: 0, dtype: Dtype::F32, scale_cols: 0 })
            }
        };
        let embed = required(backend, Role::Embed)?;
        let mut layers = Vec::with_capacity(self.layers);
        for layer in 0..self.layers {
            layers.push(LayerWeights {
                input_norm: backend.vector(&format!("layer {layer} input norm"), self.hidden)?,
                qkv: required(backend, Role::Qkv(layer))?,
                output: required(backend, Role::Output(layer))?,
                post_norm: backend.vector(&format!("layer {layer} post-attention norm"), self.hidden)?,
                gate: required(backend, Role::Gate(layer))?,
                up: required(backend, Role::Up(layer))?,
                down: required(backend, Role::Down(layer))?,
            });
        }
        let norm = backend.vector("final norm", self.hidden)?;
        let lm_head = match self.matrices.get(&Role::Head) {
            Some(spec) => Some(backend.matrix(spec)?),
            None => None,
        };
        Ok(Weights { embed, layers, norm, lm_head })
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
        let quantize = precision == Precision::F8 && tensor.linear;
        let wide = if info.dtype == Dtype::F64 { Dtype::F32 } else { info.dtype };
        return Ok(Form {
            dtype: if quantize { Dtype::F8E4m3 } else { wide },
            scale_cols: if quantize { cols } else { 0 },
            quantize,
        });
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

/// The dtype and scale width in which all of these can be stored side by side.
fn common_form(forms: &[Form]) -> Option<(Dtype, u32)> {
    let first = forms.first()?;
    let scale_cols = forms.iter().map(|form| form.scale_cols).find(|&cols| cols != 0).unwrap_or(0);
    if forms.iter().any(|form| form.scale_cols != 0 && form.scale_cols != scale_cols) {
        return None;
    }
    if forms.iter().all(|form| form.dtype == first.dtype) {
        return Some((first.dtype, scale_cols));
    }
    let wide = forms.iter().all(|form| !form.dtype.is_f8());
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
        add(name("self_attn.q_proj"), &[size(q_rows), hidden], Role::Qkv(l), 0, true);
        add(name("self_attn.k_proj"), &[size(kv_rows), hidden], Role::Qkv(l), q_rows, true);
        add(name("self_attn.v_proj"), &[size(kv_rows), hidden], Role::Qkv(l), q_rows + kv_rows, true);
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

/// A load that failed: in the checkpoint or on the device.
#[derive(Debug, thiserror::Error)]
pub enum LoadError<E: std::error::Error + 'static> {
    /// The checkpoint.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device.
    #[error(transparent)]
    Backend(E),
}

impl<E: std::error::Error + 'static> From<CheckpointError> for LoadError<E> {
    fn from(error: CheckpointError) -> Self {
        LoadError::Model(error.into())
    }
}

/// Writes chunks into allocated weights. Holds one chunk's worth of converted rows.
pub struct WeightLoader<'a, B: Store> {
    plan: &'a WeightPlan,
    weights: &'a Weights<B>,
    /// Scale tensors that came in part.
    partial_scales: HashMap<String, Vec<f32>>,
    values: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl<'a, B: Store> WeightLoader<'a, B> {
    /// A loader for one pass over the checkpoint.
    pub fn new(plan: &'a WeightPlan, weights: &'a Weights<B>) -> Self {
        WeightLoader {
            plan,
            weights,
            partial_scales: HashMap::new(),
            values: Vec::new(),
            codes: Vec::new(),
            scales: Vec::new(),
        }
    }

    /// Takes the next chunk: whole rows of a matrix, a whole vector, or part of a scale tensor.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`]; what the backend reports.
    pub fn write(&mut self, backend: &mut B, chunk: &TensorChunk) -> Result<(), LoadError<B::Error>> {
        let info = chunk.tensor;
        let place = self.plan.places.get(&info.name).cloned().unwrap_or(Place::Skip);
        if matches!(place, Place::Skip) {
            return Ok(());
        }
        let element = chunk.offset / info.dtype.size_bytes();
        if let Some(index) = dtype::find_non_finite(info.dtype, chunk.bytes).map_err(|e| bad(info, &e))? {
            let element = element + index as u64;
            return Err(ModelError::NonFinite { tensor: info.name.clone(), element }.into());
        }
        match place {
            Place::Skip => Ok(()),
            Place::Vector { role } => {
                self.widen(chunk)?;
                match self.weights.vector(role) {
                    Some(vector) => backend.write_vector(vector, &self.values).map_err(LoadError::Backend),
                    None => Ok(()),
                }
            }
            Place::Matrix { role, first_row, conversion, unit_scales } => {
                let cols = info.shape.last().copied().unwrap_or(1).max(1);
                let row = first_row + (element / cols) as u32;
                let Some(matrix) = self.weights.matrix(role) else { return Ok(()) };
                if let (Some(rows), 0) = (unit_scales, chunk.offset) {
                    let scales = vec![1.0; rows as usize * scales_per_row(self.plan, role)];
                    backend.write_scales(matrix, first_row, &scales).map_err(LoadError::Backend)?;
                }
                self.write_rows(backend, matrix, row, cols as usize, conversion, chunk)
            }
            Place::Scale { role, first_row, rows, cols, granularity } => {
                self.widen(chunk)?;
                let mut values = self.partial_scales.remove(&info.name).unwrap_or_default();
                values.extend_from_slice(&self.values);
                if chunk.offset + (chunk.bytes.len() as u64) < info.end - info.begin {
                    self.partial_scales.insert(info.name.clone(), values);
                    return Ok(());
                }
                let (_, scales) = expand(granularity, rows, cols, &values)?;
                match self.weights.matrix(role) {
                    Some(matrix) => {
                        backend.write_scales(matrix, first_row, &scales).map_err(LoadError::Backend)
                    }
                    None => Ok(()),
                }
            }
        }
    }

    fn write_rows(
        &mut self,
        backend: &mut B,
        matrix: &B::Matrix,
        row: u32,
        cols: usize,
        conversion: Conversion,
        chunk: &TensorChunk,
    ) -> Result<(), LoadError<B::Error>> {
        if conversion == Conversion::Keep {
            return backend.write_rows(matrix, row, chunk.bytes).map_err(LoadError::Backend);
        }
        self.widen(chunk)?;
        if conversion == Conversion::WidenToF32 {
            let bytes = bytemuck::cast_slice(&self.values);
            return backend.write_rows(matrix, row, bytes).map_err(LoadError::Backend);
        }
        self.codes.resize(self.values.len(), 0);
        self.scales.clear();
        for (values, codes) in self.values.chunks_exact(cols).zip(self.codes.chunks_exact_mut(cols)) {
            let scale = dtype::quantize_row_e4m3(values, codes).map_err(|e| bad(chunk.tensor, &e))?;
            self.scales.push(scale);
        }
        backend.write_rows(matrix, row, &self.codes).map_err(LoadError::Backend)?;
        backend.write_scales(matrix, row, &self.scales).map_err(LoadError::Backend)
    }

    fn widen(&mut self, chunk: &TensorChunk) -> Result<(), ModelError> {
        self.values.clear();
        dtype::widen(chunk.tensor.dtype, chunk.bytes, &mut self.values).map_err(|e| bad(chunk.tensor, &e))
    }
}

fn scales_per_row(plan: &WeightPlan, role: Role) -> usize {
    let blocks = |spec: &MatrixSpec| spec.cols.div_ceil(spec.scale_cols.max(1)) as usize;
    plan.matrices.get(&role).map_or(1, blocks)
}

fn bad(info: &TensorInfo, error: &dtype::DtypeError) -> ModelError {
    ModelError::Tensors { problems: vec![format!("{}: {error}", info.name)] }
}

impl<B: Store> Weights<B> {
    fn matrix(&self, role: Role) -> Option<&B::Matrix> {
        Some(match role {
            Role::Embed => &self.embed,
            Role::Head => self.head(),
            Role::Qkv(layer) => &self.layers.get(layer)?.qkv,
            Role::Output(layer) => &self.layers.get(layer)?.output,
            Role::Gate(layer) => &self.layers.get(layer)?.gate,
            Role::Up(layer) => &self.layers.get(layer)?.up,
            Role::Down(layer) => &self.layers.get(layer)?.down,
            Role::Norm | Role::InputNorm(_) | Role::PostNorm(_) => return None,
        })
    }

    fn vector(&self, role: Role) -> Option<&B::Vector> {
        Some(match role {
            Role::Norm => &self.norm,
            Role::InputNorm(layer) => &self.layers.get(layer)?.input_norm,
            Role::PostNorm(layer) => &self.layers.get(layer)?.post_norm,
            _ => return None,
        })
    }
}
