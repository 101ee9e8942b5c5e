//! The loops that a merge of BF16 tensors spends its time in, over rows of [`LANES`] elements.

/// Elements of a row; partial sums per product. Independent additions keep the pipeline full.
pub(super) const LANES: usize = 8;

/// Partial sums of a·a, b·b and a·b.
pub(super) type Lanes = [[f64; LANES]; 3];

/// Adds the products of rows of both tensors.
pub(super) type AddRows<T> = fn(&mut Lanes, &[[T; LANES]], &[[T; LANES]]);

/// A row of stored BF16 elements.
type RowBf16 = [[u8; 2]; LANES];

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) use wasm::{add_rows, add_rows_bf16, blend_rows, blend_rows_bf16};

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
pub(super) use portable::{add_rows, add_rows_bf16, blend_rows, blend_rows_bf16};

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
mod portable {
    use super::{LANES, Lanes, RowBf16};
    use crate::dtype::{bf16_to_f32, f32_to_bf16};

    /// Rows that are widened together: few enough for the nearest cache.
    const BLOCK: usize = 64;

    /// Does the work with the vectors of AVX2 where the processor has them. The bits are the same: no two
    /// roundings become one.
    #[inline(always)]
    fn with_vectors(work: impl FnOnce()) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            #[target_feature(enable = "avx2")]
            fn with_avx2(work: impl FnOnce()) {
                work();
            }
            #[expect(unsafe_code, reason = "the processor was asked one line above")]
            // SAFETY: the function needs AVX2 and nothing else.
            return unsafe { with_avx2(work) };
        }
        work();
    }

    /// Adds the products of each lane, in f64.
    pub(in crate::merge) fn add_rows(lanes: &mut Lanes, a: &[[f32; LANES]], b: &[[f32; LANES]]) {
        with_vectors(
            #[inline(always)]
            || add(lanes, a, b, |value| value),
        );
    }

    /// [`add_rows`] of BF16.
    pub(in crate::merge) fn add_rows_bf16(lanes: &mut Lanes, a: &[RowBf16], b: &[RowBf16]) {
        with_vectors(
            #[inline(always)]
            || add(lanes, a, b, bf16_to_f32),
        );
    }

    #[inline(always)]
    fn add<T: Copy>(lanes: &mut Lanes, a: &[[T; LANES]], b: &[[T; LANES]], value: impl Fn(T) -> f32 + Copy) {
        // Copies of their own stay in registers.
        let [mut aa, mut bb, mut ab] = *lanes;
        // Widened in one go, flat, rows vectorise; each by itself, they are put together element by element.
        let (mut a_wide, mut b_wide) = ([[0.0_f32; LANES]; BLOCK], [[0.0_f32; LANES]; BLOCK]);
        for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
            for (wide, stored) in [(&mut a_wide, a), (&mut b_wide, b)] {
                let stored = stored.as_flattened().iter();
                wide.as_flattened_mut()
                    .iter_mut()
                    .zip(stored)
                    .for_each(|(wide, stored)| *wide = value(*stored));
            }
            for (a, b) in a_wide.iter().zip(&b_wide).take(a.len()) {
                for lane in 0..LANES {
                    #[expect(clippy::indexing_slicing, reason = "all arrays have LANES elements")]
                    {
                        let (a, b) = (f64::from(a[lane]), f64::from(b[lane]));
                        aa[lane] += a * a;
                        bb[lane] += b * b;
                        ab[lane] += a * b;
                    }
                }
            }
        }
        *lanes = [aa, bb, ab];
    }

    /// `out = c0 * a + c1 * b`.
    pub(in crate::merge) fn blend_rows(
        [c0, c1]: [f32; 2],
        a: &[[f32; LANES]],
        b: &[[f32; LANES]],
        out: &mut [[f32; LANES]],
    ) {
        let (a, b, out) = (a.as_flattened(), b.as_flattened(), out.as_flattened_mut());
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = c0 * a + c1 * b;
        }
    }

    /// `out = c0 * a + c1 * b`, rounded to BF16.
    pub(in crate::merge) fn blend_rows_bf16(
        [c0, c1]: [f32; 2],
        a: &[RowBf16],
        b: &[RowBf16],
        out: &mut [RowBf16],
    ) {
        // Flat, this vectorises; row by row it takes twice as long.
        let (a, b, out) = (a.as_flattened(), b.as_flattened(), out.as_flattened_mut());
        with_vectors(
            #[inline(always)]
            || {
                for ((slot, a), b) in out.iter_mut().zip(a).zip(b) {
                    *slot = f32_to_bf16(c0 * bf16_to_f32(*a) + c1 * bf16_to_f32(*b));
                }
            },
        );
    }
}
