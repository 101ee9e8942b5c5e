//! The embedded models on the CPU: no adapter is needed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "gpu_model/support.rs"]
#[allow(dead_code, reason = "shared with the tests on the GPU")]
mod support;

use std::cell::Cell;

use bise::checkpoint::source::FileSource;
use bise::engine::{BackendChoice, Engine, EngineError, LoadOptions, Prompt, WeightMode};
use bise::gpu::{GpuOptions, LimitChoice};
use pollster::block_on;

use support::{check_golden, from_top, greedy, load_on_cpu, merge, run};

fn load(options: &LoadOptions) -> Result<Engine, EngineError> {
    let source = FileSource::new(from_top("www/models/tale"));
    block_on(Engine::load(&source, options, &mut |_| (), &|| false))
}

#[test]
fn tale_agrees_with_transformers() {
    check_golden(&mut load_on_cpu("www/models/tale", WeightMode::Checkpoint), "tale");
}

#[test]
fn case_agrees_with_transformers() {
    check_golden(&mut load_on_cpu("www/models/case", WeightMode::Checkpoint), "case");
}

/// Negative control: one model's values are not the other's.
#[test]
#[should_panic(expected = "case, ")]
fn the_comparison_notices_another_model() {
    check_golden(&mut load_on_cpu("www/models/tale", WeightMode::Checkpoint), "case");
}

#[test]
fn a_conversation_goes_on_and_others_have_their_turn() {
    thread_local!(static TURNS: Cell<u32> = const { Cell::new(0) });
    let turn = || -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
        TURNS.set(TURNS.get() + 1);
        Box::pin(std::future::ready(()))
    };
    let options = LoadOptions { backend: BackendChoice::Cpu, turn: Some(turn), ..LoadOptions::default() };
    let mut engine = load(&options).unwrap();
    let first = run(&mut engine, &greedy(Prompt::Ids(vec![1, 5, 9]), 8)).unwrap();
    assert_eq!(TURNS.get(), 8, "a pass per token");
    // What it computed is reused, and gives what a fresh start does.
    let prompt: Vec<u32> = [&first.prompt_ids[..], &first.ids, &[17, 4]].concat();
    let went_on = run(&mut engine, &greedy(Prompt::Ids(prompt.clone()), 8)).unwrap();
    let fresh = run(&mut load(&options).unwrap(), &greedy(Prompt::Ids(prompt), 8)).unwrap();
    assert_eq!(went_on.ids, fresh.ids);
    let cancelled = block_on(engine.generate(&greedy(Prompt::Ids(vec![1]), 8), &mut |_| (), &|| true));
    assert!(matches!(cancelled, Err(EngineError::Aborted)));
    run(&mut engine, &greedy(Prompt::Ids(vec![1]), 2)).unwrap();
    let info = engine.info();
    assert_eq!((info.backend.as_str(), info.backend_reason), ("cpu", None));
    assert!(info.memory.weights > 1_000_000 && info.memory.kv_cache > 0, "{:?}", info.memory);
}

#[test]
fn a_merge_goes_into_its_weights() {
    let merge = merge(None);
    let mut engine = load_on_cpu("www/models/tale", WeightMode::Checkpoint);
    let before = block_on(engine.logits(&[1, 2, 3])).unwrap();
    let manifest = merge.manifest().unwrap();
    block_on(engine.replace_weights(&merge, &manifest, &mut |_| (), &|| false)).unwrap();
    let after = block_on(engine.logits(&[1, 2, 3])).unwrap();
    assert_ne!(before, after);
    let options = LoadOptions {
        weights: WeightMode::Checkpoint,
        backend: BackendChoice::Cpu,
        ..LoadOptions::default()
    };
    let mut loaded =
        block_on(Engine::load_known(&merge, Some(manifest), &options, &mut |_| (), &|| false)).unwrap();
    assert_eq!(block_on(loaded.logits(&[1, 2, 3])).unwrap(), after);
}

/// An adapter that was named must be there; without a name the CPU steps in, which needs a machine
/// without any adapter to see (the browser's tests have one).
#[test]
fn an_adapter_that_was_named_is_not_replaced() {
    let gpu = GpuOptions { adapter: Some("no such adapter".into()), ..GpuOptions::default() };
    for backend in [BackendChoice::Auto, BackendChoice::Webgpu] {
        let error = load(&LoadOptions { backend, gpu: gpu.clone(), ..LoadOptions::default() }).err().unwrap();
        assert_eq!(error.code(), "no-webgpu", "{error}");
    }
    load(&LoadOptions { backend: BackendChoice::Cpu, gpu, ..LoadOptions::default() }).unwrap();
}
