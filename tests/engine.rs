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

use bise::checkpoint::source::{FileSource, MemorySource};
use bise::checkpoint::{CheckpointError, SourceError};
use bise::engine::{EngineError, Inspection, inspect};
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
    block_on(inspect(&source, None))
}

#[test]
fn codes_of_sources() {
    let file = || "f".to_owned();
    let io = || SourceError::Io { file: file(), detail: "denied".into() };
    let parent =
        |error: SourceError| SourceError::Parent { model: "m".into(), error: Box::new(error.into()) };
    let hole = CheckpointError::Hole { file: file(), tensor: "t".into(), begin: 2, expected: 1 };
    for (error, code) in [
        (SourceError::Aborted, "aborted"),
        (SourceError::NotFound { file: file() }, "bad-checkpoint"),
        (SourceError::TooLarge { file: file(), bytes: 2, limit: 1 }, "bad-checkpoint"),
        (io(), "bad-checkpoint"),
        (SourceError::Status { file: file(), status: 500 }, "network"),
        (SourceError::RangeIgnored { file: file() }, "network"),
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
    for (status, advice) in
        [(401, "option headers"), (403, "gated"), (429, "later"), (503, "later"), (418, "check the address")]
    {
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

/// A file that cannot be read is no failure of the network.
#[test]
fn a_folder_in_place_of_a_file_is_a_bad_checkpoint() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("folder-as-config/config.json");
    std::fs::create_dir_all(&folder).unwrap();
    let error = block_on(inspect(&FileSource::new(folder.parent().unwrap()), None)).unwrap_err();
    assert_eq!(error.code(), "bad-checkpoint", "{error}");
    assert!(error.to_string().contains("config.json"), "{error}");
}
