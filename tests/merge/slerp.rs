//! The arithmetic alone, against `vectors/slerp.json`.

use bise::merge::slerp::{Branch, Sums, blend_bf16, coefficients, combine};
use serde_json::Value;

use super::support::fixture;

fn bits(value: &Value) -> Vec<f32> {
    let one = |v: &Value| f32::from_bits(u32::from_str_radix(v.as_str().unwrap(), 16).unwrap());
    value.as_array().unwrap().iter().map(one).collect()
}

fn half_bits(value: &Value) -> Vec<u16> {
    let one = |v: &Value| u16::from_str_radix(v.as_str().unwrap(), 16).unwrap();
    value.as_array().unwrap().iter().map(one).collect()
}

#[test]
fn vectors_of_mergekit() {
    let vectors: Value = serde_json::from_str(&fixture("vectors/slerp.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() > 5);
    for case in cases {
        let name = format!("{} at t {}", case["name"], case["t"]);
        let (a, b) = (bits(&case["v0"]), bits(&case["v1"]));
        let mut sums = Sums::default();
        sums.add(&a, &b);
        let found = coefficients(sums.totals(), case["t"].as_f64().unwrap());
        let dot = case["dot"].as_f64().unwrap();
        assert!((found.dot - dot).abs() < 1e-12, "{name}: dot {} for {dot}", found.dot);
        let factors = found.factors.map(|factor| factor as f32);
        let mut out = Vec::new();
        combine(&[(factors[0], &a), (factors[1], &b)], &mut out);
        let expected = bits(&case["out_f32"]);
        assert_eq!(out.len(), expected.len(), "{name}");
        let bf16: Vec<u16> = out.iter().map(|v| half::bf16::from_f32(*v).to_bits()).collect();
        for (i, ((got, want), (x, y))) in out.iter().zip(&expected).zip(a.iter().zip(&b)).enumerate() {
            let bar = 1e-6 * ((factors[0] * x).abs() + (factors[1] * y).abs());
            assert!((got - want).abs() <= bar, "{name}: element {i} is {got}, not {want}");
            if found.branch == Branch::Linear {
                assert_eq!(got.to_bits(), want.to_bits(), "{name}: element {i}");
            }
        }
        let different = bf16.iter().zip(half_bits(&case["out_bf16"])).filter(|(x, y)| **x != *y).count();
        assert!(different * 100 <= bf16.len(), "{name}: {different} bf16 elements differ");
    }
}

#[test]
fn sums_do_not_show_the_chunks() {
    let a: Vec<f32> = (0..1001).map(|i| (i as f32 * 0.37).sin()).collect();
    let b: Vec<f32> = (0..1001).map(|i| (i as f32 * 0.73).cos() * 3.0).collect();
    let mut whole = Sums::default();
    whole.add(&a, &b);
    for chunk in 1..=300 {
        let mut sums = Sums::default();
        for (a, b) in a.chunks(chunk).zip(b.chunks(chunk)) {
            sums.add(a, b);
        }
        assert_eq!(sums.totals().map(f64::to_bits), whole.totals().map(f64::to_bits), "chunks of {chunk}");
    }
    // The order of additions does matter, so the equality above says something.
    let backwards: Vec<f32> = a.iter().rev().copied().collect();
    let mut other = Sums::default();
    other.add(&backwards, &b.iter().rev().copied().collect::<Vec<_>>());
    assert_ne!(other.totals().map(f64::to_bits), whole.totals().map(f64::to_bits));
}

/// Straight from stored BF16 or over f32: the same bits, however the elements are cut.
#[test]
fn stored_elements_merge_as_their_values_do() {
    // All 16-bit patterns that are finite, and as many of another order.
    let finite = |bits: &u16| bits & 0x7f80 != 0x7f80;
    let a: Vec<u16> = (0..=u16::MAX).filter(finite).collect();
    let b: Vec<u16> = a.iter().map(|bits| bits.wrapping_mul(40_503) & 0xbfff).collect();
    let stored = |bits: &[u16]| bits.iter().map(|bits| bits.to_le_bytes()).collect::<Vec<_>>();
    let values =
        |bits: &[u16]| bits.iter().map(|bits| half::bf16::from_bits(*bits).to_f32()).collect::<Vec<_>>();
    // Of moderate size, so that their squares have sums.
    let small = |bits: &u16| (0x3000..0x4800).contains(&(bits & 0x7fff));
    let pairs: Vec<(u16, u16)> =
        a.iter().copied().zip(b.iter().copied()).filter(|(a, b)| small(a) && small(b)).collect();
    let (some_a, some_b): (Vec<u16>, Vec<u16>) = pairs.into_iter().unzip();
    assert!(some_a.len() > 1000);
    let mut expected = Sums::default();
    expected.add(&values(&some_a), &values(&some_b));
    for chunk in [1, 2, 3, 7, 8, 9, 15, 16, 17, 64, 1000, usize::MAX] {
        let mut sums = Sums::default();
        for (a, b) in some_a.chunks(chunk).zip(some_b.chunks(chunk)) {
            sums.add_bf16(&stored(a), &stored(b));
        }
        assert_eq!(sums.totals().map(f64::to_bits), expected.totals().map(f64::to_bits), "chunks of {chunk}");
    }
    // Rounding at ties, subnormals, overflow to infinity, and infinity less infinity.
    for factors in [
        [0.5, 0.5],
        [1.0, 0.0],
        [0.3, 0.7],
        [1.0 + f32::EPSILON, 2f32.powi(-9)],
        [4.0, -4.0],
        [2f32.powi(-130), 0.0],
    ] {
        let mut out = Vec::new();
        combine(&[(factors[0], &values(&a)), (factors[1], &values(&b))], &mut out);
        let expected: Vec<u8> = out.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        for chunk in [1, 5, 8, 1000, usize::MAX] {
            let mut out = vec![[0x55; 2]; a.len()];
            for ((a, b), out) in a.chunks(chunk).zip(b.chunks(chunk)).zip(out.chunks_mut(chunk)) {
                blend_bf16(factors, &stored(a), &stored(b), out);
            }
            assert_eq!(out.as_flattened(), expected, "factors {factors:?}, chunks of {chunk}");
        }
    }
}
