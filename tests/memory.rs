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
#[path = "memory/merge.rs"]
mod merge;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bise::checkpoint::error::{HEADER_LIMIT_BYTES, TENSOR_LIMIT};
use bise::checkpoint::source::MemorySource;
use bise::checkpoint::{CheckpointError, Event, Manifest, ShardStream};
use bise::engine::{BackendChoice, Engine, LoadOptions};
use bise::gpu::GpuOptions;
use bise::text::Tokenizer;
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

/// One test at a time: they run in parallel otherwise, and what one of them prepares would count for
/// another.
static MEASURING: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Highest number of bytes that `work` had allocated at once.
fn peak_bytes(work: impl FnOnce()) -> usize {
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
    let _alone = alone();
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
                    assert_eq!(got, source.tensor_bytes(chunk.tensor, expected));
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
    let _alone = alone();
    let source = SyntheticSource::new(LOADED_CONFIG, 2);
    assert!(source.total_bytes() > 2_000_000_000);
    let peak = peak_bytes(|| {
        let gpu = GpuOptions { adapter: std::env::var("BISE_ADAPTER").ok(), ..GpuOptions::default() };
        let backend = BackendChoice::Webgpu;
        let options = LoadOptions { context_length: Some(64), backend, gpu, ..LoadOptions::default() };
        let mut engine = pollster::block_on(Engine::load(&source, &options, &mut |_| (), &|| false)).unwrap();
        let weights = engine.info().memory.weights;
        assert!(weights > 1_000_000_000, "{weights} bytes of weights on the device");
        let logits = pollster::block_on(engine.logits(&[1, 2, 3])).unwrap();
        assert!(logits.iter().all(|l| l.is_finite()) && logits.iter().any(|l| *l != 0.0));
    });
    println!("peak {peak} bytes for {} bytes of weights", source.total_bytes());
    assert!(peak < 96 << 20, "peak {peak} bytes");
}

/// A file whose header lists as many empty tensors as fit into `bytes` of JSON.
fn empty_tensors(prefix: &str, shape: &str, bytes: usize) -> Vec<u8> {
    let mut json = String::from("{");
    for number in 0.. {
        let entry = format!(r#""{prefix}{number:x}":{{"dtype":"U8","shape":{shape},"data_offsets":[0,0]}},"#);
        if json.len() + entry.len() > bytes {
            break;
        }
        json.push_str(&entry);
    }
    json.pop();
    json.push('}');
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}

/// Hostile headers are refused, or read, in less memory than the page may take: one file or many,
/// many tensors, long shapes, long names.
#[test]
fn headers_of_any_checkpoint_take_bounded_memory() {
    let _alone = alone();
    let long = "n".repeat(60_000);
    let dims = format!("[{}0]", "1,".repeat(63));
    let limit = HEADER_LIMIT_BYTES as usize;
    for (what, files) in [
        ("one header as long as the format allows", vec![empty_tensors("", "[0]", 97_000_000)]),
        ("the longest header", vec![empty_tensors("", "[0]", limit)]),
        ("as many tensors as may be", vec![empty_tensors("", "[0]", TENSOR_LIMIT * 54)]),
        ("long shapes", vec![empty_tensors("", &dims, limit)]),
        ("long names", vec![empty_tensors(&long, "[0]", limit)]),
        ("twelve files", (0..12).map(|n| empty_tensors(&format!("{n}."), "[0]", limit)).collect()),
        ("the same tensors in twelve files", vec![empty_tensors("", "[0]", limit / 4); 12]),
    ] {
        let names = (0..files.len()).map(|n| format!("{n:02}.safetensors"));
        let map: Vec<String> = names.clone().map(|name| format!(r#""{name}":"{name}""#)).collect();
        let index = format!(r#"{{"weight_map":{{{}}}}}"#, map.join(","));
        let index = ("model.safetensors.index.json".to_owned(), index.into_bytes());
        let source = MemorySource::new(names.zip(files).chain([index]));
        let mut outcome = None;
        let peak = peak_bytes(|| {
            outcome = Some(pollster::block_on(Manifest::read(&source)).map(|manifest| manifest.shards.len()));
        });
        println!("{what}: peak {peak} bytes, {outcome:?}");
        assert!(outcome.unwrap().is_err(), "{what}");
        assert!(peak < 64 << 20, "{what}: peak {peak} bytes");
    }
}

/// A tokenizer.json as large as that of Llama 3.2: 128 000 tokens and 280 147 merges, indented.
fn large_tokenizer() -> Vec<u8> {
    let mut tokens = vec![String::new()];
    let mut from = 0;
    while tokens.len() <= 128_000 {
        let until = tokens.len();
        for index in from..until {
            let start = tokens[index].clone();
            tokens.extend("abcdefg".chars().map(|letter| format!("{start}{letter}")));
        }
        from = until;
    }
    tokens.truncate(128_001);
    tokens.remove(0);
    // Every way to cut a token gives two tokens.
    let cuts = tokens.iter().flat_map(|t| (1..t.len()).map(|at| [&t[..at], &t[at..]]));
    let merges: Vec<[&str; 2]> = cuts.take(280_147).collect();
    let vocab: serde_json::Map<String, serde_json::Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let model = serde_json::json!({ "type": "BPE", "vocab": vocab, "merges": merges });
    let file = serde_json::json!({ "added_tokens": [], "decoder": { "type": "ByteLevel" }, "model": model });
    serde_json::to_vec_pretty(&file).unwrap()
}

#[test]
fn a_large_tokenizer_is_read_in_96_mib() {
    let _alone = alone();
    let json = large_tokenizer();
    let bytes = json.len();
    assert!((15 << 20..20 << 20).contains(&bytes), "{bytes}");
    let peak = peak_bytes(|| {
        // What was read counts, and is freed on the way.
        let tokenizer = Tokenizer::from_json(json.clone()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 128_000);
        assert_eq!(tokenizer.decode(&tokenizer.encode("abcdefgabc", false).unwrap(), true), "abcdefgabc");
    });
    println!("peak {peak} bytes for {bytes} bytes of tokenizer.json");
    assert!(peak < 72 << 20, "peak {peak} bytes");
}

/// Negative control: what holds too much is seen.
#[test]
fn the_measurement_sees_what_is_held() {
    let _alone = alone();
    let peak = peak_bytes(|| drop(std::hint::black_box(vec![1u8; LIMIT_BYTES + 1])));
    assert!(peak > LIMIT_BYTES, "peak {peak} bytes");
}
