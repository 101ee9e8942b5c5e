//! Every FP8 checkpoint format against the wide checkpoint that it stands for: logits, and memory.

use bise::checkpoint::source::MemorySource;
use bise::checkpoint::{Event, Manifest, ShardStream};
use bise::engine::{Engine, LoadOptions, WeightMode, inspect};
use bise::gpu::{DeviceTier, LimitChoice};
use bise::model::weights::LoadError;
use bise::model::{Config, Decoder, KvCache, Precision, WeightLoader, WeightPlan, Weights, decoder};
use bise::reference::{Reference, ReferenceError};
use bise::steps::{Steps, Store};
use pollster::block_on;

use crate::common::layouts::{Layout, Made, layouts, make};
use crate::common::limits;
use crate::support::webgpu;

const PROMPT: [u32; 9] = [1, 300, 1200, 7, 45, 2047, 999, 512, 64];

/// Share of the largest logit that rounding may take. Keys and values are kept as f16, and those of two
/// checkpoints may lie on either side of a tie.
const TOLERANCE: f32 = 5e-4;

fn options(weights: WeightMode, limits: LimitChoice) -> LoadOptions {
    LoadOptions { weights, ..webgpu(limits) }
}

/// Logits of the prompt as one pass, log-likelihoods token by token, and bytes of the weights.
fn on_gpu(source: &MemorySource, options: &LoadOptions) -> (Vec<f32>, Vec<f32>, u64) {
    block_on(async {
        let mut engine = Engine::load(source, options, &mut |_| (), &|| false).await.unwrap();
        let logits = engine.logits(&PROMPT).await.unwrap();
        let likelihoods = engine.log_likelihoods(&PROMPT).await.unwrap();
        (logits, likelihoods, engine.info().memory.weights)
    })
}

/// Logits by the plain Rust decoder.
fn on_reference(source: &MemorySource) -> Vec<f32> {
    block_on(async {
        let bytes = &source.files["config.json"];
        let (config, json) = (Config::parse(bytes).unwrap(), serde_json::from_slice(bytes).unwrap());
        let manifest = Manifest::read(source).await.unwrap();
        let plan = WeightPlan::new(&config, &json, &manifest, Precision::Checkpoint).unwrap();
        let mut shape = config.shape(16);
        shape.max_batch = 16;
        let mut backend = Reference::new(shape.clone());
        let weights = Weights::allocate(&plan, &mut backend).unwrap();
        decoder::plan(&mut backend, &weights).unwrap();
        backend.compile();
        let mut loader = WeightLoader::new(&plan, &weights);
        for shard in &manifest.shards {
            let mut stream = ShardStream::open(source, shard, shard.all(), || false).await.unwrap();
            let mut parser = stream.parser().unwrap();
            let mut sink = |loader: &mut WeightLoader<Reference>, event: Event<'_>| match event {
                Event::Chunk(chunk) => loader.write(&mut backend, &shard.file, &chunk),
                _ => Ok::<(), LoadError<ReferenceError>>(()),
            };
            while let Some(piece) = stream.next_piece().await.unwrap() {
                parser.write(&piece, &mut |event| sink(&mut loader, event)).unwrap();
            }
            parser.end(&mut |event| sink(&mut loader, event)).unwrap();
            loader.relieve(&mut backend).await.unwrap();
        }
        backend.flush().await.unwrap();
        let cache = KvCache::new(shape.cache_slots(), shape.window);
        let mut decoder = Decoder::new(backend, weights, cache, shape.max_batch);
        decoder.forward(&PROMPT, true, true).await.unwrap().unwrap()
    })
}

/// Largest difference, as a share of the largest expected value.
fn apart(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    assert!(got.iter().all(|value| value.is_finite()));
    let largest = expected.iter().fold(0f32, |max, value| max.max(value.abs()));
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

fn check(layout: &Layout, limits: LimitChoice) {
    let Made { fp8, wide, sizes } = make(layout, None);
    let kept = options(WeightMode::Checkpoint, limits);
    let (logits, likelihoods, bytes) = on_gpu(&fp8, &kept);
    let (expected, expected_likelihoods, wide_bytes) = on_gpu(&wide, &kept);
    let differences = [apart(&logits, &expected), apart(&likelihoods, &expected_likelihoods)];
    println!("{}: {differences:?}, {bytes} bytes, {wide_bytes} wide", layout.name);
    assert!(differences.iter().all(|share| *share < TOLERANCE), "{}: {differences:?}", layout.name);

    // Codes stay codes, and each has the scales of its own format. Only padding comes on top, more of it
    // where matrices are split.
    let least = sizes.weights + sizes.scales;
    assert!(
        (least..=least + least / 100 + 48 * sizes.tensors).contains(&bytes),
        "{}: {bytes}, {sizes:?}",
        layout.name
    );
    let tier = block_on(DeviceTier::probe(&kept.gpu)).unwrap();
    let inspection = block_on(inspect(&fp8, &kept, Some(&tier))).unwrap();
    assert_eq!(inspection.device_bytes, bytes, "{}", layout.name);
    assert!(inspection.problems.is_empty(), "{:?}", inspection.problems);
}

#[test]
fn every_layout_says_what_its_wide_twin_says() {
    let all = layouts();
    assert_eq!(all.len(), 17);
    for layout in all {
        check(&layout, limits());
    }
}

/// Split matrices, each with its part of the scales.
#[test]
fn blocks_and_mixtures_survive_splits() {
    let split = |layout: &&Layout| layout.name.contains("block") || layout.name.contains("ignored");
    for layout in layouts().iter().filter(split) {
        let Made { fp8, wide, .. } = make(layout, None);
        let (logits, ..) = on_gpu(&fp8, &options(WeightMode::Checkpoint, LimitChoice::Binding(22_000)));
        let (expected, ..) = on_gpu(&wide, &options(WeightMode::Checkpoint, limits()));
        let share = apart(&logits, &expected);
        assert!(share < TOLERANCE, "{}: {share}", layout.name);
    }
}

/// What the browser asks for: FP8 is not quantised again, and what was ignored is, by rows.
#[test]
fn weights_as_f8_leave_fp8_as_it_is() {
    for layout in layouts() {
        let Made { fp8, .. } = make(&layout, None);
        let (kept, _, bytes) = on_gpu(&fp8, &options(WeightMode::Checkpoint, limits()));
        let (logits, _, f8_bytes) = on_gpu(&fp8, &options(WeightMode::F8, limits()));
        if layout.name.contains("ignored") {
            assert!(f8_bytes < bytes, "{}", layout.name);
            let share = apart(&logits, &kept);
            assert!(share > 0.0 && share < 0.1, "{}: {share}", layout.name);
        } else {
            assert_eq!(bytes, f8_bytes, "{}", layout.name);
            assert!(logits == kept, "{}: other bits", layout.name);
        }
    }
}

#[test]
fn the_reference_decoder_agrees() {
    for layout in layouts() {
        let Made { fp8, wide, .. } = make(&layout, None);
        let (logits, expected) = (on_reference(&fp8), on_reference(&wide));
        let share = apart(&logits, &expected);
        let (on_gpu, ..) = on_gpu(&fp8, &options(WeightMode::Checkpoint, limits()));
        let gpu_share = apart(&on_gpu, &logits);
        println!("{}: {share} by the reference, {gpu_share} from it on the GPU", layout.name);
        assert!(share < TOLERANCE && gpu_share < 5e-3, "{}: {share}, {gpu_share}", layout.name);
    }
}

/// Negative control: a scale of one tensor that is off by 3 % is noticed.
#[test]
fn a_wrong_scale_is_noticed() {
    for layout in
        layouts().iter().filter(|layout| !layout.name.contains("raw") && !layout.name.contains("ignored"))
    {
        let name = "model.layers.3.self_attn.k_proj.weight";
        let Made { fp8, wide, .. } = make(layout, Some((name, 1.03)));
        let kept = options(WeightMode::Checkpoint, limits());
        let (logits, ..) = on_gpu(&fp8, &kept);
        let (expected, ..) = on_gpu(&wide, &kept);
        let share = apart(&logits, &expected);
        assert!(share > TOLERANCE, "{}: {share}", layout.name);
    }
}
