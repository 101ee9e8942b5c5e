//! Gate, up and activation as one product.

use bise::dtype::Dtype;
use bise::kernels::weights::Decoder;
use bise::kernels::{self, Sizes, Threads, linear};
use bise::reference;
use bise::reference::weights::Weights;
use bise::steps::MatrixSpec;

use super::common::{Runner, Tolerance, bytes, check, padded_weights, random_weights, uniform};
use super::products::{Inputs, cases, for_readers, inputs, scales, tiled_cases, tolerance};
use crate::common::Random;

/// What two matrices like this one have for parameters together.
fn of_pair(p: &linear::Params) -> kernels::matvec_gated::Params {
    kernels::matvec_gated::Params {
        first_row: p.first_row,
        rows: p.rows,
        loads: p.loads,
        x_pitch: p.x_pitch,
        y_pitch: p.y_pitch,
        scale_blocks: p.scale_blocks,
        loads_per_block: p.loads_per_block,
        padding: 0,
    }
}

#[test]
fn matmul_gated() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 5;
    let mut random = Random::new(seed);
    for (dtype, decoder) in runner.decoders() {
        for (case, tile) in tiled_cases(dtype, decoder) {
            let mut i = inputs(&mut random, dtype, case);
            let up_packed = random_weights(&mut random, dtype, case.rows, case.cols);
            let up_weights = padded_weights(&up_packed, dtype, case.rows, case.cols);
            let up_scales = scales(&mut random, case);
            let params = of_pair(&i.params);
            let kernel = kernels::matmul_gated::kernel(&i.spec, decoder, tile).unwrap();
            let mut run = |i: &Inputs| {
                let [batch, _, x, gate, gate_scales, y] = i.contents();
                let contents =
                    [batch, uniform(&params), x, gate, gate_scales, &up_weights, bytes(&up_scales), y];
                let grid = kernels::matmul_gated::grid(case.rows, i.batch.tokens, tile);
                runner.run(kernel.clone(), &contents, grid).swap_remove(0)
            };
            let got = run(&i);
            let mut want = i.y.clone();
            reference::matmul_gated::matmul_gated(
                &i.batch,
                &params,
                &i.x,
                Weights::new(dtype, &i.weights).unwrap(),
                &i.scales,
                Weights::new(dtype, &up_weights).unwrap(),
                &up_scales,
                &mut want,
            );
            let tolerance =
                Tolerance { abs: 8.0 * tolerance(case.cols).abs * (case.cols as f32).sqrt(), rel: 3e-5 };
            check(&(seed, dtype, decoder, case, tile), &got, &want, tolerance);

            // A token's result does not depend on those beside it.
            let last = case.tokens - 1;
            i.batch.tokens = 1;
            i.x.drain(..(last * params.x_pitch * 4) as usize);
            i.y.drain(..(last * params.y_pitch) as usize);
            let together = &got[(last * params.y_pitch) as usize..];
            assert_eq!(run(&i), together, "{:?}", (seed, dtype, decoder, case, tile));
        }
    }
}

#[test]
fn matvec_gated() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 3;
    let mut random = Random::new(seed);
    let fold = runner.fold();
    for (dtype, decoder) in runner.decoders() {
        for (case, threads) in cases(dtype, decoder, fold) {
            let i = inputs(&mut random, dtype, case);
            let up_packed = random_weights(&mut random, dtype, case.rows, case.cols);
            let up_weights = padded_weights(&up_packed, dtype, case.rows, case.cols);
            let up_scales = scales(&mut random, case);
            let params = of_pair(&i.params);
            let epsilon = 1e-5;
            let weight = vec![1.0; i.x.len()];
            let [_, squares] = for_readers(&i.batch, params.x_pitch, 0, &i.x, &weight);
            let kernel = kernels::matvec_gated::kernel(&i.spec, decoder, threads, epsilon).unwrap();
            let grid = kernels::matvec_gated::grid(&i.spec, case.rows, case.tokens, threads);
            let [_, _, x, gate, gate_scales, y] = i.contents();
            let up = [&up_weights, bytes(&up_scales)];
            let contents = [uniform(&params), x, gate, gate_scales, up[0], up[1], bytes(&squares), y];
            let got = runner.run(kernel, &contents, grid);
            let mut want = i.y.clone();
            reference::matvec_gated::matvec_gated(
                case.tokens,
                &params,
                (case.cols, epsilon),
                &i.x,
                Weights::new(dtype, &i.weights).unwrap(),
                &i.scales,
                Weights::new(dtype, &up_weights).unwrap(),
                &up_scales,
                &squares,
                &mut want,
            );
            // A product of two sums: the error of each counts as often as the other is large.
            let tolerance =
                Tolerance { abs: 8.0 * tolerance(case.cols).abs * (case.cols as f32).sqrt(), rel: 3e-5 };
            check(&(seed, dtype, decoder, case, threads), &got[0], &want, tolerance);
        }
    }
}

#[test]
fn matvec_gated_survives_extreme_gates() {
    let Some(mut runner) = Runner::open() else { return };
    let spec = MatrixSpec { label: "w".into(), rows: 4, cols: 4, dtype: Dtype::F32, scale_cols: 0 };
    let gates = [-1e30_f32, -200.0, 200.0, 1e30];
    let weights: Vec<f32> = gates.iter().flat_map(|gate| [*gate, 0.0, 0.0, 0.0]).collect();
    let ups = [1.0_f32; 16];
    let params = kernels::matvec_gated::Params {
        rows: 4,
        loads: 1,
        x_pitch: 4,
        y_pitch: 16,
        loads_per_block: 1,
        ..Default::default()
    };
    let mut x = vec![0.0_f32; 16];
    x[0] = 1.0;
    let y = vec![0.0_f32; 16];
    // A mean square of one in four columns.
    let squares = [4.0_f32, 0.0, 0.0, 0.0];
    let [x, weights, ups, squares, y] = [&x, &weights, &ups[..], &squares[..], &y].map(bytes);
    let contents = [uniform(&params), x, weights, y, ups, y, squares, y];
    let threads = Threads::of(Sizes::Cpu);
    let kernel = kernels::matvec_gated::kernel(&spec, Decoder::Safe, threads, 0.0).unwrap();
    let got = runner.run(kernel, &contents, kernels::matvec_gated::grid(&spec, 4, 1, threads));
    check(&gates, &got[0][..4], &[0.0, 0.0, 200.0, 1e30], Tolerance { abs: 1e-4, rel: 1e-5 });
}
