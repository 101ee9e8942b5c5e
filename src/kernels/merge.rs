//! A merge of two tensors on a GPU of its own: sums, then the blend, both over tensors that stay
//! in GPU memory in between.

mod tested;

use std::ops::Range;

use crate::dtype::Dtype;
use crate::gpu::{DeviceTier, Gpu, GpuError, GpuOptions, PieceReader, Purpose, Resident};

use super::blend;
use super::blend::Tiny;
use super::slerp_sums::Opaque;
pub(super) use tested::MergeKernels;

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
    kernels: MergeKernels,
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
        let mut this = SlerpGpu { kernels: MergeKernels::default(), gpu };
        this.kernels.start(&this.gpu, dtypes)?;
        for &dtype in dtypes {
            this.kernels.fastest_sums(&this.gpu, dtype).await?;
            for &out in dtypes {
                this.kernels.fastest_blend(&this.gpu, dtype, out).await?;
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
        self.kernels.exact_sums()
    }

    /// Whether blends have the bits of plain f32 arithmetic here, for every pair of dtypes tested so
    /// far. Where not, [`SlerpGpu::blend`] refuses: blend on the CPU.
    pub fn exact_blend(&self) -> bool {
        self.kernels.exact_blends()
    }

    /// The kernels of this device for sums of `dtype` and, with coefficients of usual size, for blends from it to
    /// `out`: the fastest ones that passed their start-up tests.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for a dtype that shaders do not merge; whatever the device reports.
    pub async fn chosen(&mut self, dtype: Dtype, out: Dtype) -> Result<(Opaque, Tiny), GpuError> {
        let opaque = self.kernels.fastest_sums(&self.gpu, dtype).await?;
        Ok((opaque, self.kernels.fastest_blend(&self.gpu, dtype, out).await?))
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
        MergeKernels::tensor(&self.gpu, label, dtype, elements).await
    }

    /// Writes packed elements from `first` on, waiting where much is on its way. Chunks may come in
    /// any order and begin at any element, as long as every element is written once.
    ///
    /// # Errors
    /// [`GpuError::Shape`] if `bytes` is no whole number of elements or exceeds the tensor;
    /// whatever the device reports.
    pub async fn write(&mut self, tensor: &mut Resident, first: u64, bytes: &[u8]) -> Result<(), GpuError> {
        self.kernels.write(&self.gpu, tensor, first, bytes).await
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
        self.kernels.sums(&self.gpu, a, b).await
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
        let first = match blend::may_keep(a.dtype(), coefficients) {
            true => self.kernels.fastest_blend(&self.gpu, a.dtype(), out).await?,
            false => Tiny::Counted,
        };
        let blended = self.kernels.blend(&self.gpu, first, [a, b], coefficients, out).await?;
        if blended.non_finite == 0 {
            return Ok(blended);
        }
        // What was counted may be tiny, or groups.
        drop(blended);
        self.kernels.blend(&self.gpu, Tiny::Exact, [a, b], coefficients, out).await
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
