//! The two kernels of a merge against their twins, and their start-up tests against sabotage.

use bise::dtype::{Dtype, find_non_finite, narrow};
use bise::gpu::Kernel;
use bise::kernels::blend::Tiny;
use bise::kernels::slerp_sums::{BLOCK, Opaque, Totals, WORDS_PER_BLOCK};
use bise::kernels::weights::per_load;
use bise::kernels::{blend, slerp_sums};
use bise::reference;
use bise::reference::slerp_sums::BlockSums;
use bise::reference::weights::Weights;

use super::common::{Runner, padded_weights, random_weights, uniform};
use crate::common::Random;

pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

/// Around the edges of a load, a group, a workgroup and a block.
pub const SIZES: [u32; 13] =
    [1, 3, 7, 8, 9, 511, 512, 513, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 5, 9 * BLOCK + 1031];

/// Runs `kernel` and returns the f32 words that it writes.
fn run_sums(runner: &mut Runner, kernel: Kernel, dtype: Dtype, packed: [&[u8]; 2]) -> Vec<f32> {
    let elements = packed[0].len() as u32 / dtype.size_bytes() as u32;
    let [a, b] = packed.map(|bytes| padded_weights(bytes, dtype, 1, elements));
    // A block before the first: it must stay as it is.
    let params = slerp_sums::Params {
        loads: elements.div_ceil(per_load(dtype)),
        first_block: 1,
        ..Default::default()
    };
    let words = (1 + elements.div_ceil(BLOCK)) * WORDS_PER_BLOCK;
    let sums = vec![0; words as usize * 4];
    // More workgroups than blocks: those past the end must write nothing.
    let [x, y, z] = slerp_sums::grid(elements);
    let mut got = runner.run(kernel, &[uniform(&params), &a, &b, &sums], [x, y, z + 1]);
    let got = got.remove(0);
    assert!(got[..WORDS_PER_BLOCK as usize].iter().all(|word| *word == 0.0));
    got[WORDS_PER_BLOCK as usize..].to_vec()
}

fn blocks_of_twin(dtype: Dtype, packed: [&[u8]; 2]) -> Vec<BlockSums> {
    let elements = packed[0].len() as u32 / dtype.size_bytes() as u32;
    let [a, b] = packed.map(|bytes| padded_weights(bytes, dtype, 1, elements));
    let params = slerp_sums::Params { loads: elements.div_ceil(per_load(dtype)), ..Default::default() };
    let mut sums = vec![BlockSums::default(); elements.div_ceil(BLOCK) as usize];
    let [a, b] = [Weights::new(dtype, &a).unwrap(), Weights::new(dtype, &b).unwrap()];
    reference::slerp_sums::slerp_sums(&params, a, b, &mut sums);
    sums
}

/// What is exact whatever the compiler and, on adapters that are known, what they choose.
fn opaques(runner: &Runner) -> Vec<Opaque> {
    Opaque::ALL.into_iter().filter(|opaque| *opaque == Opaque::Each || is_software(runner)).collect()
}

/// The first block of `got` that is not its twin's.
fn wrong_block(got: &[f32], want: &[BlockSums]) -> Option<usize> {
    let got = got.chunks_exact(WORDS_PER_BLOCK as usize);
    assert_eq!(got.len(), want.len());
    got.zip(want).position(|(got, want)| {
        let mut totals = Totals::default();
        totals.add(got);
        let largest = [want[3] as f32, want[4] as f32];
        !(slerp_sums::exact(totals.sums, [want[0], want[1], want[2]]) && totals.largest == largest)
    })
}

#[test]
fn slerp_sums_of_every_block() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 71;
    let mut random = Random::new(seed);
    for dtype in DTYPES {
        for elements in SIZES {
            let [a, b] = [(); 2].map(|()| random_weights(&mut random, dtype, 1, elements));
            let want = blocks_of_twin(dtype, [&a, &b]);
            for opaque in opaques(&runner) {
                let kernel = slerp_sums::kernel(dtype, opaque).unwrap();
                let mut got = run_sums(&mut runner, kernel, dtype, [&a, &b]);
                let what = format!("{dtype}, {opaque:?}, {elements} elements, seed {seed}");
                assert_eq!(wrong_block(&got, &want), None, "{what}");
                let corrupted = got.len() / 2 / 8 * 8;
                got[corrupted] +=
                    4.0 * slerp_sums::TOLERANCE as f32 * got[corrupted] + f32::EPSILON * got[corrupted];
                assert!(wrong_block(&got, &want).is_some(), "a corrupted sum passed: {what}");
            }
        }
    }
    assert!(slerp_sums::kernel(Dtype::F8E4m3, Opaque::Each).is_none());
}

/// Where sums are as large as they get, one value is far above all others, and all but one are zero.
#[test]
fn slerp_sums_at_the_edge_of_their_precision() {
    let Some(mut runner) = Runner::open() else { return };
    let seed = 73;
    let mut random = Random::new(seed);
    for dtype in DTYPES {
        let largest_mantissa = match dtype {
            Dtype::F32 => 2.0_f32.next_down(),
            Dtype::Bf16 => 2.0 - 1.0 / 128.0,
            _ => 2.0 - 1.0 / 1024.0,
        };
        let elements = (BLOCK + 77) as usize;
        let mut few: Vec<f32> = (0..elements).map(|_| random.weight()).collect();
        few.iter_mut().step_by(97).for_each(|value| *value *= 16_000.0);
        let alone: Vec<f32> = (0..elements).map(|i| if i == 2000 { -1.5 } else { 0.0 }).collect();
        let many = vec![largest_mantissa; elements];
        let opposite = vec![-largest_mantissa; elements];
        for (i, pair) in
            [[&many, &many], [&many, &opposite], [&few, &many], [&opposite, &few], [&alone, &few]]
                .into_iter()
                .enumerate()
        {
            let packed = pair.map(|values| {
                let mut packed = Vec::new();
                narrow(dtype, values, &mut packed).unwrap();
                packed
            });
            let packed = [packed[0].as_slice(), &packed[1]];
            let want = blocks_of_twin(dtype, packed);
            for opaque in opaques(&runner) {
                let kernel = slerp_sums::kernel(dtype, opaque).unwrap();
                let got = run_sums(&mut runner, kernel, dtype, packed);
                assert_eq!(wrong_block(&got, &want), None, "{dtype}, {opaque:?}, pair {i}, seed {seed}");
            }
        }
    }
}

/// Whether the start-up test of the blend that leaves what is tiny to the adapter is passed here.
fn keeps(runner: &mut Runner, (dtype, out): (Dtype, Dtype)) -> bool {
    let data = blend::test_data(dtype);
    let packed = [data[0].as_slice(), &data[1]];
    let (want, counted) = blend::plain_blend(dtype, packed, blend::TEST_COEFFICIENTS, out).unwrap();
    let kernel = blend::kernel(dtype, out, Tiny::Kept).unwrap();
    let (got, count) = run_blend(runner, kernel, (dtype, out), packed, blend::TEST_COEFFICIENTS);
    blend::passes(Tiny::Kept, out, &got[..want.len()], u64::from(count), (&want, counted))
}

fn is_software(runner: &Runner) -> bool {
    let name = runner.gpu.tier().name.to_lowercase();
    name.contains("llvmpipe") || name.contains("swiftshader")
}

/// A kernel with its WGSL changed.
pub(super) fn sabotaged(kernel: Kernel, from: &str, to: &str) -> Kernel {
    assert!(kernel.source().contains(from), "{from}");
    let source: &'static str = kernel.source().replace(from, to).leak();
    Kernel { parts: vec![source], ..kernel }
}

#[test]
fn slerp_sums_start_up_test_tells_right_from_wrong() {
    let Some(mut runner) = Runner::open() else { return };
    let is_software = is_software(&runner);
    for dtype in DTYPES {
        let data = slerp_sums::test_data(dtype);
        let packed = [data[0].as_slice(), &data[1]];
        let want = slerp_sums::plain_sums(dtype, packed);
        let mut passes = |kernel: Kernel| {
            let mut totals = Totals::default();
            totals.add(&run_sums(&mut runner, kernel, dtype, packed));
            println!(
                "{dtype}: off by {:?}",
                [0, 1, 2].map(|i| (totals.sums[i] - want[i]) / (want[0] * want[1]).sqrt())
            );
            slerp_sums::exact(totals.sums, want)
        };
        let [light, kernel] = Opaque::ALL.map(|opaque| slerp_sums::kernel(dtype, opaque).unwrap());
        assert!(passes(kernel.clone()), "{dtype}");
        // Another adapter's compiler may reassociate floats: there it is not chosen.
        let is_light = passes(light.clone());
        assert!(is_light || !is_software, "{dtype}");
        let mut changes = vec![
            // What algebra makes of TwoSum.
            ("Sum(high, sum.low + lost)", "Sum(high, sum.low)"),
            ("sum.low + hidden(p - arrived)", "sum.low"),
            // Begun so low that a product may be above the sum.
            ("vec3<u32>(121u)", "vec3<u32>(127u)"),
            ("unpack4(y, 0u)", "unpack4(y, 0u) * 1.0000001"),
            ("gather(thread, 8u)", "gather(thread, 7u)"),
        ];
        for (from, to) in &changes {
            assert!(!passes(sabotaged(kernel.clone(), from, to)), "{dtype}: {to} passed");
        }
        if dtype != Dtype::F32 {
            // What compilers make of it that take floats for real numbers.
            changes.retain(|(from, _)| !from.contains("hidden"));
            changes.push(("sum.low + fma(x, y, sum.high - high)", "sum.low"));
        }
        for (from, to) in changes {
            assert!(!passes(sabotaged(light.clone(), from, to)), "{dtype}: {to} passed");
        }
        if dtype == Dtype::F32 {
            for (from, to) in [(" + xl * yl", ""), ("0xfffff000u", "0xffffffffu")] {
                assert!(!passes(sabotaged(kernel.clone(), from, to)), "{dtype}: {to} passed");
            }
        }
    }
}

/// Without an adapter: what must not be used is not.
#[test]
fn slerp_sums_that_cannot_be_trusted() {
    let totals = |sums: [f64; 3], largest: [f32; 2]| Totals { sums, largest };
    let good = totals([4.0, 9.0, -5.0], [2.0, 3.0]);
    for dtype in DTYPES {
        assert_eq!(good.usable(dtype, 10), Some(good.sums));
        assert_eq!(totals([0.0, 9.0, 0.0], [0.0, 3.0]).usable(dtype, 10), Some([0.0, 9.0, 0.0]));
        assert_eq!(totals([0.0; 3], [0.0; 2]).usable(dtype, 0), Some([0.0; 3]));
        for bad in [
            totals([f64::NAN, 9.0, -5.0], [2.0, 3.0]),
            totals([4.0, 9.0, f64::NAN], [2.0, 3.0]),
            totals([4.0, f64::INFINITY, -5.0], [2.0, 3.0]),
            totals([4.0, 9.0, 6.1], [2.0, 3.0]),
            totals([4.0, 9.0, -5.0], [2.0, f32::INFINITY]),
            totals([4.0, 9.0, -5.0], [f32::NAN, 3.0]),
            totals([4.0, 1e35, -5.0], [2.0, 1e17]),
            // All of it lost below f32's range.
            totals([0.0, 9.0, 0.0], [1e-30, 3.0]),
            totals([1e-23, 9.0, 0.0], [1e-12, 3.0]),
        ] {
            assert_eq!(bad.usable(dtype, 10), None, "{bad:?}");
        }
    }
    let infinite_f16 = totals([6.5e4 * 6.5e4, 9.0, -5.0], [65_536.0, 3.0]);
    assert_eq!(infinite_f16.usable(Dtype::F16, 10), None);
    assert!(infinite_f16.usable(Dtype::Bf16, 10).is_some());
    // What is not finite stays the largest, whatever comes after it.
    let mut sums = Totals::default();
    sums.add(&[0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0, f32::INFINITY]);
    sums.add(&[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    assert!(sums.largest[0].is_nan() && sums.largest[1].is_infinite());
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
