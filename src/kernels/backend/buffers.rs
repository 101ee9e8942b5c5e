//! Activations and key/value cache of the WebGPU backend.

use std::collections::HashMap;

use crate::gpu::{Gpu, GpuBuffer, GpuError, Purpose, buffer_bytes};
use crate::kernels::attend::Tiling;
use crate::kernels::attend_one::OneTiling;
use crate::kernels::{BatchUniform, Choice, PITCH, Sizes};
use crate::steps::{DecoderShape, Slot};

/// The buffers of a forward pass.
pub(super) struct Activations {
    pub(super) slots: HashMap<Slot, GpuBuffer>,
    /// What readers of a norm take in: X with its gain, and squares of X.
    pub(super) gained: GpuBuffer,
    pub(super) squares: GpuBuffer,
    pub(super) up: GpuBuffer,
    pub(super) ids: GpuBuffer,
    pub(super) rope: GpuBuffer,
    pub(super) pieces: GpuBuffer,
    pub(super) batch: GpuBuffer,
    pub(super) logits_staging: GpuBuffer,
}

/// All but [`Slot::LastNormed`]: the product behind it takes in what a norm's readers do.
const SLOTS: [Slot; 6] = [Slot::X, Slot::Normed, Slot::Qkv, Slot::AttnOut, Slot::Mlp, Slot::Logits];

/// f32 of a slot's buffer.
fn slot_words(shape: &DecoderShape, slot: Slot) -> u64 {
    u64::from(shape.width(slot).next_multiple_of(PITCH)) * u64::from(shape.rows(slot, shape.max_batch))
}

/// f32 of the buffer in which parts of split attention meet.
fn piece_words(shape: &DecoderShape, sizes: Sizes) -> u64 {
    let tiling = OneTiling::new(shape, sizes).map(|one| one.tiling);
    let splits = u64::from(tiling.unwrap_or_else(|| Tiling::new(shape, false, sizes)).most_splits(shape));
    u64::from(shape.heads) * splits * (u64::from(shape.head_dim) + 2)
}

/// f32 of the buffers for a norm's readers: passes that are no prompt have few tokens.
fn norm_words(shape: &DecoderShape) -> [u64; 2] {
    let words = u64::from(shape.width(Slot::X).next_multiple_of(PITCH));
    [words, words / 4].map(|words| words * u64::from(shape.max_batch.min(Choice::MOST_SHORT)))
}

/// Bytes of the activations' buffers, but for some parameters of 16 to 48 bytes each.
fn activation_bytes(shape: &DecoderShape, sizes: Sizes) -> impl Iterator<Item = u64> {
    let batch = u64::from(shape.max_batch);
    let slots = SLOTS.map(|slot| slot_words(shape, slot));
    let rest = [batch, batch * u64::from(shape.head_dim), piece_words(shape, sizes), u64::from(shape.vocab)];
    let up = slot_words(shape, Slot::Mlp);
    slots.into_iter().chain(norm_words(shape)).chain([up]).chain(rest).map(|words| buffer_bytes(words * 4))
}

/// Bytes of the caches of all layers, and of all activations.
pub(super) fn memory(shape: &DecoderShape, sizes: Sizes) -> [u64; 2] {
    let caches = u64::from(shape.layers) * 2 * buffer_bytes(shape.layer_cache_bytes());
    [caches, activation_bytes(shape, sizes).sum()]
}

/// Bytes of the largest activation: they are not split.
pub(super) fn largest_activation(shape: &DecoderShape, sizes: Sizes) -> u64 {
    activation_bytes(shape, sizes).max().unwrap_or(0)
}

/// Allocates them, zeroed.
pub(super) fn allocate_activations(gpu: &Gpu, shape: &DecoderShape) -> Result<Activations, GpuError> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let words = |label: &str, words: u64| gpu.buffer(label, words * 4, usage, Purpose::Activations);
    let mut slots = HashMap::new();
    for slot in SLOTS {
        slots.insert(slot, words(&format!("{slot:?}"), slot_words(shape, slot))?);
    }
    let batch = u64::from(shape.max_batch);
    let sizes = Sizes::of(gpu.tier());
    let (pieces, [gained, squares]) = (piece_words(shape, sizes), norm_words(shape));
    let mapped = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    Ok(Activations {
        slots,
        gained: words("X with its gain", gained)?,
        squares: words("squares of X", squares)?,
        up: words("up", slot_words(shape, Slot::Mlp))?,
        ids: words("ids", batch)?,
        rope: words("rope", batch * u64::from(shape.head_dim))?,
        pieces: words("attention pieces", pieces)?,
        batch: gpu.buffer("batch", size_of::<BatchUniform>() as u64, uniform, Purpose::Activations)?,
        logits_staging: gpu.buffer(
            "logits readback",
            u64::from(shape.vocab) * 4,
            mapped,
            Purpose::Activations,
        )?,
    })
}

/// Allocates keys and values of every layer.
pub(super) fn allocate_caches(gpu: &Gpu, shape: &DecoderShape) -> Result<Vec<[GpuBuffer; 2]>, GpuError> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let cache = |label: &str| gpu.buffer(label, shape.layer_cache_bytes(), usage, Purpose::KvCache);
    (0..shape.layers).map(|_| Ok([cache("key cache")?, cache("value cache")?])).collect()
}
