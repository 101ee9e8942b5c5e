//! Tensors and files beyond 4 GiB, computed and never stored: no offset, size or count is cut to
//! 32 bits. On wasm32, where usize has no more, tests/browser/synthetic.e2e.js does the like.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::rc::Rc;

use bise::checkpoint::sink::ByteSink;
use bise::checkpoint::source::read_all;
use bise::checkpoint::writer::{Plan, TensorSpec, Writer};
use bise::checkpoint::{
    ByteSource, CheckpointError, Event, Header, Manifest, Shard, ShardStream, SourceError, StreamParser,
};
use bise::dtype::{Dtype, widen};
use bise::engine::{LoadOptions, inspect};
use bise::merge::{Merge, MergeOptions, Parent, Recipe};
use common::synthetic::{Layout, SyntheticSource};
use pollster::block_on;

const FOUR_GIB: u64 = 1 << 32;

/// An embedding table of 4.9 GB before two small layers.
const CONFIG: &str = r#"{
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 600000,
    "tie_word_embeddings": true
}"#;

/// The same with a small vocabulary.
fn small_config() -> String {
    CONFIG.replace("600000", "600")
}

const SEVEN_BILLION: &str = include_str!("fixtures/mistral7b/config.json");

/// Streams these tensors of a shard; the bytes of all of them.
fn tensors(source: &impl ByteSource, shard: &Shard, range: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sink = |event: Event<'_>| -> Result<(), CheckpointError> {
        if let Event::Chunk(chunk) = event {
            bytes.extend_from_slice(chunk.bytes);
        }
        Ok(())
    };
    block_on(async {
        let mut stream = ShardStream::open(source, shard, range, || false).await.unwrap();
        let mut parser = stream.parser().unwrap();
        while let Some(piece) = stream.next_piece().await.unwrap() {
            parser.write(&piece, &mut sink).unwrap();
        }
        parser.end(&mut sink).unwrap();
    });
    bytes
}

#[test]
fn a_header_places_tensors_beyond_four_gib() {
    // As large as may be: the last byte of the file is the last that u64 counts.
    for rows in [FOUR_GIB / 1024 + 1, 1 << 40, (1 << 54) - 1] {
        let end = rows * 1024;
        let json = format!(
            r#"{{"a":{{"dtype":"U8","shape":[{rows},1024],"data_offsets":[0,{end}]}},
                "b":{{"dtype":"BF16","shape":[3,2],"data_offsets":[{end},{}]}}}}"#,
            end + 12
        );
        let header = Header::parse("x", json.as_bytes()).unwrap();
        let [a, b] = &header.tensors[..] else { panic!("two tensors") };
        assert_eq!((a.bytes(), a.elements(), a.rows(), a.row_bytes()), (end, end, rows, 1024));
        assert_eq!((b.begin, b.end, b.rows(), b.elements()), (end, end + 12, 3, 6));
        assert_eq!((header.data_bytes(), header.file_bytes()), (end + 12, header.data_start + end + 12));
        assert_eq!(a.chunk_bytes(), 1 << 20);
        // The parser goes straight to the tensor behind.
        let header = std::sync::Arc::new(header);
        let mut parser = StreamParser::at_tensors("x", header.clone(), 1..2).unwrap();
        let mut seen = Vec::new();
        let mut sink = |event: Event<'_>| -> Result<(), CheckpointError> {
            if let Event::Chunk(chunk) = event {
                seen.push((chunk.tensor.name.clone(), chunk.offset, chunk.bytes.to_vec()));
            }
            Ok(())
        };
        parser.write(&[7; 11], &mut sink).unwrap();
        let error = parser.end(&mut sink).unwrap_err();
        let (bytes, expected) = (header.file_bytes() - 1, header.file_bytes());
        assert_eq!(error, CheckpointError::Truncated { file: "x".into(), bytes, expected });
        assert!(seen.is_empty());
    }
    // A size that 32 bits would make right is wrong.
    let wrong = r#"{"a":{"dtype":"U8","shape":[4194305,1024],"data_offsets":[0,1024]}}"#;
    assert!(matches!(Header::parse("x", wrong.as_bytes()), Err(CheckpointError::SizeMismatch { .. })));
    // A prefix whose low 32 bits alone are a sensible length.
    let error = Header::json_bytes("x", (FOUR_GIB + 100).to_le_bytes()).unwrap_err();
    assert!(matches!(error, CheckpointError::HeaderTooLarge { .. }));
    let wrong =
        format!(r#"{{"a":{{"dtype":"U8","shape":[{},{}],"data_offsets":[0,0]}}}}"#, 1u64 << 40, 1u64 << 40);
    assert!(matches!(Header::parse("x", wrong.as_bytes()), Err(CheckpointError::SizeOverflow { .. })));
}

#[test]
fn a_tensor_of_five_gigabytes_streams_to_its_end() {
    let mut source = SyntheticSource::with_layout(CONFIG, Layout::Bf16, u64::MAX);
    source.piece_bytes = (4 << 20) + 10_000;
    let manifest = block_on(Manifest::read(&source)).unwrap();
    let [shard] = &manifest.shards[..] else { panic!("one file") };
    let first = &shard.header.tensors[0];
    assert_eq!((first.name.as_str(), first.bytes()), ("model.embed_tokens.weight", 600_000 * 4096 * 2));
    let (mut at, mut beyond) = (0, 0);
    let mut sink = |event: Event<'_>| -> Result<(), CheckpointError> {
        let Event::Chunk(chunk) = event else { return Ok(()) };
        let (tensor, length) = (chunk.tensor, chunk.bytes.len() as u64);
        assert_eq!(tensor.begin + chunk.offset, at, "chunks come one after the other");
        assert_eq!(chunk.first_row() * tensor.row_bytes(), chunk.offset);
        for part in [0, length - 16] {
            let expected = source.tensor_bytes(tensor, chunk.offset + part..chunk.offset + part + 16);
            assert_eq!(chunk.bytes[part as usize..part as usize + 16], expected);
        }
        beyond += u64::from(chunk.offset > FOUR_GIB);
        at += length;
        Ok(())
    };
    block_on(async {
        let mut stream = ShardStream::open(&source, shard, shard.all(), || false).await.unwrap();
        let mut parser = stream.parser().unwrap();
        while let Some(piece) = stream.next_piece().await.unwrap() {
            parser.write(&piece, &mut sink).unwrap();
        }
        parser.end(&mut sink).unwrap();
    });
    assert_eq!(at, manifest.total_bytes());
    assert!(beyond > 500, "{beyond} chunks of one tensor beyond 4 GiB");
}

#[test]
fn tensors_beyond_four_gib_of_a_file_are_fetched_where_they_lie() {
    for layout in [Layout::Bf16, Layout::Fp8] {
        let source =
            SyntheticSource::with_layout(&small_config(), layout, u64::MAX).with_filler(FOUR_GIB / 1024 + 5);
        let manifest = block_on(Manifest::read(&source)).unwrap();
        let shard = &manifest.shards[0];
        let infos = &shard.header.tensors;
        assert!(infos[0].bytes() > FOUR_GIB && infos[1].begin > FOUR_GIB);
        source.served_bytes.set(0);
        let got = tensors(&source, shard, 1..infos.len());
        let expected: Vec<u8> =
            infos[1..].iter().flat_map(|info| source.tensor_bytes(info, 0..info.bytes())).collect();
        assert!(got == expected);
        assert_eq!(source.served_bytes.get(), expected.len() as u64, "and nothing else");
        for name in ["model.norm.weight", "model.layers.1.post_attention_layernorm.weight"] {
            let values = block_on(manifest.read_f32(&source, name, 1 << 20, &|| false)).unwrap();
            let mut expected = Vec::new();
            let info = manifest.get(name).unwrap().1;
            widen(Dtype::Bf16, &source.tensor_bytes(info, 0..info.bytes()), &mut expected).unwrap();
            assert_eq!(values, expected, "{name}");
        }
    }
}

#[test]
fn seven_billion_parameters_are_planned_in_full() {
    let inspected = |layout| {
        let source = SyntheticSource::with_layout(SEVEN_BILLION, layout, 5_000_000_000);
        let options = LoadOptions { context_length: Some(4096), ..LoadOptions::default() };
        (block_on(inspect(&source, &options, None)).unwrap(), source)
    };
    // Linear weights, embedding and head, norms.
    let (linear, wide, norms) = (32 * 218_103_808_u64, 2 * 32_000 * 4096_u64, 65 * 4096_u64);
    let rows = 32 * (4096 + 1024 + 1024 + 4096 + 14_336 + 14_336 + 4096_u64);
    let f8 = linear + rows * 4 + wide * 2 + norms * 4;
    for layout in [Layout::Fp8, Layout::Bf16] {
        let (inspection, source) = inspected(layout);
        assert_eq!(inspection.parameters, 7_241_732_096);
        assert_eq!(inspection.weight_bytes, source.total_bytes());
        let (bytes, shards, device) = match layout {
            Layout::Fp8 => (linear + rows * 2 + (wide + norms) * 2, 2, f8),
            Layout::Bf16 => (7_241_732_096 * 2, 3, (linear + wide) * 2 + norms * 4),
        };
        assert_eq!((inspection.weight_bytes, inspection.shards), (bytes, shards));
        // A buffer without scales has 16 bytes in their place.
        for (found, least) in [(inspection.device_bytes, device), (inspection.device_bytes_f8, f8)] {
            assert!((least..least + (16 << 10)).contains(&found), "{found} for {least}");
        }
        // Keys and values of 8 heads of 128 in f16: 4096 positions of a window of 4096.
        assert_eq!(inspection.kv_cache_bytes, 32 * 4096 * 8 * 128 * 2 * 2);
        let manifest = block_on(Manifest::read(&source)).unwrap();
        assert!(manifest.shards[0].header.file_bytes() > FOUR_GIB, "a file beyond 4 GiB");
    }
    // One matrix beyond 4 GiB.
    let source = SyntheticSource::with_layout(CONFIG, Layout::Bf16, u64::MAX);
    let inspection = block_on(inspect(&source, &LoadOptions::default(), None)).unwrap();
    assert!(inspection.device_bytes > 600_000 * 4096 * 2 && inspection.weight_bytes == source.total_bytes());
}

/// Counts what it is given, and keeps nothing.
#[derive(Default)]
struct Nowhere {
    announced: Vec<u64>,
    written: Vec<u64>,
}

impl ByteSink for Nowhere {
    async fn create(&mut self, _file: &str, bytes: u64) -> Result<(), CheckpointError> {
        self.announced.push(bytes);
        self.written.push(0);
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        *self.written.last_mut().unwrap() += bytes.len() as u64;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), CheckpointError> {
        Ok(())
    }
}

#[test]
fn a_writer_counts_beyond_four_gib() {
    let spec =
        |name: &str, rows| TensorSpec { name: name.into(), dtype: Dtype::U8, shape: vec![rows, 1 << 20] };
    let plan = Plan::new(vec![spec("a", 4100), spec("b", 2), spec("c", 4099)], 10 << 30).unwrap();
    let [shard] = &plan.shards[..] else { panic!("one file") };
    let begins: Vec<u64> = shard.header.tensors.iter().map(|tensor| tensor.begin >> 20).collect();
    assert_eq!(begins, [0, 4100, 4102]);
    let head = String::from_utf8(shard.head[8..].to_vec()).unwrap();
    assert_eq!(Header::parse("x", head.as_bytes()).unwrap().tensors, shard.header.tensors);
    let mut writer = Writer::new(&plan, Nowhere::default());
    let piece = vec![0; 50 << 20];
    block_on(async {
        while let Some((tensor, offset)) = writer.next() {
            let left = (tensor.bytes() - offset).min(piece.len() as u64);
            writer.write(&tensor.name, &piece[..left as usize]).await.unwrap();
        }
        let sink = writer.finish().await.unwrap();
        assert_eq!(sink.written, [shard.header.file_bytes()]);
        assert_eq!(sink.announced, sink.written);
        assert!(sink.written[0] > 2 * FOUR_GIB);
    });
    // A tensor that does not fit is moved to a file of its own, however large the sum.
    let plan = Plan::new(vec![spec("a", 4100), spec("b", 2), spec("c", 4099)], 4100 << 20).unwrap();
    assert_eq!(plan.shards.len(), 3);
}

/// A merge of two parents that `source` makes.
fn merge(recipe: &str, source: &SyntheticSource) -> Merge<SyntheticSource> {
    let parsed = Recipe::parse(recipe).unwrap();
    block_on(async {
        let mut parents = Vec::new();
        for model in parsed.models() {
            parents.push(Parent::open(model, source.clone()).await.unwrap());
        }
        let options = MergeOptions { shard_bytes: u64::MAX, ..MergeOptions::default() };
        let (cancelled, on_tensor) = (Rc::new(|| false), Box::new(|_: &_| ()));
        Merge::new(parsed, recipe, parents, options, cancelled, on_tensor).await.unwrap()
    })
}

const RECIPE: &str = "slices:\n\
                      - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [1, 2]}]\n\
                      merge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\ndtype: bfloat16\n";

#[test]
fn merges_read_beyond_four_gib() {
    // The parents' layers lie behind 4 GiB of zeros, or do not.
    let near = SyntheticSource::with_layout(&small_config(), Layout::Fp8, u64::MAX);
    let far = near.clone().with_filler(FOUR_GIB / 1024 + 5);
    far.served_bytes.set(0);
    let results = [near, far.clone()].map(|source| {
        let merge = merge(RECIPE, &source);
        let manifest = merge.manifest().unwrap();
        let shard = &manifest.shards[0];
        (shard.header.clone(), tensors(&merge, shard, shard.all()))
    });
    assert!(results[0] == results[1]);
    assert!(results[0].1.iter().any(|byte| *byte != 0));
    assert!(far.served_bytes.get() < 100 << 20, "{} bytes", far.served_bytes.get());
}

#[test]
fn merges_write_beyond_four_gib() {
    // The result's table has 4.9 GB; what lies behind it in the result's file is read alone.
    let large = merge(RECIPE, &SyntheticSource::with_layout(CONFIG, Layout::Bf16, u64::MAX));
    let small = merge(RECIPE, &SyntheticSource::with_layout(&small_config(), Layout::Bf16, u64::MAX));
    let results = [large, small].map(|merge| {
        let manifest = merge.manifest().unwrap();
        assert_eq!(merge.total_bytes(), manifest.total_bytes());
        let (shard, position) = manifest.find("model.layers.0.mlp.down_proj.weight").unwrap();
        let info = &shard.header.tensors[position];
        let start = shard.header.data_start + info.begin;
        let bytes = tensors(&merge, shard, position..position + 1);
        // A range from the middle of it.
        let part = block_on(read_all(&merge, &shard.file, Some(start + 10..start + 1000), 1000)).unwrap();
        assert_eq!(part, bytes[10..1000]);
        assert!(matches!(
            block_on(read_all(&merge, &shard.file, Some(start..start + 1000), 10)),
            Err(SourceError::TooLarge { .. })
        ));
        (info.begin, bytes)
    });
    let [(far, a), (near, b)] = &results;
    assert!(*far > FOUR_GIB && *near < FOUR_GIB);
    assert!(a == b && a.iter().any(|byte| *byte != 0));
}
