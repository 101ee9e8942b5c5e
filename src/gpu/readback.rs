//! GPU -> host.

use super::{Gpu, GpuError};

/// Maps `staging` (MAP_READ), which a submitted copy has filled, and returns its
/// first `words` f32 values.
///
/// # Errors
/// [`GpuError::Lost`] or whatever kept the buffer from being mapped.
pub async fn read_buffer(gpu: &Gpu, staging: &wgpu::Buffer, words: u32) -> Result<Vec<f32>, GpuError> {
    let bytes = u64::from(words) * 4;
    let (sender, receiver) = futures_channel::oneshot::channel();
    staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
        // The receiver is gone only if nobody waits any more.
        let _ = sender.send(result);
    });
    gpu.poll();
    let mapped = receiver.await;
    gpu.check()?;
    if !matches!(mapped, Ok(Ok(()))) {
        return Err(GpuError::Lost { detail: "a result could not be read back".into() });
    }
    let values = staging
        .get_mapped_range(0..bytes)
        .map(|view| bytemuck::pod_collect_to_vec::<u8, f32>(&view))
        .map_err(|e| GpuError::Rejected { label: "readback".into(), detail: e.to_string() });
    staging.unmap();
    values
}
