//! `tale` and `case` against transformers, at every limit of the device.

use bise::engine::{Prompt, WeightMode};
use bise::gpu::LimitChoice;
use pollster::block_on;
use serde_json::Value;

use crate::support::{greedy, greedy_agrees, ids, json, load, logits_agree, run};

/// Share of the largest logit that others may differ by.
const TOLERANCE: f64 = 5e-3;

/// Holds 21 rows of the widest matrix of the pair (512 columns of bf16) and so splits every one.
const SPLITTING_LIMIT: u64 = 22_000;

fn check(model: &str, limits: LimitChoice) {
    let golden = json("tests/fixtures/golden.json");
    let mut engine = load(&format!("www/models/{model}"), WeightMode::Checkpoint, limits);
    let cases = golden["models"][model].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let name = case["prompt"].as_str().unwrap();
        let prompt = ids(&case["input_ids"]);
        let logits = block_on(engine.logits(&prompt)).unwrap();
        logits_agree(&logits, &case["top20"], TOLERANCE).unwrap_or_else(|e| panic!("{model}, {name}: {e}"));
        let norm = logits.iter().map(|&l| f64::from(l).powi(2)).sum::<f64>().sqrt();
        let expected = case["logits_l2"].as_f64().unwrap();
        assert!((norm / expected - 1.0).abs() < TOLERANCE, "{model}, {name}: norm {norm}, not {expected}");

        let output = run(&mut engine, &greedy(Prompt::Ids(prompt), 48)).unwrap();
        let margins: Vec<f64> =
            case["margins"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap()).collect();
        let expected = ids(&case["greedy_ids"]);
        greedy_agrees(&output.ids, &expected, &margins).unwrap_or_else(|e| panic!("{model}, {name}: {e}"));
        if output.ids == expected {
            assert_eq!(output.text, case["greedy_text"].as_str().unwrap(), "{model}, {name}");
        }
    }
}

#[test]
fn tale_agrees_with_transformers() {
    check("tale", LimitChoice::Adapter);
}

#[test]
fn case_agrees_with_transformers() {
    check("case", LimitChoice::Adapter);
}

#[test]
fn tale_agrees_at_webgpus_default_limits() {
    check("tale", LimitChoice::Default);
}

#[test]
fn case_agrees_with_every_matrix_split() {
    check("case", LimitChoice::Binding(SPLITTING_LIMIT));
}

/// Negative control: the comparisons above do fail.
#[test]
fn comparisons_notice_a_wrong_logit_and_a_wrong_token() {
    let golden = json("tests/fixtures/golden.json");
    let case = &golden["models"]["tale"][0];
    let mut logits = vec![0.0; 2048];
    for pair in case["top20"].as_array().unwrap() {
        logits[pair[0].as_u64().unwrap() as usize] = pair[1].as_f64().unwrap() as f32;
    }
    logits_agree(&logits, &case["top20"], TOLERANCE).unwrap();
    let tenth = case["top20"][9][0].as_u64().unwrap() as usize;
    logits[tenth] *= 1.02;
    logits_agree(&logits, &case["top20"], TOLERANCE).unwrap_err();
    logits[tenth] = f32::NAN;
    logits_agree(&logits, &case["top20"], TOLERANCE).unwrap_err();

    let expected = ids(&case["greedy_ids"]);
    let mut wrong = expected.clone();
    wrong[20] += 1;
    greedy_agrees(&wrong, &expected, &[1.0; 48]).unwrap_err();
    greedy_agrees(&wrong, &expected, &[0.001; 48]).unwrap();
}

/// The window matters: without it the long prompt's logits would be others.
#[test]
fn the_long_prompt_needs_the_window() {
    let golden = json("tests/fixtures/golden.json");
    let long: &Value = &golden["models"]["tale"][1];
    assert_eq!(long["prompt"], "long");
    let off = long["if_sliding_window_were_off"]["max_abs_difference"].as_f64().unwrap();
    let largest = long["top20"][0][1].as_f64().unwrap().abs();
    assert!(off > TOLERANCE * largest * 2.0, "{off} against {largest}: the prompt would not notice");
}
