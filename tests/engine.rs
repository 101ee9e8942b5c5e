//! What a load refuses before it needs a device: messages that say what, where and what to do,
//! and the codes that callers see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use std::cell::Cell;
use std::future::poll_fn;
use std::ops::Range;
use std::task::Poll;

use bise::checkpoint::source::{FileSource, MemorySource, MemoryStream};
use bise::checkpoint::{ByteSource, CheckpointError, Manifest, Opened, SourceError};
use bise::dtype::Dtype;
use bise::engine::{EngineError, Inspection, LoadOptions, inspect};
use bise::kernels::{self, Sizes as Workgroups, Threads, Tile};
use bise::model::Config;
use bise::steps::{DecoderShape, MatrixSpec};
use pollster::block_on;

const TALE: &str = "www/models/tale";

/// tale with one of its side files replaced, or without it.
fn tale_with(file: &str, content: Option<&str>) -> Result<Inspection, EngineError> {
    let mut source = MemorySource::new([]);
    for entry in std::fs::read_dir(TALE).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        source.files.insert(name, std::fs::read(&path).unwrap());
    }
    source.files.remove(file);
    source.files.extend(content.map(|text| (file.to_owned(), text.as_bytes().to_vec())));
    block_on(inspect(&source, &LoadOptions::default(), None))
}

#[test]
fn codes_of_sources() {
    let file = || "f".to_owned();
    let io = || SourceError::Io { file: file(), detail: "denied".into() };
    let parent =
        |error: SourceError| SourceError::Parent { model: "m".into(), error: Box::new(error.into()) };
    let gave_up = |error| SourceError::GaveUp { offset: 7, attempts: 6, error: Box::new(error) };
    let hole = CheckpointError::Hole { file: file(), tensor: "t".into(), begin: 2, expected: 1 };
    for (error, code) in [
        (SourceError::Aborted, "aborted"),
        (SourceError::NotFound { file: file() }, "bad-checkpoint"),
        (SourceError::TooLarge { file: file(), bytes: 2, limit: 1 }, "bad-checkpoint"),
        (io(), "bad-checkpoint"),
        (SourceError::Status { file: file(), status: 500 }, "network"),
        (SourceError::WrongRange { file: file(), sent: "bytes 0-1/2".into() }, "network"),
        (SourceError::Changed { file: file(), offset: 1 }, "integrity"),
        (gave_up(SourceError::Status { file: file(), status: 503 }), "network"),
        (gave_up(io()), "bad-checkpoint"),
        (SourceError::Cut { file: file(), offset: 1, expected: 2 }, "network"),
        (SourceError::Network { file: file(), detail: "down".into() }, "network"),
        (parent(SourceError::Aborted), "aborted"),
        (parent(io()), "bad-checkpoint"),
        (parent(SourceError::Status { file: file(), status: 500 }), "network"),
        (SourceError::Parent { model: "m".into(), error: Box::new(hole) }, "bad-checkpoint"),
    ] {
        assert_eq!(EngineError::from(error.clone()).code(), code, "{error}");
    }
}

#[test]
fn statuses_come_with_advice() {
    for (status, advice) in [
        (401, "the option token"),
        (403, "gated"),
        (429, "later"),
        (503, "later"),
        (418, "check the address"),
    ] {
        let text = SourceError::Status { file: "https://host/model/config.json".into(), status }.to_string();
        assert!(
            text.contains(advice) && text.contains("https://host/") && text.contains(&status.to_string()),
            "{text}"
        );
    }
}

#[test]
fn a_model_that_is_not_there_is_named_as_such() {
    let error = tale_with("config.json", None).unwrap_err();
    assert_eq!(error.code(), "bad-checkpoint");
    assert!(matches!(&error, EngineError::NoModel { file } if file == "config.json"), "{error}");
    assert!(error.to_string().contains("check the name"), "{error}");
}

/// Repositories of other formats often have no config.json either.
#[test]
fn other_formats_are_named_before_a_missing_config() {
    for file in ["model.Q4_K_M.gguf", "pytorch_model.bin", "consolidated.safetensors"] {
        let source = MemorySource::new([(file.to_owned(), vec![0])]);
        let error = block_on(inspect(&source, &LoadOptions::default(), None)).unwrap_err();
        assert_eq!(error.code(), "unsupported-model", "{error}");
        assert!(error.to_string().contains(file), "{error}");
    }
}

/// Packed weights have other shapes, too: what they are packed in says more.
#[test]
fn integer_weights_are_refused_by_their_dtype() {
    let header =
        r#"{"model.layers.0.self_attn.q_proj.weight":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), b"x"].concat();
    let config = std::fs::read(format!("{TALE}/config.json")).unwrap();
    let source = MemorySource::new([("config.json".into(), config), ("model.safetensors".into(), file)]);
    let error = block_on(inspect(&source, &LoadOptions::default(), None)).unwrap_err();
    assert_eq!(error.code(), "unsupported-model", "{error}");
    assert!(error.to_string().contains("q_proj") && error.to_string().contains("U8"), "{error}");
}

/// A file that cannot be read is no failure of the network.
#[test]
fn a_folder_in_place_of_a_file_is_a_bad_checkpoint() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("folder-as-config/config.json");
    std::fs::create_dir_all(&folder).unwrap();
    let error = block_on(inspect(&FileSource::new(folder.parent().unwrap()), &LoadOptions::default(), None))
        .unwrap_err();
    assert_eq!(error.code(), "bad-checkpoint", "{error}");
    assert!(error.to_string().contains("config.json"), "{error}");
}

/// Side files of any size are refused before they fill the memory.
#[test]
fn side_files_are_limited() {
    for (file, bytes) in
        [("tokenizer.json", 21 << 20), ("config.json", 3 << 20), ("tokenizer_config.json", 3 << 20)]
    {
        let error = tale_with(file, Some(&" ".repeat(bytes))).unwrap_err();
        assert_eq!(error.code(), "bad-checkpoint");
        assert!(error.to_string().contains(file) && error.to_string().contains("larger than"), "{error}");
    }
}

/// The figures that README names, and those of a rolling cache.
#[test]
fn the_largest_context_is_what_one_buffer_holds() {
    let mut shape = DecoderShape { kv_heads: 8, head_dim: 128, max_batch: 256, ..DecoderShape::default() };
    assert_eq!(shape.largest_context(128 << 20), 65_536);
    assert_eq!(shape.largest_context(1 << 30), 524_288);
    shape.window = Some(4096);
    assert_eq!(shape.largest_context(128 << 20), u32::MAX);
    shape.window = Some(131_072);
    assert_eq!(shape.largest_context(128 << 20), 65_536);
    let long = serde_json::json!({ "sliding_window": null, "max_position_embeddings": 10_000_000 });
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{TALE}/config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(long.as_object().unwrap().clone());
    let inspection = tale_with("config.json", Some(&config.to_string())).unwrap();
    let kv_width = inspection.kv_cache_bytes / u64::from(inspection.context_length * inspection.layers) / 4;
    assert_eq!(u64::from(inspection.context_length_at_default_limits), (128 << 20) / (2 * kv_width));
}

/// Files that take their time to open, and how many were asked for at the same time.
struct Slow {
    inner: MemorySource,
    running: Cell<usize>,
    most: Cell<usize>,
    rounds: Cell<usize>,
}

impl ByteSource for Slow {
    type Stream = MemoryStream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<MemoryStream>, SourceError> {
        self.rounds.set(self.rounds.get() + usize::from(self.running.get() == 0));
        self.running.set(self.running.get() + 1);
        self.most.set(self.most.get().max(self.running.get()));
        let mut waited = false;
        poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.running.set(self.running.get() - 1);
        self.inner.open(file, range).await
    }
}

/// A load waits for few round trips: requests that do not depend on each other go out together, but
/// never more than a server answers at once.
#[test]
fn small_files_and_headers_are_fetched_together() {
    let slow = |inner| Slow { inner, running: Cell::new(0), most: Cell::new(0), rounds: Cell::new(0) };
    let files = std::fs::read_dir(TALE).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
    });
    let source = slow(MemorySource::new(files));
    block_on(inspect(&source, &LoadOptions::default(), None)).unwrap();
    assert_eq!(source.most.get(), 5, "config, generation, tokenizer, its config, special tokens");
    assert!(
        source.rounds.get() <= 3,
        "{} round trips for small files, index and headers",
        source.rounds.get()
    );

    let header = |tensor: usize| {
        let json = format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), b"x"].concat()
    };
    let names: Vec<_> = (0..9).map(|number| format!("{number}.safetensors")).collect();
    let map: Vec<_> =
        names.iter().enumerate().map(|(tensor, name)| format!(r#""{tensor}":"{name}""#)).collect();
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, map.join(","));
    let shards = names.into_iter().enumerate().map(|(tensor, name)| (name, header(tensor)));
    let source = slow(MemorySource::new(
        shards.chain([("model.safetensors.index.json".to_owned(), index.into_bytes())]),
    ));
    let manifest = block_on(Manifest::read(&source)).unwrap();
    let order: Vec<_> = manifest.tensors().map(|(_, info)| info.name.clone()).collect();
    assert_eq!(order, (0..9).map(|tensor| tensor.to_string()).collect::<Vec<_>>());
    assert_eq!(source.most.get(), 4);
}

/// Sizes of config.json, in the order of `config_of`.
type Sizes = [(&'static str, u64); 6];

fn config_of(sizes: Sizes) -> Result<Config, String> {
    let mut config = serde_json::json!({ "model_type": "llama", "num_hidden_layers": 1 });
    for (key, size) in sizes {
        config[key] = size.into();
    }
    Config::parse(config.to_string().as_bytes()).map_err(|error| error.to_string())
}

/// What Config lets through, the shaders can be dispatched for: at most 65535 workgroups in each
/// dimension. What it does not is named, before any device is asked.
#[test]
fn sizes_that_pass_can_be_dispatched() {
    let most = 1 << 20;
    let mut passed = 0;
    for (heads, kv_heads, head_dim) in [
        (1024, 1, 128),
        (1024, 1024, 128),
        (64, 1, 2048),
        (64, 64, 2048),
        (191, 1, 686),
        (261, 1, 502),
        (1024, 1, 2),
    ] {
        let config = config_of([
            ("hidden_size", most),
            ("intermediate_size", most),
            ("vocab_size", most),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", head_dim),
        ])
        .unwrap();
        let mut shape = config.shape(config.max_positions);
        shape.max_batch = 256;
        let tokens = shape.max_batch;
        let matrix = |rows: u32, cols: u32, dtype| {
            let spec = MatrixSpec { label: String::new(), rows, cols, dtype, scale_cols: 0 };
            Workgroups::ALL.into_iter().flat_map(move |sizes| {
                [
                    kernels::matmul::grid(rows, tokens, Tile::of(sizes)),
                    kernels::matvec::grid(&spec, rows, tokens, Threads::of(sizes)),
                    kernels::matvec_gated::grid(&spec, rows, tokens, Threads::of(sizes)),
                ]
            })
        };
        let most = most as u32;
        let mut grids = vec![
            kernels::rope_store::grid(&shape, tokens),
            kernels::attend_reduce::grid(&shape, tokens),
            kernels::embed::grid(most, tokens),
            kernels::silu_mul::grid(most, tokens),
        ];
        for dtype in [Dtype::F32, Dtype::F8E4m3] {
            grids.extend(matrix(most, 16, dtype));
            grids.extend(matrix(most, most, dtype));
            grids.extend(matrix(shape.qkv_width(), most, dtype));
        }
        for (prompt, sizes) in [true, false].into_iter().flat_map(|p| Workgroups::ALL.map(|s| (p, s))) {
            let tiling = kernels::attend::Tiling::new(&shape, prompt, sizes);
            grids.push(tiling.grid(&shape, tokens, tiling.most_splits(&shape)));
        }
        for grid in grids {
            assert!(
                grid.iter().all(|&groups| (1..=65_535).contains(&groups)),
                "{heads} x {head_dim}: {grid:?}"
            );
            passed += 1;
        }
    }
    assert!(passed > 100);
}

#[test]
fn sizes_beyond_any_model_are_named() {
    let plain: Sizes = [
        ("hidden_size", 64),
        ("intermediate_size", 64),
        ("vocab_size", 64),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 4),
        ("head_dim", 16),
    ];
    assert!(config_of(plain).is_ok());
    for (key, size, said) in [
        ("hidden_size", (1 << 20) + 1, "hidden_size"),
        ("intermediate_size", 1 << 23, "intermediate_size"),
        ("vocab_size", 1 << 21, "vocab_size"),
        ("num_attention_heads", 1 << 21, "num_attention_heads"),
        ("num_attention_heads", 2048, "2048 heads"),
    ] {
        let sizes = plain.map(|(name, plain)| (name, if name == key { size } else { plain }));
        let error = config_of(sizes).unwrap_err();
        assert!(error.contains("config.json") && error.contains(said), "{error}");
    }
}

/// Defaults that no request could be sampled with are found at the load, not at the first request.
#[test]
fn generation_config_is_checked() {
    let of = |json: &str| tale_with("generation_config.json", Some(json));
    for good in [
        r#"{"top_k": -1}"#,
        r#"{"top_k": 0}"#,
        r#"{"top_p": 1.0, "min_p": 0}"#,
        r#"{"do_sample": false, "temperature": 0}"#,
    ] {
        assert!(of(good).is_ok(), "{good}: {}", of(good).unwrap_err());
    }
    for (bad, said) in [
        (r#"{"top_k": -2}"#, "top_k"),
        (r#"{"top_k": 2.5}"#, "top_k"),
        (r#"{"top_p": 0.0}"#, "top_p"),
        (r#"{"top_p": 1.5}"#, "top_p"),
        (r#"{"min_p": 2}"#, "min_p"),
        (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
        (r#"{"temperature": -1}"#, "temperature"),
    ] {
        let error = of(bad).unwrap_err();
        assert_eq!(error.code(), "bad-checkpoint", "{bad}");
        let text = error.to_string();
        assert!(text.contains("generation_config.json") && text.contains(said), "{bad}: {text}");
    }
}
