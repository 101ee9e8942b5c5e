//! The same in WebAssembly SIMD. Native tests reach only the portable twins; change both together.

use core::arch::wasm32::{
    f32x4, f32x4_add, f32x4_extract_lane, f32x4_mul, f32x4_splat, i8x16_shuffle, i32x4_shr, u8x16,
    u32x4_splat, v128, v128_and,
};

/// Four f32.
pub(in crate::cpu) type Lanes = v128;

#[inline(always)]
pub(in crate::cpu) fn splat(value: f32) -> Lanes {
    f32x4_splat(value)
}

/// Written out, it compiles to one plain load.
#[inline(always)]
pub(in crate::cpu) fn load(values: &[f32; 4]) -> Lanes {
    let [a, b, c, d] = *values;
    f32x4(a, b, c, d)
}

#[inline(always)]
pub(in crate::cpu) fn store(lanes: Lanes) -> [f32; 4] {
    [
        f32x4_extract_lane::<0>(lanes),
        f32x4_extract_lane::<1>(lanes),
        f32x4_extract_lane::<2>(lanes),
        f32x4_extract_lane::<3>(lanes),
    ]
}

#[inline(always)]
pub(in crate::cpu) fn add(a: Lanes, b: Lanes) -> Lanes {
    f32x4_add(a, b)
}

#[inline(always)]
pub(in crate::cpu) fn mul(a: Lanes, b: Lanes) -> Lanes {
    f32x4_mul(a, b)
}

/// One plain load.
#[inline(always)]
pub(in crate::cpu) fn from_bytes(bytes: &[u8; 16]) -> Lanes {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
    u8x16(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
}

/// What lies below a lane's top byte is shifted out or masked: any byte does.
#[inline(always)]
pub(in crate::cpu) fn widen_bytes<const SHIFT: u32, const MASK: u32>(bytes: &[u8; 16]) -> [Lanes; 4] {
    let v = from_bytes(bytes);
    let widen = |top: v128| v128_and(i32x4_shr(top, SHIFT), u32x4_splat(MASK));
    [
        widen(i8x16_shuffle::<0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3>(v, v)),
        widen(i8x16_shuffle::<4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7>(v, v)),
        widen(i8x16_shuffle::<8, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11, 11>(v, v)),
        widen(i8x16_shuffle::<12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15>(v, v)),
    ]
}

/// The same of eight 16-bit elements.
#[inline(always)]
pub(in crate::cpu) fn widen_halves<const SHIFT: u32, const MASK: u32>(bytes: &[u8; 16]) -> [Lanes; 2] {
    let v = from_bytes(bytes);
    let widen = |top: v128| v128_and(i32x4_shr(top, SHIFT), u32x4_splat(MASK));
    [
        widen(i8x16_shuffle::<0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7>(v, v)),
        widen(i8x16_shuffle::<8, 9, 8, 9, 10, 11, 10, 11, 12, 13, 12, 13, 14, 15, 14, 15>(v, v)),
    ]
}
