//! Matrices as large as those of Mistral 7B, and contexts as long, on the adapter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use bise::checkpoint::Manifest;
use bise::checkpoint::source::read_all;
use bise::engine::{BackendChoice, Engine, LoadOptions, WeightMode};
use bise::gpu::{Gpu, GpuMatrix, GpuOptions, LimitChoice};
use bise::kernels::WebGpu;
use bise::model::{Config, Precision, WeightPlan, Weights};
use bise::steps::{DecoderShape, Store};
use common::synthetic::{Layout, SyntheticSource};
use pollster::block_on;
use serde_json::Value;

/// One layer of Mistral 7B, with its embedding and head of 262 MB each.
const WIDE: &str = include_str!("fixtures/synthetic/wide.json");
/// Its logits by tests/seven_billion_reference.py; tests/browser/synthetic.e2e.js makes them anew.
const WIDE_LOGITS: &str = include_str!("fixtures/synthetic/wide_logits.json");

const MIB: u64 = 1 << 20;

fn gpu(limits: LimitChoice) -> GpuOptions {
    GpuOptions { adapter: std::env::var("BISE_ADAPTER").ok(), limits, ..GpuOptions::default() }
}

fn load(source: &SyntheticSource, limits: LimitChoice, context: u32) -> Engine {
    let options = LoadOptions {
        weights: WeightMode::F8,
        context_length: Some(context),
        backend: BackendChoice::Webgpu,
        gpu: gpu(limits),
        ..LoadOptions::default()
    };
    block_on(Engine::load(source, &options, &mut |_| (), &|| false)).unwrap()
}

/// Whether each recorded logit is within 5e-3 of the largest.
fn agrees(logits: &[f32], recorded: &Value) -> Result<(), String> {
    let pairs: Vec<(usize, f64)> = serde_json::from_value(recorded.clone()).unwrap();
    assert_eq!(pairs.len(), 20);
    let allowed = 5e-3 * pairs.iter().map(|(_, logit)| logit.abs()).fold(0.0, f64::max);
    for (id, expected) in pairs {
        let off = (f64::from(logits[id]) - expected).abs();
        if off.is_nan() || off > allowed {
            return Err(format!("logit of {id} is {}, not {expected}", logits[id]));
        }
    }
    Ok(())
}

/// At WebGPU's default limits, which are Firefox's, and at a quarter of them, where the matrices
/// of the MLP are split as well.
#[test]
fn a_layer_of_seven_billion_runs_at_default_limits_and_below() {
    let recorded: Value = serde_json::from_str(WIDE_LOGITS).unwrap();
    let ids: Vec<u32> = serde_json::from_value(recorded["ids"].clone()).unwrap();
    for (layout, limits, key) in [
        (Layout::Fp8, LimitChoice::Default, "fp8"),
        (Layout::Fp8, LimitChoice::Binding(32 * MIB), "fp8"),
        (Layout::Bf16, LimitChoice::Default, "bf16_to_f8"),
    ] {
        let source = SyntheticSource::with_layout(WIDE, layout, u64::MAX);
        let mut engine = load(&source, limits, 64);
        let info = engine.info();
        assert!(info.adapter.max_binding_bytes <= 128 * MIB, "{}", info.adapter.max_binding_bytes);
        assert!(info.memory.weights > 740_000_000, "{}", info.memory.weights);
        let logits = block_on(engine.logits(&ids)).unwrap();
        assert_eq!(agrees(&logits, &recorded[key]), Ok(()), "{layout:?}, {limits:?}");
        // The other way to store the weights is told apart, and so is one wrong logit.
        let other = if key == "fp8" { "bf16_to_f8" } else { "fp8" };
        assert!(agrees(&logits, &recorded[other]).is_err());
        let mut wrong = logits;
        wrong[recorded[key][7][0].as_u64().unwrap() as usize] *= 1.02;
        assert!(agrees(&wrong, &recorded[key]).is_err());
    }
}

/// The rows of every matrix lie in buffers within the limit, one after the other.
#[test]
fn matrices_of_seven_billion_are_split_by_rows() {
    let source = SyntheticSource::with_layout(WIDE, Layout::Fp8, u64::MAX);
    let json = block_on(read_all(&source, "config.json", None, MIB)).unwrap();
    let config = Config::parse(&json).unwrap();
    let manifest = block_on(Manifest::read(&source)).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let plan = WeightPlan::new(&config, &json, &manifest, Precision::F8).unwrap();
    // Parts of embedding or head, of gate, up or down, and of the fused q, k and v, of 24 MiB.
    for (limit, wide, mlp, qkv) in [(128, 2, 1, 1), (64, 4, 1, 1), (32, 8, 2, 1), (16, 16, 4, 2)] {
        let gpu = block_on(Gpu::open(&gpu(LimitChoice::Binding(limit * MIB)))).unwrap();
        assert_eq!(gpu.tier().max_binding_bytes, limit * MIB);
        let mut shape = config.shape(64);
        shape.max_batch = WebGpu::max_batch(gpu.tier(), &shape);
        let mut backend = block_on(WebGpu::new(gpu, shape)).unwrap();
        let weights = Weights::allocate(&plan, &mut backend).unwrap();
        block_on(backend.allocated()).unwrap();
        let check = |matrix: &GpuMatrix, parts: usize| {
            let label = &matrix.spec.label;
            assert_eq!(matrix.parts.len(), parts, "{label} at {limit} MiB");
            let mut next = 0;
            for part in &matrix.parts {
                assert_eq!(part.first_row, next, "{label}");
                assert!(u64::from(part.rows) * matrix.row_stride() <= limit * MIB, "{label}");
                assert!(part.first_row % 4 == 0, "{label}: groups of four rows stay together");
                next += part.rows;
            }
            assert_eq!(next, matrix.spec.rows, "{label}");
        };
        check(&weights.embed, wide);
        check(weights.head(), wide);
        let layer = &weights.layers[0];
        for matrix in [&layer.gate, &layer.up, &layer.down] {
            check(matrix, mlp);
        }
        let [(0, fused)] = &*layer.qkv else { panic!("queries, keys and values are one matrix") };
        check(fused, qkv);
        check(&layer.output, 1);
    }
}

/// Mistral 7B's shape with two layers, and without a window if that is asked for.
fn shape(gpu: &Gpu, context: u32, window: Option<u32>) -> DecoderShape {
    let mut json: Value = serde_json::from_str(WIDE).unwrap();
    json["num_hidden_layers"] = 2.into();
    json["sliding_window"] = window.into();
    let mut shape = Config::parse(json.to_string().as_bytes()).unwrap().shape(context);
    shape.max_batch = WebGpu::max_batch(gpu.tier(), &shape);
    shape
}

/// Two f16 per key/value element and position, as far as the window reaches; everything else grows
/// no faster than the context, so that nothing grows as its square.
#[test]
fn memory_of_long_contexts_is_as_computed() {
    for window in [None, Some(4096)] {
        let mut before: Option<(u64, u64)> = None;
        for context in [1024, 2048, 4096, 8192, 16_384, 32_768] {
            let gpu = block_on(Gpu::open(&gpu(LimitChoice::Default))).unwrap();
            let shape = shape(&gpu, context, window);
            assert_eq!(shape.max_batch, 256);
            let backend = block_on(WebGpu::new(gpu, shape.clone())).unwrap();
            let [weights, cache, activations] = backend.info().bytes;
            assert_eq!(weights, 0);
            let positions = u64::from(if window.is_some() { context.min(4096 + 256) } else { context });
            let (layers, kv_heads, head_dim, f16) = (2, 8, 128, 2);
            assert_eq!(cache, layers * positions * kv_heads * head_dim * 2 * f16, "{context}, {window:?}");
            assert_eq!(cache, shape.cache_bytes());
            println!("{context} positions, window {window:?}: cache {cache}, activations {activations}");
            if let Some((half, earlier)) = before {
                assert!(
                    activations >= earlier && activations - earlier <= earlier / 8,
                    "{context}, {window:?}"
                );
                assert!(cache <= 2 * half, "{context}, {window:?}");
            }
            // The scores of one head would have 4 GiB at the longest of these contexts.
            assert!(activations < 64 * MIB, "{activations}");
            before = Some((cache, activations));
        }
    }
    // At 4096 positions of all 32 layers: half a GiB.
    let config = Config::parse(include_bytes!("fixtures/mistral7b/config.json")).unwrap();
    let mut shape = config.shape(4096);
    shape.max_batch = 256;
    assert_eq!(shape.cache_bytes(), 512 * MIB);
}

/// Nothing is allocated while a sequence grows beyond the window, and the cache rolls.
#[test]
fn a_rolling_window_allocates_nothing_on_the_way() {
    let config = r#"{
        "model_type": "mistral", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": true,
        "max_position_embeddings": 8192, "sliding_window": 256
    }"#;
    let source = SyntheticSource::with_layout(config, Layout::Fp8, u64::MAX);
    let mut engine = load(&source, LimitChoice::Default, 4096);
    let ids: Vec<u32> = (0..1500).map(|i| 3 + i * 7 % 290).collect();
    block_on(engine.logits(&ids[..2])).unwrap(); // makes what is made on first use
    let before = engine.info().memory;
    assert_eq!(before.kv_cache, 2 * (256 + 256) * 2 * 16 * 2 * 2);
    let long = block_on(engine.logits(&ids)).unwrap();
    assert_eq!(engine.info().memory, before);
    // Two layers see two windows; what lies before is forgotten, what lies within is not.
    let recent = block_on(engine.logits(&ids)).unwrap();
    assert!(recent == long);
    let mut other = ids.clone();
    other[1500 - 300] = 3;
    assert!(block_on(engine.logits(&other)).unwrap() != long);
    other = ids;
    other[1500 - 600] = 3;
    assert!(block_on(engine.logits(&other)).unwrap() == long);
    assert_eq!(engine.info().memory, before);
}
