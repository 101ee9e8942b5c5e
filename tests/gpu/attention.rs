//! Rotary embedding, cache and attention: head sizes, groups, windows, rolled caches, splits.

use bise::kernels::attend::Tiling;
use bise::kernels::attend_many::ManyTiling;
use bise::kernels::attend_one::OneTiling;
use bise::kernels::{self, BatchUniform, Sizes};
use bise::reference;
use bise::reference::rope_store::{pack, unpack};
use bise::steps::DecoderShape;

use super::common::{Runner, Tolerance, bytes, check, random_rows, uniform};
use crate::common::Random;

#[derive(Clone, Copy, Debug)]
struct Case {
    head_dim: u32,
    heads: u32,
    kv_heads: u32,
    window: Option<u32>,
    position: u32,
    tokens: u32,
    prompt: bool,
}

const fn prompt(
    head_dim: u32,
    [heads, kv_heads]: [u32; 2],
    window: Option<u32>,
    position: u32,
    tokens: u32,
) -> Case {
    Case { head_dim, heads, kv_heads, window, position, tokens, prompt: true }
}

const fn decode(head_dim: u32, [heads, kv_heads]: [u32; 2], window: Option<u32>, position: u32) -> Case {
    Case { head_dim, heads, kv_heads, window, position, tokens: 1, prompt: false }
}

/// Between them: groups of 1, 2, 3, 4, 8 and 9 query heads, heads that fill no load and heads
/// beyond 512, windows of 1, 5 and 16, caches that have rolled many times, 1 to 32 splits.
const CASES: [Case; 20] = [
    prompt(2, [1, 1], None, 0, 1),
    prompt(4, [2, 1], None, 0, 70),
    prompt(6, [3, 1], Some(1), 33, 7),
    prompt(30, [8, 2], Some(5), 300, 9),
    prompt(32, [8, 2], Some(16), 990, 10),
    prompt(64, [8, 1], None, 37, 13),
    prompt(80, [9, 1], Some(16), 100, 5),
    prompt(128, [2, 2], None, 3, 6),
    prompt(256, [2, 1], Some(5), 11, 4),
    prompt(514, [2, 1], None, 1, 3),
    prompt(2048, [1, 1], Some(5), 9, 2),
    decode(32, [4, 4], None, 0),
    decode(30, [9, 1], Some(1), 700),
    decode(80, [3, 1], Some(16), 31),
    decode(256, [4, 2], Some(5), 1000),
    decode(514, [2, 2], None, 20),
    decode(64, [6, 2], None, 699),
    decode(128, [8, 1], Some(300), 4321),
    decode(6, [9, 1], Some(530), 100_000),
    decode(2, [2, 1], None, 9000),
];

/// Heads of one load, of loads that do not divide a workgroup, and of more than one has threads; queries that do
/// not divide into workgroups; rolled caches, windows that begin inside a tile, one key and many splits. No cache is beyond the 256 KiB that the
/// smallest device of these tests binds.
const ONE_CASES: [Case; 11] = [
    decode(8, [2, 1], None, 0),
    decode(8, [2, 1], None, 9000),
    decode(40, [5, 1], Some(40), 300),
    decode(32, [4, 4], None, 5),
    decode(32, [3, 1], None, 4000),
    decode(64, [9, 3], Some(100), 1234),
    decode(80, [3, 1], Some(16), 31),
    decode(128, [8, 1], None, 1000),
    decode(128, [8, 1], Some(300), 4321),
    decode(256, [4, 2], Some(5), 1000),
    decode(512, [2, 2], None, 120),
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
        ..Default::default()
    }
}

fn cache(random: &mut Random, shape: &DecoderShape) -> Vec<u32> {
    let words = shape.cache_slots() * shape.kv_width() / 2;
    (0..words).map(|_| pack(random.weight(), random.weight())).collect()
}

fn unpacked(words: &[f32]) -> Vec<f32> {
    words.iter().flat_map(|word| unpack(word.to_bits())).collect()
}

#[test]
fn rope_store() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 21;
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
        // A value that f16 does not hold is stored as the largest that it does.
        qkv[(shape.q_width() + shape.kv_width()) as usize] = -1e6;
        let (mut keys, mut values) = (cache(&mut random, &shape), cache(&mut random, &shape));
        let contents =
            [uniform(&batch), uniform(&params), bytes(&rope), bytes(&qkv), bytes(&keys), bytes(&values)];
        let grid = kernels::rope_store::grid(&shape, case.tokens);
        let got = runner.run(kernels::rope_store::kernel(), &contents, grid);
        reference::rope_store::rope_store(&batch, &params, &rope, &mut qkv, &mut keys, &mut values);
        check(&(seed, case, "qkv"), &got[0], &qkv, Tolerance { abs: 1e-6, rel: 1e-6 });
        for (got, want, name) in [(&got[1], &keys, "keys"), (&got[2], &values, "values")] {
            let want: Vec<f32> = want.iter().flat_map(|word| unpack(*word)).collect();
            // WGSL leaves open which of the two nearest f16 a value becomes.
            check(&(seed, case, name), &unpacked(got), &want, Tolerance { abs: 1e-6, rel: 1e-3 });
        }
    }
}

#[test]
fn attend() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 22;
    let mut random = Random::new(seed);
    let mut most_splits = 0;
    for (case, sizes) in Sizes::ALL.into_iter().flat_map(|sizes| CASES.iter().map(move |case| (case, sizes)))
    {
        let shape = shape(case);
        let tiling = Tiling::new(&shape, case.prompt, sizes);
        let (splits, tiles_per_split) = tiling.splits(&shape, case.position, case.tokens, case.prompt);
        assert!(splits <= tiling.most_splits(&shape), "{case:?}");
        most_splits = most_splits.max(splits);
        let batch = BatchUniform { tokens: case.tokens, position: case.position, splits, tiles_per_split };
        let params = kernels::attend::Params {
            kv_heads: case.kv_heads,
            group: case.heads / case.kv_heads,
            half: case.head_dim / 2,
            qkv_pitch: shape.qkv_width().next_multiple_of(16),
            out_pitch: shape.q_width().next_multiple_of(16),
            slots: shape.cache_slots(),
            window: case.window.unwrap_or(u32::MAX),
            scale: (case.head_dim as f32).powf(-0.5),
        };
        // Large enough queries for a softmax that has favourites.
        let mut qkv = random_rows(&mut random, case.tokens, params.qkv_pitch, params.qkv_pitch);
        for value in &mut qkv {
            *value *= 4.0;
        }
        let (keys, values) = (cache(&mut random, &shape), cache(&mut random, &shape));
        let mut attn_out = random_rows(&mut random, case.tokens, params.out_pitch, params.out_pitch);
        let mut pieces = random_rows(&mut random, case.tokens * case.heads, splits * (case.head_dim + 2), 0);
        let contents = [
            uniform(&batch),
            uniform(&params),
            bytes(&qkv),
            bytes(&keys),
            bytes(&values),
            bytes(&attn_out),
            bytes(&pieces),
        ];
        let got = runner.run(tiling.kernel(&shape), &contents, tiling.grid(&shape, case.tokens, splits));
        reference::attend::attend(
            &batch,
            &params,
            &qkv,
            &keys,
            &values,
            &mut attn_out,
            &mut pieces,
            tiling.keys,
        );
        let tolerance = Tolerance { abs: 2e-5, rel: 1e-4 };
        check(&(seed, case, tiling, splits, "attn_out"), &got[0], &attn_out, tolerance);
        check(&(seed, case, tiling, splits, "pieces"), &got[1], &pieces, tolerance);
    }
    assert!(most_splits > 16, "{most_splits}");
}

/// Beside those above: heads of one load, of ten, of more than one has threads; tokens beyond a workgroup's
/// queries, windows that begin inside a tile, rolled caches. No cache is beyond 256 KiB.
const MANY_CASES: [Case; 6] = [
    prompt(8, [3, 1], None, 0, 100),
    prompt(64, [9, 3], None, 20, 61),
    prompt(80, [4, 2], Some(50), 333, 37),
    prompt(128, [8, 2], Some(70), 777, 23),
    prompt(128, [4, 1], None, 600, 9),
    prompt(256, [2, 1], Some(100), 150, 40),
];

#[test]
fn attend_many() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 25;
    let mut random = Random::new(seed);
    let mut served = 0;
    let cases = || CASES.iter().filter(|case| case.prompt).chain(&MANY_CASES);
    let cuts = |shape: &DecoderShape| {
        Sizes::ALL.map(|sizes| ManyTiling::new(shape, sizes)).into_iter().chain([ManyTiling::brief(shape)])
    };
    let cut = |case| cuts(&shape(case)).flatten().map(move |tiling| (case, tiling)).collect::<Vec<_>>();
    for (case, tiling) in cases().flat_map(cut) {
        let shape = shape(case);
        served += 1;
        let params = kernels::attend::Params {
            kv_heads: case.kv_heads,
            group: case.heads / case.kv_heads,
            half: case.head_dim / 2,
            qkv_pitch: shape.qkv_width().next_multiple_of(16),
            out_pitch: shape.q_width().next_multiple_of(16),
            slots: shape.cache_slots(),
            window: case.window.unwrap_or(u32::MAX),
            scale: (case.head_dim as f32).powf(-0.5),
        };
        let qkv: Vec<f32> = random_rows(&mut random, case.tokens, params.qkv_pitch, params.qkv_pitch)
            .iter()
            .map(|v| v * 4.0)
            .collect();
        let (keys, values) = (cache(&mut random, &shape), cache(&mut random, &shape));
        let mut want = random_rows(&mut random, case.tokens, params.out_pitch, params.out_pitch);
        let mut run = |qkv: &[f32], out: &[f32], tokens: u32, position: u32| {
            let batch = BatchUniform { tokens, position, ..Default::default() };
            let contents =
                [uniform(&batch), uniform(&params), bytes(qkv), bytes(&keys), bytes(&values), bytes(out)];
            runner.run(tiling.kernel(), &contents, tiling.grid(&shape, tokens)).swap_remove(0)
        };
        let got = run(&qkv, &want, case.tokens, case.position);
        // A token's result does not depend on those before it in the batch.
        let last = case.tokens - 1;
        let (at, out_at) = ((last * params.qkv_pitch) as usize, (last * params.out_pitch) as usize);
        let alone = run(&qkv[at..], &want[out_at..], 1, case.position + last);
        assert_eq!(alone, &got[out_at..], "{:?}", (seed, case, tiling));
        let batch = BatchUniform { tokens: case.tokens, position: case.position, ..Default::default() };
        reference::attend_many::attend_many(&batch, &params, &qkv, &keys, &values, &mut want);
        check(&(seed, case, tiling), &got, &want, Tolerance { abs: 2e-5, rel: 1e-4 });
    }
    assert!(served >= 27, "{served} cases");
}

#[test]
fn attend_one() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 24;
    let mut random = Random::new(seed);
    let (mut most_splits, mut served) = (0, 0);
    for (case, sizes) in
        Sizes::ALL.into_iter().flat_map(|sizes| ONE_CASES.iter().map(move |case| (case, sizes)))
    {
        let shape = shape(case);
        let Some(one) = OneTiling::new(&shape, sizes) else { continue };
        served += 1;
        let (splits, tiles_per_split) = one.tiling.splits(&shape, case.position, 1, false);
        assert!(splits <= one.tiling.most_splits(&shape), "{case:?}");
        most_splits = most_splits.max(splits);
        let batch = BatchUniform { tokens: 1, position: case.position, splits, tiles_per_split };
        let params = kernels::attend::Params {
            kv_heads: case.kv_heads,
            group: case.heads / case.kv_heads,
            half: case.head_dim / 2,
            qkv_pitch: shape.qkv_width().next_multiple_of(16),
            out_pitch: shape.q_width().next_multiple_of(16),
            slots: shape.cache_slots(),
            window: case.window.unwrap_or(u32::MAX),
            scale: (case.head_dim as f32).powf(-0.5),
        };
        let rope = shape.rope_table(case.position, 1);
        let qkv: Vec<f32> =
            random_rows(&mut random, 1, params.qkv_pitch, params.qkv_pitch).iter().map(|v| v * 4.0).collect();
        let (mut keys, mut values) = (cache(&mut random, &shape), cache(&mut random, &shape));
        let mut attn_out = random_rows(&mut random, 1, params.out_pitch, params.out_pitch);
        let mut pieces = random_rows(&mut random, case.heads, splits * (case.head_dim + 2), 0);
        let contents = [
            uniform(&batch),
            uniform(&params),
            bytes(&rope),
            bytes(&qkv),
            bytes(&keys),
            bytes(&values),
            bytes(&attn_out),
            bytes(&pieces),
        ];
        let got = runner.run(one.kernel(&shape), &contents, one.grid(&shape, splits));
        reference::attend_one::attend_one(
            &batch,
            &params,
            &rope,
            &qkv,
            &mut keys,
            &mut values,
            &mut attn_out,
            &mut pieces,
            one.tiling.keys,
        );
        for (got, want, name) in [(&got[0], &keys, "keys"), (&got[1], &values, "values")] {
            let want: Vec<f32> = want.iter().flat_map(|word| unpack(*word)).collect();
            check(&(seed, case, name), &unpacked(got), &want, Tolerance { abs: 1e-6, rel: 1e-3 });
        }
        // The token's own key is rounded to f16, on either side of a tie.
        let tolerance = Tolerance { abs: 2e-3, rel: 2e-3 };
        check(&(seed, case, one, splits, "attn_out"), &got[2], &attn_out, tolerance);
        check(&(seed, case, one, splits, "pieces"), &got[3], &pieces, tolerance);
    }
    assert!(most_splits > 32 && served > 16, "{most_splits} splits, {served} cases");
}

/// The scratch buffer is sized for the most splits that any position has.
#[test]
fn splits_fit_the_scratch_buffer() {
    for window in [None, Some(1), Some(16), Some(255), Some(300), Some(4096)] {
        for (head_dim, context) in [(128, 1), (2, 255), (64, 1000), (128, 4400), (514, 40_000)] {
            let shape =
                DecoderShape { heads: 8, kv_heads: 2, head_dim, window, context, ..Default::default() };
            let walk = OneTiling::new(&shape, Sizes::Cpu).filter(|one| one.parts == 0);
            let tilings = [Some((Tiling::new(&shape, false, Sizes::Gpu), u32::MAX))];
            // A split that is walked has room for 256 keys.
            let tilings = tilings.into_iter().chain([walk.map(|one| (one.tiling, 256))]);
            for (tiling, room) in tilings.flatten() {
                let most = tiling.most_splits(&shape);
                let tight = (0..context).map(|position| {
                    let (splits, tiles) = tiling.splits(&shape, position, 1, false);
                    let first_key = position - position.min(window.unwrap_or(u32::MAX) - 1);
                    let end = (first_key / tiling.keys + splits * tiles) * tiling.keys;
                    assert!((1..=most).contains(&splits) && end > position, "{shape:?} at {position}");
                    assert!(tiles * tiling.keys <= room, "{shape:?} at {position}: {tiles} tiles");
                    splits
                });
                let reached = tight.max().unwrap();
                assert!(most <= reached + 1, "{shape:?}: {most} splits planned, {reached} reached");
            }
        }
    }
}

#[test]
fn attend_reduce() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 23;
    let mut random = Random::new(seed);
    for (head_dim, heads, splits) in [(2, 1, 2), (6, 9, 3), (64, 3, 7), (128, 4, 32), (514, 2, 2)] {
        let shape = DecoderShape { heads, head_dim, ..Default::default() };
        let batch = BatchUniform { tokens: 1, position: 7, splits, tiles_per_split: 1 };
        let out_pitch = shape.q_width().next_multiple_of(16);
        let params = kernels::attend_reduce::Params { heads, head_dim, out_pitch, padding: 0 };
        let pitch = (head_dim + 2) as usize;
        let mut pieces = random_rows(&mut random, heads * splits, head_dim + 2, 0);
        for (index, piece) in pieces.chunks_exact_mut(pitch).enumerate() {
            piece[pitch - 2] *= 30.0;
            piece[pitch - 1] = piece[pitch - 1].abs() * 50.0 + 1.0;
            // A split that saw no key.
            if index % splits as usize == 1 {
                piece[..pitch - 2].fill(0.0);
                piece[pitch - 2..].copy_from_slice(&[-1e30, 0.0]);
            }
        }
        let mut attn_out = random_rows(&mut random, 1, out_pitch, out_pitch);
        let contents = [uniform(&batch), uniform(&params), bytes(&pieces), bytes(&attn_out)];
        let grid = kernels::attend_reduce::grid(&shape, 1);
        let got = runner.run(kernels::attend_reduce::kernel(), &contents, grid);
        reference::attend_reduce::attend_reduce(&batch, &params, &pieces, &mut attn_out);
        check(&(seed, head_dim, heads, splits), &got[0], &attn_out, Tolerance { abs: 1e-5, rel: 1e-4 });
    }
}
