//! Loading a model for a test, and comparing logits with recorded ones.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use bise::checkpoint::source::FileSource;
use bise::engine::{
    BackendChoice, CacheForm, Engine, EngineError, LoadOptions, Output, Prompt, Request, WeightMode,
};
use bise::gpu::{GpuOptions, LimitChoice};
use bise::merge::{Merge, MergeOptions, Parent, Recipe};
use pollster::block_on;
use serde_json::Value;

/// A file or folder below the top of the repository.
pub fn from_top(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(from_top(path)).unwrap()).unwrap()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The adapter that BISE_ADAPTER names.
pub fn gpu(limits: LimitChoice) -> GpuOptions {
    GpuOptions { adapter: std::env::var("BISE_ADAPTER").ok(), limits, ..GpuOptions::default() }
}

/// WebGPU even on a software adapter that was not named: the tests' own choice.
pub fn webgpu(limits: LimitChoice) -> LoadOptions {
    LoadOptions { backend: BackendChoice::Webgpu, gpu: gpu(limits), ..LoadOptions::default() }
}

pub fn load(model: &str, weights: WeightMode, limits: LimitChoice) -> Engine {
    let engine = load_with(model, &LoadOptions { weights, ..webgpu(limits) });
    assert_eq!(engine.info().backend, "webgpu");
    engine
}

#[allow(dead_code, reason = "for the tests on the CPU, which share this file")]
pub fn load_on_cpu(model: &str, weights: WeightMode) -> Engine {
    let engine =
        load_with(model, &LoadOptions { weights, backend: BackendChoice::Cpu, ..LoadOptions::default() });
    assert_eq!(engine.info().backend, "cpu");
    engine
}

pub fn load_with(model: &str, options: &LoadOptions) -> Engine {
    let source = FileSource::new(from_top(model));
    block_on(Engine::load(&source, options, &mut |_| (), &|| false)).unwrap()
}

/// tale-x-case with other values of t where `t` is given.
pub fn merge(t: Option<f64>) -> Merge<FileSource> {
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

pub fn load_merge(merge: &Merge<FileSource>) -> Engine {
    let options = LoadOptions { weights: WeightMode::Checkpoint, ..webgpu(LimitChoice::Adapter) };
    load_merge_with(merge, &options)
}

pub fn load_merge_with(merge: &Merge<FileSource>, options: &LoadOptions) -> Engine {
    block_on(Engine::load_known(merge, merge.manifest().ok(), options, &mut |_| (), &|| false)).unwrap()
}

/// A greedy request for `max_tokens` tokens that does not stop.
pub fn greedy(prompt: Prompt, max_tokens: u32) -> Request {
    let request = serde_json::json!({
        "prompt": { "ids": [1] }, "temperature": 0.0, "max_tokens": max_tokens, "ignore_eos": true
    });
    Request { prompt, ..serde_json::from_value(request).unwrap() }
}

pub fn run(engine: &mut Engine, request: &Request) -> Result<Output, EngineError> {
    block_on(engine.generate(request, &mut |_| (), &|| false))
}

/// Whether each recorded `[id, logit]` is within `tolerance` of the largest magnitude among them.
pub fn logits_agree(logits: &[f32], recorded: &Value, tolerance: f64) -> Result<(), String> {
    let pairs: Vec<(usize, f64)> = recorded
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap()))
        .collect();
    assert!(pairs.len() >= 20, "only {} recorded logits", pairs.len());
    let largest = pairs.iter().map(|(_, logit)| logit.abs()).fold(0.0, f64::max);
    for (id, expected) in pairs {
        let got = f64::from(logits[id]);
        let difference = (got - expected).abs();
        if difference.is_nan() || difference > tolerance * largest {
            return Err(format!("logit of {id} is {got}, not {expected}: {difference} apart"));
        }
    }
    Ok(())
}

/// Whether greedy ids agree up to the first step whose recorded margin is under 0.005.
pub fn greedy_agrees(got: &[u32], expected: &[u32], margins: &[f64]) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("{} ids, not {}", got.len(), expected.len()));
    }
    for (step, (got, expected)) in got.iter().zip(expected).enumerate() {
        if margins.get(step).is_some_and(|margin| *margin < 0.005) {
            return Ok(());
        }
        if got != expected {
            return Err(format!("step {step}: {got}, not {expected}"));
        }
    }
    Ok(())
}

/// Share of the largest logit that others may differ by.
pub const TOLERANCE: f64 = 5e-3;

/// Logits, greedy tokens and text of the model's recorded prompts.
pub fn check_golden(engine: &mut Engine, model: &str) {
    let golden = json("tests/fixtures/golden.json");
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

        let output = run(engine, &greedy(Prompt::Ids(prompt), 48)).unwrap();
        let margins: Vec<f64> =
            case["margins"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap()).collect();
        let expected = ids(&case["greedy_ids"]);
        greedy_agrees(&output.ids, &expected, &margins).unwrap_or_else(|e| panic!("{model}, {name}: {e}"));
        if output.ids == expected {
            assert_eq!(output.text, case["greedy_text"].as_str().unwrap(), "{model}, {name}");
        }
    }
}

/// What a cache of FP8 changes over these tokens, beside one of F16: the largest deviation of the last logits as a
/// share of the largest logit, the root mean square of what log-likelihoods are off, and the perplexity's share.
#[allow(dead_code, reason = "for some of the tests that share this file")]
pub fn cost_of_fp8_cache(model: &str, options: &LoadOptions, ids: &[u32]) -> [f64; 3] {
    let engine = |kv_cache| {
        let engine = load_with(model, &LoadOptions { kv_cache, ..options.clone() });
        assert_eq!(engine.info().kv_cache, kv_cache);
        engine
    };
    let of = |kv_cache| {
        let mut engine = engine(kv_cache);
        let likelihoods = block_on(engine.log_likelihoods(ids)).unwrap();
        (block_on(engine.logits(ids)).unwrap(), likelihoods, engine.info().memory.kv_cache)
    };
    let off = |(logits, likelihoods, _): &(Vec<f32>, Vec<f32>, u64), others: &(Vec<f32>, Vec<f32>, u64)| {
        let largest = logits.iter().fold(0_f32, |most, logit| most.max(logit.abs()));
        let pairs = logits.iter().zip(&others.0);
        let logit = pairs.map(|(a, b)| (a - b).abs()).fold(0_f32, f32::max) / largest;
        let differences = likelihoods.iter().zip(&others.1).map(|(a, b)| f64::from(a - b));
        let count = likelihoods.len() as f64;
        let squares = differences.clone().map(|off| off * off).sum::<f64>();
        [f64::from(logit), (squares / count).sqrt(), (differences.sum::<f64>() / count).exp()]
    };
    let (wide, narrow) = (of(CacheForm::F16), of(CacheForm::F8));
    let cost = off(&wide, &narrow);
    let [logit, likelihood, perplexity] = cost;
    println!(
        "{model}, {} tokens, key/value cache as FP8 in {:.2} of the bytes: logits {logit:.4} off, log-likelihoods \
         {likelihood:.4}, perplexity times {perplexity:.4}",
        ids.len(),
        narrow.2 as f64 / wide.2 as f64
    );
    assert!(narrow.2 * 100 <= wide.2 * 63, "{} bytes of {}", narrow.2, wide.2);
    // Were it stored as F16, nothing would be off: another engine says the same of a part, which takes less time.
    let part = ids.len() / 4;
    let same = block_on(engine(CacheForm::F16).log_likelihoods(&ids[..part])).unwrap();
    assert_eq!(same, wide.1[..part - 1]);
    assert!(logit > 1e-3 && likelihood > 1e-3, "this is no FP8: {cost:?}");
    cost
}

/// The beginning of a held-out text as tokens behind the token 1.
#[allow(dead_code, reason = "for some of the tests that share this file")]
pub fn held_out(model: &str, text: &str, tokens: usize) -> Vec<u32> {
    let content = std::fs::read_to_string(from_top("tests/fixtures").join(text)).unwrap();
    let tokenizer = block_on(bise::engine::load_tokenizer(&FileSource::new(from_top(model)))).unwrap();
    let ids = tokenizer.encode(&content, false).unwrap();
    [1].into_iter().chain(ids).take(tokens).collect()
}
