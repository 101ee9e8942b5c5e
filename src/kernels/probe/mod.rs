//! What an adapter can do at most: its best reads, products, merges, dispatches, writes and readbacks, kernel by
//! kernel at a model's own shapes. For the bench.

mod build;

use web_time::Instant;

use super::merge::MergeKernels;
use super::{Grid, WebGpu, decode_fp8};
use crate::dtype::Dtype;
use crate::gpu::{Gpu, GpuBuffer, GpuError, GpuMatrix, Kernels, Pipeline, Purpose, read_buffer};
use crate::steps::MatrixSpec;
pub use build::compositions;
use build::{Builder, block, fill};

/// Bytes that a sample walks through, so that no cache holds them: the largest GPUs' hold 128 MiB.
const WALK_BYTES: u64 = 256 << 20;
/// The same where an adapter is software, which takes its time to fill them, or has no room for more.
const LEAST_WALK_BYTES: u64 = 64 << 20;
/// Bytes of one write: what a load's writes have at most.
const WRITE_BYTES: u64 = 256 << 10;
/// A sample takes about this long.
const SAMPLE_MS: f64 = 60.0;
/// After the first round, kernels slower than this part of the best one of their kind are left out.
const WORTH: f64 = 0.85;

/// What a probe tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read of memory, bytes.
    Stream,
    /// A product with one token, bytes of weights of this type.
    Matvec(Dtype),
    /// A product with many tokens, operations on weights of this type.
    Matmul(Dtype),
    /// A plain f32 product that owes nothing to the model's kernels, operations.
    Product,
    /// The sums of a SLERP, bytes read.
    Reduce,
    /// Its blend, bytes read and written.
    Blend,
    /// Dispatches that each wait for the one before.
    Dispatch,
}

/// One kernel on one shape.
pub struct Probe {
    /// What it tells.
    pub kind: Kind,
    /// Which shape.
    pub shape: String,
    /// Which kernel.
    pub variant: String,
    /// Work per second: bytes, operations or dispatches.
    pub samples: Vec<f64>,
    pipeline: Pipeline,
    groups: Vec<wgpu::BindGroup>,
    grid: Grid,
    /// Work of one dispatch.
    work: f64,
    repeats: usize,
    /// Whether it was left out as slow.
    dropped: bool,
}

/// All probes of an adapter.
pub struct Limits {
    /// One for each kernel and shape.
    pub probes: Vec<Probe>,
    /// Bytes per second that a loop of writes brings to the device.
    pub writes: Vec<f64>,
    /// Milliseconds to submit nothing and read a word back.
    pub readbacks: Vec<f64>,
    /// Bytes of the buffers that are read, and of the matrices of a shape unless they are very small.
    pub walk_bytes: u64,
    sample_ms: f64,
    kernels: Kernels,
    target: GpuBuffer,
    staging: GpuBuffer,
    // What the bind groups refer to.
    _matrices: Vec<GpuMatrix>,
    _buffers: Vec<GpuBuffer>,
}

/// A matrix in words.
pub fn shape_name(spec: &MatrixSpec) -> String {
    format!("{} x {} {}", spec.rows, spec.cols, spec.dtype)
}

impl Limits {
    /// Prepares all probes for a model's matrices; with `quick` fewer kernels and shorter samples.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub async fn new(backend: &WebGpu, matrices: &[MatrixSpec], quick: bool) -> Result<Limits, GpuError> {
        let tier = backend.gpu().tier();
        let [wanted, least] = [WALK_BYTES, LEAST_WALK_BYTES].map(|bytes| bytes.min(tier.max_binding_bytes));
        if tier.software {
            return Limits::walking(backend, matrices, quick, least).await;
        }
        match Limits::walking(backend, matrices, quick, wanted).await {
            Err(GpuError::OutOfMemory { .. }) => Limits::walking(backend, matrices, quick, least).await,
            made => made,
        }
    }

    async fn walking(
        backend: &WebGpu,
        matrices: &[MatrixSpec],
        quick: bool,
        walk_bytes: u64,
    ) -> Result<Limits, GpuError> {
        let gpu = backend.gpu();
        let (kernels, probes, buffers) = (Kernels::default(), Vec::new(), Vec::new());
        let mut b = Builder { gpu, walk_bytes, kernels, probes, buffers };
        let mut held = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for spec in matrices {
            let shape = format!("{} {}", shape_name(spec), spec.scale_cols);
            if seen.contains(&shape) {
                continue;
            }
            seen.push(shape);
            let decoders = match quick {
                true => vec![backend.decoder(spec.dtype)],
                false => decode_fp8::all_exact(gpu, &mut b.kernels, spec.dtype).await?,
            };
            held.extend(b.products(backend, spec, &decoders, quick)?);
            gpu.idle().await?;
        }
        let mut merge = MergeKernels::default();
        let opaque = merge.fastest_sums(gpu, Dtype::Bf16).await?;
        let tiny = merge.fastest_blend(gpu, Dtype::Bf16, Dtype::Bf16).await?;
        b.rest(opaque, tiny)?;
        b.kernels.finish(&mut |_, _| ()).await?;
        gpu.idle().await?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.buffer("bench readback", 16, usage, Purpose::Activations)?;
        let bytes = walk_bytes.min(LEAST_WALK_BYTES);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let target = gpu.buffer("bench writes", bytes, usage, Purpose::Activations)?;
        Ok(Limits {
            probes: b.probes,
            writes: Vec::new(),
            readbacks: Vec::new(),
            walk_bytes,
            sample_ms: if quick { SAMPLE_MS / 3.0 } else { SAMPLE_MS },
            kernels: b.kernels,
            target,
            staging,
            _matrices: held,
            _buffers: b.buffers,
        })
    }

    /// Times every probe once more.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub async fn sample(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        let first = self.readbacks.is_empty();
        for probe in self.probes.iter_mut().filter(|probe| !probe.dropped) {
            if first {
                probe.calibrate(gpu, &self.kernels, self.sample_ms).await?;
            }
            let ms = probe.run(gpu, &self.kernels).await?;
            probe.samples.push(probe.work * probe.repeats as f64 / ms * 1e3);
        }
        if first {
            let best = |p: &Probe| self.best_of(|o| o.kind == p.kind && o.shape == p.shape);
            let best: Vec<f64> = self.probes.iter().map(best).collect();
            for (probe, best) in self.probes.iter_mut().zip(best) {
                probe.dropped = probe.rate() < WORTH * best;
            }
        }
        let block = block();
        for _ in 0..2 {
            let started = Instant::now();
            fill(gpu, &self.target, &block);
            gpu.idle().await?;
            self.writes.push(self.target.raw().size() as f64 / started.elapsed().as_secs_f64());
        }
        for _ in 0..5 {
            let started = Instant::now();
            gpu.submit(None);
            read_buffer(gpu, self.staging.raw(), 1).await?;
            self.readbacks.push(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(())
    }

    /// The best median of the probes that `wanted` picks; 0 if there are none.
    pub fn best_of(&self, wanted: impl Fn(&Probe) -> bool) -> f64 {
        self.probes.iter().filter(|probe| wanted(probe)).map(Probe::rate).fold(0.0, f64::max)
    }

    /// The best of a kind.
    pub fn best(&self, kind: Kind) -> f64 {
        self.best_of(|probe| probe.kind == kind)
    }
}

/// The middle value, the upper one of two; 0 of none.
// By counting: a sort would be some KB of wasm.
pub fn median(values: &[f64]) -> f64 {
    let middle = values.len() / 2;
    let is_middle = |value: &&f64| {
        let below = values.iter().filter(|other| *other < *value).count();
        let upto = values.iter().filter(|other| *other <= *value).count();
        below <= middle && middle < upto
    };
    values.iter().find(is_middle).copied().unwrap_or(0.0)
}

impl Probe {
    /// Median of its samples.
    pub fn rate(&self) -> f64 {
        median(&self.samples)
    }

    /// Warms up, and finds out how much makes a sample.
    async fn calibrate(&mut self, gpu: &Gpu, kernels: &Kernels, wanted_ms: f64) -> Result<(), GpuError> {
        let [whole, y, z] = self.grid;
        // The whole would take seconds on a slow adapter; some of a product's rows have its rate.
        let x = match self.kind {
            Kind::Matmul(_) | Kind::Product => 1,
            Kind::Stream | Kind::Reduce | Kind::Blend => whole.div_ceil(16),
            Kind::Matvec(_) | Kind::Dispatch => whole,
        };
        if x < whole {
            self.repeats = 1;
        }
        self.grid = [x, y, z];
        self.run(gpu, kernels).await?;
        let ms = self.run(gpu, kernels).await?;
        let factor = (wanted_ms / ms.max(1e-3)).clamp(1.0, 1e4);
        let groups = (f64::from(x) * factor).min(f64::from(whole));
        let left = factor * f64::from(x) / groups;
        self.grid = [groups as u32, y, z];
        self.work *= f64::from(groups as u32) / f64::from(whole);
        self.repeats = (self.repeats as f64 * left) as usize;
        Ok(())
    }

    /// Milliseconds for its dispatches in one pass.
    async fn run(&self, gpu: &Gpu, kernels: &Kernels) -> Result<f64, GpuError> {
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if let Some(pipeline) = kernels.raw(self.pipeline) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(pipeline);
            for group in self.groups.iter().cycle().take(self.repeats.max(1)) {
                pass.set_bind_group(0, group, &[]);
                let [x, y, z] = self.grid;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        let started = Instant::now();
        gpu.submit(Some(encoder.finish()));
        gpu.idle().await?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_middle_is_that_of_a_sort() {
        assert_eq!(
            [&[][..], &[3.0], &[2.0, 1.0], &[5.0, 1.0, 9.0], &[1.0, 1.0, 0.5, 7.0]].map(median),
            [0.0, 3.0, 2.0, 5.0, 1.0]
        );
    }
}
