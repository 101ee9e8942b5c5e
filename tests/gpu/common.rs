//! Opening an adapter, running one kernel on plain buffers, comparing.

use std::fmt::Debug;

use bise::dtype::{Dtype, narrow};
use bise::gpu::{
    Access, BindingKind, Gpu, GpuBuffer, GpuOptions, Kernel, Kernels, LimitChoice, Purpose, read_buffer,
};
use bise::kernels::decode_fp8;
use bise::kernels::weights::{DTYPES, Decoder, per_load};

use crate::common::Random;
pub use crate::common::limits;

/// The adapter that the environment names; `None` only where it says that there is none.
pub fn open(limits: LimitChoice) -> Option<Gpu> {
    if std::env::var("BISE_NO_GPU").is_ok_and(|v| v == "1") {
        println!("BISE_NO_GPU=1: skipped, nothing was tested");
        return None;
    }
    let options = GpuOptions { adapter: std::env::var("BISE_ADAPTER").ok(), limits, ..GpuOptions::default() };
    Some(pollster::block_on(Gpu::open(&options)).expect("these tests need a GPU, or BISE_NO_GPU=1"))
}

/// A device with its compiled kernels, to run one kernel at a time.
pub struct Runner {
    pub kernels: Kernels,
    pub gpu: Gpu,
}

impl Runner {
    pub fn open() -> Option<Runner> {
        Runner::with(limits())
    }

    pub fn with(limits: LimitChoice) -> Option<Runner> {
        Some(Runner { gpu: open(limits)?, kernels: Kernels::default() })
    }

    /// Every dtype with every decoder that may be used for it here.
    pub fn decoders(&mut self) -> Vec<(Dtype, Decoder)> {
        let mut all = Vec::new();
        for dtype in DTYPES {
            all.push((dtype, Decoder::Safe));
            let is_exact = decode_fp8::is_exact(&self.gpu, &mut self.kernels, dtype, Decoder::Fast);
            // Others have one, or two that differ in shifts alone.
            if matches!(dtype, Dtype::F16 | Dtype::F8E4m3 | Dtype::F8E5m2)
                && pollster::block_on(is_exact).unwrap()
            {
                all.push((dtype, Decoder::Fast));
            }
            if dtype != Dtype::F32 {
                all.push((dtype, Decoder::Products));
            }
        }
        all
    }

    /// Threads that every subgroup has; 0 where there are none.
    pub fn fold(&self) -> u32 {
        self.gpu.tier().subgroup
    }

    /// Runs `kernel` on buffers with these contents, in the order of its bindings, and returns
    /// what it leaves in those that it may write.
    pub fn run(&mut self, kernel: Kernel, contents: &[&[u8]], grid: [u32; 3]) -> Vec<Vec<f32>> {
        assert_eq!(contents.len(), kernel.bindings.len(), "{}", kernel.name);
        let bindings = kernel.bindings;
        let pipeline = self.kernels.start(&self.gpu, kernel);
        pollster::block_on(self.kernels.finish(&mut |_, _| ())).unwrap();
        let (gpu, storage) = (&self.gpu, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
        let mut buffers = Vec::new();
        for (binding, bytes) in bindings.iter().zip(contents) {
            let usage = match binding.kind {
                BindingKind::Uniform(_) => wgpu::BufferUsages::UNIFORM,
                BindingKind::Storage(_) => storage,
            };
            buffers.push(make(gpu, binding.name, bytes, usage));
        }
        let group = self.kernels.bind(gpu, pipeline, &buffers.iter().collect::<Vec<_>>()).unwrap();
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(self.kernels.raw(pipeline).unwrap());
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        }
        let mut staged = Vec::new();
        for ((binding, bytes), buffer) in bindings.iter().zip(contents).zip(&buffers) {
            if binding.kind == BindingKind::Storage(Access::ReadWrite) {
                let usage = wgpu::BufferUsages::MAP_READ;
                let staging = make(gpu, "readback", &vec![0; bytes.len()], usage);
                let length = bytes.len() as u64;
                encoder.copy_buffer_to_buffer(buffer.raw(), 0, staging.raw(), 0, length);
                staged.push((staging, (length / 4) as u32));
            }
        }
        gpu.queue().submit([encoder.finish()]);
        let read = |(staging, words): &(GpuBuffer, u32)| {
            pollster::block_on(read_buffer(gpu, staging.raw(), *words)).unwrap()
        };
        staged.iter().map(read).collect()
    }
}

fn make(gpu: &Gpu, label: &str, bytes: &[u8], usage: wgpu::BufferUsages) -> GpuBuffer {
    let usage = usage | wgpu::BufferUsages::COPY_DST;
    let buffer = gpu.buffer(label, bytes.len() as u64, usage, Purpose::Activations).unwrap();
    gpu.queue().write_buffer(buffer.raw(), 0, bytes);
    buffer
}

/// The bytes of a slice or, with `std::slice::from_ref`, of a uniform.
pub fn bytes<T: bytemuck::NoUninit>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// The bytes of a uniform.
pub fn uniform<T: bytemuck::NoUninit>(params: &T) -> &[u8] {
    bytemuck::bytes_of(params)
}

/// Rows of `width` random values in [-1, 1), padded with zeros to `pitch`.
pub fn random_rows(random: &mut Random, rows: u32, width: u32, pitch: u32) -> Vec<f32> {
    let mut values = Vec::new();
    for _ in 0..rows {
        values.extend((0..width).map(|_| random.weight()));
        values.extend((width..pitch).map(|_| 0.0));
    }
    values
}

/// Random weights of `dtype`, tightly packed. `(rows, cols)`
pub fn random_weights(random: &mut Random, dtype: Dtype, rows: u32, cols: u32) -> Vec<u8> {
    let mut packed = Vec::new();
    narrow(dtype, &random_rows(random, rows, cols, cols), &mut packed).unwrap();
    packed
}

/// The same with each row padded to whole 16-byte loads, as it lies on the GPU.
pub fn padded_weights(packed: &[u8], dtype: Dtype, rows: u32, cols: u32) -> Vec<u8> {
    let stride = (cols.div_ceil(per_load(dtype)) * 16) as usize;
    let mut padded = vec![0; stride * rows as usize];
    let row_bytes = cols as usize * dtype.size_bytes() as usize;
    for (to, from) in padded.chunks_exact_mut(stride).zip(packed.chunks_exact(row_bytes)) {
        to[..row_bytes].copy_from_slice(from);
    }
    padded
}

/// How far a value may be from its reference: `abs + rel * |reference|`.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub abs: f32,
    pub rel: f32,
}

/// Whether all of `got` is finite and near `want`; else the worst element.
pub fn compare(got: &[f32], want: &[f32], tolerance: Tolerance) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} values instead of {}", got.len(), want.len()));
    }
    let excess = |got: f32, want: f32| {
        let off = (got - want).abs() / (tolerance.abs + tolerance.rel * want.abs());
        // 0 / 0: exactly as it must be.
        if got.to_bits() == want.to_bits() { 0.0 } else { off }
    };
    let pairs = got.iter().zip(want).enumerate();
    let scored = pairs.map(|(at, (&got, &want))| {
        let finite = got.is_finite() && want.is_finite();
        (if finite { excess(got, want) } else { f32::INFINITY }, at, got, want)
    });
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((excess, at, got, want)) if excess > 1.0 => {
            Err(format!("element {at}: {got} instead of {want}, {excess} times the tolerance"))
        }
        _ => Ok(()),
    }
}

/// Demands that `got` is near `want`, and that the comparison would have caught one element
/// that is not. `what` names the case and the seed.
pub fn check(what: &dyn Debug, got: &[f32], want: &[f32], tolerance: Tolerance) {
    if let Err(worst) = compare(got, want, tolerance) {
        panic!("{what:?}: {worst}");
    }
    assert!(want.iter().any(|v| *v != 0.0), "{what:?}: nothing to compare");
    for corruption in [f32::NAN, f32::INFINITY, 4.0 * (tolerance.abs + 1e-30)] {
        let mut corrupted = got.to_vec();
        let at = want.len() * 2 / 3;
        corrupted[at] = want[at] + 4.0 * tolerance.rel * want[at].abs() + corruption;
        assert!(compare(&corrupted, want, tolerance).is_err(), "{what:?}: a corrupted element passed");
    }
}

#[test]
fn comparison_catches_what_it_must() {
    let tolerance = Tolerance { abs: 1e-3, rel: 1e-3 };
    let want = [1.0, -2.0, 0.0];
    assert!(compare(&[1.001, -2.002, 0.0009], &want, tolerance).is_ok());
    for bad in [[1.003, -2.0, 0.0], [1.0, -2.0, f32::NAN], [1.0, f32::NEG_INFINITY, 0.0], [1.0, 2.0, 0.0]] {
        assert!(compare(&bad, &want, tolerance).is_err(), "{bad:?}");
    }
    assert!(compare(&want[..2], &want, tolerance).is_err());
}
