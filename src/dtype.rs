//! Element types of safetensors and exact scalar codecs between them and f32.
//!
//! All bytes are little-endian. Narrowing rounds to nearest, ties to even; FP8
//! clamps to the format's largest finite value (torch's own cast does not, and
//! turns what is out of range into NaN).

use half::f16;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// 64-bit IEEE float.
    F64,
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// 8-bit float, 4 exponent and 3 mantissa bits, no infinity (E4M3FN).
    F8E4m3,
    /// 8-bit float, 5 exponent and 2 mantissa bits.
    F8E5m2,
    /// 8-bit power of two.
    F8E8m0,
    /// Signed integers.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer.
    I16,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

/// What can go wrong when values change their type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DtypeError {
    /// An integer or scale type where a float was needed.
    #[error("{0} holds no float weights")]
    NotFloat(Dtype),
    /// The bytes are no whole number of elements.
    #[error("{bytes} bytes are no whole number of {dtype} elements")]
    Ragged {
        /// Element type.
        dtype: Dtype,
        /// Length given.
        bytes: usize,
    },
    /// Input and output differ in length.
    #[error("{values} values do not fit {slots} places")]
    Length {
        /// Length of the input in elements.
        values: usize,
        /// Length of the output in elements.
        slots: usize,
    },
    /// NaN or infinity where a weight should be.
    #[error("element {element} is not finite")]
    NotFinite {
        /// Index of the first such element.
        element: usize,
    },
}

/// Every type with its safetensors name.
const NAMES: [(Dtype, &str); 13] = [
    (Dtype::F64, "F64"),
    (Dtype::F32, "F32"),
    (Dtype::F16, "F16"),
    (Dtype::Bf16, "BF16"),
    (Dtype::F8E4m3, "F8_E4M3"),
    (Dtype::F8E5m2, "F8_E5M2"),
    (Dtype::F8E8m0, "F8_E8M0"),
    (Dtype::I64, "I64"),
    (Dtype::I32, "I32"),
    (Dtype::I16, "I16"),
    (Dtype::I8, "I8"),
    (Dtype::U8, "U8"),
    (Dtype::Bool, "BOOL"),
];

impl Dtype {
    /// All types that bise reads.
    pub const ALL: [Dtype; 13] = {
        let mut all = [Dtype::F64; 13];
        let mut i = 0;
        #[allow(clippy::indexing_slicing, reason = "evaluated at compile time, where it cannot panic later")]
        while i < 13 {
            all[i] = NAMES[i].0;
            i += 1;
        }
        all
    };

    /// Size of one element in bytes.
    pub fn size_bytes(self) -> u64 {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::F8E4m3 | Dtype::F8E5m2 | Dtype::F8E8m0 | Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// The type of that safetensors name. Anything else is `None`: the FNUZ variants of FP8, for
    /// one, have the same size and other values.
    pub fn parse(name: &str) -> Option<Dtype> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(dtype, _)| *dtype)
    }

    /// The safetensors name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(dtype, _)| *dtype == self).map_or("", |(_, name)| name)
    }

    /// Whether the type holds float values by itself, so that [`widen`] takes it.
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F8E4m3 | Dtype::F8E5m2)
    }

    /// Whether the type is an 8-bit float with a mantissa.
    pub fn is_f8(self) -> bool {
        matches!(self, Dtype::F8E4m3 | Dtype::F8E5m2)
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Largest finite F8_E4M3 value.
pub const E4M3_MAX: f32 = 448.0;
/// Largest finite F8_E5M2 value.
pub const E5M2_MAX: f32 = 57344.0;

/// Values of all F8_E4M3 codes.
pub static E4M3: [f32; 256] = table::<3, 7>(0x7f);
/// Values of all F8_E5M2 codes.
pub static E5M2: [f32; 256] = table::<2, 15>(0x7c);

/// Values of an 8-bit float with that many mantissa bits. Codes from `first_special` on are NaN,
/// but for the first of E5M2, which is infinity.
const fn table<const MANTISSA: u32, const BIAS: i32>(first_special: u32) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0u32;
    while code < 256 {
        let magnitude = code & 0x7f;
        let fraction = magnitude & ((1 << MANTISSA) - 1);
        let exponent = magnitude >> MANTISSA;
        let value = if magnitude >= first_special {
            if MANTISSA == 2 && fraction == 0 { f32::INFINITY } else { f32::NAN }
        } else if exponent == 0 {
            // Subnormal: fraction * 2^(1 - bias - mantissa), both factors exact in f32.
            fraction as f32 * f32::from_bits(((128 - BIAS - MANTISSA as i32) as u32) << 23)
        } else {
            f32::from_bits(((exponent as i32 - BIAS + 127) as u32) << 23 | fraction << (23 - MANTISSA))
        };
        let sign = (code & 0x80) << 24;
        #[allow(clippy::indexing_slicing, reason = "evaluated at compile time; code < 256")]
        {
            values[code as usize] = f32::from_bits(value.to_bits() | sign);
        }
        code += 1;
    }
    values
}

/// Value of an F8_E4M3 code.
pub fn decode_e4m3(code: u8) -> f32 {
    *E4M3.get(usize::from(code)).unwrap_or(&f32::NAN)
}

/// Value of an F8_E5M2 code.
pub fn decode_e5m2(code: u8) -> f32 {
    *E5M2.get(usize::from(code)).unwrap_or(&f32::NAN)
}

/// Whether an F8_E4M3 code is NaN; the format has no infinity.
pub fn is_nan_e4m3(code: u8) -> bool {
    code & 0x7f == 0x7f
}

/// Whether an F8_E5M2 code is NaN.
pub fn is_nan_e5m2(code: u8) -> bool {
    code & 0x7f > 0x7c
}

/// Whether an F8_E5M2 code is NaN or infinite.
pub fn is_non_finite_e5m2(code: u8) -> bool {
    code & 0x7f >= 0x7c
}

/// Nearest F8_E4M3 code, ties to even, clamped to +-448; NaN stays NaN.
pub fn encode_e4m3(value: f32) -> u8 {
    if value.is_nan() { sign_bit(value) | 0x7f } else { round_to_f8::<3, 7>(value, E4M3_MAX) }
}

/// Nearest F8_E5M2 code, ties to even, clamped to +-57344; NaN stays NaN.
pub fn encode_e5m2(value: f32) -> u8 {
    if value.is_nan() { sign_bit(value) | 0x7f } else { round_to_f8::<2, 15>(value, E5M2_MAX) }
}

fn sign_bit(value: f32) -> u8 {
    (value.to_bits() >> 24) as u8 & 0x80
}

/// The rounding itself, without a branch, so that loops over it vectorise. `value` is no NaN.
#[inline(always)]
fn round_to_f8<const MANTISSA: u32, const BIAS: u32>(value: f32, max: f32) -> u8 {
    let sign = (value.to_bits() >> 24) & 0x80;
    let magnitude = if value.abs() < max { value.abs() } else { max };
    let bits = magnitude.to_bits();
    let shift = 23 - MANTISSA;
    // Normal: add just under half of the last place kept, plus one where that place is odd.
    let normal = (bits + (1 << (shift - 1)) - 1 + ((bits >> shift) & 1)) >> shift;
    let normal = normal.wrapping_sub((127 - BIAS) << MANTISSA);
    // Subnormal: adding a number whose last place is the format's smallest step lets the f32
    // addition round, and leaves the number of steps in the low bits.
    let magic = f32::from_bits((127 + 23 + 1 - BIAS - MANTISSA) << 23);
    let subnormal = (magnitude + magic).to_bits().wrapping_sub(magic.to_bits());
    let smallest_normal = (127 + 1 - BIAS) << 23;
    (sign | if bits < smallest_normal { subnormal } else { normal }) as u8
}

/// Elements per step of the loops below: a fixed count lets them vectorise.
const LANES: usize = 16;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[path = "dtype/wasm.rs"]
mod blocks;
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[path = "dtype/portable.rs"]
mod blocks;
mod quantize;
pub use quantize::{I8_BLOCK, quantize_row_e4m3, quantize_row_i8};

use blocks::{
    absmax_bits, any_carry, narrow_block_bf16, narrow_block_f16, quantize_block, quantize_block_i8,
};

/// [`LANES`] elements of 16 bits.
type Halves = [[u8; 2]; LANES];

fn narrow_halves(
    values: &[f32],
    out: &mut Vec<u8>,
    block: impl Fn(&[f32; LANES]) -> Halves,
    each: impl Fn(f32) -> [u8; 2],
) {
    let begin = out.len();
    out.resize(begin + values.len() * 2, 0);
    let slots = out.get_mut(begin..).unwrap_or_default().as_chunks_mut().0;
    let (slots, slots_rest) = slots.as_chunks_mut();
    let (blocks, rest) = values.as_chunks();
    slots.iter_mut().zip(blocks).for_each(|(slot, values)| *slot = block(values));
    slots_rest.iter_mut().zip(rest).for_each(|(slot, value)| *slot = each(*value));
}

/// The nearest F16 element, ties to even.
fn f32_to_f16(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// Appends the values of `bytes` to `out`; F64 is rounded to f32.
///
/// # Errors
/// A type that holds no floats, or a length that is no whole number of elements.
pub fn widen(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) -> Result<(), DtypeError> {
    fn append<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, value: impl Fn([u8; N]) -> f32) {
        out.extend(bytes.as_chunks::<N>().0.iter().map(|element| value(*element)));
    }
    check_float(dtype, bytes)?;
    match dtype {
        Dtype::F64 => append(bytes, out, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => match bytemuck::try_cast_slice(bytes) {
            Ok(values) => out.extend_from_slice(values),
            // Not aligned.
            Err(_) => append(bytes, out, f32::from_le_bytes),
        },
        Dtype::F16 => append(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::Bf16 => append(bytes, out, bf16_to_f32),
        Dtype::F8E4m3 => append(bytes, out, |[code]| decode_e4m3(code)),
        Dtype::F8E5m2 => append(bytes, out, |[code]| decode_e5m2(code)),
        _ => return Err(DtypeError::NotFloat(dtype)),
    }
    Ok(())
}

/// Appends `values` as elements of `dtype` to `out`. F16 and BF16 overflow to infinity, as torch
/// has it; FP8 clamps.
///
/// # Errors
/// A type that holds no floats.
pub fn narrow(dtype: Dtype, values: &[f32], out: &mut Vec<u8>) -> Result<(), DtypeError> {
    fn append<const N: usize>(values: &[f32], out: &mut Vec<u8>, element: impl Fn(f32) -> [u8; N]) {
        let begin = out.len();
        out.resize(begin + values.len() * N, 0);
        let (slots, _) = out.get_mut(begin..).unwrap_or_default().as_chunks_mut::<N>();
        slots.iter_mut().zip(values).for_each(|(slot, value)| *slot = element(*value));
    }
    match dtype {
        Dtype::F64 => append(values, out, |v| f64::from(v).to_le_bytes()),
        Dtype::F32 => out.extend_from_slice(bytemuck::cast_slice(values)),
        Dtype::F16 => narrow_halves(values, out, narrow_block_f16, f32_to_f16),
        Dtype::Bf16 => narrow_halves(values, out, narrow_block_bf16, f32_to_bf16),
        Dtype::F8E4m3 => append(values, out, |v| [encode_e4m3(v)]),
        Dtype::F8E5m2 => append(values, out, |v| [encode_e5m2(v)]),
        _ => return Err(DtypeError::NotFloat(dtype)),
    }
    Ok(())
}

/// Rounds values to those of `dtype`, as [`narrow`] and [`widen`] would; F64 and what holds no
/// floats leaves them alone.
pub fn round_through(dtype: Dtype, values: &mut [f32]) {
    let each = |values: &mut [f32], round: fn(f32) -> f32| values.iter_mut().for_each(|v| *v = round(*v));
    match dtype {
        Dtype::Bf16 => values.iter_mut().for_each(|v| *v = bf16_to_f32(f32_to_bf16(*v))),
        Dtype::F16 => each(values, |v| f16::from_f32(v).to_f32()),
        Dtype::F8E4m3 => each(values, |v| decode_e4m3(encode_e4m3(v))),
        Dtype::F8E5m2 => each(values, |v| decode_e5m2(encode_e5m2(v))),
        _ => {}
    }
}

/// Value of a stored BF16 element.
#[inline(always)]
pub(crate) fn bf16_to_f32(element: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(element)) << 16)
}

/// The nearest BF16 element, ties to even. Without branches, so that loops vectorise.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // A NaN whose payload is all low bits must not become infinity.
    let bits = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
    ((bits >> 16) as u16).to_le_bytes()
}

/// Index of the first element that is NaN or infinite once it is f32, straight from the stored
/// bits: an F64 may be too large.
///
/// # Errors
/// A type that holds no floats, or a length that is no whole number of elements.
pub fn find_non_finite(dtype: Dtype, bytes: &[u8]) -> Result<Option<usize>, DtypeError> {
    check_float(dtype, bytes)?;
    // The bits that are all set in what is not finite, and in nothing else.
    let (size, bits): (usize, u64) = match dtype {
        Dtype::F64 => {
            let elements = bytes.as_chunks::<8>().0;
            return Ok(elements.iter().position(|b| !(f64::from_le_bytes(*b) as f32).is_finite()));
        }
        Dtype::F32 => (4, 0x7f80_0000),
        Dtype::F16 => (2, 0x7c00),
        Dtype::Bf16 => (2, 0x7f80),
        Dtype::F8E4m3 => (1, 0x7f),
        Dtype::F8E5m2 => (1, 0x7c),
        _ => return Err(DtypeError::NotFloat(dtype)),
    };
    // Eight bytes at a time, whatever they hold: every weight passes here, and a release build for the
    // web optimises for size. If all of an element's bits are set, adding the lowest of them carries
    // into the place of the sign, and never beyond.
    let lowest = bits & bits.wrapping_neg();
    let each = u64::MAX / ((1 << (8 * size)) - 1);
    let (mask, lowest, sign) = (bits * each, lowest * each, (bits + lowest) * each);
    let carry = |word: u64| ((word & mask) + lowest) & sign;
    // Blocks first, since a loop without early exit is the faster one.
    let words = bytes.as_chunks::<16>().0;
    let block = words.chunks(128).position(|block| any_carry(block, [mask, lowest, sign]));
    let from = block.map_or(words.len(), |block| block * 128) * 16;
    let mut rest = bytes.get(from..).unwrap_or_default().chunks_exact(size);
    let within = rest.position(|element| {
        let word = element.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        carry(word) != 0
    });
    Ok(within.map(|within| from / size + within))
}

fn check_float(dtype: Dtype, bytes: &[u8]) -> Result<(), DtypeError> {
    if !dtype.is_float() {
        return Err(DtypeError::NotFloat(dtype));
    }
    if !(bytes.len() as u64).is_multiple_of(dtype.size_bytes()) {
        return Err(DtypeError::Ragged { dtype, bytes: bytes.len() });
    }
    Ok(())
}
