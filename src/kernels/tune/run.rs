//! A kernel over one matrix, ready to be timed.

use std::cell::Cell;

use futures_channel::oneshot;
use web_time::{Duration, Instant};

use crate::gpu::{GpuBuffer, Kernels, Pipeline};
use crate::kernels::{BatchUniform, Grid, Threads, Tile, matmul, matvec};
use crate::steps::MatrixSpec;

/// Rows are cut to multiples of what any candidate's workgroup computes, so that all do the same work.
const ROWS_STEP: u32 = 128;

/// Most repeats of a kernel in one measurement, and the least part of its rows.
pub(super) const MOST: f64 = 64.0;
pub(super) const LEAST: f64 = 1.0 / 64.0;

/// How the product is computed.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    Vector(Threads),
    Tiled(Tile),
}

/// A product, compiled and bound.
pub(super) struct Run {
    pub pipeline: Pipeline,
    pub group: wgpu::BindGroup,
    pub spec: MatrixSpec,
    /// Rows of W in the buffer.
    pub rows: u32,
    pub how: How,
}

impl Run {
    /// Workgroups for a part of the rows.
    fn grid(&self, tokens: u32, part: f64) -> Grid {
        let rows = (f64::from(self.rows) * part.min(1.0)) as u32;
        let rows = rows.max(1).next_multiple_of(ROWS_STEP).min(self.rows);
        match self.how {
            How::Vector(threads) => matvec::grid(&self.spec, rows, tokens, threads),
            How::Tiled(tile) => matmul::grid(rows, tokens, tile),
        }
    }
}

/// Where runs are timed.
pub(super) struct Bench {
    pub kernels: Kernels,
    pub batch: GpuBuffer,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    /// What measurements have taken so far.
    pub spent: Cell<Duration>,
}

impl Bench {
    /// Runs these `amount` times each over that many tokens, or over that part of their rows, and waits.
    pub async fn run(&self, runs: &[Run], tokens: u32, amount: f64) -> Duration {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for _ in 0..amount.max(1.0) as u32 {
            for run in runs {
                if let Some(raw) = self.kernels.raw(run.pipeline) {
                    let [x, y, z] = run.grid(tokens, amount);
                    pass.set_pipeline(raw);
                    pass.set_bind_group(0, &run.group, &[]);
                    pass.dispatch_workgroups(x, y, z);
                }
            }
        }
        drop(pass);
        let uniform = BatchUniform { tokens, ..BatchUniform::default() };
        self.queue.write_buffer(self.batch.raw(), 0, bytemuck::bytes_of(&uniform));
        // Weights that wait in the queue would be timed with the kernels.
        self.submit(None).await;
        let begun = Instant::now();
        self.submit(Some(encoder.finish())).await;
        begun.elapsed()
    }

    /// Submits and waits.
    async fn submit(&self, commands: Option<wgpu::CommandBuffer>) {
        self.queue.submit(commands);
        let (sender, receiver) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            // The receiver is gone only if nobody waits any more.
            let _ = sender.send(());
        });
        // A failed wait means a lost device, which its next user hears of.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        let _ = receiver.await;
    }

    /// [`Bench::run`] as a measurement, which counts.
    pub async fn time(&self, runs: &[Run], tokens: u32, amount: f64) -> Duration {
        let took = self.run(runs, tokens, amount).await;
        self.spent.set(self.spent.get() + took);
        took
    }

    /// How much of these to run for one measurement of about `target`, found by running more and more of them.
    pub async fn amount(&self, runs: &[Run], tokens: u32, target: Duration) -> f64 {
        let mut amount = LEAST;
        loop {
            let took = self.time(runs, tokens, amount).await.as_secs_f64().max(1e-6);
            let factor = target.as_secs_f64() / took;
            if factor < 2.0 || amount >= MOST {
                return amount;
            }
            // The way to the device and back is part of a short time: step by step.
            amount = (amount * factor.min(8.0)).min(MOST);
        }
    }
}
