//! The two backends as one, so that decoder, loader and caches exist once in the wasm.

use super::room::{HARDWARE, Room};
use super::types::{AdapterInfo, BackendChoice};
use super::{EngineError, LoadOptions};
use crate::cpu::{Cpu, CpuError, CpuMatrix, CpuVector};
use crate::gpu::{DeviceTier, Gpu, GpuError, GpuMatrix, GpuOptions, Traffic};
use crate::kernels::{Threads, WebGpu};
use crate::model::WeightPlan;
use crate::steps::sampling::{Past, Rules, Sampled};
use crate::steps::{Batch, DecoderShape, MatrixSpec, Slot, Steps, Store, Write};

type GpuVector = <WebGpu as Store>::Vector;

/// What a load opens before it knows the model.
pub(super) enum Device {
    Gpu(Gpu),
    Cpu,
}

impl Device {
    /// The device that the options ask for; with the reason, where they leave the choice: WebGPU on an
    /// adapter that is hardware or was named beforehand, else the CPU.
    pub async fn open(options: &LoadOptions) -> Result<(Device, Option<String>), GpuError> {
        if options.backend == BackendChoice::Cpu {
            return Ok((Device::Cpu, None));
        }
        let free = options.is_free();
        if let Some(reason) = options.why_cpu() {
            return Ok((Device::Cpu, Some(reason.into())));
        }
        match Gpu::open(&GpuOptions { hardware: free, ..options.gpu.clone() }).await {
            Ok(gpu) => Ok((Device::Gpu(gpu), free.then(|| HARDWARE.into()))),
            Err(GpuError::NoAdapter { wanted, .. }) if free => {
                Ok((Device::Cpu, Some(format!("there is no WebGPU adapter {wanted}"))))
            }
            Err(error) if free => Ok((Device::Cpu, Some(error.to_string()))),
            Err(error) => Err(error),
        }
    }

    /// What it has room for.
    pub fn room(&self) -> Room<'_> {
        match self {
            Device::Gpu(gpu) => Room::Gpu(gpu.tier()),
            Device::Cpu => Room::Cpu,
        }
    }

    /// Makes sure that there is memory, where that can be known before it is used; `beside` bytes of it are for
    /// the source.
    pub fn reserve(&self, plan: &WeightPlan, shape: &DecoderShape, beside: u64) -> Result<(), CpuError> {
        match self {
            Device::Gpu(_) => Ok(()),
            Device::Cpu => {
                let [kv_cache, activations] = Cpu::memory(shape);
                Cpu::reserve([plan.host_bytes(), kv_cache, activations], beside)
            }
        }
    }

    /// The backend for a decoder of that shape.
    pub async fn backend(self, shape: DecoderShape, options: &LoadOptions) -> Result<Backend, BackendError> {
        Ok(match self {
            Device::Gpu(gpu) => Backend::Gpu(Box::new(WebGpu::new(gpu, shape).await?)),
            Device::Cpu => Backend::Cpu(Box::new(Cpu::new(shape, options.turn)?)),
        })
    }
}

/// A backend.
pub(super) enum Backend {
    Gpu(Box<WebGpu>),
    Cpu(Box<Cpu>),
}

pub(super) enum Matrix {
    Gpu(GpuMatrix),
    Cpu(CpuMatrix),
}

pub(super) enum Vector {
    Gpu(GpuVector),
    Cpu(CpuVector),
}

/// Failure of either.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackendError {
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error(transparent)]
    Cpu(#[from] CpuError),
}

impl From<BackendError> for EngineError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Gpu(error) => error.into(),
            BackendError::Cpu(error) => error.into(),
        }
    }
}

/// Cannot happen: every backend makes its own matrices and vectors.
fn foreign() -> BackendError {
    CpuError::Shape { label: "weights".into(), detail: "they lie on another device".into() }.into()
}

impl Backend {
    /// `webgpu` or `cpu`.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Gpu(_) => "webgpu",
            Backend::Cpu(_) => "cpu",
        }
    }

    /// The WebGPU backend, where it is that.
    pub fn webgpu(&mut self) -> Option<&mut WebGpu> {
        match self {
            Backend::Gpu(backend) => Some(backend),
            Backend::Cpu(..) => None,
        }
    }

    /// What it runs on.
    pub fn adapter(&self) -> AdapterInfo {
        match self {
            Backend::Gpu(backend) => {
                let DeviceTier { name, driver, software, max_binding_bytes, .. } =
                    backend.gpu().tier().clone();
                let fp8_decoder = backend.info().fp8_decoder.name().into();
                let Threads { workgroup, lanes, .. } = backend.choice().threads;
                let (threads, subgroup) = (Some([workgroup, lanes]), backend.threads().subgroup);
                AdapterInfo { name, driver, software, max_binding_bytes, fp8_decoder, threads, subgroup }
            }
            Backend::Cpu(_) => AdapterInfo {
                name: "CPU, one thread".into(),
                driver: String::new(),
                software: true,
                max_binding_bytes: isize::MAX as u64,
                fp8_decoder: "fast".into(),
                threads: None,
                subgroup: 0,
            },
        }
    }

    /// Makes sure of memory for a source that other weights come from, where that can be known before it is used.
    pub fn reserve_beside(&self, source_bytes: u64) -> Result<(), CpuError> {
        match self {
            Backend::Gpu(_) => Ok(()),
            Backend::Cpu(_) => Cpu::reserve_beside(source_bytes),
        }
    }

    /// What went between host and device: nothing, where they are the same.
    pub fn traffic(&self) -> Traffic {
        match self {
            Backend::Gpu(backend) => backend.gpu().traffic(),
            Backend::Cpu(_) => Traffic::default(),
        }
    }

    /// Bytes for weights, key/value cache and everything else.
    pub fn bytes(&self) -> [u64; 3] {
        match self {
            Backend::Gpu(backend) => backend.info().bytes,
            Backend::Cpu(backend) => backend.bytes(),
        }
    }
}

/// Calls a method of the backend there is.
macro_rules! either {
    ($backend:expr, $b:ident => $call:expr) => {
        match $backend {
            Backend::Gpu($b) => Ok($call?),
            Backend::Cpu($b) => Ok($call?),
        }
    };
}

/// The same with weights, which lie on the same device.
macro_rules! either_with {
    ($backend:expr, $kind:ident($weight:expr), $b:ident, $w:ident => $call:expr) => {
        match ($backend, $weight) {
            (Backend::Gpu($b), $kind::Gpu($w)) => Ok($call?),
            (Backend::Cpu($b), $kind::Cpu($w)) => Ok($call?),
            _ => Err(foreign()),
        }
    };
}

impl Store for Backend {
    type Matrix = Matrix;
    type Vector = Vector;
    type Error = BackendError;

    fn matrix(&mut self, spec: &MatrixSpec) -> Result<Matrix, BackendError> {
        Ok(match self {
            Backend::Gpu(b) => Matrix::Gpu(b.matrix(spec)?),
            Backend::Cpu(b) => Matrix::Cpu(b.matrix(spec)?),
        })
    }

    fn write_rows(&mut self, matrix: &Matrix, first_row: u32, bytes: &[u8]) -> Result<(), BackendError> {
        either_with!(self, Matrix(matrix), b, m => b.write_rows(m, first_row, bytes))
    }

    fn write_scales(&mut self, matrix: &Matrix, first_row: u32, scales: &[f32]) -> Result<(), BackendError> {
        either_with!(self, Matrix(matrix), b, m => b.write_scales(m, first_row, scales))
    }

    fn vector(&mut self, label: &str, len: u32) -> Result<Vector, BackendError> {
        Ok(match self {
            Backend::Gpu(b) => Vector::Gpu(b.vector(label, len)?),
            Backend::Cpu(b) => Vector::Cpu(b.vector(label, len)?),
        })
    }

    fn write_vector(&mut self, vector: &Vector, values: &[f32]) -> Result<(), BackendError> {
        either_with!(self, Vector(vector), b, v => b.write_vector(v, values))
    }

    async fn allocated(&mut self) -> Result<(), BackendError> {
        either!(self, b => b.allocated().await)
    }

    async fn relieve(&mut self) -> Result<(), BackendError> {
        either!(self, b => b.relieve().await)
    }

    async fn flush(&mut self) -> Result<(), BackendError> {
        either!(self, b => b.flush().await)
    }
}

impl Steps for Backend {
    fn plan(&mut self) {
        match self {
            Backend::Gpu(b) => b.plan(),
            Backend::Cpu(b) => b.plan(),
        }
    }

    fn compile(&mut self) {
        match self {
            Backend::Gpu(b) => b.compile(),
            Backend::Cpu(b) => b.compile(),
        }
    }

    async fn compiled(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), BackendError> {
        either!(self, b => b.compiled(progress).await)
    }

    async fn decodable(&mut self) -> Result<(), BackendError> {
        either!(self, b => b.decodable().await)
    }

    fn short(&mut self) -> u32 {
        match self {
            Backend::Gpu(b) => b.short(),
            Backend::Cpu(b) => b.short(),
        }
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), BackendError> {
        either!(self, b => b.begin(batch))
    }

    fn embed(&mut self, table: &Matrix) -> Result<(), BackendError> {
        either_with!(self, Matrix(table), b, m => b.embed(m))
    }

    fn expect_norm(&mut self, weight: &Vector) -> Result<(), BackendError> {
        either_with!(self, Vector(weight), b, v => b.expect_norm(v))
    }

    fn rms_norm(&mut self, x: Slot, weight: &Vector, y: Slot) -> Result<(), BackendError> {
        either_with!(self, Vector(weight), b, v => b.rms_norm(x, v, y))
    }

    fn linear(
        &mut self,
        x: Slot,
        weight: &Matrix,
        y: Slot,
        first: u32,
        write: Write,
    ) -> Result<(), BackendError> {
        either_with!(self, Matrix(weight), b, m => b.linear(x, m, y, first, write))
    }

    fn gated_linear(&mut self, x: Slot, gate: &Matrix, up: &Matrix) -> Result<(), BackendError> {
        match (self, gate, up) {
            (Backend::Gpu(b), Matrix::Gpu(gate), Matrix::Gpu(up)) => Ok(b.gated_linear(x, gate, up)?),
            (Backend::Cpu(b), Matrix::Cpu(gate), Matrix::Cpu(up)) => Ok(b.gated_linear(x, gate, up)?),
            _ => Err(foreign()),
        }
    }

    fn rope_store(&mut self, layer: u32) -> Result<(), BackendError> {
        either!(self, b => b.rope_store(layer))
    }

    fn attend(&mut self, layer: u32) -> Result<(), BackendError> {
        either!(self, b => b.attend(layer))
    }

    async fn finish(&mut self, logits: bool) -> Result<Option<Vec<f32>>, BackendError> {
        either!(self, b => b.finish(logits).await)
    }

    fn start_sampling(
        &mut self,
        rules: &Rules,
        bias: &[(u32, f32)],
        past: Past,
    ) -> Result<Option<usize>, BackendError> {
        either!(self, b => b.start_sampling(rules, bias, past))
    }

    fn begin_sampled(&mut self, position: u32) -> Result<(), BackendError> {
        either!(self, b => b.begin_sampled(position))
    }

    fn sample(&mut self, draw: u64) -> Result<(), BackendError> {
        either!(self, b => b.sample(draw))
    }

    fn submit(&mut self) -> Result<(), BackendError> {
        either!(self, b => b.submit())
    }

    async fn sampled(&mut self) -> Result<Option<Sampled>, BackendError> {
        either!(self, b => b.sampled().await)
    }
}
