//! The blend of a merge against its twin, and its start-up test against sabotage.

use bise::dtype::{Dtype, find_non_finite, narrow};
use bise::gpu::Kernel;
use bise::kernels::blend;
use bise::kernels::blend::Tiny;
use bise::reference;
use bise::reference::weights::Weights;

use super::common::{Runner, random_weights, uniform};
use super::merge_kernels::{DTYPES, SIZES, is_software, sabotaged};
use crate::common::Random;

/// Whether the start-up test of the blend that leaves what is tiny to the adapter is passed here.
fn keeps(runner: &mut Runner, (dtype, out): (Dtype, Dtype)) -> bool {
    let data = blend::test_data(dtype);
    let packed = [data[0].as_slice(), &data[1]];
    let (want, counted) = blend::plain_blend(dtype, packed, blend::TEST_COEFFICIENTS, out).unwrap();
    let kernel = blend::kernel(dtype, out, Tiny::Kept).unwrap();
    let (got, count) = run_blend(runner, kernel, (dtype, out), packed, blend::TEST_COEFFICIENTS);
    blend::passes(Tiny::Kept, out, &got[..want.len()], u64::from(count), (&want, counted))
}

/// What the kernel makes of packed tensors: codes and count.
pub(super) fn run_blend(
    runner: &mut Runner,
    kernel: Kernel,
    (dtype, out): (Dtype, Dtype),
    packed: [&[u8]; 2],
    [c0, c1]: [f32; 2],
) -> (Vec<u8>, u32) {
    let elements = packed[0].len() as u32 / dtype.size_bytes() as u32;
    let padded = elements.next_multiple_of(blend::GROUP);
    let [a, b] = packed.map(|bytes| in_groups(bytes, dtype));
    let params = blend::Params { groups: padded / blend::GROUP, part: 2, c0, c1, ..Default::default() };
    let merged = vec![0x55; (padded as u64 * out.size_bytes()) as usize];
    let got = runner.run(kernel, &[uniform(&params), &a, &b, &merged, &[0; 16]], blend::grid(elements));
    let counts: Vec<u32> = got[1].iter().map(|count| count.to_bits()).collect();
    assert_eq!((counts[0], counts[1], counts[3]), (0, 0, 0));
    (got[0].iter().flat_map(|word| word.to_bits().to_le_bytes()).collect(), counts[2])
}

/// Padded with zeros to whole groups.
fn in_groups(packed: &[u8], dtype: Dtype) -> Vec<u8> {
    let mut bytes = packed.to_vec();
    bytes.resize(bytes.len().next_multiple_of(dtype.size_bytes() as usize * blend::GROUP as usize), 0);
    bytes
}

fn blend_of_twin((dtype, out): (Dtype, Dtype), packed: [&[u8]; 2], [c0, c1]: [f32; 2]) -> (Vec<u8>, u32) {
    let [a, b] = packed.map(|bytes| in_groups(bytes, dtype));
    let groups = (a.len() as u64 / dtype.size_bytes()) as u32 / blend::GROUP;
    let params = blend::Params { groups, part: 0, c0, c1, ..Default::default() };
    let mut merged = vec![0; (groups * blend::GROUP) as usize * out.size_bytes() as usize];
    let mut non_finite = [0];
    let [a, b] = [Weights::new(dtype, &a).unwrap(), Weights::new(dtype, &b).unwrap()];
    reference::blend::blend(&params, a, b, out, &mut merged, &mut non_finite);
    (merged, non_finite[0])
}

/// Where both products are below 2^-60, and one value at least is not zero.
fn tiny_of(dtype: Dtype, packed: [&[u8]; 2], [c0, c1]: [f32; 2]) -> Vec<usize> {
    let [a, b] = packed.map(|bytes| {
        let mut values = Vec::new();
        bise::dtype::widen(dtype, bytes, &mut values).unwrap();
        values
    });
    let is_tiny = |(_, (x, y)): &(usize, (&f32, &f32))| {
        (c0 * **x).abs() < 2f32.powi(-60) && (c1 * **y).abs() < 2f32.powi(-60) && (**x != 0.0 || **y != 0.0)
    };
    a.iter().zip(&b).enumerate().filter(is_tiny).map(|(at, _)| at).collect()
}

fn first_difference(out: Dtype, got: &[u8], want: &[u8]) -> Option<(usize, String)> {
    let size = out.size_bytes() as usize;
    assert_eq!(got.len(), want.len());
    let mut pairs = got.chunks_exact(size).zip(want.chunks_exact(size)).enumerate();
    pairs
        .find(|(_, (got, want))| got != want)
        .map(|(at, (got, want))| (at, format!("{got:x?}, not {want:x?}")))
}

const COEFFICIENTS: [[f32; 2]; 6] = [
    [1.0, 0.0],
    [0.0, 1.0],
    [0.3, 0.7],
    blend::TEST_COEFFICIENTS,
    [-20.5, 19.75],
    [f32::MIN_POSITIVE, 0.999],
];

#[test]
fn blend_has_the_bits_of_its_twin() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 72;
    let mut random = Random::new(seed);
    let mut some_tiny = false;
    for dtype in DTYPES {
        let edges = blend::test_data(dtype);
        for out in DTYPES {
            let [kernel, counting, keeping] = Tiny::ALL.map(|tiny| blend::kernel(dtype, out, tiny).unwrap());
            let keeps = keeps(&mut runner, (dtype, out));
            let mut compare = |packed: [&[u8]; 2], coefficients: [f32; 2]| {
                let (got, count) = run_blend(&mut runner, kernel.clone(), (dtype, out), packed, coefficients);
                let (want, counted) = blend_of_twin((dtype, out), packed, coefficients);
                let what =
                    format!("{dtype} -> {out}, {coefficients:?}, {} bytes, seed {seed}", packed[0].len());
                assert_eq!(first_difference(out, &got, &want), None, "{what}");
                assert_eq!(count, counted, "{what}");
                assert!(want.iter().any(|byte| *byte != 0), "{what}: nothing to compare");
                let mut corrupted = got;
                corrupted[want.len() / 3] ^= 1;
                assert!(first_difference(out, &corrupted, &want).is_some());
                // The kernel that only counts what is tiny: all else is the same.
                let (mut got, flagged) =
                    run_blend(&mut runner, counting.clone(), (dtype, out), packed, coefficients);
                let size = out.size_bytes() as usize;
                let tiny = tiny_of(dtype, packed, coefficients);
                for at in &tiny {
                    let element = at * size..(at + 1) * size;
                    got[element.clone()].copy_from_slice(&want[element]);
                }
                assert_eq!(first_difference(out, &got, &want), None, "counting, {what}");
                assert_eq!(flagged as usize, counted as usize + tiny.len(), "counting, {what}");
                // And the one that leaves it to the adapter; what is not finite is counted, and may be stored as
                // anything. Where it would not be chosen, what is tiny may be flushed, and zeros' signs with it.
                let keeps = keeps && blend::may_keep(dtype, coefficients);
                let (mut got, groups) =
                    run_blend(&mut runner, keeping.clone(), (dtype, out), packed, coefficients);
                let positive = vec![0; size];
                let is_free = |at: usize, element: &[u8]| {
                    let flushed = tiny.contains(&at) || blend::exact(out, element, &positive);
                    (!keeps && flushed) || !matches!(find_non_finite(out, element), Ok(None))
                };
                let elements = want.chunks_exact(size).enumerate();
                for at in elements.filter(|(at, element)| is_free(*at, element)).map(|(at, _)| at) {
                    let element = at * size..(at + 1) * size;
                    got[element.clone()].copy_from_slice(&want[element]);
                }
                assert_eq!(first_difference(out, &got, &want), None, "keeping, {what}");
                assert_eq!(u64::from(groups), blend::flagged_groups(out, &want), "keeping, {what}");
                some_tiny |= !tiny.is_empty();
                count
            };
            for (elements, coefficients) in SIZES.iter().zip(COEFFICIENTS.iter().cycle()) {
                let [a, b] = [(); 2].map(|()| random_weights(&mut random, dtype, 1, *elements));
                assert_eq!(compare([&a, &b], *coefficients), 0);
            }
            let mut overflowed = 0;
            for coefficients in COEFFICIENTS.into_iter().chain([[blend::LARGEST_COEFFICIENT, 0.25]]) {
                overflowed += compare([&edges[0], &edges[1]], coefficients);
            }
            // Everything but the sum of two F16 overflows somewhere.
            assert!(overflowed > 0 || dtype == Dtype::F16, "{dtype} -> {out}");
        }
        for tiny in Tiny::ALL {
            assert!(blend::kernel(dtype, Dtype::F64, tiny).is_none());
            assert!(blend::kernel(Dtype::F8E4m3, dtype, tiny).is_none());
        }
    }
    assert!(some_tiny);
}

#[test]
fn blend_start_up_test_tells_right_from_wrong() {
    let Some(mut runner) = Runner::open() else { return };
    let products = "let p = opaque4(params.c0 * x, params.zero);";
    let mut keep = Vec::new();
    for dtype in DTYPES {
        let data = blend::test_data(dtype);
        let packed = [data[0].as_slice(), &data[1]];
        let (want, counted) = blend::plain_blend(dtype, packed, blend::TEST_COEFFICIENTS, dtype).unwrap();
        let mut passes = |kernel: Kernel, tiny: Tiny| {
            let (got, count) =
                run_blend(&mut runner, kernel, (dtype, dtype), packed, blend::TEST_COEFFICIENTS);
            assert!(got.len() - want.len() < 32);
            blend::passes(tiny, dtype, &got[..want.len()], u64::from(count), (&want, counted))
        };
        let kernel = |tiny| blend::kernel(dtype, dtype, tiny).unwrap();
        assert!(passes(kernel(Tiny::Exact), Tiny::Exact), "{dtype}");
        let keeps = passes(kernel(Tiny::Kept), Tiny::Kept);
        keep.push((dtype, keeps));
        let mut changes = vec![
            ("q = opaque4(params.c1 * y", "q = opaque4(params.c1 * y * 1.0000001"),
            (products, "let p = params.c1 * x;"),
        ];
        if dtype != Dtype::F16 {
            // An adapter that flushes subnormals, without the help that it gets here.
            changes.push(("first = small_sum(", "first = 0u * small_sum("));
            changes.push(("if (count > 0u)", "if (count > 9u)"));
        } else {
            changes.push(("magnitude < vec4<u32>(0x38800000u)", "magnitude < vec4<u32>(0x37000000u)"));
        }
        let of_kept = changes.iter().filter(|(from, _)| keeps && !from.starts_with("first"));
        let mut of_kept: Vec<_> = of_kept.map(|change| (Tiny::Kept, *change)).collect();
        if keeps {
            // What makes zeros positive.
            let unsigned = "bitcast<vec4<u32>>(p + q + vec4<f32>(bitcast<f32>(params.zero)))";
            of_kept.push((Tiny::Kept, ("bitcast<vec4<u32>>(p + q)", unsigned)));
        }
        let of_exact = changes.iter().map(|change| (Tiny::Exact, *change));
        for (tiny, (from, to)) in of_exact.chain(of_kept) {
            assert!(!passes(sabotaged(kernel(tiny), from, to), tiny), "{dtype}, {tiny:?}: {to} passed");
        }
    }
    println!("kept as they are: {keep:?}");
    let name = runner.gpu.tier().name.to_lowercase();
    if is_software(&runner) {
        // Values of F16 are far from f32's subnormals, and so are their products.
        assert!(keep.contains(&(Dtype::F16, true)));
        assert_eq!(keep.iter().all(|(_, keeps)| *keeps), name.contains("llvmpipe"), "{name}");
    }
}

/// Without an adapter, since software adapters do not fuse even where the shader asks for it: a fused
/// product shows, whichever of the two it is.
#[test]
fn blend_test_data_gives_contraction_away() {
    let [c0, c1] = blend::TEST_COEFFICIENTS;
    for dtype in DTYPES {
        let packed = blend::test_data(dtype);
        let [a, b] = packed.each_ref().map(|bytes| {
            let mut values = Vec::new();
            bise::dtype::widen(dtype, bytes, &mut values).unwrap();
            values
        });
        let rounded = |sum: &dyn Fn(f32, f32) -> f32| {
            let sums: Vec<f32> = a.iter().zip(&b).map(|(a, b)| sum(*a, *b)).collect();
            let mut codes = Vec::new();
            narrow(dtype, &sums, &mut codes).unwrap();
            codes
        };
        let plain = rounded(&|a, b| c0 * a + c1 * b);
        let (want, _) = blend::plain_blend(dtype, [&packed[0], &packed[1]], [c0, c1], dtype).unwrap();
        assert!(blend::exact(dtype, &plain, &want));
        assert!(!blend::exact(dtype, &rounded(&|a, b| c0.mul_add(a, c1 * b)), &want), "{dtype}");
        assert!(!blend::exact(dtype, &rounded(&|a, b| c1.mul_add(b, c0 * a)), &want), "{dtype}");
    }
}
