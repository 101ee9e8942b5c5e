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

#[cfg(target_arch = "x86_64")]
mod fused;

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
        #[cfg(target_arch = "x86_64")]
        if super::fused::is_there() {
            #[expect(unsafe_code, reason = "the processor was asked one line above")]
            // SAFETY: the function needs what `is_there` asks for and nothing else.
            return unsafe { super::fused::add_rows(lanes, a, b) };
        }
        add(lanes, a, b, |value| value);
    }

    /// [`add_rows`] of BF16.
    pub(in crate::merge) fn add_rows_bf16(lanes: &mut Lanes, a: &[RowBf16], b: &[RowBf16]) {
        #[cfg(target_arch = "x86_64")]
        if super::fused::is_there() {
            #[expect(unsafe_code, reason = "the processor was asked one line above")]
            // SAFETY: the function needs what `is_there` asks for and nothing else.
            return unsafe { super::fused::add_rows_bf16(lanes, a, b) };
        }
        add(lanes, a, b, bf16_to_f32);
    }

    pub(super) fn add<T: Copy>(
        lanes: &mut Lanes,
        a: &[[T; LANES]],
        b: &[[T; LANES]],
        value: impl Fn(T) -> f32 + Copy,
    ) {
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::{Lanes, RowBf16, fused, portable};
    use crate::dtype::bf16_to_f32;

    /// Every bit of every lane, for every pattern of 16 bits that is finite, and for f32 of 24 significant bits.
    #[test]
    fn fused_sums_have_the_bits_of_the_portable_ones() {
        assert!(fused::is_there(), "this test needs a processor with AVX2 and FMA");
        let finite = (0..=u16::MAX).filter(|bits| bits & 0x7f80 != 0x7f80);
        let a: Vec<[u8; 2]> = finite.clone().map(u16::to_le_bytes).collect();
        let b: Vec<[u8; 2]> = finite.map(|bits| (bits.wrapping_mul(40_503) & 0xbfff).to_le_bytes()).collect();
        let rows: [&[RowBf16]; 2] = [a.as_chunks().0, b.as_chunks().0];
        let wide = |row: &RowBf16, salt: u32| {
            row.map(|element| {
                f32::from_bits(bf16_to_f32(element).to_bits() | (u32::from(element[0]) * salt) & 0xffff)
            })
        };
        let [a_wide, b_wide]: [Vec<_>; 2] =
            [(0, 251), (1, 239)].map(|(i, salt)| rows[i].iter().map(|row| wide(row, salt)).collect());
        let bits = |lanes: Lanes| lanes.map(|lanes| lanes.map(f64::to_bits));
        // All, so that lanes grow large and much is rounded, and a few, so that little is.
        for range in [0..rows[0].len(), 0..3, 4000..4001, 1500..1533, 2900..2900] {
            let [a, b] = rows.map(|rows| &rows[range.clone()]);
            let start = [[1.0, -0.0, 3e-9, 0.1, 5.0, 1e300, -7.0, 0.3]; 3];
            let (mut got, mut want) = (start, start);
            portable::add_rows_bf16(&mut got, a, b);
            portable::add(&mut want, a, b, bf16_to_f32);
            assert_eq!(bits(got), bits(want), "rows {range:?} of BF16");
            assert!(range.is_empty() || bits(got) != bits(start));
            let (a, b) = (&a_wide[range.clone()], &b_wide[range.clone()]);
            let (mut got, mut want) = (start, start);
            portable::add_rows(&mut got, a, b);
            portable::add(&mut want, a, b, |value| value);
            assert_eq!(bits(got), bits(want), "rows {range:?} of F32");
        }
    }
}
