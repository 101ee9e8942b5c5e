//! Softmax attention over the rolling cache, one tile of keys at a time for all queries of a batch.
//!
//! The cache lies in tiles, in the order in which it is read: of the keys one element of all, then the
//! next, so that a lane is a key and a score needs no sum across lanes; of the values 16 elements of each.
//! Behind a tile of FP8 lie the scales of its keys, or of its values.

use half::f16;

use crate::dtype::encode_e4m3;
use crate::steps::CacheForm;

use super::formats::{E4m3, F16, Format, STEP};
use super::lanes::{Lanes, add, exp, from_bytes, largest, load, max, mul, mul_add, splat, store, total};

/// Keys that are widened together. Tiles begin at multiples of it, so that a query's sums do not depend
/// on the batch that it came in.
pub(super) const TILE: usize = 32;

/// Sizes of a layer's cache.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Positions that it holds, a multiple of [`TILE`].
    pub slots: usize,
    pub form: CacheForm,
}

/// Sizes of one pass.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub cache: Layout,
    pub tokens: usize,
    /// Position of the first of them.
    pub position: usize,
    /// Query heads of a key head.
    pub group: usize,
    /// Keys that a query sees, itself included.
    pub window: usize,
    pub qkv_pitch: usize,
    pub out_pitch: usize,
}

/// What stays allocated between calls.
#[derive(Default)]
pub(super) struct Scratch {
    /// `(T * group, head_dim)`, scaled.
    queries: Vec<f32>,
    /// `(head_dim, TILE)`
    keys: Vec<[Lanes; 4]>,
    /// `(head_dim / STEP, TILE, STEP)`
    values: Vec<[Lanes; 4]>,
    /// `(T * group, head_dim)`, up to whole steps.
    sums: Vec<[Lanes; 4]>,
    /// Largest score and sum of weights so far.
    states: Vec<[f32; 2]>,
}

impl Layout {
    /// Steps of a value.
    fn steps(&self) -> usize {
        self.head_dim.div_ceil(STEP)
    }

    /// Bytes of a tile of one head: of its keys, and of its values.
    fn tile_bytes(&self) -> [usize; 2] {
        let row_bytes = |width| match self.form {
            CacheForm::F16 => width * 2,
            CacheForm::F8 => width + SCALE,
        };
        [self.head_dim, self.steps() * STEP].map(|width| row_bytes(width) * TILE)
    }

    /// Bytes of keys and of values.
    pub fn bytes(&self) -> [u64; 2] {
        let tiles = (self.slots / TILE) as u64 * self.kv_heads as u64;
        self.tile_bytes().map(|bytes| tiles * bytes as u64)
    }

    /// Where a tile of a head lies, of those of `bytes`.
    fn tile(&self, head: usize, position: usize, bytes: usize) -> std::ops::Range<usize> {
        let at = (head * self.slots + position % self.slots) / TILE * bytes;
        at..at + bytes
    }

    /// Writes a token's keys and values, `(kv_heads, head_dim)` each, rounded to the cache's form.
    pub fn write(&self, position: usize, [key, value]: [&[f32]; 2], [keys, values]: [&mut [u8]; 2]) {
        let [key_bytes, value_bytes] = self.tile_bytes();
        let within = position % TILE;
        let heads = key.chunks_exact(self.head_dim).zip(value.chunks_exact(self.head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let tile = keys.get_mut(self.tile(head, position, key_bytes)).unwrap_or_default();
            self.write_row(key, tile, within, 1);
            let tile = values.get_mut(self.tile(head, position, value_bytes)).unwrap_or_default();
            self.write_row(value, tile, within, STEP);
        }
    }

    /// Writes a row into a tile in which `together` elements of each lie side by side.
    fn write_row(&self, row: &[f32], tile: &mut [u8], within: usize, together: usize) {
        let parts = row.chunks(together);
        match self.form {
            CacheForm::F16 => {
                let places = tile.as_chunks_mut::<2>().0.chunks_exact_mut(together);
                for (place, part) in places.skip(within).step_by(TILE).zip(parts) {
                    place.iter_mut().zip(part).for_each(|(slot, element)| *slot = narrow(*element));
                }
            }
            CacheForm::F8 => {
                let Some((codes, scales)) = tile.split_last_chunk_mut::<{ TILE * SCALE }>() else { return };
                let [scale, inverse] = CacheForm::scale(row);
                if let Some(slot) = scales.as_chunks_mut::<SCALE>().0.get_mut(within) {
                    *slot = scale.to_le_bytes();
                }
                for (place, part) in codes.chunks_exact_mut(together).skip(within).step_by(TILE).zip(parts) {
                    place
                        .iter_mut()
                        .zip(part)
                        .for_each(|(code, element)| *code = encode_e4m3(element * inverse));
                }
            }
        }
    }

    /// Widens a tile; returns what its rows are still to be multiplied with, a lane for each.
    fn widen(&self, tile: &[u8], wide: &mut Vec<[Lanes; 4]>) -> [Lanes; 8] {
        wide.clear();
        let mut factors = [splat(self.half()); 8];
        match self.form {
            CacheForm::F16 => wide.extend(F16::blocks(tile).iter().map(F16::widen)),
            CacheForm::F8 => {
                let Some((codes, scales)) = tile.split_last_chunk::<{ TILE * SCALE }>() else {
                    return factors;
                };
                wide.extend(E4m3::blocks(codes).iter().map(E4m3::widen));
                for (factor, scales) in factors.iter_mut().zip(scales.as_chunks().0) {
                    *factor = mul(*factor, from_bytes(scales));
                }
            }
        }
        factors
    }

    /// Widened elements are divided by this number, twice.
    fn half(&self) -> f32 {
        match self.form {
            CacheForm::F16 => F16::HALF,
            CacheForm::F8 => E4m3::HALF,
        }
    }
}

/// Bytes of a scale.
const SCALE: usize = size_of::<f32>();

/// Rounds to f16; beyond its largest value a stored one would become infinite.
fn narrow(value: f32) -> [u8; 2] {
    f16::from_f32(value.clamp(-65504.0, 65504.0)).to_le_bytes()
}

/// `qkv (T, qkv_pitch)`, `out (T, out_pitch)`.
pub(super) fn attend(shape: Shape, qkv: &[f32], caches: [&[u8]; 2], scratch: &mut Scratch, out: &mut [f32]) {
    for kv_head in 0..shape.cache.kv_heads {
        attend_head(shape, kv_head, qkv, caches, scratch, out);
    }
}

fn attend_head<'a>(
    shape: Shape,
    kv_head: usize,
    qkv: &[f32],
    [key_cache, value_cache]: [&'a [u8]; 2],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let Shape { cache, tokens, position, group, window, .. } = shape;
    let (head_dim, steps) = (cache.head_dim, cache.steps());
    let heads = kv_head * group..(kv_head + 1) * group;
    let scale = (head_dim as f32).powf(-0.5) * cache.half();
    let Scratch { queries, keys, values, sums, states } = scratch;

    queries.clear();
    for row in qkv.chunks_exact(shape.qkv_pitch.max(1)).take(tokens) {
        let own = row.get(heads.start * head_dim..heads.end * head_dim).unwrap_or_default();
        queries.extend(own.iter().map(|element| element * scale));
    }
    states.clear();
    states.resize(tokens * group, [f32::NEG_INFINITY, 0.0]);
    sums.clear();
    sums.resize(tokens * group * steps, [splat(0.0); 4]);

    let first_of = |token: usize| (position + token + 1).saturating_sub(window);
    let (first, last) = (first_of(0), position + tokens - 1);
    for begin in (first / TILE * TILE..=last).step_by(TILE) {
        let tile = |bytes: &'a [u8], tile_bytes| {
            bytes.get(cache.tile(kv_head, begin, tile_bytes)).unwrap_or_default()
        };
        let [key_bytes, value_bytes] = cache.tile_bytes();
        let key_factors = cache.widen(tile(key_cache, key_bytes), keys);
        let value_factors = cache.widen(tile(value_cache, value_bytes), values);
        let rows = queries.chunks_exact(head_dim).zip(sums.chunks_exact_mut(steps)).zip(states.iter_mut());
        for (index, ((query, sum), state)) in rows.enumerate() {
            let token = index / group;
            let seen = first_of(token).max(begin)..(position + token + 1).min(begin + TILE);
            if !seen.is_empty() {
                let seen = seen.start - begin..seen.end - begin;
                let tile = Tile { keys: keys.as_chunks().0, key_factors, values, value_factors };
                take_in(query, &tile, seen, sum, state);
            }
        }
    }

    let mut results = sums.chunks_exact(steps).zip(states.iter());
    for row in out.chunks_exact_mut(shape.out_pitch.max(1)).take(tokens) {
        for out in row.chunks_exact_mut(head_dim).take(heads.end).skip(heads.start) {
            let Some((sum, [_, norm])) = results.next() else { return };
            let scale = splat(cache.half() / norm);
            for (out, sum) in out.chunks_mut(4).zip(sum.as_flattened()) {
                out.iter_mut().zip(store(mul(*sum, scale))).for_each(|(out, sum)| *out = sum);
            }
        }
    }
}

/// A tile as it was widened.
struct Tile<'a> {
    keys: &'a [[[Lanes; 4]; 2]],
    key_factors: [Lanes; 8],
    values: &'a [[Lanes; 4]],
    value_factors: [Lanes; 8],
}

/// One query and a tile, of which it sees the keys `seen`.
fn take_in(
    query: &[f32],
    tile: &Tile,
    seen: std::ops::Range<usize>,
    sum: &mut [[Lanes; 4]],
    [most, norm]: &mut [f32; 2],
) {
    let mut scores = scores(query, tile.keys);
    scores.iter_mut().zip(tile.key_factors).for_each(|(four, factors)| *four = mul(*four, factors));
    if seen != (0..TILE) {
        for (first, four) in (0..).step_by(4).zip(&mut scores) {
            let mut each = store(*four);
            let hidden = each.iter_mut().zip(first..).filter(|(_, key)| !seen.contains(key));
            hidden.for_each(|(score, _)| *score = f32::NEG_INFINITY);
            *four = load(&each);
        }
    }
    let before = *most;
    *most = before.max(largest(scores.iter().copied().fold(splat(f32::NEG_INFINITY), max)));
    // At first there is nothing to shrink: exp(-inf) is 0.
    let shrink = (before - *most).exp();
    let (mut weights, mut all) = ([0.0; TILE], splat(0.0));
    let each = weights.as_chunks_mut::<4>().0.iter_mut().zip(scores).zip(tile.value_factors);
    for ((weights, four), factors) in each {
        let four = exp(add(four, splat(-*most)));
        all = add(all, four);
        *weights = store(mul(four, factors));
    }
    *norm = *norm * shrink + total(all);
    for (sum, values) in sum.iter_mut().zip(tile.values.chunks_exact(TILE)) {
        for (sum, tile) in sum.iter_mut().zip(weighted(&weights, values)) {
            *sum = mul_add(tile, *sum, splat(shrink));
        }
    }
}

/// Products of a query with all keys of a tile, but for their factors. Every sum has a name: in an array they would lie in memory.
fn scores(query: &[f32], keys: &[[[Lanes; 4]; 2]]) -> [Lanes; 8] {
    let zero = splat(0.0);
    let (mut a, mut b, mut c, mut d) = (zero, zero, zero, zero);
    let (mut e, mut f, mut g, mut h) = (zero, zero, zero, zero);
    for (query, [[k0, k1, k2, k3], [k4, k5, k6, k7]]) in query.iter().zip(keys) {
        let query = splat(*query);
        a = mul_add(a, *k0, query);
        b = mul_add(b, *k1, query);
        c = mul_add(c, *k2, query);
        d = mul_add(d, *k3, query);
        e = mul_add(e, *k4, query);
        f = mul_add(f, *k5, query);
        g = mul_add(g, *k6, query);
        h = mul_add(h, *k7, query);
    }
    [a, b, c, d, e, f, g, h]
}

/// The sum of a step of all values of a tile, each times its weight.
fn weighted(weights: &[f32; TILE], values: &[[Lanes; 4]]) -> [Lanes; 4] {
    let zero = splat(0.0);
    let (mut a, mut b, mut c, mut d) = (zero, zero, zero, zero);
    let (mut e, mut f, mut g, mut h) = (zero, zero, zero, zero);
    for ([even, odd], [[v0, v1, v2, v3], [v4, v5, v6, v7]]) in
        weights.as_chunks().0.iter().zip(values.as_chunks().0)
    {
        let (even, odd) = (splat(*even), splat(*odd));
        a = mul_add(a, *v0, even);
        b = mul_add(b, *v1, even);
        c = mul_add(c, *v2, even);
        d = mul_add(d, *v3, even);
        e = mul_add(e, *v4, odd);
        f = mul_add(f, *v5, odd);
        g = mul_add(g, *v6, odd);
        h = mul_add(h, *v7, odd);
    }
    [add(a, e), add(b, f), add(c, g), add(d, h)]
}
