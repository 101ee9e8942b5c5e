//! Stored weights to f32 lanes, 16 elements at a time.
//!
//! The bits of a narrow float, moved to where an f32 has its own, are that value times a power of two,
//! subnormals included: shifts and masks widen them. The power goes into the
//! other factor of a product, half of it before and half behind, so that nothing over- or underflows.

use super::lanes::{
    Lanes, add, from_bytes, load, mul_add, splat, to_lanes, totals_by_lane, widen_bytes, widen_bytes_apart,
    widen_halves, widen_halves_apart, widen_ints,
};

/// Elements that are widened together.
pub(super) const STEP: usize = 16;

/// Rows that lie together, a step of each in turn: then memory is read in one stream.
pub(super) const ROWS: usize = 4;

/// How elements are stored.
pub(super) trait Format {
    /// [`STEP`] elements.
    type Block;
    /// `widen` gives values divided by this number, twice.
    const HALF: f32;
    fn blocks(bytes: &[u8]) -> &[Self::Block];
    /// In their order.
    fn widen(block: &Self::Block) -> [Lanes; 4];
    /// In the order that takes least, to which [`Format::arrange`] brings what they are multiplied with.
    #[inline(always)]
    fn widen_apart(block: &Self::Block) -> [Lanes; 4] {
        Self::widen(block)
    }
    fn arrange(x: [f32; STEP]) -> [f32; STEP] {
        x
    }
}

/// Puts rows of `per_row` elements each into their places, from row `first` on, in steps of `N` elements.
pub(super) fn place<T: Copy, const N: usize>(rows: &[T], per_row: usize, first: usize, out: &mut [T]) {
    let steps = per_row.div_ceil(N);
    for (row, values) in (first..).zip(rows.chunks_exact(per_row.max(1))) {
        let own = out.get_mut(row / ROWS * ROWS * steps * N..).unwrap_or_default();
        let mut places = own.as_chunks_mut::<N>().0.iter_mut().skip(row % ROWS).step_by(ROWS);
        let (whole, rest) = values.as_chunks();
        // In this order: it takes no place that it does not fill.
        whole.iter().zip(places.by_ref()).for_each(|(values, place)| *place = *values);
        if let Some(place) = places.next().filter(|_| !rest.is_empty()) {
            place.iter_mut().zip(rest).for_each(|(place, value)| *place = *value);
        }
    }
}

/// 2^n
const fn power(n: u32) -> f32 {
    f32::from_bits((127 + n) << 23)
}

/// 8-bit floats. NaN and infinity become large numbers: loads refuse them.
pub(super) struct Bytes<const SHIFT: u32, const MASK: u32, const HALF_EXPONENT: u32>;

impl<const SHIFT: u32, const MASK: u32, const HALF_EXPONENT: u32> Format
    for Bytes<SHIFT, MASK, HALF_EXPONENT>
{
    type Block = [u8; STEP];
    const HALF: f32 = power(HALF_EXPONENT);

    #[inline(always)]
    fn blocks(bytes: &[u8]) -> &[Self::Block] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widen(block: &Self::Block) -> [Lanes; 4] {
        widen_bytes::<SHIFT, MASK>(block)
    }

    #[inline(always)]
    fn widen_apart(block: &Self::Block) -> [Lanes; 4] {
        widen_bytes_apart::<SHIFT, MASK>(block)
    }

    fn arrange([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: [f32; STEP]) -> [f32; STEP] {
        [a, e, i, m, b, f, j, n, c, g, k, o, d, h, l, p]
    }
}

/// 16-bit floats, likewise.
pub(super) struct Halves<const SHIFT: u32, const MASK: u32, const HALF_EXPONENT: u32>;

impl<const SHIFT: u32, const MASK: u32, const HALF_EXPONENT: u32> Format
    for Halves<SHIFT, MASK, HALF_EXPONENT>
{
    type Block = [u8; 2 * STEP];
    const HALF: f32 = power(HALF_EXPONENT);

    #[inline(always)]
    fn blocks(bytes: &[u8]) -> &[Self::Block] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widen(block: &Self::Block) -> [Lanes; 4] {
        let zero = [splat(0.0); 2];
        let [[a, b], [c, d]] = match block.as_chunks().0 {
            [low, high] => [widen_halves::<SHIFT, MASK>(low), widen_halves::<SHIFT, MASK>(high)],
            _ => [zero; 2],
        };
        [a, b, c, d]
    }

    #[inline(always)]
    fn widen_apart(block: &Self::Block) -> [Lanes; 4] {
        let zero = [splat(0.0); 2];
        let [[a, b], [c, d]] = match block.as_chunks().0 {
            [low, high] => [widen_halves_apart::<SHIFT, MASK>(low), widen_halves_apart::<SHIFT, MASK>(high)],
            _ => [zero; 2],
        };
        [a, b, c, d]
    }

    fn arrange([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: [f32; STEP]) -> [f32; STEP] {
        [a, c, e, g, b, d, f, h, i, k, m, o, j, l, n, p]
    }
}

/// f32 as it is.
pub(super) struct Words;

impl Format for Words {
    type Block = [u8; 4 * STEP];
    const HALF: f32 = 1.0;

    #[inline(always)]
    fn blocks(bytes: &[u8]) -> &[Self::Block] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widen(block: &Self::Block) -> [Lanes; 4] {
        match block.as_chunks().0 {
            [a, b, c, d] => [from_bytes(a), from_bytes(b), from_bytes(c), from_bytes(d)],
            _ => [splat(0.0); 4],
        }
    }
}

pub(super) type E4m3 = Bytes<4, 0x87f0_0000, 60>;
pub(super) type E5m2 = Bytes<3, 0x8fe0_0000, 56>;
pub(super) type F16 = Halves<3, 0x8fff_e000, 56>;
pub(super) type Bf16 = Halves<0, 0xffff_0000, 0>;

/// 8-bit integers, where they are widened; `int8` multiplies them as they are.
pub(super) struct Ints8;

impl Format for Ints8 {
    type Block = [u8; STEP];
    const HALF: f32 = 1.0;

    #[inline(always)]
    fn blocks(bytes: &[u8]) -> &[Self::Block] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widen(block: &Self::Block) -> [Lanes; 4] {
        widen_ints(block).map(to_lanes)
    }
}

/// Sums of products of stored elements with `x`, a lane for each of [`ROWS`] rows. `x` is already arranged
/// and multiplied by `F::HALF`; the sums are still to be.
#[inline(always)]
pub(super) fn dots<F: Format>(weights: &[[F::Block; ROWS]], x: &[[f32; STEP]]) -> Lanes {
    // Every sum has a name: in an array they would lie in memory.
    let zero = [splat(0.0); 2];
    let (mut a, mut b, mut c, mut d) = (zero, zero, zero, zero);
    for ([w0, w1, w2, w3], x) in weights.iter().zip(x) {
        let x = step(x);
        a = add_step::<F>(a, w0, x);
        b = add_step::<F>(b, w1, x);
        c = add_step::<F>(c, w2, x);
        d = add_step::<F>(d, w3, x);
    }
    totals_by_lane([a, b, c, d].map(|[even, odd]| add(even, odd)))
}

#[inline(always)]
fn step(x: &[f32; STEP]) -> [Lanes; 4] {
    match x.as_chunks().0 {
        [a, b, c, d] => [load(a), load(b), load(c), load(d)],
        _ => [splat(0.0); 4],
    }
}

#[inline(always)]
fn add_step<F: Format>([even, odd]: [Lanes; 2], block: &F::Block, [i, j, k, l]: [Lanes; 4]) -> [Lanes; 2] {
    let [e, f, g, h] = F::widen_apart(block);
    [mul_add(mul_add(even, e, i), g, k), mul_add(mul_add(odd, f, j), h, l)]
}
