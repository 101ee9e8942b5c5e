//! The decoder's steps on WebGPU: one compute pass and one submit per forward pass, bind
//! groups made once per step and matrix.

mod attention;
mod buffers;
mod cache;
mod norm;
#[cfg(any(feature = "bench", not(target_arch = "wasm32")))]
mod profile;
mod sample;
mod stages;
mod steps;
mod store;
mod target;
mod tuning;

use std::collections::HashMap;
use std::rc::Rc;

use target::GpuBufferRef;

use buffers::{Activations, allocate_activations, allocate_caches};
use sample::Sampling;

use super::attend_one::OneTiling;
use super::tune::Product;
use super::weights::Decoder;
use super::{BatchUniform, Choice, Grid, PITCH, Sizes, decode_fp8, linear, matmul, matvec, subgroups};
use crate::dtype::Dtype;
use crate::gpu::{
    DeviceTier, Gpu, GpuBuffer, GpuError, GpuMatrix, Kernel, Kernels, Pipeline, Purpose, Uploader,
    buffer_bytes, read_buffer,
};
use crate::steps::{DecoderShape, Slot, Write};

/// Tokens of a prompt that one pass takes at most.
const MAX_BATCH: u32 = 256;

/// What the backend runs on, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// Weight decoder of F8_E4M3 in use: one that passed its test here.
    pub fp8_decoder: Decoder,
    /// Bytes for weights, key/value cache and everything else.
    pub bytes: [u64; 3],
}

/// A norm's weight in GPU memory.
pub struct GpuVector {
    id: u32,
    len: u32,
    buffer: Rc<GpuBuffer>,
}

/// A norm's weight that a product of this pass may take in.
#[derive(Clone)]
struct Gain {
    id: u32,
    buffer: Rc<GpuBuffer>,
}

/// One step of one matrix, cache or norm: what its bind groups are filed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum StepKey {
    Embed { table: u32 },
    RmsNorm { x: Slot, weight: u32, y: Slot },
    Gain { weight: u32, last: bool },
    Linear { x: Slot, scaled: bool, weight: u32, y: Slot, write: Write, gain: Option<u32>, prompt: bool },
    Gated { gate: u32, prompt: bool },
    Up { scaled: bool, up: u32, prompt: bool },
    Silu,
    RopeStore { layer: u32 },
    Attend { layer: u32, prompt: bool },
    AttendOne { layer: u32 },
    AttendReduce,
    SampleAdjust,
    SamplePick { greedy: bool },
}

/// What waits for a kernel to be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The first token.
    Prompt,
    /// The second.
    Decode,
    /// Nothing: until then the host chooses the best token.
    Best,
    /// Nothing: until then the host draws.
    Draw,
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

/// The WebGPU backend for one decoder.
pub struct WebGpu {
    // Fields drop in order: buffers before the device.
    activations: Activations,
    sampling: Sampling,
    caches: Vec<[GpuBuffer; 2]>,
    uniforms: HashMap<Vec<u8>, GpuBuffer>,
    bound: HashMap<StepKey, Vec<Bound>>,
    kernels: Kernels,
    decoders: HashMap<Dtype, Decoder>,
    sizes: Sizes,
    choice: Choice,
    /// Threads whose sums may meet by exchange within a subgroup; 0: none.
    subgroup: u32,
    uploader: Uploader,
    allocation_scope: Option<wgpu::ErrorScopeGuard>,
    planning: bool,
    planned: Vec<(Stage, Kernel)>,
    /// Kernels of the stages, compiled or on the way.
    stages: Vec<(Stage, Pipeline)>,
    /// What the kernels that are planned now are for, where that is a choice.
    choosing: Option<Stage>,
    /// Products of a decoded token, as they were planned.
    products: Vec<Product>,
    pass: Vec<Dispatch>,
    batch: BatchUniform,
    prompt: bool,
    /// The norm that will follow the next step, by its weight.
    next_norm: Option<Gain>,
    /// The norm whose gain the activations `gained` and `squares` have, if they are of what X holds.
    gained_by: Option<u32>,
    /// The slot whose readers bind `gained` and `squares` instead of it.
    scaled_slot: Option<Slot>,
    /// How the attention of this pass is cut, where it is one decoded token's.
    one: Option<OneTiling>,
    next_id: u32,
    /// What the latest token chosen here was made of.
    latest: Vec<Dispatch>,
    shape: DecoderShape,
    gpu: Gpu,
}

impl WebGpu {
    /// Tokens that one pass may hold on this device: activations are not split.
    pub fn max_batch(tier: &DeviceTier, shape: &DecoderShape) -> u32 {
        let widest = shape.hidden.max(shape.intermediate).max(shape.qkv_width()).next_multiple_of(PITCH);
        let fit = tier.max_binding_bytes / (u64::from(widest) * 4);
        u32::try_from(fit).unwrap_or(u32::MAX).clamp(1, MAX_BATCH).min(shape.context.max(1))
    }

    /// Whether a device's bindings hold every activation, which are not split.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`].
    pub fn check_limits(tier: &DeviceTier, shape: &DecoderShape) -> Result<(), GpuError> {
        let (bytes, limit) = (buffers::largest_activation(shape, Sizes::of(tier)), tier.max_binding_bytes);
        if bytes <= buffer_bytes(limit) {
            return Ok(());
        }
        let label = "an activation".into();
        Err(GpuError::TooLarge { label, bytes, limit, advice: "use a device with larger limits" })
    }

    /// Device memory in bytes for a vector of that many f32.
    pub fn vector_bytes(len: u32) -> u64 {
        u64::from(len.next_multiple_of(PITCH)) * 4
    }

    /// Device memory in bytes for key/value cache and for activations.
    pub fn memory(tier: &DeviceTier, shape: &DecoderShape) -> [u64; 2] {
        let [caches, activations] = buffers::memory(shape, Sizes::of(tier));
        [caches, activations + sample::memory(shape)]
    }

    /// Tests the weight decoders and allocates activations and key/value cache.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`], [`GpuError::OutOfMemory`], or a decoder that fails its test.
    pub async fn new(gpu: Gpu, shape: DecoderShape) -> Result<WebGpu, GpuError> {
        let mut kernels = Kernels::default();
        let mut decoders = HashMap::new();
        decode_fp8::start(&gpu, &mut kernels);
        for dtype in super::weights::DTYPES {
            decoders.insert(dtype, decode_fp8::choose(&gpu, &mut kernels, dtype).await?);
        }
        // Behind the decoders, and not beside them: what a device refuses here is no fault of theirs.
        let subgroup = subgroups::choose(&gpu, &mut kernels).await?;
        let sizes = Sizes::of(gpu.tier());
        let activations = gpu.guarded("activations", || allocate_activations(&gpu, &shape)).await?;
        let sampling = gpu.guarded("sampling", || Sampling::allocate(&gpu, &shape)).await?;
        let caches = gpu.guarded("the key/value cache", || allocate_caches(&gpu, &shape)).await?;
        Ok(WebGpu {
            activations,
            sampling,
            caches,
            uniforms: HashMap::new(),
            bound: HashMap::new(),
            kernels,
            decoders,
            sizes,
            choice: Choice::usual(gpu.tier(), &shape),
            subgroup,
            uploader: Uploader::default(),
            allocation_scope: None,
            planning: false,
            planned: Vec::new(),
            stages: Vec::new(),
            choosing: None,
            products: Vec::new(),
            pass: Vec::new(),
            batch: BatchUniform::default(),
            prompt: false,
            next_norm: None,
            gained_by: None,
            scaled_slot: None,
            one: None,
            next_id: 0,
            latest: Vec::new(),
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

    /// Threads whose sums may meet by exchange within a subgroup; 0: none.
    #[cfg(any(feature = "bench", not(target_arch = "wasm32")))]
    pub(in crate::kernels) fn subgroup(&self) -> u32 {
        self.subgroup
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
        self.gpu.submit(Some(encoder.finish()));
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

    pub(in crate::kernels) fn decoder(&self, dtype: Dtype) -> Decoder {
        self.decoders.get(&dtype).copied().filter(|_| self.choice.fast).unwrap_or(Decoder::Safe)
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
            if !self.planned.iter().any(|(_, planned)| *planned == kernel) {
                let of_pass = if self.prompt { Stage::Prompt } else { Stage::Decode };
                let stage = self.choosing.unwrap_or(of_pass);
                self.planned.push((stage, kernel));
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
        (y, first): (&GpuBufferRef, u32),
        write: Write,
        gain: Option<&Gain>,
        prompt: bool,
    ) -> Result<Option<Vec<Bound>>, GpuError> {
        let (spec, decoder) = (&weight.spec, self.decoder(weight.spec.dtype));
        let (threads, is_scaled) = (self.pass_threads(), self.is_scaled(x));
        let kernel = match gain {
            _ if prompt => matmul::kernel(spec, decoder, self.choice.tile),
            _ if is_scaled => matvec::scaled(spec, decoder, threads, self.shape.norm_epsilon),
            Some(_) => matvec::gaining(spec, decoder, threads),
            None => matvec::kernel(spec, decoder, threads),
        };
        let Some(pipeline) = self.pipeline(&spec.label, kernel)? else { return Ok(None) };
        let single = y.single();
        let (x_pitch, y_pitch) = (self.pitch(x), y.pitch(self));
        let mut bound = Vec::new();
        for part in &weight.parts {
            let params = linear::Params::new(weight, part, x_pitch, y_pitch, first, single, write);
            let params = self.uniform(&params)?;
            let Activations { batch, gained, squares, .. } = &self.activations;
            let x = if is_scaled { gained } else { self.slot(x)? };
            let (params, y) = (self.params(&params)?, y.buffer(self)?);
            let mut buffers = vec![batch, params, x, &part.weights, &part.scales, y];
            match gain {
                _ if is_scaled => buffers.push(squares),
                Some(gain) => buffers.extend([&*gain.buffer, gained, squares]),
                None => {}
            }
            bound.push(Bound { pipeline, group: self.kernels.bind(&self.gpu, pipeline, &buffers)? });
        }
        Ok(Some(bound))
    }

    /// Whether this slot is a norm's whose readers take in `gained` and `squares` instead.
    fn is_scaled(&self, slot: Slot) -> bool {
        self.scaled_slot == Some(slot)
    }

    fn linear_to(
        &mut self,
        key: StepKey,
        x: Slot,
        weight: &GpuMatrix,
        (y, first): (GpuBufferRef, u32),
        write: Write,
        gain: Option<&Gain>,
    ) -> Result<(), GpuError> {
        // One row is a matrix-vector product even in a prompt.
        let prompt = self.prompt && !y.single();
        let tokens = if y.single() { 1 } else { self.batch.tokens };
        let (threads, tile) = (self.pass_threads(), self.choice.tile);
        self.note_product(&weight.spec, 1, !y.single());
        let grids = weight.parts.iter().map(|part| {
            if prompt {
                matmul::grid(part.rows, tokens, tile)
            } else {
                matvec::grid(&weight.spec, part.rows, tokens, threads)
            }
        });
        self.record(key, |this| this.bind_linear(x, weight, (&y, first), write, gain, prompt), grids)
    }
}

impl WebGpu {
    /// Drops what passes made for themselves: after a failure some of it may be no more than a name, as
    /// where memory ran out, and the next pass makes it anew.
    fn forget(&mut self) {
        self.bound.clear();
        self.uniforms.clear();
    }
}
