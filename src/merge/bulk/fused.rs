//! The sums with AVX2 and FMA, where the processor has them. Products of two f32 are exact in f64, so that a
//! fused multiply-add rounds once where a multiplication and an addition do: the bits are the portable loops'.

use core::arch::x86_64::{
    __m128, __m128i, __m256d, _mm_and_si128, _mm_castsi128_ps, _mm_set1_epi32, _mm_slli_epi32,
    _mm256_cvtps_pd, _mm256_fmadd_pd,
};

use super::{LANES, Lanes, RowBf16};

/// What one row adds to each sum, half a row in each vector.
type Halves = [__m256d; 2];

/// Whether [`add_rows`] and [`add_rows_bf16`] may be called. The answer is remembered.
#[inline]
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Adds the products of each lane.
#[target_feature(enable = "avx2,fma")]
pub(super) fn add_rows(lanes: &mut Lanes, a: &[[f32; LANES]], b: &[[f32; LANES]]) {
    add(lanes, a, b, |row| {
        let halves: [__m128; 2] = bytemuck::pod_read_unaligned(bytemuck::bytes_of(row));
        halves.map(|half| _mm256_cvtps_pd(half))
    });
}

/// [`add_rows`] of BF16: lanes 0, 2, 4 and 6, then the others. An element that lies in the upper half of a word is
/// f32 once the other is cleared, one in the lower half once it is shifted.
#[target_feature(enable = "avx2,fma")]
pub(super) fn add_rows_bf16(lanes: &mut Lanes, a: &[RowBf16], b: &[RowBf16]) {
    let mut apart = lanes.map(|[a, b, c, d, e, f, g, h]| [a, c, e, g, b, d, f, h]);
    let upper = _mm_set1_epi32(0xffff_0000_u32.cast_signed());
    add(&mut apart, a, b, |row| {
        let words: __m128i = bytemuck::pod_read_unaligned(bytemuck::bytes_of(row));
        let halves = [_mm_slli_epi32(words, 16), _mm_and_si128(words, upper)];
        halves.map(|half| _mm256_cvtps_pd(_mm_castsi128_ps(half)))
    });
    *lanes = apart.map(|[a, c, e, g, b, d, f, h]| [a, b, c, d, e, f, g, h]);
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add<T>(lanes: &mut Lanes, a: &[T], b: &[T], load: impl Fn(&T) -> Halves) {
    // Six sums that do not wait for each other; named, they stay in registers.
    let [[mut aa0, mut aa1], [mut bb0, mut bb1], [mut ab0, mut ab1]]: [Halves; 3] = bytemuck::cast(*lanes);
    for (a, b) in a.iter().zip(b) {
        let ([a0, a1], [b0, b1]) = (load(a), load(b));
        aa0 = _mm256_fmadd_pd(a0, a0, aa0);
        aa1 = _mm256_fmadd_pd(a1, a1, aa1);
        bb0 = _mm256_fmadd_pd(b0, b0, bb0);
        bb1 = _mm256_fmadd_pd(b1, b1, bb1);
        ab0 = _mm256_fmadd_pd(a0, b0, ab0);
        ab1 = _mm256_fmadd_pd(a1, b1, ab1);
    }
    *lanes = bytemuck::cast([[aa0, aa1], [bb0, bb1], [ab0, ab1]]);
}
