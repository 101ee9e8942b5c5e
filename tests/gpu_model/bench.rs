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
        assert!(
            value.is_finite() && *value >= 0.0 && least <= value && value <= most && *samples > 0,
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
