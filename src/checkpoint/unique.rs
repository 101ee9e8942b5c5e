//! JSON objects whose keys must not repeat.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// The entries of a JSON object in their order, and the first key that came twice. serde's own
/// maps would silently keep the last of the two.
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
        let mut seen = HashSet::new();
        let mut unique = UniqueMap { entries: Vec::new(), duplicate: None };
        while let Some(key) = map.next_key::<String>()? {
            if unique.duplicate.is_some() || !seen.insert(key.clone()) {
                map.next_value::<IgnoredAny>()?;
                unique.duplicate.get_or_insert(key);
            } else {
                unique.entries.push((key, map.next_value()?));
            }
        }
        Ok(unique)
    }
}
