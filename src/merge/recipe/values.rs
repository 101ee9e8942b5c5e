//! The small values of a recipe: models, types, tokenizers, templates, layers.

use std::ops::Range;

use serde::{Serialize, Serializer};

use super::reader::{At, Fields, shown, suggestion};
use super::{ChatTemplateChoice, ModelRef, TokenizerChoice};
use crate::dtype::Dtype;
use crate::merge::MergeError;

const DTYPES: [(&str, Dtype); 4] =
    [("float16", Dtype::F16), ("bfloat16", Dtype::Bf16), ("float32", Dtype::F32), ("float64", Dtype::F64)];
/// Templates that mergekit brings along.
const BUILTIN_TEMPLATES: [&str; 5] = ["alpaca", "chatml", "exaone", "llama3", "mistral"];
const NO_LORA: &str = "LoRA adapters are not merged; give the full model";
const MODEL: &str = "a model: path or owner/name, and @revision if need be";

/// `path[@revision]`, or `{model: path[@revision]}`, or `{model: {path, revision}}`.
pub(super) fn model_ref(at: &At<'_>) -> Result<ModelRef, MergeError> {
    if !at.is_map() {
        return split_model(at, at.text(MODEL)?);
    }
    let refused = [
        ("lora", NO_LORA),
        ("override_architecture", "the architecture is the checkpoint's own; leave it out"),
    ];
    let fields = at.fields(MODEL, &["model"], &refused)?;
    let inner = fields.required("model", MODEL)?;
    if !inner.is_map() {
        return split_model(inner, inner.text(MODEL)?);
    }
    let fields = inner.fields(MODEL, &["path", "revision"], &[])?;
    let path = fields.required("path", "path or owner/name of the model")?.text("path or owner/name")?;
    let revision = fields.get("revision").map(|at| at.text("a branch, a tag or a commit")).transpose()?;
    Ok(ModelRef { path: path.to_owned(), revision: revision.map(str::to_owned) })
}

fn split_model(at: &At<'_>, text: &str) -> Result<ModelRef, MergeError> {
    if text.contains('+') {
        return Err(at.error(format!("model+adapter: {NO_LORA}")));
    }
    let mut parts = text.split('@');
    let path = parts.next().unwrap_or_default().to_owned();
    let revision = parts.next().map(str::to_owned);
    if path.is_empty() || revision.as_deref() == Some("") || parts.next().is_some() {
        let text = shown(text);
        return Err(at.error(format!("must be path@revision or owner/name@revision with one @, not {text}")));
    }
    Ok(ModelRef { path, revision })
}

pub(super) fn dtype(at: &At<'_>) -> Result<Dtype, MergeError> {
    let names = DTYPES.map(|(name, _)| name);
    let word = at.text("the name of a float type")?;
    let short = word.strip_prefix("torch.").unwrap_or(word);
    DTYPES.iter().find(|(name, _)| *name == short).map(|(_, dtype)| *dtype).ok_or_else(|| {
        let (word, meant, names) = (shown(word), suggestion(short, names), names.join(", "));
        at.error(format!("{word} is no type to merge in{meant} (there are: {names})"))
    })
}

/// The name that recipes have for it.
#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
pub(super) fn serialize_dtype<S: Serializer>(
    dtype: &Option<Dtype>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let name = DTYPES.iter().find(|(_, each)| Some(each) == dtype.as_ref()).map(|(name, _)| name);
    name.serialize(serializer)
}

/// `[first, end)`.
pub(super) fn layer_range(at: &At<'_>) -> Result<Range<u32>, MergeError> {
    let what = "a list of two numbers: [first layer, layer after the last]";
    let bounds = at.list(what)?;
    let [start, end] = bounds.as_slice() else {
        return Err(at.error(format!("must be {what}; here are {}", bounds.len())));
    };
    let (start, end) = (start.layer()?, end.layer()?);
    if start >= end {
        return Err(
            at.error(format!("[{start}, {end}] holds no layer: the second number is the one after the last"))
        );
    }
    Ok(start..end)
}

/// `tokenizer_source`, or `tokenizer` with its `source`; and where it stands.
pub(super) fn tokenizer(fields: &Fields<'_>) -> Result<(TokenizerChoice, Option<String>), MergeError> {
    let refused = [
        ("tokens", "tokens with embeddings of their own are not supported; leave it out, or use mergekit"),
        ("pad_to_multiple_of", "padding of the vocabulary is not supported; leave it out, or use mergekit"),
    ];
    let source = match (fields.get("tokenizer_source"), fields.get("tokenizer")) {
        (Some(_), Some(at)) => {
            return Err(at.error("stands beside tokenizer_source; keep one of the two"));
        }
        (Some(at), None) => at.clone(),
        (None, None) => return Ok((TokenizerChoice::Base, None)),
        (None, Some(at)) => {
            let inner = at.fields("a mapping with source", &["source"], &refused)?;
            // mergekit's own default differs between the two spellings: better to have it said.
            inner.required("source", "base, union, or one of the models")?.clone()
        }
    };
    let choice = match source.is_map() {
        false if source.text("base, union, or one of the models")? == "base" => TokenizerChoice::Base,
        false if source.text(MODEL)? == "union" => TokenizerChoice::Union,
        _ => TokenizerChoice::Model(model_ref(&source)?),
    };
    Ok((choice, Some(source.place())))
}

pub(super) fn chat_template(at: &At<'_>) -> Result<ChatTemplateChoice, MergeError> {
    let text = at.text("auto, or the text of a Jinja template")?;
    match text {
        "auto" => Ok(ChatTemplateChoice::Auto),
        _ if text.contains('{') => Ok(ChatTemplateChoice::Jinja(text.to_owned())),
        _ if BUILTIN_TEMPLATES.contains(&text) => Err(at.error(format!(
            "{text} names a template of mergekit's own; write the template's text here, take a model's with \
             tokenizer_source, or auto"
        ))),
        _ => {
            Err(at
                .error(format!("must be auto, or a Jinja template (which has braces), not {}", shown(text))))
        }
    }
}
