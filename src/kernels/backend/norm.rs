//! What the readers of a norm take in, where no product left it.

use super::{Activations, Bound, GpuVector, StepKey, WebGpu};
use crate::gpu::GpuError;
use crate::kernels::gain;
use crate::steps::Slot;

impl WebGpu {
    /// A norm whose readers take in x with its gain and squares of x: left by the product that wrote x, or made
    /// here.
    pub(super) fn norm_for_readers(&mut self, x: Slot, weight: &GpuVector, y: Slot) -> Result<(), GpuError> {
        let last = y == Slot::LastNormed;
        self.scaled_slot = Some(y);
        // The last of several rows is to be the first.
        if self.gained_by == Some(weight.id) && !(last && self.batch.tokens > 1) {
            return Ok(());
        }
        self.gained_by = Some(weight.id).filter(|_| !last);
        let (pitch, rows) = (self.pitch(x), if last { 1 } else { self.batch.tokens });
        let bind = |this: &mut Self| {
            let Some(pipeline) = this.pipeline("gain", Some(gain::kernel()))? else {
                return Ok(None);
            };
            let params = gain::Params { pitch: pitch / 4, last: u32::from(last), padding: [0; 2] };
            let params = this.uniform(&params)?;
            let Activations { batch, gained, squares, .. } = &this.activations;
            let buffers = [batch, this.params(&params)?, this.slot(x)?, &weight.buffer, gained, squares];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::Gain { weight: weight.id, last }, bind, [gain::grid(pitch, rows)])
    }
}
