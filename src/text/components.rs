//! The steps from a text to pieces: normalizers, pre-tokenizers, and the
//! template that puts special tokens around the result.
//!
//! The steps are those of the `tokenizers` crate. What is read here is which
//! steps and their settings: the crate's own readers link every step there is,
//! and index maps and lists with what the file says. `ByteLevel` and `Split` are
//! done here, too: the crate's link another matcher of regular expressions.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::normalizer::SplitDelimiterBehavior;
use tokenizers::normalizers::{NFC, NFD, NFKC, NFKD, Prepend};
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{NormalizedString, Normalizer, Offsets, PreTokenizedString, PreTokenizer};

use super::decode::byte_character;
use super::error::TextError;
use super::pipeline::{bad, flatten, kind, replace_pair, unsupported};
use super::regex::Regex;

/// The normalizers, in order.
pub(super) struct Normalizers(Vec<Normalization>);

enum Normalization {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Prepend(Prepend),
    Replace { from: String, to: String },
}

/// A text to look for, literally: the crate's own pattern makes it a regular expression.
struct Literal<'a>(&'a str);

impl Pattern for Literal<'_> {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        let mut parts = Vec::new();
        let mut done = 0;
        for (start, found) in inside.match_indices(self.0) {
            if done < start {
                parts.push(((done, start), false));
            }
            done = start + found.len();
            parts.push(((start, done), true));
        }
        // The parts cover the whole text, also an empty one.
        if done < inside.len() || inside.is_empty() {
            parts.push(((done, inside.len()), false));
        }
        Ok(parts)
    }
}

impl Normalizers {
    pub(super) fn read(value: &Value) -> Result<Self, TextError> {
        flatten("normalizer", value, "normalizers", &["Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD"])?
            .into_iter()
            .map(Normalization::read)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Normalizer for Normalizers {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        self.0.iter().try_for_each(|step| match step {
            Normalization::Nfc => NFC.normalize(text),
            Normalization::Nfd => NFD.normalize(text),
            Normalization::Nfkc => NFKC.normalize(text),
            Normalization::Nfkd => NFKD.normalize(text),
            Normalization::Prepend(prepend) => prepend.normalize(text),
            Normalization::Replace { from, to } => text.replace(Literal(from), to),
        })
    }
}

impl Normalization {
    fn read(value: &Value) -> Result<Self, TextError> {
        const PART: &str = "normalizer";
        Ok(match kind(PART, value)? {
            "NFC" => Self::Nfc,
            "NFD" => Self::Nfd,
            "NFKC" => Self::Nfkc,
            "NFKD" => Self::Nfkd,
            "Prepend" => Self::Prepend(Prepend::new(string(PART, value, "prepend")?)),
            // A replacement to nothing could empty an added token, which the crate cannot match.
            "Replace" => {
                let (from, to) = replace_pair(PART, value, false)?;
                Self::Replace { from, to }
            }
            other => return Err(unsupported(PART, other)),
        })
    }
}

/// What a `Split` looks for.
pub(super) enum Delimiter {
    Literal(String),
    Regex(Regex),
}

impl Pattern for &Delimiter {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        match self {
            Delimiter::Literal(text) => Literal(text).find_matches(inside),
            Delimiter::Regex(regex) => regex.find_matches(inside),
        }
    }
}

/// The words of `ByteLevel`, as in <https://github.com/openai/gpt-2/blob/master/src/encoder.py>.
const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Each byte as a character, with what the crate wants to know about it: 0 if it
/// stands for the character it begins, 1 if it was put in after that.
fn byte_characters(text: &str) -> Vec<(char, isize)> {
    let bytes = text.bytes().enumerate();
    bytes.map(|(at, byte)| (byte_character(byte), isize::from(!text.is_char_boundary(at)))).collect()
}

/// One pre-tokenizer.
pub(super) enum PreTokenization {
    /// Bytes as characters of GPT-2's alphabet, of words if `words` tells what these are.
    ByteLevel {
        add_prefix_space: bool,
        words: Option<Regex>,
    },
    Metaspace(Metaspace),
    Split {
        delimiter: Delimiter,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    Digits(Digits),
}

impl PreTokenization {
    /// Reads all of them, in order.
    pub(super) fn read_all(value: &Value) -> Result<Vec<Self>, TextError> {
        let allowed = ["ByteLevel", "Metaspace", "Split", "Digits"];
        flatten("pre_tokenizer", value, "pretokenizers", &allowed)?.into_iter().map(Self::read).collect()
    }

    fn read(value: &Value) -> Result<Self, TextError> {
        const PART: &str = "pre_tokenizer";
        Ok(match kind(PART, value)? {
            "ByteLevel" => {
                let file: ByteLevelFile = settings(PART, value)?;
                let words = file.use_regex.then(|| Regex::new(GPT2_WORDS)).transpose().map_err(bad)?;
                Self::ByteLevel { add_prefix_space: file.add_prefix_space, words }
            }
            "Metaspace" => Self::Metaspace(metaspace(settings(PART, value)?)?),
            "Split" => {
                let SplitFile { pattern, behavior, invert } = settings(PART, value)?;
                let delimiter = match pattern {
                    SplitPattern::String(text) => Delimiter::Literal(text),
                    SplitPattern::Regex(pattern) => {
                        Delimiter::Regex(Regex::new(&pattern).map_err(|e| bad(format!("{PART}: {e}")))?)
                    }
                };
                Self::Split { delimiter, behavior, invert }
            }
            "Digits" => Self::Digits(Digits::new(settings::<DigitsFile>(PART, value)?.individual_digits)),
            other => return Err(unsupported(PART, other)),
        })
    }

    pub(super) fn apply(&self, pieces: &mut PreTokenizedString) -> tokenizers::Result<()> {
        match self {
            Self::ByteLevel { add_prefix_space, words } => {
                pieces.split(|_, mut piece| {
                    if *add_prefix_space && !piece.get().starts_with(' ') {
                        piece.prepend(" ");
                    }
                    match words {
                        Some(words) => piece.split(words, SplitDelimiterBehavior::Isolated),
                        None => Ok(vec![piece]),
                    }
                })?;
                pieces.normalize(|piece| {
                    let bytes = byte_characters(piece.get());
                    piece.transform(bytes, 0);
                    Ok(())
                })
            }
            Self::Metaspace(step) => step.pre_tokenize(pieces),
            Self::Split { delimiter, behavior, invert: false } => {
                pieces.split(|_, piece| piece.split(delimiter, *behavior))
            }
            Self::Split { delimiter, behavior, invert: true } => {
                pieces.split(|_, piece| piece.split(Invert(delimiter), *behavior))
            }
            Self::Digits(step) => step.pre_tokenize(pieces),
        }
    }
}

#[derive(Deserialize)]
struct ByteLevelFile {
    add_prefix_space: bool,
    #[serde(default = "yes")]
    use_regex: bool,
}

#[derive(Deserialize)]
struct MetaspaceFile {
    replacement: char,
    // What the files had before prepend_scheme.
    add_prefix_space: Option<bool>,
    #[serde(default = "always")]
    prepend_scheme: PrependScheme,
    split: Option<bool>,
}

#[derive(Deserialize)]
struct SplitFile {
    pattern: SplitPattern,
    behavior: SplitDelimiterBehavior,
    invert: bool,
}

#[derive(Deserialize)]
struct DigitsFile {
    individual_digits: bool,
}

fn yes() -> bool {
    true
}

fn always() -> PrependScheme {
    PrependScheme::Always
}

fn metaspace(file: MetaspaceFile) -> Result<Metaspace, TextError> {
    if file.add_prefix_space == Some(false) && file.prepend_scheme != PrependScheme::Never {
        return Err(bad("pre_tokenizer: add_prefix_space does not match prepend_scheme"));
    }
    Ok(Metaspace::new(file.replacement, file.prepend_scheme, file.split.unwrap_or(true)))
}

/// What is put around the tokens of a text: its parts, in order.
pub(super) struct Template(Vec<Part>);

enum Part {
    Text,
    Special(Vec<u32>),
}

impl Template {
    /// Reads the post-processor. Besides the template there is `ByteLevel`, which
    /// moves offsets only.
    pub(super) fn read(value: &Value) -> Result<Self, TextError> {
        const PART: &str = "post_processor";
        let mut template = None;
        for step in flatten(PART, value, "processors", &["TemplateProcessing", "ByteLevel"])? {
            match kind(PART, step)? {
                "ByteLevel" => {}
                "TemplateProcessing" if template.is_none() => template = Some(parts(PART, step)?),
                "TemplateProcessing" => return Err(unsupported(PART, "a second TemplateProcessing")),
                other => return Err(unsupported(PART, other)),
            }
        }
        Ok(Self(template.unwrap_or_else(|| vec![Part::Text])))
    }

    /// The tokens of a text, `ids`, with the special tokens around them if wanted.
    pub(super) fn apply(&self, ids: Vec<u32>, add_special: bool) -> Vec<u32> {
        let parts = self.0.iter().map(|part| match part {
            Part::Text => ids.as_slice(),
            Part::Special(special) if add_special => special,
            Part::Special(_) => &[],
        });
        parts.flatten().copied().collect()
    }
}

/// `single` of a TemplateProcessing: the template for one text.
fn parts(part: &'static str, value: &Value) -> Result<Vec<Part>, TextError> {
    let single = value.get("single").and_then(Value::as_array);
    let single = single.ok_or_else(|| bad(format!("{part}: no list \"single\"")))?;
    let read = |piece: &Value| {
        if let Some(sequence) = piece.get("Sequence") {
            return match string(part, sequence, "id")?.as_str() {
                "A" => Ok(Part::Text),
                id => Err(bad(format!("{part}: there is no sequence {id:?} in \"single\""))),
            };
        }
        let special = piece.get("SpecialToken").unwrap_or(&Value::Null);
        let id = string(part, special, "id")?;
        let ids = value.get("special_tokens").and_then(|tokens| tokens.get(&id)?.get("ids"));
        match ids.map(Vec::<u32>::deserialize) {
            Some(Ok(ids)) => Ok(Part::Special(ids)),
            _ => Err(bad(format!("{part}: special_tokens has no ids for {id:?}"))),
        }
    };
    single.iter().map(read).collect()
}

fn settings<T: DeserializeOwned>(part: &'static str, value: &Value) -> Result<T, TextError> {
    T::deserialize(value).map_err(|e| bad(format!("{part}: {e}")))
}

fn string(part: &'static str, value: &Value, key: &str) -> Result<String, TextError> {
    let string = value.get(key).and_then(Value::as_str);
    string.map(str::to_owned).ok_or_else(|| bad(format!("{part}: no string {key:?} in {value}")))
}
