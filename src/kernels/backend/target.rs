//! Where products go.

use super::WebGpu;
use crate::gpu::{GpuBuffer, GpuError};
use crate::steps::Slot;

/// A destination of a product: an activation, or the scratch for `up`.
pub(super) enum GpuBufferRef {
    Slot(Slot),
    Up,
}

impl GpuBufferRef {
    pub(super) fn single(&self) -> bool {
        matches!(self, GpuBufferRef::Slot(Slot::LastNormed | Slot::Logits))
    }

    pub(super) fn pitch(&self, backend: &WebGpu) -> u32 {
        match self {
            GpuBufferRef::Slot(slot) => backend.pitch(*slot),
            GpuBufferRef::Up => backend.pitch(Slot::Mlp),
        }
    }

    pub(super) fn buffer<'a>(&self, backend: &'a WebGpu) -> Result<&'a GpuBuffer, GpuError> {
        match self {
            GpuBufferRef::Slot(slot) => backend.slot(*slot),
            GpuBufferRef::Up => Ok(&backend.activations.up),
        }
    }
}
