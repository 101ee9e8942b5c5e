//! Whether two models have one tokenizer: file against file, piece by piece, however long they are.
//!
//! Only then is the union of both that of either. White space between JSON's tokens does not count;
//! whatever else differs in the text does, whether it means something or not.

use super::files::{TOKENIZER, TOKENIZER_CONFIG, failed, read_object};
use super::parent::Parent;
use super::{MergeError, files};
use crate::checkpoint::{ByteSource, ByteStream, SourceError};

/// Other files that a tokenizer may consist of. tokenizer.json, where there is one, has all of them in it.
const PARTS: [&str; 5] =
    ["tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"];

/// Why the tokenizers of both are not the same, as far as can be told; `None` where they are.
///
/// # Errors
/// What the sources meet.
pub(super) async fn difference<S: ByteSource>(
    one: &Parent<S>,
    other: &Parent<S>,
) -> Result<Option<String>, MergeError> {
    let whole = compare(one, other, TOKENIZER).await?;
    let mut found = whole.difference(one, other, TOKENIZER, false);
    for file in PARTS {
        if found.is_none() {
            let may_lack = whole == Comparison::Same;
            found = compare(one, other, file).await?.difference(one, other, file, may_lack);
        }
    }
    // Without a tokenizer.json, tokens are added here as well.
    if found.is_none() && whole == Comparison::Absent {
        let mut added = Vec::new();
        for parent in [one, other] {
            let config = read_object(parent, TOKENIZER_CONFIG).await?.unwrap_or_default();
            added.push(config.get("added_tokens_decoder").cloned());
        }
        if added.first() != added.last() {
            found = Some(format!("their added_tokens_decoder in {TOKENIZER_CONFIG} differ"));
        }
    }
    Ok(found)
}

/// How a file is in two models.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Absent,
    /// In the first only, or in the other.
    Alone {
        first: bool,
    },
    Same,
    Different,
}

impl Comparison {
    fn difference<S>(self, one: &Parent<S>, other: &Parent<S>, file: &str, may_lack: bool) -> Option<String> {
        match self {
            Comparison::Absent | Comparison::Same => None,
            Comparison::Alone { .. } if may_lack => None,
            Comparison::Alone { first } => {
                let (with, without) = if first { (one, other) } else { (other, one) };
                Some(format!("{} has {file}, {} has none", with.name, without.name))
            }
            Comparison::Different => Some(format!("their {file} differ")),
        }
    }
}

async fn compare<S: ByteSource>(
    one: &Parent<S>,
    other: &Parent<S>,
    file: &str,
) -> Result<Comparison, MergeError> {
    let (mut a, mut b) = match (Text::open(one, file).await?, Text::open(other, file).await?) {
        (None, None) => return Ok(Comparison::Absent),
        (Some(a), Some(b)) => (a, b),
        (a, _) => return Ok(Comparison::Alone { first: a.is_some() }),
    };
    loop {
        let (here, there) = (a.fill().await?, b.fill().await?);
        if here.is_empty() || there.is_empty() {
            let same = here.is_empty() && there.is_empty();
            return Ok(if same { Comparison::Same } else { Comparison::Different });
        }
        let length = here.len().min(there.len());
        if here.get(..length) != there.get(..length) {
            return Ok(Comparison::Different);
        }
        (a.at, b.at) = (a.at + length, b.at + length);
    }
}

/// A file's bytes, without the white space between JSON's tokens where it is JSON.
struct Text<'a, S: ByteSource> {
    parent: &'a Parent<S>,
    file: &'a str,
    stream: S::Stream,
    read_bytes: u64,
    piece: Vec<u8>,
    at: usize,
    in_string: bool,
    escaped: bool,
}

impl<'a, S: ByteSource> Text<'a, S> {
    async fn open(parent: &'a Parent<S>, file: &'a str) -> Result<Option<Text<'a, S>>, MergeError> {
        let stream = match parent.source.open(file, None).await {
            Ok(opened) => opened.stream,
            Err(SourceError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(parent, error.into())),
        };
        let (piece, at, read_bytes) = (Vec::new(), 0, 0);
        Ok(Some(Text { parent, file, stream, read_bytes, piece, at, in_string: false, escaped: false }))
    }

    /// What was not compared yet of what came; empty at the end.
    async fn fill(&mut self) -> Result<&[u8], MergeError> {
        while self.at == self.piece.len() {
            let piece = self.stream.next().await.map_err(|error| failed(self.parent, error.into()))?;
            let Some(piece) = piece else { return Ok(&[]) };
            self.read_bytes += piece.len() as u64;
            if self.read_bytes > files::LIMIT_BYTES {
                let (file, bytes, limit) = (self.file.to_owned(), self.read_bytes, files::LIMIT_BYTES);
                return Err(failed(self.parent, SourceError::TooLarge { file, bytes, limit }.into()));
            }
            (self.piece, self.at) = (piece, 0);
            if self.file.ends_with(".json") {
                let mut piece = std::mem::take(&mut self.piece);
                piece.retain(|byte| self.counts(*byte));
                self.piece = piece;
            }
        }
        Ok(self.piece.get(self.at..).unwrap_or_default())
    }

    fn counts(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return true;
        }
        self.in_string = byte == b'"';
        !byte.is_ascii_whitespace()
    }
}
