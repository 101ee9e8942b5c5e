//! Whole checkpoints: index against headers, ranges, interrupted transfers.

use std::cell::Cell;
use std::fs;

use bise::checkpoint::source::{FileSource, MemorySource, read_all};
use bise::checkpoint::{ByteSource, CheckpointError as E, Event, Header, Manifest, ShardStream, SourceError};
use bise::dtype::Dtype;
use pollster::block_on;

use crate::common::Random;
use crate::common::synthetic::{Layout, SyntheticSource};
use crate::support::{Faulty, Seen, drain, events, file, file_of};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<_> = entries.iter().map(|(t, f)| format!("{t:?}:{f:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, entries.join(",")).into_bytes()
}

fn shard(names: &[&str]) -> Vec<u8> {
    let tensors: Vec<_> = names.iter().map(|name| (*name, Dtype::U8, &[3][..], &b"abc"[..])).collect();
    file_of(&tensors)
}

fn sharded(entries: &[(&str, &str)]) -> Faulty {
    Faulty::new(&[(INDEX, index(entries)), (ONE, shard(&["a", "b"])), (TWO, shard(&["c"]))])
}

fn error_of(source: &impl ByteSource) -> E {
    block_on(Manifest::read(source)).unwrap_err()
}

/// Everything that streaming a shard yields.
async fn stream(source: &impl ByteSource, manifest: &Manifest, shard: usize) -> Result<Vec<Seen>, E> {
    let shard = &manifest.shards[shard];
    let mut stream = ShardStream::open(source, shard, shard.all(), &|| false).await?;
    let mut parser = stream.parser()?;
    let mut seen = Vec::new();
    let mut sink = |event: Event<'_>| -> Result<(), E> {
        seen.push(event.into());
        Ok(())
    };
    while let Some(piece) = stream.next_piece().await? {
        parser.write(&piece, &mut sink)?;
    }
    parser.end(&mut sink)?;
    Ok(seen)
}

#[test]
fn sharded_checkpoint_is_read_by_name() {
    let source = sharded(&[("a", ONE), ("b", ONE), ("c", TWO)]);
    let manifest = block_on(Manifest::read(&source)).unwrap();
    let listed: Vec<_> = manifest.tensors().map(|(s, t)| (s.file.as_str(), t.name.as_str())).collect();
    assert_eq!(listed, [(ONE, "a"), (ONE, "b"), (TWO, "c")]);
    assert_eq!(manifest.total_bytes(), 9);
    assert_eq!(manifest.get("c").unwrap().0.file, TWO);
    assert!(manifest.get("d").is_none());
    assert_eq!(manifest.find("b").unwrap().1, 1);
}

/// A file whose data and header are both longer than the first request.
fn long_file() -> Vec<u8> {
    let names: Vec<_> = (0..1200).map(|i| format!("model.layers.{i:04}.some_long_name.weight")).collect();
    let data = Random::new(4).bytes(300);
    let tensors: Vec<_> = names.iter().map(|n| (n.as_str(), Dtype::Bf16, &[3, 50][..], &data[..])).collect();
    file_of(&tensors)
}

/// Every file stays within the limits, all together do not.
#[test]
fn headers_are_limited_over_all_files() {
    let names: Vec<_> = (0..9).map(|n| format!("{n}.safetensors")).collect();
    let of = |file: &dyn Fn(usize) -> Vec<u8>| {
        let files: Vec<_> = names.iter().enumerate().map(|(n, name)| (name.as_str(), file(n))).collect();
        let map: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
        Faulty::new(&[files, vec![(INDEX, index(&map))]].concat())
    };
    let long = of(&|n| file_of(&[(&format!("{n}{}", "n".repeat(1_000_000)), Dtype::U8, &[3], b"abc")]));
    let E::HeadersTooLarge { file, bytes } = error_of(&long) else { panic!("{}", error_of(&long)) };
    assert_eq!((file.as_str(), bytes > 1_000_000), ("8.safetensors", true));
    let many = of(&|n| {
        let names: Vec<_> = (0..12_000).map(|tensor| format!("{n}.{tensor}")).collect();
        file_of(&names.iter().map(|name| (name.as_str(), Dtype::U8, &[0][..], &b""[..])).collect::<Vec<_>>())
    });
    assert_eq!(error_of(&many), E::TooManyTensors { file: "8.safetensors".into(), tensors: 12_000 });
}

#[test]
fn each_byte_is_fetched_once() {
    let small_header = file_of(&[("a", Dtype::U8, &[100, 1000], &Random::new(1).bytes(100_000))]);
    for bytes in [shard(&["a"]), small_header, long_file()] {
        for hide_length in [false, true] {
            for piece_bytes in [1 << 20, 65_536, 4097, 1009] {
                let mut source = Faulty::new(&[(SINGLE, bytes.clone())]);
                (source.inner.piece_bytes, source.hide_length) = (piece_bytes, hide_length);
                let manifest = block_on(Manifest::read(&source)).unwrap();
                let seen = block_on(stream(&source, &manifest, 0)).unwrap();
                let all = events([&bytes[..]]).unwrap();
                assert!(seen == all[1..], "pieces of {piece_bytes}");
                let mut next = 0;
                for (name, range) in source.log.borrow().iter().filter(|(name, _)| name == SINGLE) {
                    let range = range.clone().unwrap();
                    assert_eq!(range.start, next, "{name} {range:?}");
                    next = range.end.min(bytes.len() as u64);
                }
                assert_eq!(next, bytes.len() as u64);
            }
        }
    }
}

#[test]
fn one_tensor_can_be_streamed_alone() {
    let bytes = long_file();
    let source = Faulty::new(&[(SINGLE, bytes.clone())]);
    let manifest = block_on(Manifest::read(&source)).unwrap();
    let (shard, position) = manifest.find("model.layers.0700.some_long_name.weight").unwrap();
    block_on(async {
        let mut one = ShardStream::open(&source, shard, position..position + 2, &|| false).await.unwrap();
        let mut got = Vec::new();
        while let Some(piece) = one.next_piece().await.unwrap() {
            got.extend(piece);
        }
        let start = (shard.header.data_start + 700 * 300) as usize;
        assert_eq!(got, bytes[start..start + 600]);
    });
}

#[test]
fn small_tensors_are_read_as_f32() {
    let bf16: Vec<u8> =
        [1.0f32, -0.5, f32::NAN].iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let bytes = file_of(&[("w", Dtype::Bf16, &[2, 1], &bf16[..4]), ("bad", Dtype::Bf16, &[3], &bf16)]);
    let source = Faulty::new(&[(SINGLE, bytes)]);
    let manifest = block_on(Manifest::read(&source)).unwrap();
    let read = |name: &str, limit| block_on(manifest.read_f32(&source, name, limit, &|| false));
    assert_eq!(read("w", 4), Ok(vec![1.0, -0.5]));
    let (file, tensor, dtype) = (SINGLE.to_owned(), "bad".to_owned(), Dtype::Bf16);
    assert_eq!(read("bad", 99), Err(E::NotFinite { file, tensor, dtype, element: 2 }));
    let file = format!("{SINGLE}: w");
    assert_eq!(read("w", 3), Err(SourceError::TooLarge { file, bytes: 4, limit: 3 }.into()));
    assert_eq!(read("x", 3), Err(E::UnknownTensor { tensor: "x".into() }));
}

#[test]
fn no_weights() {
    let source = Faulty::new(&[("model.gguf", vec![1])]);
    let error = error_of(&source);
    assert_eq!(error, E::NoWeights { looked_for: format!("{INDEX} and {SINGLE}") });
    assert!(error.to_string().contains("GGUF"), "{error}");
    assert!(matches!(error_of(&Faulty::new(&[(SINGLE, file("{}", b""))])), E::NoWeights { .. }));
}

#[test]
fn index_json() {
    for text in
        ["", "[]", "{}", r#"{"weight_map":[]}"#, r#"{"weight_map":{"a":1}}"#, r#"{"weight_map":null}"#]
    {
        let source = Faulty::new(&[(INDEX, text.into()), (SINGLE, shard(&["a"]))]);
        assert!(matches!(error_of(&source), E::IndexJson { .. }), "{text}");
    }
    let twice = index(&[("a", ONE), ("a", TWO)]);
    let expected = E::DuplicateKey { file: INDEX.into(), key: "a".into() };
    assert_eq!(error_of(&Faulty::new(&[(INDEX, twice)])), expected);
}

#[test]
fn index_shard() {
    for name in [
        "../x.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "..",
        "",
        "c:x.safetensors",
        "model.bin",
        "x.safetensors?y",
        "%2e%2e.safetensors",
        "http://x.safetensors",
    ] {
        let source = Faulty::new(&[(INDEX, index(&[("a", name)]))]);
        let expected = E::IndexShard { file: INDEX.into(), tensor: "a".into(), shard: name.into() };
        assert_eq!(error_of(&source), expected);
    }
}

#[test]
fn missing_tensor() {
    let source = sharded(&[("a", ONE), ("b", ONE), ("c", TWO), ("d", TWO)]);
    assert_eq!(error_of(&source), E::MissingTensor { tensor: "d".into(), shard: TWO.into() });
}

#[test]
fn wrong_shard() {
    let source = sharded(&[("a", ONE), ("b", TWO), ("c", TWO)]);
    let (tensor, listed, found) = ("b".into(), TWO.into(), ONE.into());
    assert_eq!(error_of(&source), E::WrongShard { tensor, listed, found });
}

#[test]
fn unlisted() {
    let source = sharded(&[("a", ONE), ("c", TWO)]);
    assert_eq!(error_of(&source), E::Unlisted { tensor: "b".into(), shard: ONE.into() });
}

#[test]
fn duplicate_tensor() {
    let files = [(INDEX, index(&[("a", ONE), ("b", TWO)])), (ONE, shard(&["a"])), (TWO, shard(&["a", "b"]))];
    let (tensor, first, second) = ("a".into(), ONE.into(), TWO.into());
    assert_eq!(error_of(&Faulty::new(&files)), E::DuplicateTensor { tensor, first, second });
}

#[test]
fn missing_shard() {
    let source = Faulty::new(&[(INDEX, index(&[("a", ONE)]))]);
    assert_eq!(error_of(&source), SourceError::NotFound { file: ONE.into() }.into());
}

#[test]
fn wrong_length_is_found_before_the_download() {
    let whole = long_file();
    let expected = whole.len() as u64;
    for bytes in [expected - 1, expected + 1] {
        let mut damaged = whole.clone();
        damaged.resize(bytes as usize, 0);
        let source = Faulty::new(&[(SINGLE, damaged)]);
        assert_eq!(error_of(&source), E::FileLength { file: SINGLE.into(), bytes, expected });
    }
}

#[test]
fn header_cut_short_is_found_with_and_without_the_length() {
    let whole = long_file();
    for length in [0, 5, 8, 1000, 70_000] {
        for hide_length in [false, true] {
            let mut source = Faulty::new(&[(SINGLE, whole[..length].to_vec())]);
            source.hide_length = hide_length;
            let error = error_of(&source);
            assert!(
                matches!(error, E::HeaderTruncated { bytes, .. } if bytes == length as u64),
                "{length} {hide_length} {error:?}"
            );
        }
    }
}

#[test]
fn trailing_bytes_are_found_without_the_length() {
    let mut small = shard(&["a"]);
    small.push(0);
    let mut source = Faulty::new(&[(SINGLE, small)]);
    source.hide_length = true;
    assert!(matches!(error_of(&source), E::TrailingBytes { .. }));

    let mut long = long_file();
    let expected = long.len() as u64;
    long.push(0);
    let mut source = Faulty::new(&[(SINGLE, long)]);
    source.hide_length = true;
    let manifest = block_on(Manifest::read(&source)).unwrap();
    let error = block_on(stream(&source, &manifest, 0)).unwrap_err();
    assert_eq!(error, E::TrailingBytes { file: SINGLE.into(), expected });
}

#[test]
fn a_cut_stream_says_where() {
    let bytes = long_file();
    let expected = bytes.len() as u64;
    let mut source = Faulty::new(&[(SINGLE, bytes)]);
    let manifest = block_on(Manifest::read(&source)).unwrap();
    for offset in [expected - 1, manifest.shards[0].header.data_start] {
        source.cut_at = Some(offset);
        let error = block_on(stream(&source, &manifest, 0)).unwrap_err();
        assert_eq!(error, SourceError::Cut { file: SINGLE.into(), offset, expected }.into());
    }
}

#[test]
fn cancelling_stops_before_the_next_piece() {
    let mut source = Faulty::new(&[(SINGLE, long_file())]);
    source.inner.piece_bytes = 1000;
    let manifest = block_on(Manifest::read(&source)).unwrap();
    let shard = &manifest.shards[0];
    let asked = Cell::new(0);
    let cancelled = || {
        asked.set(asked.get() + 1);
        asked.get() > 7
    };
    block_on(async {
        let mut stream = ShardStream::open(&source, shard, shard.all(), &cancelled).await.unwrap();
        let mut pieces = 0;
        let error = loop {
            match stream.next_piece().await {
                Ok(piece) => pieces += usize::from(piece.is_some()),
                Err(error) => break error,
            }
        };
        assert_eq!((pieces, error), (3, SourceError::Aborted.into()));
        let again = ShardStream::open(&source, shard, shard.all(), &cancelled).await;
        assert!(matches!(again, Err(E::Source(SourceError::Aborted))));
    });
}

#[test]
fn failures_of_the_source_pass_through() {
    let failures = [
        SourceError::Status { file: ONE.into(), status: 503 },
        SourceError::WrongRange { file: ONE.into(), sent: String::new() },
        SourceError::Network { file: ONE.into(), detail: "reset".into() },
        SourceError::Io { file: ONE.into(), detail: "disk".into() },
    ];
    for failure in failures {
        let mut source = sharded(&[("a", ONE), ("b", ONE), ("c", TWO)]);
        source.fail = Some((ONE.into(), failure.clone()));
        assert_eq!(error_of(&source), failure.into());
    }
    // An index that cannot be read is no missing index.
    let failure = SourceError::Status { file: INDEX.into(), status: 500 };
    let mut source = Faulty::new(&[(SINGLE, shard(&["a"]))]);
    source.fail = Some((INDEX.into(), failure.clone()));
    assert_eq!(error_of(&source), failure.into());
}

#[test]
fn row_too_long_is_found_before_the_download() {
    let row = (16 << 20) + 1;
    let json = format!(r#"{{"a":{{"dtype":"U8","shape":[{row}],"data_offsets":[0,{row}]}}}}"#);
    let source = Faulty::new(&[(SINGLE, file(&json, &vec![0; row]))]);
    assert!(matches!(error_of(&source), E::RowTooLong { .. }));
}

#[test]
fn memory_and_file_sources_agree() {
    let directory = std::env::temp_dir().join(format!("bise-source-{}", std::process::id()));
    fs::create_dir_all(directory.join("folder")).unwrap();
    let content = Random::new(9).bytes(3_000_000);
    fs::write(directory.join("f"), &content).unwrap();
    let files = FileSource::new(&directory);
    let mut memory = MemorySource::new([("f".to_owned(), content.clone())]);
    for piece_bytes in [1 << 20, 77_777] {
        memory.piece_bytes = piece_bytes;
        for range in [
            None,
            Some(0..10),
            Some(5..2_500_000),
            Some(2_999_999..9_000_000),
            Some(3_000_000..4_000_000),
            Some(7_000_000..8_000_000),
            Some(10..10),
        ] {
            let (a, b) = block_on(async {
                let a = memory.open("f", range.clone()).await.unwrap();
                let b = files.open("f", range.clone()).await.unwrap();
                assert_eq!((a.file_bytes, b.file_bytes), (Some(3_000_000), Some(3_000_000)));
                (drain(a.stream).await.unwrap(), drain(b.stream).await.unwrap())
            });
            assert!(a.iter().all(|piece| (1..=piece_bytes).contains(&piece.len())));
            let expected = range.unwrap_or(0..3_000_000);
            let expected = expected.start.min(3_000_000) as usize..expected.end.min(3_000_000) as usize;
            assert!(a.concat() == b.concat() && a.concat() == content[expected]);
        }
    }
    for name in ["../f", "folder/f", "..", "", ".", "folder"] {
        let error = block_on(files.open(name, None)).err().unwrap();
        assert!(matches!(error, SourceError::Io { .. }), "{name}: {error:?}");
    }
    let missing = SourceError::NotFound { file: "g".into() };
    assert_eq!(block_on(files.open("g", None)).err().unwrap(), missing);
    assert_eq!(block_on(memory.open("g", None)).err().unwrap(), missing);
    let limit = 2_000_000;
    assert!(matches!(
        block_on(read_all(&files, "f", None, limit)),
        Err(SourceError::TooLarge { bytes, limit: 2_000_000, .. }) if bytes > limit
    ));
    assert!(block_on(read_all(&files, "f", None, 3_000_000)).unwrap() == content);
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_synthetic_checkpoint_is_one() {
    let config = r#"{"hidden_size":64,"intermediate_size":96,"num_hidden_layers":3,"num_attention_heads":4,
        "num_key_value_heads":2,"vocab_size":500}"#;
    let mut source = SyntheticSource::new(config, 2);
    source.piece_bytes = 1013;
    let manifest = block_on(Manifest::read(&source)).unwrap();
    assert_eq!((manifest.shards.len(), manifest.tensors().count()), (2, 30));
    for number in 0..2 {
        let whole = block_on(read_all(&source, &manifest.shards[number].file, None, 1 << 30)).unwrap();
        let all = events([&whole[..]]).unwrap();
        assert!(block_on(stream(&source, &manifest, number)).unwrap() == all[1..]);
        let json_bytes = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let header = Header::parse("x", &whole[8..8 + json_bytes]).unwrap();
        assert_eq!(header, *manifest.shards[number].header);
    }
    assert_eq!(block_on(read_all(&source, "config.json", None, 999)).unwrap(), config.as_bytes());
}

/// Rust, JavaScript and Python make the same weights: these are of
/// tests/seven_billion_reference.py.
#[test]
fn the_synthetic_weights_are_those_of_the_definition() {
    let config = include_str!("../fixtures/synthetic/mini.json");
    let source = SyntheticSource::with_layout(config, Layout::Fp8, 8_300_000);
    let manifest = block_on(Manifest::read(&source)).unwrap();
    assert_eq!(manifest.shards.len(), 3);
    for (name, begin, expected) in [
        ("model.layers.1.mlp.down_proj.weight", 3 * 352, "9e923ce0db2ee745bb05ab02"),
        ("lm_head.weight", 32_000 * 256 - 12, "9b3dcabde2bdf43d42bd89bd"),
        ("model.layers.1.mlp.down_proj.weight_scale", 0, "1d3a393a343a3b3a063a053a"),
        ("model.norm.weight", 0, "493f323f7c3f6d3f543f413f"),
    ] {
        let info = manifest.get(name).unwrap().1;
        let bytes = source.tensor_bytes(info, begin..begin + 12);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected, "{name}");
        // From inside a word to inside another.
        assert_eq!(source.tensor_bytes(info, begin + 1..begin + 10), bytes[1..10], "{name}");
    }
}
