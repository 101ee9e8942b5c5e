//! What works row by row: RMSNorm and the activation.

use bise::kernels::{self, BatchUniform, Sizes};
use bise::reference;

use super::common::{Runner, Tolerance, bytes, check, random_rows, uniform};
use crate::common::Random;

#[test]
fn rms_norm() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 11;
    let mut random = Random::new(seed);
    let rows = [
        (1, 1, 0),
        (3, 2, 1),
        (15, 70, 0),
        (16, 5, 1),
        (17, 31, 0),
        (69, 3, 0),
        (192, 2, 0),
        (576, 2, 0),
        (2050, 4, 1),
        (4096, 3, 0),
        (4099, 2, 0),
    ];
    for ((width, tokens, last), sizes) in
        rows.into_iter().flat_map(|row| Sizes::ALL.map(|sizes| (row, sizes)))
    {
        let pitch = u32::next_multiple_of(width, 16);
        let batch = BatchUniform { tokens, ..Default::default() };
        let params = kernels::rms_norm::Params { width, pitch: pitch / 4, last, epsilon: 1e-5 };
        let mut x = random_rows(&mut random, tokens, width, pitch);
        // A row of zeros divides by the root of epsilon alone.
        if tokens > 2 {
            x[..pitch as usize].fill(0.0);
        }
        let weight = random_rows(&mut random, 1, width, pitch);
        let y = random_rows(&mut random, tokens + 1, pitch, pitch);
        let contents = [uniform(&batch), uniform(&params), bytes(&x), bytes(&weight), bytes(&y)];
        let rows = if last == 1 { 1 } else { tokens };
        let got = runner.run(kernels::rms_norm::kernel(params.pitch, sizes), &contents, [rows, 1, 1]);
        let mut want = y.clone();
        reference::rms_norm::rms_norm(&batch, &params, &x, &weight, &mut want);
        check(&(seed, width, tokens, last, sizes), &got[0], &want, Tolerance { abs: 1e-6, rel: 1e-5 });
        let padding = &got[0][width as usize..pitch as usize];
        assert!(padding.iter().all(|v| *v == 0.0), "{width}: padding is {padding:?}");
    }
}

#[test]
fn silu_mul() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 12;
    let mut random = Random::new(seed);
    for (width, tokens) in [(1, 1), (15, 3), (16, 70), (33, 2), (257, 5), (1030, 7)] {
        let pitch = u32::next_multiple_of(width, 16);
        let params = kernels::silu_mul::Params { pitch: pitch / 4, padding: [0; 3] };
        let up = random_rows(&mut random, tokens, width, pitch);
        let mut mlp = random_rows(&mut random, tokens + 1, width, pitch);
        for value in &mut mlp {
            *value *= 20.0;
        }
        if width > 4 {
            mlp[..4].copy_from_slice(&[-1e30, -200.0, 200.0, 1e30]);
        }
        let contents = [uniform(&params), bytes(&up), bytes(&mlp)];
        let grid = kernels::silu_mul::grid(params.pitch, tokens);
        let got = runner.run(kernels::silu_mul::kernel(), &contents, grid);
        let mut want = mlp.clone();
        reference::silu_mul::silu_mul(tokens, &params, &up, &mut want);
        check(&(seed, width, tokens), &got[0], &want, Tolerance { abs: 2e-5, rel: 1e-5 });
        let padding = &got[0][width as usize..pitch as usize];
        assert!(padding.iter().all(|v| *v == 0.0), "{width}: padding is {padding:?}");
    }
}
