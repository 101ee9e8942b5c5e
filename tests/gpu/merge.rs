//! A merge end to end on the device: pieces, splits, faults, and the published SLERP cases.

use bise::dtype::{Dtype, narrow};
use bise::gpu::{GpuError, GpuOptions, LimitChoice};
use bise::kernels::blend::{Tiny, plain_blend};
use bise::kernels::merge::SlerpGpu;
use bise::kernels::slerp_sums::{BLOCK, Opaque, exact, plain_sums};
use pollster::block_on;

use super::common::{limits, random_weights};
use super::merge_kernels::{DTYPES, SIZES};
use crate::common::Random;

fn open(limits: LimitChoice, dtypes: &[Dtype]) -> Option<SlerpGpu> {
    if std::env::var("BISE_NO_GPU").is_ok_and(|v| v == "1") {
        println!("BISE_NO_GPU=1: skipped, nothing was tested");
        return None;
    }
    let options = GpuOptions { adapter: std::env::var("BISE_ADAPTER").ok(), limits, ..GpuOptions::default() };
    Some(block_on(SlerpGpu::open(&options, dtypes)).expect("these tests need a GPU, or BISE_NO_GPU=1"))
}

/// Sizes of chunks, in elements, over and over.
type Pieces = &'static [usize];

/// Writes `packed` in pieces, those at odd places first if `shuffled`.
fn upload(
    slerp: &mut SlerpGpu,
    dtype: Dtype,
    packed: &[u8],
    pieces: Pieces,
    shuffled: bool,
) -> bise::gpu::Resident {
    let size = dtype.size_bytes() as usize;
    let mut tensor = block_on(slerp.tensor("w", dtype, (packed.len() / size) as u64)).unwrap();
    let mut chunks = Vec::new();
    let (mut at, mut rest) = (0, packed);
    for elements in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, later) = rest.split_at(rest.len().min(elements * size));
        chunks.push((at, chunk));
        (at, rest) = (at + (chunk.len() / size) as u64, later);
    }
    let (even, odd): (Vec<_>, Vec<_>) = chunks.iter().enumerate().partition(|(i, _)| i % 2 == 0 || !shuffled);
    for (_, (first, chunk)) in odd.into_iter().chain(even) {
        block_on(slerp.write(&mut tensor, *first, chunk)).unwrap();
    }
    tensor
}

fn all(slerp: &SlerpGpu, tensor: &bise::gpu::Resident) -> Vec<u8> {
    block_on(slerp.read(tensor, 0..tensor.elements())).unwrap()
}

#[test]
fn merge_has_the_same_bits_whatever_the_pieces_and_parts() {
    let seed = 81;
    let mut random = Random::new(seed);
    let small = LimitChoice::Binding(u64::from(BLOCK) * 4 * 2 + 100);
    let elements = 7 * BLOCK + 1235;
    let mut of_limits = Vec::new();
    let packed = DTYPES.map(|dtype| [(); 2].map(|()| random_weights(&mut random, dtype, 1, elements)));
    for limits in [limits(), small] {
        let Some(mut slerp) = open(limits, &[]) else { return };
        let mut results = Vec::new();
        for (dtype, [a, b]) in DTYPES.iter().zip(&packed) {
            for (pieces, shuffled) in
                [(&[usize::MAX >> 4][..], false), (&[1, 3, 4097], false), (&[501, 2, 77, 1], true)]
            {
                let tensors = [a, b].map(|packed| upload(&mut slerp, *dtype, packed, pieces, shuffled));
                let parts = tensors[0].parts().len();
                assert!(limits != small || parts == 4, "{parts} parts");
                let sums = block_on(slerp.sums(&tensors[0], &tensors[1])).unwrap().unwrap();
                let want = plain_sums(*dtype, [a, b]);
                assert!(exact(sums, want), "{dtype}, seed {seed}: {sums:?}, not {want:?}");
                let mut outs = Vec::new();
                for out in DTYPES {
                    let blended = block_on(slerp.blend(&tensors[0], &tensors[1], [0.3, 0.71], out)).unwrap();
                    assert_eq!(blended.non_finite, 0);
                    let got = all(&slerp, &blended.tensor);
                    let (want, _) = plain_blend(*dtype, [a, b], [0.3, 0.71], out).unwrap();
                    assert!(got == want, "{dtype} -> {out}, seed {seed}, {pieces:?}");
                    outs.push(got);
                }
                results.push((sums.map(f64::to_bits), outs));
            }
        }
        assert!(slerp.exact_sums() && slerp.exact_blend());
        assert!(results.chunks(3).all(|same| same[0] == same[1] && same[0] == same[2]));
        assert!(results[0] != results[3]);
        of_limits.push(results);
    }
    assert!(of_limits[0] == of_limits[1]);
}

#[test]
fn every_size_comes_back_and_can_be_merged_again() {
    let Some(mut slerp) = open(limits(), &[Dtype::Bf16]) else { return };
    let seed = 82;
    let mut random = Random::new(seed);
    for elements in SIZES {
        let packed = [(); 3].map(|()| random_weights(&mut random, Dtype::Bf16, 1, elements));
        let [a, b, c] = packed.each_ref().map(|p| upload(&mut slerp, Dtype::Bf16, p, &[333], false));
        assert_eq!(all(&slerp, &a), packed[0], "{elements}");
        let first = block_on(slerp.blend(&a, &b, [0.5, 0.25], Dtype::Bf16)).unwrap().tensor;
        let sums = block_on(slerp.sums(&first, &c)).unwrap().unwrap();
        let second = block_on(slerp.blend(&first, &c, [0.1, 0.9], Dtype::Bf16)).unwrap().tensor;
        let (want, _) = plain_blend(Dtype::Bf16, [&packed[0], &packed[1]], [0.5, 0.25], Dtype::Bf16).unwrap();
        assert!(exact(sums, plain_sums(Dtype::Bf16, [&want, &packed[2]])), "{elements}");
        let (want, _) = plain_blend(Dtype::Bf16, [&want, &packed[2]], [0.1, 0.9], Dtype::Bf16).unwrap();
        assert_eq!(all(&slerp, &second), want, "{elements}");
        // Pieces that begin and end inside words.
        for range in [0..1, elements / 2..elements, elements / 3..elements - elements / 3] {
            let bytes = &want[range.start as usize * 2..range.end as usize * 2];
            let range = u64::from(range.start)..u64::from(range.end);
            assert_eq!(block_on(slerp.read(&second, range)).unwrap(), bytes, "{elements}");
        }
    }
    let none = block_on(slerp.tensor("none", Dtype::Bf16, 0)).unwrap();
    assert_eq!(block_on(slerp.sums(&none, &none)).unwrap(), Some([0.0; 3]));
    let blended = block_on(slerp.blend(&none, &none, [0.5, 0.5], Dtype::F16)).unwrap();
    assert!(all(&slerp, &blended.tensor).is_empty());
}

#[test]
fn a_large_tensor_comes_back_in_pieces() {
    let Some(mut slerp) = open(limits(), &[]) else { return };
    let seed = 83;
    // Three pieces and a bit; an odd count of elements.
    let packed = Random::new(seed).bytes((13 << 20) + 2);
    let before = slerp.allocated_bytes();
    let tensor = upload(&mut slerp, Dtype::F16, &packed, &[123_457], false);
    let resident = slerp.allocated_bytes();
    assert!(resident - before < (13 << 20) + 4096 && resident - before > 13 << 20);
    let mut reader = slerp.reader(&tensor, 1..tensor.elements()).unwrap();
    let (mut bytes, mut pieces) = (Vec::new(), 0);
    while block_on(reader.next(slerp.gpu(), &mut bytes)).unwrap() {
        pieces += 1;
        assert!(slerp.allocated_bytes() - resident <= 2 * (4 << 20) + 64);
    }
    assert!(bytes == packed[2..], "seed {seed}");
    assert!(pieces >= 4, "{pieces}");
    drop(reader);
    // Dropped while pieces are on their way, and before what was written is used.
    let mut reader = slerp.reader(&tensor, 0..tensor.elements()).unwrap();
    assert!(block_on(reader.next(slerp.gpu(), &mut bytes)).unwrap());
    drop(reader);
    drop(tensor);
    let unused = upload(&mut slerp, Dtype::F16, &packed[..100_000], &[1001], false);
    drop(unused);
    assert_eq!(slerp.allocated_bytes(), before);
    block_on(slerp.gpu().idle()).unwrap();
}

#[test]
fn what_cannot_be_merged_is_refused_or_reported() {
    let Some(mut slerp) = open(limits(), &[Dtype::F16]) else { return };
    let shape = |error: GpuError, part: &str| match &error {
        GpuError::Shape { .. } => assert!(error.to_string().contains(part), "{error}"),
        other => panic!("{other:?}"),
    };
    let f16 = |values: &[f32]| {
        let mut packed = Vec::new();
        narrow(Dtype::F16, values, &mut packed).unwrap();
        packed
    };
    let large = f16(&[65_504.0, 1.0, -65_504.0, 2.0, 6e4]);
    let a = upload(&mut slerp, Dtype::F16, &large, &[9], false);
    let blended = block_on(slerp.blend(&a, &a, [0.75, 0.75], Dtype::F16)).unwrap();
    assert_eq!(blended.non_finite, 3);
    assert_eq!(
        all(&slerp, &blended.tensor),
        f16(&[f32::INFINITY, 1.5, f32::NEG_INFINITY, 3.0, f32::INFINITY])
    );
    assert_eq!(block_on(slerp.blend(&a, &a, [0.75, 0.75], Dtype::F32)).unwrap().non_finite, 0);
    let blended_without = block_on(slerp.blend(&a, &a, [1e-39, 0.5], Dtype::F16)).unwrap();
    assert_eq!(all(&slerp, &blended_without.tensor), f16(&[32_752.0, 0.5, -32_752.0, 1.0, 3e4]));
    assert!(block_on(slerp.sums(&a, &a)).unwrap().is_some());
    assert_eq!(block_on(slerp.sums(&a, &blended.tensor)).unwrap(), None, "infinities are not summed");
    for (dtype, value) in
        [(Dtype::F32, 1e20), (Dtype::Bf16, 1e-20), (Dtype::F32, f32::NAN), (Dtype::Bf16, f32::INFINITY)]
    {
        let mut packed = Vec::new();
        narrow(dtype, &[value, value, value], &mut packed).unwrap();
        let tensor = upload(&mut slerp, dtype, &packed, &[9], false);
        assert_eq!(block_on(slerp.sums(&tensor, &tensor)).unwrap(), None, "{value} in {dtype}");
    }

    let shorter = upload(&mut slerp, Dtype::F16, &large[..8], &[9], false);
    shape(block_on(slerp.sums(&a, &shorter)).unwrap_err(), "5 elements of F16 cannot be merged with 4");
    shape(block_on(slerp.blend(&shorter, &a, [1.0, 0.0], Dtype::F16)).unwrap_err(), "cannot be merged");
    let other = block_on(slerp.tensor("b", Dtype::Bf16, 5)).unwrap();
    shape(block_on(slerp.sums(&a, &other)).unwrap_err(), "5 elements of BF16");
    for bad in [f32::NAN, f32::INFINITY, 1e19] {
        shape(block_on(slerp.blend(&a, &a, [0.5, bad], Dtype::F16)).unwrap_err(), "coefficients");
    }
    shape(block_on(slerp.blend(&a, &a, [0.5, 0.5], Dtype::F8E4m3)).unwrap_err(), "F8_E4M3");
    shape(block_on(slerp.tensor("b", Dtype::F64, 5)).unwrap_err(), "F64");
    assert!(slerp.reader(&a, 0..6).is_err_and(|e| e.to_string().contains("0 to 6 of 5")));

    let mut b = block_on(slerp.tensor("b", Dtype::F16, 5)).unwrap();
    for (first, bytes) in [(0, 1), (0, 12), (5, 2), (u64::MAX, 2), (4, 4)] {
        shape(block_on(slerp.write(&mut b, first, &large.repeat(2)[..bytes])).unwrap_err(), "b: ");
    }
    block_on(slerp.write(&mut b, 0, &large[..6])).unwrap();
    shape(block_on(slerp.sums(&a, &b)).unwrap_err(), "element 3 was not written");
    assert!(slerp.reader(&b, 0..5).is_err());
    block_on(slerp.write(&mut b, 3, &large[6..])).unwrap();
    assert_eq!(all(&slerp, &b), large);

    let Some(tiny) = open(LimitChoice::Binding(u64::from(BLOCK) * 4 - 16), &[]) else { return };
    let refused = block_on(tiny.tensor("w", Dtype::Bf16, 5));
    assert!(matches!(refused, Err(GpuError::TooLarge { .. })), "{refused:?}");
    assert!(block_on(SlerpGpu::open(&GpuOptions::default(), &[Dtype::I8])).is_err());
}

/// One published case.
struct Case {
    what: String,
    t: f64,
    dot: f64,
    linear: bool,
    inputs: [Vec<f32>; 2],
    outputs: [(Dtype, Vec<f32>); 2],
}

fn cases() -> Vec<Case> {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("../fixtures/vectors/slerp.json")).unwrap();
    let read = |case: &serde_json::Value, key: &str, shift: u32| -> Vec<f32> {
        let bits = case[key].as_array().unwrap().iter().map(|b| b.as_str().unwrap());
        bits.map(|b| f32::from_bits(u32::from_str_radix(b, 16).unwrap() << shift)).collect()
    };
    let case = |case: &serde_json::Value| Case {
        what: format!("{}, t = {}", case["name"], case["t"]),
        t: case["t"].as_f64().unwrap(),
        dot: case["dot"].as_f64().unwrap(),
        linear: case["path"] == "lerp",
        inputs: ["v0", "v1"].map(|key| read(case, key, 0)),
        outputs: [(Dtype::F32, read(case, "out_f32", 0)), (Dtype::Bf16, read(case, "out_bf16", 16))],
    };
    json["cases"].as_array().unwrap().iter().map(case).collect()
}

#[test]
fn the_fastest_kernels_that_are_exact_are_chosen() {
    let Some(mut slerp) = open(limits(), &[]) else { return };
    let name = slerp.tier().name.to_lowercase();
    for dtype in DTYPES {
        for out in DTYPES {
            let chosen = block_on(slerp.chosen(dtype, out)).unwrap();
            println!("{name}: {dtype} -> {out}: {chosen:?}");
            // SwiftShader flushes subnormals, which F16 has none of.
            let keeps = name.contains("llvmpipe") || dtype == Dtype::F16;
            if name.contains("llvmpipe") || name.contains("swiftshader") {
                assert_eq!(chosen, (Opaque::Sums, if keeps { Tiny::Kept } else { Tiny::Counted }));
            }
        }
    }
    assert!(slerp.exact_sums() && slerp.exact_blend());
}

/// Products of F16 that are subnormal in f32, which its start-up test does not have: no bit differs on any adapter.
#[test]
fn f16_with_tiny_coefficients() {
    let Some(mut slerp) = open(limits(), &[]) else { return };
    let data = bise::kernels::blend::test_data(Dtype::F16);
    let zeros = vec![0; data[0].len()];
    for (coefficients, other) in
        [([1e-37, 1.0], &zeros), ([1e-37, 0.0], &data[1]), ([3e-34, -2e-36], &data[1])]
    {
        let [a, b] = [&data[0], other].map(|packed| upload(&mut slerp, Dtype::F16, packed, &[1000], false));
        for out in DTYPES {
            let blended = block_on(slerp.blend(&a, &b, coefficients, out)).unwrap();
            let (want, _) = plain_blend(Dtype::F16, [&data[0], other], coefficients, out).unwrap();
            let got = all(&slerp, &blended.tensor);
            assert!(got == want, "{out}, {coefficients:?}");
            assert!(want.iter().any(|byte| *byte & 0x7f != 0) || out == Dtype::F16);
        }
    }
}

/// The definition, in f64 from the sums on: dot and coefficients.
fn coefficients([aa, bb, ab]: [f64; 3], t: f64) -> (f64, [f32; 2]) {
    let norm = |square: f64| if square.sqrt() > 1e-8 { square.sqrt() } else { 1.0 };
    let dot = (ab / (norm(aa) * norm(bb))).clamp(-1.0, 1.0);
    if dot.abs() > 0.9995 {
        return (dot, [(1.0 - t) as f32, t as f32]);
    }
    let theta = dot.acos();
    (dot, [((1.0 - t) * theta).sin() / theta.sin(), (t * theta).sin() / theta.sin()].map(|c| c as f32))
}

#[test]
fn published_slerp_cases() {
    let Some(mut slerp) = open(limits(), &[Dtype::F32, Dtype::Bf16]) else { return };
    let (mut same, mut total) = (0, 0);
    let cases = cases();
    assert_eq!(cases.len(), 18);
    for case in &cases {
        let packed = case.inputs.each_ref().map(|values| {
            let mut packed = Vec::new();
            narrow(Dtype::F32, values, &mut packed).unwrap();
            packed
        });
        let mut of_pieces = Vec::new();
        for pieces in [&[1][..], &[5, 2], &[24]] {
            let [a, b] = packed.each_ref().map(|p| upload(&mut slerp, Dtype::F32, p, pieces, false));
            let sums = block_on(slerp.sums(&a, &b)).unwrap().unwrap();
            let (dot, c) = coefficients(sums, case.t);
            assert!((dot - case.dot).abs() <= 1e-12, "{}: {dot}, not {}", case.what, case.dot);
            assert_eq!(dot.abs() > 0.9995, case.linear, "{}", case.what);
            let outs = case.outputs.each_ref().map(|(out, want)| {
                let tensor = block_on(slerp.blend(&a, &b, c, *out)).unwrap().tensor;
                let mut got = Vec::new();
                bise::dtype::widen(*out, &all(&slerp, &tensor), &mut got).unwrap();
                assert_eq!(got.len(), want.len());
                for (i, (got, want)) in got.iter().zip(want).enumerate() {
                    let what = format!("{}: element {i} in {out} is {got}, not {want}", case.what);
                    let size = (c[0] * case.inputs[0][i]).abs() + (c[1] * case.inputs[1][i]).abs();
                    // The bar of BF16, and 2^-22 for F32.
                    let bar = if *out == Dtype::F32 { 2.4e-7 } else { 1.0 / 256.0 };
                    assert!((got - want).abs() <= bar * size, "{what}");
                    assert!(got.to_bits() == want.to_bits() || !case.linear, "{what}");
                    if *out == Dtype::Bf16 {
                        same += usize::from(got.to_bits() == want.to_bits());
                        total += 1;
                    }
                }
                got.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            });
            of_pieces.push((sums.map(f64::to_bits), outs));
        }
        assert!(of_pieces[0] == of_pieces[1] && of_pieces[0] == of_pieces[2], "{}", case.what);
    }
    println!("{same} of {total} elements have the published bits");
    assert!(same * 100 >= total * 99, "{same} of {total}");
}
