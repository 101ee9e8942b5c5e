//! Products with 8-bit integers: inputs become 16-bit ones with a scale for each block of columns, and sums
//! within a block are exact. Beside the rounding of the weights that of the inputs does not count.

use super::formats::{ROWS, STEP};
use super::lanes::{
    Ints, Lanes, abs, add_products, largest, load, max, mul, mul_add, no_ints, round_to_shorts, splat, store,
    sums_by_lane, to_lanes, total,
};
use super::product::{Out, Stored};
use crate::dtype::I8_BLOCK;

/// Steps of a block: their sums fit 32 bits.
const BLOCK: usize = I8_BLOCK / STEP;

/// Below it a block counts as zeros: the inverse of its scale would overflow.
const LEAST: f32 = 1e-34;

/// A step of each of four rows.
type Four = [[u8; STEP]; ROWS];

/// Inputs of some tokens, for as long as their size stays.
#[derive(Default)]
pub(super) struct Inputs {
    /// `(T, cols / STEP)`
    steps: Vec<[i16; STEP]>,
    /// `(T, ceil(cols / I8_BLOCK))`
    scales: Vec<f32>,
}

/// One token of them.
type Input<'a> = (&'a [[i16; STEP]], &'a [f32]);

impl Inputs {
    /// `x (T, pitch)`, of which `cols` are taken.
    fn take(&mut self, x: &[f32], pitch: usize, cols: usize, tokens: usize) {
        self.steps.clear();
        self.scales.clear();
        for row in x.chunks(pitch.max(1)).take(tokens) {
            let row = row.get(..cols).unwrap_or_default().as_chunks::<4>().0;
            for block in row.chunks(I8_BLOCK / 4) {
                let most = largest(block.iter().map(|four| abs(load(four))).fold(splat(0.0), max));
                // Whole numbers have no NaN, and `max` may pass one over: this is 0, or NaN for what is not finite.
                let poison =
                    total(block.iter().fold(splat(0.0), |sum, four| mul_add(sum, load(four), splat(0.0))));
                let inverse = if most > LEAST { 32767.0 / most } else { 0.0 };
                self.scales.push(most / 32767.0 + poison);
                let scaled = |four: &[f32; 4]| mul(load(four), splat(inverse));
                let steps = block.as_chunks().0.iter();
                self.steps.extend(
                    steps.map(|[a, b, c, d]| round_to_shorts([scaled(a), scaled(b), scaled(c), scaled(d)])),
                );
            }
        }
    }
}

/// `y` of some tokens, from a matrix of I8 whose columns are whole steps. `x (T, x_pitch)`. Sums of a token do not depend on how many are beside it.
pub(super) fn product(
    weights: Stored,
    (x, x_pitch): (&[f32], usize),
    tokens: usize,
    inputs: &mut Inputs,
    out: &mut Out,
) {
    let cols = weights.cols.max(1);
    inputs.take(x, x_pitch, cols, tokens);
    let (steps, blocks) = (cols / STEP, cols.div_ceil(I8_BLOCK));
    let fours: &[Four] = weights.bytes.as_chunks::<STEP>().0.as_chunks().0;
    let scales: &[[f32; ROWS]] = weights.scales.as_chunks().0;
    let rows = fours.chunks_exact(steps.max(1)).zip(scales.chunks_exact(blocks));
    for (row, (weights, scales)) in (0..).step_by(ROWS).zip(rows) {
        let mut each = inputs.steps.chunks_exact(steps.max(1)).zip(inputs.scales.chunks_exact(blocks));
        for token in (0..tokens).step_by(2) {
            let Some(first) = each.next() else { return };
            match each.next() {
                Some(second) => {
                    let [first, second] = two(weights, scales, [first, second]);
                    out.put_four(token, row, store(first));
                    out.put_four(token + 1, row, store(second));
                }
                None => out.put_four(token, row, store(one(weights, scales, first))),
            }
        }
    }
}

/// Four rows with one token; a lane is a row.
fn one(weights: &[Four], scales: &[[f32; ROWS]], (x, x_scales): Input) -> Lanes {
    let mut sum = splat(0.0);
    let (blocks, rest) = weights.as_chunks::<BLOCK>();
    let (x, x_rest) = x.as_chunks::<BLOCK>();
    let mut scales = scales.iter().zip(x_scales).map(|(own, x)| mul(load(own), splat(*x)));
    // In this order: it takes no scale that it does not use.
    for ((weights, x), scale) in blocks.iter().zip(x).zip(scales.by_ref()) {
        sum = mul_add(sum, to_lanes(block(weights, x)), scale);
    }
    match scales.next() {
        Some(scale) => mul_add(sum, to_lanes(block(rest, x_rest)), scale),
        None => sum,
    }
}

/// Sums of a block, by row. Every sum has a name: in an array they would lie in memory.
#[inline(always)]
fn block(weights: &[Four], x: &[[i16; STEP]]) -> Ints {
    let (mut a, mut b, mut c, mut d) = (no_ints(), no_ints(), no_ints(), no_ints());
    for ([w0, w1, w2, w3], x) in weights.iter().zip(x) {
        a = add_products(a, w0, x);
        b = add_products(b, w1, x);
        c = add_products(c, w2, x);
        d = add_products(d, w3, x);
    }
    sums_by_lane([a, b, c, d])
}

/// [`one`] for two tokens, which share what is loaded.
fn two(weights: &[Four], scales: &[[f32; ROWS]], [first, second]: [Input; 2]) -> [Lanes; 2] {
    let (mut first_sum, mut second_sum) = (splat(0.0), splat(0.0));
    let blocks = weights.chunks(BLOCK).zip(first.0.chunks(BLOCK).zip(second.0.chunks(BLOCK)));
    let scales = scales.iter().zip(first.1.iter().zip(second.1));
    for ((weights, (x, y)), (own, (x_scale, y_scale))) in blocks.zip(scales) {
        let (mut a, mut b, mut c, mut d) = (no_ints(), no_ints(), no_ints(), no_ints());
        let (mut e, mut f, mut g, mut h) = (no_ints(), no_ints(), no_ints(), no_ints());
        for ([w0, w1, w2, w3], (x, y)) in weights.iter().zip(x.iter().zip(y)) {
            a = add_products(a, w0, x);
            e = add_products(e, w0, y);
            b = add_products(b, w1, x);
            f = add_products(f, w1, y);
            c = add_products(c, w2, x);
            g = add_products(g, w2, y);
            d = add_products(d, w3, x);
            h = add_products(h, w3, y);
        }
        let scale = |x: &f32| mul(load(own), splat(*x));
        first_sum = mul_add(first_sum, to_lanes(sums_by_lane([a, b, c, d])), scale(x_scale));
        second_sum = mul_add(second_sum, to_lanes(sums_by_lane([e, f, g, h])), scale(y_scale));
    }
    [first_sum, second_sum]
}
