//! Properties: no text makes it panic, what was written is what is read, gradients behave.

use bise::merge::Recipe;
use bise::merge::recipe::{Condition, Layout, Method, Parameter, Parameters, TokenizerChoice};
use bise::merge::schedule::{gradient, position, value};
use proptest::prelude::*;

use crate::support::{REFERENCE, parse};

/// A condition as it is written, and as it must be read.
#[derive(Clone, Debug)]
struct Written {
    filter: Option<String>,
    anchors: Vec<f64>,
    /// How it is spelled where there is a choice.
    spelling: u8,
}

impl Written {
    /// A number or a list of numbers.
    fn value(&self) -> String {
        let anchors: Vec<_> = self.anchors.iter().map(f64::to_string).collect();
        match self.anchors.as_slice() {
            [_] if self.spelling & 1 == 0 => anchors.concat(),
            _ => format!("[{}]", anchors.join(", ")),
        }
    }

    fn mapping(&self) -> String {
        match &self.filter {
            None => format!("{{value: {}}}", self.value()),
            Some(filter) if self.spelling & 2 == 0 => {
                format!("{{filter: '{filter}', value: {}}}", self.value())
            }
            Some(filter) => format!("{{\"value\": {}, \"filter\": \"{filter}\"}}", self.value()),
        }
    }

    fn read(&self) -> Condition {
        Condition { filter: self.filter.clone(), anchors: self.anchors.clone() }
    }
}

fn parameter(conditions: &[Written]) -> String {
    match conditions {
        [one] if one.filter.is_none() && one.spelling & 4 == 0 => one.value(),
        [one] if one.spelling & 8 == 0 => one.mapping(),
        several => format!("[{}]", several.iter().map(Written::mapping).collect::<Vec<_>>().join(", ")),
    }
}

/// A slice: parameters of its own, the first layers of both sources, and how many.
#[derive(Clone, Debug)]
struct WrittenSlice {
    conditions: Option<Vec<Written>>,
    starts: [u32; 2],
    layers: u32,
}

fn conditions() -> impl Strategy<Value = Vec<Written>> {
    let filter = prop::option::of(prop_oneof![Just("*".to_owned()), "[a-z_.]{1,12}"]);
    let anchors = prop::collection::vec(prop_oneof![0.0..=1.0f64, Just(0.0), Just(1.0), Just(0.5)], 1..6);
    let written = (filter, anchors, any::<u8>());
    prop::collection::vec(
        written.prop_map(|(filter, anchors, spelling)| Written { filter, anchors, spelling }),
        1..5,
    )
}

/// Conditions some of whose filters let a tensor through.
fn conditions_that_match() -> impl Strategy<Value = Vec<Written>> {
    let filters = vec![None, Some("*"), Some("mlp"), Some("q"), Some("attn"), Some("MLP"), Some("none")];
    let filter = prop::sample::select(filters).prop_map(|filter| filter.map(str::to_owned));
    let anchors = prop::collection::vec(-1.0..=1.0f64, 1..6);
    let written = (filter, anchors).prop_map(|(filter, anchors)| Written { filter, anchors, spelling: 0 });
    prop::collection::vec(written, 1..4)
}

/// The parameter that a recipe has with these conditions.
fn parsed(conditions: &[Written]) -> Parameter {
    let recipe =
        parse(&render(conditions, &[WrittenSlice { conditions: None, starts: [0, 0], layers: 1 }], true, ""));
    recipe.documents[0].parameters["t"].clone()
}

fn written_slice() -> impl Strategy<Value = WrittenSlice> {
    (prop::option::of(conditions()), [0..100u32, 0..100u32], 1..50u32)
        .prop_map(|(conditions, starts, layers)| WrittenSlice { conditions, starts, layers })
}

/// The YAML of a slerp of two models over slices; comments and blank lines between.
fn render(top: &[Written], slices: &[WrittenSlice], base_first: bool, noise: &str) -> String {
    let mut yaml = format!("merge_method: slerp{noise}\nslices:\n");
    for slice in slices {
        yaml += "- sources:\n";
        for (model, start) in ["one@main", "two/b c"].into_iter().zip(slice.starts) {
            let end = start + slice.layers;
            yaml += &format!("  - model: {model}{noise}\n    layer_range: [{start}, {end}]\n");
        }
        if let Some(conditions) = &slice.conditions {
            yaml += &format!("  parameters:\n    t: {}\n", parameter(conditions));
        }
    }
    let base = if base_first { "one@main" } else { "{model: {path: two/b c}}" };
    yaml + &format!(
        "base_model: {base}{noise}\nparameters: {{t: {}}}\ntokenizer_source: union\n",
        parameter(top)
    )
}

fn read_conditions(parameters: &Parameters) -> Option<Vec<Condition>> {
    parameters.get("t").map(|t| t.conditions.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_written_is_read(
        top in conditions(),
        slices in prop::collection::vec(written_slice(), 1..5),
        base_first: bool,
        noise in prop::sample::select(vec!["", " # a comment", "\n\n# and one", "   "]),
    ) {
        let recipe = parse(&render(&top, &slices, base_first, noise));
        let [document] = recipe.documents.as_slice() else { panic!("{recipe:?}") };
        prop_assert_eq!(document.method, Method::Slerp);
        prop_assert_eq!(&document.tokenizer, &TokenizerChoice::Union);
        let base = document.base.as_ref().unwrap().to_string();
        prop_assert_eq!(base, if base_first { "one@main" } else { "two/b c" });
        prop_assert_eq!(
            read_conditions(&document.parameters),
            Some(top.iter().map(Written::read).collect::<Vec<_>>())
        );
        let Layout::Slices(read) = &document.layout else { panic!("{document:?}") };
        prop_assert_eq!(read.len(), slices.len());
        for (read, slice) in read.iter().zip(&slices) {
            for (source, (start, model)) in read.sources.iter().zip(slice.starts.iter().zip(["one@main", "two/b c"])) {
                prop_assert_eq!(source.model.to_string(), model);
                prop_assert_eq!(source.layers.clone(), Some(*start..start + slice.layers));
            }
            let written = slice.conditions.as_ref().map(|list| list.iter().map(Written::read).collect::<Vec<_>>());
            prop_assert_eq!(read_conditions(&read.parameters), written);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = Recipe::parse(&text);
    }

    #[test]
    fn no_yaml_panics(
        text in r#"([\[\]{}:,\-?*&!|>'"%@`#~<\\ \n\t\r\x000-9a-c.é]|slices: |models: |sources:\n|- |--- |\.\.\.\n|t: ){0,60}"#
    ) {
        let _ = Recipe::parse(&text);
    }

    #[test]
    fn no_damaged_recipe_panics(
        at in 0..REFERENCE.len(),
        length in 0..40usize,
        with in r#"[\[\]{}:,\-?*&!|>'"%#~\\ \n\t0-9a]{0,6}"#,
    ) {
        let end = (at + length).min(REFERENCE.len());
        let _ = Recipe::parse(&format!("{}{with}{}", &REFERENCE[..at], &REFERENCE[end..]));
    }

    /// Against the definition, written out: of the innermost scope with a condition for the tensor, the
    /// first such condition, at the layer's place among the anchors.
    #[test]
    fn the_first_match_of_the_innermost_scope_counts(
        scopes in prop::collection::vec(prop::option::of(conditions_that_match()), 1..4),
        tensor in prop::sample::select(vec!["a.mlp.up", "a.attn.q", "a.mlp.q", "norm"]),
        layers in 1..40u32,
        layer: prop::sample::Index,
    ) {
        let layer = layer.index(layers as usize) as u32;
        let written: Vec<_> = scopes.iter().map(|scope| scope.as_ref().map(|list| parsed(list))).collect();
        let found = value(written.iter().map(Option::as_ref), tensor, position(layer, layers));
        let mut expected = None;
        for condition in scopes.iter().flatten().flatten() {
            let all = condition.filter.as_deref().is_none_or(|filter| filter == "*");
            if expected.is_none() && (all || tensor.contains(condition.filter.as_deref().unwrap())) {
                let last = condition.anchors.len() - 1;
                // Steps of 1 / (layers - 1); the only layer is the last one.
                let at = if layers == 1 { last as f64 } else { f64::from(layer * last as u32) / f64::from(layers - 1) };
                let (left, right) = (at.floor() as usize, at.ceil() as usize);
                let share = at - at.floor();
                expected = Some((1.0 - share) * condition.anchors[left] + share * condition.anchors[right]);
            }
        }
        match (found, expected) {
            (Some(found), Some(expected)) => prop_assert!((found - expected).abs() < 1e-12, "{found}, not {expected}"),
            (found, expected) => prop_assert_eq!(found, expected),
        }
    }

    #[test]
    fn anchors_are_hit(anchors in prop::collection::vec(-2.0..2.0f64, 1..9)) {
        let last = anchors.len() - 1;
        for (index, anchor) in anchors.iter().enumerate() {
            let position = if last == 0 { 0.0 } else { index as f64 / last as f64 };
            let error = (gradient(&anchors, position) - anchor).abs();
            // index / last * last may miss the index by a rounding; both ends are exact.
            prop_assert!(error <= 1e-14, "{anchors:?} at {position}: {error}");
        }
        prop_assert_eq!(gradient(&anchors, 0.0), anchors[0]);
        prop_assert_eq!(gradient(&anchors, 1.0), anchors[last]);
    }

    #[test]
    fn a_gradient_stays_between_its_anchors_and_is_monotone_there(
        anchors in prop::collection::vec(-2.0..2.0f64, 2..9),
        steps in prop::collection::vec(0.0..=1.0f64, 2..20),
        segment: prop::sample::Index,
    ) {
        let segment = segment.index(anchors.len() - 1);
        let (left, right) = (anchors[segment], anchors[segment + 1]);
        let (low, high) = (left.min(right), left.max(right));
        let mut fractions = steps;
        fractions.sort_by(f64::total_cmp);
        let values: Vec<_> = fractions
            .iter()
            .map(|fraction| gradient(&anchors, (segment as f64 + fraction) / (anchors.len() - 1) as f64))
            .collect();
        for pair in values.windows(2) {
            let rises = (pair[1] - pair[0]) * (right - left).signum();
            prop_assert!(rises >= -1e-14, "{left} to {right}: {values:?}");
        }
        for value in values {
            prop_assert!((low - 1e-14..=high + 1e-14).contains(&value), "{low} {value} {high}");
        }
    }
}
