//! Softmax attention over the rolling cache, one tile of keys at a time for all queries of a batch.

use super::formats::{F16, STEP, widen};
use super::lanes::{Lanes, add, load, mul, mul_add, splat, store, total};

/// Keys that are widened together. Tiles begin at multiples of it, so that a query's sums do not depend
/// on the batch that it came in.
const TILE: usize = 32;

/// Sizes of one pass.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub tokens: usize,
    /// Position of the first of them.
    pub position: usize,
    pub kv_heads: usize,
    /// Query heads of a key head.
    pub group: usize,
    pub head_dim: usize,
    /// Positions that the cache holds.
    pub slots: usize,
    /// Keys that a query sees, itself included.
    pub window: usize,
    pub qkv_pitch: usize,
    pub out_pitch: usize,
}

/// What stays allocated between calls.
#[derive(Default)]
pub(super) struct Scratch {
    queries: Vec<Lanes>,
    keys: Vec<Lanes>,
    values: Vec<Lanes>,
    sums: Vec<Lanes>,
    /// Largest score and sum of weights so far.
    states: Vec<[f32; 2]>,
}

/// Caches `(slots, kv_heads, head_dim)` of f16, `qkv (T, qkv_pitch)`, `out (T, out_pitch)`.
pub(super) fn attend(
    shape: Shape,
    qkv: &[f32],
    [keys, values]: [&[u8]; 2],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    for kv_head in 0..shape.kv_heads {
        attend_head(shape, kv_head, qkv, [keys, values], scratch, out);
    }
}

fn attend_head(
    shape: Shape,
    kv_head: usize,
    qkv: &[f32],
    caches: [&[u8]; 2],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let Shape { tokens, position, group, head_dim, window, .. } = shape;
    let lanes = head_dim.next_multiple_of(STEP) / 4;
    let heads = kv_head * group..(kv_head + 1) * group;
    let scale = (head_dim as f32).powf(-0.5);
    let Scratch { queries, keys, values, sums, states } = scratch;

    queries.clear();
    for row in qkv.chunks_exact(shape.qkv_pitch.max(1)).take(tokens) {
        for query in row.chunks_exact(head_dim).take(heads.end).skip(heads.start) {
            let (fours, rest) = query.as_chunks::<4>();
            let end = queries.len() + lanes;
            queries.extend(fours.iter().map(|four| mul(load(four), splat(scale))));
            if let [a, b] = *rest {
                queries.push(load(&[a * scale, b * scale, 0.0, 0.0]));
            }
            queries.resize(end, splat(0.0));
        }
    }
    states.clear();
    states.resize(tokens * group, [f32::NEG_INFINITY, 0.0]);
    sums.clear();
    sums.resize(tokens * group * lanes, splat(0.0));

    let first_of = |token: usize| (position + token + 1).saturating_sub(window);
    let (first, last) = (first_of(0), position + tokens - 1);
    for tile in first / TILE..=last / TILE {
        let range = (tile * TILE).max(first)..((tile + 1) * TILE).min(last + 1);
        widen_tile(shape, kv_head, range.clone(), caches[0], keys);
        widen_tile(shape, kv_head, range.clone(), caches[1], values);
        let each_query = queries.chunks_exact(lanes).zip(sums.chunks_exact_mut(lanes)).zip(states.iter_mut());
        for (index, ((query, sum), state)) in each_query.enumerate() {
            let token = index / group;
            let seen = range.start.max(first_of(token))..range.end.min(position + token + 1);
            if seen.is_empty() {
                continue;
            }
            let within = (seen.start - range.start) * lanes..(seen.end - range.start) * lanes;
            let keys = keys.get(within.clone()).unwrap_or_default();
            let values = values.get(within).unwrap_or_default();
            take_in(query, keys.chunks_exact(lanes), values.chunks_exact(lanes), sum, state);
        }
    }

    let mut results = sums.chunks_exact(lanes).zip(states.iter());
    for row in out.chunks_exact_mut(shape.out_pitch.max(1)).take(tokens) {
        for out in row.chunks_exact_mut(head_dim).take(heads.end).skip(heads.start) {
            let Some((sum, [_, norm])) = results.next() else { return };
            for (out, sum) in out.chunks_mut(4).zip(sum) {
                let sum = store(mul(*sum, splat(1.0 / norm)));
                out.iter_mut().zip(sum).for_each(|(out, sum)| *out = sum);
            }
        }
    }
}

/// Rows of one head's keys or values, `(keys, lanes)`.
fn widen_tile(
    shape: Shape,
    kv_head: usize,
    range: std::ops::Range<usize>,
    cache: &[u8],
    out: &mut Vec<Lanes>,
) {
    let (head_bytes, lanes) = (shape.head_dim * 2, shape.head_dim.next_multiple_of(STEP) / 4);
    out.resize(TILE * lanes, splat(0.0));
    for (key, out) in range.zip(out.chunks_exact_mut(lanes)) {
        let at = (key % shape.slots * shape.kv_heads + kv_head) * head_bytes;
        widen::<F16>(cache.get(at..at + head_bytes).unwrap_or_default(), 1.0, out);
    }
}

/// One query and the keys of a tile that it sees.
fn take_in<'a>(
    query: &[Lanes],
    keys: impl Iterator<Item = &'a [Lanes]>,
    values: impl Iterator<Item = &'a [Lanes]>,
    sum: &mut [Lanes],
    [largest, norm]: &mut [f32; 2],
) {
    let mut scores = [0.0; TILE];
    let mut count = 0;
    let mut most = *largest;
    for (score, key) in scores.iter_mut().zip(keys) {
        *score = product(query, key);
        most = most.max(*score);
        count += 1;
    }
    // At first there is nothing to shrink: exp(-inf) is 0.
    let shrink = (*largest - most).exp();
    *largest = most;
    *norm *= shrink;
    sum.iter_mut().for_each(|sum| *sum = mul(*sum, splat(shrink)));
    for (score, value) in scores.iter().take(count).zip(values) {
        let weight = (score - most).exp();
        *norm += weight;
        for (sum, value) in sum.iter_mut().zip(value) {
            *sum = mul_add(*sum, *value, splat(weight));
        }
    }
}

fn product(a: &[Lanes], b: &[Lanes]) -> f32 {
    let zero = splat(0.0);
    let (mut s0, mut s1, mut s2, mut s3) = (zero, zero, zero, zero);
    for ([a0, a1, a2, a3], [b0, b1, b2, b3]) in a.as_chunks().0.iter().zip(b.as_chunks().0) {
        s0 = mul_add(s0, *a0, *b0);
        s1 = mul_add(s1, *a1, *b1);
        s2 = mul_add(s2, *a2, *b2);
        s3 = mul_add(s3, *a3, *b3);
    }
    total(add(add(s0, s1), add(s2, s3)))
}
