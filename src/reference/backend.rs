//! The decoder's steps in plain Rust.

use std::collections::HashMap;

use crate::dtype::DtypeError;
use crate::kernels::{BatchUniform, attend, embed, linear, rms_norm, rope_store, silu_mul};
use crate::steps::{Batch, DecoderShape, MatrixSpec, Slot, Steps, Store, Write};

use super::weights::Weights;

/// Rows of activations start at multiples of this many f32, as on the GPU.
const PITCH: u32 = 16;

/// A request that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// A dtype that holds no float weights.
    #[error("{label}: {source}")]
    Dtype {
        /// The matrix.
        label: String,
        /// Why not.
        source: DtypeError,
    },
    /// Rows, scales, tokens or layers beyond what there is.
    #[error("{label}: {detail}")]
    Shape {
        /// Matrix or batch.
        label: String,
        /// What does not fit.
        detail: String,
    },
}

fn shape_error(label: &str, detail: String) -> ReferenceError {
    ReferenceError::Shape { label: label.into(), detail }
}

/// Handle of a matrix of this backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefMatrix(usize);

/// Handle of a vector of this backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefVector {
    index: usize,
    len: u32,
}

struct Matrix {
    spec: MatrixSpec,
    /// `(rows, loads * 16)`
    bytes: Vec<u8>,
    /// `(rows, scale_blocks)`
    scales: Vec<f32>,
}

impl Matrix {
    fn loads(&self) -> u32 {
        (u64::from(self.spec.cols) * self.spec.dtype.size_bytes()).div_ceil(16) as u32
    }

    fn scale_blocks(&self) -> u32 {
        if self.spec.scale_cols == 0 { 0 } else { self.spec.cols.div_ceil(self.spec.scale_cols) }
    }

    fn weights(&self) -> Result<Weights<'_>, ReferenceError> {
        Weights::new(self.spec.dtype, &self.bytes)
            .map_err(|source| ReferenceError::Dtype { label: self.spec.label.clone(), source })
    }
}

/// The backend that the others are measured against.
pub struct Reference {
    shape: DecoderShape,
    matrices: Vec<Matrix>,
    /// Padded with zeros like rows of activations.
    vectors: Vec<Vec<f32>>,
    /// `(rows, pitch(slot))` each, padding zero.
    slots: HashMap<Slot, Vec<f32>>,
    /// Keys and values by layer: `(kv_heads, slots, head_dim / 2)` words of two f16, or rows of FP8.
    caches: Vec<[Vec<u32>; 2]>,
    ids: Vec<u32>,
    batch: BatchUniform,
    planning: bool,
}

impl Reference {
    /// A decoder of that shape with an empty cache.
    pub fn new(shape: DecoderShape) -> Reference {
        let all =
            [Slot::X, Slot::Normed, Slot::Qkv, Slot::AttnOut, Slot::Mlp, Slot::LastNormed, Slot::Logits];
        let zeros = |slot| vec![0.0; (pitch(&shape, slot) * shape.rows(slot, shape.max_batch)) as usize];
        let words = (shape.layer_cache_bytes() / 4) as usize;
        Reference {
            matrices: Vec::new(),
            vectors: Vec::new(),
            slots: all.into_iter().map(|slot| (slot, zeros(slot))).collect(),
            caches: (0..shape.layers).map(|_| [vec![0; words], vec![0; words]]).collect(),
            ids: Vec::new(),
            batch: BatchUniform::default(),
            planning: false,
            shape,
        }
    }

    /// Contents of an activation. `(rows, width(slot))`
    pub fn read(&self, slot: Slot, rows: u32) -> Vec<f32> {
        let (width, pitch) = (self.shape.width(slot) as usize, pitch(&self.shape, slot) as usize);
        let rows = self.slots[&slot].chunks_exact(pitch.max(1)).take(rows as usize);
        rows.flat_map(|row| &row[..width]).copied().collect()
    }

    /// Takes `y` out, lets `step` fill it, and puts it back.
    fn fill(
        &mut self,
        y: Slot,
        step: impl FnOnce(&mut Reference, &mut [f32]) -> Result<(), ReferenceError>,
    ) -> Result<(), ReferenceError> {
        if self.planning {
            return Ok(());
        }
        let mut values = self.slots.remove(&y).unwrap_or_default();
        let result = step(self, &mut values);
        self.slots.insert(y, values);
        result
    }

    fn product(
        &self,
        x: Slot,
        weight: RefMatrix,
        (y, first): (Slot, u32),
        out: &mut [f32],
        write: Write,
    ) -> Result<(), ReferenceError> {
        let matrix = &self.matrices[weight.0];
        let params = linear::Params {
            first_row: first,
            rows: matrix.spec.rows,
            loads: matrix.loads(),
            x_pitch: pitch(&self.shape, x) / 4,
            y_pitch: pitch(&self.shape, y),
            scale_blocks: matrix.scale_blocks(),
            loads_per_block: linear::loads_per_block(&matrix.spec),
            single: u32::from(y == Slot::Logits),
            add: u32::from(write == Write::Add),
            padding: [0; 3],
        };
        super::matvec::matvec(&self.batch, &params, &self.slots[&x], matrix.weights()?, &matrix.scales, out);
        Ok(())
    }

    fn rows_of<'a, T>(
        spec: &MatrixSpec,
        to: &'a mut [T],
        per_row: usize,
        first_row: u32,
        count: usize,
        given_per_row: usize,
    ) -> Result<&'a mut [T], ReferenceError> {
        let rows = count / given_per_row.max(1);
        if given_per_row == 0
            || rows * given_per_row != count
            || first_row as usize + rows > spec.rows as usize
        {
            let detail = format!("{count} elements from row {first_row} of {} on", spec.rows);
            return Err(shape_error(&spec.label, detail));
        }
        Ok(&mut to[first_row as usize * per_row..][..rows * per_row])
    }
}

fn pitch(shape: &DecoderShape, slot: Slot) -> u32 {
    shape.width(slot).next_multiple_of(PITCH)
}

impl Store for Reference {
    type Matrix = RefMatrix;
    type Vector = RefVector;
    type Error = ReferenceError;

    fn matrix(&mut self, spec: &MatrixSpec) -> Result<RefMatrix, ReferenceError> {
        let mut matrix = Matrix { spec: spec.clone(), bytes: Vec::new(), scales: Vec::new() };
        matrix.weights()?;
        matrix.bytes = vec![0; (matrix.loads() * 16) as usize * spec.rows as usize];
        matrix.scales = vec![0.0; (matrix.scale_blocks() * spec.rows) as usize];
        self.matrices.push(matrix);
        Ok(RefMatrix(self.matrices.len() - 1))
    }

    fn write_rows(&mut self, matrix: &RefMatrix, first_row: u32, bytes: &[u8]) -> Result<(), ReferenceError> {
        let matrix = &mut self.matrices[matrix.0];
        let stride = matrix.loads() as usize * 16;
        let row_bytes = matrix.spec.cols as usize * matrix.spec.dtype.size_bytes() as usize;
        let to = Self::rows_of(&matrix.spec, &mut matrix.bytes, stride, first_row, bytes.len(), row_bytes)?;
        for (to, from) in to.chunks_exact_mut(stride).zip(bytes.chunks_exact(row_bytes)) {
            to[..row_bytes].copy_from_slice(from);
        }
        Ok(())
    }

    fn write_scales(
        &mut self,
        matrix: &RefMatrix,
        first_row: u32,
        scales: &[f32],
    ) -> Result<(), ReferenceError> {
        let matrix = &mut self.matrices[matrix.0];
        let blocks = matrix.scale_blocks() as usize;
        let to = Self::rows_of(&matrix.spec, &mut matrix.scales, blocks, first_row, scales.len(), blocks)?;
        to.copy_from_slice(scales);
        Ok(())
    }

    fn vector(&mut self, _label: &str, len: u32) -> Result<RefVector, ReferenceError> {
        self.vectors.push(vec![0.0; len.next_multiple_of(PITCH) as usize]);
        Ok(RefVector { index: self.vectors.len() - 1, len })
    }

    fn write_vector(&mut self, vector: &RefVector, values: &[f32]) -> Result<(), ReferenceError> {
        if values.len() != vector.len as usize {
            let detail = format!("{} values for a vector of {}", values.len(), vector.len);
            return Err(shape_error("vector", detail));
        }
        self.vectors[vector.index][..values.len()].copy_from_slice(values);
        Ok(())
    }

    async fn allocated(&mut self) -> Result<(), ReferenceError> {
        Ok(())
    }

    async fn relieve(&mut self) -> Result<(), ReferenceError> {
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ReferenceError> {
        Ok(())
    }
}

impl Steps for Reference {
    fn plan(&mut self) {
        self.planning = true;
    }

    fn compile(&mut self) {
        self.planning = false;
    }

    async fn compiled(&mut self, _progress: &mut dyn FnMut(u64, u64)) -> Result<(), ReferenceError> {
        Ok(())
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), ReferenceError> {
        let tokens = batch.ids.len() as u32;
        if let Some(detail) = self.shape.misfit(tokens, batch.position, true) {
            return Err(shape_error("batch", detail));
        }
        self.batch = BatchUniform { tokens, position: batch.position, splits: 1, tiles_per_split: 0 };
        self.ids = batch.ids.to_vec();
        Ok(())
    }

    fn embed(&mut self, table: &RefMatrix) -> Result<(), ReferenceError> {
        self.fill(Slot::X, |this, x| {
            let matrix = &this.matrices[table.0];
            let params = embed::Params {
                first_row: 0,
                rows: matrix.spec.rows,
                loads: matrix.loads(),
                pitch: pitch(&this.shape, Slot::X) / 4,
                scale_blocks: matrix.scale_blocks(),
                loads_per_block: linear::loads_per_block(&matrix.spec),
                width: matrix.spec.cols,
                padding: 0,
            };
            super::embed::embed(this.batch.tokens, &params, &this.ids, matrix.weights()?, &matrix.scales, x);
            Ok(())
        })
    }

    fn rms_norm(&mut self, x: Slot, weight: &RefVector, y: Slot) -> Result<(), ReferenceError> {
        self.fill(y, |this, out| {
            let params = rms_norm::Params {
                width: this.shape.width(x),
                pitch: pitch(&this.shape, x) / 4,
                last: u32::from(y == Slot::LastNormed),
                epsilon: this.shape.norm_epsilon,
            };
            let weight = &this.vectors[weight.index];
            super::rms_norm::rms_norm(&this.batch, &params, &this.slots[&x], weight, out);
            Ok(())
        })
    }

    fn linear(
        &mut self,
        x: Slot,
        weight: &RefMatrix,
        y: Slot,
        first: u32,
        write: Write,
    ) -> Result<(), ReferenceError> {
        self.fill(y, |this, out| this.product(x, *weight, (y, first), out, write))
    }

    fn gated_linear(&mut self, x: Slot, gate: &RefMatrix, up: &RefMatrix) -> Result<(), ReferenceError> {
        self.fill(Slot::Mlp, |this, mlp| {
            let mut up_out = vec![0.0; mlp.len()];
            this.product(x, *gate, (Slot::Mlp, 0), mlp, Write::Set)?;
            this.product(x, *up, (Slot::Mlp, 0), &mut up_out, Write::Set)?;
            let params = silu_mul::Params { pitch: pitch(&this.shape, Slot::Mlp) / 4, padding: [0; 3] };
            super::silu_mul::silu_mul(this.batch.tokens, &params, &up_out, mlp);
            Ok(())
        })
    }

    fn rope_store(&mut self, layer: u32) -> Result<(), ReferenceError> {
        self.fill(Slot::Qkv, |this, qkv| {
            let params = rope_store::Params {
                heads: this.shape.heads,
                kv_heads: this.shape.kv_heads,
                half: this.shape.head_dim / 2,
                pitch: pitch(&this.shape, Slot::Qkv),
                slots: this.shape.cache_slots(),
                padding: [0; 3],
            };
            let rope = this.shape.rope_table(this.batch.position, this.batch.tokens);
            let [keys, values] = &mut this.caches[layer as usize];
            super::rope_store_f8::store_as(this.shape.kv_cache)(
                &this.batch,
                &params,
                &rope,
                qkv,
                keys,
                values,
            );
            Ok(())
        })
    }

    fn attend(&mut self, layer: u32) -> Result<(), ReferenceError> {
        self.fill(Slot::AttnOut, |this, attn_out| {
            let params = attend::Params {
                kv_heads: this.shape.kv_heads,
                group: this.shape.heads / this.shape.kv_heads.max(1),
                half: this.shape.head_dim / 2,
                qkv_pitch: pitch(&this.shape, Slot::Qkv),
                out_pitch: pitch(&this.shape, Slot::AttnOut),
                slots: this.shape.cache_slots(),
                window: this.shape.window.unwrap_or(u32::MAX),
                scale: (this.shape.head_dim as f32).powf(-0.5),
            };
            let [keys, values] = &this.caches[layer as usize];
            let qkv = &this.slots[&Slot::Qkv];
            let form = this.shape.kv_cache;
            super::attend::attend_as(form, &this.batch, &params, qkv, keys, values, attn_out, &mut [], 1);
            Ok(())
        })
    }

    async fn finish(&mut self, logits: bool) -> Result<Option<Vec<f32>>, ReferenceError> {
        Ok((logits && !self.planning).then(|| self.read(Slot::Logits, 1)))
    }
}
