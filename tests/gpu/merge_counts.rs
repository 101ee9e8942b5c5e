//! What a blend counts as infinite: exactly from where it becomes so, wherever it lies.

use bise::dtype::{Dtype, narrow};
use bise::kernels::blend::{self, Tiny};

use super::common::Runner;
use super::merge_blend::run_blend;
use super::merge_kernels::sabotaged;

/// A pair whose sum is the least that becomes infinite, and one whose sum is still finite.
struct Edge {
    dtype: Dtype,
    out: Dtype,
    infinite: [f32; 2],
    finite: [f32; 2],
}

/// The largest BF16.
const LARGEST: f32 = f32::from_bits(0x7f7f_0000);

fn edges() -> Vec<Edge> {
    let power = |exponent: i32| 2f32.powi(exponent);
    let edge = |dtype, out, infinite, finite| Edge { dtype, out, infinite, finite };
    use Dtype::{Bf16, F16, F32};
    vec![
        edge(F32, F32, [f32::MAX, power(103)], [f32::MAX, power(102)]),
        edge(F32, Bf16, [LARGEST, power(119)], [LARGEST, power(119) - power(104)]),
        edge(F32, F16, [65_504.0, 16.0], [65_504.0, 15.99]),
        edge(Bf16, F32, [LARGEST, LARGEST], [LARGEST, 1.0]),
        edge(Bf16, Bf16, [LARGEST, power(119)], [LARGEST, power(118)]),
        edge(Bf16, F16, [65_280.0, 240.0], [65_280.0, 238.0]),
        edge(F16, F16, [65_504.0, 16.0], [65_504.0, 15.0]),
    ]
}

/// Eight groups of ones, and in each the pair in a place of its own.
fn groups(dtype: Dtype, pair: [f32; 2]) -> [Vec<u8>; 2] {
    pair.map(|value| {
        let values: Vec<f32> = (0..64).map(|at| if at % 8 == at / 8 { value } else { 1.0 }).collect();
        let mut packed = Vec::new();
        narrow(dtype, &values, &mut packed).unwrap();
        packed
    })
}

#[test]
fn blend_counts_what_becomes_infinite() {
    let Some(mut runner) = Runner::open() else { return };
    for Edge { dtype, out, infinite, finite } in edges() {
        for sign in [1.0, -1.0] {
            for tiny in Tiny::ALL {
                let kernel = blend::kernel(dtype, out, tiny).unwrap();
                let mut count = |kernel, pair: [f32; 2]| {
                    let [a, b] = groups(dtype, pair.map(|value| sign * value));
                    let (merged, _) = blend::plain_blend(dtype, [&a, &b], [1.0, 1.0], out).unwrap();
                    let (_, count) = run_blend(&mut runner, kernel, (dtype, out), [&a, &b], [1.0, 1.0]);
                    (u64::from(count), blend::flagged_groups(out, &merged))
                };
                let what = format!("{dtype} -> {out}, {tiny:?}, {sign}");
                assert_eq!(count(kernel.clone(), infinite), (8, 8), "{what}");
                assert_eq!(count(kernel.clone(), finite), (0, 0), "{what}");
                if tiny != Tiny::Kept || sign < 0.0 {
                    continue;
                }
                for (from, to) in [
                    (">= LEAST_INFINITE", "> LEAST_INFINITE"),
                    ("max(low.bits & ones, high.bits & ones)", "low.bits & ones"),
                    ("max(low.bits & ones, high.bits & ones)", "high.bits & ones"),
                    ("max(most.x, most.y)", "most.y"),
                    ("max(most.x, most.y)", "most.x"),
                    ("max(most.z, most.w)", "most.w"),
                    ("max(most.z, most.w)", "most.z"),
                ] {
                    let (got, want) = count(sabotaged(kernel.clone(), from, to), infinite);
                    assert!(got < want, "{what}: {to} passed");
                }
            }
        }
    }
}
