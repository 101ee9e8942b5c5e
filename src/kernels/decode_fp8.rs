//! The start-up test of weight decoders, and the choice that follows from it.

use crate::dtype::Dtype;
use crate::gpu::{Binding, Gpu, GpuError, Kernel, Kernels};

use super::trial;
use super::weights::{self, Decoder};

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[Binding::read("codes"), Binding::write("values")];

/// The kernel for a decoder; `None` for a dtype that shaders do not read.
pub fn kernel(dtype: Dtype, decoder: Decoder) -> Option<Kernel> {
    Some(Kernel {
        name: "decode_fp8",
        parts: vec![weights::wgsl(dtype, decoder)?, wgsl!("decode_fp8.wgsl")],
        constants: Vec::new(),
        bindings: BINDINGS,
    })
}

/// The decoders of a dtype on this adapter, the one that should be fastest first; one alone needs no test.
fn in_turn(gpu: &Gpu, dtype: Dtype) -> &'static [Decoder] {
    match (dtype, gpu.tier().slow_shifts()) {
        (Dtype::F16 | Dtype::F8E4m3 | Dtype::F8E5m2, false) => &[Decoder::Fast, Decoder::Safe],
        (Dtype::F16 | Dtype::F8E4m3 | Dtype::F8E5m2 | Dtype::Bf16, true) => {
            &[Decoder::Products, Decoder::Safe]
        }
        _ => &[Decoder::Safe],
    }
}

/// Starts to compile what [`choose`] asks first for, all at once.
pub fn start(gpu: &Gpu, kernels: &mut Kernels) {
    for dtype in weights::DTYPES {
        if let [first, _] = in_turn(gpu, dtype)
            && let Some(kernel) = kernel(dtype, *first)
        {
            kernels.start(gpu, kernel);
        }
    }
}

/// What the adapter makes of `bytes`, whole 16-byte loads of `dtype`, with `decoder`.
///
/// # Errors
/// [`GpuError::Shape`] for a dtype that shaders do not read; whatever the device reports.
pub async fn run(
    gpu: &Gpu,
    kernels: &mut Kernels,
    dtype: Dtype,
    decoder: Decoder,
    bytes: &[u8],
) -> Result<Vec<f32>, GpuError> {
    let Some(kernel) = kernel(dtype, decoder) else {
        let detail = format!("no shader reads {dtype:?}");
        return Err(GpuError::Shape { label: "decode_fp8".into(), detail });
    };
    let pipeline = kernels.start(gpu, kernel);
    let loads = (bytes.len() / 16) as u32;
    let words = loads * weights::per_load(dtype);
    trial::output(gpu, kernels, pipeline, bytes, words, loads.div_ceil(64)).await
}

/// The decoder of `dtype` for this adapter, of those that are exact there: the one that should be faster.
///
/// # Errors
/// [`GpuError::Rejected`] if even the safe decoder is wrong: such an adapter computes nonsense.
pub async fn choose(gpu: &Gpu, kernels: &mut Kernels, dtype: Dtype) -> Result<Decoder, GpuError> {
    if let [only] = in_turn(gpu, dtype) {
        return Ok(*only);
    }
    for decoder in in_turn(gpu, dtype) {
        match is_exact(gpu, kernels, dtype, *decoder).await {
            Ok(true) => return Ok(*decoder),
            Ok(false) => (),
            // What no compiler takes is not exact either, but for the last of them.
            Err(GpuError::Rejected { .. }) if *decoder != Decoder::Safe => (),
            Err(error) => return Err(error),
        }
    }
    let detail = format!("this adapter decodes {dtype:?} wrongly even in integer arithmetic");
    Err(GpuError::Rejected { label: "decode_fp8".into(), detail })
}

/// All decoders of `dtype` that differ, and are exact on this adapter.
///
/// # Errors
/// Whatever the compiler and the device report.
pub async fn all_exact(gpu: &Gpu, kernels: &mut Kernels, dtype: Dtype) -> Result<Vec<Decoder>, GpuError> {
    let mut texts = Vec::new();
    let mut exact = Vec::new();
    for decoder in Decoder::ALL {
        let text = weights::wgsl(dtype, decoder);
        if !texts.contains(&text) && is_exact(gpu, kernels, dtype, decoder).await? {
            exact.push(decoder);
        }
        texts.push(text);
    }
    Ok(exact)
}

/// Whether a decoder is exact on this adapter for every finite code. Both FP8 formats have all their codes tested;
/// F16 the values of the E5M2 codes and every subnormal, BF16 and F32 every exponent of normal numbers.
///
/// # Errors
/// Whatever the compiler and the device report.
pub async fn is_exact(
    gpu: &Gpu,
    kernels: &mut Kernels,
    dtype: Dtype,
    decoder: Decoder,
) -> Result<bool, GpuError> {
    let codes = test_codes(dtype);
    let mut expected = Vec::new();
    if crate::dtype::widen(dtype, &codes, &mut expected).is_err() {
        return Ok(false);
    }
    Ok(exact(&run(gpu, kernels, dtype, decoder, &codes).await?, &expected))
}

/// Whether decoded values have the bits of the expected ones, wherever those are finite.
pub fn exact(values: &[f32], expected: &[f32]) -> bool {
    // A zero's sign is of no consequence to a product.
    let same = |got: f32, want: f32| got.to_bits() == want.to_bits() || (got == 0.0 && want == 0.0);
    values.len() == expected.len()
        && values.iter().zip(expected).all(|(got, want)| !want.is_finite() || same(*got, *want))
}

/// Every code of an FP8 format; for F16 every subnormal and every code whose low byte is zero; for BF16 and F32 every
/// exponent but that of subnormals, which no decoder touches and an adapter may flush.
fn test_codes(dtype: Dtype) -> Vec<u8> {
    let normal = (0..=255_u16).map(|high| (high << 8) | 0x80 | (high & 0x7f));
    match dtype {
        Dtype::F16 => {
            let subnormals = (0..0x400_u16).flat_map(|m| [m, m | 0x8000]);
            let high = (0..=255_u16).map(|high| high << 8);
            subnormals.chain(high).flat_map(u16::to_le_bytes).collect()
        }
        Dtype::Bf16 => normal.flat_map(u16::to_le_bytes).collect(),
        Dtype::F32 => normal.flat_map(|half| [0x5a, 0xa5].into_iter().chain(half.to_le_bytes())).collect(),
        _ => (0..=255).collect(),
    }
}
