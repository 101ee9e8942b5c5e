//! What an adapter can do at most: its best reads, products, merges, dispatches, writes and readbacks, kernel by
//! kernel at a model's own shapes. For the bench.

use web_time::Instant;

use super::weights::Decoder;
use super::{
    BatchUniform, Grid, PITCH, Sizes, Threads, Tile, WebGpu, blend, linear, matmul, matvec, silu_mul, slerp_sums,
};
use crate::dtype::Dtype;
use crate::gpu::{
    Binding, Gpu, GpuBuffer, GpuError, GpuMatrix, Kernel, Kernels, Pipeline, Purpose, read_buffer,
};
use crate::steps::{MatrixSpec, Write};

/// Bytes that a sample walks through, so that no cache holds them.
const WALK_BYTES: u64 = 64 << 20;
/// Bytes of one write: what a load's writes have at most.
const WRITE_BYTES: u64 = 256 << 10;
/// Tokens of the matrix-matrix products.
const TOKENS: u32 = 512;
/// Rows of matrices that no matrix-matrix product takes: those of heads, which see one token.
const HEAD_ROWS: u32 = 30_000;
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
    sample_ms: f64,
    kernels: Kernels,
    target: GpuBuffer,
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

/// Random bytes that are finite numbers of every dtype.
fn block() -> Vec<u8> {
    let mut random = 1_u64;
    let next = move || {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // As E4M3: 0x38 is 1, 0x3f 1.875.
        random as u8 & 0x87 | 0x38
    };
    std::iter::repeat_with(next).take(WRITE_BYTES as usize).collect()
}

/// Fills a buffer: memory that was never written may lie nowhere.
fn fill(gpu: &Gpu, buffer: &GpuBuffer, block: &[u8]) {
    let mut at = 0;
    while at < buffer.raw().size() {
        let length = (buffer.raw().size() - at).min(WRITE_BYTES);
        gpu.queue().write_buffer(buffer.raw(), at, block.get(..length as usize).unwrap_or_default());
        at += length;
        // Many writes at once would all be kept aside.
        if at.is_multiple_of(32 * WRITE_BYTES) {
            gpu.submit(None);
        }
    }
    gpu.submit(None);
}

impl Builder<'_> {
    /// Takes a buffer; its index.
    fn buffer(&mut self, bytes: u64, usage: wgpu::BufferUsages) -> Result<usize, GpuError> {
        let usage = usage | wgpu::BufferUsages::COPY_DST;
        self.buffers.push(self.gpu.buffer("bench", bytes, usage, Purpose::Activations)?);
        Ok(self.buffers.len() - 1)
    }

    fn storage(&mut self, bytes: u64) -> Result<usize, GpuError> {
        self.buffer(bytes, wgpu::BufferUsages::STORAGE)
    }

    fn uniform(&mut self, bytes: &[u8]) -> Result<usize, GpuError> {
        let index = self.buffer(bytes.len() as u64, wgpu::BufferUsages::UNIFORM)?;
        if let Some(buffer) = self.buffers.get(index) {
            self.gpu.queue().write_buffer(buffer.raw(), 0, bytes);
        }
        Ok(index)
    }

    /// Adds a probe that goes round through `bindings`, one list of buffers for each dispatch.
    fn add(
        &mut self,
        (kind, shape, variant): (Kind, &str, String),
        kernel: Option<Kernel>,
        bindings: &[Vec<&GpuBuffer>],
        grid: Grid,
        work: f64,
    ) -> Result<(), GpuError> {
        let Some(kernel) = kernel else { return Ok(()) };
        let pipeline = self.kernels.start(self.gpu, kernel);
        let bind = |buffers: &Vec<&GpuBuffer>| self.kernels.bind(self.gpu, pipeline, buffers);
        let groups = bindings.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let (shape, repeats, samples, dropped) = (shape.to_owned(), groups.len(), Vec::new(), false);
        self.probes
            .push(Probe { kind, shape, variant, pipeline, groups, grid, work, repeats, samples, dropped });
        Ok(())
    }

    /// [`Builder::add`] for one dispatch over buffers that were taken before.
    fn add_one(
        &mut self,
        name: (Kind, &str, String),
        kernel: Option<Kernel>,
        indices: &[usize],
        grid: Grid,
        work: f64,
    ) -> Result<(), GpuError> {
        let buffers = std::mem::take(&mut self.buffers);
        let bindings = indices.iter().filter_map(|&index| buffers.get(index)).collect();
        let added = self.add(name, kernel, &[bindings], grid, work);
        self.buffers = buffers;
        added
    }

    /// Products with one matrix of the model's.
    fn products(&mut self, backend: &WebGpu, spec: &MatrixSpec, quick: bool) -> Result<Vec<GpuMatrix>, GpuError> {
        let (gpu, sizes) = (self.gpu, Sizes::of(self.gpu.tier()));
        let bytes = u64::from(spec.rows) * u64::from(spec.cols) * spec.dtype.size_bytes();
        let block = block();
        let mut matrices = Vec::new();
        for _ in 0..(WALK_BYTES / bytes.max(1)).clamp(1, 64) {
            let matrix = GpuMatrix::new(gpu, 0, spec)?;
            matrix.parts.iter().for_each(|part| fill(gpu, &part.weights, &block));
            matrices.push(matrix);
        }
        let Some(rows) = matrices.first().and_then(|m| m.parts.first()).map(|part| part.rows) else {
            return Ok(matrices);
        };
        let pitch = |width: u32| u64::from(width.next_multiple_of(PITCH));
        let room = |tokens| self.gpu.tier().max_binding_bytes >= pitch(spec.rows.max(spec.cols)) * 4 * tokens;
        let many = spec.rows < HEAD_ROWS && room(u64::from(TOKENS));
        let tokens = if many { TOKENS } else { 1 };
        let (x, y) = (
            self.storage(pitch(spec.cols) * u64::from(tokens) * 4)?,
            self.storage(pitch(spec.rows) * u64::from(tokens) * 4)?,
        );
        // For what a kernel may bind besides.
        let spare = self.storage(pitch(spec.cols.max(spec.rows)) * 4)?;
        let batch = |tokens| BatchUniform { tokens, ..Default::default() };
        let batches = [self.uniform(bytemuck::bytes_of(&batch(1)))?, self.uniform(bytemuck::bytes_of(&batch(TOKENS)))?];
        let mut params = Vec::new();
        for matrix in &matrices {
            let Some(part) = matrix.parts.first() else { continue };
            let pitches = [pitch(spec.cols) as u32, pitch(spec.rows) as u32];
            let value = linear::Params::new(matrix, part, pitches[0], pitches[1], 0, false, Write::Set);
            params.push(self.uniform(bytemuck::bytes_of(&value))?);
        }

        let mut kernels = Vec::new();
        let used = backend.decoder(spec.dtype);
        // The fast decoder is right where it passed its test, the safe one everywhere.
        let decoders: &[Decoder] = match used {
            Decoder::Fast if !quick => &[Decoder::Fast, Decoder::Safe],
            _ => &[used],
        };
        let work = f64::from(rows) * f64::from(spec.cols);
        let most = if quick { 2 } else { usize::MAX };
        for &decoder in decoders {
            for threads in Threads::candidates(sizes).iter().take(most) {
                let name = format!("{} threads, {} a row, {}", threads.workgroup, threads.lanes(spec), decoder.name());
                let kernel = matvec::kernel(spec, decoder, *threads);
                let work = work * spec.dtype.size_bytes() as f64;
                kernels.push((Kind::Matvec(spec.dtype), name, kernel, matvec::grid(spec, rows, 1, *threads), work));
            }
            for tile in Tile::candidates(sizes).iter().take(if many { most } else { 0 }) {
                let name = format!("{} x {} threads, depth {}, {}", tile.across, tile.down, tile.depth * 4, decoder.name());
                let kernel = matmul::kernel(spec, decoder, *tile);
                let work = 2.0 * work * f64::from(TOKENS);
                kernels.push((Kind::Matmul(spec.dtype), name, kernel, matmul::grid(rows, TOKENS, *tile), work));
            }
        }
        // Taken out while bind groups are made of them.
        let buffers = std::mem::take(&mut self.buffers);
        for (kind, name, kernel, grid, work) in kernels {
            let batch = batches[usize::from(matches!(kind, Kind::Matmul(_)))];
            let mut bindings = Vec::new();
            for (matrix, params) in matrices.iter().zip(&params) {
                let (Some(part), Some(kernel)) = (matrix.parts.first(), &kernel) else { continue };
                let find = |binding: &Binding| match binding.name {
                    "batch" => buffers.get(batch),
                    "params" => buffers.get(*params),
                    "x" => buffers.get(x),
                    "weights" => Some(&part.weights),
                    "scales" => Some(&part.scales),
                    "y" => buffers.get(y),
                    _ => buffers.get(spare),
                };
                bindings.push(kernel.bindings.iter().filter_map(find).collect());
            }
            self.add((kind, &shape_name(spec), name), kernel, &bindings, grid, work)?;
        }
        self.buffers = buffers;
        Ok(matrices)
    }

    /// Reads, merges, dispatches.
    fn rest(&mut self) -> Result<(), GpuError> {
        let block = block();
        // What one workgroup of the least of both reads, so that a binding of any size is read as a whole.
        let bytes = WALK_BYTES.min(self.gpu.tier().max_binding_bytes) / (1 << 14) * (1 << 14);
        let [a, b, merged] = [self.storage(bytes)?, self.storage(bytes)?, self.storage(bytes)?];
        for index in [a, b, merged] {
            self.buffers.get(index).into_iter().for_each(|buffer| fill(self.gpu, buffer, &block));
        }
        let small = self.storage(4096)?;
        for wg in [64_u32, 256] {
            let kernel = Kernel {
                name: "stream_read",
                parts: vec![include_str!("shared/stream_read.wgsl")],
                constants: vec![("WG", f64::from(wg))],
                bindings: STREAM_BINDINGS,
            };
            let groups = bytes / u64::from(wg * 256);
            if groups > 0 {
                let (name, grid) = ((Kind::Stream, "", format!("{wg} threads")), [groups as u32, 1, 1]);
                let read = groups * u64::from(wg * 256);
                self.add_one(name, Some(kernel), &[a, small], grid, read as f64)?;
            }
        }

        let elements = (bytes / 2) as u32;
        let params = slerp_sums::Params { loads: elements / 8, ..Default::default() };
        let params = self.uniform(bytemuck::bytes_of(&params))?;
        let sums = self.storage(u64::from(elements.div_ceil(slerp_sums::BLOCK) * slerp_sums::WORDS_PER_BLOCK) * 4)?;
        let (kernel, grid) = (slerp_sums::kernel(Dtype::Bf16), slerp_sums::grid(elements));
        self.add_one((Kind::Reduce, "BF16", "slerp_sums".into()), kernel, &[params, a, b, sums], grid, 2.0 * bytes as f64)?;
        let params = blend::Params { groups: elements / blend::GROUP, c0: 0.5, c1: 0.5, ..Default::default() };
        let params = self.uniform(bytemuck::bytes_of(&params))?;
        let (kernel, grid) = (blend::kernel(Dtype::Bf16, Dtype::Bf16), blend::grid(elements));
        let buffers = [params, a, b, merged, small];
        self.add_one((Kind::Blend, "BF16", "blend".into()), kernel, &buffers, grid, 3.0 * bytes as f64)?;

        let params = self.uniform(bytemuck::bytes_of(&silu_mul::Params { pitch: 1, padding: [0; 3] }))?;
        let (up, mlp) = (self.storage(16)?, self.storage(16)?);
        let name = (Kind::Dispatch, "", "dependent".into());
        self.add_one(name, Some(silu_mul::kernel()), &[params, up, mlp], [1, 1, 1], 1.0)
    }
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
        let gpu = backend.gpu();
        let mut b = Builder { gpu, kernels: Kernels::default(), probes: Vec::new(), buffers: Vec::new() };
        let mut held = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for spec in matrices {
            let shape = format!("{} {}", shape_name(spec), spec.scale_cols);
            if seen.contains(&shape) {
                continue;
            }
            seen.push(shape);
            held.extend(b.products(backend, spec, quick)?);
            gpu.idle().await?;
        }
        b.rest()?;
        b.kernels.finish(&mut |_, _| ()).await?;
        gpu.idle().await?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.buffer("bench readback", 16, usage, Purpose::Activations)?;
        let bytes = WALK_BYTES.min(gpu.tier().max_binding_bytes);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let target = gpu.buffer("bench writes", bytes, usage, Purpose::Activations)?;
        Ok(Limits {
            probes: b.probes,
            writes: Vec::new(),
            readbacks: Vec::new(),
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

/// The middle value; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

const STREAM_BINDINGS: &[Binding] = &[Binding::read("data"), Binding::write("sums")];

impl Probe {
    /// Median of its samples.
    pub fn rate(&self) -> f64 {
        median(&self.samples)
    }

    /// Warms up, and finds out how much makes a sample.
    async fn calibrate(&mut self, gpu: &Gpu, kernels: &Kernels, wanted_ms: f64) -> Result<(), GpuError> {
        let whole = self.grid[0];
        if matches!(self.kind, Kind::Matmul(_)) {
            // A whole product would take seconds on a slow adapter; its rate is that of some of its rows.
            (self.grid[0], self.repeats) = (1, 1);
        }
        self.run(gpu, kernels).await?;
        let ms = self.run(gpu, kernels).await?;
        let factor = (wanted_ms / ms.max(1e-3)).clamp(1.0, 1e4);
        let groups = (f64::from(self.grid[0]) * factor).min(f64::from(whole));
        let left = factor * f64::from(self.grid[0]) / groups;
        self.grid[0] = groups as u32;
        self.work *= f64::from(self.grid[0]) / f64::from(whole);
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
