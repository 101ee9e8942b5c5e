//! Recipes to begin with.

use bise::merge::MergeError;
use bise::merge::recipe::{Condition, Document, Layout, ModelRef, Parameter, Recipe, Slice, Source};

/// The reference model's own recipe.
pub const REFERENCE: &str = "\
slices:
  - sources:
      - model: chihoonlee10/T3Q-DPO-Mistral-7B
        layer_range: [0, 32]
      - model: MatthieuJ/ING_2003M2_SLERP
        layer_range: [0, 32]
merge_method: slerp
base_model: chihoonlee10/T3Q-DPO-Mistral-7B
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
";

/// The smallest of each method.
pub const SLERP: &str =
    "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n";
pub const LINEAR: &str = "models: [{model: a}, {model: b}]\nmerge_method: linear\nparameters: {weight: 1}\n";
pub const PASSTHROUGH: &str = "models: [{model: a}]\nmerge_method: passthrough\n";

#[track_caller]
pub fn parse(yaml: &str) -> Recipe {
    Recipe::parse(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// The one document of a recipe without warnings.
#[track_caller]
pub fn document(yaml: &str) -> Document {
    let recipe = parse(yaml);
    assert_eq!(recipe.warnings, [""; 0], "{yaml}");
    assert_eq!(recipe.documents.len(), 1, "{yaml}");
    recipe.documents.into_iter().next().unwrap()
}

/// Place and message of what is wrong.
#[track_caller]
pub fn refusal(yaml: &str) -> (String, String) {
    match Recipe::parse(yaml) {
        Err(MergeError::Recipe { place, message }) => (place, message),
        other => panic!("{other:?}\n{yaml}"),
    }
}

pub fn model(path: &str) -> ModelRef {
    ModelRef { path: path.into(), revision: None }
}

pub fn constant(place: &str, value: f64) -> Parameter {
    Parameter { place: place.into(), conditions: vec![Condition { filter: None, anchors: vec![value] }] }
}

#[track_caller]
pub fn slices(document: &Document) -> &[Slice] {
    match &document.layout {
        Layout::Slices(slices) => slices,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn models(document: &Document) -> &[Source] {
    match &document.layout {
        Layout::Models(models) => models,
        other => panic!("{other:?}"),
    }
}

/// What is replaced in a recipe (nothing: appended), by what; place and words of the refusal.
pub type Case = (&'static str, &'static str, &'static str, &'static str);

/// Breaks a recipe that is accepted in one way after the other.
#[track_caller]
pub fn check(recipe: &str, cases: &[Case]) {
    assert!(Recipe::parse(recipe).is_ok(), "{recipe}");
    for (from, to, place, words) in cases {
        assert!(recipe.contains(from), "{from}\n{recipe}");
        let yaml = if from.is_empty() { format!("{recipe}{to}\n") } else { recipe.replacen(from, to, 1) };
        let (found, message) = refusal(&yaml);
        assert_eq!(found, *place, "{message}\n{yaml}");
        assert!(message.contains(words), "{message:?} lacks {words:?}\n{yaml}");
    }
}
