//! What a pass is made of and how long each kernel takes, by timestamps. For the bench.

use super::{Dispatch, WebGpu};
use crate::gpu::{GpuBuffer, GpuError, Purpose, read_buffer};

/// Dispatches of one pass that are timed at most: a set of queries holds 4096.
const MOST: usize = 2048;

/// Kernels with their dispatches and milliseconds, in the order in which they first ran.
type Kernels = Vec<(&'static str, u64, f64)>;

/// Dispatches by kernel, and their time.
#[derive(Default)]
pub(super) struct Profile {
    on: bool,
    buffers: Option<(wgpu::QuerySet, GpuBuffer, GpuBuffer)>,
    kernels: Kernels,
}

impl Profile {
    fn add(&mut self, name: &'static str, count: u64, ms: f64) {
        match self.kernels.iter_mut().find(|(other, ..)| *other == name) {
            Some((_, counted, timed)) => (*counted, *timed) = (*counted + count, *timed + ms),
            None => self.kernels.push((name, count, ms)),
        }
    }
}

impl WebGpu {
    /// Counts dispatches from here on, and times them where the device can; each is then a pass
    /// of its own, so that the whole takes longer.
    pub fn profile(&mut self, on: bool) {
        self.profile.on = on;
        self.profile.kernels.clear();
    }

    /// Kernels with their dispatches and milliseconds since [`WebGpu::profile`].
    pub fn profiled(&mut self) -> &mut Kernels {
        &mut self.profile.kernels
    }

    fn kernel_of(&self, dispatch: &Dispatch) -> &'static str {
        let bound = self.bound.get(&dispatch.key).and_then(|parts| parts.get(dispatch.part));
        bound.map_or("", |bound| self.kernels.name(bound.pipeline))
    }

    /// Encodes a pass per dispatch between two timestamps; `None` where there is nothing to time with.
    pub(super) fn encode_timed(
        &mut self,
        dispatches: &[Dispatch],
    ) -> Result<Option<wgpu::CommandEncoder>, GpuError> {
        if !self.profile.on {
            return Ok(None);
        }
        for dispatch in dispatches {
            let name = self.kernel_of(dispatch);
            self.profile.add(name, 1, 0.0);
        }
        if !self.gpu.tier().timestamps || dispatches.len() > MOST {
            return Ok(None);
        }
        if self.profile.buffers.is_none() {
            let queries = self.gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * MOST as u32,
            });
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let mapped = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let bytes = 2 * MOST as u64 * 8;
            let resolved = self.gpu.buffer("timestamps", bytes, usage, Purpose::Activations)?;
            let staging = self.gpu.buffer("timestamp readback", bytes, mapped, Purpose::Activations)?;
            self.profile.buffers = Some((queries, resolved, staging));
        }
        let Some((queries, resolved, staging)) = &self.profile.buffers else { return Ok(None) };
        let mut encoder =
            self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (index, dispatch) in (0..).zip(dispatches) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: queries,
                    beginning_of_pass_write_index: Some(2 * index),
                    end_of_pass_write_index: Some(2 * index + 1),
                }),
            });
            self.encode_one(&mut pass, dispatch)?;
        }
        let count = 2 * dispatches.len() as u32;
        encoder.resolve_query_set(queries, 0..count, resolved.raw(), 0);
        encoder.copy_buffer_to_buffer(resolved.raw(), 0, staging.raw(), 0, u64::from(count) * 8);
        Ok(Some(encoder))
    }

    /// Adds the times of a pass that has run.
    pub(super) async fn read_times(&mut self, dispatches: &[Dispatch]) -> Result<(), GpuError> {
        let Some((_, _, staging)) = &self.profile.buffers else { return Ok(()) };
        let words = read_buffer(&self.gpu, staging.raw(), 4 * dispatches.len() as u32).await?;
        let bits: Vec<u64> = words.iter().map(|word| u64::from(word.to_bits())).collect();
        let period = f64::from(self.gpu.queue().get_timestamp_period());
        for (dispatch, stamps) in dispatches.iter().zip(bits.chunks_exact(4)) {
            let &[low, high, end_low, end_high] = stamps else { continue };
            let ticks = (end_low | end_high << 32).saturating_sub(low | high << 32);
            let name = self.kernel_of(dispatch);
            self.profile.add(name, 0, ticks as f64 * period / 1e6);
        }
        Ok(())
    }
}
