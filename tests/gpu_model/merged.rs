//! The merged pair: mergekit's result against transformers, made by bise straight into the GPU.

use std::rc::Rc;

use bise::checkpoint::source::FileSource;
use bise::engine::{Engine, EngineError, LoadOptions, Prompt, WeightMode};
use bise::gpu::LimitChoice;
use bise::merge::{Merge, MergeOptions, Parent, Recipe};
use pollster::block_on;

use crate::support::{from_top, gpu, greedy, greedy_agrees, ids, json, logits_agree, run};

/// tale-x-case with other values of t where `t` is given.
fn merge(t: Option<f64>) -> Merge<FileSource> {
    let text = std::fs::read_to_string(from_top("tests/fixtures/recipes/tale-x-case.yml")).unwrap();
    let text = match (t, text.find("parameters:")) {
        (Some(t), Some(at)) => format!("{}parameters: {{t: {t}}}\ndtype: bfloat16\n", &text[..at]),
        _ => text,
    };
    let recipe = Recipe::parse(&text).unwrap();
    block_on(async {
        let mut parents = Vec::new();
        for model in recipe.models() {
            let source = FileSource::new(from_top("www/models").join(&model.path));
            parents.push(Parent::open(model, source).await.unwrap());
        }
        let (cancelled, on_tensor) = (Rc::new(|| false), Box::new(|_: &_| ()));
        Merge::new(recipe, &text, parents, MergeOptions::default(), cancelled, on_tensor).await.unwrap()
    })
}

fn load(merge: &Merge<FileSource>) -> Engine {
    let gpu = gpu(LimitChoice::Adapter);
    let options = LoadOptions { weights: WeightMode::Checkpoint, context_length: None, gpu };
    block_on(Engine::load_known(merge, merge.manifest().ok(), &options, &mut |_| (), &|| false)).unwrap()
}

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
    let mut engine = load(&merge(None));
    check(&mut engine, "merged").unwrap();
    // The parents are others, so the check above can fail.
    check(&mut engine, "tale").unwrap_err();
    perplexity(&mut engine);

    // The same engine takes other blends: t 0 is one parent, t 1 the other.
    for (t, model) in [(0.0, "tale"), (1.0, "case")] {
        replace(&mut engine, Some(t), &|| false).unwrap();
        check(&mut engine, model).unwrap();
    }
}

/// Of both held-out texts, as golden.json describes it.
fn perplexity(engine: &mut Engine) {
    let golden = json("tests/fixtures/golden.json");
    for text in ["heldout-tale.txt", "heldout-case.txt"] {
        let content = std::fs::read_to_string(from_top("tests/fixtures").join(text)).unwrap();
        let tokens = engine.tokenizer().unwrap().encode(&content, false).unwrap();
        let recorded = &golden["perplexity"]["merged"][text];
        assert_eq!(tokens.len() as u64, recorded["tokens"].as_u64().unwrap(), "{text}");
        let mut sum = 0.0;
        for run in tokens.chunks(255) {
            let ids: Vec<u32> = [1].iter().chain(run).copied().collect();
            sum -= block_on(engine.log_likelihoods(&ids)).unwrap().iter().map(|&p| f64::from(p)).sum::<f64>();
        }
        let perplexity = (sum / tokens.len() as f64).exp();
        let expected = recorded["perplexity"].as_f64().unwrap();
        println!("{text}: perplexity {perplexity:.4}, recorded {expected:.4}");
        assert!((perplexity / expected - 1.0).abs() < 0.01, "{text}: {perplexity}, not {expected}");
    }
}

#[test]
fn a_merge_that_stops_half_way_leaves_an_engine_that_takes_the_next() {
    let mut engine = load(&merge(None));
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
