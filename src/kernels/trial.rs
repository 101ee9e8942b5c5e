//! Kernels that are tried when a device is opened: what comes out is compared with what should.

use crate::gpu::{Gpu, GpuError, Kernels, Pipeline, Purpose, read_buffer};

/// What a kernel with one input and one output of `words` f32 makes of `input`.
///
/// # Errors
/// Whatever the compiler and the device report.
pub(super) async fn output(
    gpu: &Gpu,
    kernels: &mut Kernels,
    pipeline: Pipeline,
    input: &[u8],
    words: u32,
    groups: u32,
) -> Result<Vec<f32>, GpuError> {
    kernels.wait(&[pipeline], &mut |_, _| ()).await?;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let bytes = u64::from(words) * 4;
    let from = gpu.buffer("trial", input.len() as u64, usage, Purpose::Activations)?;
    let to = gpu.buffer("trial", bytes, usage, Purpose::Activations)?;
    let mapped = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let staging = gpu.buffer("trial readback", bytes, mapped, Purpose::Activations)?;
    gpu.queue().write_buffer(from.raw(), 0, input);
    let group = kernels.bind(gpu, pipeline, &[&from, &to])?;
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    if let Some(raw) = kernels.raw(pipeline) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(raw);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(groups, 1, 1);
    }
    encoder.copy_buffer_to_buffer(to.raw(), 0, staging.raw(), 0, bytes);
    gpu.submit(Some(encoder.finish()));
    read_buffer(gpu, staging.raw(), words).await
}
