//! Names, order, shards and index of what is written.

use std::fs;

use bise::checkpoint::sink::{ByteSink, FileSink, MemorySink};
use bise::checkpoint::source::{FileSource, MemorySource};
use bise::checkpoint::writer::{Plan, TensorSpec, Writer};
use bise::checkpoint::{CheckpointError as E, Manifest};
use bise::dtype::Dtype;
use pollster::block_on;

fn spec(name: &str, dtype: Dtype, shape: &[u64]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
}

fn names(plan: &Plan) -> Vec<Vec<&str>> {
    plan.shards.iter().map(|s| s.header.tensors.iter().map(|t| t.name.as_str()).collect()).collect()
}

/// Tensors of 100 bytes each.
fn hundreds(count: usize) -> Vec<TensorSpec> {
    (0..count).map(|i| spec(&format!("t{i}"), Dtype::Bf16, &[5, 10])).collect()
}

/// Byte `i` of a tensor in these tests.
fn content(name: &str, length: u64) -> Vec<u8> {
    (0..length).map(|i| i as u8 ^ name.len() as u8 ^ name.as_bytes().last().copied().unwrap_or(0)).collect()
}

async fn write_all<S: ByteSink>(plan: &Plan, sink: S, piece: usize) -> Result<S, E> {
    let mut writer = Writer::new(plan, sink);
    while let Some((next, _)) = writer.next() {
        for piece in content(&next.name, next.bytes()).chunks(piece) {
            writer.write(&next.name, piece).await?;
        }
    }
    writer.finish().await
}

#[test]
fn shards_are_flushed_before_they_overflow() {
    for (limit, expected) in [(1, 7), (100, 7), (199, 7), (200, 4), (250, 4), (300, 3), (699, 2), (700, 1)] {
        let plan = Plan::new(hundreds(7), limit).unwrap();
        assert_eq!(plan.shards.len(), expected, "{limit}");
        assert_eq!(names(&plan).concat(), ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
    }
    let plan = Plan::new(hundreds(7), 300).unwrap();
    let files: Vec<_> = plan.shards.iter().map(|s| s.file.as_str()).collect();
    let expected = [1, 2, 3].map(|i| format!("model-0000{i}-of-00003.safetensors"));
    assert_eq!(files, expected);
    assert_eq!(Plan::new(hundreds(7), 700).unwrap().shards[0].file, "model.safetensors");
}

#[test]
fn shards_are_ordered_by_dtype_size_then_name() {
    let plan = Plan::new(
        vec![
            spec("b", Dtype::F8E4m3, &[1]),
            spec("z", Dtype::F32, &[1]),
            spec("a", Dtype::Bf16, &[1]),
            spec("c", Dtype::F16, &[1]),
            spec("a2", Dtype::U8, &[1]),
            spec("y", Dtype::I64, &[1]),
        ],
        1000,
    )
    .unwrap();
    assert_eq!(names(&plan), [["y", "z", "a", "c", "a2", "b"]]);
}

#[test]
fn header_is_padded_and_names_its_format() {
    for length in 0..20 {
        let plan = Plan::new(vec![spec(&"é".repeat(length), Dtype::F32, &[2])], 100).unwrap();
        let head = &plan.shards[0].head;
        assert_eq!(head.len() % 8, 0);
        assert_eq!(u64::from_le_bytes(head[..8].try_into().unwrap()), head.len() as u64 - 8);
        let json: serde_json::Value = serde_json::from_slice(&head[8..]).unwrap();
        assert_eq!(json["__metadata__"]["format"], "pt");
        assert_eq!(plan.shards[0].header.data_start, head.len() as u64);
    }
}

#[test]
fn index_lists_every_tensor_and_the_total() {
    let plan = Plan::new(hundreds(3), 200).unwrap();
    let index: serde_json::Value = serde_json::from_str(&plan.index_json().unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 300);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), 3);
    assert_eq!(index["weight_map"]["t2"], "model-00002-of-00002.safetensors");
    assert_eq!(Plan::new(hundreds(3), 300).unwrap().index_json(), None);
}

#[test]
fn what_is_written_is_read_again() {
    let mut tensors = hundreds(5);
    tensors.insert(0, spec("empty.0", Dtype::F32, &[0]));
    tensors.insert(3, spec("scalar", Dtype::F64, &[]));
    tensors.push(spec("zz.empty", Dtype::I8, &[3, 0]));
    for limit in [1, 210, 10_000] {
        let plan = Plan::new(tensors.clone(), limit).unwrap();
        let bytes: Vec<_> =
            [1, 7, 1000].map(|p| block_on(write_all(&plan, MemorySink::default(), p)).unwrap().files).into();
        assert!(bytes.windows(2).all(|pair| pair[0] == pair[1]), "the pieces must not show");
        let source = MemorySource::new(bytes[0].clone());
        let manifest = block_on(Manifest::read(&source)).unwrap();
        assert_eq!(manifest.shards.len(), plan.shards.len());
        for (planned, shard) in plan.shards.iter().zip(&manifest.shards) {
            assert_eq!(planned.header, *shard.header);
            for info in &shard.header.tensors {
                let begin = (shard.header.data_start + info.begin) as usize;
                let file = &source.files[&shard.file];
                assert_eq!(file[begin..begin + info.bytes() as usize], content(&info.name, info.bytes()));
            }
        }
    }
}

#[test]
fn sizes_beyond_four_gibibytes_are_planned() {
    let matrix = |name: &str| spec(name, Dtype::F32, &[200_000, 50_000]);
    let plan = Plan::new(vec![matrix("a"), matrix("b"), matrix("c")], 80_000_000_000).unwrap();
    assert_eq!(names(&plan), [vec!["a", "b"], vec!["c"]]);
    assert_eq!(plan.shards[0].header.tensors[1].begin, 40_000_000_000);
    assert_eq!(plan.total_bytes(), 120_000_000_000);
}

#[test]
fn writer_name() {
    for tensors in [vec![spec("__metadata__", Dtype::U8, &[1])], [hundreds(2), hundreds(1)].concat()] {
        let name = tensors.last().unwrap().name.clone();
        assert_eq!(Plan::new(tensors, 100), Err(E::WriterName { tensor: name }));
    }
}

#[test]
fn size_overflow() {
    let shape = vec![1 << 63, 2];
    let (file, tensor) = ("output".into(), "a".into());
    let expected = Err(E::SizeOverflow { file, tensor, shape: shape.clone() });
    assert_eq!(Plan::new(vec![spec("a", Dtype::U8, &shape)], 1), expected);
    let half = |name: &str| spec(name, Dtype::U8, &[1 << 63]);
    let both = Plan::new(vec![half("a"), half("b")], u64::MAX);
    assert!(matches!(both, Err(E::SizeOverflow { .. })), "{both:?}");
}

#[test]
fn writer_order() {
    let plan = Plan::new(hundreds(2), 1000).unwrap();
    let mut writer = Writer::new(&plan, MemorySink::default());
    let order =
        |tensor: &str, expected: &str| E::WriterOrder { tensor: tensor.into(), expected: expected.into() };
    block_on(async {
        assert_eq!(writer.write("t1", &[0; 100]).await, Err(order("t1", "t0")));
        writer.write("t0", &[0; 99]).await.unwrap();
        assert_eq!(writer.write("t1", &[0; 100]).await, Err(order("t1", "t0")));
        assert_eq!(writer.next().map(|(info, at)| (info.name.as_str(), at)), Some(("t0", 99)));
        writer.write("t0", &[0]).await.unwrap();
        writer.write("t1", &[0; 100]).await.unwrap();
        assert_eq!(writer.write("t1", &[0]).await, Err(order("t1", "the end")));
    });
}

#[test]
fn writer_size() {
    let plan = Plan::new(hundreds(1), 1000).unwrap();
    let mut writer = Writer::new(&plan, MemorySink::default());
    let error = block_on(writer.write("t0", &[0; 101])).unwrap_err();
    assert_eq!(error, E::WriterSize { tensor: "t0".into(), bytes: 101, expected: 100 });
}

#[test]
fn writer_incomplete() {
    let plan = Plan::new(hundreds(3), 100).unwrap();
    let mut writer = Writer::new(&plan, MemorySink::default());
    block_on(writer.write("t0", &[0; 100])).unwrap();
    block_on(writer.write("t1", &[0; 99])).unwrap();
    let error = block_on(writer.finish()).err().unwrap();
    assert_eq!(error, E::WriterIncomplete { tensor: "t1".into(), missing: 2 });
}

#[test]
fn files_appear_only_when_complete() {
    let directory = std::env::temp_dir().join(format!("bise-sink-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let listing = || {
        let entries =
            fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    };
    let plan = Plan::new(hundreds(2), 100).unwrap();
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    block_on(async {
        let mut writer = Writer::new(&plan, FileSink::new(&directory));
        writer.write("t0", &[0; 99]).await.unwrap();
        assert_eq!(listing(), [format!("{one}.partial")]);
        writer.write("t0", &[0]).await.unwrap();
        writer.write("t1", &[0]).await.unwrap();
        assert_eq!(listing(), [one.to_owned(), format!("{two}.partial")]);
        drop(writer);
        assert_eq!(listing(), [one]);
        write_all(&plan, FileSink::new(&directory), 9).await.unwrap();
        assert_eq!(listing(), [one, two, "model.safetensors.index.json"]);
        Manifest::read(&FileSource::new(&directory)).await.unwrap();
    });
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn write_failure() {
    let directory = std::env::temp_dir().join("bise-sink-that-does-not-exist");
    let plan = Plan::new(hundreds(1), 100).unwrap();
    let error = block_on(write_all(&plan, FileSink::new(directory), 9)).err().unwrap();
    assert!(matches!(&error, E::Write { file, .. } if file == "model.safetensors"), "{error:?}");
}
