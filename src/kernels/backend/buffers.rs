//! Activations and key/value cache of the WebGPU backend.

use std::collections::HashMap;

use super::PITCH;
use crate::gpu::{Gpu, GpuBuffer, GpuError, Purpose};
use crate::kernels::attend::Tiling;
use crate::kernels::{BatchUniform, Sizes};
use crate::steps::{DecoderShape, Slot};

/// The buffers of a forward pass.
pub(super) struct Activations {
    pub(super) slots: HashMap<Slot, GpuBuffer>,
    pub(super) up: GpuBuffer,
    pub(super) ids: GpuBuffer,
    pub(super) rope: GpuBuffer,
    pub(super) pieces: GpuBuffer,
    pub(super) batch: GpuBuffer,
    pub(super) logits_staging: GpuBuffer,
}
/// Allocates them, zeroed.
pub(super) fn allocate_activations(gpu: &Gpu, shape: &DecoderShape) -> Result<Activations, GpuError> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let words = |label: &str, words: u64| gpu.buffer(label, words * 4, usage, Purpose::Activations);
    let all = [Slot::X, Slot::Normed, Slot::Qkv, Slot::AttnOut, Slot::Mlp, Slot::LastNormed, Slot::Logits];
    let size = |slot: Slot| {
        u64::from(shape.width(slot).next_multiple_of(PITCH)) * u64::from(shape.rows(slot, shape.max_batch))
    };
    let mut slots = HashMap::new();
    for slot in all {
        slots.insert(slot, words(&format!("{slot:?}"), size(slot))?);
    }
    let batch = u64::from(shape.max_batch);
    let splits = u64::from(Tiling::new(shape, false, Sizes::of(gpu.tier())).most_splits(shape));
    let pieces = u64::from(shape.heads) * splits * (u64::from(shape.head_dim) + 2);
    let mapped = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    Ok(Activations {
        slots,
        up: words("up", size(Slot::Mlp))?,
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
    let bytes = u64::from(shape.cache_slots()) * u64::from(shape.kv_width()) * 2;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let cache = |label: &str| gpu.buffer(label, bytes, usage, Purpose::KvCache);
    (0..shape.layers).map(|_| Ok([cache("key cache")?, cache("value cache")?])).collect()
}
