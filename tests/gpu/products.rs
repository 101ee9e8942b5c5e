//! Products with weights and the embedding: every dtype and decoder over ragged sizes.

use bise::dtype::Dtype;
use bise::gpu::LimitChoice;
use bise::kernels::weights::{Decoder, per_load};
use bise::kernels::{self, BatchUniform, Sizes, Threads, Tile, linear};
use bise::reference;
use bise::reference::weights::Weights;
use bise::steps::{MatrixSpec, Write};

use super::common::{
    Runner, Tolerance, bytes, check, compare, padded_weights, random_rows, random_weights, uniform,
};
use crate::common::Random;

#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) rows: u32,
    pub(super) cols: u32,
    pub(super) tokens: u32,
    /// Columns per scale; 0: none.
    pub(super) scale_cols: u32,
    pub(super) write: Write,
    /// Row of the whole matrix at which this part starts.
    pub(super) first_row: u32,
}

pub(super) const fn case(rows: u32, cols: u32, tokens: u32, scale_cols: u32, write: Write) -> Case {
    Case { rows, cols, tokens, scale_cols, write, first_row: 0 }
}

/// Between them: one row, one column, columns that fill no load, rows that fill no group of four or
/// tile of 64, every count of lanes, tokens that fill no tile of 32, all granularities of scales.
const CASES: [Case; 14] = [
    case(1, 1, 1, 0, Write::Set),
    case(2, 3, 2, 3, Write::Add),
    case(3, 15, 1, 0, Write::Set),
    case(4, 16, 5, 16, Write::Set),
    case(5, 17, 3, 16, Write::Set),
    case(7, 31, 1, 32, Write::Add),
    case(9, 33, 33, 32, Write::Add),
    case(63, 47, 31, 47, Write::Set),
    Case { first_row: 12, ..case(65, 64, 1, 0, Write::Add) },
    case(64, 130, 2, 130, Write::Set),
    case(70, 257, 70, 128, Write::Set),
    Case { first_row: 4, ..case(33, 300, 1, 300, Write::Set) },
    case(6, 1030, 1, 128, Write::Add),
    case(11, 2049, 2, 0, Write::Set),
];

/// Whether a dtype's products by this decoder are run with all that tuning may choose. How threads share a row depends on
/// how many columns a load has, of which these have each number, and on nothing else of a dtype; compiling takes longer
/// than running.
fn is_walked(dtype: Dtype, decoder: Decoder) -> bool {
    decoder == Decoder::Safe && matches!(dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F8E4m3)
}

/// What a dtype and decoder are for where nothing was tuned: integer products for adapters that compute on the CPU.
fn untuned(decoder: Decoder) -> &'static [Sizes] {
    if decoder == Decoder::Products { &[Sizes::Cpu] } else { &Sizes::ALL }
}

/// All cases: with every choice of threads for some, with the untuned ones for others. Where the device has subgroups of
/// `fold` threads or more, untuned sums meet there, and of all choices every second one's: of BF16 the other ones'.
pub(super) fn cases(
    dtype: Dtype,
    decoder: Decoder,
    fold: u32,
) -> impl Iterator<Item = (&'static Case, Threads)> {
    let threads: Vec<Threads> = if is_walked(dtype, decoder) {
        let all = Sizes::ALL.iter().flat_map(|sizes| Threads::candidates(*sizes));
        let folds = if dtype == Dtype::Bf16 { [0, fold] } else { [fold, 0] };
        all.zip(folds.into_iter().cycle()).map(|(threads, fold)| threads.within(fold)).collect()
    } else {
        untuned(decoder).iter().map(|sizes| Threads::of(*sizes).within(fold)).collect()
    };
    threads.into_iter().flat_map(|threads| CASES.iter().map(move |case| (case, threads)))
}

/// Every third of [`cases`] where there are many: in the end each case, each choice of threads and each dtype are there.
fn some_cases(dtype: Dtype, decoder: Decoder, fold: u32) -> impl Iterator<Item = (&'static Case, Threads)> {
    cases(dtype, decoder, fold).step_by(if is_walked(dtype, decoder) { 3 } else { 1 })
}

/// All cases: with every tile for one dtype and decoder, with the untuned ones for the others. A tile walks all dtypes
/// alike.
pub(super) fn tiled_cases(dtype: Dtype, decoder: Decoder) -> impl Iterator<Item = (&'static Case, Tile)> {
    let tiles: Vec<Tile> = if (dtype, decoder) == (Dtype::F8E4m3, Decoder::Safe) {
        Sizes::ALL.iter().flat_map(|sizes| Tile::candidates(*sizes)).copied().collect()
    } else {
        untuned(decoder).iter().map(|sizes| Tile::of(*sizes)).collect()
    };
    tiles.into_iter().flat_map(|tile| CASES.iter().map(move |case| (case, tile)))
}

pub(super) struct Inputs {
    pub(super) spec: MatrixSpec,
    pub(super) batch: BatchUniform,
    pub(super) params: linear::Params,
    pub(super) x: Vec<f32>,
    pub(super) weights: Vec<u8>,
    pub(super) scales: Vec<f32>,
    pub(super) y: Vec<f32>,
}

pub(super) fn scale_blocks(case: &Case) -> u32 {
    if case.scale_cols == 0 { 0 } else { case.cols.div_ceil(case.scale_cols) }
}

pub(super) fn scales(random: &mut Random, case: &Case) -> Vec<f32> {
    // Even without scales something must be bound.
    let count = (case.rows * scale_blocks(case)).max(4);
    (0..count).map(|_| 1.5 + random.weight()).collect()
}

pub(super) fn inputs(random: &mut Random, dtype: Dtype, case: &Case) -> Inputs {
    let spec = MatrixSpec {
        label: "w".into(),
        rows: case.rows,
        cols: case.cols,
        dtype,
        scale_cols: case.scale_cols,
    };
    let x_pitch = case.cols.next_multiple_of(16);
    let y_pitch = (case.first_row + case.rows).next_multiple_of(16) + 16;
    let batch = BatchUniform { tokens: case.tokens, ..Default::default() };
    let packed = random_weights(random, dtype, case.rows, case.cols);
    Inputs {
        batch,
        params: linear::Params {
            first_row: case.first_row,
            rows: case.rows,
            loads: case.cols.div_ceil(per_load(dtype)),
            x_pitch: x_pitch / 4,
            y_pitch,
            scale_blocks: scale_blocks(case),
            loads_per_block: linear::loads_per_block(&spec),
            single: 0,
            add: u32::from(case.write == Write::Add),
            padding: [0; 3],
        },
        spec,
        x: random_rows(random, case.tokens, case.cols, x_pitch),
        weights: padded_weights(&packed, dtype, case.rows, case.cols),
        scales: scales(random, case),
        // Not zero: what must not be written shows.
        y: random_rows(random, case.tokens, y_pitch, y_pitch),
    }
}

/// Sums of `cols` products of magnitude 1 in f32.
pub(super) fn tolerance(cols: u32) -> Tolerance {
    Tolerance { abs: 1e-6 * (cols as f32).sqrt() + 1e-6, rel: 1e-5 }
}

impl Inputs {
    pub(super) fn contents(&self) -> [&[u8]; 6] {
        let [batch, params] = [uniform(&self.batch), uniform(&self.params)];
        [batch, params, bytes(&self.x), &self.weights, bytes(&self.scales), bytes(&self.y)]
    }
}

#[test]
fn matvec() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 1;
    let mut random = Random::new(seed);
    let fold = runner.fold();
    for (dtype, decoder) in runner.decoders() {
        for (case, threads) in cases(dtype, decoder, fold) {
            let i = inputs(&mut random, dtype, case);
            let kernel = kernels::matvec::kernel(&i.spec, decoder, threads).unwrap();
            let grid = kernels::matvec::grid(&i.spec, case.rows, case.tokens, threads);
            let got = runner.run(kernel, &i.contents(), grid);
            let mut want = i.y.clone();
            let weights = Weights::new(dtype, &i.weights).unwrap();
            reference::matvec::matvec(&i.batch, &i.params, &i.x, weights, &i.scales, &mut want);
            check(&(seed, dtype, decoder, case, threads), &got[0], &want, tolerance(case.cols));
        }
    }
}

/// Rows of x, 16 columns wide or more, as a norm's readers take them in; `gained`, `squares`.
pub(super) fn for_readers(
    batch: &BatchUniform,
    x_pitch: u32,
    last: u32,
    x: &[f32],
    weight: &[f32],
) -> [Vec<f32>; 2] {
    let params = kernels::gain::Params { pitch: x_pitch, last, padding: [0; 2] };
    let rows = if last == 1 { 1 } else { batch.tokens };
    // What must not be written shows.
    let mut gained = vec![7.0; (batch.tokens * x_pitch * 4) as usize];
    let mut squares = vec![0.0; (rows * x_pitch) as usize];
    reference::gain::gain(batch, &params, x, weight, &mut gained, &mut squares);
    [gained, squares]
}

/// What a norm's readers take in is what makes the norm.
#[test]
fn gain() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 5;
    let mut random = Random::new(seed);
    for (width, tokens, last) in [(1, 1, 0), (15, 2, 1), (16, 3, 0), (33, 5, 1), (576, 8, 0), (1030, 2, 1)] {
        let pitch = u32::next_multiple_of(width, 16);
        let batch = BatchUniform { tokens, ..Default::default() };
        let x = random_rows(&mut random, tokens, width, pitch);
        let weight = random_rows(&mut random, 1, width, pitch);
        let [gained, squares] = for_readers(&batch, pitch / 4, last, &x, &weight);
        let params = kernels::gain::Params { pitch: pitch / 4, last, padding: [0; 2] };
        let untouched = (vec![7.0_f32; gained.len()], vec![0.0_f32; squares.len()]);
        let contents = [
            uniform(&batch),
            uniform(&params),
            bytes(&x),
            bytes(&weight),
            bytes(&untouched.0),
            bytes(&untouched.1),
        ];
        let grid = kernels::gain::grid(pitch, if last == 1 { 1 } else { tokens });
        let got = runner.run(kernels::gain::kernel(), &contents, grid);
        let what = (seed, width, tokens, last);
        check(&what, &got[0], &gained, Tolerance { abs: 0.0, rel: 2e-7 });
        check(&what, &got[1], &squares, Tolerance { abs: 1e-12, rel: 2e-6 });
        // The twin against the norm itself.
        let norm = kernels::rms_norm::Params { width, pitch: pitch / 4, last, epsilon: 1e-5 };
        let mut normed = vec![0.0; x.len()];
        reference::rms_norm::rms_norm(&batch, &norm, &x, &weight, &mut normed);
        let rows = if last == 1 { 1 } else { tokens as usize };
        for row in 0..rows {
            let sum: f32 = got[1][row * pitch as usize / 4..][..pitch as usize / 4].iter().sum();
            let scale = 1.0 / (sum / width as f32 + 1e-5).sqrt();
            let at = row * pitch as usize..row * pitch as usize + width as usize;
            let made: Vec<f32> = got[0][at.clone()].iter().map(|v| v * scale).collect();
            check(&what, &made, &normed[at], Tolerance { abs: 1e-9, rel: 1e-5 });
        }
    }
}

/// Behind a norm: rows of x of all magnitudes, the first one alone as before the head.
#[test]
fn matvec_scaled() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 5;
    let mut random = Random::new(seed);
    let fold = runner.fold();
    for (dtype, decoder) in runner.decoders() {
        for ((case, threads), single) in some_cases(dtype, decoder, fold).zip([0, 1].into_iter().cycle()) {
            let mut i = inputs(&mut random, dtype, case);
            i.params.single = single;
            let magnitude = [1.0, 1e-4, 300.0][case.rows as usize % 3];
            i.x.iter_mut().for_each(|v| *v *= magnitude);
            let weight = vec![1.0; i.x.len()];
            let [_, squares] = for_readers(&i.batch, i.params.x_pitch, 0, &i.x, &weight);
            let epsilon = 1e-5;
            let kernel = kernels::matvec::scaled(&i.spec, decoder, threads, epsilon).unwrap();
            let rows = if single == 1 { 1 } else { case.tokens };
            let grid = kernels::matvec::grid(&i.spec, case.rows, rows, threads);
            let mut contents = i.contents().to_vec();
            contents.push(bytes(&squares));
            let got = runner.run(kernel, &contents, grid);
            let want = |epsilon: f32, squares: &[f32]| {
                let (mut y, norm) = (i.y.clone(), (case.cols, epsilon));
                let weights = Weights::new(dtype, &i.weights).unwrap();
                reference::matvec::scaled(
                    &i.batch, &i.params, norm, &i.x, weights, &i.scales, &mut y, squares,
                );
                y
            };
            let tolerance = Tolerance { abs: 4.0 * tolerance(case.cols).abs, rel: 1e-5 };
            let what = (seed, dtype, decoder, case, threads, single);
            check(&what, &got[0], &want(epsilon, &squares), tolerance);
            // The comparison sees a norm of its own making, and a square that is off.
            let mut other = squares.clone();
            other[0] += squares.iter().take(i.params.x_pitch as usize).sum::<f32>() + epsilon;
            for wrong in [want(0.1 * magnitude * magnitude, &squares), want(epsilon, &other)] {
                assert!(compare(&got[0], &wrong, tolerance).is_err(), "{what:?}");
            }
        }
    }
}

/// In front of a norm: what its readers take in lies beside y, for the rows of this part and no others.
#[test]
fn matvec_gaining() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 6;
    let mut random = Random::new(seed);
    let fold = runner.fold();
    for (dtype, decoder) in runner.decoders() {
        for (case, threads) in some_cases(dtype, decoder, fold) {
            let i = inputs(&mut random, dtype, case);
            let pitch = i.params.y_pitch;
            let gain = random_rows(&mut random, 1, pitch, pitch);
            let (gained, squares) = (
                random_rows(&mut random, case.tokens, pitch, pitch),
                vec![7.0; (case.tokens * pitch / 4) as usize],
            );
            let kernel = kernels::matvec::gaining(&i.spec, decoder, threads).unwrap();
            let grid = kernels::matvec::grid(&i.spec, case.rows, case.tokens, threads);
            let mut contents = i.contents().to_vec();
            contents.extend([bytes(&gain), bytes(&gained), bytes(&squares)]);
            let got = runner.run(kernel, &contents, grid);
            let mut want = [i.y.clone(), gained, squares];
            let [y, gained, squares] = &mut want;
            let weights = Weights::new(dtype, &i.weights).unwrap();
            let left = (&gain[..], &mut gained[..], &mut squares[..]);
            reference::matvec::gaining(&i.batch, &i.params, &i.x, weights, &i.scales, y, left);
            let what = (seed, dtype, decoder, case, threads);
            let off = tolerance(case.cols);
            check(&what, &got[0], &want[0], off);
            check(&what, &got[1], &want[1], off);
            // Of so many squares, each of a value that is off by so much.
            let most = want[0].iter().fold(1.0_f32, |most, v| most.max(v.abs()));
            let of_squares = Tolerance { abs: 8.0 * most * off.abs, rel: 4e-5 };
            check(&what, &got[2], &want[2], of_squares);
        }
    }
}

#[test]
fn matmul() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 2;
    let mut random = Random::new(seed);
    for (dtype, decoder) in runner.decoders() {
        for (case, tile) in tiled_cases(dtype, decoder) {
            let mut i = inputs(&mut random, dtype, case);
            let kernel = kernels::matmul::kernel(&i.spec, decoder, tile).unwrap();
            let grid = kernels::matmul::grid(case.rows, case.tokens, tile);
            let got = runner.run(kernel.clone(), &i.contents(), grid);
            let mut want = i.y.clone();
            let weights = Weights::new(dtype, &i.weights).unwrap();
            reference::matmul::matmul(&i.batch, &i.params, &i.x, weights, &i.scales, &mut want);
            check(&(seed, dtype, decoder, case, tile), &got[0], &want, tolerance(case.cols));

            // A token's result does not depend on those beside it.
            let last = case.tokens - 1;
            i.batch.tokens = 1;
            i.x.drain(..(last * i.params.x_pitch * 4) as usize);
            i.y.drain(..(last * i.params.y_pitch) as usize);
            let alone = runner.run(kernel, &i.contents(), kernels::matmul::grid(case.rows, 1, tile));
            let together = &got[0][(last * i.params.y_pitch) as usize..];
            assert_eq!(alone[0], together, "{:?}", (seed, dtype, decoder, case, tile));
        }
    }
}

#[test]
fn embed() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 4;
    let mut random = Random::new(seed);
    for (dtype, decoder) in runner.decoders() {
        for case in &CASES {
            let i = inputs(&mut random, dtype, case);
            let pitch = i.params.x_pitch;
            let params = kernels::embed::Params {
                first_row: case.first_row,
                rows: case.rows,
                loads: i.params.loads,
                pitch,
                scale_blocks: i.params.scale_blocks,
                loads_per_block: i.params.loads_per_block,
                width: case.cols,
                padding: 0,
            };
            // The first id lies in this part, the others perhaps not: before it, or behind.
            let below = u64::from(case.first_row + case.rows + 3);
            let mut ids: Vec<u32> = (0..case.tokens).map(|_| random.below(below) as u32).collect();
            ids[0] = case.first_row + case.rows - 1;
            let x = random_rows(&mut random, case.tokens, pitch * 4, pitch * 4);
            let kernel = kernels::embed::kernel(&i.spec, decoder).unwrap();
            let contents = [uniform(&params), bytes(&ids), &i.weights, bytes(&i.scales), bytes(&x)];
            let got = runner.run(kernel, &contents, kernels::embed::grid(i.params.loads, case.tokens));
            let mut want = x.clone();
            let weights = Weights::new(dtype, &i.weights).unwrap();
            reference::embed::embed(case.tokens, &params, &ids, weights, &i.scales, &mut want);
            check(&(seed, dtype, decoder, case), &got[0], &want, Tolerance { abs: 0.0, rel: 2e-7 });
        }
    }
}

/// More groups of rows than one dimension of a dispatch holds.
#[test]
fn matvec_folds_its_grid() {
    // Every device has WebGPU's default limits, whatever the environment restricts the others to.
    let Some(mut runner) = Runner::with(LimitChoice::Default) else { return };
    // Eight lanes a row: 32 rows to a workgroup.
    let rows = 65_535 * 32 + 37;
    let spec = MatrixSpec { label: "w".into(), rows, cols: 1, dtype: Dtype::F8E5m2, scale_cols: 0 };
    let bytes_needed = u64::from(rows) * 16;
    assert!(runner.gpu.tier().max_binding_bytes >= bytes_needed);
    let batch = BatchUniform { tokens: 1, ..Default::default() };
    let params = linear::Params {
        rows,
        loads: 1,
        x_pitch: 4,
        y_pitch: rows,
        loads_per_block: 1,
        ..Default::default()
    };
    let mut x = vec![0.0_f32; 16];
    x[0] = 1.0;
    // Row r has weight code r mod 120, all of them finite.
    let mut weights = vec![0_u8; bytes_needed as usize];
    for (row, load) in weights.chunks_exact_mut(16).enumerate() {
        load[0] = (row % 120) as u8;
    }
    let y = vec![-1.0_f32; rows as usize];
    let kernel = kernels::matvec::kernel(&spec, Decoder::Safe, Threads::of(Sizes::Gpu)).unwrap();
    let contents = [uniform(&batch), uniform(&params), bytes(&x), &weights, bytes(&x), bytes(&y)];
    let grid = kernels::matvec::grid(&spec, rows, 1, Threads::of(Sizes::Gpu));
    assert!(grid[2] > 1, "{grid:?}");
    let got = runner.run(kernel, &contents, grid);
    let want: Vec<f32> = (0..rows).map(|row| bise::dtype::decode_e5m2((row % 120) as u8)).collect();
    assert!(got[0] == want, "a row is wrong");
}
