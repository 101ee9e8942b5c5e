//! What holds between the keys of a document, and between documents.

use std::collections::BTreeMap;

use super::reader::suggestion;
use super::{Document, Layout, Method, ModelRef, Parameter, Parameters, Source, TokenizerChoice};
use crate::merge::MergeError;

/// Where the keys of a document stand.
pub(super) struct Marks {
    /// `slices` or `models`.
    pub layout: String,
    pub base: Option<String>,
    pub tokenizer: Option<String>,
    pub name: Option<String>,
}

fn error(place: &str, message: impl Into<String>) -> MergeError {
    MergeError::Recipe { place: place.to_owned(), message: message.into() }
}

/// Checks one document; adds the base to `models`, takes out what mergekit ignores and says so.
pub(super) fn document(
    document: &mut Document,
    marks: &Marks,
    warnings: &mut Vec<String>,
) -> Result<(), MergeError> {
    add_base(document, marks);
    check_base(document, marks)?;
    for group in groups(document, marks) {
        check_sources(document, marks, &group)?;
        check_required(document, &group)?;
    }
    check_tokenizer(document, marks)?;
    take_out_shared(document, warnings);
    for scope in scopes(document) {
        scope.values().for_each(|parameter| look_over(document.method, parameter, scope, warnings));
    }
    Ok(())
}

/// Sources that are combined with one another.
struct Group<'a> {
    place: &'a str,
    sources: &'a [Source],
    parameters: Option<&'a Parameters>,
}

fn groups<'a>(document: &'a Document, marks: &'a Marks) -> Vec<Group<'a>> {
    match &document.layout {
        Layout::Models(sources) => vec![Group { place: &marks.layout, sources, parameters: None }],
        Layout::Slices(slices) => {
            let group = |slice: &'a super::Slice| Group {
                place: &slice.place,
                sources: &slice.sources,
                parameters: Some(&slice.parameters),
            };
            slices.iter().map(group).collect()
        }
    }
}

fn sources(document: &Document) -> Vec<&Source> {
    match &document.layout {
        Layout::Models(sources) => sources.iter().collect(),
        Layout::Slices(slices) => slices.iter().flat_map(|slice| &slice.sources).collect(),
    }
}

fn scopes(document: &Document) -> Vec<&Parameters> {
    let mut scopes = vec![&document.parameters, &document.module_parameters];
    if let Layout::Slices(slices) = &document.layout {
        scopes.extend(slices.iter().map(|slice| &slice.parameters));
    }
    scopes.extend(sources(document).into_iter().map(|source| &source.parameters));
    scopes
}

/// mergekit adds the base to `models`, behind the others, whatever the method.
fn add_base(document: &mut Document, marks: &Marks) {
    let (Layout::Models(models), Some(base), Some(place)) =
        (&mut document.layout, &document.base, &marks.base)
    else {
        return;
    };
    if !models.iter().any(|source| source.model == *base) {
        let place = place.clone();
        let added = Source { place, model: base.clone(), layers: None, parameters: Parameters::new() };
        models.push(added);
    }
}

/// The models among the sources for a message, with the one that was probably meant.
fn listed(model: &ModelRef, sources: &[&Source]) -> String {
    let mut names: Vec<String> = sources.iter().map(|source| source.model.to_string()).collect();
    names.sort();
    names.dedup();
    let meant = suggestion(&model.to_string(), names.iter().map(String::as_str));
    let more = if names.len() > 8 { ", ..." } else { "" };
    format!("{}{more}{meant}", names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", "))
}

fn check_base(document: &Document, marks: &Marks) -> Result<(), MergeError> {
    let (Some(base), Some(place)) = (&document.base, &marks.base) else {
        let needed = document.method == Method::Slerp;
        let message = "base_model is missing: slerp goes from the base (t = 0) to the other (t = 1)";
        return if needed { Err(error(&document.place, message)) } else { Ok(()) };
    };
    let all = sources(document);
    if !all.iter().any(|source| source.model == *base) {
        let names = listed(base, &all);
        return Err(error(place, format!("{base} is none of the models that are merged: {names}")));
    }
    Ok(())
}

fn check_sources(document: &Document, marks: &Marks, group: &Group<'_>) -> Result<(), MergeError> {
    let count = group.sources.len();
    for (index, source) in group.sources.iter().enumerate() {
        if group.sources.iter().take(index).any(|other| other.model == source.model) {
            let message = format!("{} is combined with itself; name each model once", source.model);
            return Err(error(&source.place, message));
        }
    }
    let added = group.sources.last().zip(marks.base.as_ref()).is_some_and(|(last, base)| last.place == *base);
    let here = match (count, added) {
        (1, _) => "here is 1".to_owned(),
        (_, false) => format!("here are {count}"),
        (_, true) => format!("here are {count}: base_model counts, as models do not list it"),
    };
    match (document.method, &document.base) {
        (Method::Slerp, _) if count != 2 => {
            Err(error(group.place, format!("slerp combines two models, {here}")))
        }
        (Method::Slerp, Some(base)) if !group.sources.iter().any(|source| source.model == *base) => {
            let names = listed(base, &group.sources.iter().collect::<Vec<_>>());
            Err(error(group.place, format!("base_model {base} must be one of the two, but here are {names}")))
        }
        (Method::Passthrough, _) if count != 1 => {
            Err(error(group.place, format!("passthrough takes one model at a time, {here}")))
        }
        _ => Ok(()),
    }
}

/// Parameters without a default that are nowhere; whether every tensor is met is the plan's to see.
fn check_required(document: &Document, group: &Group<'_>) -> Result<(), MergeError> {
    for spec in document.method.parameters().iter().filter(|spec| spec.required) {
        let outer = [group.parameters, Some(&document.module_parameters), Some(&document.parameters)];
        if outer.into_iter().flatten().any(|scope| scope.contains_key(spec.name)) {
            continue;
        }
        let (method, name) = (document.method, spec.name);
        let without = group.sources.iter().find(|source| !source.parameters.contains_key(name));
        if !spec.per_source {
            let hint = match group.sources.iter().find_map(|source| source.parameters.get(name)) {
                Some(found) => format!(" ({method} does not look at {})", found.place),
                None => String::new(),
            };
            let message = format!("{name} is missing: {method} needs it under parameters{hint}");
            return Err(error(group.place, message));
        }
        if let Some(source) = without {
            let model = &source.model;
            let message = format!("{name} is missing: {method} needs one for {model}, here or for all");
            return Err(error(&source.place, message));
        }
    }
    Ok(())
}

fn check_tokenizer(document: &Document, marks: &Marks) -> Result<(), MergeError> {
    let (TokenizerChoice::Model(model), Some(place)) = (&document.tokenizer, &marks.tokenizer) else {
        return Ok(());
    };
    let all = sources(document);
    if all.iter().any(|source| source.model == *model) {
        return Ok(());
    }
    let names = listed(model, &all);
    Err(error(place, format!("{model} is none of the models that are merged: base, union, {names}")))
}

/// mergekit looks for a parameter that all sources share everywhere but under the sources.
fn take_out_shared(document: &mut Document, warnings: &mut Vec<String>) {
    let method = document.method;
    let sources: Vec<&mut Source> = match &mut document.layout {
        Layout::Models(sources) => sources.iter_mut().collect(),
        Layout::Slices(slices) => slices.iter_mut().flat_map(|slice| &mut slice.sources).collect(),
    };
    for source in sources {
        for spec in method.parameters().iter().filter(|spec| !spec.per_source) {
            if let Some(Parameter { place, .. }) = source.parameters.remove(spec.name) {
                let name = spec.name;
                warnings.push(format!(
                    "{place}: ignored, as mergekit does: {name} is not per model; put it under the slice or \
                     the document"
                ));
            }
        }
    }
}

/// Earlier conditions that each one is compared with: what a person might write by hand.
const COMPARED: usize = 256;

/// Warns of conditions that are never met, and of values beyond the parents.
fn look_over(method: Method, parameter: &Parameter, scope: &Parameters, warnings: &mut Vec<String>) {
    let Parameter { place, conditions } = parameter;
    let general = |filter: &Option<String>| filter.as_deref().is_none_or(|filter| filter == "*");
    for (index, condition) in conditions.iter().enumerate() {
        let covers = |earlier: &&super::Condition| match (&earlier.filter, &condition.filter) {
            (earlier, _) if general(earlier) => true,
            (Some(earlier), Some(later)) => later != "*" && later.contains(earlier.as_str()),
            _ => false,
        };
        if let Some(earlier) = conditions.iter().take(index.min(COMPARED)).find(covers) {
            let name = |filter: &Option<String>| filter.clone().unwrap_or_else(|| "*".into());
            let (later, earlier) = (name(&condition.filter), name(&earlier.filter));
            warnings.push(format!(
                "{place}: condition {} (filter {later:?}) is never used: filter {earlier:?} before it lets \
                 through all of its tensors",
                index + 1
            ));
        }
        let t = method == Method::Slerp && scope.get("t").is_some_and(|t| std::ptr::eq(t, parameter));
        let beyond = |anchor: &&f64| !(0.0..=1.0).contains(*anchor);
        if let Some(anchor) = condition.anchors.iter().find(beyond).filter(|_| t) {
            warnings.push(format!(
                "{place}: t = {anchor} lies beyond the parents (0: the base, 1: the other); slerp extrapolates"
            ));
        }
    }
}

/// Checks that every document but the last has a name of its own and is used by a later one, and
/// that none is used before it is made.
pub(super) fn chain(documents: &[(Document, Marks)]) -> Result<(), MergeError> {
    let last = documents.len().saturating_sub(1);
    let mut made: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, (document, marks)) in documents.iter().enumerate() {
        match &document.name {
            Some(name) if made.insert(name, index).is_some() => {
                let place = marks.name.as_ref().unwrap_or(&document.place);
                return Err(error(place, format!("an earlier document is called {name:?}, too")));
            }
            None if index < last => {
                let message =
                    "name is missing: a later document uses the result by it; only the last needs none";
                return Err(error(&document.place, message));
            }
            _ => {}
        }
    }
    let mut used = vec![false; documents.len()];
    for (index, (document, _)) in documents.iter().enumerate() {
        for source in sources(document) {
            let ModelRef { path, revision } = &source.model;
            let Some(&maker) = made.get(path.as_str()) else { continue };
            let place = &source.place;
            if maker == index {
                return Err(error(
                    place,
                    format!("{path:?} is this document's own name: a merge cannot use itself"),
                ));
            }
            if maker > index {
                let message = format!("{path:?} is made by a later document; put that one before this one");
                return Err(error(place, message));
            }
            if revision.is_some() {
                let message =
                    format!("{path:?} is made by an earlier document and has no revisions; drop the @");
                return Err(error(place, message));
            }
            if let Some(used) = used.get_mut(maker) {
                *used = true;
            }
        }
    }
    let unused = documents.iter().zip(&used).take(last).find(|(_, used)| !**used);
    unused.map_or(Ok(()), |((document, _), _)| {
        let message = "no later document uses this one, and only the last one's result is kept; remove it, or \
                       put it in a file of its own";
        Err(error(&document.place, message))
    })
}
