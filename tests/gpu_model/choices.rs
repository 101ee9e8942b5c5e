//! Tokens that the device chooses, several passes ahead: the same that the host chooses, and to the
//! caller as if each had waited for the one before.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bise::checkpoint::Manifest;
use bise::checkpoint::source::{FileSource, MemorySource};
use bise::engine::{Engine, EngineError, FinishReason, LoadOptions, Output, Prompt, Request, WeightMode};
use bise::gpu::{Gpu, GpuOptions, HandOver, Kernel};
use bise::text::TextError;
use pollster::block_on;
use serde_json::{Value, json};

use crate::common::limits;
use crate::support::{from_top, gpu, greedy, load, load_with, run, webgpu};

fn tale() -> Engine {
    load("www/models/tale", WeightMode::F8, limits())
}

fn request(options: &Value) -> Request {
    let mut object = json!({ "prompt": { "text": "Once upon a time" }, "max_tokens": 20 });
    object.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

/// A request's output, and each token as it was told.
fn told(engine: &mut Engine, request: &Request) -> (Output, Vec<(Option<u32>, String)>) {
    let mut deltas = Vec::new();
    let mut on_delta = |delta: &bise::engine::Delta| deltas.push((delta.id, delta.text.clone()));
    let output = block_on(engine.generate(request, &mut on_delta, &|| false)).unwrap();
    (output, deltas)
}

#[test]
fn requests_get_the_tokens_that_the_host_chooses() {
    let mut engine = tale();
    let mut requests = vec![
        json!({ "temperature": 0.0 }),
        json!({ "temperature": 0.0, "repetition_penalty": 1.4 }),
        json!({ "temperature": 0.0, "frequency_penalty": 1.5, "presence_penalty": -0.5, "max_tokens": 40 }),
        json!({ "temperature": 0.0, "logit_bias": { "5": 3.5, "533": -100.0 } }),
        json!({ "temperature": 0.0, "stop": ["the"] }),
        // Likely ends of the sequence: at the first token, and a few tokens later.
        json!({ "temperature": 0.0, "logit_bias": { "2": 100.0 } }),
        json!({ "temperature": 1.0, "seed": 5, "logit_bias": { "2": 6.0 } }),
    ];
    for seed in 0..12u64 {
        requests.push(json!({ "temperature": 1.0, "seed": seed }));
        requests.push(json!({ "temperature": 0.8, "seed": seed, "top_p": 0.9, "repetition_penalty": 1.1 }));
        requests.push(
            json!({ "temperature": 1.5, "seed": seed, "top_k": 40, "min_p": 0.02, "stop": [" w", " a"] }),
        );
    }
    let (mut texts, mut stopped) = (std::collections::BTreeSet::new(), 0);
    for options in &requests {
        let request = request(options);
        engine.sample_on_host(false);
        let (on_device, device_deltas) = told(&mut engine, &request);
        engine.sample_on_host(true);
        let (on_host, host_deltas) = told(&mut engine, &request);
        assert_eq!(on_device.ids, on_host.ids, "{options}");
        assert_eq!(device_deltas, host_deltas, "{options}");
        assert_eq!((&on_device.text, on_device.finish_reason), (&on_host.text, on_host.finish_reason));
        // Those that the host begins and the device ends.
        for first in [1, 4] {
            engine.sample_first_on_host(first);
            let (mixed, deltas) = told(&mut engine, &request);
            assert_eq!((&mixed.ids, &deltas), (&on_device.ids, &device_deltas), "{options}, {first}");
        }
        stopped += usize::from(on_device.finish_reason == FinishReason::Stop);
        texts.insert(on_device.text);
    }
    // The comparison would see another draw, and requests ended in the middle of passes under way.
    assert!(texts.len() > 30 && stopped > 6, "{} texts, {stopped} stopped", texts.len());
}

/// An abort takes effect at the token at which it is told, whatever has been computed beyond it.
#[test]
fn an_abort_is_exact_at_each_token() {
    let mut engine = tale();
    let options = json!({ "temperature": 1.0, "seed": 3 });
    let whole = run(&mut engine, &request(&options)).unwrap();
    for tokens in 0..8 {
        let mut ids = Vec::new();
        let seen = Cell::new(0);
        let result = block_on(engine.generate(
            &request(&options),
            &mut |delta| {
                ids.extend(delta.id);
                seen.set(seen.get() + 1);
            },
            &|| seen.get() >= tokens,
        ));
        assert!(matches!(result, Err(EngineError::Aborted)), "{tokens}: {result:?}");
        assert_eq!(ids, whole.ids[..tokens], "{tokens}");
        assert_eq!(run(&mut engine, &request(&options)).unwrap().ids, whole.ids, "after {tokens}");
        for host in [true, false] {
            engine.sample_on_host(host);
            let mut most = request(&options);
            most.max_tokens = Some(tokens as u32 + 1);
            let output = run(&mut engine, &most).unwrap();
            assert_eq!(output.ids, whole.ids[..=tokens], "max_tokens {}", tokens + 1);
        }
    }
}

/// One submit for each token and 16 bytes back; logits only where they were asked for.
#[test]
fn ids_alone_come_back() {
    let mut engine = tale();
    let vocab = u64::from(engine.info().vocab);
    let traffic = |engine: &mut Engine, options: Value| {
        let before = engine.traffic();
        let tokens = run(engine, &request(&options)).unwrap().ids.len() as u64;
        let after = engine.traffic();
        (tokens, after.submits - before.submits, after.read_bytes - before.read_bytes)
    };
    let long = |more: Value| {
        let mut options = json!({ "temperature": 0.7, "seed": 1, "top_p": 0.9, "ignore_eos": true });
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        options
    };
    // Nothing is submitted beyond what max_tokens lets through.
    assert_eq!(traffic(&mut engine, long(json!({}))), (20, 20, 20 * 16));
    assert_eq!(traffic(&mut engine, long(json!({ "logprobs": 2 }))), (20, 20, 20 * vocab * 4));
    engine.sample_on_host(true);
    assert_eq!(traffic(&mut engine, long(json!({}))), (20, 20, 20 * vocab * 4));
}

thread_local! {
    /// Kernels whose names begin with this are still being compiled.
    static BUSY: Cell<&'static str> = const { Cell::new("") };
}

/// Compiles nothing ahead, but takes its time for some kernels.
fn slowly(_: &Gpu, kernel: &Kernel) -> Pin<Box<dyn Future<Output = Result<HandOver, String>>>> {
    let name = kernel.name;
    let ready = move |_: &mut Context| match BUSY.get() {
        busy if !busy.is_empty() && name.starts_with(busy) => Poll::Pending,
        _ => Poll::Ready(Ok(Box::new(|| ()) as HandOver)),
    };
    Box::pin(poll_fn(ready))
}

/// Tokens come while the kernels that choose are still being compiled: the host chooses them, from logits
/// that are read back, and leaves it to the device as soon as that can.
#[test]
fn no_token_waits_for_what_chooses() {
    BUSY.set("sample");
    let gpu = GpuOptions { compile_ahead: Some(slowly), ..gpu(limits()) };
    let mut engine =
        load_with("www/models/tale", &LoadOptions { weights: WeightMode::F8, gpu, ..LoadOptions::default() });
    let options = json!({ "temperature": 0.9, "seed": 6, "repetition_penalty": 1.2, "ignore_eos": true });
    let request = request(&options);
    let (mut tokens, start) = (0, engine.traffic());
    let on_delta = &mut |_: &_| {
        tokens += 1;
        BUSY.set(if tokens < 6 { "sample" } else { "" });
    };
    let output = block_on(engine.generate(&request, on_delta, &|| false)).unwrap();
    let (bytes, submits) = {
        let end = engine.traffic();
        (end.read_bytes - start.read_bytes, end.submits - start.submits)
    };
    let vocab = u64::from(engine.info().vocab);
    assert_eq!((bytes, submits), (6 * vocab * 4 + 14 * 16, 20));
    assert_eq!(output.ids, run(&mut tale(), &request).unwrap().ids);
}

/// What cannot be compiled ahead is an error of its kernel, and only where that is needed.
#[test]
fn a_kernel_that_cannot_be_compiled_is_named() {
    fn broken(_: &Gpu, kernel: &Kernel) -> Pin<Box<dyn Future<Output = Result<HandOver, String>>>> {
        let made = match kernel.name {
            "attend_one" | "matvec_gated" => Err("no registers left".to_owned()),
            _ => Ok(Box::new(|| ()) as HandOver),
        };
        Box::pin(std::future::ready(made))
    }
    let gpu = GpuOptions { compile_ahead: Some(broken), ..gpu(limits()) };
    let mut engine = load_with("www/models/tale", &LoadOptions { gpu, ..LoadOptions::default() });
    engine.sample_on_host(true);
    assert_eq!(
        run(&mut engine, &Request { max_tokens: Some(1), ..request(&json!({})) }).unwrap().ids.len(),
        1
    );
    let error = run(&mut engine, &request(&json!({}))).unwrap_err().to_string();
    assert!(error.contains("no registers left"), "{error}");
}

/// Ten turns of a chat: each computes what is new, replies included where the text is drawn anew.
#[test]
fn a_turn_computes_only_what_is_new() {
    let mut engine = tale();
    // Shorter than the window in all: how much of a rolling cache is left depends on the device.
    let mut prompt = vec![1, 40, 50, 60, 70];
    let turn = |prompt: &[u32]| Request { temperature: Some(1.0), ..greedy(Prompt::Ids(prompt.to_vec()), 6) };
    let mut held = 0;
    for number in 0..10 {
        let output = run(&mut engine, &turn(&prompt)).unwrap();
        assert_eq!(output.timings.cached_tokens, held, "turn {number}");
        // The last token of a reply has been chosen, and not computed.
        held = (prompt.len() + output.ids.len() - 1) as u32;
        prompt.extend(&output.ids);
        prompt.extend([100 + number, 7, 8]);
    }
    // An earlier message is edited: what precedes it stays.
    let mut edited = prompt.clone();
    edited[30] += 1;
    assert_eq!(run(&mut engine, &turn(&edited)).unwrap().timings.cached_tokens, 30);

    // A text that can be asked for again builds only on what prompts computed, whoever asked before.
    let seeded = |prompt: &[u32]| Request { seed: Some(4), ..turn(prompt) };
    let fresh = run(&mut tale(), &seeded(&edited)).unwrap();
    let again = run(&mut engine, &seeded(&edited)).unwrap();
    assert_eq!((again.timings.cached_tokens, &again.ids), (5, &fresh.ids));
    let again = run(&mut engine, &seeded(&edited)).unwrap();
    assert_eq!((again.timings.cached_tokens as usize, &again.ids), (edited.len() - 1, &fresh.ids));
}

/// Keys of other weights are never used.
#[test]
fn nothing_is_reused_after_other_weights() {
    let mut engine = tale();
    let ask = |engine: &mut Engine| run(engine, &request(&json!({ "temperature": 0.0 }))).unwrap();
    let first = ask(&mut engine);
    let reused = ask(&mut engine).timings.cached_tokens as usize;
    assert_eq!(reused, first.prompt_ids.len() - 1);
    let source = FileSource::new(from_top("www/models/case"));
    let manifest = block_on(Manifest::read(&source)).unwrap();
    block_on(engine.replace_weights(&source, &manifest, &mut |_| (), &|| false)).unwrap();
    let other = ask(&mut engine);
    assert_eq!((other.timings.cached_tokens, other.prompt_ids.as_slice()), (0, first.prompt_ids.as_slice()));
    assert_ne!(other.ids, first.ids);
    let mut case = load("www/models/case", WeightMode::F8, limits());
    assert_eq!(ask(&mut case).ids, other.ids);
}

/// A rolling cache, and requests that end while passes beyond their end are under way: what those have
/// rolled over is not used.
#[test]
fn what_was_computed_past_the_end_is_not_reused() {
    let mut used = tale();
    let info = used.info();
    let window = info.sliding_window.unwrap() as usize;
    assert!((window as u32) < info.context_length);
    let words: Vec<u32> = (0..window as u32 + 150).map(|i| 3 + (i * 37) % 2000).collect();
    for (tokens, fork) in [(1, words.len() - 1), (3, words.len() - 20), (40, words.len() - 140), (2, 30)] {
        let mut prompt = words.clone();
        let seen = Cell::new(0);
        let unseeded = Request { temperature: Some(1.0), ..greedy(Prompt::Ids(prompt.clone()), 60) };
        let ended =
            block_on(used.generate(&unseeded, &mut |_| seen.set(seen.get() + 1), &|| seen.get() >= tokens));
        assert!(matches!(ended, Err(EngineError::Aborted)));
        prompt[fork] += 1;
        let fresh = run(&mut tale(), &greedy(Prompt::Ids(prompt.clone()), 12)).unwrap();
        let again = run(&mut used, &greedy(Prompt::Ids(prompt), 12)).unwrap();
        assert_eq!(again.ids, fresh.ids, "after {tokens} tokens, another at {fork}");
    }
}

/// Logits that overflow are named, as on the host, and no token is told.
#[test]
fn logits_that_are_not_finite_end_a_request() {
    let mut source = MemorySource::new([]);
    for entry in std::fs::read_dir(from_top("www/models/tale")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut bytes = std::fs::read(&path).unwrap();
        if name.ends_with(".safetensors") {
            let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
            // Finite, as a load demands, and too large for what they multiply.
            let offsets = &header["model.norm.weight"]["data_offsets"];
            if let (Some(begin), Some(past)) = (offsets[0].as_u64(), offsets[1].as_u64()) {
                let weights = &mut bytes[end + begin as usize..end + past as usize];
                weights.chunks_exact_mut(2).for_each(|weight| weight.copy_from_slice(&[0x7f, 0x7f]));
            }
        }
        source.files.insert(name, bytes);
    }
    let options = webgpu(limits());
    let mut engine = block_on(Engine::load(&source, &options, &mut |_| (), &|| false)).unwrap();
    for host in [true, false] {
        engine.sample_on_host(host);
        for temperature in [0.0, 1.0] {
            let mut tokens = 0;
            let request = request(&json!({ "temperature": temperature }));
            let error = block_on(engine.generate(&request, &mut |_| tokens += 1, &|| false)).unwrap_err();
            let named = matches!(&error, EngineError::Text(TextError::NonFiniteLogits { id: 0, value }) if !value.is_finite());
            assert!(named && tokens == 0, "{host} {temperature}: {error}, {tokens} tokens");
        }
    }
}
