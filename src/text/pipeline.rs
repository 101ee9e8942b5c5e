//! tokenizer.json -> the parts of a tokenizer: those of the `tokenizers` crate
//! that encode, and our own decoder.
//!
//! The file is untrusted and the crate is not written for that: a merge longer
//! than every token, a `Strip` decoder on an empty string or a prefix longer
//! than its token are index panics there, which abort a WASM module. So the
//! parts are read and checked here, and only those that byte-pair tokenizers of
//! the Mistral and Llama families use. The rest is refused by name, and not linked.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeBuilder, Merges};
use tokenizers::{Model as _, OffsetReferential, OffsetType, Token};

use super::added::{Added, AddedTokens};
use super::components::{Normalizers, PreTokenization, Template};
use super::error::TextError;
use super::lists::{Limited, Merge, Vocabulary};

/// What turns a text into tokens.
pub(super) struct Encoder {
    pub(super) added: AddedTokens,
    normalizers: Normalizers,
    pre_tokenizers: Vec<PreTokenization>,
    pub(super) model: BPE,
    template: Template,
}

impl Encoder {
    /// The tokens of a text. Special tokens are put around it if `add_special`.
    pub(super) fn encode(&self, text: &str, add_special: bool) -> tokenizers::Result<Vec<u32>> {
        let mut pieces = self.added.extract(&self.normalizers, text)?;
        for step in &self.pre_tokenizers {
            step.apply(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get()))?;
        let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
        let tokens = splits.into_iter().filter_map(|(_, _, tokens)| tokens.as_deref()).flatten();
        Ok(self.template.apply(tokens.map(|token: &Token| token.id).collect(), add_special))
    }

    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added.id(token).or_else(|| self.model.token_to_id(token))
    }

    /// How many tokens there are, added ones included.
    pub(super) fn vocab_size(&self) -> usize {
        self.model.get_vocab_size() + self.added.new_ones(&self.model)
    }
}

/// How the pieces of tokens become text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pieces {
    /// Every character of a piece stands for a byte (GPT-2's alphabet).
    ByteLevel,
    /// SentencePiece-like: pieces are text with a few substitutions.
    Fused {
        /// Applied in order to each piece: usually U+2581 -> space.
        replace: Vec<(String, String)>,
        /// Whether `<0xNN>` is the byte NN.
        byte_fallback: bool,
        /// Up to this many of this character are cut from the start of the text.
        strip: Option<(char, usize)>,
        /// This character is dropped from the first piece (the Metaspace decoder).
        drop_in_first: Option<char>,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    // Absent in some old files; a BPE model is told by its merges then.
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    // A Unigram vocabulary is a list: read it as such, so that it is refused by its name.
    vocab: Vocabulary,
    #[serde(default)]
    merges: Option<Limited<Merge>>,
}

/// Reads tokenizer.json.
pub(super) fn load(json: impl AsRef<[u8]>) -> Result<(Encoder, Pieces), TextError> {
    let file: File = serde_json::from_slice(json.as_ref())
        .map_err(|e| TextError::BadJson { file: "tokenizer.json", reason: e.to_string() })?;
    drop(json);
    let pieces = pieces(&file.decoder)?;
    let model = model(file.model)?;
    let normalizers = Normalizers::read(&file.normalizer)?;
    let pre_tokenizers = PreTokenization::read_all(&file.pre_tokenizer)?;
    let template = Template::read(&file.post_processor)?;
    let added = AddedTokens::new(file.added_tokens, &model, &normalizers)?;
    Ok((Encoder { added, normalizers, pre_tokenizers, model, template }, pieces))
}

pub(super) fn bad(reason: impl Into<String>) -> TextError {
    TextError::BadTokenizer { reason: reason.into() }
}

pub(super) fn unsupported(part: &'static str, name: impl Into<String>) -> TextError {
    TextError::UnsupportedTokenizer { part, name: name.into() }
}

fn model(model: Model) -> Result<BPE, TextError> {
    if let Some(kind) = model.kind.as_deref().filter(|&k| k != "BPE") {
        return Err(unsupported("model", kind));
    }
    let Vocabulary::Map(vocab) = model.vocab else {
        return Err(unsupported("model", "a vocabulary that is not a map from token to id"));
    };
    let merges: Merges = match model.merges {
        None => return Err(unsupported("model", "a model without merges")),
        Some(Limited(merges)) => merges
            .into_iter()
            .filter(|merge| !merge.is_header())
            .map(|merge| merge.pair().map_err(|line| bad(format!("merge {line:?} is not two pieces"))))
            .collect::<Result<_, _>>()?,
    };
    for (part, affix) in [
        ("continuing_subword_prefix", model.continuing_subword_prefix),
        ("end_of_word_suffix", model.end_of_word_suffix),
    ] {
        if let Some(affix) = affix.filter(|a| !a.is_empty()) {
            return Err(unsupported(part, affix));
        }
    }
    if let Some(p) = model.dropout.filter(|&p| p != 0.0) {
        return Err(unsupported("dropout", p.to_string()));
    }
    let mut seen = HashSet::with_capacity(vocab.len());
    if let Some((token, id)) = vocab.iter().find(|&(_, &id)| !seen.insert(id)) {
        return Err(bad(format!("token {token:?} shares its id {id} with another")));
    }
    let mut merged = String::new();
    for (a, b) in &merges {
        merged.clear();
        merged.push_str(a);
        merged.push_str(b);
        for piece in [a, b, &merged] {
            if !vocab.contains_key(piece.as_str()) {
                return Err(bad(format!("merge {a:?} {b:?}: {piece:?} is not in the vocabulary")));
            }
        }
    }
    if let Some(unk) = model.unk_token.as_ref().filter(|u| !vocab.contains_key(u.as_str())) {
        return Err(bad(format!("unk_token {unk:?} is not in the vocabulary")));
    }
    let mut builder = BpeBuilder::new()
        .vocab_and_merges(vocab, merges)
        .fuse_unk(model.fuse_unk.unwrap_or(false))
        .byte_fallback(model.byte_fallback.unwrap_or(false))
        .ignore_merges(model.ignore_merges.unwrap_or(false));
    if let Some(unk) = model.unk_token {
        builder = builder.unk_token(unk);
    }
    builder.build().map_err(|e| bad(e.to_string()))
}

/// `type` of a component.
pub(super) fn kind<'a>(part: &'static str, value: &'a Value) -> Result<&'a str, TextError> {
    let kind = value.get("type").and_then(Value::as_str);
    kind.ok_or_else(|| bad(format!("{part} has no type")))
}

fn list<'a>(part: &'static str, value: &'a Value, key: &str) -> Result<&'a [Value], TextError> {
    let list = value.get(key).and_then(Value::as_array);
    list.map(Vec::as_slice).ok_or_else(|| bad(format!("{part}: Sequence without {key}")))
}

/// The components of null, of one component or of nested `Sequence`s, whose lists are at
/// `key`. Each is one of `allowed`.
pub(super) fn flatten<'a>(
    part: &'static str,
    value: &'a Value,
    key: &str,
    allowed: &[&str],
) -> Result<Vec<&'a Value>, TextError> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    match kind(part, value)? {
        "Sequence" => {
            let mut flat = Vec::new();
            for value in list(part, value, key)? {
                flat.extend(flatten(part, value, key, allowed)?);
            }
            Ok(flat)
        }
        kind if allowed.contains(&kind) => Ok(vec![value]),
        other => Err(unsupported(part, other)),
    }
}

/// `Replace` with a literal pattern; a regular expression is refused.
pub(super) fn replace_pair(
    part: &'static str,
    value: &Value,
    may_be_empty: bool,
) -> Result<(String, String), TextError> {
    let pattern = value.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str);
    let content = value.get("content").and_then(Value::as_str);
    match (pattern, content) {
        (Some(from), Some(to)) if !from.is_empty() && (may_be_empty || !to.is_empty()) => {
            Ok((from.to_owned(), to.to_owned()))
        }
        _ => Err(unsupported(part, format!("Replace {value}"))),
    }
}

/// The decoder, which is ours: the crate's cannot stream.
fn pieces(decoder: &Value) -> Result<Pieces, TextError> {
    const PART: &str = "decoder";
    if decoder.is_null() {
        return Err(unsupported(PART, "null"));
    }
    let kind_of = kind(PART, decoder)?;
    let steps = match kind_of {
        "Sequence" => list(PART, decoder, "decoders")?,
        _ => std::slice::from_ref(decoder),
    };
    let (mut replace, mut byte_fallback, mut fused) = (Vec::new(), false, false);
    let (mut strip, mut drop_in_first) = (None, None);
    // The order decides what a step sees: piece by piece up to Fuse, the whole text after it.
    for step in steps {
        match (kind(PART, step)?, byte_fallback, fused) {
            ("ByteLevel", ..) if steps.len() == 1 => return Ok(Pieces::ByteLevel),
            ("Replace", false, false) => replace.push(replace_pair(PART, step, true)?),
            ("ByteFallback", false, false) => byte_fallback = true,
            ("Fuse", _, false) => fused = true,
            ("Strip", _, true) if strip.is_none() => strip = Some(strip_start(step)?),
            ("Metaspace", ..) if steps.len() == 1 => {
                let mark = single_char(step.get("replacement")).unwrap_or('\u{2581}');
                replace.push((mark.to_string(), " ".to_owned()));
                let scheme = step.get("prepend_scheme").and_then(Value::as_str).unwrap_or("always");
                drop_in_first = (scheme != "never").then_some(mark);
            }
            (other, ..) => return Err(unsupported(PART, other)),
        }
    }
    Ok(Pieces::Fused { replace, byte_fallback, strip, drop_in_first })
}

fn single_char(value: Option<&Value>) -> Option<char> {
    let mut chars = value?.as_str()?.chars();
    chars.next().filter(|_| chars.next().is_none())
}

fn strip_start(step: &Value) -> Result<(char, usize), TextError> {
    let number = |key: &str| step.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    match (single_char(step.get("content")), number("start"), number("stop")) {
        (Some(content), Some(start), Some(0)) => Ok((content, start)),
        _ => Err(unsupported("decoder", format!("Strip {step}"))),
    }
}
