//! Directories that hold weights in another format: the message names what is there and what to do.

use std::ops::Range;

use bise::checkpoint::source::{MemorySource, MemoryStream};
use bise::checkpoint::{ByteSource, CheckpointError as E, Manifest, Opened, SourceError};
use pollster::block_on;

fn source(files: &[&str]) -> MemorySource {
    MemorySource::new(files.iter().map(|name| ((*name).to_owned(), b"x".to_vec())))
}

/// A source that tells its files only to those who know their names, as a web server.
struct Unlisted(MemorySource);

impl ByteSource for Unlisted {
    type Stream = MemoryStream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<MemoryStream>, SourceError> {
        self.0.open(file, range).await
    }
}

/// Asserts that the refusal names those files, and says that much.
fn assert_refused(source: &impl ByteSource, files: &str, quoted: &str) {
    let error = block_on(Manifest::read(source)).unwrap_err();
    assert!(matches!(&error, E::OtherFormat { found, .. } if found == files), "{files}: {error:?}");
    assert!(error.to_string().contains(quoted), "{error}");
}

#[test]
fn what_is_listed_is_named() {
    for (files, named, quoted) in [
        (&["config.json", "pytorch_model.bin"][..], "pytorch_model.bin", "save_pretrained"),
        (
            &["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "README.md"],
            "pytorch_model-00001-of-00002.bin, pytorch_model.bin.index.json",
            "PyTorch",
        ),
        (
            &["a.Q4_K_M.gguf", "b.gguf", "c.gguf", "d.gguf"],
            "a.Q4_K_M.gguf, b.gguf, c.gguf and 1 more",
            "GGUF",
        ),
        (
            &["consolidated.safetensors", "params.json"],
            "consolidated.safetensors, params.json",
            "Mistral's own",
        ),
        (&["consolidated.00.pth", "params.json"], "consolidated.00.pth, params.json", "Hugging Face layout"),
        (&["adapter_config.json", "adapter_model.safetensors"], "adapter_model.safetensors", "adapter"),
        (&["model-00001-of-00002.safetensors"], "model-00001-of-00002.safetensors", "index.json"),
        (&["mymodel.safetensors"], "mymodel.safetensors", "model.safetensors"),
        (&["model.onnx"], "model.onnx", "safetensors"),
    ] {
        assert_refused(&source(files), named, quoted);
    }
}

#[test]
fn what_is_not_listed_is_asked_for_by_the_names_in_use() {
    for (files, quoted) in [
        ("pytorch_model.bin", "PyTorch"),
        ("pytorch_model.bin.index.json", "PyTorch"),
        ("consolidated.safetensors", "Mistral's own"),
        ("consolidated.00.pth", "Mistral's own"),
        ("params.json", "Mistral's own"),
        ("adapter_model.safetensors", "adapter"),
    ] {
        assert_refused(&Unlisted(source(&[files])), files, quoted);
    }
}

#[test]
fn nothing_of_the_kind_is_no_other_format() {
    for files in [&[][..], &["config.json", "tokenizer.json", "README.md"]] {
        for error in [
            block_on(Manifest::read(&source(files))).unwrap_err(),
            block_on(Manifest::read(&Unlisted(source(files)))).unwrap_err(),
        ] {
            assert!(matches!(error, E::NoWeights { .. }), "{error:?}");
        }
    }
}
