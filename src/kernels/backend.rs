//! The decoder's steps on WebGPU: one compute pass and one submit per forward pass, bind
//! groups made once per step and matrix.

use std::collections::HashMap;

use crate::dtype::Dtype;
use crate::gpu::{
    Gpu, GpuBuffer, GpuError, GpuMatrix, Kernel, Kernels, Pipeline, Purpose, Uploader, read_buffer,
};
use crate::steps::{Batch, DecoderShape, MatrixSpec, Slot, Steps, Store, Write};

use super::attend::Tiling;
use super::weights::Decoder;
use super::{
    BatchUniform, Grid, attend, attend_reduce, decode_fp8, embed, linear, matmul, matvec, matvec_gated,
    rms_norm, rope_store, silu_mul,
};

/// Tokens of a prompt that one pass takes at most.
const MAX_BATCH: u32 = 256;

/// Rows of activations start at multiples of this many f32, so that the widest load of weights
/// (16 of them) always finds its activations; the padding is zero.
const PITCH: u32 = 16;

/// What the backend runs on, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// Weight decoder of F8_E4M3 that passed its test here.
    pub fp8_decoder: Decoder,
    /// Bytes for weights, key/value cache and everything else.
    pub bytes: [u64; 3],
}

/// A norm's weight in GPU memory.
pub struct GpuVector {
    id: u32,
    len: u32,
    buffer: GpuBuffer,
}

/// One step of one matrix, cache or norm: what its bind groups are filed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum StepKey {
    Embed { table: u32 },
    RmsNorm { x: Slot, weight: u32, y: Slot },
    Linear { x: Slot, weight: u32, y: Slot, write: Write, prompt: bool },
    Gated { x: Slot, gate: u32 },
    Up { x: Slot, up: u32, prompt: bool },
    Silu,
    RopeStore { layer: u32 },
    Attend { layer: u32, prompt: bool },
    AttendReduce,
}

/// A dispatch ready to run but for its grid.
struct Bound {
    pipeline: Pipeline,
    group: wgpu::BindGroup,
}

/// A dispatch of the pass being recorded.
struct Dispatch {
    key: StepKey,
    part: usize,
    grid: Grid,
}

struct Activations {
    slots: HashMap<Slot, GpuBuffer>,
    up: GpuBuffer,
    ids: GpuBuffer,
    rope: GpuBuffer,
    pieces: GpuBuffer,
    batch: GpuBuffer,
    logits_staging: GpuBuffer,
}

/// The WebGPU backend for one decoder.
pub struct WebGpu {
    // Fields drop in order: buffers before the device.
    activations: Activations,
    caches: Vec<[GpuBuffer; 2]>,
    uniforms: HashMap<Vec<u8>, GpuBuffer>,
    bound: HashMap<StepKey, Vec<Bound>>,
    kernels: Kernels,
    decoders: HashMap<Dtype, Decoder>,
    uploader: Uploader,
    allocation_scope: Option<wgpu::ErrorScopeGuard>,
    planning: bool,
    planned: Vec<Kernel>,
    pass: Vec<Dispatch>,
    batch: BatchUniform,
    prompt: bool,
    next_id: u32,
    shape: DecoderShape,
    gpu: Gpu,
}

impl WebGpu {
    /// Tokens that one pass may hold on this device: activations are not split.
    pub fn max_batch(gpu: &Gpu, shape: &DecoderShape) -> u32 {
        let widest = shape.hidden.max(shape.intermediate).max(shape.qkv_width()).next_multiple_of(PITCH);
        let fit = gpu.tier().max_binding_bytes / (u64::from(widest) * 4);
        u32::try_from(fit).unwrap_or(u32::MAX).clamp(1, MAX_BATCH).min(shape.context.max(1))
    }

    /// Tests the weight decoders and allocates activations and key/value cache.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`], [`GpuError::OutOfMemory`], or a decoder that fails its test.
    pub async fn new(gpu: Gpu, shape: DecoderShape) -> Result<WebGpu, GpuError> {
        let mut kernels = Kernels::default();
        let mut decoders = HashMap::new();
        for dtype in super::weights::DTYPES {
            decoders.insert(dtype, decode_fp8::choose(&gpu, &mut kernels, dtype).await?);
        }
        let activations = gpu.guarded("activations", || allocate_activations(&gpu, &shape)).await?;
        let caches = gpu.guarded("the key/value cache", || allocate_caches(&gpu, &shape)).await?;
        Ok(WebGpu {
            activations,
            caches,
            uniforms: HashMap::new(),
            bound: HashMap::new(),
            kernels,
            decoders,
            uploader: Uploader::default(),
            allocation_scope: None,
            planning: false,
            planned: Vec::new(),
            pass: Vec::new(),
            batch: BatchUniform::default(),
            prompt: false,
            next_id: 0,
            shape,
            gpu,
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The decoder's sizes.
    pub fn shape(&self) -> &DecoderShape {
        &self.shape
    }

    /// What it runs on and how much of it.
    pub fn info(&self) -> BackendInfo {
        let bytes = [Purpose::Weights, Purpose::KvCache, Purpose::Activations];
        BackendInfo {
            fp8_decoder: self.decoder(Dtype::F8E4m3),
            bytes: bytes.map(|purpose| self.gpu.allocated_bytes(purpose)),
        }
    }

    /// Forces a weight decoder, for tests of both.
    pub fn set_decoder(&mut self, dtype: Dtype, decoder: Decoder) {
        self.decoders.insert(dtype, decoder);
    }

    /// Contents of an activation, rows of `width(slot)` f32, for tests and diagnostics.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub async fn read(&self, slot: Slot, rows: u32) -> Result<Vec<f32>, GpuError> {
        let (width, pitch) = (self.shape.width(slot), self.pitch(slot));
        let bytes = u64::from(pitch) * u64::from(rows) * 4;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.gpu.buffer("slot readback", bytes, usage, Purpose::Activations)?;
        let mut encoder =
            self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(self.slot(slot)?.raw(), 0, staging.raw(), 0, bytes);
        self.gpu.queue().submit([encoder.finish()]);
        let padded = read_buffer(&self.gpu, staging.raw(), pitch * rows).await?;
        Ok(padded.chunks(pitch as usize).flat_map(|row| row.iter().take(width as usize)).copied().collect())
    }

    /// Fills an activation with rows of `width(slot)` f32, for tests.
    ///
    /// # Errors
    /// [`GpuError::Shape`] if `values` is not whole rows that fit.
    pub fn write(&mut self, slot: Slot, values: &[f32]) -> Result<(), GpuError> {
        let (width, pitch) = (self.shape.width(slot) as usize, self.pitch(slot) as usize);
        let rows = values.len() / width.max(1);
        if rows * width != values.len() || rows > self.shape.rows(slot, self.shape.max_batch) as usize {
            let detail = format!("{} values for rows of {width}", values.len());
            return Err(GpuError::Shape { label: format!("{slot:?}"), detail });
        }
        let mut padded = Vec::with_capacity(rows * pitch);
        for row in values.chunks_exact(width.max(1)) {
            padded.extend_from_slice(row);
            padded.resize(padded.len().next_multiple_of(pitch), 0.0);
        }
        self.gpu.queue().write_buffer(self.slot(slot)?.raw(), 0, bytemuck::cast_slice(&padded));
        Ok(())
    }

    fn decoder(&self, dtype: Dtype) -> Decoder {
        self.decoders.get(&dtype).copied().unwrap_or(Decoder::Safe)
    }

    fn pitch(&self, slot: Slot) -> u32 {
        self.shape.width(slot).next_multiple_of(PITCH)
    }

    fn slot(&self, slot: Slot) -> Result<&GpuBuffer, GpuError> {
        let missing =
            || GpuError::Rejected { label: format!("{slot:?}"), detail: "no such activation".into() };
        self.activations.slots.get(&slot).ok_or_else(missing)
    }

    fn next_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// A uniform with these contents; equal parameters share one buffer.
    fn uniform<P: bytemuck::Pod>(&mut self, params: &P) -> Result<Vec<u8>, GpuError> {
        let bytes = bytemuck::bytes_of(params).to_vec();
        if !self.uniforms.contains_key(&bytes) {
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let buffer = self.gpu.buffer("params", bytes.len() as u64, usage, Purpose::Activations)?;
            self.gpu.queue().write_buffer(buffer.raw(), 0, &bytes);
            self.uniforms.insert(bytes.clone(), buffer);
        }
        Ok(bytes)
    }

    fn params(&self, key: &[u8]) -> Result<&GpuBuffer, GpuError> {
        let missing = || GpuError::Rejected { label: "params".into(), detail: "no such uniform".into() };
        self.uniforms.get(key).ok_or_else(missing)
    }

    /// The pipeline of a kernel that was planned. While planning, notes the kernel instead.
    fn pipeline(&mut self, name: &str, kernel: Option<Kernel>) -> Result<Option<Pipeline>, GpuError> {
        let Some(kernel) = kernel else {
            let detail = "no shader reads this dtype".into();
            return Err(GpuError::Rejected { label: name.into(), detail });
        };
        if self.planning {
            if !self.planned.contains(&kernel) {
                self.planned.push(kernel);
            }
            return Ok(None);
        }
        match self.kernels.find(&kernel) {
            Some(pipeline) => Ok(Some(pipeline)),
            None => {
                let detail = "it was not compiled beforehand".into();
                Err(GpuError::Rejected { label: kernel.name.into(), detail })
            }
        }
    }

    /// Records one dispatch per part of `key`, binding on first use.
    fn record(
        &mut self,
        key: StepKey,
        bind: impl FnOnce(&mut Self) -> Result<Option<Vec<Bound>>, GpuError>,
        grids: impl IntoIterator<Item = Grid>,
    ) -> Result<(), GpuError> {
        if self.planning || !self.bound.contains_key(&key) {
            match bind(self)? {
                Some(bound) => self.bound.insert(key, bound),
                None => return Ok(()),
            };
        }
        let dispatches = grids.into_iter().enumerate().map(|(part, grid)| Dispatch { key, part, grid });
        self.pass.extend(dispatches);
        Ok(())
    }

    fn bind_linear(
        &mut self,
        x: Slot,
        weight: &GpuMatrix,
        y: &GpuBufferRef,
        write: Write,
        prompt: bool,
    ) -> Result<Option<Vec<Bound>>, GpuError> {
        let (spec, decoder) = (&weight.spec, self.decoder(weight.spec.dtype));
        let kernel =
            if prompt { matmul::kernel(spec, decoder, write) } else { matvec::kernel(spec, decoder, write) };
        let Some(pipeline) = self.pipeline(&spec.label, kernel)? else { return Ok(None) };
        let single = y.single();
        let (x_pitch, y_pitch) = (self.pitch(x), y.pitch(self));
        let mut bound = Vec::new();
        for part in &weight.parts {
            let params = self.uniform(&linear::Params::new(weight, part, x_pitch, y_pitch, single))?;
            let y = y.buffer(self)?;
            let buffers = [
                &self.activations.batch,
                self.params(&params)?,
                self.slot(x)?,
                &part.weights,
                &part.scales,
                y,
            ];
            bound.push(Bound { pipeline, group: self.kernels.bind(&self.gpu, pipeline, &buffers)? });
        }
        Ok(Some(bound))
    }

    fn linear_to(
        &mut self,
        key: StepKey,
        x: Slot,
        weight: &GpuMatrix,
        y: GpuBufferRef,
        write: Write,
    ) -> Result<(), GpuError> {
        // One row is a matrix-vector product even in a prompt.
        let prompt = self.prompt && !y.single();
        let tokens = if y.single() { 1 } else { self.batch.tokens };
        let grids = weight.parts.iter().map(|part| {
            if prompt {
                matmul::grid(part.rows, tokens)
            } else {
                matvec::grid(&weight.spec, part.rows, tokens)
            }
        });
        self.record(key, |this| this.bind_linear(x, weight, &y, write, prompt), grids)
    }
}

/// A destination of a product: an activation, or the scratch for `up`.
enum GpuBufferRef {
    Slot(Slot),
    Up,
}

impl GpuBufferRef {
    fn single(&self) -> bool {
        matches!(self, GpuBufferRef::Slot(Slot::LastNormed | Slot::Logits))
    }

    fn pitch(&self, backend: &WebGpu) -> u32 {
        match self {
            GpuBufferRef::Slot(slot) => backend.pitch(*slot),
            GpuBufferRef::Up => backend.pitch(Slot::Mlp),
        }
    }

    fn buffer<'a>(&self, backend: &'a WebGpu) -> Result<&'a GpuBuffer, GpuError> {
        match self {
            GpuBufferRef::Slot(slot) => backend.slot(*slot),
            GpuBufferRef::Up => Ok(&backend.activations.up),
        }
    }
}

fn allocate_activations(gpu: &Gpu, shape: &DecoderShape) -> Result<Activations, GpuError> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    let words = |label: &str, words: u64| gpu.buffer(label, words * 4, usage, Purpose::Activations);
    let all = [Slot::X, Slot::Normed, Slot::Qkv, Slot::AttnOut, Slot::Mlp, Slot::LastNormed, Slot::Logits];
    let size = |slot: Slot| {
        u64::from(shape.width(slot).next_multiple_of(PITCH)) * u64::from(shape.rows(slot, shape.max_batch))
    };
    let mut slots = HashMap::new();
    for slot in all {
        slots.insert(slot, words(&format!("{slot:?}"), size(slot))?);
    }
    let batch = u64::from(shape.max_batch);
    let splits = u64::from(Tiling::new(shape, false).most_splits(shape));
    let pieces = u64::from(shape.heads) * splits * (u64::from(shape.head_dim) + 2);
    let mapped = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    Ok(Activations {
        slots,
        up: words("up", size(Slot::Mlp))?,
        ids: words("ids", batch)?,
        rope: words("rope", batch * u64::from(shape.head_dim))?,
        pieces: words("attention pieces", pieces)?,
        batch: gpu.buffer("batch", size_of::<BatchUniform>() as u64, uniform, Purpose::Activations)?,
        logits_staging: gpu.buffer(
            "logits readback",
            u64::from(shape.vocab) * 4,
            mapped,
            Purpose::Activations,
        )?,
    })
}

fn allocate_caches(gpu: &Gpu, shape: &DecoderShape) -> Result<Vec<[GpuBuffer; 2]>, GpuError> {
    let bytes = u64::from(shape.cache_slots()) * u64::from(shape.kv_width()) * 2;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let cache = |label: &str| gpu.buffer(label, bytes, usage, Purpose::KvCache);
    (0..shape.layers).map(|_| Ok([cache("key cache")?, cache("value cache")?])).collect()
}

impl Store for WebGpu {
    type Matrix = GpuMatrix;
    type Vector = GpuVector;
    type Error = GpuError;

    fn matrix(&mut self, spec: &MatrixSpec) -> Result<GpuMatrix, GpuError> {
        if self.allocation_scope.is_none() {
            let scope = self.gpu.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            self.allocation_scope = Some(scope);
        }
        let id = self.next_id();
        GpuMatrix::new(&self.gpu, id, spec)
    }

    fn write_rows(&mut self, matrix: &GpuMatrix, first_row: u32, bytes: &[u8]) -> Result<(), GpuError> {
        self.uploader.rows(&self.gpu, matrix, first_row, bytes)
    }

    fn write_scales(&mut self, matrix: &GpuMatrix, first_row: u32, scales: &[f32]) -> Result<(), GpuError> {
        self.uploader.scales(&self.gpu, matrix, first_row, scales)
    }

    fn vector(&mut self, label: &str, len: u32) -> Result<GpuVector, GpuError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let bytes = u64::from(len.next_multiple_of(PITCH)) * 4;
        let buffer = self.gpu.buffer(label, bytes, usage, Purpose::Weights)?;
        Ok(GpuVector { id: self.next_id(), len, buffer })
    }

    fn write_vector(&mut self, vector: &GpuVector, values: &[f32]) -> Result<(), GpuError> {
        if values.len() != vector.len as usize {
            let detail = format!("{} values for a vector of {}", values.len(), vector.len);
            return Err(GpuError::Shape { label: "vector".into(), detail });
        }
        self.uploader.bytes(&self.gpu, &vector.buffer, 0, bytemuck::cast_slice(values));
        Ok(())
    }

    async fn allocated(&mut self) -> Result<(), GpuError> {
        if let Some(scope) = self.allocation_scope.take()
            && scope.pop().await.is_some()
        {
            let bytes = self.gpu.allocated_bytes(Purpose::Weights);
            return Err(GpuError::OutOfMemory { label: "the weights".into(), bytes });
        }
        self.gpu.check()
    }

    async fn relieve(&mut self) -> Result<(), GpuError> {
        self.uploader.relieve(&self.gpu).await
    }

    async fn flush(&mut self) -> Result<(), GpuError> {
        self.uploader.finish(&self.gpu).await
    }
}

impl Steps for WebGpu {
    fn plan(&mut self) {
        self.planning = true;
    }

    fn compile(&mut self) {
        self.planning = false;
        for kernel in std::mem::take(&mut self.planned) {
            self.kernels.start(&self.gpu, kernel);
        }
    }

    async fn compiled(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), GpuError> {
        self.kernels.finish(progress).await?;
        self.gpu.check()
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), GpuError> {
        self.gpu.check()?;
        let tokens = batch.ids.len() as u32;
        let fits = u64::from(batch.position) + u64::from(tokens) <= u64::from(self.shape.context);
        let single = batch.prompt || tokens == 1;
        if tokens == 0 || tokens > self.shape.max_batch || !fits || !single {
            let detail = format!(
                "{tokens} tokens at position {} with room for {} and a context of {}",
                batch.position, self.shape.max_batch, self.shape.context
            );
            return Err(GpuError::Shape { label: "batch".into(), detail });
        }
        let tiling = Tiling::new(&self.shape, batch.prompt);
        let (splits, tiles_per_split) = tiling.splits(&self.shape, batch.position, tokens, batch.prompt);
        self.batch = BatchUniform { tokens, position: batch.position, splits, tiles_per_split };
        self.prompt = batch.prompt;
        self.pass.clear();
        if !self.planning {
            let rope = self.shape.rope_table(batch.position, tokens);
            let queue = self.gpu.queue();
            queue.write_buffer(self.activations.batch.raw(), 0, bytemuck::bytes_of(&self.batch));
            queue.write_buffer(self.activations.ids.raw(), 0, bytemuck::cast_slice(batch.ids));
            queue.write_buffer(self.activations.rope.raw(), 0, bytemuck::cast_slice(&rope));
        }
        Ok(())
    }

    fn embed(&mut self, table: &GpuMatrix) -> Result<(), GpuError> {
        let tokens = self.batch.tokens;
        let grids = table.parts.iter().map(|_| embed::grid(table.loads_per_row(), tokens));
        let bind = |this: &mut Self| {
            let kernel = embed::kernel(&table.spec, this.decoder(table.spec.dtype));
            let Some(pipeline) = this.pipeline("embed", kernel)? else { return Ok(None) };
            let pitch = this.pitch(Slot::X);
            let mut bound = Vec::new();
            for part in &table.parts {
                let params = this.uniform(&embed::Params::new(table, part, pitch))?;
                let buffers = [
                    this.params(&params)?,
                    &this.activations.ids,
                    &part.weights,
                    &part.scales,
                    this.slot(Slot::X)?,
                ];
                bound.push(Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? });
            }
            Ok(Some(bound))
        };
        self.record(StepKey::Embed { table: table.id }, bind, grids)
    }

    fn rms_norm(&mut self, x: Slot, weight: &GpuVector, y: Slot) -> Result<(), GpuError> {
        let last = y == Slot::LastNormed;
        let rows = if last { 1 } else { self.batch.tokens };
        let bind = |this: &mut Self| {
            let Some(pipeline) = this.pipeline("rms_norm", Some(rms_norm::kernel()))? else {
                return Ok(None);
            };
            let params = this.uniform(&rms_norm::Params {
                width: this.shape.width(x),
                pitch: this.pitch(x) / 4,
                last: u32::from(last),
                epsilon: this.shape.norm_epsilon,
            })?;
            let buffers = [
                &this.activations.batch,
                this.params(&params)?,
                this.slot(x)?,
                &weight.buffer,
                this.slot(y)?,
            ];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::RmsNorm { x, weight: weight.id, y }, bind, [[rows, 1, 1]])
    }

    fn linear(&mut self, x: Slot, weight: &GpuMatrix, y: Slot, write: Write) -> Result<(), GpuError> {
        let key = StepKey::Linear { x, weight: weight.id, y, write, prompt: self.prompt };
        self.linear_to(key, x, weight, GpuBufferRef::Slot(y), write)
    }

    fn gated_linear(&mut self, x: Slot, gate: &GpuMatrix, up: &GpuMatrix) -> Result<(), GpuError> {
        let tokens = self.batch.tokens;
        let alike = gate.spec.dtype == up.spec.dtype && gate.spec.scale_cols == up.spec.scale_cols;
        if self.prompt || !alike {
            let mlp = GpuBufferRef::Slot(Slot::Mlp);
            let key =
                StepKey::Linear { x, weight: gate.id, y: Slot::Mlp, write: Write::Set, prompt: self.prompt };
            self.linear_to(key, x, gate, mlp, Write::Set)?;
            let key = StepKey::Up { x, up: up.id, prompt: self.prompt };
            self.linear_to(key, x, up, GpuBufferRef::Up, Write::Set)?;
            let pitch = self.pitch(Slot::Mlp) / 4;
            let bind = |this: &mut Self| {
                let Some(pipeline) = this.pipeline("silu_mul", Some(silu_mul::kernel()))? else {
                    return Ok(None);
                };
                let params = this.uniform(&silu_mul::Params { pitch, padding: [0; 3] })?;
                let buffers = [this.params(&params)?, &this.activations.up, this.slot(Slot::Mlp)?];
                Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
            };
            return self.record(StepKey::Silu, bind, [silu_mul::grid(pitch, tokens)]);
        }
        let grids = gate.parts.iter().map(|part| matvec_gated::grid(&gate.spec, part.rows, tokens));
        let bind = |this: &mut Self| {
            let kernel = matvec_gated::kernel(&gate.spec, this.decoder(gate.spec.dtype));
            let Some(pipeline) = this.pipeline("matvec_gated", kernel)? else { return Ok(None) };
            let (x_pitch, y_pitch) = (this.pitch(x), this.pitch(Slot::Mlp));
            let mut bound = Vec::new();
            for (part, up) in gate.parts.iter().zip(&up.parts) {
                let params = this.uniform(&matvec_gated::Params::new(gate, part, x_pitch, y_pitch))?;
                let buffers = [
                    this.params(&params)?,
                    this.slot(x)?,
                    &part.weights,
                    &part.scales,
                    &up.weights,
                    &up.scales,
                    this.slot(Slot::Mlp)?,
                ];
                bound.push(Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? });
            }
            Ok(Some(bound))
        };
        self.record(StepKey::Gated { x, gate: gate.id }, bind, grids)
    }

    fn rope_store(&mut self, layer: u32) -> Result<(), GpuError> {
        let grid = rope_store::grid(&self.shape, self.batch.tokens);
        let bind = |this: &mut Self| {
            let Some(pipeline) = this.pipeline("rope_store", Some(rope_store::kernel()))? else {
                return Ok(None);
            };
            let params = this.uniform(&rope_store::Params {
                heads: this.shape.heads,
                kv_heads: this.shape.kv_heads,
                half: this.shape.head_dim / 2,
                pitch: this.pitch(Slot::Qkv),
                slots: this.shape.cache_slots(),
                padding: [0; 3],
            })?;
            let [keys, values] = this.cache(layer)?;
            let buffers = [
                &this.activations.batch,
                this.params(&params)?,
                &this.activations.rope,
                this.slot(Slot::Qkv)?,
                keys,
                values,
            ];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::RopeStore { layer }, bind, [grid])
    }

    fn attend(&mut self, layer: u32) -> Result<(), GpuError> {
        let prompt = self.prompt;
        let (tokens, splits) = (self.batch.tokens, self.batch.splits);
        let tiling = Tiling::new(&self.shape, prompt);
        let bind = |this: &mut Self| {
            let kernel = tiling.kernel(&this.shape);
            let Some(pipeline) = this.pipeline("attend", Some(kernel))? else { return Ok(None) };
            let shape = &this.shape;
            let params = attend::Params {
                kv_heads: shape.kv_heads,
                group: shape.heads / shape.kv_heads.max(1),
                half: shape.head_dim / 2,
                qkv_pitch: this.pitch(Slot::Qkv),
                out_pitch: this.pitch(Slot::AttnOut),
                slots: shape.cache_slots(),
                window: shape.window.unwrap_or(u32::MAX),
                scale: (shape.head_dim as f32).powf(-0.5),
            };
            let params = this.uniform(&params)?;
            let [keys, values] = this.cache(layer)?;
            let buffers = [
                &this.activations.batch,
                this.params(&params)?,
                this.slot(Slot::Qkv)?,
                keys,
                values,
                this.slot(Slot::AttnOut)?,
                &this.activations.pieces,
            ];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::Attend { layer, prompt }, bind, [tiling.grid(&self.shape, tokens, splits)])?;
        // Planning covers the longest context, which may be split.
        if splits == 1 && !self.planning {
            return Ok(());
        }
        let grid = attend_reduce::grid(&self.shape, tokens);
        let bind = |this: &mut Self| {
            let kernel = attend_reduce::kernel();
            let Some(pipeline) = this.pipeline("attend_reduce", Some(kernel))? else { return Ok(None) };
            let params = this.uniform(&attend_reduce::Params {
                heads: this.shape.heads,
                head_dim: this.shape.head_dim,
                out_pitch: this.pitch(Slot::AttnOut),
                padding: 0,
            })?;
            let buffers = [
                &this.activations.batch,
                this.params(&params)?,
                &this.activations.pieces,
                this.slot(Slot::AttnOut)?,
            ];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::AttendReduce, bind, [grid])
    }

    async fn finish(&mut self, logits: bool) -> Result<Option<Vec<f32>>, GpuError> {
        let pass_list = std::mem::take(&mut self.pass);
        if self.planning {
            return Ok(None);
        }
        let mut encoder =
            self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for dispatch in &pass_list {
                let bound = self.bound.get(&dispatch.key).and_then(|parts| parts.get(dispatch.part));
                let Some((raw, bound)) = bound.and_then(|b| Some((self.kernels.raw(b.pipeline)?, b))) else {
                    let detail = "it was recorded without being bound".into();
                    return Err(GpuError::Rejected { label: format!("{:?}", dispatch.key), detail });
                };
                pass.set_pipeline(raw);
                pass.set_bind_group(0, &bound.group, &[]);
                let [x, y, z] = dispatch.grid;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        let staging = &self.activations.logits_staging;
        if logits {
            let bytes = u64::from(self.shape.vocab) * 4;
            encoder.copy_buffer_to_buffer(self.slot(Slot::Logits)?.raw(), 0, staging.raw(), 0, bytes);
        }
        self.gpu.queue().submit([encoder.finish()]);
        if logits {
            return Ok(Some(read_buffer(&self.gpu, staging.raw(), self.shape.vocab).await?));
        }
        self.gpu.idle().await?;
        Ok(None)
    }
}

impl WebGpu {
    fn cache(&self, layer: u32) -> Result<&[GpuBuffer; 2], GpuError> {
        let missing =
            || GpuError::Rejected { label: format!("layer {layer}"), detail: "no such cache".into() };
        self.caches.get(layer as usize).ok_or_else(missing)
    }
}
