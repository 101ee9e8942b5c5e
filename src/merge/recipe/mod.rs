//! mergekit's recipes: YAML -> [`Recipe`].
//!
//! ```text
//! yaml        text -> a tree that knows its lines, within limits
//! reader      typed access to the tree; a place for every message
//! values      models, types, tokenizers, templates, layers
//! method      the merge methods and their parameters
//! parameters  numbers, gradients, conditions
//! document    the keys of a document
//! rules       what holds between keys, and between documents
//! ```

mod document;
mod method;
mod parameters;
mod reader;
mod rules;
mod values;
mod yaml;

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Serialize, Serializer};

use crate::dtype::Dtype;
use crate::merge::MergeError;

/// A recipe file: one merge, or a chain of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipe {
    /// The documents in order; the last one is the result.
    pub documents: Vec<Document>,
    /// What mergekit would ignore silently, each with its place.
    pub warnings: Vec<String>,
}

impl Recipe {
    /// Reads a recipe: one YAML document, or several that build on one another.
    ///
    /// Accepted is what mergekit accepts of the methods here, and nothing that it would drop
    /// silently: an unknown key is an error. A text that mergekit reads in one way only with YAML
    /// 1.1 (`1:30`, `010`) is refused as well.
    ///
    /// # Errors
    /// [`MergeError::Recipe`] with the place, as in `line 4: slices[0].sources[1].layer_range`; in
    /// a chain `document 2 (name), ` comes before it; in broken YAML it is line and column.
    pub fn parse(yaml: &str) -> Result<Recipe, MergeError> {
        let recipe = document::recipe(yaml)?;
        recipe.check_size()?;
        Ok(recipe)
    }
}

impl Recipe {
    /// One model as it is.
    pub(super) fn copy_of(model: ModelRef) -> Recipe {
        let place = String::new();
        let source = Source { place: place.clone(), model, layers: None, parameters: Parameters::new() };
        let document = Document {
            place,
            name: None,
            method: Method::Passthrough,
            base: None,
            layout: Layout::Models(vec![source]),
            module_parameters: Parameters::new(),
            parameters: Parameters::new(),
            dtype: None,
            out_dtype: None,
            tokenizer: TokenizerChoice::Base,
            chat_template: None,
        };
        Recipe { documents: vec![document], warnings: Vec::new() }
    }
}

/// One merge.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Where it starts, for messages: `line 1`.
    pub place: String,
    /// The name by which later documents use its result.
    pub name: Option<String>,
    /// How tensors are combined.
    pub method: Method,
    /// The base; one of the sources.
    pub base: Option<ModelRef>,
    /// What is combined.
    pub layout: Layout,
    /// Parameters of `modules.default`, if written that way.
    pub module_parameters: Parameters,
    /// Parameters of the whole document.
    pub parameters: Parameters,
    /// What sources are cast to, and results are rounded to: F16, BF16, F32 or F64.
    #[serde(serialize_with = "values::serialize_dtype")]
    pub dtype: Option<Dtype>,
    /// What results are converted to at the end, if not `dtype`.
    #[serde(serialize_with = "values::serialize_dtype")]
    pub out_dtype: Option<Dtype>,
    /// Whose tokenizer the result gets.
    pub tokenizer: TokenizerChoice,
    /// The result's chat template, if not the tokenizer's own.
    pub chat_template: Option<ChatTemplateChoice>,
}

/// How tensors are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Method {
    /// Spherical interpolation of two.
    Slerp,
    /// Weighted mean (or sum) of one or more.
    Linear,
    /// One, taken as it is or scaled.
    Passthrough,
}

/// The two ways to say what is combined.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// Output layers, slice after slice.
    Slices(Vec<Slice>),
    /// All layers of every model; a base that the file does not list is added as the last.
    Models(Vec<Source>),
}

/// Consecutive output layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// Where it stands: `line 2: slices[0]`.
    pub place: String,
    /// What is combined, all over the same number of layers.
    pub sources: Vec<Source>,
    /// Parameters of this slice.
    pub parameters: Parameters,
}

/// One model of a slice.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Where it stands: `line 3: slices[0].sources[0]`.
    pub place: String,
    /// The model, or the name of an earlier document.
    pub model: ModelRef,
    /// Its layers, end exclusive; `None`: all.
    pub layers: Option<Range<u32>>,
    /// Parameters of this model in this slice; only those that are per model (`weight`, `scale`),
    /// as mergekit looks for no other one here.
    pub parameters: Parameters,
}

/// A model: `path[@revision]` or `owner/name[@revision]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelRef {
    /// Path or name.
    pub path: String,
    /// Branch, tag or commit.
    pub revision: Option<String>,
}

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// As recipes write it.
impl Serialize for ModelRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Parameters by name: `t`, `weight`, `normalize`, `scale`.
pub type Parameters = BTreeMap<String, Parameter>;

/// A parameter: conditions, of which the first that matches a tensor gives the value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameter {
    /// Where it stands, for messages.
    pub place: String,
    /// At least one.
    pub conditions: Vec<Condition>,
}

/// A value for the tensors that a filter lets through.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Substring of the tensor's name; `None` and `"*"`: every tensor.
    pub filter: Option<String>,
    /// Anchors of a gradient over a slice's layers; a single one is a constant. Finite.
    pub anchors: Vec<f64>,
}

/// Whose tokenizer the result gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TokenizerChoice {
    /// The base's, or where there is none the first source's.
    #[default]
    Base,
    /// All have the same one; to be checked.
    Union,
    /// This model's.
    Model(ModelRef),
}

/// The result's chat template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ChatTemplateChoice {
    /// The one that most sources have.
    Auto,
    /// This Jinja text.
    Jinja(String),
}
