//! The decoder's steps on the CPU, in one thread: for visitors without WebGPU.
//!
//! ```text
//! lanes      four f32 side by side: portable, and WebAssembly's SIMD
//! formats    stored weights to lanes, and sums of products with them
//! memory     what a model takes, and whether there is as much
//! product    y = x W^T, for one token and for prompts
//! int8       the same with 8-bit integers and a scale per block
//! attention  softmax attention over the key/value cache
//! steps      the interface of the decoder
//! ```
//!
//! Weights stay in memory as they are stored, and are widened where they are multiplied: reading them is
//! what decoding takes its time for.

mod attention;
mod formats;
mod int8;
mod lanes;
mod memory;
mod product;
mod steps;

use std::collections::HashMap;
use std::pin::Pin;

use formats::{STEP, place};
use lanes::Lanes;
use product::{Stored, TOKENS};

use crate::dtype::{Dtype, I8_BLOCK};
use crate::steps::{DecoderShape, MatrixSpec, Slot, Store};

/// Rows of activations start at multiples of this many f32; the padding is zero.
const PITCH: u32 = STEP as u32;

/// Most tokens of a prompt in one pass.
const MAX_BATCH: u32 = 128;

/// Fewest, if the context allows: below it widening rows costs more than multiplying them.
const MIN_BATCH: u32 = 8;

/// Products of a pass over a prompt, about: between two passes a request may be stopped.
const PASS_PRODUCTS: u64 = 1 << 32;

/// A request that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// An allocation failed.
    #[error(
        "there is no memory for {label} ({bytes} bytes more); use a shorter context, weights of 8 bits or a smaller model"
    )]
    OutOfMemory {
        /// What was to be allocated.
        label: String,
        /// Its size.
        bytes: u64,
    },
    /// More than there is, known before any of it arrived.
    #[error(
        "this model takes {needed} bytes of memory on the processor ({weights} for weights, {kv_cache} for the \
         key/value cache, {activations} for activations), and there are {limit}; use a shorter context, weights \
         of 8 bits, a smaller model, or WebGPU"
    )]
    TooLarge {
        /// In all.
        needed: u64,
        /// For weights and their scales.
        weights: u64,
        /// For the key/value cache.
        kv_cache: u64,
        /// For activations.
        activations: u64,
        /// What there is.
        limit: u64,
    },
    /// Data that do not fit the tensor or batch they are for.
    #[error("{label}: {detail}")]
    Shape {
        /// The tensor.
        label: String,
        /// What does not fit.
        detail: String,
    },
}

fn shape_error(label: &str, detail: String) -> CpuError {
    CpuError::Shape { label: label.into(), detail }
}

/// Lets whoever else runs in this thread have a turn.
pub type Turn = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Handle of a matrix of this backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMatrix(usize);

/// Handle of a vector of this backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuVector(usize);

struct Matrix {
    spec: MatrixSpec,
    /// `(rows, cols)`, in fours of rows.
    bytes: Vec<u8>,
    /// `(rows, ceil(cols / scale_cols))`
    scales: Vec<f32>,
}

impl Matrix {
    fn stored(&self) -> Stored<'_> {
        let MatrixSpec { dtype, cols, scale_cols, .. } = self.spec;
        let (cols, scale_cols) = (cols as usize, scale_cols as usize);
        Stored { dtype, cols, bytes: &self.bytes, scales: &self.scales, scale_cols }
    }
}

/// The CPU backend for one decoder.
pub struct Cpu {
    shape: DecoderShape,
    matrices: Vec<Matrix>,
    vectors: Vec<Vec<f32>>,
    /// `(rows, pitch(slot))` each, rows up to whole tiles of tokens.
    slots: HashMap<Slot, Vec<f32>>,
    /// Keys and values by layer; `attention` has their order.
    caches: Vec<[Vec<u8>; 2]>,
    ids: Vec<u32>,
    position: u32,
    /// From which position on keys or values were NaN, which the cache's widening does not know: what attends to
    /// them is NaN. `u32::MAX`: none.
    poisoned: u32,
    /// Of the batch, `(T, head_dim / 2)`.
    rope: Vec<[f32; 2]>,
    prompt: bool,
    planning: bool,
    turn: Option<Turn>,
    up: Vec<f32>,
    scratch: Scratch,
}

/// What stays allocated between steps.
#[derive(Default)]
struct Scratch {
    arranged: Vec<[f32; STEP]>,
    inputs: int8::Inputs,
    wide: Vec<Lanes>,
    attention: attention::Scratch,
}

impl Cpu {
    /// Tokens of a prompt in one pass, for a model of this shape.
    pub fn max_batch(shape: &DecoderShape) -> u32 {
        let products = |a: u32, b: u32| u64::from(a) * u64::from(b);
        let layer = products(shape.hidden, shape.qkv_width() + shape.q_width())
            + 3 * products(shape.hidden, shape.intermediate);
        let tokens = PASS_PRODUCTS / (layer * u64::from(shape.layers)).max(1);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX).clamp(MIN_BATCH, MAX_BATCH);
        tokens.min(shape.context.max(1))
    }

    /// Allocates activations and key/value cache. `turn` is taken after every pass.
    ///
    /// # Errors
    /// [`CpuError::OutOfMemory`].
    pub fn new(shape: DecoderShape, turn: Option<Turn>) -> Result<Cpu, CpuError> {
        let all =
            [Slot::X, Slot::Normed, Slot::Qkv, Slot::AttnOut, Slot::Mlp, Slot::LastNormed, Slot::Logits];
        let rows = |slot| shape.rows(slot, shape.max_batch).next_multiple_of(TOKENS as u32);
        let elements = |slot| u64::from(pitch(&shape, slot)) * u64::from(rows(slot));
        let label = "activations";
        let mut slots = HashMap::new();
        for slot in all {
            slots.insert(slot, zeros(label, elements(slot))?);
        }
        let [key_bytes, value_bytes] = layout(&shape).bytes();
        let mut caches = Vec::new();
        for _ in 0..shape.layers {
            let label = "the key/value cache";
            caches.push([zeros(label, key_bytes)?, zeros(label, value_bytes)?]);
        }
        Ok(Cpu {
            up: zeros(label, elements(Slot::Mlp))?,
            matrices: Vec::new(),
            vectors: Vec::new(),
            slots,
            caches,
            ids: Vec::new(),
            position: 0,
            poisoned: u32::MAX,
            rope: Vec::new(),
            prompt: false,
            planning: false,
            turn,
            scratch: Scratch::default(),
            shape,
        })
    }

    /// Bytes for weights, key/value cache and activations.
    pub fn bytes(&self) -> [u64; 3] {
        let of = |values: &Vec<f32>| values.len() as u64 * 4;
        let matrices = self.matrices.iter().map(|matrix| matrix.bytes.len() as u64 + of(&matrix.scales));
        let weights = matrices.sum::<u64>() + self.vectors.iter().map(of).sum::<u64>();
        let caches = self.caches.iter().flatten().map(|cache| cache.len() as u64).sum();
        [weights, caches, self.slots.values().map(of).sum::<u64>() + of(&self.up)]
    }

    /// Contents of an activation, for tests. `(rows, width(slot))`
    pub fn read(&self, slot: Slot, rows: u32) -> Vec<f32> {
        let (width, pitch) = (self.shape.width(slot) as usize, pitch(&self.shape, slot) as usize);
        let rows = self
            .slots
            .get(&slot)
            .map(Vec::as_slice)
            .unwrap_or_default()
            .chunks_exact(pitch.max(1))
            .take(rows as usize);
        rows.flat_map(|row| row.iter().take(width)).copied().collect()
    }

    fn matrix_of(&self, handle: CpuMatrix) -> Result<&Matrix, CpuError> {
        self.matrices.get(handle.0).ok_or_else(|| shape_error("matrix", "there is no such matrix".into()))
    }
}

fn pitch(shape: &DecoderShape, slot: Slot) -> u32 {
    shape.width(slot).next_multiple_of(PITCH)
}

/// How the cache of a layer lies: with more positions than asked for, up to whole tiles.
fn layout(shape: &DecoderShape) -> attention::Layout {
    let (slots, tile) = (shape.cache_slots().max(1), attention::TILE as u32);
    let slots = slots.checked_next_multiple_of(tile).unwrap_or(u32::MAX / tile * tile) as usize;
    attention::Layout {
        kv_heads: shape.kv_heads as usize,
        head_dim: shape.head_dim as usize,
        slots,
        form: shape.kv_cache,
    }
}

/// Rows and columns of a matrix, up to whole fours and steps.
fn filled_up(spec: &MatrixSpec) -> [u64; 2] {
    [(spec.rows, formats::ROWS), (spec.cols, STEP)]
        .map(|(size, whole)| u64::from(size).next_multiple_of(whole as u64))
}

/// Memory that may be refused: a browser gives a page 4 GiB at most, and often less.
fn zeros<T: Clone + Default>(label: &str, count: u64) -> Result<Vec<T>, CpuError> {
    let refused = || {
        let bytes = count.saturating_mul(size_of::<T>() as u64);
        CpuError::OutOfMemory { label: label.into(), bytes }
    };
    let count = usize::try_from(count).map_err(|_| refused())?;
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| refused())?;
    values.resize(count, T::default());
    Ok(values)
}

/// Whether `count` elements are whole rows, and fit from `first_row` on.
fn check_rows(spec: &MatrixSpec, per_row: usize, first_row: u32, count: usize) -> Result<(), CpuError> {
    let rows = (count / per_row.max(1)) as u64;
    let whole = per_row != 0 && count.is_multiple_of(per_row);
    if whole && rows + u64::from(first_row) <= u64::from(spec.rows) {
        return Ok(());
    }
    Err(shape_error(&spec.label, format!("{count} elements from row {first_row} of {} on", spec.rows)))
}

impl Store for Cpu {
    type Matrix = CpuMatrix;
    type Vector = CpuVector;
    type Error = CpuError;

    fn matrix(&mut self, spec: &MatrixSpec) -> Result<CpuMatrix, CpuError> {
        let known = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F8E4m3, Dtype::F8E5m2, Dtype::I8];
        if !known.contains(&spec.dtype) {
            return Err(shape_error(&spec.label, format!("{} cannot be multiplied", spec.dtype)));
        }
        let per_row = if spec.scale_cols == 0 { 0 } else { spec.cols.div_ceil(spec.scale_cols) };
        if per_row > 1 && !spec.scale_cols.is_multiple_of(PITCH) {
            let detail = format!("blocks of {} columns are no multiple of {PITCH}", spec.scale_cols);
            return Err(shape_error(&spec.label, detail));
        }
        let whole = spec.cols.is_multiple_of(PITCH) && spec.scale_cols as usize == I8_BLOCK;
        if spec.dtype == Dtype::I8 && !whole {
            let detail = format!("I8 has {} columns in blocks of {}", spec.cols, spec.scale_cols);
            return Err(shape_error(&spec.label, detail));
        }
        let [rows, cols] = filled_up(spec);
        let bytes = zeros(&spec.label, rows.saturating_mul(cols * spec.dtype.size_bytes()))?;
        let scales = zeros(&spec.label, rows * u64::from(per_row))?;
        self.matrices.push(Matrix { spec: spec.clone(), bytes, scales });
        Ok(CpuMatrix(self.matrices.len() - 1))
    }

    fn write_rows(&mut self, matrix: &CpuMatrix, first_row: u32, bytes: &[u8]) -> Result<(), CpuError> {
        let Some(Matrix { spec, bytes: own, .. }) = self.matrices.get_mut(matrix.0) else { return Ok(()) };
        let row_bytes = spec.cols as usize * spec.dtype.size_bytes() as usize;
        check_rows(spec, row_bytes, first_row, bytes.len())?;
        let first_row = first_row as usize;
        match spec.dtype.size_bytes() {
            1 => place::<_, STEP>(bytes, row_bytes, first_row, own),
            2 => place::<_, { 2 * STEP }>(bytes, row_bytes, first_row, own),
            _ => place::<_, { 4 * STEP }>(bytes, row_bytes, first_row, own),
        }
        Ok(())
    }

    fn write_scales(&mut self, matrix: &CpuMatrix, first_row: u32, scales: &[f32]) -> Result<(), CpuError> {
        let Some(Matrix { spec, scales: own, .. }) = self.matrices.get_mut(matrix.0) else { return Ok(()) };
        let per_row = spec.cols.div_ceil(spec.scale_cols.max(1)) as usize;
        check_rows(spec, per_row, first_row, scales.len())?;
        place::<_, 1>(scales, per_row, first_row as usize, own);
        Ok(())
    }

    fn vector(&mut self, label: &str, len: u32) -> Result<CpuVector, CpuError> {
        self.vectors.push(zeros(label, u64::from(len))?);
        Ok(CpuVector(self.vectors.len() - 1))
    }

    fn write_vector(&mut self, vector: &CpuVector, values: &[f32]) -> Result<(), CpuError> {
        match self.vectors.get_mut(vector.0) {
            Some(vector) if vector.len() == values.len() => {
                vector.copy_from_slice(values);
                Ok(())
            }
            _ => {
                Err(shape_error("vector", format!("{} values for a vector of another length", values.len())))
            }
        }
    }

    async fn allocated(&mut self) -> Result<(), CpuError> {
        Ok(())
    }

    async fn relieve(&mut self) -> Result<(), CpuError> {
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), CpuError> {
        Ok(())
    }
}
