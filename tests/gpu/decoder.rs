//! The whole decoder: against the reference, and prompts cut in different ways.

use bise::dtype::Dtype;
use bise::gpu::{GpuError, LimitChoice};
use bise::kernels::weights::Decoder as WeightDecoder;
use bise::kernels::{Choice, Sizes, Threads, WebGpu};
use bise::reference::{Reference, ReferenceError};
use bise::steps::sampling::{Past, Rules};
use bise::steps::{Batch, CacheForm, MatrixSpec, Slot, Steps, Store};

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
    kv_cache: CacheForm::F16,
    hidden: 36,
    intermediate: 70,
    head_dim: 10,
    context: 60,
    max_batch: 8,
    rows_per_write: 1000,
};

/// Between them every dtype, all granularities of scales, gate and up of different dtypes, widths
/// that fill no load, with and without a window that is far shorter than the sequence.
const MODELS: [Model; 10] = [
    // A context long enough for attention to be split over the cache.
    Model { context: 640, max_batch: 256, ..MODEL },
    Model { seed: 32, linear: F8, up: F8, window: Some(7), hidden: 33, rows_per_write: 3, ..MODEL },
    Model { seed: 33, embed: (Dtype::F16, 0), linear: (Dtype::F8E4m3, 16), up: (Dtype::F8E5m2, 32), ..MODEL },
    Model { seed: 34, embed: F8, linear: (Dtype::F32, 0), up: (Dtype::F32, 0), window: Some(1), ..MODEL },
    // Heads of whole loads: a token's attention rotates and stores by the way, split and rolled over.
    Model { seed: 35, head_dim: 16, linear: F8, up: F8, context: 640, max_batch: 256, ..MODEL },
    Model { seed: 36, head_dim: 24, window: Some(40), context: 200, max_batch: 16, ..MODEL },
    // A cache of FP8, with heads of whole loads and without, decoded safely and as this adapter chooses.
    Model { seed: 37, kv_cache: CacheForm::F8, head_dim: 16, context: 640, max_batch: 256, ..MODEL },
    Model { seed: 38, kv_cache: CacheForm::F8, head_dim: 24, window: Some(40), context: 200, ..MODEL },
    Model { seed: 39, kv_cache: CacheForm::F8, window: Some(7), ..MODEL },
    LARGE,
];

/// As large as an adapter that computes on the CPU has to find a model to take what is compiled longest for it.
const LARGE: Model =
    Model { seed: 40, head_dim: 16, linear: F8, window: Some(40), context: 4096, max_batch: 64, ..MODEL };

#[test]
fn decoder_agrees_with_the_reference() {
    for model in MODELS {
        let Some(gpu) = open(limits()) else { return };
        let mut backend = pollster::block_on(WebGpu::new(gpu, model.shape())).unwrap();
        if model.seed % 2 == 0 {
            // Both weight decoders, whatever this adapter would choose.
            backend.set_decoder(Dtype::F8E4m3, WeightDecoder::Safe);
            assert_eq!(backend.info().fp8_decoder, WeightDecoder::Safe);
        }
        // Each model with other threads, as tuning may choose them.
        let candidates = Sizes::ALL.map(Threads::candidates).concat();
        let threads = candidates[model.seed as usize * 3 % candidates.len()];
        backend.tune(Choice { threads, ..backend.choice() });
        let mut on_gpu = model.decoder(backend);
        assert_eq!(on_gpu.backend().choice().threads, threads);
        let mut reference = model.decoder(Reference::new(model.shape()));
        let (prompt, rest) = (ids(model.seed, model.context.min(640) - 6), ids(model.seed + 100, 6));
        // A full pass, one of one token, full ones, and what is left.
        let (first, others) = prompt.split_at(model.max_batch as usize + 1);
        let mut cuts = vec![first.len() - 1, 1];
        cuts.extend(others.chunks(model.max_batch as usize).map(<[u32]>::len));
        let got = logits(&mut on_gpu, &prompt, &cuts, &rest);
        let want = logits(&mut reference, &prompt, &cuts, &rest);
        // Keys and values are rounded to f16, on either side of a tie.
        let tolerance = Tolerance { abs: 5e-3, rel: 5e-3 };
        for (step, (got, want)) in got.iter().zip(&want).enumerate() {
            check(&(&model, "step", step), got, want, tolerance);
        }
        // The last token's activations, behind padding or not.
        let rotated = (model.head_dim % 8 != 0).then_some(Slot::Qkv);
        for slot in [Slot::X, Slot::AttnOut, Slot::Mlp].into_iter().chain(rotated) {
            let got = pollster::block_on(on_gpu.backend().read(slot, 1)).unwrap();
            check(&(&model, slot), &got, &reference.backend().read(slot, 1), tolerance);
        }
    }
}

/// Where a binding holds three rows of a matrix, its parts begin within the fours of rows whose squares products leave
/// for the norm behind them: that norm is made by a dispatch of its own.
#[test]
fn parts_of_three_rows_leave_no_squares() {
    let most = 9500;
    let Some(gpu) = open(LimitChoice::Binding(most)) else { return };
    let f32s = (Dtype::F32, 0);
    let model = Model { linear: f32s, up: f32s, intermediate: 600, context: 20, max_batch: 2, ..MODEL };
    assert_eq!(most / (u64::from(model.intermediate) * 4), 3);
    let mut on_gpu = model.decoder(pollster::block_on(WebGpu::new(gpu, model.shape())).unwrap());
    let mut reference = model.decoder(Reference::new(model.shape()));
    for (step, id) in ids(model.seed, 8).into_iter().enumerate() {
        let prompt = step < 2;
        let got = pollster::block_on(on_gpu.forward(&[id], prompt, true)).unwrap().unwrap();
        let want = pollster::block_on(reference.forward(&[id], prompt, true)).unwrap().unwrap();
        check(&("step", step), &got, &want, Tolerance { abs: 5e-3, rel: 5e-3 });
    }
}

/// A few tokens at once as decoding computes them, behind nothing, behind a prompt, and behind decoded ones.
#[test]
fn a_few_tokens_are_decoded_at_once() {
    for model in MODELS {
        let Some(gpu) = open(limits()) else { return };
        let mut on_gpu = model.decoder(pollster::block_on(WebGpu::new(gpu, model.shape())).unwrap());
        let mut reference = model.decoder(Reference::new(model.shape()));
        let mut rest = ids(model.seed, 25).into_iter();
        for (step, (tokens, prompt)) in
            [(3, false), (6, true), (1, false), (8, false), (2, false), (5, true)].into_iter().enumerate()
        {
            let ids: Vec<u32> = rest.by_ref().take(tokens).collect();
            let got = pollster::block_on(on_gpu.forward(&ids, prompt, true)).unwrap().unwrap();
            let want = pollster::block_on(reference.forward(&ids, prompt, true)).unwrap().unwrap();
            check(&(&model, "step", step), &got, &want, Tolerance { abs: 5e-3, rel: 5e-3 });
        }
        let many = vec![1; Choice::MOST_SHORT as usize + 1];
        let refused = pollster::block_on(on_gpu.forward(&many, false, true)).unwrap_err();
        assert!(matches!(&refused, GpuError::Shape { .. }), "{refused}");
    }
}

/// What a decoded token takes: at most six dispatches for each layer, five where attention is not split, and
/// one submit.
#[test]
fn a_layer_takes_five_or_six_dispatches() {
    let Some(gpu) = open(limits()) else { return };
    let model = Model { seed: 35, head_dim: 16, linear: F8, up: F8, context: 640, max_batch: 256, ..MODEL };
    let layers = u64::from(model.shape().layers);
    let mut decoder = model.decoder(pollster::block_on(WebGpu::new(gpu, model.shape())).unwrap());
    let dispatches = |decoder: &mut bise::model::Decoder<WebGpu>| {
        let rules = Rules { greedy: 1, ..Rules::default() };
        pollster::block_on(decoder.backend_mut().decodable()).unwrap();
        assert!(decoder.start_sampling(&rules, &[], Past::default()).unwrap().is_some(), "chosen there");
        let before = decoder.backend().gpu().traffic().submits;
        decoder.advance(&[5], false, 0).unwrap();
        assert_eq!(decoder.backend().gpu().traffic().submits - before, 1);
        pollster::block_on(decoder.chosen()).unwrap();
        let profile = pollster::block_on(decoder.backend_mut().profile(0.0)).unwrap();
        let mut all: Vec<_> = profile.kernels.iter().map(|kernel| (kernel.name, kernel.dispatches)).collect();
        all.sort_unstable();
        all
    };
    let short = [
        ("attend_one", layers),
        ("embed", 1),
        // Of the first norm: the others are made by what writes their input.
        ("gain", 1),
        ("matvec", 3 * layers + 1),
        ("matvec_gated", layers),
        ("sample_adjust", 1),
        ("sample_pick", 1),
    ];
    assert_eq!(dispatches(&mut decoder), short);
    decoder.assume(&vec![1; 600]);
    let mut long = short.to_vec();
    long.insert(1, ("attend_reduce", layers));
    assert_eq!(dispatches(&mut decoder), long);
}

/// Prefix reuse and batch sizes must not change what a model says.
#[test]
fn prompts_give_the_same_bits_however_they_are_cut() {
    let small = Model { seed: 41, linear: F8, up: F8, window: Some(9), max_batch: 45, ..MODEL };
    for model in [small, LARGE] {
        let Some(gpu) = open(limits()) else { return };
        let is_brief = Sizes::is_brief(gpu.tier(), &model.shape());
        assert_eq!(is_brief, gpu.tier().software && model.seed != LARGE.seed);
        let backend = pollster::block_on(WebGpu::new(gpu, model.shape())).unwrap();
        let mut decoder = model.decoder(backend);
        let (prompt, rest) = (ids(42, 45), ids(43, 3));
        let whole = logits(&mut decoder, &prompt, &[45], &rest);
        assert!(whole[0].iter().any(|v| *v != 0.0));
        let ones = vec![1; 45];
        for cuts in [vec![44, 1], vec![1, 44], vec![7, 33, 5], vec![32, 13], ones] {
            let cut = logits(&mut decoder, &prompt, &cuts, &rest);
            assert!(cut == whole, "{cuts:?}: other bits than in one pass of {model:?}");
        }
        // The comparison sees a token that differs.
        let mut other = prompt.clone();
        other[40] = (other[40] + 1) % 101;
        assert!(logits(&mut decoder, &other, &[45], &rest) != whole);
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
