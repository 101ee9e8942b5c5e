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

    /// Adds the products of each lane, in f64.
    pub(in crate::merge) fn add_rows(lanes: &mut Lanes, a: &[[f32; LANES]], b: &[[f32; LANES]]) {
        add(lanes, a, b, |value| value);
    }

    /// [`add_rows`] of BF16.
    pub(in crate::merge) fn add_rows_bf16(lanes: &mut Lanes, a: &[RowBf16], b: &[RowBf16]) {
        add(lanes, a, b, bf16_to_f32);
    }

    #[inline(always)]
    fn add<T: Copy>(lanes: &mut Lanes, a: &[[T; LANES]], b: &[[T; LANES]], value: impl Fn(T) -> f32 + Copy) {
        // Copies of their own stay in registers.
        let [mut aa, mut bb, mut ab] = *lanes;
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (a.map(|a| f64::from(value(a))), b.map(|b| f64::from(value(b))));
            for lane in 0..LANES {
                #[expect(clippy::indexing_slicing, reason = "all arrays have LANES elements")]
                {
                    aa[lane] += a[lane] * a[lane];
                    bb[lane] += b[lane] * b[lane];
                    ab[lane] += a[lane] * b[lane];
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
        for ((slot, a), b) in out.iter_mut().zip(a).zip(b) {
            *slot = f32_to_bf16(c0 * bf16_to_f32(*a) + c1 * bf16_to_f32(*b));
        }
    }
}
