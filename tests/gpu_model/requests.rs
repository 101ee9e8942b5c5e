//! What a request may ask for, and what it gets when it asks for the wrong thing.

use std::sync::Mutex;

use bise::checkpoint::source::{FileSource, MemorySource};
use bise::engine::{Engine, EngineError, LoadOptions, Prompt, WeightMode};
use bise::gpu::LimitChoice;
use pollster::block_on;

use crate::alike::OPENING;
use crate::common::limits;
use crate::support::{from_top, greedy, run, webgpu};

/// Caches are not split: a context whose keys fit no buffer is refused before anything is allocated,
/// and what fits is named.
#[test]
fn a_context_beyond_the_devices_buffers_names_the_largest() {
    let source = FileSource::new(from_top("www/models/tale"));
    let load = |context_length| {
        let options = LoadOptions { context_length, ..webgpu(LimitChoice::Binding(16 << 10)) };
        block_on(Engine::load(&source, &options, &mut |_| (), &|| false)).map(|engine| engine.info())
    };
    let error = load(Some(512)).unwrap_err();
    assert_eq!(error.code(), "bad-request", "{error}");
    let text = error.to_string();
    let largest = text.split("the keys of ").nth(1).and_then(|rest| rest.split(' ').next());
    let largest: u32 = largest.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    assert!((64..512).contains(&largest), "{text}");
    assert_eq!(load(Some(largest)).unwrap().context_length, largest);
    assert_eq!(load(None).unwrap().context_length, largest, "what fits is what is taken");
}

/// Loads from memory in pieces of any size, and can be stopped between any two of them.
#[test]
fn a_load_can_be_aborted_and_repeated() {
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(from_top("www/models/tale")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        files.insert(name, std::fs::read(path).unwrap());
    }
    let source = MemorySource::new(files);
    let options = LoadOptions { weights: WeightMode::F8, context_length: Some(64), ..webgpu(limits()) };
    let progress = Mutex::new(Vec::new());
    let stopped =
        block_on(Engine::load(&source, &options, &mut |p| progress.lock().unwrap().push(p), &|| {
            progress.lock().unwrap().iter().any(|p| p.done > 1_000_000)
        }));
    assert!(matches!(stopped.err(), Some(EngineError::Aborted)));
    let done: Vec<u64> = progress.lock().unwrap().iter().map(|p| p.done).collect();
    assert!(done.last().unwrap() < &3_500_000, "{done:?}");
    let mut engine = block_on(Engine::load(&source, &options, &mut |_| (), &|| false)).unwrap();
    assert_eq!(engine.info().context_length, 64);
    assert_eq!(run(&mut engine, &greedy(Prompt::Text(OPENING.into()), 8)).unwrap().ids.len(), 8);
}
