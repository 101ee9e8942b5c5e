//! The whole decoder: against the reference, and prompts cut in different ways.

use bise::dtype::Dtype;
use bise::kernels::WebGpu;
use bise::kernels::weights::Decoder as WeightDecoder;
use bise::reference::{Reference, ReferenceError};
use bise::steps::{Batch, MatrixSpec, Slot, Steps, Store};

use super::common::{Tolerance, check, limits, open};
use super::model::{Model, Stored, ids, logits};

const WHOLE_ROW: u32 = u32::MAX;

const BF16: Stored = (Dtype::Bf16, 0);
const F8: Stored = (Dtype::F8E4m3, WHOLE_ROW);

pub const MODEL: Model = Model {
    seed: 31,
    embed: BF16,
    linear: BF16,
    up: BF16,
    window: None,
    hidden: 36,
    context: 60,
    max_batch: 8,
    rows_per_write: 1000,
};

/// Between them every dtype, all granularities of scales, gate and up of different dtypes,
/// with and without a window that is far shorter than the sequence.
const MODELS: [Model; 7] = [
    MODEL,
    Model { seed: 32, linear: F8, up: F8, window: Some(7), ..MODEL },
    Model { seed: 33, embed: F8, linear: (Dtype::F8E4m3, 16), up: (Dtype::F8E4m3, 16), ..MODEL },
    Model { seed: 34, linear: (Dtype::F32, 0), up: (Dtype::F32, 0), window: Some(1), ..MODEL },
    Model { seed: 35, embed: (Dtype::F16, 0), linear: (Dtype::F8E5m2, 32), up: F8, ..MODEL },
    Model { seed: 36, linear: (Dtype::F16, 0), up: BF16, window: Some(16), hidden: 33, ..MODEL },
    Model { seed: 37, rows_per_write: 3, linear: F8, up: F8, hidden: 17, ..MODEL },
];

#[test]
fn decoder_agrees_with_the_reference() {
    for model in MODELS {
        let Some(gpu) = open(limits()) else { return };
        let backend = pollster::block_on(WebGpu::new(gpu, model.shape())).unwrap();
        let mut on_gpu = model.decoder(backend);
        let mut reference = model.decoder(Reference::new(model.shape()));
        let (prompt, rest) = (ids(model.seed, 27), ids(model.seed + 100, 6));
        let cuts = [8, 8, 1, 8, 2];
        let got = logits(&mut on_gpu, &prompt, &cuts, &rest);
        let want = logits(&mut reference, &prompt, &cuts, &rest);
        // Keys and values are rounded to f16, on either side of a tie.
        let tolerance = Tolerance { abs: 5e-3, rel: 5e-3 };
        for (step, (got, want)) in got.iter().zip(&want).enumerate() {
            check(&(&model, "step", step), got, want, tolerance);
        }
        // The last token's activations, behind padding or not.
        for slot in [Slot::X, Slot::Normed, Slot::Qkv, Slot::AttnOut, Slot::Mlp, Slot::LastNormed] {
            let got = pollster::block_on(on_gpu.backend().read(slot, 1)).unwrap();
            check(&(&model, slot), &got, &reference.backend().read(slot, 1), tolerance);
        }
    }
}

/// A context long enough for attention to be split over the cache.
#[test]
fn long_decodes_agree_with_the_reference() {
    let Some(gpu) = open(limits()) else { return };
    let model = Model { seed: 38, context: 640, max_batch: 256, ..MODEL };
    let backend = pollster::block_on(WebGpu::new(gpu, model.shape())).unwrap();
    let mut on_gpu = model.decoder(backend);
    let mut reference = model.decoder(Reference::new(model.shape()));
    let (prompt, rest) = (ids(model.seed, 600), ids(model.seed + 100, 3));
    let got = logits(&mut on_gpu, &prompt, &[256, 88, 256], &rest);
    let want = logits(&mut reference, &prompt, &[256, 88, 256], &rest);
    for (step, (got, want)) in got.iter().zip(&want).enumerate() {
        check(&(&model, "step", step), got, want, Tolerance { abs: 5e-3, rel: 5e-3 });
    }
}

/// Prefix reuse and batch sizes must not change what a model says.
#[test]
fn prompts_give_the_same_bits_however_they_are_cut() {
    let Some(gpu) = open(limits()) else { return };
    let model = Model { seed: 41, linear: F8, up: F8, window: Some(9), max_batch: 45, ..MODEL };
    let backend = pollster::block_on(WebGpu::new(gpu, model.shape())).unwrap();
    let mut decoder = model.decoder(backend);
    let (prompt, rest) = (ids(42, 45), ids(43, 3));
    let whole = logits(&mut decoder, &prompt, &[45], &rest);
    assert!(whole[0].iter().any(|v| *v != 0.0));
    let ones = vec![1; 45];
    for cuts in [vec![44, 1], vec![1, 44], vec![7, 33, 5], vec![32, 13], ones] {
        let cut = logits(&mut decoder, &prompt, &cuts, &rest);
        assert!(cut == whole, "{cuts:?}: other bits than in one pass");
    }
    // The comparison sees a token that differs.
    let mut other = prompt.clone();
    other[40] = (other[40] + 1) % 101;
    assert!(logits(&mut decoder, &other, &[45], &rest) != whole);
}

#[test]
fn both_weight_decoders_give_the_same_logits() {
    let mut of_decoder = Vec::new();
    for forced in [WeightDecoder::Safe, WeightDecoder::Fast] {
        let Some(gpu) = open(limits()) else { return };
        let mut backend = pollster::block_on(WebGpu::new(gpu, MODELS[1].shape())).unwrap();
        if backend.info().fp8_decoder == WeightDecoder::Safe && forced == WeightDecoder::Fast {
            println!("not run: this adapter has no exact fast decoder");
            return;
        }
        backend.set_decoder(Dtype::F8E4m3, forced);
        of_decoder.push(logits(&mut MODELS[1].decoder(backend), &ids(51, 8), &[8], &ids(52, 2)));
    }
    for (safe, fast) in of_decoder[0].iter().zip(&of_decoder[1]) {
        check(&MODELS[1], fast, safe, Tolerance { abs: 1e-4, rel: 1e-4 });
    }
}

/// The reference is an oracle only if it refuses what a backend must refuse.
#[test]
fn the_reference_refuses_what_does_not_fit() {
    let mut reference = Reference::new(MODEL.shape());
    let mut spec = MatrixSpec { label: "w".into(), rows: 4, cols: 3, dtype: Dtype::I32, scale_cols: 0 };
    assert!(matches!(reference.matrix(&spec), Err(ReferenceError::Dtype { .. })));
    spec.dtype = Dtype::Bf16;
    let matrix = reference.matrix(&spec).unwrap();
    for (first_row, length) in [(0, 5), (3, 12), (4, 6)] {
        let result = reference.write_rows(&matrix, first_row, &vec![0; length]);
        assert!(matches!(result, Err(ReferenceError::Shape { .. })), "{first_row} {length}");
    }
    assert!(reference.write_scales(&matrix, 0, &[1.0]).is_err());
    let vector = reference.vector("norm", 3).unwrap();
    assert!(reference.write_vector(&vector, &[1.0; 4]).is_err());
    for (position, tokens) in [(0, 0), (0, 9), (59, 2)] {
        let batch = Batch { ids: &vec![1; tokens], position, prompt: true };
        assert!(reference.begin(&batch).is_err(), "{position} {tokens}");
    }
}
