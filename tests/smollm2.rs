//! A real instruction model, SmolLM2-135M, against transformers: as stored and as f8.
//!
//! `./build.sh test` makes the checkpoint with tests/smollm2_checkpoint.py. Without it these
//! tests fail, unless BISE_NO_SMOLLM2=1 says that they are not wanted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "gpu_model/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the embedded models")]
mod support;

use bise::engine::bench::compared;
use bise::engine::{Engine, Message, Prompt, WeightMode};
use bise::gpu::LimitChoice;
use pollster::block_on;

use support::{from_top, greedy, ids, json, load, load_on_cpu, logits_agree, run};

const MODEL: &str = "target/models/smollm2-135m";

/// Tokens of a prompt on the CPU: one thread of a test build is slow, and the embedded models have a long one. And of
/// one in BF16 on WebGPU: how long a prompt is makes no difference to how weights are unpacked, and FP8 has them all.
const SHORT: usize = 100;

fn wanted() -> bool {
    if std::env::var("BISE_NO_SMOLLM2").as_deref() == Ok("1") {
        println!("BISE_NO_SMOLLM2=1: SmolLM2 is not tested");
        return false;
    }
    let there = from_top(MODEL).join("config.json").exists();
    assert!(there, "{MODEL} is missing: run ./build.sh test needs, or set BISE_NO_SMOLLM2=1");
    true
}

/// The recorded prompts of at most `most` tokens.
fn check(mut engine: Engine, key: &str, tolerance: f64, most: usize) {
    let vectors = json("tests/fixtures/vectors/smollm2.json");
    let mut checked = 0;
    for case in vectors["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let prompt = ids(&case["ids"]);
        if prompt.len() > most {
            continue;
        }
        checked += 1;
        let expected = &case[key];
        let logits = block_on(engine.logits(&prompt)).unwrap();
        logits_agree(&logits, &expected["top"], tolerance).unwrap_or_else(|e| panic!("{key}, {name}: {e}"));
        // All the other logits count, too.
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit)).sum();
        let norm = logits.iter().map(|&logit| f64::from(logit).powi(2)).sum::<f64>().sqrt();
        for (what, got) in [("sum", sum), ("norm", norm)] {
            let recorded = expected[what].as_f64().unwrap();
            let difference = (got / recorded - 1.0).abs();
            println!("{key}, {name}: {what} {difference:.1e} off");
            assert!(difference < tolerance, "{key}, {name}: {what} {got}, not {recorded}");
        }
        let greedy_ids = ids(&expected["greedy"]);
        let output = run(&mut engine, &greedy(Prompt::Ids(prompt), greedy_ids.len() as u32)).unwrap();
        assert_eq!(output.ids, greedy_ids, "{key}, {name}");
        if name == "chat" {
            assert_eq!(output.text, expected["text"].as_str().unwrap());
            let message = vectors["messages"][0]["content"].as_str().unwrap().to_owned();
            let messages = Prompt::Messages(vec![Message { role: "user".into(), content: message }]);
            let chat = run(&mut engine, &greedy(messages, 4)).unwrap();
            assert_eq!(chat.prompt_ids, ids(&case["ids"]), "the chat template gives the recorded prompt");
        }
    }
    assert!(checked >= 2, "{checked} prompts");
}

#[test]
fn as_stored() {
    if wanted() {
        check(load(MODEL, WeightMode::Checkpoint, LimitChoice::Adapter), "checkpoint", 5e-3, SHORT);
    }
}

#[test]
fn as_f8() {
    if wanted() {
        check(load(MODEL, WeightMode::F8, LimitChoice::Adapter), "f8", 5e-3, usize::MAX);
    }
}

#[test]
fn as_stored_on_the_cpu() {
    if wanted() {
        check(load_on_cpu(MODEL, WeightMode::Checkpoint), "checkpoint", 5e-3, SHORT);
    }
}

/// What a bench compares with, of a model of which the CPU takes fewer tokens at once than it compares.
#[test]
fn what_a_bench_compares_with() {
    if !wanted() {
        return;
    }
    let mut engine = load_on_cpu(MODEL, WeightMode::F8);
    let vocab = engine.info().vocab as usize;
    let passes = compared(vocab as u32);
    let logits = block_on(engine.bench_logits()).unwrap();
    assert_eq!(logits.len(), passes.len() * vocab);
    let alone = block_on(engine.logits(&passes[0].0)).unwrap();
    assert_eq!(alone, logits[..vocab], "those of the prompt");
    assert_ne!(alone, logits[vocab..2 * vocab], "those of the token behind it");
}

/// Root mean square of what logits are off the recorded ones.
fn distance(of: impl Fn(usize) -> Option<f64>, recorded: &serde_json::Value) -> f64 {
    let pairs = recorded.as_array().unwrap().iter();
    let squares: Vec<f64> = pairs
        .filter_map(|pair| Some(of(pair[0].as_u64().unwrap() as usize)? - pair[1].as_f64().unwrap()))
        .map(|off| off * off)
        .collect();
    assert!(squares.len() >= 18, "{} logits to compare", squares.len());
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

/// 8-bit integers are closer to what was stored than FP8 is, by transformers' values of both.
#[test]
fn as_i8_on_the_cpu() {
    if !wanted() {
        return;
    }
    let vectors = json("tests/fixtures/vectors/smollm2.json");
    let mut engine = load_on_cpu(MODEL, WeightMode::Auto);
    assert_eq!(engine.info().weights, WeightMode::I8, "the default on the CPU");
    let mut checked = 0;
    for case in vectors["cases"].as_array().unwrap() {
        let (name, prompt) = (case["name"].as_str().unwrap(), ids(&case["ids"]));
        if prompt.len() > SHORT {
            continue;
        }
        checked += 1;
        let logits = block_on(engine.logits(&prompt)).unwrap();
        let top = &case["checkpoint"]["top"];
        let fp8: std::collections::HashMap<usize, f64> =
            serde_json::from_value::<Vec<(usize, f64)>>(case["f8"]["top"].clone())
                .unwrap()
                .into_iter()
                .collect();
        let (own, of_fp8) =
            (distance(|id| Some(f64::from(logits[id])), top), distance(|id| fp8.get(&id).copied(), top));
        println!("{name}: {own:.3} off, FP8 {of_fp8:.3}");
        assert!(own < 0.75 * of_fp8, "{name}: {own} off, FP8 {of_fp8}");
        if name == "chat" {
            // Quantised weights may end a near tie otherwise, sooner or later.
            let stored = ids(&case["checkpoint"]["greedy"]);
            let output = run(&mut engine, &greedy(Prompt::Ids(prompt), stored.len() as u32)).unwrap();
            let common =
                |ids: &[u32]| ids.iter().zip(&stored).take_while(|(one, other)| one == other).count();
            let own = common(&output.ids);
            println!("{name}: {own} tokens of {} as stored", stored.len());
            assert!(own >= stored.len() * 3 / 4, "{name}: {own} tokens as stored");
        }
    }
    assert!(checked >= 2, "{checked} prompts");
}

#[test]
fn as_f8_on_the_cpu() {
    if wanted() {
        check(load_on_cpu(MODEL, WeightMode::F8), "f8", 5e-3, SHORT);
    }
}
