//! YAML -> a tree that knows its lines.
//!
//! A recipe may come from anywhere: size, depth and the number of nodes are limited, aliases
//! counted at every use, so that a small file cannot become a large tree.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput, Tag};

use super::reader::shown;
use crate::merge::MergeError;

/// Longest recipe, in bytes.
pub(super) const TEXT_LIMIT_BYTES: usize = 1 << 20;
/// How deep lists and mappings may nest; a recipe has eight levels.
pub(super) const DEPTH_LIMIT: usize = 64;
/// Scalars, keys, lists and mappings, those behind aliases included at every use.
pub(super) const NODE_LIMIT: usize = 50_000;
/// Bytes of their texts, counted the same way.
pub(super) const EXPANDED_LIMIT_BYTES: usize = 2 * TEXT_LIMIT_BYTES;

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// From 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Scalar {
        text: String,
        /// Without quotes and no block: `null`, `true` and numbers mean what they say.
        plain: bool,
    },
    List(Vec<Node>),
    /// In the file's order, without duplicates.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// From 1.
    pub line: usize,
    pub text: String,
}

/// The root of every document of `text`; none if it is empty.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, MergeError> {
    if text.len() > TEXT_LIMIT_BYTES {
        let bytes = text.len();
        let message = format!("the recipe is {bytes} bytes long; at most {TEXT_LIMIT_BYTES} are read");
        return Err(MergeError::Recipe { place: "line 1".into(), message });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut loader =
        Loader { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0, bytes: 0 };
    let mut roots = Vec::new();
    loop {
        match loader.next()? {
            (Event::StreamEnd, _) => return Ok(roots),
            (Event::DocumentStart(_), _) => {
                // Anchors end with their document.
                loader.anchors.clear();
                let (event, mark) = loader.next()?;
                roots.push(loader.node(event, mark, 0)?);
            }
            _ => {}
        }
    }
}

fn error(mark: Marker, message: impl Into<String>) -> MergeError {
    let place = format!("line {}, column {}", mark.line(), mark.col() + 1);
    MergeError::Recipe { place, message: message.into() }
}

fn syntax_error(scan: &ScanError) -> MergeError {
    let info = scan.info();
    let advice = match info.contains("alias") || info.contains("anchor") {
        true => "; a text that begins with * or &, such as the filter \"*\", needs quotes",
        false => "",
    };
    error(*scan.marker(), format!("this is not YAML: {info}{advice}"))
}

/// Nodes, bytes of text and depth of a tree.
#[derive(Default)]
struct Extent {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

fn extent(node: &Node) -> Extent {
    let mut whole = Extent { nodes: 1, ..Extent::default() };
    let mut add = |key: Option<&Key>, child: &Node| {
        let inner = extent(child);
        whole.nodes += inner.nodes + usize::from(key.is_some());
        whole.bytes += inner.bytes + key.map_or(0, |key| key.text.len());
        whole.depth = whole.depth.max(inner.depth + 1);
    };
    match &node.value {
        Value::Scalar { text, .. } => whole.bytes = text.len(),
        Value::List(items) => items.iter().for_each(|item| add(None, item)),
        Value::Map(entries) => entries.iter().for_each(|(key, value)| add(Some(key), value)),
    }
    whole
}

struct Loader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// By the parser's number of the anchor.
    anchors: BTreeMap<usize, Node>,
    /// Counted so far.
    nodes: usize,
    bytes: usize,
}

impl<'a> Loader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Marker), MergeError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start)),
            Some(Err(scan)) => Err(syntax_error(&scan)),
            None => Ok((Event::StreamEnd, Marker::default())),
        }
    }

    fn charge(&mut self, mark: Marker, nodes: usize, bytes: usize) -> Result<(), MergeError> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.nodes > NODE_LIMIT || self.bytes > EXPANDED_LIMIT_BYTES {
            return Err(error(
                mark,
                format!(
                    "the recipe grows beyond {NODE_LIMIT} values or {EXPANDED_LIMIT_BYTES} bytes here, \
                     aliases written out; no real one does"
                ),
            ));
        }
        Ok(())
    }

    /// The node that begins with `event`, `depth` levels below its document's root.
    fn node(&mut self, event: Event<'a>, mark: Marker, depth: usize) -> Result<Node, MergeError> {
        if depth > DEPTH_LIMIT {
            return Err(error(
                mark,
                format!("more than {DEPTH_LIMIT} levels of nesting; no recipe has them"),
            ));
        }
        let (anchor, value) = match event {
            Event::Alias(anchor) => return self.alias(anchor, mark, depth),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(mark, tag.as_deref())?;
                self.charge(mark, 1, text.len())?;
                (anchor, Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(mark, tag.as_deref())?;
                self.charge(mark, 1, 0)?;
                (anchor, self.list(depth)?)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(mark, tag.as_deref())?;
                self.charge(mark, 1, 0)?;
                (anchor, self.map(depth)?)
            }
            _ => return Err(error(mark, "a value is missing here")),
        };
        let node = Node { line: mark.line(), value };
        if anchor > 0 {
            // The copy is kept beside the original: it counts as a use.
            let Extent { nodes, bytes, .. } = extent(&node);
            self.charge(mark, nodes, bytes)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, mark: Marker, depth: usize) -> Result<Node, MergeError> {
        let Some(target) = self.anchors.get(&anchor) else {
            return Err(error(mark, "this alias stands inside its own anchor, or in another document"));
        };
        let Extent { nodes, bytes, depth: below } = extent(target);
        if depth + below > DEPTH_LIMIT {
            return Err(error(mark, format!("more than {DEPTH_LIMIT} levels of nesting behind this alias")));
        }
        let node = Node { line: mark.line(), value: target.value.clone() };
        self.charge(mark, nodes, bytes)?;
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, MergeError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, mark) => items.push(self.node(event, mark, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, MergeError> {
        let mut entries = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let (event, mark) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Map(entries));
            }
            let key = self.key(event, mark)?;
            if !seen.insert(key.text.clone()) {
                return Err(error(mark, format!("the key {} stands here twice", shown(&key.text))));
            }
            let (event, mark) = self.next()?;
            entries.push((key, self.node(event, mark, depth + 1)?));
        }
    }

    fn key(&mut self, event: Event<'a>, mark: Marker) -> Result<Key, MergeError> {
        let Event::Scalar(text, _, anchor, tag) = event else {
            return Err(error(mark, "a key must be a plain word, not a list, a mapping or an alias"));
        };
        refuse_tag(mark, tag.as_deref())?;
        if anchor > 0 {
            return Err(error(mark, "a key cannot carry an anchor; put it on the value"));
        }
        if text == "<<" {
            return Err(error(mark, "merge keys (<<) are not read; write the keys out"));
        }
        self.charge(mark, 1, text.len())?;
        Ok(Key { line: mark.line(), text: text.into_owned() })
    }
}

fn refuse_tag(mark: Marker, tag: Option<&Tag>) -> Result<(), MergeError> {
    tag.map_or(Ok(()), |tag| {
        let tag = if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() };
        let tag = shown(&tag);
        Err(error(mark, format!("the tag {tag} is not read; leave it out, and quote what is a text")))
    })
}
