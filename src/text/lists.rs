//! The long lists of tokenizer.json, read straight into the form they are needed in: serde's untagged
//! enums would hold every element in a buffer first, which takes more memory than the file.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokenizers::models::bpe::Vocab;

/// Most entries of a list: twice those of the largest vocabulary known.
const LIST_LIMIT: usize = 1 << 19;

/// `model.vocab`. That of a Unigram model is a list: it is read as such, so that the model is refused
/// by its name.
pub(super) enum Vocabulary {
    Map(Vocab),
    Other,
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VocabularyVisitor)
    }
}

struct VocabularyVisitor;

impl<'de> Visitor<'de> for VocabularyVisitor {
    type Value = Vocabulary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from token to id")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vocabulary, A::Error> {
        let vocab = Vocab::deserialize(MapAccessDeserializer::new(map))?;
        if vocab.len() > LIST_LIMIT {
            return Err(A::Error::custom(format!("more than {LIST_LIMIT} tokens")));
        }
        Ok(Vocabulary::Map(vocab))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Vocabulary::Other)
    }
}

/// A list of at most [`LIST_LIMIT`] elements.
pub(super) struct Limited<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Limited<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(LimitedVisitor(PhantomData))
    }
}

struct LimitedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for LimitedVisitor<T> {
    type Value = Limited<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Limited<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = list.next_element()? {
            if all.len() == LIST_LIMIT {
                return Err(A::Error::custom(format!("more than {LIST_LIMIT} elements")));
            }
            all.push(element);
        }
        Ok(Limited(all))
    }
}

/// An entry of `model.merges`: `["a", "b"]`, or in older files `"a b"`.
pub(super) struct Merge {
    first: String,
    second: Option<String>,
}

impl Merge {
    /// "#version" lines come from merges.txt; the crate skips them too.
    pub(super) fn is_header(&self) -> bool {
        self.second.is_none() && self.first.starts_with("#version")
    }

    /// The two pieces; the line itself where there are not two.
    pub(super) fn pair(self) -> Result<(String, String), String> {
        let Merge { first, second } = self;
        if let Some(second) = second {
            return Ok((first, second));
        }
        match first.split_once(' ') {
            Some((a, b)) if !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
            _ => Err(first),
        }
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MergeVisitor)
    }
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two pieces")
    }

    fn visit_str<E: Error>(self, line: &str) -> Result<Merge, E> {
        Ok(Merge { first: line.to_owned(), second: None })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pieces: A) -> Result<Merge, A::Error> {
        let first = pieces.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let second = pieces.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
        match pieces.next_element::<IgnoredAny>()? {
            None => Ok(Merge { first, second: Some(second) }),
            Some(_) => Err(A::Error::invalid_length(3, &self)),
        }
    }
}
