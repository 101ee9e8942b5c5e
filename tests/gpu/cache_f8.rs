//! Key/value cache of FP8: what is stored, to the bit, and what attention makes of it.

use bise::dtype::{Dtype, decode_e4m3};
use bise::gpu::Kernel;
use bise::kernels::attend::Tiling;
use bise::kernels::attend_many::ManyTiling;
use bise::kernels::attend_one::OneTiling;
use bise::kernels::cache_form::in_f8;
use bise::kernels::weights::Decoder;
use bise::kernels::{self, BatchUniform, Sizes};
use bise::reference::attend::attend_as;
use bise::reference::attend_one::attend_one_as;
use bise::reference::rope_store_f8::{self, decode, row_words};
use bise::steps::{CacheForm, DecoderShape};

use super::common::{Runner, Tolerance, bytes, check, compare, random_rows, uniform};
use crate::common::Random;

#[derive(Clone, Copy, Debug)]
struct Case {
    head_dim: u32,
    heads: u32,
    kv_heads: u32,
    window: Option<u32>,
    position: u32,
    tokens: u32,
}

const fn case(
    head_dim: u32,
    [heads, kv_heads]: [u32; 2],
    window: Option<u32>,
    position: u32,
    tokens: u32,
) -> Case {
    Case { head_dim, heads, kv_heads, window, position, tokens }
}

/// Heads that fill no word, no pair of words, or more than a workgroup has threads; groups of 1 to 9; windows,
/// rolled caches, splits. No cache is beyond 256 KiB.
const CASES: [Case; 13] = [
    case(2, [1, 1], None, 0, 1),
    case(6, [3, 1], Some(1), 33, 7),
    case(30, [8, 2], Some(5), 300, 9),
    case(64, [9, 3], None, 20, 61),
    case(80, [4, 2], Some(50), 333, 37),
    case(514, [2, 1], None, 1, 3),
    case(8, [2, 1], None, 0, 1),
    case(64, [9, 3], Some(100), 1234, 1),
    case(64, [6, 2], None, 699, 1),
    case(128, [8, 1], None, 1000, 1),
    case(128, [4, 4], Some(300), 4321, 1),
    case(256, [4, 2], Some(5), 1000, 1),
    case(10, [9, 1], Some(530), 100_000, 1),
];

fn shape(case: &Case) -> DecoderShape {
    DecoderShape {
        heads: case.heads,
        kv_heads: case.kv_heads,
        head_dim: case.head_dim,
        window: case.window,
        context: case.position + case.tokens + 3,
        max_batch: case.tokens,
        inv_freq: (0..case.head_dim / 2)
            .map(|i| 1e4_f32.powf(-2.0 * i as f32 / case.head_dim as f32))
            .collect(),
        rope_scale: 1.0,
        kv_cache: CacheForm::F8,
        ..Default::default()
    }
}

fn params(case: &Case, shape: &DecoderShape) -> kernels::attend::Params {
    kernels::attend::Params {
        kv_heads: case.kv_heads,
        group: case.heads / case.kv_heads,
        half: case.head_dim / 2,
        qkv_pitch: shape.qkv_width().next_multiple_of(16),
        out_pitch: shape.q_width().next_multiple_of(16),
        slots: shape.cache_slots(),
        window: case.window.unwrap_or(u32::MAX),
        scale: (case.head_dim as f32).powf(-0.5),
    }
}

/// Rows of every finite code in turn, with scales that make 448 about 1.
fn cache(random: &mut Random, shape: &DecoderShape) -> Vec<u32> {
    let words = row_words(shape.head_dim as usize);
    let mut code = 0_u8;
    let mut next = || {
        code = code.wrapping_add(1);
        if code & 0x7f == 0x7f { code & 0x80 } else { code }
    };
    let mut all = Vec::new();
    for _ in 0..shape.cache_slots() * shape.kv_heads {
        all.extend((2..words).map(|_| u32::from_le_bytes([next(), next(), next(), next()])));
        let scale = if random.weight() < 0.0 { 2_f32.powi(-9) } else { 2_f32.powi(-8) };
        all.extend([scale.to_bits(), 0]);
    }
    all
}

fn decoded(words: &[u32], head_dim: u32) -> Vec<f32> {
    let rows = words.chunks_exact(row_words(head_dim as usize));
    rows.flat_map(|row| decode(row, head_dim as usize)).collect()
}

fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|word| word.to_bits()).collect()
}

/// The decoders of E4M3 that may be used here.
fn decoders(runner: &mut Runner) -> Vec<Decoder> {
    runner.decoders().into_iter().filter(|(dtype, _)| *dtype == Dtype::F8E4m3).map(|(_, d)| d).collect()
}

/// A code's neighbours are at most this far, as a share of the value or of the scale.
const STEP: Tolerance = Tolerance { abs: 2e-2, rel: 0.126 };

#[test]
fn rope_store_f8() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 71;
    let mut random = Random::new(seed);
    for case in &CASES {
        let shape = shape(case);
        let pitch = shape.qkv_width().next_multiple_of(16);
        let batch = BatchUniform { tokens: case.tokens, position: case.position, ..Default::default() };
        let params = kernels::rope_store::Params {
            heads: case.heads,
            kv_heads: case.kv_heads,
            half: case.head_dim / 2,
            pitch,
            slots: shape.cache_slots(),
            padding: [0; 3],
        };
        let rope = shape.rope_table(case.position, case.tokens);
        let mut qkv = random_rows(&mut random, case.tokens, pitch, pitch);
        let (mut keys, mut values) = (cache(&mut random, &shape), cache(&mut random, &shape));
        let contents =
            [uniform(&batch), uniform(&params), bytes(&rope), bytes(&qkv), bytes(&keys), bytes(&values)];
        let grid = kernels::rope_store_f8::grid(&shape, case.tokens);
        let got = runner.run(kernels::rope_store_f8::kernel(), &contents, grid);
        rope_store_f8::rope_store_f8(&batch, &params, &rope, &mut qkv, &mut keys, &mut values);
        check(&(seed, case, "qkv"), &got[0], &qkv, Tolerance { abs: 1e-6, rel: 1e-6 });
        // Rotated keys and scaled elements differ by rounding, and so may be on either side of a tie.
        for (got, want, name) in [(&got[1], &keys, "keys"), (&got[2], &values, "values")] {
            let got = words(got);
            check(&(seed, case, name), &decoded(&got, case.head_dim), &decoded(want, case.head_dim), STEP);
            // Division is not the same to the last bit everywhere: scales are near, codes mostly the same.
            let row_words = row_words(case.head_dim as usize);
            let (mut other, codes) = (0, row_words - 2);
            for (got, want) in got.chunks_exact(row_words).zip(want.chunks_exact(row_words)) {
                other += got[..codes].iter().zip(&want[..codes]).filter(|(got, want)| got != want).count();
                let (scale, near) = (f32::from_bits(got[codes]), f32::from_bits(want[codes]));
                assert!((scale - near).abs() <= 1e-6 * near, "{case:?}: a scale of {scale}, not {near}");
            }
            assert!(
                other * 50 <= want.len() + 50,
                "{case:?}, seed {seed}: {other} other words of {}",
                want.len()
            );
        }
    }
}

/// Every code comes from its own value and from all that round to it: ties to the even one, both signs, what
/// is below the smallest, and rows of zeros, of tiny and of huge values.
#[test]
fn values_become_the_nearest_codes() {
    let Some(mut runner) = Runner::open() else { return };
    let positive: Vec<f32> = (0..0x7f).map(decode_e4m3).collect();
    let mut row = Vec::new();
    for pair in positive.windows(2) {
        let tie = (pair[0] + pair[1]) / 2.0;
        let [below, above] = [tie.to_bits() - 1, tie.to_bits() + 1].map(f32::from_bits);
        row.extend([pair[0], below, tie, above, pair[1]]);
    }
    row.extend([0.0, f32::MIN_POSITIVE, 1e-6, 448.0, 447.9]);
    let signed: Vec<f32> = row.iter().flat_map(|v| [*v, -v]).collect();
    let head_dim = signed.len() as u32 + 2;
    let rows: Vec<Vec<f32>> = [0, 1, 2, 3, 4, 5]
        .into_iter()
        .map(|kind| {
            let factor = [1.0, 2_f32.powi(-20), 2_f32.powi(90), 0.0, 2_f32.powi(-70), 2_f32.powi(-110)][kind];
            signed.iter().chain(&[448.0, -0.0]).map(|v| v * factor).collect()
        })
        .collect();
    for row in &rows {
        let shape =
            DecoderShape { heads: 1, kv_heads: 1, head_dim, context: 1, max_batch: 1, ..shape(&CASES[0]) };
        let params = kernels::rope_store::Params {
            heads: 1,
            kv_heads: 1,
            half: head_dim / 2,
            pitch: 3 * head_dim,
            slots: 1,
            padding: [0; 3],
        };
        let batch = BatchUniform { tokens: 1, ..Default::default() };
        let rope = vec![[1.0_f32, 0.0]; (head_dim / 2) as usize];
        let qkv = [&row[..], &row[..], &row[..]].concat();
        let empty = vec![0_u32; row_words(head_dim as usize)];
        let contents =
            [uniform(&batch), uniform(&params), bytes(&rope), bytes(&qkv), bytes(&empty), bytes(&empty)];
        let grid = kernels::rope_store_f8::grid(&shape, 1);
        let got = runner.run(kernels::rope_store_f8::kernel(), &contents, grid);
        let want = decode(&rope_store_f8::encode(row), row.len());
        // The sign of a zero is of no consequence.
        assert_eq!(decode(&words(&got[2]), row.len()), want, "values");
        assert_eq!(decode(&words(&got[1]), row.len()), want, "keys that are not turned");
    }
    let codes: std::collections::BTreeSet<u32> = rope_store_f8::encode(&rows[0])
        .iter()
        .take(row_words(head_dim as usize) - 2)
        .flat_map(|word| word.to_le_bytes().map(u32::from))
        .collect();
    assert_eq!(codes.len(), 254, "every finite code");
}

/// One kernel over the cache, with each decoder, against its twin, and not near what the same codes are
/// without their scales.
#[allow(clippy::too_many_arguments, reason = "what a dispatch takes")]
fn attends(
    runner: &mut Runner,
    case: &Case,
    kernel: &Kernel,
    grid: [u32; 3],
    batch: &BatchUniform,
    keys_per_tile: u32,
    random: &mut Random,
) {
    let shape = shape(case);
    let (params, one) = (params(case, &shape), kernel.name == "attend_one");
    let rope = shape.rope_table(case.position, case.tokens);
    let qkv: Vec<f32> = random_rows(random, case.tokens, params.qkv_pitch, params.qkv_pitch)
        .iter()
        .map(|v| v * 4.0)
        .collect();
    let stored = [cache(random, &shape), cache(random, &shape)];
    let out = random_rows(random, case.tokens, params.out_pitch, params.out_pitch);
    let pieces = random_rows(random, case.tokens * case.heads, batch.splits * (case.head_dim + 2), 0);
    let twin = |[mut keys, mut values]: [Vec<u32>; 2]| {
        let (mut out, mut pieces) = (out.clone(), pieces.clone());
        let (keys, values, tile) = (&mut keys, &mut values, keys_per_tile);
        let form = CacheForm::F8;
        if one {
            attend_one_as(form, batch, &params, &rope, &qkv, keys, values, &mut out, &mut pieces, tile);
        } else {
            attend_as(form, batch, &params, &qkv, keys, values, &mut out, &mut pieces, tile);
        }
        [keys.clone(), values.clone()]
            .map(|cache| decoded(&cache, case.head_dim))
            .into_iter()
            .chain([out, pieces])
    };
    let want: Vec<Vec<f32>> = twin(stored.clone()).collect();
    // One of the decoders: compiling is what this test takes its time for.
    let decoders = decoders(runner);
    let decoder = decoders[random.below(decoders.len() as u64) as usize];
    let kernel = in_f8(kernel.clone(), decoder);
    let mut contents = vec![uniform(batch), uniform(&params)];
    if one {
        contents.push(bytes(&rope));
    }
    contents.extend([bytes(&qkv), bytes(&stored[0]), bytes(&stored[1]), bytes(&out)]);
    if kernel.name != "attend_many" {
        contents.push(bytes(&pieces));
    }
    let mut got = runner.run(kernel.clone(), &contents, grid);
    let what = (case, kernel.name, decoder, batch.splits);
    // A token's own key and value, rounded to FP8 on either side of a tie, weigh as much as one key.
    let mut tolerance = Tolerance { abs: 2e-5, rel: 1e-4 };
    if one {
        tolerance = Tolerance { abs: 1e-2, rel: 2e-2 };
        for (cache, want) in got.drain(..2).zip(&want) {
            check(&(what, "stored"), &decoded(&words(&cache), case.head_dim), want, STEP);
        }
    }
    check(&(what, "attn_out"), &got[0], &want[2], tolerance);
    if let Some(pieces) = got.get(1) {
        check(&(what, "pieces"), pieces, &want[3], tolerance);
    }
    // The comparison sees a cache whose scales are lost.
    let unscaled = stored.clone().map(|mut cache| {
        let rows = cache.chunks_exact_mut(row_words(case.head_dim as usize));
        rows.for_each(|row| row[row.len() - 2] = 2_f32.powi(-8).to_bits());
        cache
    });
    let at = usize::from(batch.splits > 1);
    let wrong: Vec<Vec<f32>> = twin(unscaled).collect();
    let few = case.position + case.tokens < 8 || case.window.is_some_and(|window| window < 8);
    assert!(few || compare(&got[at], &wrong[2 + at], tolerance).is_err(), "{what:?}: scales do not count");
}

#[test]
fn attention_reads_it() {
    let Some(mut runner) = Runner::open() else { return };
    let mut random = Random::new(72);
    let (mut ones, mut manys, mut most_splits) = (0, 0, 0);
    for (case, sizes) in Sizes::ALL.into_iter().flat_map(|sizes| CASES.iter().map(move |case| (case, sizes)))
    {
        let shape = shape(case);
        let prompt = case.tokens > 1;
        let batch = |splits, tiles_per_split| BatchUniform {
            tokens: case.tokens,
            position: case.position,
            splits,
            tiles_per_split,
        };
        let tiling = Tiling::new(&shape, prompt, sizes);
        let (splits, tiles) = tiling.splits(&shape, case.position, case.tokens, prompt);
        most_splits = most_splits.max(splits);
        let grid = tiling.grid(&shape, case.tokens, splits);
        let kernel = tiling.kernel(&shape);
        attends(&mut runner, case, &kernel, grid, &batch(splits, tiles), tiling.keys, &mut random);
        // The brief one stands beside those for GPUs.
        let brief = ManyTiling::brief(&shape).filter(|_| sizes == Sizes::Gpu);
        for many in ManyTiling::new(&shape, sizes).into_iter().chain(brief) {
            manys += 1;
            let grid = many.grid(&shape, case.tokens);
            attends(&mut runner, case, &many.kernel(), grid, &batch(1, 0), 1, &mut random);
        }
        if let Some(one) = OneTiling::new(&shape, sizes).filter(|_| case.tokens == 1) {
            ones += 1;
            let (splits, tiles) = one.tiling.splits(&shape, case.position, 1, false);
            let grid = one.grid(&shape, splits);
            let kernel = one.kernel(&shape);
            attends(&mut runner, case, &kernel, grid, &batch(splits, tiles), one.tiling.keys, &mut random);
        }
    }
    assert!(ones >= 10 && manys >= 18 && most_splits > 1, "{ones} {manys} {most_splits}");
}
