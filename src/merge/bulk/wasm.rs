//! The same in WebAssembly SIMD: the release build optimises for size, which switches the compiler's
//! own vectorisation off. Native tests reach only the portable twins; change both together.

use core::arch::wasm32::{
    f32x4_add, f32x4_mul, f32x4_ne, f32x4_splat, f64x2, f64x2_add, f64x2_extract_lane, f64x2_mul,
    f64x2_promote_low_f32x4, i32x4_add, u32x4_shl, u32x4_shr, u32x4_shuffle, u32x4_splat, v128, v128_and,
    v128_bitselect, v128_or,
};

use super::{LANES, Lanes, RowBf16};

/// Vectors as they lie. Named element by element, they would be loaded so where the compiler narrows what
/// takes them.
#[inline(always)]
fn load(row: &[f32; LANES]) -> [v128; 2] {
    bytemuck::pod_read_unaligned(bytemuck::bytes_of(row))
}

/// The values in f32: elements 0, 2, 4 and 6, then the others. One that lies in the upper half of a word is f32
/// once the other is cleared, one in the lower half once it is shifted.
#[inline(always)]
fn load_bf16(row: &RowBf16) -> [v128; 2] {
    let words: v128 = bytemuck::pod_read_unaligned(bytemuck::bytes_of(row));
    [u32x4_shl(words, 16), v128_and(words, u32x4_splat(0xffff_0000))]
}

#[inline(always)]
fn promote([low, high]: [v128; 2]) -> [v128; 4] {
    let upper = |four: v128| f64x2_promote_low_f32x4(u32x4_shuffle::<2, 3, 0, 1>(four, four));
    [f64x2_promote_low_f32x4(low), upper(low), f64x2_promote_low_f32x4(high), upper(high)]
}

/// Adds the products of each lane, in f64.
pub(in crate::merge) fn add_rows(lanes: &mut Lanes, a: &[[f32; LANES]], b: &[[f32; LANES]]) {
    add(lanes, a, b, load);
}

/// [`add_rows`] of BF16.
pub(in crate::merge) fn add_rows_bf16(lanes: &mut Lanes, a: &[RowBf16], b: &[RowBf16]) {
    let mut apart = lanes.map(|[a, b, c, d, e, f, g, h]| [a, c, e, g, b, d, f, h]);
    add(&mut apart, a, b, load_bf16);
    *lanes = apart.map(|[a, c, e, g, b, d, f, h]| [a, b, c, d, e, f, g, h]);
}

#[inline(always)]
fn add<T>(lanes: &mut Lanes, a: &[T], b: &[T], load: impl Fn(&T) -> [v128; 2]) {
    let pairs = |[a, b, c, d, e, f, g, h]: [f64; LANES]| [f64x2(a, b), f64x2(c, d), f64x2(e, f), f64x2(g, h)];
    let [mut aa, mut bb, mut ab] = lanes.map(pairs);
    let step = |sum: &mut v128, x: v128, y: v128| *sum = f64x2_add(*sum, f64x2_mul(x, y));
    for (a, b) in a.iter().zip(b) {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (promote(load(a)), promote(load(b)));
        let ([aa0, aa1, aa2, aa3], [bb0, bb1, bb2, bb3]) = (&mut aa, &mut bb);
        let [ab0, ab1, ab2, ab3] = &mut ab;
        step(aa0, a0, a0);
        step(aa1, a1, a1);
        step(aa2, a2, a2);
        step(aa3, a3, a3);
        step(bb0, b0, b0);
        step(bb1, b1, b1);
        step(bb2, b2, b2);
        step(bb3, b3, b3);
        step(ab0, a0, b0);
        step(ab1, a1, b1);
        step(ab2, a2, b2);
        step(ab3, a3, b3);
    }
    let single = |pair: v128| [f64x2_extract_lane::<0>(pair), f64x2_extract_lane::<1>(pair)];
    let singles = |pairs: [v128; 4]| {
        let [[a, b], [c, d], [e, f], [g, h]] = pairs.map(single);
        [a, b, c, d, e, f, g, h]
    };
    *lanes = [aa, bb, ab].map(singles);
}

/// `out = c0 * a + c1 * b`.
pub(in crate::merge) fn blend_rows(
    factors: [f32; 2],
    a: &[[f32; LANES]],
    b: &[[f32; LANES]],
    out: &mut [[f32; LANES]],
) {
    let [c0, c1] = factors.map(|factor| f32x4_splat(factor));
    let blend = |a: v128, b: v128| f32x4_add(f32x4_mul(c0, a), f32x4_mul(c1, b));
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        let ([a0, a1], [b0, b1]) = (load(a), load(b));
        *out = bytemuck::cast([blend(a0, b0), blend(a1, b1)]);
    }
}

/// `out = c0 * a + c1 * b`, rounded to BF16.
pub(in crate::merge) fn blend_rows_bf16(
    factors: [f32; 2],
    a: &[RowBf16],
    b: &[RowBf16],
    out: &mut [RowBf16],
) {
    let [c0, c1] = factors.map(|factor| f32x4_splat(factor));
    let blend = |a: v128, b: v128| round(f32x4_add(f32x4_mul(c0, a), f32x4_mul(c1, b)));
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        let ([a0, a1], [b0, b1]) = (load_bf16(a), load_bf16(b));
        let (even, odd) = (u32x4_shr(blend(a0, b0), 16), v128_and(blend(a1, b1), u32x4_splat(0xffff_0000)));
        *out = bytemuck::cast(v128_or(even, odd));
    }
}

/// Twin of `f32_to_bf16` in `dtype.rs`: each value, rounded in its upper half.
#[inline(always)]
fn round(value: v128) -> v128 {
    let odd = v128_and(u32x4_shr(value, 16), u32x4_splat(1));
    let rounded = i32x4_add(i32x4_add(value, u32x4_splat(0x7fff)), odd);
    let nan = v128_or(value, u32x4_splat(0x0040_0000));
    v128_bitselect(nan, rounded, f32x4_ne(value, value))
}
