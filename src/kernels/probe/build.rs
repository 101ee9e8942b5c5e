//! What is probed: kernels, their matrices and buffers.

use super::{Kind, Probe, WRITE_BYTES, shape_name};
use crate::dtype::Dtype;
use crate::gpu::{Binding, Gpu, GpuBuffer, GpuError, GpuMatrix, Kernel, Kernels, Purpose};
use crate::kernels::weights::Decoder;
use crate::kernels::{
    BatchUniform, Grid, PITCH, Sizes, Threads, Tile, WebGpu, blend, linear, matmul, matvec, silu_mul,
    slerp_sums,
};
use crate::steps::{MatrixSpec, Write};

/// Tokens of the matrix-matrix products.
const TOKENS: u32 = 512;
/// Rows of matrices that no matrix-matrix product takes: those of heads, which see one token.
const HEAD_ROWS: u32 = 30_000;

const STREAM_BINDINGS: &[Binding] = &[Binding::read("data"), Binding::write("sums")];
const PRODUCT_BINDINGS: &[Binding] = &[Binding::read("x"), Binding::read("w"), Binding::write("y")];
/// Copies of a matrix at most, on software adapters and on others: each costs a bind group for every kernel.
const MOST_COPIES: [u64; 2] = [64, 1024];
/// Rows and columns of the plain product.
const SIDE: u32 = 512;

/// Streaming reads; each with the bytes that a workgroup reads.
fn streams() -> impl Iterator<Item = (Kernel, u64)> {
    [64_u32, 256].into_iter().map(|wg| {
        let kernel = Kernel {
            name: "stream_read",
            parts: vec![wgsl!("../shared/stream_read.wgsl")],
            constants: vec![("WG", f64::from(wg))],
            bindings: STREAM_BINDINGS,
        };
        (kernel, u64::from(wg * 256))
    })
}

/// Plain f32 products that owe nothing to the model's kernels; each with the rows and tokens of a workgroup.
fn plain_products() -> impl Iterator<Item = (Kernel, [u32; 2])> {
    let product = |name, text, wg: Option<u32>, tile| {
        let mut constants = vec![("DEPTH", f64::from(SIDE / 4)), ("ROWS", f64::from(SIDE))];
        constants.extend(wg.map(|wg| ("WG", f64::from(wg))));
        (Kernel { name, parts: vec![text], constants, bindings: PRODUCT_BINDINGS }, tile)
    };
    let rows = wgsl!("../shared/product_rows.wgsl");
    [
        product("product_tiles", wgsl!("../shared/product_tiles.wgsl"), None, [64, 64]),
        product("product_rows", rows, Some(8), [64, 8]),
        product("product_rows", rows, Some(32), [256, 8]),
    ]
    .into_iter()
}

/// Kernels that are not the model's.
pub fn compositions() -> impl Iterator<Item = Kernel> {
    streams().map(|(kernel, _)| kernel).chain(plain_products().map(|(kernel, _)| kernel))
}

/// What probes are made with.
pub(super) struct Builder<'a> {
    pub(super) gpu: &'a Gpu,
    /// Bytes that a sample walks through.
    pub(super) walk_bytes: u64,
    pub(super) kernels: Kernels,
    pub(super) probes: Vec<Probe>,
    pub(super) buffers: Vec<GpuBuffer>,
}

/// Random bytes that are finite numbers of every dtype.
pub(super) fn block() -> Vec<u8> {
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
pub(super) fn fill(gpu: &Gpu, buffer: &GpuBuffer, block: &[u8]) {
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
        self.probes.push(Probe {
            kind,
            shape,
            variant,
            pipeline,
            groups,
            grid,
            work,
            repeats,
            samples,
            dropped,
        });
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

    /// Products with one matrix of the model's, by each of these decoders.
    pub(super) fn products(
        &mut self,
        backend: &WebGpu,
        spec: &MatrixSpec,
        decoders: &[Decoder],
        quick: bool,
    ) -> Result<Vec<GpuMatrix>, GpuError> {
        let (gpu, sizes) = (self.gpu, Sizes::of(self.gpu.tier()));
        let bytes = u64::from(spec.rows) * u64::from(spec.cols) * spec.dtype.size_bytes();
        let block = block();
        let mut matrices = Vec::new();
        let [on_software, most] = MOST_COPIES;
        let most = if gpu.tier().software { on_software } else { most };
        for _ in 0..(self.walk_bytes / bytes.max(1)).clamp(1, most) {
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
        let (one_token, all_tokens) =
            (self.uniform(bytemuck::bytes_of(&batch(1)))?, self.uniform(bytemuck::bytes_of(&batch(TOKENS)))?);
        let mut params = Vec::new();
        for matrix in &matrices {
            let Some(part) = matrix.parts.first() else { continue };
            let (x_pitch, y_pitch) = (pitch(spec.cols) as u32, pitch(spec.rows) as u32);
            let value = linear::Params::new(matrix, part, x_pitch, y_pitch, 0, false, Write::Set);
            params.push(self.uniform(bytemuck::bytes_of(&value))?);
        }

        let mut kernels = Vec::new();
        let work = f64::from(rows) * f64::from(spec.cols);
        let most = if quick { 2 } else { usize::MAX };
        for &decoder in decoders {
            // Without subgroups the usual ones, besides.
            let usual = Some(Threads::of(sizes)).filter(|_| backend.subgroup() > 0);
            let folding = Threads::candidates(sizes).iter().map(|threads| threads.within(backend.subgroup()));
            for threads in folding.take(most).chain(usual) {
                let name = format!(
                    "{} threads, {} a row, {}{}",
                    threads.workgroup,
                    threads.lanes(spec),
                    decoder.name(),
                    if threads.subgroup > 0 { ", subgroups" } else { "" }
                );
                let kernel = matvec::kernel(spec, decoder, threads);
                let work = work * spec.dtype.size_bytes() as f64;
                kernels.push((
                    Kind::Matvec(spec.dtype),
                    name,
                    kernel,
                    matvec::grid(spec, rows, 1, threads),
                    work,
                ));
            }
            for tile in Tile::candidates(sizes).iter().take(if many { most } else { 0 }) {
                let Tile { across, down, rows: r, tokens: t, depth } = *tile;
                let name = format!(
                    "{across} x {down} threads of {r} x {t}, depth {}, {}",
                    depth * 4,
                    decoder.name()
                );
                let kernel = matmul::kernel(spec, decoder, *tile);
                let work = 2.0 * work * f64::from(TOKENS);
                kernels.push((
                    Kind::Matmul(spec.dtype),
                    name,
                    kernel,
                    matmul::grid(rows, TOKENS, *tile),
                    work,
                ));
            }
        }
        // Taken out while bind groups are made of them.
        let buffers = std::mem::take(&mut self.buffers);
        for (kind, name, kernel, grid, work) in kernels {
            let batch = if matches!(kind, Kind::Matmul(_)) { all_tokens } else { one_token };
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

    /// Reads, merges by the kernels that a merge would choose, dispatches.
    pub(super) fn rest(&mut self, opaque: slerp_sums::Opaque, tiny: blend::Tiny) -> Result<(), GpuError> {
        let block = block();
        // What one workgroup of the least of both reads, so that a binding of any size is read as a whole.
        let bytes = self.walk_bytes / (1 << 14) * (1 << 14);
        let [a, b, merged] = [self.storage(bytes)?, self.storage(bytes)?, self.storage(bytes)?];
        for index in [a, b, merged] {
            self.buffers.get(index).into_iter().for_each(|buffer| fill(self.gpu, buffer, &block));
        }
        let small = self.storage(4096)?;
        for (kernel, of_group) in streams() {
            let groups = bytes / of_group;
            if groups > 0 {
                let name = (Kind::Stream, "", format!("{of_group} bytes a workgroup"));
                let read = (groups * of_group) as f64;
                self.add_one(name, Some(kernel), &[a, small], [groups as u32, 1, 1], read)?;
            }
        }
        if bytes >= u64::from(SIDE * SIDE * 4) {
            for (kernel, [rows, tokens]) in plain_products() {
                let name = (Kind::Product, "", format!("{} of {rows} x {tokens}", kernel.name));
                let grid = [SIDE / rows, SIDE / tokens, 1];
                self.add_one(name, Some(kernel), &[a, b, merged], grid, 2.0 * f64::from(SIDE).powi(3))?;
            }
        }

        let elements = (bytes / 2) as u32;
        let params = slerp_sums::Params { loads: elements / 8, ..Default::default() };
        let params = self.uniform(bytemuck::bytes_of(&params))?;
        let sums =
            self.storage(u64::from(elements.div_ceil(slerp_sums::BLOCK) * slerp_sums::WORDS_PER_BLOCK) * 4)?;
        let (kernel, grid) = (slerp_sums::kernel(Dtype::Bf16, opaque), slerp_sums::grid(elements));
        self.add_one(
            (Kind::Reduce, "BF16", format!("slerp_sums, {}", opaque.name())),
            kernel,
            &[params, a, b, sums],
            grid,
            2.0 * bytes as f64,
        )?;
        let params =
            blend::Params { groups: elements / blend::GROUP, c0: 0.5, c1: 0.5, ..Default::default() };
        let params = self.uniform(bytemuck::bytes_of(&params))?;
        let (kernel, grid) = (blend::kernel(Dtype::Bf16, Dtype::Bf16, tiny), blend::grid(elements));
        let buffers = [params, a, b, merged, small];
        self.add_one(
            (Kind::Blend, "BF16", format!("blend, {}", tiny.name())),
            kernel,
            &buffers,
            grid,
            3.0 * bytes as f64,
        )?;

        let params = self.uniform(bytemuck::bytes_of(&silu_mul::Params { pitch: 1, padding: [0; 3] }))?;
        let (up, mlp) = (self.storage(16)?, self.storage(16)?);
        let name = (Kind::Dispatch, "", "dependent".into());
        self.add_one(name, Some(silu_mul::kernel()), &[params, up, mlp], [1, 1, 1], 1.0)
    }
}
