//! Streaming gigabytes takes megabytes. Its own binary: the allocator counts everything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]
#![allow(unsafe_code, reason = "a counting allocator cannot be written without")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bise::checkpoint::sink::ByteSink;
use bise::checkpoint::{CheckpointError, Event, Manifest, ShardStream};
use bise::engine::{Engine, LoadOptions, WeightMode};
use bise::gpu::GpuOptions;
use bise::merge::{Merge, MergeOptions, Parent, Recipe};
use common::synthetic::SyntheticSource;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; only sizes are added up beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One measurement at a time: tests of a binary run in parallel.
static MEASURING: Mutex<()> = Mutex::new(());

/// Highest number of bytes that `work` had allocated at once.
fn peak_bytes(work: impl FnOnce()) -> usize {
    let _guard = MEASURING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed).saturating_sub(before)
}

const LIMIT_BYTES: usize = 16 << 20;

/// A 7B model with 6 of its 32 layers.
const CONFIG: &str = r#"{
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 6, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 32000, "tie_word_embeddings": false
}"#;

/// The same with 5 layers and a small vocabulary: 2 GB.
const LOADED_CONFIG: &str = r#"{
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 5,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 2000, "tie_word_embeddings": false
}"#;

#[test]
fn three_gigabytes_stream_in_sixteen_megabytes() {
    let source = SyntheticSource::new(CONFIG, 3);
    assert!(source.total_bytes() > 3_000_000_000);
    let peak = peak_bytes(|| {
        let (mut chunks, mut bytes) = (0, 0);
        let mut sink = |event: Event<'_>| -> Result<(), CheckpointError> {
            if let Event::Chunk(chunk) = event {
                // A look at every chunk's ends tells a shifted stream from the right one.
                let length = chunk.bytes.len() as u64;
                for at in [0, length - 16] {
                    let expected = chunk.offset + at..chunk.offset + at + 16;
                    let got = &chunk.bytes[at as usize..at as usize + 16];
                    assert_eq!(got, SyntheticSource::tensor_bytes(chunk.tensor, expected));
                }
                (chunks, bytes) = (chunks + 1, bytes + length);
            }
            Ok(())
        };
        pollster::block_on(async {
            let manifest = Manifest::read(&source).await.unwrap();
            assert_eq!(manifest.shards.len(), 3);
            assert_eq!(manifest.total_bytes(), source.total_bytes());
            for shard in &manifest.shards {
                let mut stream = ShardStream::open(&source, shard, shard.all(), &|| false).await.unwrap();
                let mut parser = stream.parser().unwrap();
                while let Some(piece) = stream.next_piece().await.unwrap() {
                    parser.write(&piece, &mut sink).unwrap();
                }
                parser.end(&mut sink).unwrap();
            }
        });
        assert_eq!(bytes, source.total_bytes());
        assert!(chunks > 2_900, "{chunks}");
    });
    assert!(peak < LIMIT_BYTES, "peak {peak} bytes");
    // Nothing is fetched twice: all data, three headers, one index, and no more.
    let overhead = source.served_bytes.get() - source.total_bytes();
    assert!(overhead < 64 << 10, "{overhead} bytes beside the data");
}

/// The whole load: parse, check, quantise to f8, upload, with the device's own bookkeeping. The
/// binding number of the design is 96 MiB.
#[test]
fn two_gigabytes_load_onto_the_device_in_96_mib() {
    let source = SyntheticSource::new(LOADED_CONFIG, 2);
    assert!(source.total_bytes() > 2_000_000_000);
    let peak = peak_bytes(|| {
        let gpu = GpuOptions { adapter: std::env::var("BISE_ADAPTER").ok(), ..GpuOptions::default() };
        let options = LoadOptions { weights: WeightMode::F8, context_length: Some(64), gpu };
        let mut engine = pollster::block_on(Engine::load(&source, &options, &mut |_| (), &|| false)).unwrap();
        let weights = engine.info().memory.weights;
        assert!(weights > 1_000_000_000, "{weights} bytes of weights on the device");
        let logits = pollster::block_on(engine.logits(&[1, 2, 3])).unwrap();
        assert!(logits.iter().all(|l| l.is_finite()) && logits.iter().any(|l| *l != 0.0));
    });
    println!("peak {peak} bytes for {} bytes of weights", source.total_bytes());
    assert!(peak < 96 << 20, "peak {peak} bytes");
}

/// Counts what it is given, and keeps nothing.
#[derive(Default)]
struct Nowhere {
    files: usize,
    bytes: u64,
}

impl ByteSink for Nowhere {
    async fn create(&mut self, _file: &str, _bytes: u64) -> Result<(), CheckpointError> {
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), CheckpointError> {
        self.files += 1;
        Ok(())
    }
}

/// A whole merge on the CPU. Its binding number is the design's, too.
#[test]
fn a_pair_of_two_gigabytes_merges_in_96_mib() {
    let sources = [0, 1].map(|_| SyntheticSource::new(LOADED_CONFIG, 2));
    // Weights follow from their names: other layers are other weights.
    let recipe = "slices:\n\
                  - sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [1, 5]}]\n\
                  merge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\ndtype: bfloat16\n";
    for quantize in [false, true] {
        sources.iter().for_each(|source| source.served_bytes.set(0));
        let mut sink = Nowhere::default();
        let mut spherical = 0;
        let peak = peak_bytes(|| {
            pollster::block_on(async {
                let parsed = Recipe::parse(recipe).unwrap();
                let mut parents = Vec::new();
                for (model, source) in parsed.models().into_iter().zip(sources.clone()) {
                    parents.push(Parent::open(model, source).await.unwrap());
                }
                let options = MergeOptions { shard_bytes: 500_000_000, quantize, ..MergeOptions::default() };
                let (cancelled, on_tensor) = (Rc::new(|| false), Box::new(|_: &_| ()));
                let merge = Merge::new(parsed, recipe, parents, options, cancelled, on_tensor).await.unwrap();
                merge.write(&mut sink, &mut |_| ()).await.unwrap();
                spherical = merge.report().totals.spherical;
                assert!(sink.bytes > merge.total_bytes());
            });
        });
        let served: u64 = sources.iter().map(|source| source.served_bytes.get()).sum();
        println!(
            "peak {peak} bytes for {} bytes of result from {served}, f8: {quantize}, {} files",
            sink.bytes, sink.files
        );
        assert!(sink.bytes > if quantize { 800_000_000 } else { 1_700_000_000 });
        assert!(spherical >= 4 * 7, "{spherical}: the matrices of the layers are unlike one another");
        assert!(peak < 96 << 20, "peak {peak} bytes");
        // What does not fit in memory is read once per pass, and no more.
        assert!(served < 4 * sources[0].total_bytes(), "{served} bytes");
    }
}

/// Negative control: what holds too much is seen.
#[test]
fn the_measurement_sees_what_is_held() {
    let peak = peak_bytes(|| drop(std::hint::black_box(vec![1u8; LIMIT_BYTES + 1])));
    assert!(peak > LIMIT_BYTES, "peak {peak} bytes");
}
