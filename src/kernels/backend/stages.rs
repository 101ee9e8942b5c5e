//! What is compiled first, and what waits for it.

use super::{Stage, WebGpu};
use crate::gpu::{GpuError, Pipeline};

impl WebGpu {
    /// Starts to compile what was planned: all of it, or only what the first token waits for.
    pub(super) fn start_stages(&mut self, first: bool) {
        for (stage, kernel) in std::mem::take(&mut self.planned) {
            if first && stage != Stage::Prompt {
                self.planned.push((stage, kernel));
            } else {
                self.stages.push((stage, self.kernels.start(&self.gpu, kernel)));
            }
        }
    }

    /// The kernels of a stage.
    pub(super) fn stage(&self, wanted: Stage) -> Vec<Pipeline> {
        self.stages.iter().filter(|(stage, _)| *stage == wanted).map(|(_, pipeline)| *pipeline).collect()
    }

    /// Waits until tokens can be chosen here, which a chat does not: the host chooses its first ones.
    ///
    /// # Errors
    /// What the compiler says.
    pub async fn choosable(&mut self) -> Result<(), GpuError> {
        let all = [Stage::Decode, Stage::Best, Stage::Draw];
        let wanted: Vec<_> = all.into_iter().flat_map(|s| self.stage(s)).collect();
        self.kernels.wait(&wanted, &mut |_, _| ()).await
    }
}
