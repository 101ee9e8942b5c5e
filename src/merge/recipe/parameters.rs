//! Parameters: numbers, gradients and conditions.

use super::method::ParameterSpec;
use super::reader::{At, suggestion};
use super::{Condition, Method, Parameter, Parameters};
use crate::merge::MergeError;

const FORMS: &str = "a number, a list of numbers, {value, filter} or a list of those";

/// The parameters of one scope; none where there is no such key.
pub(super) fn parameters(at: Option<&At<'_>>, method: Method) -> Result<Parameters, MergeError> {
    let Some(at) = at else { return Ok(Parameters::new()) };
    let parse = |(name, at): &(&str, At<'_>)| {
        let specs = method.parameters();
        let Some(spec) = specs.iter().find(|spec| spec.name == *name) else {
            let names: Vec<_> = specs.iter().map(|spec| spec.name).collect();
            let (meant, names) = (suggestion(name, names.iter().copied()), names.join(", "));
            return Err(at.error(format!("{method} has no such parameter{meant} (it has: {names})")));
        };
        Ok(((*name).to_owned(), parameter(at, spec)?))
    };
    at.entries("a mapping of parameters")?.iter().map(parse).collect()
}

fn parameter(at: &At<'_>, spec: &ParameterSpec) -> Result<Parameter, MergeError> {
    let conditions = if at.is_map() {
        vec![condition(at, spec)?]
    } else if at.is_list() {
        let items = at.list(FORMS)?;
        match items.first().is_some_and(At::is_map) {
            true => items.iter().map(|item| condition(item, spec)).collect::<Result<_, _>>()?,
            false => vec![Condition { filter: None, anchors: anchors(at, spec)? }],
        }
    } else {
        vec![Condition { filter: None, anchors: anchors(at, spec)? }]
    };
    Ok(Parameter { place: at.place(), conditions })
}

fn condition(at: &At<'_>, spec: &ParameterSpec) -> Result<Condition, MergeError> {
    let fields = at.fields("a condition like the one before: {value, filter}", &["value", "filter"], &[])?;
    let value = fields.required("value", "a number or a list of numbers")?;
    let filter = fields.get("filter").map(|at| at.text("a part of tensor names")).transpose()?;
    Ok(Condition { filter: filter.map(str::to_owned), anchors: anchors(value, spec)? })
}

/// A constant, or a gradient.
fn anchors(at: &At<'_>, spec: &ParameterSpec) -> Result<Vec<f64>, MergeError> {
    let scalar = |at: &At<'_>| match spec.boolean {
        true => at.boolean().map(|truth| f64::from(u8::from(truth))),
        false => at.number(),
    };
    if !at.is_list() {
        return Ok(vec![scalar(at)?]);
    }
    if spec.boolean {
        return Err(at.error(format!("{} is true or false, not a gradient; use filters", spec.name)));
    }
    at.list("a list of numbers")?.iter().map(scalar).collect()
}
