//! The tokens that stand in a text as they are, whatever the model would make of it.

use std::collections::HashMap;

use daachorse::{DoubleArrayAhoCorasick, DoubleArrayAhoCorasickBuilder, MatchKind};
use serde::Deserialize;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizer::Range;
use tokenizers::{Model as _, NormalizedString, Normalizer as _, PreTokenizedString, Token};

use super::components::Normalizers;
use super::error::TextError;
use super::pipeline::bad;
use super::regex::Class;

/// An entry of `added_tokens`. Spelt out, since a flattened field would be buffered.
#[derive(Deserialize)]
pub(super) struct Added {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

/// The added tokens of a tokenizer. That of the `tokenizers` crate links the
/// regex crate, to find spaces and word characters.
pub(super) struct AddedTokens {
    tokens: HashMap<u32, Added>,
    ids: HashMap<String, u32>,
    /// How a token that is looked for in the normalized text is written there.
    normalized: HashMap<u32, String>,
    in_text: Option<DoubleArrayAhoCorasick<u32>>,
    in_normalized: Option<DoubleArrayAhoCorasick<u32>>,
    /// The characters of words, where a token asks for them.
    word: Option<Class>,
}

impl AddedTokens {
    /// # Errors
    /// [`TextError::BadTokenizer`] for tokens that are empty, listed twice, or whose
    /// id is not their place: that of the vocabulary, else behind it, in order.
    pub(super) fn new(list: Vec<Added>, model: &BPE, normalizers: &Normalizers) -> Result<Self, TextError> {
        let mut ids = HashMap::with_capacity(list.len());
        let mut normalized = HashMap::new();
        let mut free = u32::try_from(model.get_vocab_size()).map_err(|e| bad(e.to_string()))?;
        for Added { id, content, normalized: in_normalized, .. } in &list {
            if content.is_empty() {
                return Err(bad(format!("added token {id} is empty")));
            }
            if ids.insert(content.clone(), *id).is_some() {
                return Err(bad(format!("added token {content:?} is listed twice")));
            }
            let place = model.token_to_id(content).unwrap_or_else(|| {
                free += 1;
                free - 1
            });
            if place != *id {
                return Err(bad(format!("added token {content:?} has id {id}, but its place is {place}")));
            }
            if *in_normalized {
                let mut written = NormalizedString::from(content.as_str());
                normalizers.normalize(&mut written).map_err(|e| bad(e.to_string()))?;
                normalized.insert(*id, written.get().to_owned());
            }
        }
        let word = list.iter().any(|token| token.single_word).then(|| Class::new(r"\w", false));
        let matcher = |patterns: Vec<(&str, u32)>| {
            if patterns.is_empty() {
                return Ok(None);
            }
            let builder = DoubleArrayAhoCorasickBuilder::new().match_kind(MatchKind::LeftmostLongest);
            builder.build_with_values(patterns).map(Some).map_err(|e| bad(format!("added tokens: {e}")))
        };
        let plain = list.iter().filter(|token| !token.normalized);
        Ok(Self {
            in_text: matcher(plain.map(|token| (token.content.as_str(), token.id)).collect())?,
            in_normalized: matcher(normalized.iter().map(|(id, text)| (text.as_str(), *id)).collect())?,
            word: word.transpose().map_err(bad)?,
            tokens: list.into_iter().map(|token| (token.id, token)).collect(),
            ids,
            normalized,
        })
    }

    pub(super) fn id(&self, content: &str) -> Option<u32> {
        self.ids.get(content).copied()
    }

    /// A token as the decoder sees it.
    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        let written = self.normalized.get(&id);
        written.or_else(|| self.tokens.get(&id).map(|token| &token.content)).map(String::as_str)
    }

    pub(super) fn is_special(&self, content: &str) -> bool {
        self.id(content).and_then(|id| self.tokens.get(&id)).is_some_and(|token| token.special)
    }

    /// How many are not in the model's vocabulary.
    pub(super) fn new_ones(&self, model: &BPE) -> usize {
        self.ids.keys().filter(|content| model.token_to_id(content).is_none()).count()
    }

    /// Cuts the added tokens out of a text, and normalizes the rest.
    pub(super) fn extract(
        &self,
        normalizers: &Normalizers,
        text: &str,
    ) -> tokenizers::Result<PreTokenizedString> {
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| self.split(&piece, self.in_text.as_ref()))?;
        pieces.split(|_, mut piece| {
            normalizers.normalize(&mut piece)?;
            self.split(&piece, self.in_normalized.as_ref())
        })?;
        Ok(pieces)
    }

    fn split(
        &self,
        piece: &NormalizedString,
        matcher: Option<&DoubleArrayAhoCorasick<u32>>,
    ) -> tokenizers::Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
        let slice = |start: usize, end: usize| {
            piece.slice(Range::Normalized(start..end)).ok_or("an added token cuts a character in two")
        };
        let text = piece.get();
        let (mut parts, mut done) = (Vec::new(), 0);
        for found in matcher.into_iter().flat_map(|matcher| matcher.leftmost_find_iter(text)) {
            let Some(token) = self.tokens.get(&found.value()) else { continue };
            let (mut start, mut end) = (found.start(), found.end());
            let (before, after) =
                (text.get(..start).unwrap_or_default(), text.get(end..).unwrap_or_default());
            if token.single_word
                && (self.is_word(before.chars().next_back()) || self.is_word(after.chars().next()))
            {
                continue;
            }
            // Spaces may belong to the token before already.
            if token.lstrip {
                start = before.trim_end().len().max(done);
            }
            if token.rstrip {
                end += after.len() - after.trim_start().len();
            }
            if done < start {
                parts.push((slice(done, start)?, None));
            }
            let content = slice(start, end)?;
            let value = content.get().to_owned();
            let len = value.len();
            parts.push((content, Some(vec![Token::new(token.id, value, (0, len))])));
            done = end;
        }
        if done < text.len() || text.is_empty() {
            parts.push((slice(done, text.len())?, None));
        }
        Ok(parts)
    }

    fn is_word(&self, c: Option<char>) -> bool {
        c.zip(self.word.as_ref()).is_some_and(|(c, word)| word.has(c))
    }
}
