//! How large workgroups and their tiles are.

use crate::gpu::DeviceTier;

/// What workgroups are sized for. The mathematics is the same; sizes are override constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// A GPU: tiles that keep its registers and workgroup memory busy.
    Gpu,
    /// An adapter that computes on the CPU. A barrier is dear there, workgroup memory is no nearer
    /// than any other, and SwiftShader compiles the zeroing of each of its words into
    /// instructions of their own: half a millisecond a word, 1.5 s for a GPU's tile of `matmul`.
    Cpu,
}

impl Sizes {
    /// Both, for tests.
    pub const ALL: [Sizes; 2] = [Sizes::Gpu, Sizes::Cpu];

    /// What suits a device.
    pub fn of(tier: &DeviceTier) -> Sizes {
        if tier.software { Sizes::Cpu } else { Sizes::Gpu }
    }
}
