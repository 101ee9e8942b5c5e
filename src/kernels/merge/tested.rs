//! The kernels of a merge: compiled, tested on the device that they are for, chosen by that, run.

use std::collections::HashMap;

use crate::dtype::Dtype;
use crate::gpu::{
    Gpu, GpuBuffer, GpuError, Kernel, Kernels, PieceReader, Pipeline, Purpose, Resident, Uploader,
    read_buffer,
};
use crate::kernels::blend::{self, Tiny};
use crate::kernels::slerp_sums::{self, BLOCK, Opaque, Totals, WORDS_PER_BLOCK};
use crate::kernels::{Grid, weights};

use super::Blended;

/// Bytes written at once: between two such pieces the device may be waited for.
const WRITE_BYTES: usize = 4 << 20;

/// A compiled kernel that has taken its start-up test.
#[derive(Clone, Copy, Debug)]
struct Tested {
    pipeline: Pipeline,
    exact: bool,
}

/// The kernels that a device has compiled and tested, by what they are for.
#[derive(Default)]
pub(in crate::kernels) struct MergeKernels {
    kernels: Kernels,
    sums: HashMap<(Dtype, Opaque), Tested>,
    blends: HashMap<(Dtype, Dtype, Tiny), Tested>,
    uploader: Uploader,
}

impl MergeKernels {
    /// Starts to compile what tensors of `dtypes` take at least, side by side.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for a dtype that shaders do not merge.
    pub(super) fn start(&mut self, gpu: &Gpu, dtypes: &[Dtype]) -> Result<(), GpuError> {
        for &dtype in dtypes {
            self.kernels.start(gpu, sums_kernel(dtype, Opaque::Sums)?);
            for &out in dtypes {
                self.kernels.start(gpu, blend_kernel(dtype, out, Tiny::Kept)?);
            }
        }
        Ok(())
    }

    /// Whether sums are as good as f64's for every dtype that was tested.
    pub(super) fn exact_sums(&self) -> bool {
        // Where fewer opaque steps are too few there is the other kernel.
        self.sums.iter().all(|((_, opaque), tested)| tested.exact || *opaque == Opaque::Sums)
    }

    /// Whether blends have the bits of plain f32 arithmetic for every pair of dtypes that was tested.
    pub(super) fn exact_blends(&self) -> bool {
        self.blends.iter().all(|((_, _, tiny), tested)| tested.exact || *tiny == Tiny::Kept)
    }

    /// The fastest kernel for sums that is exact on this device; the most careful one where none is.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for a dtype that shaders do not merge; whatever the device reports.
    pub(in crate::kernels) async fn fastest_sums(
        &mut self,
        gpu: &Gpu,
        dtype: Dtype,
    ) -> Result<Opaque, GpuError> {
        if self.tested_sums(gpu, dtype, Opaque::Sums).await?.exact {
            return Ok(Opaque::Sums);
        }
        self.tested_sums(gpu, dtype, Opaque::Each).await?;
        Ok(Opaque::Each)
    }

    /// The fastest kernel for a first blend that is exact on this device; [`Tiny::Counted`] where the adapter does not
    /// keep what is tiny.
    ///
    /// # Errors
    /// As [`MergeKernels::fastest_sums`].
    pub(in crate::kernels) async fn fastest_blend(
        &mut self,
        gpu: &Gpu,
        dtype: Dtype,
        out: Dtype,
    ) -> Result<Tiny, GpuError> {
        if self.tested_blend(gpu, dtype, out, Tiny::Kept).await?.exact {
            return Ok(Tiny::Kept);
        }
        self.tested_blend(gpu, dtype, out, Tiny::Counted).await?;
        Ok(Tiny::Counted)
    }

    /// The sums of tensors by the fastest kernel; `None` where none is exact, or the sums cannot be trusted.
    pub(super) async fn sums(
        &mut self,
        gpu: &Gpu,
        a: &Resident,
        b: &Resident,
    ) -> Result<Option<[f64; 3]>, GpuError> {
        let opaque = self.fastest_sums(gpu, a.dtype()).await?;
        let Tested { pipeline, exact } = self.tested_sums(gpu, a.dtype(), opaque).await?;
        if !exact {
            return Ok(None);
        }
        let totals = self.run_sums(gpu, pipeline, a, b).await?;
        Ok(totals.usable(a.dtype(), a.elements()))
    }

    /// A blend by one kernel, if that is exact here; of what is not finite it tells what that kernel counts.
    pub(super) async fn blend(
        &mut self,
        gpu: &Gpu,
        tiny: Tiny,
        [a, b]: [&Resident; 2],
        coefficients: [f32; 2],
        out: Dtype,
    ) -> Result<Blended, GpuError> {
        let Tested { pipeline, exact } = self.tested_blend(gpu, a.dtype(), out, tiny).await?;
        if !exact {
            let detail = format!(
                "{} does not round as IEEE 754 has it from {} to {out}; merge on the CPU",
                gpu.tier().name,
                a.dtype()
            );
            return Err(GpuError::Rejected { label: "blend".into(), detail });
        }
        self.run_blend(gpu, pipeline, a, b, coefficients, out).await
    }

    /// Allocates a tensor of zeros.
    pub(super) async fn tensor(
        gpu: &Gpu,
        label: &str,
        dtype: Dtype,
        elements: u64,
    ) -> Result<Resident, GpuError> {
        gpu.guarded(label, || Resident::new(gpu, label, dtype, elements, BLOCK)).await
    }

    /// Writes packed elements from `first` on, waiting where much is on its way.
    pub(super) async fn write(
        &mut self,
        gpu: &Gpu,
        tensor: &mut Resident,
        first: u64,
        bytes: &[u8],
    ) -> Result<(), GpuError> {
        let mut at = first;
        for piece in bytes.chunks(WRITE_BYTES) {
            tensor.write(gpu, &mut self.uploader, at, piece)?;
            at += piece.len() as u64 / tensor.dtype().size_bytes();
            self.uploader.relieve(gpu).await?;
        }
        Ok(())
    }

    /// Compiles and tests the sums of a dtype, once.
    async fn tested_sums(&mut self, gpu: &Gpu, dtype: Dtype, opaque: Opaque) -> Result<Tested, GpuError> {
        if let Some(tested) = self.sums.get(&(dtype, opaque)) {
            return Ok(*tested);
        }
        let pipeline = self.kernels.start(gpu, sums_kernel(dtype, opaque)?);
        let exact = match self.kernels.wait(&[pipeline], &mut |_, _| ()).await {
            Ok(()) => self.sums_pass(gpu, pipeline, dtype).await?,
            // A compiler may take the other one.
            Err(GpuError::Rejected { .. }) if opaque == Opaque::Sums => false,
            Err(error) => return Err(error),
        };
        let tested = Tested { pipeline, exact };
        self.sums.insert((dtype, opaque), tested);
        Ok(tested)
    }

    async fn sums_pass(&mut self, gpu: &Gpu, pipeline: Pipeline, dtype: Dtype) -> Result<bool, GpuError> {
        let data = slerp_sums::test_data(dtype);
        let [a, b] = self.upload(gpu, dtype, &data).await?;
        let totals = self.run_sums(gpu, pipeline, &a, &b).await?;
        let want = slerp_sums::plain_sums(dtype, [&data[0], &data[1]]);
        let usable = totals.usable(dtype, a.elements());
        Ok(usable.is_some_and(|got| slerp_sums::exact(got, want)))
    }

    /// Compiles and tests a blend between two dtypes, once.
    async fn tested_blend(
        &mut self,
        gpu: &Gpu,
        dtype: Dtype,
        out: Dtype,
        tiny: Tiny,
    ) -> Result<Tested, GpuError> {
        if let Some(tested) = self.blends.get(&(dtype, out, tiny)) {
            return Ok(*tested);
        }
        let pipeline = self.kernels.start(gpu, blend_kernel(dtype, out, tiny)?);
        let exact = match self.kernels.wait(&[pipeline], &mut |_, _| ()).await {
            Ok(()) => self.blend_passes(gpu, pipeline, (dtype, out), tiny).await?,
            // A compiler may take the other one.
            Err(GpuError::Rejected { .. }) if tiny == Tiny::Kept => false,
            Err(error) => return Err(error),
        };
        let tested = Tested { pipeline, exact };
        self.blends.insert((dtype, out, tiny), tested);
        Ok(tested)
    }

    async fn blend_passes(
        &mut self,
        gpu: &Gpu,
        pipeline: Pipeline,
        (dtype, out): (Dtype, Dtype),
        tiny: Tiny,
    ) -> Result<bool, GpuError> {
        let mut data = blend::test_data(dtype);
        if tiny == Tiny::Counted {
            data = blend::without_tiny(dtype, &data, blend::TEST_COEFFICIENTS);
        }
        let [a, b] = self.upload(gpu, dtype, &data).await?;
        let blended = self.run_blend(gpu, pipeline, &a, &b, blend::TEST_COEFFICIENTS, out).await?;
        let mut got = Vec::new();
        let mut reader = PieceReader::new(gpu, &blended.tensor, 0..a.elements())?;
        while reader.next(gpu, &mut got).await? {}
        let want = blend::plain_blend(dtype, [&data[0], &data[1]], blend::TEST_COEFFICIENTS, out);
        Ok(want.is_ok_and(|(want, non_finite)| {
            blend::passes(tiny, out, &got, blended.non_finite, (&want, non_finite))
        }))
    }

    async fn upload(
        &mut self,
        gpu: &Gpu,
        dtype: Dtype,
        packed: &[Vec<u8>; 2],
    ) -> Result<[Resident; 2], GpuError> {
        let [first, second] = packed;
        let mut tensors = [
            MergeKernels::tensor(gpu, "test a", dtype, first.len() as u64 / dtype.size_bytes()).await?,
            MergeKernels::tensor(gpu, "test b", dtype, second.len() as u64 / dtype.size_bytes()).await?,
        ];
        for (tensor, bytes) in tensors.iter_mut().zip(packed) {
            self.write(gpu, tensor, 0, bytes).await?;
        }
        Ok(tensors)
    }

    async fn run_sums(
        &self,
        gpu: &Gpu,
        pipeline: Pipeline,
        a: &Resident,
        b: &Resident,
    ) -> Result<Totals, GpuError> {
        let per_load = weights::per_load(a.dtype());
        let block_bytes = u64::from(WORDS_PER_BLOCK) * 4;
        // As many parts in one go as have their sums in one binding: nearly always all.
        let part_bytes = a.part_elements().div_ceil(u64::from(BLOCK)) * block_bytes;
        let at_once = (gpu.tier().max_binding_bytes / part_bytes.max(1)).max(1) as usize;
        let pairs: Vec<_> = a.parts().zip(b.parts()).collect();
        let mut totals = Totals::default();
        for pairs in pairs.chunks(at_once) {
            let blocks =
                pairs.iter().map(|((_, elements), _)| u64::from(elements.div_ceil(BLOCK))).sum::<u64>();
            let output = storage(gpu, "sums", blocks * block_bytes)?;
            let mut work = Vec::new();
            let mut first_block = 0;
            for ((a, elements), (b, _)) in pairs {
                let loads = elements.div_ceil(per_load);
                let params = slerp_sums::Params { loads, first_block, zero: 0, padding: 0 };
                work.push(Dispatch {
                    params: uniform(gpu, &params)?,
                    buffers: vec![*a, *b, &output],
                    grid: slerp_sums::grid(*elements),
                });
                first_block += elements.div_ceil(BLOCK);
            }
            totals.add(&self.run(gpu, pipeline, &work, &output).await?);
        }
        Ok(totals)
    }

    async fn run_blend(
        &self,
        gpu: &Gpu,
        pipeline: Pipeline,
        a: &Resident,
        b: &Resident,
        [c0, c1]: [f32; 2],
        out: Dtype,
    ) -> Result<Blended, GpuError> {
        let tensor = MergeKernels::tensor(gpu, a.label(), out, a.elements()).await?;
        if tensor.elements() == 0 {
            return Ok(Blended { tensor, non_finite: 0 });
        }
        // One counter per part: none can overflow.
        let counters = storage(gpu, "non-finite", tensor.parts().len() as u64 * 4)?;
        let mut work = Vec::new();
        for ((((a, elements), (b, _)), (merged, _)), part) in
            a.parts().zip(b.parts()).zip(tensor.parts()).zip(0..)
        {
            let groups = elements.div_ceil(blend::GROUP);
            let params = blend::Params { groups, part, zero: 0, c0, c1, padding: [0; 3] };
            work.push(Dispatch {
                params: uniform(gpu, &params)?,
                buffers: vec![a, b, merged, &counters],
                grid: blend::grid(elements),
            });
        }
        let counts = self.run(gpu, pipeline, &work, &counters).await?;
        let non_finite = counts.iter().map(|count| u64::from(count.to_bits())).sum();
        Ok(Blended { tensor, non_finite })
    }

    /// Runs dispatches in one pass and reads `result` back, whole.
    async fn run(
        &self,
        gpu: &Gpu,
        pipeline: Pipeline,
        work: &[Dispatch<'_>],
        result: &GpuBuffer,
    ) -> Result<Vec<f32>, GpuError> {
        let bytes = result.raw().size();
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.buffer("merge readback", bytes, usage, Purpose::Merge)?;
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if let Some(raw) = self.kernels.raw(pipeline) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(raw);
            for dispatch in work {
                let buffers: Vec<_> =
                    std::iter::once(&dispatch.params).chain(dispatch.buffers.clone()).collect();
                pass.set_bind_group(0, &self.kernels.bind(gpu, pipeline, &buffers)?, &[]);
                let [x, y, z] = dispatch.grid;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        encoder.copy_buffer_to_buffer(result.raw(), 0, staging.raw(), 0, bytes);
        gpu.submit(Some(encoder.finish()));
        read_buffer(gpu, staging.raw(), (bytes / 4) as u32).await
    }
}

fn storage(gpu: &Gpu, label: &str, bytes: u64) -> Result<GpuBuffer, GpuError> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    gpu.buffer(label, bytes, usage, Purpose::Merge)
}

fn uniform<P: bytemuck::Pod>(gpu: &Gpu, params: &P) -> Result<GpuBuffer, GpuError> {
    let bytes = bytemuck::bytes_of(params);
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let buffer = gpu.buffer("params", bytes.len() as u64, usage, Purpose::Merge)?;
    gpu.queue().write_buffer(buffer.raw(), 0, bytes);
    Ok(buffer)
}

/// A dispatch to be run: its parameters, then the buffers behind them.
struct Dispatch<'a> {
    params: GpuBuffer,
    buffers: Vec<&'a GpuBuffer>,
    grid: Grid,
}

fn no_kernel(dtype: Dtype) -> GpuError {
    let detail = format!("no shader merges {dtype} tensors; convert them to F32, BF16 or F16");
    GpuError::Shape { label: "merge".into(), detail }
}

fn sums_kernel(dtype: Dtype, opaque: Opaque) -> Result<Kernel, GpuError> {
    slerp_sums::kernel(dtype, opaque).ok_or_else(|| no_kernel(dtype))
}

fn blend_kernel(dtype: Dtype, out: Dtype, tiny: Tiny) -> Result<Kernel, GpuError> {
    blend::kernel(dtype, out, tiny).ok_or_else(|| no_kernel(if dtype.is_f8() { dtype } else { out }))
}
