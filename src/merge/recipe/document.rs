//! Documents: from the tree to a [`Document`], key by key.

use super::parameters::parameters;
use super::reader::{At, Fields, shown};
use super::rules::{self, Marks};
use super::yaml::{self, Node, Value};
use super::{Document, Layout, Method, Parameters, Recipe, Slice, Source, values};
use crate::merge::MergeError;

const KEYS: [&str; 12] = [
    "slices",
    "models",
    "modules",
    "merge_method",
    "base_model",
    "dtype",
    "out_dtype",
    "parameters",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
];
/// Keys that mergekit knows, at the places where it does.
const REFUSED_IN_SLICE: [(&str, &str); 2] = [
    (
        "base_model",
        "a base per slice is not supported; base_model belongs to the document, for all its slices",
    ),
    ("residual_weight", "has no effect in mergekit and is not supported; leave it out"),
];
const REFUSED_IN_MODEL: [(&str, &str); 1] =
    [("layer_range", "belongs under slices[].sources[]; models are taken with all their layers")];

/// Reads all documents and checks each, and how they build on one another.
pub(super) fn recipe(text: &str) -> Result<Recipe, MergeError> {
    let roots = yaml::documents(text)?;
    if roots.is_empty() {
        let message = "the recipe is empty; it needs at least merge_method and slices or models".into();
        return Err(MergeError::Recipe { place: "line 1".into(), message });
    }
    let (mut documents, mut warnings) = (Vec::new(), Vec::new());
    for (index, root) in roots.iter().enumerate() {
        let label = if roots.len() > 1 { label(index, root) } else { String::new() };
        documents.push(document(&At::root(root, &label), &mut warnings)?);
    }
    rules::chain(&documents)?;
    let documents = documents.into_iter().map(|(document, _)| document).collect();
    Ok(Recipe { documents, warnings })
}

/// `document 2 (name), `.
fn label(index: usize, root: &Node) -> String {
    let number = index + 1;
    let Value::Map(entries) = &root.value else { return format!("document {number}, ") };
    match entries.iter().find(|(key, _)| key.text == "name").map(|(_, node)| &node.value) {
        Some(Value::Scalar { text, .. })
            if text.chars().all(|c| c.is_alphanumeric() || "-_./".contains(c)) =>
        {
            // Quoted only where it is cut.
            let name = if shown(text).ends_with("...") { shown(text) } else { text.clone() };
            format!("document {number} ({name}), ")
        }
        Some(Value::Scalar { text, .. }) => format!("document {number} ({}), ", shown(text)),
        _ => format!("document {number}, "),
    }
}

fn document(at: &At<'_>, warnings: &mut Vec<String>) -> Result<(Document, Marks), MergeError> {
    if at.is_null() {
        return Err(at.error("this document is empty; remove its ---"));
    }
    let fields = at.fields("a recipe: a mapping with merge_method and slices or models", &KEYS, &[])?;
    let method = fields.required("merge_method", "slerp, linear or passthrough")?;
    let method = Method::parse(method)?;
    let (layout, layout_place, module_parameters) = top_layout(at, &fields, method)?;
    let base = fields.get("base_model").map(values::model_ref).transpose()?;
    let (tokenizer, tokenizer_place) = values::tokenizer(&fields)?;
    let mut document = Document {
        place: at.place(),
        name: fields.get("name").map(name).transpose()?,
        method,
        base,
        layout,
        module_parameters,
        parameters: parameters(fields.get("parameters"), method)?,
        dtype: fields.get("dtype").map(values::dtype).transpose()?,
        out_dtype: fields.get("out_dtype").map(values::dtype).transpose()?,
        tokenizer,
        chat_template: fields.get("chat_template").map(values::chat_template).transpose()?,
    };
    let marks = Marks {
        layout: layout_place,
        base: fields.get("base_model").map(At::place),
        tokenizer: tokenizer_place,
        name: fields.get("name").map(At::place),
    };
    rules::document(&mut document, &marks, warnings)?;
    Ok((document, marks))
}

fn name(at: &At<'_>) -> Result<String, MergeError> {
    let text = at.text("a name, by which later documents use the result")?;
    match text.contains(['@', '+']) {
        true => {
            Err(at.error(format!("{} could not be used as a model: no @ and no + in names", shown(text))))
        }
        false => Ok(text.to_owned()),
    }
}

/// The layout with its place, and the parameters of its module.
fn top_layout(
    at: &At<'_>,
    fields: &Fields<'_>,
    method: Method,
) -> Result<(Layout, String, Parameters), MergeError> {
    let Some(modules) = fields.get("modules") else {
        let (layout, place) = layout(at, fields, &["slices", "models", "modules"], method)?;
        return Ok((layout, place, Parameters::new()));
    };
    if let Some(other) = fields.get("slices").or_else(|| fields.get("models")) {
        return Err(other.error("stands beside modules; exactly one of slices, models and modules is wanted"));
    }
    let what = "a mapping with the module default";
    let entries = modules.entries(what)?;
    if let Some((name, at)) = entries.iter().find(|(name, _)| *name != "default") {
        let name = shown(name);
        return Err(at.error(format!("no module {name}: these models have a single one, called default")));
    }
    let Some((_, module)) = entries.first() else {
        return Err(modules.error(format!("must be {what}; it is empty")));
    };
    let fields = module.fields("a module with slices or models", &["slices", "models", "parameters"], &[])?;
    let (layout, place) = layout(module, &fields, &["slices", "models"], method)?;
    Ok((layout, place, parameters(fields.get("parameters"), method)?))
}

/// `slices` or `models`, and where it stands; `choices` are those there might be.
fn layout(
    at: &At<'_>,
    fields: &Fields<'_>,
    choices: &[&str],
    method: Method,
) -> Result<(Layout, String), MergeError> {
    match (fields.get("slices"), fields.get("models")) {
        (Some(at), None) => {
            let items = at.list("a list of slices")?;
            let slices = items.iter().map(|item| slice(item, method)).collect::<Result<_, _>>()?;
            Ok((Layout::Slices(slices), at.place()))
        }
        (None, Some(at)) => {
            let items = at.list("a list of models")?;
            let models = items.iter().map(|item| model(item, method)).collect::<Result<_, _>>()?;
            Ok((Layout::Models(models), at.place()))
        }
        (Some(_), Some(models)) => {
            Err(models
                .error(format!("stands beside slices; exactly one of {} is wanted", choices.join(", "))))
        }
        (None, None) => {
            Err(at.error(format!("nothing to merge: exactly one of {} is wanted", choices.join(", "))))
        }
    }
}

fn slice(at: &At<'_>, method: Method) -> Result<Slice, MergeError> {
    let fields = at.fields("a slice with sources", &["sources", "parameters"], &REFUSED_IN_SLICE)?;
    let mut sources: Vec<Source> = Vec::new();
    for item in fields.required("sources", "a list of {model, layer_range}")?.list("a list of sources")? {
        let inner =
            item.fields("a source: {model, layer_range}", &["model", "layer_range", "parameters"], &[])?;
        let range_at = inner.required("layer_range", "[first layer, layer after the last]")?;
        let range = values::layer_range(range_at)?;
        let first = sources.first().and_then(|source| source.layers.clone()).unwrap_or(range.clone());
        if first.len() != range.len() {
            return Err(range_at.error(format!(
                "[{}, {}] are {} layers, but the first source of this slice has {}: all of a slice have the \
                 same number",
                range.start,
                range.end,
                range.len(),
                first.len()
            )));
        }
        sources.push(source(&item, &inner, Some(range), method)?);
    }
    Ok(Slice { place: at.place(), sources, parameters: parameters(fields.get("parameters"), method)? })
}

fn model(at: &At<'_>, method: Method) -> Result<Source, MergeError> {
    source(
        at,
        &at.fields("a model: {model, parameters}", &["model", "parameters"], &REFUSED_IN_MODEL)?,
        None,
        method,
    )
}

fn source(
    at: &At<'_>,
    fields: &Fields<'_>,
    layers: Option<std::ops::Range<u32>>,
    method: Method,
) -> Result<Source, MergeError> {
    let model = values::model_ref(fields.required("model", "path or owner/name")?)?;
    let parameters = parameters(fields.get("parameters"), method)?;
    Ok(Source { place: at.place(), model, layers, parameters })
}
