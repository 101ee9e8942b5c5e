//! The result's files that are not weights.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::layout::Layouts;
use super::parent::{Parent, torch_name};
use super::recipe::{ChatTemplateChoice, Document, Recipe, TokenizerChoice};
use super::tensor::TensorPlan;
use super::{MergeError, same_tokenizer};
use crate::checkpoint::index::INDEX_FILE;
use crate::checkpoint::source::read_all;
use crate::checkpoint::{ByteSource, CheckpointError, SourceError};

/// Files that are copied, where they are there: the last from the base, the others from the parent whose
/// tokenizer the result gets.
pub const SIDE_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    GENERATION_CONFIG,
];

/// Files that a copy of one model has from it: what it runs with, and what it is.
pub const COPIED_FILES: [&str; 13] = {
    let mut files = [""; 13];
    let (side, more) = files.split_at_mut(SIDE_FILES.len());
    side.copy_from_slice(&SIDE_FILES);
    more.copy_from_slice(&["vocab.json", "chat_template.json", RECIPE, CARD, "LICENSE"]);
    files
};

const RECIPE: &str = "mergekit_config.yml";
const CARD: &str = "README.md";
const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Largest side file that is read, bytes.
pub(super) const LIMIT_BYTES: u64 = 64 << 20;

/// Largest one that is parsed, and so takes several times as much memory.
const PARSED_LIMIT_BYTES: u64 = 4 << 20;

/// What config.json needs to know.
pub(super) struct Settings {
    /// Index of the parent whose config.json it starts from.
    pub(super) base: usize,
    pub(super) layers: u32,
    pub(super) quantize: bool,
}

/// Whether a tensor is a linear weight of a layer: those that FP8 checkpoints quantise.
pub(super) fn is_linear(tensor: &str) -> bool {
    tensor.ends_with("_proj.weight")
}

/// Whether this file turns a directory into a checkpoint.
pub(super) fn makes_a_checkpoint(file: &str) -> bool {
    file == CONFIG || file == INDEX_FILE
}

/// config.json, the recipe as given and the model card (neither for a copy, which is no merge), and what the
/// recipe says of the chat template.
pub(super) async fn write<S: ByteSource>(
    recipe: &Recipe,
    text: Option<&str>,
    parents: &[Parent<S>],
    tensors: &[TensorPlan],
    settings: &Settings,
    tokenizer: usize,
) -> Result<BTreeMap<String, Vec<u8>>, MergeError> {
    let mut files = BTreeMap::new();
    let mut add = |name: &str, content: String| files.insert(name.to_owned(), content.into_bytes());
    if let Some(base) = parents.get(settings.base) {
        add(CONFIG, pretty(&config(base, tensors, settings)));
    }
    if let Some(text) = text {
        add(RECIPE, text.to_owned());
        add(CARD, card(recipe, text, parents));
    }
    let choice = recipe.documents.last().and_then(|document| document.chat_template.as_ref());
    if let (Some(choice), Some(parent)) = (choice, parents.get(tokenizer)) {
        let template = match choice {
            ChatTemplateChoice::Jinja(template) => Some(template.clone()),
            ChatTemplateChoice::Auto => most_common_template(parents).await?,
        };
        if let Some(template) = template {
            add(CHAT_TEMPLATE, template);
            // Two templates would contradict each other.
            if let Some(mut config) = read_object(parent, TOKENIZER_CONFIG).await?
                && config.remove("chat_template").is_some()
            {
                add(TOKENIZER_CONFIG, pretty(&Value::Object(config)));
            }
        }
    }
    Ok(files)
}

/// The parent whose tokenizer files the result gets.
pub(super) async fn tokenizer_parent<S: ByteSource>(
    recipe: &Recipe,
    layouts: &Layouts,
    parents: &[Parent<S>],
    last: usize,
) -> Result<usize, MergeError> {
    let base = layouts.base_parent(last);
    let Some(document) = recipe.documents.get(last) else { return Ok(base) };
    match &document.tokenizer {
        TokenizerChoice::Base => Ok(base),
        TokenizerChoice::Model(model) => {
            let earlier = recipe
                .documents
                .iter()
                .position(|document| model.revision.is_none() && document.name.as_ref() == Some(&model.path));
            let index = match earlier {
                Some(document) => Some(layouts.base_parent(document)),
                None => parents.iter().position(|parent| parent.name == *model),
            };
            index.ok_or_else(|| MergeError::Recipe {
                place: document.place.clone(),
                message: format!("the tokenizer's model {model} is not one of the merged models"),
            })
        }
        TokenizerChoice::Union => {
            let Some(first) = parents.get(base) else { return Ok(base) };
            for (_, other) in parents.iter().enumerate().filter(|(index, _)| *index != base) {
                if let Some(difference) = same_tokenizer::difference(first, other).await? {
                    return Err(MergeError::Recipe {
                        place: document.place.clone(),
                        message: format!(
                            "the tokenizers of {} and {} are not known to be the same ({difference}), and \
                             bise does not unite them: use tokenizer_source: base",
                            first.name, other.name
                        ),
                    });
                }
            }
            Ok(base)
        }
    }
}

/// Choices of earlier documents, which have no files of their own.
pub(super) fn warnings(recipe: &Recipe) -> Vec<String> {
    let earlier = recipe.documents.split_last().map_or(&[][..], |(_, earlier)| earlier);
    let chooses = |document: &&Document| {
        document.tokenizer != TokenizerChoice::Base || document.chat_template.is_some()
    };
    let warn = |document: &Document| {
        let place = &document.place;
        format!(
            "{place}: tokenizer and chat template are those of the last document; this one's have no effect"
        )
    };
    earlier.iter().filter(chooses).map(warn).collect()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn config<S>(base: &Parent<S>, tensors: &[TensorPlan], settings: &Settings) -> Value {
    let mut config = base.config_json.as_object().cloned().unwrap_or_default();
    let dtype = tensors.first().map_or("bfloat16", |tensor| torch_name(tensor.dtype));
    // The newer name, and the older where it was in use.
    config.insert("dtype".into(), dtype.into());
    if let Some(old) = config.get_mut("torch_dtype") {
        *old = dtype.into();
    }
    config.insert("num_hidden_layers".into(), settings.layers.into());
    for key in ["quantization_config", "compression_config"] {
        config.remove(key);
    }
    let has_head = tensors.iter().any(|tensor| tensor.name == "lm_head.weight");
    if has_head == base.config.tied {
        config.insert("tie_word_embeddings".into(), (!has_head).into());
    }
    if settings.quantize {
        config.insert("quantization_config".into(), quantization());
    }
    Value::Object(config)
}

/// FP8 with one scale per row, weights only, as vLLM and transformers read it.
fn quantization() -> Value {
    json!({
        "quant_method": "compressed-tensors",
        "format": "naive-quantized",
        "quantization_status": "compressed",
        "config_groups": { "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel", "dynamic": false
            },
            "input_activations": null,
            "output_activations": null
        } },
        "ignore": ["lm_head"]
    })
}

/// A model card as mergekit writes one: what it was made of, and how.
fn card<S>(recipe: &Recipe, text: &str, parents: &[Parent<S>]) -> String {
    // A name is quoted as JSON, which is YAML as well.
    let name = |parent: &Parent<S>| Value::from(parent.name.path.as_str()).to_string();
    let models: String = parents.iter().map(|parent| format!("- {}\n", name(parent))).collect();
    let links: String = parents.iter().map(|parent| format!("* `{}`\n", parent.name)).collect();
    let method = recipe.documents.last().map_or("", |document| document.method.name());
    let fence = if text.contains("```") { "~~~~" } else { "```" };
    format!(
        "---\nbase_model:\n{models}library_name: transformers\ntags:\n- mergekit\n- merge\n---\n\n\
         # Merge\n\nMade by [bise](https://github.com/bise-ai/bise) with the `{method}` method.\n\n\
         ## Models merged\n\n{links}\n## Configuration\n\n{fence}yaml\n{}\n{fence}\n",
        text.trim_end()
    )
}

pub(super) fn failed<S>(parent: &Parent<S>, error: CheckpointError) -> MergeError {
    MergeError::Source { model: parent.name.to_string(), error: Box::new(error.into()) }
}

pub(super) async fn read_object<S: ByteSource>(
    parent: &Parent<S>,
    file: &str,
) -> Result<Option<Map<String, Value>>, MergeError> {
    match read_all(&parent.source, file, None, PARSED_LIMIT_BYTES).await {
        // A file that is no JSON is copied as it is; whoever loads the result will say so.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(SourceError::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed(parent, error.into())),
    }
}

/// The chat template that most parents have; of equals the first.
async fn most_common_template<S: ByteSource>(parents: &[Parent<S>]) -> Result<Option<String>, MergeError> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for parent in parents {
        let Some(template) = template(parent).await? else { continue };
        match counts.iter_mut().find(|(known, _)| *known == template) {
            Some((_, count)) => *count += 1,
            None => counts.push((template, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    Ok(counts.into_iter().find(|(_, count)| *count == most).map(|(template, _)| template))
}

async fn template<S: ByteSource>(parent: &Parent<S>) -> Result<Option<String>, MergeError> {
    match read_all(&parent.source, CHAT_TEMPLATE, None, LIMIT_BYTES).await {
        Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
        Err(SourceError::NotFound { .. }) => {
            let config = read_object(parent, TOKENIZER_CONFIG).await?;
            Ok(config.and_then(|config| config.get("chat_template")?.as_str().map(str::to_owned)))
        }
        Err(error) => Err(failed(parent, error.into())),
    }
}
