//! The embedded models on the CPU: no adapter is needed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "gpu_model/alike.rs"]
mod alike;
#[path = "gpu_model/support.rs"]
#[allow(dead_code, reason = "shared with the tests on the GPU")]
mod support;

use std::cell::Cell;

use bise::checkpoint::source::FileSource;
use bise::checkpoint::{ByteSource, Manifest};
use bise::engine::{BackendChoice, CacheForm, Engine, EngineError, LoadOptions, Prompt, WeightMode, inspect};
use bise::gpu::{DeviceTier, GpuOptions, Told};
use bise::merge::MergeOptions;
use pollster::block_on;

use support::{check_golden, cost_of_fp8_cache, from_top, greedy, held_out, load_on_cpu, merge, run};

/// The embedded model as it is stored, on this binary's backend.
fn tale() -> Engine {
    load_on_cpu("www/models/tale", WeightMode::Checkpoint)
}

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
    converse(&options, &TURNS);
    TURNS.set(0);
    converse(&LoadOptions { kv_cache: CacheForm::F8, ..options }, &TURNS);
}

fn converse(options: &LoadOptions, turns: &'static std::thread::LocalKey<Cell<u32>>) {
    let mut engine = load(options).unwrap();
    let first = run(&mut engine, &greedy(Prompt::Ids(vec![1, 5, 9]), 8)).unwrap();
    assert_eq!(turns.get(), 8, "a pass per token");
    // What it computed is reused, and gives what a fresh start does.
    let prompt: Vec<u32> = [&first.prompt_ids[..], &first.ids, &[17, 4]].concat();
    let went_on = run(&mut engine, &greedy(Prompt::Ids(prompt.clone()), 8)).unwrap();
    let fresh = run(&mut load(options).unwrap(), &greedy(Prompt::Ids(prompt), 8)).unwrap();
    assert!(went_on.timings.cached_tokens >= first.prompt_ids.len() as u32);
    assert_eq!(went_on.ids, fresh.ids);
    let cancelled = block_on(engine.generate(&greedy(Prompt::Ids(vec![1]), 8), &mut |_| (), &|| true));
    assert!(matches!(cancelled, Err(EngineError::Aborted)));
    run(&mut engine, &greedy(Prompt::Ids(vec![1]), 2)).unwrap();
    let info = engine.info();
    assert_eq!((info.backend.as_str(), info.backend_reason), ("cpu", None));
    assert!(info.memory.weights > 1_000_000 && info.memory.kv_cache > 0, "{:?}", info.memory);
}

/// Of tale; the bounds are those of WebGPU in tests/perplexity.rs.
#[test]
fn a_cache_of_fp8_costs_little() {
    let options = LoadOptions {
        weights: WeightMode::Checkpoint,
        backend: BackendChoice::Cpu,
        ..LoadOptions::default()
    };
    let ids = held_out("www/models/tale", "heldout-case.txt", 200);
    let [logit, likelihood, perplexity] = cost_of_fp8_cache("www/models/tale", &options, &ids);
    assert!(logit < 0.05 && likelihood < 0.12, "{logit}, {likelihood}");
    assert!((perplexity - 1.0).abs() < 0.02, "{perplexity}");
}

#[test]
fn a_merge_goes_into_its_weights() {
    let merge = merge(None);
    // What it keeps of its parents has room beside the model.
    let parents: u64 = ["tale", "case"]
        .map(|name| {
            let source = FileSource::new(from_top("www/models").join(name));
            block_on(Manifest::read(&source)).unwrap().total_bytes()
        })
        .iter()
        .sum();
    assert_eq!(merge.memory_bytes(), parents.min(MergeOptions::default().kept_bytes));
    assert!(parents > 10_000_000);
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

/// Foretold from headers, and taken: the same bytes.
#[test]
fn inspect_tells_what_a_load_takes() {
    for (weights, kv_cache) in [(WeightMode::Checkpoint, CacheForm::F16), (WeightMode::F8, CacheForm::F8)] {
        for context_length in [None, Some(64)] {
            let options = LoadOptions {
                weights,
                kv_cache,
                context_length,
                backend: BackendChoice::Cpu,
                ..LoadOptions::default()
            };
            let memory = load(&options).unwrap().info().memory;
            let source = FileSource::new(from_top("www/models/tale"));
            let told = block_on(inspect(&source, &options, None)).unwrap();
            let stored = if weights == WeightMode::F8 { told.device_bytes_f8 } else { told.device_bytes };
            assert_eq!(
                (stored, told.kv_cache_bytes, told.activation_bytes, told.total_bytes),
                (memory.weights, memory.kv_cache, memory.activations, memory.total)
            );
            assert_eq!((told.backend.as_str(), told.problems), ("cpu", vec![]));
        }
    }
}

/// Left the choice, an inspection judges by what a load would take.
#[test]
fn inspect_chooses_as_a_load_does() {
    let source = FileSource::new(from_top("www/models/tale"));
    let backend_of = |options: &LoadOptions, tier: Option<&DeviceTier>| {
        let told = block_on(inspect(&source, options, tier)).unwrap();
        (told.backend, told.backend_reason)
    };
    let (free, hardware) = (LoadOptions::default(), DeviceTier::at_default_limits());
    let software = DeviceTier { name: "llvmpipe".into(), software: true, ..hardware.clone() };
    let named = GpuOptions { adapter: Some("llvm".into()), ..GpuOptions::default() };
    let asked = LoadOptions { backend: BackendChoice::Webgpu, ..LoadOptions::default() };
    let (backend, reason) = backend_of(&free, Some(&software));
    assert!(
        backend == "cpu" && reason.as_ref().is_some_and(|reason| reason.contains("llvmpipe")),
        "{reason:?}"
    );
    assert_eq!(backend_of(&free, None).0, "cpu");
    assert_eq!(backend_of(&free, Some(&hardware)).0, "webgpu");
    assert_eq!(backend_of(&LoadOptions { gpu: named, ..free }, Some(&software)), ("webgpu".into(), None));
    assert_eq!(backend_of(&asked, None), ("webgpu".into(), None));
}

/// On the software adapter of a test machine as without any, the CPU steps in, and says why.
#[test]
fn auto_takes_webgpu_on_hardware_alone() {
    let hardware = block_on(DeviceTier::probe(&GpuOptions::default())).is_ok_and(|tier| !tier.software);
    let info = load(&LoadOptions::default()).unwrap().info();
    let reason = info.backend_reason.unwrap();
    println!("{}: {reason}", info.backend);
    if hardware {
        assert_eq!(info.backend, "webgpu");
        assert!(reason.contains("graphics adapter"), "{reason}");
    } else {
        assert_eq!((info.backend.as_str(), info.adapter.name.as_str()), ("cpu", "CPU, one thread"));
        assert!(reason.contains("is software") || reason.contains("no WebGPU adapter"), "{reason}");
    }
}

/// What leaves nothing to choose: a device that was lost, integers, a page without WebGPU.
#[test]
fn auto_takes_the_cpu_where_there_is_no_choice() {
    let told = Told { insecure: true, ..Told::default() };
    let gpu = GpuOptions { told, ..GpuOptions::default() };
    for (options, why) in [
        (LoadOptions { lost: true, ..LoadOptions::default() }, "the graphics device was lost"),
        (LoadOptions { weights: WeightMode::I8, ..LoadOptions::default() }, "8-bit integers"),
        (LoadOptions { gpu, ..LoadOptions::default() }, "https"),
    ] {
        let info = load(&options).unwrap().info();
        let reason = info.backend_reason.unwrap();
        assert!(info.backend == "cpu" && reason.contains(why), "{}: {reason}", info.backend);
        // Hardware is looked at, and not taken.
        let tier = DeviceTier { software: false, ..DeviceTier::at_default_limits() };
        let source = FileSource::new(from_top("www/models/tale"));
        let told = block_on(inspect(&source, &options, Some(&tier))).unwrap();
        assert_eq!((told.backend.as_str(), told.backend_reason), ("cpu", Some(reason)));
        assert_eq!(told.weights, info.weights);
        let asked = LoadOptions { backend: BackendChoice::Webgpu, weights: WeightMode::Auto, ..options };
        assert_eq!(block_on(inspect(&source, &asked, Some(&tier))).unwrap().backend, "webgpu");
    }
}

/// An adapter that was named must be there, and is taken though it be software.
#[test]
fn an_adapter_that_was_named_is_not_replaced() {
    let gpu = GpuOptions { adapter: Some("no such adapter".into()), ..GpuOptions::default() };
    for backend in [BackendChoice::Auto, BackendChoice::Webgpu] {
        let error = load(&LoadOptions { backend, gpu: gpu.clone(), ..LoadOptions::default() }).err().unwrap();
        assert_eq!(error.code(), "no-webgpu", "{error}");
    }
    load(&LoadOptions { backend: BackendChoice::Cpu, gpu, ..LoadOptions::default() }).unwrap();
    if let Ok(name) = std::env::var("BISE_ADAPTER") {
        let gpu = GpuOptions { adapter: Some(name), ..GpuOptions::default() };
        let info = load(&LoadOptions { gpu, ..LoadOptions::default() }).unwrap().info();
        assert_eq!((info.backend.as_str(), info.backend_reason), ("webgpu", None));
    }
}
