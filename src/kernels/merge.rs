//! A merge of two tensors on a GPU of its own: sums, then the blend, both over tensors that stay
//! in GPU memory in between.

use std::collections::HashMap;
use std::ops::Range;

use crate::dtype::Dtype;
use crate::gpu::{
    DeviceTier, Gpu, GpuBuffer, GpuError, GpuOptions, Kernel, Kernels, PieceReader, Pipeline, Purpose,
    Resident, Uploader, read_buffer,
};

use super::blend::Tiny;
use super::slerp_sums::{BLOCK, Totals, WORDS_PER_BLOCK};
use super::{Grid, blend, slerp_sums, weights};

/// Bytes written at once: between two such pieces the device may be waited for.
const WRITE_BYTES: usize = 4 << 20;

/// A compiled kernel that has taken its start-up test.
#[derive(Clone, Copy, Debug)]
struct Tested {
    pipeline: Pipeline,
    exact: bool,
}

/// A blended tensor.
#[derive(Debug)]
pub struct Blended {
    /// The result; as good an input as any other tensor.
    pub tensor: Resident,
    /// How many of its elements are infinite or NaN: the blend left the range of its dtype.
    pub non_finite: u64,
}

/// Merges pairs of tensors on a GPU. For one adapter results have the same bits whatever the chunks
/// in which tensors are written and the buffers over which they are spread; those of
/// [`SlerpGpu::blend`] have the same bits on every adapter.
pub struct SlerpGpu {
    // Fields drop in order: buffers before the device.
    kernels: Kernels,
    sums: HashMap<Dtype, Tested>,
    blends: HashMap<(Dtype, Dtype, Tiny), Tested>,
    uploader: Uploader,
    gpu: Gpu,
}

impl SlerpGpu {
    /// Opens a device, compiles the kernels for tensors of `dtypes` (F32, BF16, F16) and tests them.
    /// Others are compiled and tested when first needed.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::NoDevice`], [`GpuError::Shape`] for a dtype that shaders
    /// do not merge; whatever the device reports.
    pub async fn open(options: &GpuOptions, dtypes: &[Dtype]) -> Result<SlerpGpu, GpuError> {
        let gpu = Gpu::open(options).await?;
        let mut this = SlerpGpu {
            kernels: Kernels::default(),
            sums: HashMap::new(),
            blends: HashMap::new(),
            uploader: Uploader::default(),
            gpu,
        };
        for &dtype in dtypes {
            // Compiled side by side, then waited for.
            this.kernels.start(&this.gpu, sums_kernel(dtype)?);
            for &out in dtypes {
                this.kernels.start(&this.gpu, blend_kernel(dtype, out, Tiny::Counted)?);
            }
        }
        for &dtype in dtypes {
            this.tested_sums(dtype).await?;
            for &out in dtypes {
                this.tested_blend(dtype, out, Tiny::Counted).await?;
            }
        }
        Ok(this)
    }

    /// What the device can do; `software`: it computes on the CPU, where plain code is faster.
    pub fn tier(&self) -> &DeviceTier {
        self.gpu.tier()
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Whether sums are as good as f64's here, for every dtype tested so far. Where not,
    /// [`SlerpGpu::sums`] gives none.
    pub fn exact_sums(&self) -> bool {
        self.sums.values().all(|tested| tested.exact)
    }

    /// Whether blends have the bits of plain f32 arithmetic here, for every pair of dtypes tested so
    /// far. Where not, [`SlerpGpu::blend`] refuses: blend on the CPU.
    pub fn exact_blend(&self) -> bool {
        self.blends.values().all(|tested| tested.exact)
    }

    /// Bytes that tensors and readbacks occupy now.
    pub fn allocated_bytes(&self) -> u64 {
        self.gpu.allocated_bytes(Purpose::Merge)
    }

    /// Allocates a tensor of zeros.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for a dtype other than F32, BF16 and F16, [`GpuError::OutOfMemory`],
    /// [`GpuError::TooLarge`] if the device binds not even one block.
    pub async fn tensor(&self, label: &str, dtype: Dtype, elements: u64) -> Result<Resident, GpuError> {
        self.gpu.guarded(label, || Resident::new(&self.gpu, label, dtype, elements, BLOCK)).await
    }

    /// Writes packed elements from `first` on, waiting where much is on its way. Chunks may come in
    /// any order and begin at any element, as long as every element is written once.
    ///
    /// # Errors
    /// [`GpuError::Shape`] if `bytes` is no whole number of elements or exceeds the tensor;
    /// whatever the device reports.
    pub async fn write(&mut self, tensor: &mut Resident, first: u64, bytes: &[u8]) -> Result<(), GpuError> {
        let mut at = first;
        for piece in bytes.chunks(WRITE_BYTES) {
            tensor.write(&self.gpu, &mut self.uploader, at, piece)?;
            at += piece.len() as u64 / tensor.dtype().size_bytes();
            self.uploader.relieve(&self.gpu).await?;
        }
        Ok(())
    }

    /// Sums of a\*a, b\*b and a\*b, as good as f64's, with the same bits for the same elements
    /// whatever the chunks. `None`: they must be summed on the CPU, because this adapter's arithmetic is not
    /// exact, or because the tensors hold infinities, NaN, or values whose squares leave the
    /// range of f32.
    ///
    /// # Errors
    /// [`GpuError::Shape`] if the tensors differ in dtype or length or were half written; whatever
    /// the device reports.
    pub async fn sums(&mut self, a: &Resident, b: &Resident) -> Result<Option<[f64; 3]>, GpuError> {
        check_pair(a, b)?;
        let Tested { pipeline, exact } = self.tested_sums(a.dtype()).await?;
        if !exact {
            return Ok(None);
        }
        let totals = self.run_sums(pipeline, a, b).await?;
        Ok(totals.usable(a.dtype(), a.elements()))
    }

    /// `round(c0 * a + c1 * b)` in a new tensor of dtype `out`: both products and their sum are
    /// rounded to f32, the result to `out`, ties to even, subnormals included. Inputs must be finite; a
    /// subnormal coefficient counts as zero.
    ///
    /// # Errors
    /// [`GpuError::Shape`] if the tensors differ in dtype or length or were half written, or for
    /// coefficients that no blend has; [`GpuError::Rejected`] where [`SlerpGpu::exact_blend`] is
    /// false; whatever the device reports.
    pub async fn blend(
        &mut self,
        a: &Resident,
        b: &Resident,
        coefficients: [f32; 2],
        out: Dtype,
    ) -> Result<Blended, GpuError> {
        check_pair(a, b)?;
        // Written so that NaN fails.
        if !coefficients.iter().all(|c| c.abs() <= blend::LARGEST_COEFFICIENT) {
            let detail = format!("coefficients {coefficients:?}");
            return Err(GpuError::Shape { label: a.label().into(), detail });
        }
        // An adapter may flush subnormals; for a coefficient all must do the same.
        let coefficients = coefficients.map(|c| if c.is_subnormal() { 0.0 } else { c });
        let blended = self.blend_with(Tiny::Counted, a, b, coefficients, out).await?;
        if blended.non_finite == 0 {
            return Ok(blended);
        }
        // What was counted may be tiny.
        drop(blended);
        self.blend_with(Tiny::Exact, a, b, coefficients, out).await
    }

    async fn blend_with(
        &mut self,
        tiny: Tiny,
        a: &Resident,
        b: &Resident,
        coefficients: [f32; 2],
        out: Dtype,
    ) -> Result<Blended, GpuError> {
        let Tested { pipeline, exact } = self.tested_blend(a.dtype(), out, tiny).await?;
        if !exact {
            let detail = format!(
                "{} does not round as IEEE 754 has it from {} to {out}; merge on the CPU",
                self.tier().name,
                a.dtype()
            );
            return Err(GpuError::Rejected { label: "blend".into(), detail });
        }
        self.run_blend(pipeline, a, b, coefficients, out).await
    }

    /// Reads elements back, packed, all at once.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for elements that the tensor does not have; whatever the device reports.
    pub async fn read(&self, tensor: &Resident, elements: Range<u64>) -> Result<Vec<u8>, GpuError> {
        let mut reader = self.reader(tensor, elements)?;
        let mut bytes = Vec::new();
        while reader.next(&self.gpu, &mut bytes).await? {}
        Ok(bytes)
    }

    /// Reads elements back in pieces of at most 4 MiB, the next ones on their way while one is looked
    /// at: `while reader.next(slerp.gpu(), &mut bytes).await? { ... }`
    ///
    /// # Errors
    /// As [`SlerpGpu::read`].
    pub fn reader<'t>(
        &self,
        tensor: &'t Resident,
        elements: Range<u64>,
    ) -> Result<PieceReader<'t>, GpuError> {
        PieceReader::new(&self.gpu, tensor, elements)
    }

    /// Compiles and tests the sums of a dtype, once.
    async fn tested_sums(&mut self, dtype: Dtype) -> Result<Tested, GpuError> {
        if let Some(tested) = self.sums.get(&dtype) {
            return Ok(*tested);
        }
        let pipeline = self.kernels.start(&self.gpu, sums_kernel(dtype)?);
        self.kernels.finish(&mut |_, _| ()).await?;
        let data = slerp_sums::test_data(dtype);
        let [a, b] = self.upload(dtype, &data).await?;
        let totals = self.run_sums(pipeline, &a, &b).await?;
        let want = slerp_sums::plain_sums(dtype, [&data[0], &data[1]]);
        let usable = totals.usable(dtype, a.elements());
        let tested = Tested { pipeline, exact: usable.is_some_and(|got| slerp_sums::exact(got, want)) };
        self.sums.insert(dtype, tested);
        Ok(tested)
    }

    /// Compiles and tests a blend between two dtypes, once.
    async fn tested_blend(&mut self, dtype: Dtype, out: Dtype, tiny: Tiny) -> Result<Tested, GpuError> {
        if let Some(tested) = self.blends.get(&(dtype, out, tiny)) {
            return Ok(*tested);
        }
        let pipeline = self.kernels.start(&self.gpu, blend_kernel(dtype, out, tiny)?);
        self.kernels.finish(&mut |_, _| ()).await?;
        let mut data = blend::test_data(dtype);
        if tiny == Tiny::Counted {
            data = blend::without_tiny(dtype, &data, blend::TEST_COEFFICIENTS);
        }
        let [a, b] = self.upload(dtype, &data).await?;
        let blended = self.run_blend(pipeline, &a, &b, blend::TEST_COEFFICIENTS, out).await?;
        let got = self.read(&blended.tensor, 0..a.elements()).await?;
        let want = blend::plain_blend(dtype, [&data[0], &data[1]], blend::TEST_COEFFICIENTS, out);
        let exact = want.is_ok_and(|(want, non_finite)| {
            blended.non_finite == non_finite && blend::exact(out, &got, &want)
        });
        let tested = Tested { pipeline, exact };
        self.blends.insert((dtype, out, tiny), tested);
        Ok(tested)
    }

    async fn upload(&mut self, dtype: Dtype, packed: &[Vec<u8>; 2]) -> Result<[Resident; 2], GpuError> {
        let [first, second] = packed;
        let mut tensors = [
            self.tensor("test a", dtype, first.len() as u64 / dtype.size_bytes()).await?,
            self.tensor("test b", dtype, second.len() as u64 / dtype.size_bytes()).await?,
        ];
        for (tensor, bytes) in tensors.iter_mut().zip(packed) {
            self.write(tensor, 0, bytes).await?;
        }
        Ok(tensors)
    }

    async fn run_sums(&self, pipeline: Pipeline, a: &Resident, b: &Resident) -> Result<Totals, GpuError> {
        let per_load = weights::per_load(a.dtype());
        let block_bytes = u64::from(WORDS_PER_BLOCK) * 4;
        // As many parts in one go as have their sums in one binding: nearly always all.
        let part_bytes = a.part_elements().div_ceil(u64::from(BLOCK)) * block_bytes;
        let at_once = (self.tier().max_binding_bytes / part_bytes.max(1)).max(1) as usize;
        let pairs: Vec<_> = a.parts().zip(b.parts()).collect();
        let mut totals = Totals::default();
        for pairs in pairs.chunks(at_once) {
            let blocks =
                pairs.iter().map(|((_, elements), _)| u64::from(elements.div_ceil(BLOCK))).sum::<u64>();
            let output = self.storage("sums", blocks * block_bytes)?;
            let mut work = Vec::new();
            let mut first_block = 0;
            for ((a, elements), (b, _)) in pairs {
                let loads = elements.div_ceil(per_load);
                let params = slerp_sums::Params { loads, first_block, zero: 0, padding: 0 };
                work.push(Dispatch {
                    params: self.uniform(&params)?,
                    buffers: vec![*a, *b, &output],
                    grid: slerp_sums::grid(*elements),
                });
                first_block += elements.div_ceil(BLOCK);
            }
            totals.add(&self.run(pipeline, &work, &output).await?);
        }
        Ok(totals)
    }

    async fn run_blend(
        &self,
        pipeline: Pipeline,
        a: &Resident,
        b: &Resident,
        [c0, c1]: [f32; 2],
        out: Dtype,
    ) -> Result<Blended, GpuError> {
        let tensor = self.tensor(a.label(), out, a.elements()).await?;
        if tensor.elements() == 0 {
            return Ok(Blended { tensor, non_finite: 0 });
        }
        // One counter per part: none can overflow.
        let counters = self.storage("non-finite", tensor.parts().len() as u64 * 4)?;
        let mut work = Vec::new();
        for ((((a, elements), (b, _)), (merged, _)), part) in
            a.parts().zip(b.parts()).zip(tensor.parts()).zip(0..)
        {
            let groups = elements.div_ceil(blend::GROUP);
            let params = blend::Params { groups, part, zero: 0, c0, c1, padding: [0; 3] };
            work.push(Dispatch {
                params: self.uniform(&params)?,
                buffers: vec![a, b, merged, &counters],
                grid: blend::grid(elements),
            });
        }
        let counts = self.run(pipeline, &work, &counters).await?;
        let non_finite = counts.iter().map(|count| u64::from(count.to_bits())).sum();
        Ok(Blended { tensor, non_finite })
    }

    /// Runs dispatches in one pass and reads `result` back, whole.
    async fn run(
        &self,
        pipeline: Pipeline,
        work: &[Dispatch<'_>],
        result: &GpuBuffer,
    ) -> Result<Vec<f32>, GpuError> {
        let gpu = &self.gpu;
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

    fn storage(&self, label: &str, bytes: u64) -> Result<GpuBuffer, GpuError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        self.gpu.buffer(label, bytes, usage, Purpose::Merge)
    }

    fn uniform<P: bytemuck::Pod>(&self, params: &P) -> Result<GpuBuffer, GpuError> {
        let bytes = bytemuck::bytes_of(params);
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = self.gpu.buffer("params", bytes.len() as u64, usage, Purpose::Merge)?;
        self.gpu.queue().write_buffer(buffer.raw(), 0, bytes);
        Ok(buffer)
    }
}

/// A dispatch to be run: its parameters, then the buffers behind them.
struct Dispatch<'a> {
    params: GpuBuffer,
    buffers: Vec<&'a GpuBuffer>,
    grid: Grid,
}

fn check_pair(a: &Resident, b: &Resident) -> Result<(), GpuError> {
    if (a.dtype(), a.elements()) != (b.dtype(), b.elements()) {
        let describe = |t: &Resident| format!("{} elements of {}", t.elements(), t.dtype());
        let detail = format!("{} cannot be merged with {}", describe(a), describe(b));
        return Err(GpuError::Shape { label: a.label().into(), detail });
    }
    a.check_written()?;
    b.check_written()
}

fn no_kernel(dtype: Dtype) -> GpuError {
    let detail = format!("no shader merges {dtype} tensors; convert them to F32, BF16 or F16");
    GpuError::Shape { label: "merge".into(), detail }
}

fn sums_kernel(dtype: Dtype) -> Result<Kernel, GpuError> {
    slerp_sums::kernel(dtype).ok_or_else(|| no_kernel(dtype))
}

fn blend_kernel(dtype: Dtype, out: Dtype, tiny: Tiny) -> Result<Kernel, GpuError> {
    blend::kernel(dtype, out, tiny).ok_or_else(|| no_kernel(if dtype.is_f8() { dtype } else { out }))
}
