//! The bench: nothing is timed on an adapter that computes something else; what is, has its limits.

use bise::engine::bench::{BenchOptions, BenchReport, Figure};
use bise::engine::{Engine, EngineError, Prompt, WeightMode};
use pollster::block_on;

use crate::common::limits;
use crate::support::{greedy, load, load_on_cpu, run};

const MODEL: &str = "www/models/tale";

fn expected() -> Vec<f32> {
    block_on(load_on_cpu(MODEL, WeightMode::F8).bench_logits()).unwrap()
}

fn bench(engine: &mut Engine, expected: &[f32], said: &mut Vec<String>) -> Result<BenchReport, EngineError> {
    let options = BenchOptions { rounds: 1, longest: 16, quick: true };
    block_on(engine.bench(expected, options, &mut |what, _| said.push(what.to_owned()), &|| false))
}

/// A token's limit: each matrix read once at the best rate of its type, keys and values at that of the bare read.
fn check_limit(report: &BenchReport) {
    let figure = |kind: &str, name: &str| {
        report.figures.0.iter().find(|figure| figure.kind == kind && figure.name == name).unwrap()
    };
    let bytes_per_ms = |name: &str| figure("limit", name).value * 1e6;
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{MODEL}/config.json")).unwrap()).unwrap();
    let size = |name: &str| config[name].as_f64().unwrap();
    let [hidden, wide, layers] = ["hidden_size", "intermediate_size", "num_hidden_layers"].map(size);
    let [q, kv] = ["num_attention_heads", "num_key_value_heads"].map(|heads| size(heads) * size("head_dim"));
    let in_fp8 = layers * hidden * (q + 2.0 * kv + q + 3.0 * wide);
    let in_bf16 = 2.0 * size("vocab_size") * hidden;
    let in_cache = 16.0 * layers * 2.0 * kv * 2.0;
    let ms = in_fp8 / bytes_per_ms("matrix-vector F8_E4M3")
        + in_bf16 / bytes_per_ms("matrix-vector BF16")
        + in_cache / bytes_per_ms("streaming read");
    let limit = figure("decode", "token").limit.unwrap();
    assert!((limit * ms / 1e3 - 1.0).abs() < 1e-6, "{limit} tokens/s, and {ms} ms a token");
}

#[test]
fn a_model_is_timed_beside_the_limits_of_its_adapter() {
    let mut engine = load(MODEL, WeightMode::F8, limits());
    let report = bench(&mut engine, &expected(), &mut Vec::new()).unwrap();
    assert!(report.deviation > 0.0 && report.deviation < 5e-3, "{}", report.deviation);
    // Where next to nothing can be bound, a limit of products has no room.
    let is_tiny = engine.info().adapter.max_binding_bytes < 1 << 20;
    let of_kind =
        |kind: &str| -> Vec<&Figure> { report.figures.0.iter().filter(|f| f.kind == kind).collect() };
    for kind in
        ["limit", "kernel", "merge", "load", "first token", "prefill", "decode", "submits", "dispatches"]
    {
        assert!(!of_kind(kind).is_empty(), "no {kind}");
    }
    for figure in &report.figures.0 {
        let Figure { value, spread: [least, most], samples, .. } = figure;
        // What a token takes beside its kernels may be less than nothing: in the profile, each is a pass of its own.
        let is_difference = figure.kind == "token" && figure.name == "beside its kernels";
        assert!(
            value.is_finite()
                && (*value >= 0.0 || is_difference)
                && least <= value
                && value <= most
                && *samples > 0,
            "{figure:?}"
        );
        match (figure.limit, figure.ratio) {
            (Some(limit), Some(ratio)) => {
                assert!((ratio - value / limit).abs() <= 1e-9 * ratio, "{figure:?}")
            }
            (None, None) => {
                let has_limit = ["prefill", "decode", "merge", "load"].contains(&figure.kind);
                assert!(!has_limit || is_tiny, "{figure:?}")
            }
            _ => panic!("{figure:?}"),
        }
    }
    let measured: Vec<&str> = of_kind("limit").iter().map(|figure| figure.name.as_str()).collect();
    for limit in ["streaming read", "matrix-vector F8_E4M3", "matrix-matrix F8_E4M3", "dispatches"] {
        assert!(measured.contains(&limit) || is_tiny, "no {limit} in {measured:?}");
    }
    assert_eq!(of_kind("submits")[0].value, 1.0, "one submit for each token");
    let count = |name: &str| of_kind("dispatches").iter().find(|figure| figure.name == name).map(|f| f.value);
    // A table that is split has a dispatch for each part.
    assert!(count("embed") == Some(1.0) || is_tiny);
    assert!(count("per layer").is_some_and(|count| (1.0..=9.0).contains(&count)) || is_tiny);
    // The profile is of the whole token, the choice included.
    assert_eq!([count("sample_adjust"), count("sample_pick")], [Some(1.0), Some(1.0)]);
    let [all, parts] = [true, false].map(|is_sum| {
        let of_token = of_kind("dispatches").into_iter().filter(|f| f.name != "per layer");
        of_token.filter(|f| (f.name == "per token") == is_sum).map(|f| f.value).sum::<f64>()
    });
    assert_eq!(all, parts);
    let token: Vec<&str> = of_kind("token").iter().map(|figure| figure.name.as_str()).collect();
    if of_kind("time").is_empty() {
        assert!(token.is_empty());
        assert!(report.notes.iter().any(|note| note.contains("no timestamps")), "{:?}", report.notes);
    } else {
        assert_eq!(token, ["its kernels, summed", "in the token loop", "beside its kernels"]);
        let values: Vec<f64> = of_kind("token").iter().map(|figure| figure.value).collect();
        assert!((values[1] - values[0] - values[2]).abs() < 1e-9, "{values:?}");
        let kernels: f64 = of_kind("time").iter().map(|figure| figure.spread[0]).sum();
        assert!(kernels <= values[0] * (1.0 + 1e-9), "{kernels} in {values:?}");
    }
    if !is_tiny {
        check_limit(&report);
    }
    // The engine still works, and does not continue what was timed.
    let prompt = || Prompt::Text("Once upon a time".into());
    let text = run(&mut engine, &greedy(prompt(), 8)).unwrap().text;
    assert_eq!(text, run(&mut load(MODEL, WeightMode::F8, limits()), &greedy(prompt(), 8)).unwrap().text);
}

#[test]
fn nothing_is_timed_where_logits_are_wrong() {
    let mut engine = load(MODEL, WeightMode::F8, limits());
    let right = expected();
    let largest = right.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let with = |at: usize, value: f32| {
        let mut wrong = right.clone();
        wrong[at] = value;
        wrong
    };
    // One logit of the last pass that is a hundredth off; one that is none; one too few.
    let last = right.len() - 1;
    for wrong in [with(last, right[last] + largest / 100.0), with(7, f32::NAN), right[1..].to_vec()] {
        let mut said = Vec::new();
        let error = bench(&mut engine, &wrong, &mut said).unwrap_err();
        assert!(matches!(error, EngineError::WrongLogits(_)) && error.code() == "integrity", "{error}");
        assert!(error.to_string().ends_with("nothing was timed"), "{error}");
        assert_eq!(said, ["comparing logits"]);
    }
    let mut on_cpu = load_on_cpu(MODEL, WeightMode::F8);
    let error = bench(&mut on_cpu, &right, &mut Vec::new()).unwrap_err();
    assert_eq!(error.code(), "bad-request", "{error}");
    let stopped =
        block_on(engine.bench(&right, BenchOptions::default(), &mut |_, _| (), &|| true)).unwrap_err();
    assert_eq!(stopped.code(), "aborted");
}
