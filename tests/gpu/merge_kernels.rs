//! The sums of a merge against their twin, and their start-up test against sabotage.

use bise::dtype::{Dtype, narrow};
use bise::gpu::Kernel;
use bise::kernels::slerp_sums;
use bise::kernels::slerp_sums::{BLOCK, Opaque, Totals, WORDS_PER_BLOCK};
use bise::kernels::weights::per_load;
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

/// Whether this adapter is one of those that tests know.
pub(super) fn is_software(runner: &Runner) -> bool {
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
