//! Typed access to the tree: every value knows its place, every mapping its keys.

use super::yaml::{Node, Value};
use crate::merge::MergeError;

/// Longest piece of a recipe that a message repeats, in characters.
const SHOWN_CHARS: usize = 60;

/// A piece of the recipe, quoted for a message.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
    }
}

/// The candidate that was probably meant.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().take(SHOWN_CHARS + 1).count();
    if length > SHOWN_CHARS {
        return None;
    }
    let word = word.to_lowercase();
    let near = candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_lowercase()), candidate));
    near.min().filter(|(distance, _)| *distance <= length / 3).map(|(_, candidate)| candidate)
}

/// `; did you mean x?`, if there is something close.
pub(super) fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, candidates).map_or(String::new(), |candidate| format!("; did you mean {candidate}?"))
}

/// A node and the way to it.
#[derive(Clone)]
pub(super) struct At<'a> {
    node: &'a Node,
    /// Of its key, if it has one.
    line: usize,
    /// Such as `slices[0].sources[1]`; empty at the root.
    path: String,
    /// `document 2 (name), ` in a chain.
    document: &'a str,
}

/// What a plain scalar is in YAML 1.1 (mergekit's parser) or 1.2, if no text.
fn plain_kind(text: &str) -> Option<&'static str> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Some("nothing"),
        _ if boolean(text).is_some() => Some("a boolean"),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
            && text.parse::<f64>().is_ok() =>
        {
            Some("a number")
        }
        _ => None,
    }
}

/// YAML 1.1's booleans.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// A decimal number; the forms that YAML 1.1 and 1.2 read differently are none.
fn decimal(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let octal = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    let starts = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    // Sums are f64, but a coefficient is applied in f32.
    let finite = |value: &f64| (*value as f32).is_finite();
    if starts && !octal { text.parse().ok().filter(finite) } else { None }
}

impl<'a> At<'a> {
    pub fn root(node: &'a Node, document: &'a str) -> Self {
        At { node, line: node.line, path: String::new(), document }
    }

    /// `line 4: slices[0].sources[1].layer_range`.
    pub fn place(&self) -> String {
        let At { document, line, path, .. } = self;
        if path.is_empty() {
            format!("{document}line {line}")
        } else {
            format!("{document}line {line}: {path}")
        }
    }

    pub fn error(&self, message: impl Into<String>) -> MergeError {
        MergeError::Recipe { place: self.place(), message: message.into() }
    }

    fn wanted(&self, what: &str) -> MergeError {
        let found = match &self.node.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar { text, plain: true } if text.is_empty() => "nothing".to_owned(),
            Value::Scalar { text, .. } => shown(text),
        };
        self.error(format!("must be {what}, not {found}"))
    }

    /// Nothing is written here, or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.node.value, Value::Scalar { text, plain: true } if plain_kind(text) == Some("nothing"))
    }

    pub fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// The items of a list that is not empty.
    pub fn list(&self, what: &str) -> Result<Vec<At<'a>>, MergeError> {
        let Value::List(items) = &self.node.value else { return Err(self.wanted(what)) };
        if items.is_empty() {
            return Err(self.error(format!("must be {what}; this list is empty")));
        }
        let item = |(index, node): (usize, &'a Node)| At {
            node,
            line: node.line,
            path: format!("{}[{index}]", self.path),
            document: self.document,
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// The keys of a mapping with their values, `null` ones included.
    pub fn entries(&self, what: &str) -> Result<Vec<(&'a str, At<'a>)>, MergeError> {
        let Value::Map(entries) = &self.node.value else { return Err(self.wanted(what)) };
        let entry = |(key, node): &'a (super::yaml::Key, Node)| {
            let dot = if self.path.is_empty() { "" } else { "." };
            let word = key.text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            let shown =
                if word && key.text.len() <= SHOWN_CHARS { key.text.clone() } else { shown(&key.text) };
            let path = format!("{}{dot}{shown}", self.path);
            (key.text.as_str(), At { node, line: key.line, path, document: self.document })
        };
        Ok(entries.iter().map(entry).collect())
    }

    /// A mapping with the keys `known`; for those in `refused` there is advice.
    pub fn fields(
        &self,
        what: &str,
        known: &[&str],
        refused: &[(&str, &str)],
    ) -> Result<Fields<'a>, MergeError> {
        let entries = self.entries(what)?;
        for (key, at) in &entries {
            if let Some((_, advice)) = refused.iter().find(|(name, _)| name == key) {
                // mergekit itself writes such keys as null.
                if at.is_null() {
                    continue;
                }
                return Err(at.error(*advice));
            }
            if !known.contains(key) {
                let meant = suggestion(key, known.iter().copied());
                return Err(at.error(format!("unknown key{meant} (known here: {})", known.join(", "))));
            }
        }
        Ok(Fields { at: self.clone(), entries })
    }

    /// A text, in quotes where YAML would take it for something else.
    pub fn text(&self, what: &str) -> Result<&'a str, MergeError> {
        let Value::Scalar { text, plain } = &self.node.value else { return Err(self.wanted(what)) };
        match plain_kind(text).filter(|_| *plain) {
            Some("nothing") => Err(self.wanted(what)),
            Some(kind) => {
                let quoted = shown(text);
                Err(self.error(format!("must be {what}, but without quotes {quoted} is {kind}")))
            }
            None if text.trim().is_empty() => Err(self.error(format!("must be {what}; it is empty"))),
            None => Ok(text),
        }
    }

    /// A finite number, also in quotes, as mergekit takes it.
    pub fn number(&self) -> Result<f64, MergeError> {
        let Value::Scalar { text, .. } = &self.node.value else { return Err(self.wanted("a number")) };
        decimal(text).ok_or_else(|| self.wanted("a finite decimal number"))
    }

    /// A boolean, also as 0 or 1 or in quotes, as mergekit takes it.
    pub fn boolean(&self) -> Result<bool, MergeError> {
        let wanted = || self.wanted("true or false");
        let Value::Scalar { text, .. } = &self.node.value else { return Err(wanted()) };
        match text.as_str() {
            "1" => Ok(true),
            "0" => Ok(false),
            word => boolean(word).ok_or_else(wanted),
        }
    }

    /// The number of a layer.
    pub fn layer(&self) -> Result<u32, MergeError> {
        let wanted = || self.wanted("the number of a layer: 0, 1, 2, ...");
        let Value::Scalar { text, .. } = &self.node.value else { return Err(wanted()) };
        let digits = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse().ok().filter(|_| digits).ok_or_else(wanted)
    }
}

/// A mapping whose keys are all known.
pub(super) struct Fields<'a> {
    at: At<'a>,
    entries: Vec<(&'a str, At<'a>)>,
}

impl<'a> Fields<'a> {
    /// The value of `key`; `None` if it is missing or `null`.
    pub fn get(&self, key: &str) -> Option<&At<'a>> {
        self.entries.iter().find(|(name, at)| *name == key && !at.is_null()).map(|(_, at)| at)
    }

    /// The value of `key`, which `what` describes.
    pub fn required(&self, key: &str, what: &str) -> Result<&At<'a>, MergeError> {
        self.get(key).ok_or_else(|| self.at.error(format!("{key} is missing: {what}")))
    }
}
