//! JSON objects whose keys must not repeat.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::checkpoint::error::TENSOR_LIMIT;

/// The entries of a JSON object in their order, and the first key that came twice. serde's own
/// maps would silently keep the last of the two. More than [`TENSOR_LIMIT`] entries are an error.
pub(super) struct UniqueMap<V> {
    pub entries: Vec<(String, V)>,
    pub duplicate: Option<String>,
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueVisitor<V> {
    type Value = UniqueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap<V>, A::Error> {
        let mut entries: Vec<(String, V)> = Vec::new();
        while let Some(entry) = map.next_entry()? {
            if entries.len() == TENSOR_LIMIT {
                return Err(A::Error::custom(format!("more than {TENSOR_LIMIT} entries")));
            }
            entries.push(entry);
        }
        let mut seen = HashSet::with_capacity(entries.len());
        let twice = entries.iter().find(|(key, _)| !seen.insert(key.as_str()));
        let duplicate = twice.map(|(key, _)| key.clone());
        Ok(UniqueMap { entries, duplicate })
    }
}
