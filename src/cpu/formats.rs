//! Stored weights to f32 lanes, 16 elements at a time.
//!
//! The bits of a narrow float, moved to where an f32 has its own, are that value times a power of two,
//! subnormals included: shifts and masks widen them. The power goes into the
//! other factor of a product, half of it before and half behind, so that nothing over- or underflows.

use super::lanes::{
    Lanes, add, from_bytes, load, mul, mul_add, splat, total, widen_bytes, widen_bytes_apart, widen_halves,
    widen_halves_apart,
};

/// Elements that are widened together.
pub(super) const STEP: usize = 16;

/// How elements are stored.
pub(super) trait Format {
    /// [`STEP`] elements.
    type Block;
    /// Bytes of an element.
    const BYTES: usize;
    /// `widen` gives values divided by this number, twice.
    const HALF: f32;
    /// The whole blocks of `bytes`, and what is left.
    fn split(bytes: &[u8]) -> (&[Self::Block], &[u8]);
    /// Fewer elements than a block has, with zeros behind them.
    fn pad(rest: &[u8]) -> Self::Block;
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

fn padded<const N: usize>(rest: &[u8]) -> [u8; N] {
    let mut block = [0; N];
    block.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    block
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
    const BYTES: usize = 1;
    const HALF: f32 = power(HALF_EXPONENT);

    #[inline(always)]
    fn split(bytes: &[u8]) -> (&[Self::Block], &[u8]) {
        bytes.as_chunks()
    }

    fn pad(rest: &[u8]) -> Self::Block {
        padded(rest)
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
    const BYTES: usize = 2;
    const HALF: f32 = power(HALF_EXPONENT);

    #[inline(always)]
    fn split(bytes: &[u8]) -> (&[Self::Block], &[u8]) {
        bytes.as_chunks()
    }

    fn pad(rest: &[u8]) -> Self::Block {
        padded(rest)
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
    const BYTES: usize = 4;
    const HALF: f32 = 1.0;

    #[inline(always)]
    fn split(bytes: &[u8]) -> (&[Self::Block], &[u8]) {
        bytes.as_chunks()
    }

    fn pad(rest: &[u8]) -> Self::Block {
        padded(rest)
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

/// Rows that share the loads of `x`: so many streams memory delivers fastest.
pub(super) const ROWS: usize = 4;

/// Sums of products of stored elements with `x`, for [`ROWS`] rows of equal length. `x` is already arranged
/// and multiplied by `F::HALF`, the last step filled with zeros; the sums are still to be multiplied. A
/// row's sum does not depend on those beside it.
#[inline(always)]
pub(super) fn dots<F: Format>(rows: [&[u8]; ROWS], x: &[[f32; STEP]]) -> [f32; ROWS] {
    let [(a, a_rest), (b, b_rest), (c, c_rest), (d, d_rest)] = rows.map(F::split);
    // Every sum has a name: in an array they would lie in memory.
    let zero = [splat(0.0); 2];
    let (mut a_sum, mut b_sum, mut c_sum, mut d_sum) = (zero, zero, zero, zero);
    for ((a, b), ((c, d), x)) in a.iter().zip(b).zip(c.iter().zip(d).zip(x)) {
        let x = step(x);
        a_sum = add_step::<F>(a_sum, a, x);
        b_sum = add_step::<F>(b_sum, b, x);
        c_sum = add_step::<F>(c_sum, c, x);
        d_sum = add_step::<F>(d_sum, d, x);
    }
    let sums = [a_sum, b_sum, c_sum, d_sum];
    let sums = match x.last() {
        Some(x) if !a_rest.is_empty() => add_rests::<F>(sums, [a_rest, b_rest, c_rest, d_rest], step(x)),
        _ => sums,
    };
    sums.map(|[even, odd]| total(add(even, odd)))
}

fn add_rests<F: Format>(
    mut sums: [[Lanes; 2]; ROWS],
    rests: [&[u8]; ROWS],
    x: [Lanes; 4],
) -> [[Lanes; 2]; ROWS] {
    for (sum, rest) in sums.iter_mut().zip(rests) {
        *sum = add_step::<F>(*sum, &F::pad(rest), x);
    }
    sums
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

/// The values of stored elements, times `scale`, into the first of `out`: four to one, and zeros up to a
/// whole [`STEP`].
#[inline(always)]
pub(super) fn widen<F: Format>(row: &[u8], scale: f32, out: &mut [Lanes]) {
    let (blocks, rest) = F::split(row);
    let (exact, scale) = (splat(F::HALF * F::HALF), splat(scale));
    let (outs, _) = out.as_chunks_mut::<4>();
    let mut outs = outs.iter_mut();
    // In this order: it takes no place out of `outs` that it does not fill.
    for (block, out) in blocks.iter().zip(outs.by_ref()) {
        *out = F::widen(block).map(|lanes| mul(mul(lanes, exact), scale));
    }
    if !rest.is_empty()
        && let Some(out) = outs.next()
    {
        *out = F::widen(&F::pad(rest)).map(|lanes| mul(mul(lanes, exact), scale));
    }
}
