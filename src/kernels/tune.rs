//! Which threads suit matrix-vector products here: candidates are timed on the model's largest shapes.

use futures_channel::oneshot;
use web_time::{Duration, Instant};

use crate::gpu::{Gpu, GpuBuffer, GpuError, GpuMatrix, Kernels, Pipeline, Purpose, buffer_bytes};
use crate::steps::{MatrixSpec, Write};

use super::weights::Decoder;
use super::{BatchUniform, Grid, PITCH, Sizes, Threads, linear, matvec};

/// What timing may take in all.
const BUDGET: Duration = Duration::from_millis(500);

/// Times that each candidate is measured, after a first time that warms it up.
const ROUNDS: u32 = 4;

/// Products in one measurement, so that the way to the device and back weighs little.
const REPEATS: u32 = 8;

/// Shapes that are measured at most, and device memory for them in bytes.
const SHAPES: usize = 2;
const MOST_BYTES: u64 = 64 << 20;

/// What another choice must save to be taken instead of the usual one, per cent.
const MARGIN: u32 = 3;

/// A candidate, and what it is timed by.
struct Probe {
    threads: Threads,
    runs: Vec<(Pipeline, wgpu::BindGroup, Grid)>,
    best: Option<Duration>,
}

/// A comparison that is ready to run. It holds all it needs: weights may stream meanwhile.
pub struct Tuner {
    probes: Vec<Probe>,
    kernels: Kernels,
    // What the bind groups refer to.
    _matrices: Vec<GpuMatrix>,
    _buffers: Vec<GpuBuffer>,
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl Tuner {
    /// Prepares the comparison for products of these shapes, each with how often a token takes it, and starts to
    /// compile the candidates. `None` where there is nothing to compare.
    ///
    /// # Errors
    /// What the device says to the memory that it takes.
    pub async fn new(
        gpu: &Gpu,
        products: &[(MatrixSpec, u32)],
        decoder: impl Fn(&MatrixSpec) -> Decoder,
    ) -> Result<Option<Tuner>, GpuError> {
        let limit = gpu.tier().max_binding_bytes;
        let weight = |spec: &MatrixSpec| GpuMatrix::bytes(spec, limit).unwrap_or(u64::MAX);
        let mut specs: Vec<&(MatrixSpec, u32)> = products.iter().collect();
        specs.retain(|(spec, _)| weight(spec) <= MOST_BYTES.min(buffer_bytes(limit)));
        specs.sort_by_key(|(spec, count)| std::cmp::Reverse(weight(spec) * u64::from(*count)));
        specs.truncate(SHAPES);
        if specs.iter().map(|(spec, _)| weight(spec)).sum::<u64>() > MOST_BYTES {
            specs.truncate(1);
        }
        let candidates = Threads::candidates(Sizes::of(gpu.tier()));
        if specs.is_empty() || candidates.len() < 2 {
            return Ok(None);
        }
        let make = || {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM;
            let buffer = |bytes: u64| {
                gpu.buffer("tuning", bytes, usage | wgpu::BufferUsages::COPY_DST, Purpose::Activations)
            };
            let (mut matrices, mut buffers) = (Vec::new(), Vec::new());
            for (spec, _) in &specs {
                let matrix = GpuMatrix::new(gpu, 0, spec)?;
                let [x, y] = [spec.cols, spec.rows].map(|width| width.next_multiple_of(PITCH));
                buffers.push(buffer(size_of::<BatchUniform>() as u64)?);
                buffers.push(buffer(size_of::<linear::Params>() as u64)?);
                if let (Some(part), Some(params)) = (matrix.parts.first(), buffers.last()) {
                    let params_of_part = linear::Params::new(&matrix, part, x, y, 0, false, Write::Set);
                    gpu.queue().write_buffer(params.raw(), 0, bytemuck::bytes_of(&params_of_part));
                }
                buffers.push(buffer(u64::from(x) * 4)?);
                buffers.push(buffer(u64::from(y) * 4)?);
                matrices.push(matrix);
            }
            Ok((matrices, buffers))
        };
        let (matrices, buffers) = gpu.guarded("tuning", make).await?;
        let (mut kernels, mut probes) = (Kernels::default(), Vec::new());
        for threads in candidates {
            let mut runs = Vec::new();
            for (matrix, four) in matrices.iter().zip(buffers.chunks_exact(4)) {
                let spec = &matrix.spec;
                let (Some(kernel), Some(part)) =
                    (matvec::kernel(spec, decoder(spec), *threads), matrix.parts.first())
                else {
                    continue;
                };
                let pipeline = kernels.start(gpu, kernel);
                let [batch, params, x, y] = four else { continue };
                let group =
                    kernels.bind(gpu, pipeline, &[batch, params, x, &part.weights, &part.scales, y])?;
                runs.push((pipeline, group, matvec::grid(spec, part.rows, 1, *threads, false)));
            }
            probes.push(Probe { threads: *threads, runs, best: None });
        }
        let (device, queue) = (gpu.device().clone(), gpu.queue().clone());
        Ok(Some(Tuner { probes, kernels, _matrices: matrices, _buffers: buffers, device, queue }))
    }

    /// Times the candidates by turns; the fastest, or the usual one unless another is clearly faster. `None` if
    /// time ran out before each was measured.
    ///
    /// # Errors
    /// What the compiler says.
    pub async fn run(mut self) -> Result<Option<Threads>, GpuError> {
        self.kernels.finish(&mut |_, _| ()).await?;
        let begun = Instant::now();
        for round in 0..=ROUNDS {
            for at in 0..self.probes.len() {
                if begun.elapsed() > BUDGET {
                    return Ok(self.winner());
                }
                let took = self.time(at).await;
                if let Some(probe) = self.probes.get_mut(at).filter(|_| round > 0) {
                    probe.best = Some(probe.best.map_or(took, |best| best.min(took)));
                }
            }
        }
        Ok(self.winner())
    }

    /// Runs one candidate.
    async fn time(&self, at: usize) -> Duration {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for _ in 0..REPEATS {
            for (pipeline, group, [x, y, z]) in self.probes.get(at).iter().flat_map(|probe| &probe.runs) {
                if let Some(raw) = self.kernels.raw(*pipeline) {
                    pass.set_pipeline(raw);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(*x, *y, *z);
                }
            }
        }
        drop(pass);
        let begun = Instant::now();
        self.queue.submit(Some(encoder.finish()));
        let (sender, receiver) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            // The receiver is gone only if nobody waits any more.
            let _ = sender.send(());
        });
        // A failed wait means a lost device, which its next user hears of.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        let _ = receiver.await;
        begun.elapsed()
    }

    fn winner(&self) -> Option<Threads> {
        let times = self.probes.iter().map(|probe| Some((probe.threads, probe.best?)));
        choose(&times.collect::<Option<Vec<_>>>()?)
    }
}

/// The fastest of the candidates, or the first where that is nearly as fast.
fn choose(times: &[(Threads, Duration)]) -> Option<Threads> {
    let (usual, usual_time) = times.first()?;
    let (fastest, time) = times.iter().min_by_key(|(_, time)| *time)?;
    Some(if *time * 100 < *usual_time * (100 - MARGIN) { *fastest } else { *usual })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_choice_has_to_be_clearly_faster() {
        let [usual, other, third] = [8, 16, 32].map(|lanes| Threads { workgroup: 64, lanes });
        let ms = Duration::from_millis;
        assert_eq!(choose(&[(usual, ms(100)), (other, ms(98)), (third, ms(120))]), Some(usual));
        assert_eq!(choose(&[(usual, ms(100)), (other, ms(96)), (third, ms(90))]), Some(third));
        assert_eq!(choose(&[]), None);
    }
}
