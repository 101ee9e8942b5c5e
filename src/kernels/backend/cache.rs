//! The key/value cache and the kernels of its form.

use super::WebGpu;
use crate::dtype::Dtype;
use crate::gpu::{GpuBuffer, GpuError, Kernel};
use crate::kernels::cache_form::in_f8;
use crate::kernels::{Grid, rope_store, rope_store_f8};
use crate::steps::CacheForm;

impl WebGpu {
    /// Keys and values of a layer.
    pub(super) fn cache(&self, layer: u32) -> Result<&[GpuBuffer; 2], GpuError> {
        let missing =
            || GpuError::Rejected { label: format!("layer {layer}"), detail: "no such cache".into() };
        self.caches.get(layer as usize).ok_or_else(missing)
    }

    /// What stores in this cache, and its workgroups for this batch.
    pub(super) fn store_kernel(&self) -> (Kernel, Grid) {
        let tokens = self.batch.tokens;
        match self.shape.kv_cache {
            CacheForm::F16 => (rope_store::kernel(), rope_store::grid(&self.shape, tokens)),
            CacheForm::F8 => (rope_store_f8::kernel(), rope_store_f8::grid(&self.shape, tokens)),
        }
    }

    /// A kernel of attention over this cache.
    pub(super) fn over_cache(&self, kernel: Kernel) -> Kernel {
        match self.shape.kv_cache {
            CacheForm::F16 => kernel,
            CacheForm::F8 => in_f8(kernel, self.decoder(Dtype::F8E4m3)),
        }
    }
}
