//! Scalar codecs: golden vectors, every code, and the fast row quantiser against its definition.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use bise::dtype::*;
use common::Random;

fn golden(key: &str) -> Vec<u32> {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("fixtures/vectors/fp8_decode.json")).unwrap();
    let bits = json[key].as_array().unwrap();
    bits.iter().map(|b| u32::from_str_radix(b.as_str().unwrap(), 16).unwrap()).collect()
}

/// Equal bits, but for the payload of a NaN.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn names_round_trip_and_variants_are_refused() {
    for dtype in Dtype::ALL {
        assert_eq!(Dtype::parse(dtype.name()), Some(dtype));
        assert_eq!(dtype.to_string(), dtype.name());
    }
    let mut names: Vec<_> = Dtype::ALL.iter().map(|d| d.name()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 13);
    for name in ["F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "U16", "U32", "U64", "C64", "bf16", "BF16 ", ""] {
        assert_eq!(Dtype::parse(name), None, "{name}");
    }
}

#[test]
fn fp8_decodes_as_torch_does() {
    for (key, decode) in [("e4m3fn_f32_bits", decode_e4m3 as fn(u8) -> f32), ("e5m2_f32_bits", decode_e5m2)] {
        let golden = golden(key);
        assert_eq!(golden.len(), 256);
        for code in 0..=255u8 {
            let expected = f32::from_bits(golden[usize::from(code)]);
            assert!(same(decode(code), expected), "{key} {code:#x}: {} {expected}", decode(code));
        }
    }
}

#[test]
fn e5m2_is_the_high_byte_of_f16() {
    for code in 0..=255u8 {
        assert!(same(decode_e5m2(code), half::f16::from_bits(u16::from(code) << 8).to_f32()));
    }
}

#[test]
fn non_finite_codes_are_exactly_the_specified_ones() {
    for code in 0..=255u8 {
        assert_eq!(is_nan_e4m3(code), decode_e4m3(code).is_nan());
        assert_eq!(is_nan_e4m3(code), code == 0x7f || code == 0xff);
        assert_eq!(is_nan_e5m2(code), decode_e5m2(code).is_nan());
        assert_eq!(is_non_finite_e5m2(code), !decode_e5m2(code).is_finite());
    }
}

#[test]
fn every_finite_code_round_trips() {
    for code in 0..=255u8 {
        if !is_nan_e4m3(code) {
            assert_eq!(encode_e4m3(decode_e4m3(code)), code);
        }
        if !is_non_finite_e5m2(code) {
            assert_eq!(encode_e5m2(decode_e5m2(code)), code);
        }
    }
    assert_eq!(encode_e4m3(f32::NAN) & 0x7f, 0x7f);
    assert!(is_nan_e5m2(encode_e5m2(f32::NAN)));
}

/// The definition: search all finite codes for the nearest, in f64; of two, the even one.
fn nearest(table: &[f32; 256], codes: u8, value: f32) -> u8 {
    let magnitude = f64::from(value.abs());
    let distance = |code: u8| (f64::from(table[usize::from(code)]) - magnitude).abs();
    let best = (0..codes).min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1))));
    let best = if magnitude >= f64::from(table[usize::from(codes - 1)]) { codes - 1 } else { best.unwrap() };
    best | if value.is_sign_negative() { 0x80 } else { 0 }
}

#[test]
fn encoding_rounds_to_nearest_even_and_clamps() {
    let mut values = vec![0.0, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, 448.0, 449.0, 464.0, 465.0];
    // Every code, every midpoint of two neighbours, and the f32 on either side of each.
    for table in [&E4M3, &E5M2] {
        for pair in table[..0x7c].windows(2) {
            for v in [pair[0], (pair[0] + pair[1]) / 2.0] {
                values.extend([v, f32::from_bits(v.to_bits() + 1)]);
                values.push(f32::from_bits(v.to_bits().saturating_sub(1)));
            }
        }
    }
    let mut random = Random::new(1);
    values.extend((0..20_000).map(|_| f32::from_bits(random.next() as u32)).filter(|v| !v.is_nan()));
    values.extend((0..20_000).map(|_| f32::from_bits(0x3a00_0000 + (random.next() as u32 >> 5))));
    for v in values.iter().flat_map(|v| [*v, -*v]) {
        assert_eq!(encode_e4m3(v), nearest(&E4M3, 0x7f, v), "e4m3 of {v:e} ({:#x})", v.to_bits());
        assert_eq!(encode_e5m2(v), nearest(&E5M2, 0x7c, v), "e5m2 of {v:e} ({:#x})", v.to_bits());
    }
}

/// The definition of row quantisation, element by element.
fn plain_quantize(row: &[f32]) -> (f32, Vec<u8>) {
    let absmax = row.iter().fold(0f32, |m, w| m.max(w.abs()));
    let scale = if absmax / 448.0 == 0.0 { 1.0 } else { absmax / 448.0 };
    (scale, row.iter().map(|w| nearest(&E4M3, 0x7f, w / scale)).collect())
}

fn assert_quantises_by_definition(row: &[f32], what: &str) {
    let mut fast = vec![0xaa; row.len()];
    let scale = quantize_row_e4m3(row, &mut fast).unwrap();
    let (plain_scale, plain) = plain_quantize(row);
    assert_eq!(scale.to_bits(), plain_scale.to_bits(), "{what}");
    assert_eq!(fast, plain, "{what}");
}

#[test]
fn quantiser_equals_its_definition() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let length = random.below(70) as usize;
        let exponent = random.below(200) as i32 - 100;
        let normal: Vec<f32> = (0..length).map(|_| random.weight() * 2f32.powi(exponent)).collect();
        assert_quantises_by_definition(&normal, &format!("scaled weights, seed {seed}"));
        let bits: Vec<f32> =
            (0..length).map(|_| f32::from_bits(random.next() as u32)).filter(|v| v.is_finite()).collect();
        assert_quantises_by_definition(&bits, &format!("any finite bits, seed {seed}"));
        let tiny: Vec<f32> =
            (0..length).map(|_| f32::from_bits(random.next() as u32 & 0x8000_ffff)).collect();
        assert_quantises_by_definition(&tiny, &format!("subnormals, seed {seed}"));
    }
    assert_quantises_by_definition(&[], "empty");
    assert_quantises_by_definition(&[0.0, -0.0], "zeros");
    assert_quantises_by_definition(&[f32::MAX, f32::MIN, 1.0], "largest");
    assert_quantises_by_definition(&[1e-45; 17], "scale underflows");
    let mut codes = [0; 2];
    assert_eq!(quantize_row_e4m3(&[0.0, 0.0], &mut codes), Ok(1.0));
}

/// Negative control: the comparison above must see a wrong rounding mode.
#[test]
fn comparison_tells_truncation_from_rounding() {
    let truncate = |w: f32| {
        let down = |code: u8| decode_e4m3(code) <= w.abs();
        (0..0x7fu8).rev().find(|c| down(*c)).unwrap() | if w < 0.0 { 0x80 } else { 0 }
    };
    let mut random = Random::new(7);
    let row: Vec<f32> = (0..64).map(|_| random.weight()).collect();
    let (scale, plain) = plain_quantize(&row);
    assert_ne!(row.iter().map(|w| truncate(w / scale)).collect::<Vec<_>>(), plain);
}

#[test]
fn quantiser_finds_what_is_not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
        for at in [0, 15, 16, 40] {
            let mut row = [0.5; 41];
            row[at] = bad;
            assert_eq!(quantize_row_e4m3(&row, &mut [0; 41]), Err(DtypeError::NotFinite { element: at }));
        }
    }
    assert_eq!(quantize_row_e4m3(&[1.0], &mut []), Err(DtypeError::Length { values: 1, slots: 0 }));
}

#[test]
fn rows_of_i8_are_rounded_within_their_blocks() {
    let mut random = Random::new(11);
    for len in [16, 128, 144, 272] {
        let mut row: Vec<f32> =
            (0..len).map(|_| random.below(1 << 20) as f32 / (1 << 20) as f32 - 0.5).collect();
        // Blocks differ in size; in the last one nothing is beyond what rounds to 0.
        row.iter_mut().take(128).for_each(|w| *w *= 100.0);
        row[3] = -60.0;
        if len == 272 {
            row[256..].fill(1e-38);
        }
        let (mut codes, mut scales) = (vec![1; len], Vec::new());
        quantize_row_i8(&row, &mut codes, &mut scales).unwrap();
        assert_eq!(scales.len(), len.div_ceil(I8_BLOCK));
        for ((block, codes), scale) in row.chunks(I8_BLOCK).zip(codes.chunks(I8_BLOCK)).zip(&scales) {
            let largest = block.iter().fold(0f32, |most, w| most.max(w.abs()));
            let expected = if largest < 1e-37 { 1.0 } else { largest / 127.0 };
            assert_eq!(*scale, expected, "{len}");
            for (w, code) in block.iter().zip(codes) {
                let off = (f32::from(*code as i8) * scale - w).abs();
                assert!(off <= scale * 0.500_01, "{len}: {w} became {code} times {scale}");
            }
        }
        // The comparison is as narrow as can be: with one code more it fails.
        assert!((f32::from(codes[5] as i8 + 1) * scales[0] - row[5]).abs() > scales[0] * 0.500_01);
    }
    let mut row = [1.0; 144];
    row[130] = f32::NAN;
    let error = quantize_row_i8(&row, &mut [0; 144], &mut Vec::new()).unwrap_err();
    assert_eq!(error, DtypeError::NotFinite { element: 130 });
    assert!(matches!(
        quantize_row_i8(&[0.0; 16], &mut [0; 17], &mut Vec::new()),
        Err(DtypeError::Length { .. })
    ));
    assert!(matches!(
        quantize_row_i8(&[0.0; 17], &mut [0; 17], &mut Vec::new()),
        Err(DtypeError::Length { .. })
    ));
}

#[test]
fn widening_and_narrowing_are_inverse_on_stored_values() {
    let floats = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F8E4m3, Dtype::F8E5m2];
    for dtype in floats {
        let values = [0.0, -0.0, 1.0, -1.5, 0.015625, 448.0, 2f32.powi(-9)];
        let mut bytes = Vec::new();
        narrow(dtype, &values, &mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, values.len() as u64 * dtype.size_bytes());
        let mut wide = vec![7.0];
        widen(dtype, &bytes, &mut wide).unwrap();
        assert_eq!(wide[0], 7.0, "widen appends");
        for (w, v) in wide[1..].iter().zip(values) {
            assert_eq!(w.to_bits(), v.to_bits(), "{dtype}");
        }
    }
    let mut bytes = Vec::new();
    narrow(Dtype::Bf16, &[1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8)], &mut bytes).unwrap();
    assert_eq!(bytes, [0x80, 0x3f, 0x82, 0x3f], "bf16 ties to even");
}

#[test]
fn integers_and_ragged_bytes_are_refused() {
    for dtype in Dtype::ALL.into_iter().filter(|d| !d.is_float()) {
        assert_eq!(widen(dtype, &[0; 8], &mut Vec::new()), Err(DtypeError::NotFloat(dtype)));
        assert_eq!(narrow(dtype, &[0.0], &mut Vec::new()), Err(DtypeError::NotFloat(dtype)));
        assert_eq!(find_non_finite(dtype, &[0; 8]), Err(DtypeError::NotFloat(dtype)));
    }
    let ragged = DtypeError::Ragged { dtype: Dtype::Bf16, bytes: 3 };
    assert_eq!(widen(Dtype::Bf16, &[0; 3], &mut Vec::new()), Err(ragged.clone()));
    assert_eq!(find_non_finite(Dtype::Bf16, &[0; 3]), Err(ragged));
}

#[test]
fn non_finite_elements_are_located() {
    let floats = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16];
    for dtype in floats {
        for at in [0, 255, 256, 299] {
            let mut values = vec![1.0; 300];
            let mut bytes = Vec::new();
            narrow(dtype, &values, &mut bytes).unwrap();
            assert_eq!(find_non_finite(dtype, &bytes), Ok(None));
            values[at] = f32::NEG_INFINITY;
            bytes.clear();
            narrow(dtype, &values, &mut bytes).unwrap();
            assert_eq!(find_non_finite(dtype, &bytes), Ok(Some(at)), "{dtype}");
        }
    }
    // Finite, but not as f32, which is what becomes of it.
    for (value, found) in [(f64::from(f32::MAX), None), (1e39, Some(1)), (-1e300, Some(1))] {
        let bytes: Vec<u8> = [1.0, value, 2.0].iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
        assert_eq!(find_non_finite(Dtype::F64, &bytes), Ok(found), "{value}");
    }
    for (dtype, code) in [(Dtype::F8E4m3, 0xff), (Dtype::F8E5m2, 0x7c), (Dtype::F8E5m2, 0xfd)] {
        let mut bytes = vec![0x7b; 300];
        assert_eq!(find_non_finite(dtype, &bytes), Ok(None));
        bytes[277] = code;
        assert_eq!(find_non_finite(dtype, &bytes), Ok(Some(277)));
    }
}

#[test]
fn every_code_is_judged_alone_and_at_any_place() {
    // Beside the largest numbers there are, from which a carry would spread.
    let types: [(Dtype, &[u8]); 4] = [
        (Dtype::F8E4m3, &[0xfe]),
        (Dtype::F8E5m2, &[0xfb]),
        (Dtype::F16, &[0xff, 0xfb]),
        (Dtype::Bf16, &[0x7f, 0xff]),
    ];
    for (dtype, largest) in types {
        let size = largest.len();
        let mut bad = 0;
        for code in 0..1_u32 << (8 * size) {
            let element = &code.to_le_bytes()[..size];
            let mut values = Vec::new();
            widen(dtype, element, &mut values).unwrap();
            bad += usize::from(!values[0].is_finite());
            let length = 13;
            let place = code as usize % length;
            let bytes: Vec<u8> =
                (0..length).flat_map(|i| if i == place { element } else { largest }).copied().collect();
            let expected = (!values[0].is_finite()).then_some(place);
            assert_eq!(find_non_finite(dtype, &bytes), Ok(expected), "{dtype} {code:#x}");
        }
        assert!(bad >= 2, "{dtype}: {bad} codes");
    }
}
