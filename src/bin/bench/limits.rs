//! What the adapter can do at most, kernel by kernel at the model's own shapes.

use std::error::Error;
use std::time::Instant;

use bise::dtype::Dtype;
use bise::gpu::{
    Binding, Gpu, GpuBuffer, GpuMatrix, Kernel, Kernels, Pipeline, Purpose, Uploader, read_buffer,
};
use bise::kernels::weights::Decoder;
use bise::kernels::{BatchUniform, Grid, Sizes, Threads, Tile, WebGpu, linear, matmul, matvec, silu_mul};
use bise::steps::{MatrixSpec, Write};

use super::model::fill;
use super::report::median;

/// Bytes of weights that one sample walks through, so that no cache holds them.
const WALK_BYTES: u64 = 64 << 20;
/// Bytes that the streaming read walks through, as far as a binding holds them.
const STREAM_BYTES: u64 = 128 << 20;
/// Tokens of the matrix-matrix products.
pub const TOKENS: u32 = 512;
/// A sample takes about this long.
const SAMPLE_MS: f64 = 60.0;
/// After the first round, kernels slower than this part of the best one of their kind are left out.
const WORTH: f64 = 0.85;

/// What a probe tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GB/s.
    Stream,
    /// GB/s of weights.
    Matvec(Dtype),
    /// GFLOP/s.
    Matmul(Dtype),
    /// Dispatches per microsecond.
    Dispatch,
}

/// One kernel on one shape.
pub struct Probe {
    pub kind: Kind,
    /// Which shape, and which kernel.
    pub shape: String,
    pub variant: String,
    pipeline: Pipeline,
    groups: Vec<wgpu::BindGroup>,
    grid: Grid,
    /// Bytes, operations or dispatches of one dispatch.
    work: f64,
    repeats: usize,
    /// Work per nanosecond.
    pub samples: Vec<f64>,
    /// Whether it was left out as slow.
    dropped: bool,
}

impl Probe {
    pub fn rate(&self) -> f64 {
        median(&self.samples)
    }
}

/// All probes of an adapter.
pub struct Limits {
    pub probes: Vec<Probe>,
    /// Milliseconds to submit nothing much and read a word back.
    pub readback_ms: Vec<f64>,
    kernels: Kernels,
    staging: GpuBuffer,
    // What the bind groups refer to.
    _matrices: Vec<GpuMatrix>,
    _buffers: Vec<GpuBuffer>,
}

struct Builder<'a> {
    gpu: &'a Gpu,
    kernels: Kernels,
    probes: Vec<Probe>,
    buffers: Vec<GpuBuffer>,
}

impl Builder<'_> {
    fn buffer(&mut self, bytes: u64, usage: wgpu::BufferUsages) -> Result<usize, Box<dyn Error>> {
        let usage = usage | wgpu::BufferUsages::COPY_DST;
        self.buffers.push(self.gpu.buffer("bench", bytes, usage, Purpose::Activations)?);
        Ok(self.buffers.len() - 1)
    }

    fn uniform<P: bytemuck::Pod>(&mut self, params: &P) -> Result<usize, Box<dyn Error>> {
        let bytes = bytemuck::bytes_of(params);
        let index = self.buffer(bytes.len() as u64, wgpu::BufferUsages::UNIFORM)?;
        if let Some(buffer) = self.buffers.get(index) {
            self.gpu.queue().write_buffer(buffer.raw(), 0, bytes);
        }
        Ok(index)
    }

    #[expect(clippy::too_many_arguments, reason = "one private list of what a probe is")]
    /// Adds a probe that goes round through `bindings`, one list of buffers for each dispatch.
    fn add(
        &mut self,
        kind: Kind,
        shape: &str,
        variant: String,
        kernel: Kernel,
        bindings: &[Vec<&GpuBuffer>],
        grid: Grid,
        work: f64,
    ) -> Result<(), Box<dyn Error>> {
        let pipeline = self.kernels.start(self.gpu, kernel);
        let bind = |buffers: &Vec<&GpuBuffer>| self.kernels.bind(self.gpu, pipeline, buffers);
        let groups = bindings.iter().map(bind).collect::<Result<_, _>>()?;
        let (shape, repeats) = (shape.to_owned(), bindings.len());
        self.probes.push(Probe {
            kind,
            shape,
            variant,
            pipeline,
            groups,
            grid,
            work,
            repeats,
            samples: Vec::new(),
            dropped: false,
        });
        Ok(())
    }
}

/// Finds the buffer for each binding of a kernel.
fn by_name<'b>(
    bindings: &[Binding],
    find: impl Fn(&str) -> Option<&'b GpuBuffer>,
) -> Result<Vec<&'b GpuBuffer>, Box<dyn Error>> {
    let named = |binding: &Binding| {
        find(binding.name).ok_or_else(|| format!("the bench has no {}", binding.name).into())
    };
    bindings.iter().map(named).collect()
}

impl Limits {
    /// Prepares all probes for a model's matrices.
    pub async fn new(backend: &WebGpu, matrices: &[MatrixSpec]) -> Result<Limits, Box<dyn Error>> {
        let gpu = backend.gpu();
        let (sizes, storage) = (Sizes::of(gpu.tier()), wgpu::BufferUsages::STORAGE);
        let mut b = Builder { gpu, kernels: Kernels::default(), probes: Vec::new(), buffers: Vec::new() };
        let mut held = Vec::new();
        let mut uploader = Uploader::default();

        let mut seen: Vec<&MatrixSpec> = Vec::new();
        for spec in matrices {
            if seen.iter().any(|s| {
                (s.rows, s.cols, s.dtype, s.scale_cols) == (spec.rows, spec.cols, spec.dtype, spec.scale_cols)
            }) {
                continue;
            }
            seen.push(spec);
            let shape = format!("{} x {} {}", spec.rows, spec.cols, spec.dtype);
            let bytes = u64::from(spec.rows) * u64::from(spec.cols) * spec.dtype.size_bytes();
            let copies = (WALK_BYTES / bytes.max(1)).clamp(1, 64);
            let mut mats = Vec::new();
            for _ in 0..copies {
                let matrix = GpuMatrix::new(gpu, 0, spec)?;
                let mut random = 7;
                let rows_at_once = (1 << 20) / (u64::from(spec.cols) * spec.dtype.size_bytes()).max(1) + 1;
                let row_bytes = u64::from(spec.cols) * spec.dtype.size_bytes();
                let mut block = vec![0; (rows_at_once * row_bytes) as usize];
                fill(&mut block, &mut random, spec.dtype);
                let mut row = 0;
                while row < spec.rows {
                    let rows = rows_at_once.min(u64::from(spec.rows - row));
                    let block = block.get(..(rows * row_bytes) as usize).unwrap_or_default();
                    uploader.rows(gpu, &matrix, row, block)?;
                    uploader.relieve(gpu).await?;
                    row += rows as u32;
                }
                mats.push(matrix);
            }
            let pitch = |width: u32| width.next_multiple_of(16);
            let one = b.uniform(&BatchUniform { tokens: 1, ..Default::default() })?;
            let many = b.uniform(&BatchUniform { tokens: TOKENS, ..Default::default() })?;
            let x = b.buffer(u64::from(pitch(spec.cols)) * u64::from(TOKENS) * 4, storage)?;
            let y = b.buffer(u64::from(pitch(spec.rows)) * u64::from(TOKENS.min(1 << 24)) * 4, storage);
            // A head is never a matrix-matrix product, and too many logits for one buffer.
            let (y, products) = match y {
                Ok(y) if u64::from(spec.rows) < 30_000 => (y, true),
                _ => (b.buffer(u64::from(pitch(spec.rows)) * 4, storage)?, false),
            };
            let spare: Vec<usize> = (0..4)
                .map(|_| b.buffer(u64::from(pitch(spec.cols.max(spec.rows))) * 4, storage))
                .collect::<Result<_, _>>()?;
            let mut params = Vec::new();
            for matrix in &mats {
                let Some(part) = matrix.parts.first() else { continue };
                params.push(b.uniform(&linear::Params::new(
                    matrix,
                    part,
                    pitch(spec.cols),
                    pitch(spec.rows),
                    0,
                    false,
                    Write::Set,
                ))?);
            }
            let rows = mats.first().and_then(|m| m.parts.first()).map_or(0, |part| part.rows);
            let work = f64::from(rows) * f64::from(spec.cols);
            let mut kernels = Vec::new();
            let mut decoders = vec![Decoder::Safe];
            if spec.dtype == Dtype::F8E4m3 && backend.info().fp8_decoder == Decoder::Fast {
                decoders.push(Decoder::Fast);
            }
            for decoder in decoders {
                for threads in Threads::candidates(sizes) {
                    let grid = matvec::grid(spec, rows, 1, *threads);
                    let name = format!(
                        "{} threads, {} a row, {}",
                        threads.workgroup,
                        threads.lanes(spec),
                        decoder.name()
                    );
                    let gigabytes = work * spec.dtype.size_bytes() as f64;
                    kernels.extend(
                        matvec::kernel(spec, decoder, *threads)
                            .map(|k| (Kind::Matvec(spec.dtype), name, k, grid, one, gigabytes)),
                    );
                }
                for tile in Tile::candidates(sizes).iter().filter(|_| products) {
                    let grid = matmul::grid(rows, TOKENS, *tile);
                    let Tile { across, down, rows: r, tokens: t, depth } = *tile;
                    let name = format!(
                        "{across} x {down} threads of {r} x {t}, depth {}, {}",
                        depth * 4,
                        decoder.name()
                    );
                    let flops = 2.0 * work * f64::from(TOKENS);
                    kernels.extend(
                        matmul::kernel(spec, decoder, *tile)
                            .map(|k| (Kind::Matmul(spec.dtype), name, k, grid, many, flops)),
                    );
                }
            }
            // Taken out while bind groups are made of them.
            let buffers = std::mem::take(&mut b.buffers);
            for (kind, name, kernel, grid, batch, work) in kernels {
                let mut bindings = Vec::new();
                for (matrix, params) in mats.iter().zip(&params) {
                    let Some(part) = matrix.parts.first() else { continue };
                    bindings.push(by_name(kernel.bindings, |name| match name {
                        "batch" => buffers.get(batch),
                        "params" => buffers.get(*params),
                        "x" => buffers.get(x),
                        "weights" => Some(&part.weights),
                        "scales" => Some(&part.scales),
                        "y" => buffers.get(y),
                        "squares" => buffers.get(*spare.first()?),
                        "norm" => buffers.get(*spare.get(1)?),
                        "scaled" => buffers.get(*spare.get(2)?),
                        "squares_out" => buffers.get(*spare.get(3)?),
                        _ => None,
                    })?);
                }
                b.add(kind, &shape, name, kernel, &bindings, grid, work)?;
            }
            b.buffers = buffers;
            held.extend(mats);
        }

        let bytes = STREAM_BYTES.min(gpu.tier().max_binding_bytes) / (256 * 256) * (256 * 256);
        let data = b.buffer(bytes, storage)?;
        let sums = b.buffer(4096, storage)?;
        let small = b.uniform(&silu_mul::Params { pitch: 1, padding: [0; 3] })?;
        let (up, mlp) = (b.buffer(16, storage)?, b.buffer(16, storage)?);
        let buffers = std::mem::take(&mut b.buffers);
        let at = |index: usize| buffers.get(index).ok_or("no such buffer");
        for wg in [64_u32, 256] {
            let kernel = Kernel {
                name: "stream_read",
                parts: vec![include_str!("stream_read.wgsl")],
                constants: vec![("WG", f64::from(wg))],
                bindings: STREAM_BINDINGS,
            };
            let grid = [(bytes / u64::from(wg * 256)) as u32, 1, 1];
            let name = format!("{wg} threads");
            b.add(Kind::Stream, "", name, kernel, &[vec![at(data)?, at(sums)?]], grid, bytes as f64)?;
        }
        let bindings = [vec![at(small)?, at(up)?, at(mlp)?]];
        b.add(
            Kind::Dispatch,
            "",
            "dependent dispatches".into(),
            silu_mul::kernel(),
            &bindings,
            [1, 1, 1],
            1e-3,
        )?;
        b.buffers = buffers;

        b.kernels.finish(&mut |_, _| ()).await?;
        uploader.finish(gpu).await?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.buffer("bench readback", 16, usage, Purpose::Activations)?;
        let (kernels, probes) = (b.kernels, b.probes);
        Ok(Limits { probes, readback_ms: Vec::new(), kernels, staging, _matrices: held, _buffers: b.buffers })
    }

    /// Times every probe once more.
    pub async fn sample(&mut self, gpu: &Gpu, round: usize) -> Result<(), Box<dyn Error>> {
        for probe in self.probes.iter_mut().filter(|probe| !probe.dropped) {
            if round == 0 {
                // Warms up, and finds out how many make a sample.
                run(gpu, &self.kernels, probe).await?;
                let ms = run(gpu, &self.kernels, probe).await?;
                let factor = (SAMPLE_MS / ms.max(1e-3)).clamp(1.0, 1e4);
                probe.repeats = (probe.repeats as f64 * factor) as usize;
            }
            let ms = run(gpu, &self.kernels, probe).await?;
            probe.samples.push(probe.work * probe.repeats as f64 / (ms * 1e6));
        }
        if round == 0 {
            let best: Vec<f64> = self
                .probes
                .iter()
                .map(|p| self.best_of(|o| o.kind == p.kind && o.shape == p.shape))
                .collect();
            for (probe, best) in self.probes.iter_mut().zip(best) {
                probe.dropped = probe.rate() < WORTH * best;
            }
        }
        for _ in 0..5 {
            let started = Instant::now();
            let encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            gpu.submit(Some(encoder.finish()));
            read_buffer(gpu, self.staging.raw(), 1).await?;
            self.readback_ms.push(started.elapsed().as_secs_f64() * 1e3);
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

const STREAM_BINDINGS: &[Binding] = &[Binding::read("data"), Binding::write("sums")];

/// Milliseconds for the probe's dispatches in one pass.
async fn run(gpu: &Gpu, kernels: &Kernels, probe: &Probe) -> Result<f64, Box<dyn Error>> {
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(kernels.raw(probe.pipeline).ok_or("no such pipeline")?);
        for group in probe.groups.iter().cycle().take(probe.repeats) {
            pass.set_bind_group(0, group, &[]);
            let [x, y, z] = probe.grid;
            pass.dispatch_workgroups(x, y, z);
        }
    }
    let started = Instant::now();
    gpu.submit(Some(encoder.finish()));
    gpu.idle().await?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}
