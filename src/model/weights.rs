//! A decoder's weights, and tensor chunks into them, converted on the way.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::error::ModelError;
use super::weight_cache::{Part, WriteLog, tag};
use super::weight_plan::{Conversion, Place, Role, WeightPlan};
use crate::checkpoint::scales::{Granularity, check_count, spread};
use crate::checkpoint::{CheckpointError, TensorChunk};
use crate::dtype::{self, Dtype, DtypeError};
use crate::steps::{MatrixSpec, Store};

/// The weights of one layer.
pub struct LayerWeights<B: Store> {
    /// `(hidden)`
    pub input_norm: B::Vector,
    /// Queries, keys and values, one below the other, `(q_width + 2 * kv_width, hidden)`: one matrix, or
    /// several where they are stored in different formats, each with the first row that it stands for.
    pub qkv: Vec<(u32, B::Matrix)>,
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
    /// Allocates all weights.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn allocate(plan: &WeightPlan, backend: &mut B) -> Result<Weights<B>, B::Error> {
        // check_tensors has made sure of every role but the head; an empty matrix stands in for none.
        let required = |backend: &mut B, role: Role| match plan.matrices.get(&role) {
            Some(spec) => backend.matrix(spec),
            None => {
                let label = format!("{role:?}");
                backend.matrix(&MatrixSpec { label, rows: 0, cols: 0, dtype: Dtype::F32, scale_cols: 0 })
            }
        };
        let embed = required(backend, Role::Embed)?;
        let mut layers = Vec::with_capacity(plan.layers);
        for layer in 0..plan.layers {
            let input_norm = backend.vector(&format!("layer {layer} input norm"), plan.hidden)?;
            let mut qkv = Vec::with_capacity(1);
            for (role, spec) in plan.matrices.range(Role::Qkv(layer, 0)..=Role::Qkv(layer, u32::MAX)) {
                if let Role::Qkv(_, first_row) = role {
                    qkv.push((*first_row, backend.matrix(spec)?));
                }
            }
            layers.push(LayerWeights {
                input_norm,
                qkv,
                output: required(backend, Role::Output(layer))?,
                post_norm: backend.vector(&format!("layer {layer} post-attention norm"), plan.hidden)?,
                gate: required(backend, Role::Gate(layer))?,
                up: required(backend, Role::Up(layer))?,
                down: required(backend, Role::Down(layer))?,
            });
        }
        let norm = backend.vector("final norm", plan.hidden)?;
        let lm_head = match plan.matrices.get(&Role::Head) {
            Some(spec) => Some(backend.matrix(spec)?),
            None => None,
        };
        Ok(Weights { embed, layers, norm, lm_head })
    }
    /// The output head.
    pub fn head(&self) -> &B::Matrix {
        self.lm_head.as_ref().unwrap_or(&self.embed)
    }
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

/// Scales that are spread over their rows and written at once.
const SCALES_AT_ONCE: u64 = 1 << 18;

/// Scales that are known and still to be spread over rows of a matrix.
struct Pending {
    role: Role,
    /// Row of the matrix at which they start.
    first_row: u32,
    /// Rows that are left, of the tensor's.
    rows: Range<u64>,
    cols: u64,
    granularity: Granularity,
    values: Vec<f32>,
}

/// Writes chunks into allocated weights. Holds one chunk's worth of converted rows.
pub struct WeightLoader<'a, B: Store> {
    pub(super) plan: &'a WeightPlan,
    weights: &'a Weights<B>,
    /// Who keeps what is written.
    log: Option<&'a dyn WriteLog>,
    /// Scale tensors that came in part.
    partial_scales: HashMap<String, Vec<f32>>,
    pending: VecDeque<Pending>,
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
            log: None,
            partial_scales: HashMap::new(),
            pending: VecDeque::new(),
            values: Vec::new(),
            codes: Vec::new(),
            scales: Vec::new(),
        }
    }

    /// Tells `log` of everything that is written.
    #[must_use]
    pub fn logged(self, log: &'a dyn WriteLog) -> Self {
        WeightLoader { log: Some(log), ..self }
    }

    /// Whether everything that came was written: not while part of a scale tensor is missing, or scales are
    /// still to be spread.
    pub fn is_settled(&self) -> bool {
        self.partial_scales.is_empty() && self.pending.is_empty()
    }

    /// Takes the next chunk: whole rows of a matrix, a whole vector, or part of a scale tensor.
    /// `file` is for messages.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`]; what the backend reports.
    pub fn write(
        &mut self,
        backend: &mut B,
        file: &str,
        chunk: &TensorChunk,
    ) -> Result<(), LoadError<B::Error>> {
        let info = chunk.tensor;
        let place = self.plan.places.get(&info.name).cloned().unwrap_or(Place::Skip);
        if matches!(place, Place::Skip) {
            return Ok(());
        }
        let element = chunk.offset / info.dtype.size_bytes();
        chunk.check_finite(file)?;
        match place {
            Place::Skip => Ok(()),
            Place::Vector { role } => {
                self.widen(file, chunk)?;
                self.put(backend, Part::Vector(&self.values), role, 0)
            }
            Place::Matrix { role, first_row, conversion, unit_scales } => {
                let cols = info.shape.last().copied().unwrap_or(1).max(1);
                let row = first_row + (element / cols) as u32;
                if let (Some(rows), 0) = (unit_scales, chunk.offset) {
                    // One block over all rows, as wide as the neighbours' blocks.
                    let per_row = scales_per_row(self.plan, role) as u64;
                    let granularity = Granularity::Block { rows: u64::MAX, cols: 1 };
                    let (values, rows) = (vec![1.0; per_row as usize], 0..u64::from(rows));
                    self.pending.push_back(Pending {
                        role,
                        first_row,
                        rows,
                        cols: per_row,
                        granularity,
                        values,
                    });
                }
                self.write_rows(backend, role, row, conversion, file, chunk)
            }
            Place::Scale { role, first_row, rows, cols, granularity } => {
                self.widen(file, chunk)?;
                let mut values = self.partial_scales.remove(&info.name).unwrap_or_default();
                values.extend_from_slice(&self.values);
                if chunk.offset + (chunk.bytes.len() as u64) < info.end - info.begin {
                    self.partial_scales.insert(info.name.clone(), values);
                    return Ok(());
                }
                check_count(granularity, rows, cols, &values)?;
                self.pending.push_back(Pending { role, first_row, rows: 0..rows, cols, granularity, values });
                Ok(())
            }
        }
    }

    /// Spreads scales that have come, and waits until all but a bounded part of the writes so far has left
    /// host memory. To be called after every piece of data, the last one included.
    ///
    /// # Errors
    /// What the backend reports.
    pub async fn relieve(&mut self, backend: &mut B) -> Result<(), LoadError<B::Error>> {
        while let Some(mut pending) = self.pending.pop_front() {
            let per_row = scales_per_row(self.plan, pending.role) as u64;
            while !pending.rows.is_empty() {
                let first = pending.rows.start;
                let end = pending.rows.end.min(first + (SCALES_AT_ONCE / per_row.max(1)).max(1));
                self.scales.clear();
                spread(pending.granularity, first..end, pending.cols, &pending.values, &mut self.scales);
                let row = pending.first_row + first as u32;
                self.put(backend, Part::Scales(&self.scales), pending.role, row)?;
                backend.relieve().await.map_err(LoadError::Backend)?;
                pending.rows.start = end;
            }
        }
        backend.relieve().await.map_err(LoadError::Backend)
    }

    fn write_rows(
        &mut self,
        backend: &mut B,
        role: Role,
        row: u32,
        conversion: Conversion,
        file: &str,
        chunk: &TensorChunk,
    ) -> Result<(), LoadError<B::Error>> {
        if conversion == Conversion::Keep {
            return self.put(backend, Part::Rows(chunk.bytes), role, row);
        }
        self.widen(file, chunk)?;
        if conversion == Conversion::WidenToF32 {
            return self.put(backend, Part::Rows(bytemuck::cast_slice(&self.values)), role, row);
        }
        let cols = chunk.tensor.shape.last().copied().unwrap_or(1).max(1) as usize;
        self.codes.resize(self.values.len(), 0);
        self.scales.clear();
        for (values, codes) in self.values.chunks_exact(cols).zip(self.codes.chunks_exact_mut(cols)) {
            let quantized = match conversion {
                Conversion::QuantizeToI8 => dtype::quantize_row_i8(values, codes, &mut self.scales),
                _ => dtype::quantize_row_e4m3(values, codes).map(|scale| self.scales.push(scale)),
            };
            quantized.map_err(|e| bad(file, chunk, e))?;
        }
        self.put(backend, Part::Rows(&self.codes), role, row)?;
        self.put(backend, Part::Scales(&self.scales), role, row)
    }

    /// Writes what belongs at `row` of a matrix, or a whole vector.
    pub(super) fn put(
        &self,
        backend: &mut B,
        part: Part,
        role: Role,
        row: u32,
    ) -> Result<(), LoadError<B::Error>> {
        let written = match (part, self.weights.matrix(role), self.weights.vector(role)) {
            (Part::Rows(bytes), Some(matrix), _) => backend.write_rows(matrix, row, bytes),
            (Part::Scales(scales), Some(matrix), _) => backend.write_scales(matrix, row, scales),
            (Part::Vector(values), _, Some(vector)) => backend.write_vector(vector, values),
            _ => Ok(()),
        };
        written.map_err(LoadError::Backend)?;
        if let Some(log) = self.log {
            log.write(tag(part, role, row), part.bytes());
        }
        Ok(())
    }

    fn widen(&mut self, file: &str, chunk: &TensorChunk) -> Result<(), CheckpointError> {
        self.values.clear();
        dtype::widen(chunk.tensor.dtype, chunk.bytes, &mut self.values).map_err(|e| bad(file, chunk, e))
    }
}

fn scales_per_row(plan: &WeightPlan, role: Role) -> usize {
    let blocks = |spec: &MatrixSpec| spec.cols.div_ceil(spec.scale_cols.max(1)) as usize;
    plan.matrices.get(&role).map_or(1, blocks)
}

fn bad(file: &str, chunk: &TensorChunk, source: DtypeError) -> CheckpointError {
    CheckpointError::Values { file: file.to_owned(), tensor: chunk.tensor.name.clone(), source }
}

impl<B: Store> Weights<B> {
    fn matrix(&self, role: Role) -> Option<&B::Matrix> {
        Some(match role {
            Role::Embed => &self.embed,
            Role::Head => self.head(),
            Role::Qkv(layer, row) => {
                &self.layers.get(layer)?.qkv.iter().find(|(first_row, _)| *first_row == row)?.1
            }
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
