//! Every code of every weight decoder, on the adapter.

use bise::dtype::{Dtype, widen};
use bise::kernels::decode_fp8::{all_exact, choose, exact, run};
use bise::kernels::weights::{DTYPES, Decoder};
use bise::reference::decode_fp8::decode_fp8 as twin;
use bise::reference::weights::Weights;

use super::common::Runner;

fn golden(key: &str) -> Vec<f32> {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("../fixtures/vectors/fp8_decode.json")).unwrap();
    let bits = json[key].as_array().unwrap();
    bits.iter().map(|b| f32::from_bits(u32::from_str_radix(b.as_str().unwrap(), 16).unwrap())).collect()
}

/// Codes that are not finite never reach the GPU: their place is compared with nothing.
fn wrong(got: &[f32], want: &[f32]) -> Option<usize> {
    assert_eq!(got.len(), want.len());
    let same = |got: f32, want: f32| got.to_bits() == want.to_bits() || got == 0.0 && want == 0.0;
    got.iter().zip(want).position(|(got, want)| want.is_finite() && !same(*got, *want))
}

#[test]
fn decode_fp8() {
    let Some(mut runner) = Runner::open() else { return };
    let codes: Vec<u8> = (0..=255).collect();
    for (dtype, decoder) in runner.decoders() {
        let (want, key) = match dtype {
            Dtype::F8E4m3 => (golden("e4m3fn_f32_bits"), "e4m3fn"),
            Dtype::F8E5m2 => (golden("e5m2_f32_bits"), "e5m2"),
            _ => continue,
        };
        println!("{key}: {} decoder", decoder.name());
        let got = pollster::block_on(run(&runner.gpu, &mut runner.kernels, dtype, decoder, &codes)).unwrap();
        assert_eq!(wrong(&got, &want), None, "{dtype} {decoder:?}: the first wrong code");
        assert!(exact(&got, &want));
        let mut of_twin = vec![0.0; 256];
        twin(16, Weights::new(dtype, &codes).unwrap(), &mut of_twin);
        assert_eq!(wrong(&of_twin, &want), None, "{dtype}: the twin's first wrong code");
        // The other format's decoder is wrong, and is seen to be.
        let other = if dtype == Dtype::F8E4m3 { Dtype::F8E5m2 } else { Dtype::F8E4m3 };
        let got = pollster::block_on(run(&runner.gpu, &mut runner.kernels, other, decoder, &codes)).unwrap();
        assert!(wrong(&got, &want).is_some() && !exact(&got, &want));
    }
}

#[test]
fn decode_f16() {
    let Some(mut runner) = Runner::open() else { return };
    let codes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let mut want = Vec::new();
    widen(Dtype::F16, &codes, &mut want).unwrap();
    for (dtype, decoder) in runner.decoders() {
        if dtype == Dtype::F16 {
            let got =
                pollster::block_on(run(&runner.gpu, &mut runner.kernels, dtype, decoder, &codes)).unwrap();
            assert_eq!(wrong(&got, &want), None, "{decoder:?}: the first wrong code");
        }
    }
}

#[test]
fn every_dtype_decodes_finite_values() {
    let Some(mut runner) = Runner::open() else { return };
    let values = [0.0_f32, 1.0, -1.5, 0.015625, -240.0, 0.375, 8.0, -0.0625];
    for (dtype, decoder) in runner.decoders() {
        let mut codes = Vec::new();
        bise::dtype::narrow(dtype, &values.repeat(2), &mut codes).unwrap();
        let got = pollster::block_on(run(&runner.gpu, &mut runner.kernels, dtype, decoder, &codes)).unwrap();
        let mut want = Vec::new();
        widen(dtype, &codes, &mut want).unwrap();
        assert_eq!(wrong(&got, &want), None, "{dtype} {decoder:?}");
    }
}

#[test]
fn decode_bf16() {
    let Some(mut runner) = Runner::open() else { return };
    // Subnormal f32 are as the adapter has them.
    let normal = |code: &u16| (code >> 7) & 0xff != 0;
    let codes: Vec<u8> = (0..=u16::MAX).filter(normal).flat_map(u16::to_le_bytes).collect();
    let mut want = Vec::new();
    widen(Dtype::Bf16, &codes, &mut want).unwrap();
    for (dtype, decoder) in runner.decoders() {
        if dtype == Dtype::Bf16 {
            let got =
                pollster::block_on(run(&runner.gpu, &mut runner.kernels, dtype, decoder, &codes)).unwrap();
            assert_eq!(wrong(&got, &want), None, "{decoder:?}: the first wrong code");
        }
    }
    assert_eq!(want.len(), 65_280);
    want[77] = -want[77];
    let got =
        pollster::block_on(run(&runner.gpu, &mut runner.kernels, Dtype::Bf16, Decoder::Products, &codes));
    assert_eq!(wrong(&got.unwrap(), &want), Some(77), "a lost sign is seen");
}

#[test]
fn decoders_that_are_exact_are_found() {
    let Some(mut runner) = Runner::open() else { return };
    let mut exact = |dtype| pollster::block_on(all_exact(&runner.gpu, &mut runner.kernels, dtype)).unwrap();
    assert_eq!(exact(Dtype::F32), [Decoder::Safe], "there is one");
    assert_eq!(exact(Dtype::Bf16), [Decoder::Safe, Decoder::Products]);
    for dtype in [Dtype::F16, Dtype::F8E4m3, Dtype::F8E5m2] {
        assert_eq!(exact(dtype)[..2], [Decoder::Safe, Decoder::Products], "{dtype}");
    }
    for dtype in DTYPES {
        let chosen = pollster::block_on(choose(&runner.gpu, &mut runner.kernels, dtype)).unwrap();
        let slow = runner.gpu.tier().slow_shifts();
        let usual = if slow { Decoder::Products } else { Decoder::Fast };
        let exact = pollster::block_on(all_exact(&runner.gpu, &mut runner.kernels, dtype)).unwrap();
        assert_eq!(chosen, if exact.contains(&usual) { usual } else { Decoder::Safe }, "{dtype}");
    }
}

/// What would make an adapter take the safe decoder.
#[test]
fn a_sabotaged_decoder_is_not_exact() {
    let want = golden("e4m3fn_f32_bits");
    assert!(exact(&want, &want));
    let changed = |code: usize, value: f32| {
        let mut got = want.clone();
        got[code] = value;
        exact(&got, &want)
    };
    assert!(!changed(1, 0.0), "a flushed subnormal");
    assert!(!changed(0x87, -0.0), "a flushed negative subnormal");
    assert!(!changed(0x38, 1.0 + f32::EPSILON), "the last bit of one");
    assert!(!changed(0xb8, 1.0), "a lost sign");
    assert!(!changed(0x40, f32::NAN), "a NaN");
    assert!(!exact(&want[..255], &want), "a code too few");
    assert!(changed(0x80, 0.0), "the sign of zero is of no consequence");
    assert!(changed(0x7f, 480.0), "a NaN code decodes to anything");
    assert_eq!(Decoder::Fast.name(), "fast");
}
