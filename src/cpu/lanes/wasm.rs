//! The same in WebAssembly SIMD. Native tests reach only the portable twins; change both together.

use core::arch::wasm32::{
    f32x4_abs, f32x4_add, f32x4_convert_i32x4, f32x4_div, f32x4_extract_lane, f32x4_gt, f32x4_mul,
    f32x4_pmax, f32x4_pmin, f32x4_splat, i8x16_shuffle, i16x8_extend_high_i8x16, i16x8_extend_low_i8x16,
    i16x8_narrow_i32x4, i16x8_shl, i16x8_shr, i32x4_add, i32x4_dot_i16x8, i32x4_extend_high_i16x8,
    i32x4_extend_low_i16x8, i32x4_shl, i32x4_shr, i32x4_sub, u16x8_splat, u32x4_shuffle, u32x4_splat,
    u64x2_shuffle, v128, v128_and,
};

/// Four f32.
pub(in crate::cpu) type Lanes = v128;

#[inline(always)]
pub(in crate::cpu) fn splat(value: f32) -> Lanes {
    f32x4_splat(value)
}

#[inline(always)]
pub(in crate::cpu) fn load(values: &[f32; 4]) -> Lanes {
    from_bytes(bytemuck::cast_ref(values))
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

#[inline(always)]
pub(in crate::cpu) fn div(a: Lanes, b: Lanes) -> Lanes {
    f32x4_div(a, b)
}

#[inline(always)]
pub(in crate::cpu) fn max(a: Lanes, b: Lanes) -> Lanes {
    f32x4_pmax(a, b)
}

#[inline(always)]
pub(in crate::cpu) fn min(a: Lanes, b: Lanes) -> Lanes {
    f32x4_pmin(a, b)
}

#[inline(always)]
pub(in crate::cpu) fn where_above(floor: f32, x: Lanes, value: Lanes) -> Lanes {
    v128_and(value, f32x4_gt(x, splat(floor)))
}

#[inline(always)]
pub(in crate::cpu) fn power_of_two(shifted: Lanes) -> Lanes {
    i32x4_add(i32x4_shl(shifted, 23), splat(1.0))
}

#[inline(always)]
pub(in crate::cpu) fn from_bytes(bytes: &[u8; 16]) -> Lanes {
    bytemuck::pod_read_unaligned(bytes)
}

/// Four i32.
pub(in crate::cpu) type Ints = v128;

#[inline(always)]
pub(in crate::cpu) fn no_ints() -> Ints {
    u32x4_splat(0)
}

#[inline(always)]
pub(in crate::cpu) fn to_lanes(ints: Ints) -> Lanes {
    f32x4_convert_i32x4(ints)
}

#[inline(always)]
pub(in crate::cpu) fn widen_ints(bytes: &[u8; 16]) -> [Ints; 4] {
    let v = from_bytes(bytes);
    let (low, high) = (i16x8_extend_low_i8x16(v), i16x8_extend_high_i8x16(v));
    [
        i32x4_extend_low_i16x8(low),
        i32x4_extend_high_i16x8(low),
        i32x4_extend_low_i16x8(high),
        i32x4_extend_high_i16x8(high),
    ]
}

#[inline(always)]
pub(in crate::cpu) fn add_products(sum: Ints, bytes: &[u8; 16], others: &[i16; 16]) -> Ints {
    let v = from_bytes(bytes);
    let [low, high] = bytemuck::pod_read_unaligned::<[v128; 2]>(bytemuck::bytes_of(others));
    let low = i32x4_dot_i16x8(i16x8_extend_low_i8x16(v), low);
    let high = i32x4_dot_i16x8(i16x8_extend_high_i8x16(v), high);
    i32x4_add(sum, i32x4_add(low, high))
}

#[inline(always)]
pub(in crate::cpu) fn sums_by_lane([a, b, c, d]: [Ints; 4]) -> Ints {
    let halves = |a, b| i32x4_add(u32x4_shuffle::<0, 4, 1, 5>(a, b), u32x4_shuffle::<2, 6, 3, 7>(a, b));
    let (ab, cd) = (halves(a, b), halves(c, d));
    i32x4_add(u64x2_shuffle::<0, 2>(ab, cd), u64x2_shuffle::<1, 3>(ab, cd))
}

#[inline(always)]
pub(in crate::cpu) fn round_to_shorts([a, b, c, d]: [Lanes; 4]) -> [i16; 16] {
    // Adding this lets the addition round, and leaves the whole number in the low bits.
    let whole = splat(1.5 * (1 << 23) as f32);
    let round = |lanes: v128| i32x4_sub(f32x4_add(lanes, whole), whole);
    let shorts = [i16x8_narrow_i32x4(round(a), round(b)), i16x8_narrow_i32x4(round(c), round(d))];
    bytemuck::cast(shorts)
}

#[inline(always)]
pub(in crate::cpu) fn abs(lanes: Lanes) -> Lanes {
    f32x4_abs(lanes)
}

/// Each 16-bit element of the lower, and of the upper half, on top of a lane of its own. Interleaving with
/// zeros is one instruction; engines put a general shuffle's pattern together anew each time it is used.
#[inline(always)]
fn on_top_of_words(v: v128) -> [v128; 2] {
    let zero = u32x4_splat(0);
    [
        i8x16_shuffle::<0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23>(zero, v),
        i8x16_shuffle::<8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31>(zero, v),
    ]
}

/// Shifted and masked as the upper halves of the f32 that they become.
#[inline(always)]
pub(in crate::cpu) fn widen_bytes<const SHIFT: u32, const MASK: u32>(bytes: &[u8; 16]) -> [Lanes; 4] {
    let (zero, v) = (u32x4_splat(0), from_bytes(bytes));
    let halves = |top: v128| v128_and(i16x8_shr(top, SHIFT), u16x8_splat((MASK >> 16) as u16));
    let low = halves(i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(zero, v));
    let high = halves(i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(zero, v));
    let ([a, b], [c, d]) = (on_top_of_words(low), on_top_of_words(high));
    [a, b, c, d]
}

/// The same, every fourth byte together: that takes no shuffles.
#[inline(always)]
pub(in crate::cpu) fn widen_bytes_apart<const SHIFT: u32, const MASK: u32>(bytes: &[u8; 16]) -> [Lanes; 4] {
    let v = from_bytes(bytes);
    let halves = |top: v128| v128_and(i16x8_shr(top, SHIFT), u16x8_splat((MASK >> 16) as u16));
    let (even, odd) = (halves(i16x8_shl(v, 8)), halves(v));
    let (lower, upper) = (|v| i32x4_shl(v, 16), |v| v128_and(v, u32x4_splat(0xffff_0000)));
    [lower(even), lower(odd), upper(even), upper(odd)]
}

/// The same of eight 16-bit elements.
#[inline(always)]
pub(in crate::cpu) fn widen_halves<const SHIFT: u32, const MASK: u32>(bytes: &[u8; 16]) -> [Lanes; 2] {
    let whole = |top: v128| if SHIFT == 0 { top } else { v128_and(i32x4_shr(top, SHIFT), u32x4_splat(MASK)) };
    on_top_of_words(from_bytes(bytes)).map(whole)
}

/// The same, every other one together: that takes no shuffles.
#[inline(always)]
pub(in crate::cpu) fn widen_halves_apart<const SHIFT: u32, const MASK: u32>(bytes: &[u8; 16]) -> [Lanes; 2] {
    let v = from_bytes(bytes);
    let shifted = |top: v128| if SHIFT == 0 { top } else { i32x4_shr(top, SHIFT) };
    [v128_and(shifted(i32x4_shl(v, 16)), u32x4_splat(MASK)), v128_and(shifted(v), u32x4_splat(MASK))]
}
