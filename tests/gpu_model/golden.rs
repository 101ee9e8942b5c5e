//! `tale` and `case` against transformers, at every limit of the device.

use bise::engine::WeightMode;
use bise::gpu::LimitChoice;
use serde_json::Value;

use crate::support::{TOLERANCE, check_golden, greedy_agrees, ids, json, load, logits_agree};

/// Holds 21 rows of the widest matrix of the pair (512 columns of bf16) and so splits every one.
const SPLITTING_LIMIT: u64 = 22_000;

fn check(model: &str, limits: LimitChoice) {
    let mut engine = load(&format!("www/models/{model}"), WeightMode::Checkpoint, limits);
    check_golden(&mut engine, model);
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
