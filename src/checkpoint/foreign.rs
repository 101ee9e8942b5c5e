//! What lies where a checkpoint was looked for: other formats are refused by name.

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::index::{INDEX_FILE, SINGLE_FILE};
use crate::checkpoint::source::{ByteSource, Opened};

/// Names to ask for where a source does not tell its files. GGUF files have no fixed names.
const PROBED: [&str; 6] = [
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "consolidated.safetensors",
    "consolidated.00.pth",
    "params.json",
    "adapter_model.safetensors",
];

/// Files that a message names before it only counts them.
const MAX_NAMED: usize = 3;

/// The kind of a file: its name in messages, and what to do about it. The first kind of which there is
/// a file is what a directory holds.
fn kind(file: &str) -> Option<(usize, &'static str, &'static str)> {
    let name = file.to_ascii_lowercase();
    let kinds = [
        (
            name.starts_with("model-") && name.ends_with(".safetensors"),
            "shards without their index",
            "add model.safetensors.index.json, which lies beside them in the repository",
        ),
        (
            name.starts_with("consolidated") || name == "params.json",
            "Mistral's own layout",
            "take the same model in the Hugging Face layout (config.json with model.safetensors, or shards with \
             their index)",
        ),
        (name.ends_with(".gguf"), "GGUF", "take the repository that these files were converted from"),
        (
            name.starts_with("adapter_model"),
            "an adapter, not a model",
            "merge it into its base model first (merge_and_unload of peft)",
        ),
        (
            name.starts_with("pytorch_model") || name.ends_with(".bin") || name.ends_with(".pth"),
            "PyTorch files",
            "look for a revision with safetensors, or convert them: load the model in transformers and call \
             save_pretrained",
        ),
        (
            name.ends_with(".safetensors"),
            "safetensors of another name",
            "a single file has to be called model.safetensors, and several need model.safetensors.index.json",
        ),
        (
            name.ends_with(".onnx") || name.ends_with(".h5") || name.ends_with(".msgpack"),
            "another framework's files",
            "look for a repository with safetensors",
        ),
    ];
    let at = kinds.iter().position(|(is, ..)| *is)?;
    kinds.get(at).map(|(_, what, advice)| (at, *what, *advice))
}

/// The error for a place with neither index nor single file: it says what is there instead.
pub async fn no_weights(source: &impl ByteSource) -> CheckpointError {
    let looked_for = format!("{INDEX_FILE} and {SINGLE_FILE}");
    found_instead(source).await.unwrap_or(CheckpointError::NoWeights { looked_for })
}

/// [`CheckpointError::OtherFormat`] if the source holds weights in another format. Whatever fails while
/// it is asked counts as nothing there: this is for the sake of a message.
pub async fn found_instead(source: &impl ByteSource) -> Option<CheckpointError> {
    let mut files = source.list().await;
    if files.iter().any(|file| file == INDEX_FILE || file == SINGLE_FILE) {
        return None;
    }
    if files.is_empty() {
        for file in PROBED {
            if let Ok(Opened { .. }) = source.open(file, Some(0..1)).await {
                files.push(file.to_owned());
                break;
            }
        }
    }
    // One kind is named: of several, the one that says most.
    let (first, what, advice) = files.iter().filter_map(|file| kind(file)).min_by_key(|(at, ..)| *at)?;
    let (mut found, mut count) = (String::new(), 0_usize);
    for file in files.iter().filter(|file| kind(file).is_some_and(|(at, ..)| at == first)) {
        if count < MAX_NAMED {
            found += if count == 0 { "" } else { ", " };
            found += file;
        }
        count += 1;
    }
    if count > MAX_NAMED {
        found += &format!(" and {} more", count - MAX_NAMED);
    }
    Some(CheckpointError::OtherFormat { found, what, advice })
}
