//! The merged pair: mergekit's result against transformers, made by bise straight into the GPU.

use bise::engine::{Engine, EngineError, Prompt};
use pollster::block_on;

use crate::support::{greedy, greedy_agrees, ids, json, load_merge, logits_agree, merge, run};

fn replace(engine: &mut Engine, t: Option<f64>, cancelled: &dyn Fn() -> bool) -> Result<(), EngineError> {
    let merge = merge(t);
    let manifest = merge.manifest().unwrap();
    block_on(engine.replace_weights(&merge, &manifest, &mut |_| (), cancelled))
}

fn check(engine: &mut Engine, model: &str) -> Result<(), String> {
    let golden = json("tests/fixtures/golden.json");
    for case in golden["models"][model].as_array().unwrap() {
        let prompt = ids(&case["input_ids"]);
        logits_agree(&block_on(engine.logits(&prompt)).unwrap(), &case["top20"], 5e-3)?;
        let margins: Vec<f64> =
            case["margins"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap()).collect();
        let output = run(engine, &greedy(Prompt::Ids(prompt), 48)).unwrap();
        greedy_agrees(&output.ids, &ids(&case["greedy_ids"]), &margins)?;
    }
    Ok(())
}

#[test]
fn a_merge_into_the_gpu_runs_as_transformers_runs_mergekits() {
    let mut engine = load_merge(&merge(None));
    check(&mut engine, "merged").unwrap();
    // The parents are others, so the check above can fail.
    check(&mut engine, "tale").unwrap_err();

    // The same engine takes other blends: t 0 is one parent, t 1 the other.
    for (t, model) in [(0.0, "tale"), (1.0, "case")] {
        replace(&mut engine, Some(t), &|| false).unwrap();
        check(&mut engine, model).unwrap();
    }
}

#[test]
fn a_merge_that_stops_half_way_leaves_an_engine_that_takes_the_next() {
    let mut engine = load_merge(&merge(None));
    let pieces = std::cell::Cell::new(0);
    let cancelled = || {
        pieces.set(pieces.get() + 1);
        pieces.get() > 6
    };
    let error = replace(&mut engine, Some(0.0), &cancelled).unwrap_err();
    assert_eq!(error.code(), "aborted");
    let refused = block_on(engine.logits(&[1])).unwrap_err();
    assert_eq!(refused.code(), "bad-request");
    replace(&mut engine, None, &|| false).unwrap();
    check(&mut engine, "merged").unwrap();
}
