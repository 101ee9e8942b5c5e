//! Perplexity of the merged pair on the held-out texts, against transformers'. A binary of its own:
//! it takes a minute on lavapipe, and another adapter would tell nothing new.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "gpu_model/support.rs"]
#[allow(dead_code, reason = "shared with the tests of whole models")]
mod support;

use bise::engine::{BackendChoice, LoadOptions, WeightMode};
use bise::gpu::LimitChoice;
use pollster::block_on;

use support::{cost_of_fp8_cache, from_top, held_out, json, load_merge_with, merge, webgpu};

/// Of both held-out texts, as golden.json describes it: on the CPU, and of one of them on WebGPU, where each token is
/// decoded by itself as well.
#[test]
fn of_the_merged_pair() {
    let golden = json("tests/fixtures/golden.json");
    let on_cpu = LoadOptions { backend: BackendChoice::Cpu, ..LoadOptions::default() };
    let texts = ["heldout-tale.txt", "heldout-case.txt"];
    for (options, texts) in [(on_cpu, &texts[..]), (webgpu(LimitChoice::Adapter), &texts[..1])] {
        let options = LoadOptions { weights: WeightMode::Checkpoint, ..options };
        let mut engine = load_merge_with(&merge(None), &options);
        let backend = engine.info().backend;
        for text in texts {
            let content = std::fs::read_to_string(from_top("tests/fixtures").join(text)).unwrap();
            let tokens = engine.tokenizer().unwrap().encode(&content, false).unwrap();
            let recorded = &golden["perplexity"]["merged"][text];
            assert_eq!(tokens.len() as u64, recorded["tokens"].as_u64().unwrap(), "{text}");
            let mut sum = 0.0;
            for run in tokens.chunks(255) {
                let ids: Vec<u32> = [1].iter().chain(run).copied().collect();
                let scores = block_on(engine.log_likelihoods(&ids)).unwrap();
                assert_eq!(scores.len(), run.len());
                sum -= scores.iter().map(|&p| f64::from(p)).sum::<f64>();
            }
            let perplexity = (sum / tokens.len() as f64).exp();
            let expected = recorded["perplexity"].as_f64().unwrap();
            println!("{text}, {backend}: perplexity {perplexity:.4}, recorded {expected:.4}");
            assert!((perplexity / expected - 1.0).abs() < 0.01, "{text}: {perplexity}, not {expected}");
        }
    }
}

/// With keys and values as FP8, of tale and of SmolLM2.
#[test]
fn with_a_cache_of_fp8() {
    let options = LoadOptions { weights: WeightMode::Checkpoint, ..webgpu(LimitChoice::Adapter) };
    let mut models = vec![("www/models/tale", 300)];
    match std::env::var("BISE_NO_SMOLLM2").as_deref() {
        Ok("1") => println!("BISE_NO_SMOLLM2=1: SmolLM2 is not tested"),
        _ => models.push(("target/models/smollm2-135m", 64)),
    }
    for (model, tokens) in models {
        let ids = held_out(model, "heldout-tale.txt", tokens);
        let [logit, likelihood, perplexity] = cost_of_fp8_cache(model, &options, &ids);
        assert!(logit < 0.05 && likelihood < 0.12, "{model}: {logit}, {likelihood}");
        assert!((perplexity - 1.0).abs() < 0.02, "{model}: {perplexity}");
    }
}
