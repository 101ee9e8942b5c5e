//! `merged = c0 * a + c1 * b`, rounded as plain f32 arithmetic rounds. See blend.wgsl.

use crate::dtype::{Dtype, DtypeError, find_non_finite, narrow, widen};
use crate::gpu::{Binding, Kernel};

use super::weights::Decoder;
use super::{Grid, fold, weights};

/// Elements of one thread: buffers hold whole multiples of it.
pub const GROUP: u32 = 8;

/// 2^-60: products below are tiny.
const SMALL: f32 = 8.673_617_4e-19;

/// Whether the start-up test of [`Tiny::Kept`] speaks for a blend with these coefficients. Products of F16 are no
/// subnormal f32 but with coefficients far below those of the test, so that it does not show who flushes them.
pub fn may_keep(dtype: Dtype, coefficients: [f32; 2]) -> bool {
    dtype != Dtype::F16 || coefficients.iter().all(|c| *c == 0.0 || c.abs() >= SMALL)
}

/// Threads per workgroup.
const WORKGROUP: u32 = 64;

/// Larger coefficients are refused; a blend has none, and the treatment of subnormals relies on it: a value below
/// 2^-126 that an adapter takes for zero must be lost in the last place of what counts as not tiny, 2^-60, even when
/// multiplied; up to 2^41 it is.
pub const LARGEST_COEFFICIENT: f32 = 1e12;

/// Layout of `Params` in blend.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Groups of eight elements in the buffers.
    pub groups: u32,
    /// Index of the buffers' counter.
    pub part: u32,
    /// 0, which the compiler must not know.
    pub zero: u32,
    /// Coefficient of a; not subnormal.
    pub c0: f32,
    /// Coefficient of b; not subnormal.
    pub c1: f32,
    /// Uniform structs are multiples of 16 bytes.
    pub padding: [u32; 3],
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("a"),
    Binding::read("b"),
    Binding::write("merged"),
    Binding::write("non_finite"),
];

/// What a kernel does with elements whose products are both below 2^-60, which adapters may flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tiny {
    /// Computes them, in integers.
    Exact,
    /// Counts them as it counts what is not finite, and leaves anything in their place: faster, and weights
    /// hardly ever have any.
    Counted,
    /// Leaves them to an adapter that keeps subnormals: fastest, where [`may_keep`] allows it. Groups of [`GROUP`]
    /// elements with something that is not finite are counted, not elements, and NaN may become anything.
    Kept,
}

impl Tiny {
    /// All of them.
    pub const ALL: [Tiny; 3] = [Tiny::Exact, Tiny::Counted, Tiny::Kept];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Tiny::Exact => "tiny computed",
            Tiny::Counted => "tiny counted",
            Tiny::Kept => "tiny kept",
        }
    }
}

/// The kernel from `dtype` to `out`, each F32, BF16 or F16; `None` for any other.
pub fn kernel(dtype: Dtype, out: Dtype, tiny: Tiny) -> Option<Kernel> {
    let narrow = match out {
        Dtype::F32 => wgsl!("shared/narrow_f32.wgsl"),
        Dtype::Bf16 => wgsl!("shared/narrow_bf16.wgsl"),
        Dtype::F16 => wgsl!("shared/narrow_f16.wgsl"),
        _ => return None,
    };
    if dtype.is_f8() {
        return None;
    }
    let mut parts =
        vec![weights::wgsl(dtype, Decoder::Safe)?, wgsl!("shared/opaque.wgsl"), narrow, wgsl!("blend.wgsl")];
    let mut constants = Vec::new();
    if tiny == Tiny::Kept {
        parts.push(wgsl!("shared/blend_kept.wgsl"));
    } else {
        parts.extend([wgsl!("shared/small.wgsl"), wgsl!("shared/blend_checked.wgsl")]);
        constants.push(("TINY", if tiny == Tiny::Exact { 1.0 } else { 0.0 }));
    }
    Some(Kernel { name: "blend", parts, constants, bindings: BINDINGS })
}

/// Workgroups for so many elements.
pub fn grid(elements: u32) -> Grid {
    let (x, z) = fold(elements.div_ceil(GROUP * WORKGROUP));
    [x, 1, z]
}

/// What the kernel computes, in plain Rust: the packed result and how many elements are not finite.
///
/// # Errors
/// A dtype that holds no floats, or lengths that differ.
pub fn plain_blend(
    dtype: Dtype,
    packed: [&[u8]; 2],
    [c0, c1]: [f32; 2],
    out: Dtype,
) -> Result<(Vec<u8>, u64), DtypeError> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    widen(dtype, packed[0], &mut a)?;
    widen(dtype, packed[1], &mut b)?;
    if a.len() != b.len() {
        return Err(DtypeError::Length { values: a.len(), slots: b.len() });
    }
    let sums: Vec<f32> = a.iter().zip(&b).map(|(x, y)| c0 * x + c1 * y).collect();
    let mut merged = Vec::new();
    narrow(out, &sums, &mut merged)?;
    let elements = merged.chunks_exact(out.size_bytes() as usize);
    let non_finite = elements.filter(|bytes| !matches!(find_non_finite(out, bytes), Ok(None))).count();
    Ok((merged, non_finite as u64))
}

/// What [`Tiny::Kept`] counts: groups of packed elements among which one is not finite.
pub fn flagged_groups(out: Dtype, merged: &[u8]) -> u64 {
    let groups = merged.chunks(GROUP as usize * out.size_bytes() as usize);
    groups.filter(|group| !matches!(find_non_finite(out, group), Ok(None))).count() as u64
}

/// Whether a kernel has passed the start-up test: `got` and how many elements or groups it `counted`, of what
/// [`plain_blend`] wants.
pub fn passes(
    tiny: Tiny,
    out: Dtype,
    got: &[u8],
    counted: u64,
    (want, non_finite_elements): (&[u8], u64),
) -> bool {
    match tiny {
        // What an adapter does itself is not put right afterwards: signs of zeros count.
        Tiny::Kept => got == want && counted == flagged_groups(out, want),
        Tiny::Exact | Tiny::Counted => exact(out, got, want) && counted == non_finite_elements,
    }
}

/// The coefficients of the start-up test.
pub const TEST_COEFFICIENTS: [f32; 2] = [0.7, 0.4];

/// Pairs of codes that come out differently if a product is not rounded before the sum: of a, in the
/// first four, of b, in the others. They were found by search.
pub const BF16_PAIRS: [[u16; 2]; 8] = [
    [0xbfc1, 0xbf0e],
    [0xc069, 0xbf84],
    [0x4073, 0xbfa3],
    [0x407d, 0xbf8a],
    [0x3f0d, 0xc02c],
    [0xbf1a, 0x4069],
    [0xbf21, 0x4040],
    [0x3fd5, 0x3f72],
];

/// The same for F16.
pub const F16_PAIRS: [[u16; 2]; 8] = [
    [0x42df, 0xb9b2],
    [0x3ade, 0x4212],
    [0xbf43, 0xb857],
    [0xbde5, 0xb884],
    [0x3e35, 0x3c77],
    [0x42c1, 0x41d5],
    [0x3f9d, 0x3c09],
    [0x4285, 0x409f],
];

/// Exponent bits to clear for values below 2^-95 (F32, BF16) and 2^-11 (F16).
const SMALL_EXPONENTS: u32 = 0x7000_0000;

/// Two tensors of `dtype` for the start-up test, packed: finite values of every exponent, subnormals
/// and both zeros, the pairs above, two that overflow, and zeros whose sums differ in sign.
pub fn test_data(dtype: Dtype) -> [Vec<u8>; 2] {
    let mut state = 7_u32;
    let mut code = || {
        // Numerical Recipes' generator; its upper bits are random enough.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    };
    let mut packed = [Vec::new(), Vec::new()];
    let (pairs, largest) = if dtype == Dtype::F16 { (F16_PAIRS, 0x7bff) } else { (BF16_PAIRS, 0x7f7f) };
    let zeros = [[0x8000; 2], [0x8000, 0]];
    for pair in pairs.into_iter().chain([[largest; 2], [largest | 0x8000; 2]]).chain(zeros) {
        for (bytes, code) in packed.iter_mut().zip(pair) {
            match dtype {
                Dtype::F32 => bytes.extend((u32::from(code) << 16).to_le_bytes()),
                _ => bytes.extend(code.to_le_bytes()),
            }
        }
    }
    for i in 0..1500 {
        let (first, second) = (code(), code());
        let exponent = if dtype == Dtype::F16 { 0x7c00_0000 } else { 0x7f80_0000 };
        let pair = match i % 8 {
            // Subnormal.
            0 => [first & !exponent, second & !exponent],
            // Opposite, so that they nearly cancel: down to subnormals where the exponent is small.
            4 => [first, first ^ 0x8000_0000].map(|code| code & !(exponent & SMALL_EXPONENTS)),
            _ => [first, second],
        };
        for (bytes, code) in packed.iter_mut().zip(pair) {
            let finite = if code & exponent == exponent { code ^ 0x4000_0000 } else { code };
            match dtype {
                Dtype::F32 => bytes.extend(finite.to_le_bytes()),
                _ => bytes.extend(((finite >> 16) as u16).to_le_bytes()),
            }
        }
    }
    packed
}

/// What of two packed tensors [`Tiny::Counted`] computes as well.
pub fn without_tiny(dtype: Dtype, packed: &[Vec<u8>; 2], [c0, c1]: [f32; 2]) -> [Vec<u8>; 2] {
    let [a, b] = packed.each_ref().map(|bytes| {
        let mut values = Vec::new();
        // Only dtypes of floats have a kernel.
        let _ = widen(dtype, bytes, &mut values);
        values
    });
    let size = dtype.size_bytes() as usize;
    let [a_codes, b_codes] = packed.each_ref().map(|bytes| bytes.chunks_exact(size));
    let mut kept = [Vec::new(), Vec::new()];
    for ((x, y), codes) in a.iter().zip(&b).zip(a_codes.zip(b_codes)) {
        if (c0 * x).abs().max((c1 * y).abs()) >= SMALL || (*x == 0.0 && *y == 0.0) {
            kept[0].extend_from_slice(codes.0);
            kept[1].extend_from_slice(codes.1);
        }
    }
    kept
}

/// Whether packed results have the wanted bits; a zero's sign is of no consequence.
pub fn exact(out: Dtype, got: &[u8], want: &[u8]) -> bool {
    let size = out.size_bytes() as usize;
    let zero = |bytes: &[u8]| match bytes.split_last() {
        Some((last, rest)) => last & 0x7f == 0 && rest.iter().all(|byte| *byte == 0),
        None => false,
    };
    let pairs = got.chunks_exact(size).zip(want.chunks_exact(size));
    got.len() == want.len() && pairs.into_iter().all(|(got, want)| got == want || (zero(got) && zero(want)))
}
