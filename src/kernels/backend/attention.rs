//! Parameters of attention, and that of prompts.

use super::{Bound, StepKey, WebGpu};
use crate::gpu::GpuError;
use crate::kernels::attend_many::ManyTiling;
use crate::kernels::{Sizes, attend};
use crate::steps::Slot;

impl WebGpu {
    pub(super) fn attend_params(&self) -> attend::Params {
        let shape = &self.shape;
        attend::Params {
            kv_heads: shape.kv_heads,
            group: shape.heads / shape.kv_heads.max(1),
            half: shape.head_dim / 2,
            qkv_pitch: self.pitch(Slot::Qkv),
            out_pitch: self.pitch(Slot::AttnOut),
            slots: shape.cache_slots(),
            window: shape.window.unwrap_or(u32::MAX),
            scale: (shape.head_dim as f32).powf(-0.5),
        }
    }

    /// How a prompt's attention is cut, where a kernel of its own serves it.
    pub(super) fn many(&self) -> Option<ManyTiling> {
        if Sizes::is_brief(self.gpu.tier(), &self.shape) {
            return ManyTiling::brief(&self.shape);
        }
        ManyTiling::new(&self.shape, self.sizes)
    }

    /// Attention of a prompt's batch.
    pub(super) fn attend_prompt(&mut self, layer: u32, many: ManyTiling) -> Result<(), GpuError> {
        let grid = many.grid(&self.shape, self.batch.tokens);
        let bind = |this: &mut Self| {
            let kernel = this.over_cache(many.kernel());
            let Some(pipeline) = this.pipeline("attend_many", Some(kernel))? else { return Ok(None) };
            let params = this.uniform(&this.attend_params())?;
            let [keys, values] = this.cache(layer)?;
            let (qkv, out) = (this.slot(Slot::Qkv)?, this.slot(Slot::AttnOut)?);
            let buffers = [&this.activations.batch, this.params(&params)?, qkv, keys, values, out];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::Attend { layer, prompt: true }, bind, [grid])
    }
}
