//! From a recipe and its parents' headers to the graph of every output tensor.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::MergeError;
use super::layout::{Input, Layouts, ResolvedSlice};
use super::parent::Parent;
use super::recipe::{Method, Parameter, Recipe};
use super::schedule::{self, position};
use super::tensor::{Leaf, Node, Operation, TensorPlan};
use crate::dtype::Dtype;

/// Tensors of a layer, in the order in which the result has them.
const LAYER_PARTS: [&str; 9] = [
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// A tensor of a document's result or of a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Embed,
    Layer(u32, &'static str),
    Norm,
    Head,
}

impl Target {
    fn name(self) -> String {
        match self {
            Target::Embed => "model.embed_tokens.weight".to_owned(),
            Target::Layer(layer, part) => format!("model.layers.{layer}.{part}.weight"),
            Target::Norm => "model.norm.weight".to_owned(),
            Target::Head => "lm_head.weight".to_owned(),
        }
    }
}

/// All tensors of the last document's result, in order.
pub(super) fn tensors<S>(
    recipe: &Recipe,
    layouts: &Layouts,
    parents: &[Parent<S>],
) -> Result<Vec<TensorPlan>, MergeError> {
    let last = recipe.documents.len().saturating_sub(1);
    let layers = layouts.layers(last);
    let of_layer = |layer| LAYER_PARTS.iter().map(move |part| Target::Layer(layer, part));
    let targets = [Target::Embed].into_iter();
    let targets = targets.chain((0..layers).flat_map(of_layer)).chain([Target::Norm, Target::Head]);
    let mut tensors = Vec::new();
    for target in targets {
        let mut builder =
            Builder { recipe, layouts, parents, leaves: vec![], nodes: vec![], memo: HashMap::new() };
        if let Some(built) = builder.document(last, target)? {
            check_shape(layouts, parents, last, target, &built.shape)?;
            let dtype = builder.nodes.get(built.node).map_or(Dtype::F32, |node| node.dtype);
            let Builder { leaves, nodes, .. } = builder;
            tensors.push(TensorPlan { name: target.name(), shape: built.shape, dtype, leaves, nodes });
        }
    }
    Ok(tensors)
}

/// The result gets the base's config.json, which every layer must fit, stacked or not.
fn check_shape<S>(
    layouts: &Layouts,
    parents: &[Parent<S>],
    last: usize,
    target: Target,
    shape: &[u64],
) -> Result<(), MergeError> {
    let Some(base) = parents.get(layouts.base_parent(last)) else { return Ok(()) };
    let in_base = match target {
        Target::Layer(_, part) => Target::Layer(0, part),
        // A tied base has no head of its own, but that of its embedding's shape.
        Target::Head => Target::Embed,
        other => other,
    };
    let expected = base.manifest.get(&in_base.name()).map(|(_, info)| info.shape.as_slice());
    if expected.is_none_or(|expected| expected == shape) {
        return Ok(());
    }
    Err(MergeError::Recipe {
        place: layouts.slice(last, target).map(|(slice, _)| slice.place.clone()).unwrap_or_default(),
        message: format!(
            "{} would be {shape:?}, but by the result's config.json, which is {}'s, it is {:?}; only layers of \
             models with the same sizes can be put together",
            target.name(),
            base.name,
            expected.unwrap_or_default(),
        ),
    })
}

/// A node with what its users need to know of it.
#[derive(Clone, Debug)]
struct Built {
    node: usize,
    shape: Vec<u64>,
}

struct Builder<'a, S> {
    recipe: &'a Recipe,
    layouts: &'a Layouts,
    parents: &'a [Parent<S>],
    leaves: Vec<Leaf>,
    nodes: Vec<Node>,
    /// What was built, so that nothing is built twice; `None` where there is no such tensor.
    memo: HashMap<(Input, Target), Option<Built>>,
}

/// One source of a slice with the tensor it contributes.
struct Operand<'a> {
    built: Built,
    model: String,
    /// Its own name for the tensor, which filters of `weight` and `scale` see.
    tensor: String,
    weight: Option<&'a Parameter>,
    scale: Option<&'a Parameter>,
}

impl<S> Builder<'_, S> {
    fn input(&mut self, input: Input, target: Target) -> Result<Option<Built>, MergeError> {
        if let Some(known) = self.memo.get(&(input, target)) {
            return Ok(known.clone());
        }
        let built = match input {
            // At most one level per document, of which there are few.
            Input::Document(document) => self.document(document, target)?,
            Input::Parent(parent) => self.leaf(parent, target),
        };
        self.memo.insert((input, target), built.clone());
        Ok(built)
    }

    fn leaf(&mut self, index: usize, target: Target) -> Option<Built> {
        let parent = self.parents.get(index)?;
        // A tied model's own head, if it has one at all, is not what it runs with.
        if target == Target::Head && parent.config.tied {
            return None;
        }
        let (_, info) = parent.manifest.get(&target.name())?;
        let dtype = if info.dtype.is_f8() { parent.wide_dtype() } else { info.dtype };
        self.leaves.push(Leaf { parent: index, tensor: info.name.clone() });
        let operation = Operation::Leaf(self.leaves.len() - 1);
        let (operands, rounds) = (vec![], vec![]);
        self.nodes.push(Node { operation, operands, cast: None, rounds, dtype, level: 0, origin: None });
        Some(Built { node: self.nodes.len() - 1, shape: info.shape.clone() })
    }

    fn document(&mut self, index: usize, target: Target) -> Result<Option<Built>, MergeError> {
        let layouts = self.layouts;
        let Some((slice, in_slice)) = layouts.slice(index, target) else { return Ok(None) };
        let name = target.name();
        let mut operands = Vec::new();
        for source in &slice.sources {
            let there = match target {
                Target::Layer(_, part) => Target::Layer(source.first_layer + in_slice, part),
                other => other,
            };
            if let Some(built) = self.input(source.input, there)? {
                let (weight, scale) = (source.parameters.get("weight"), source.parameters.get("scale"));
                let (model, tensor) = (source.name.clone(), there.name());
                operands.push(Operand { built, model, tensor, weight, scale });
            }
        }
        let Some(first) = operands.first() else { return Ok(None) };
        let shape = first.built.shape.clone();
        if let Some(other) = operands.iter().find(|other| other.built.shape != shape) {
            return Err(MergeError::Recipe {
                place: slice.place.clone(),
                message: format!(
                    "{name} is {shape:?} in {} and {:?} in {}; only tensors of one shape can be merged{}",
                    first.model,
                    other.built.shape,
                    other.model,
                    if matches!(target, Target::Embed | Target::Head) {
                        ": both models need the same vocabulary"
                    } else {
                        ""
                    },
                ),
            });
        }
        let at = match target {
            Target::Layer(..) => position(in_slice, slice.layers),
            _ => 0.0,
        };
        let operation = self.operation(index, slice, &operands, &name, at)?;
        let node = self.combine(index, name, operation, operands.iter().map(|o| o.built.node).collect());
        Ok(Some(Built { node, shape }))
    }

    /// The document's method for one tensor.
    fn operation(
        &self,
        index: usize,
        slice: &ResolvedSlice,
        operands: &[Operand],
        name: &str,
        at: f64,
    ) -> Result<Operation, MergeError> {
        let Some(document) = self.recipe.documents.get(index) else { return Ok(Operation::Linear(vec![])) };
        let shared = |key: &str| {
            let (module, top) = (&document.module_parameters, &document.parameters);
            [slice.parameters.get(key), module.get(key), top.get(key)]
        };
        let missing = |key: &str, of: &str| MergeError::Recipe {
            place: slice.place.clone(),
            message: format!("no `{key}` applies to {name}{of}; add a value without filter"),
        };
        match document.method {
            // A head that only one of them has is passed through.
            Method::Slerp if operands.len() == 1 => Ok(Operation::Linear(vec![1.0])),
            Method::Slerp => {
                let t = schedule::value(shared("t"), name, at).ok_or_else(|| missing("t", ""))?;
                Ok(Operation::Slerp(t))
            }
            Method::Linear => {
                let mut weights = Vec::new();
                for operand in operands {
                    let scopes = [operand.weight].into_iter().chain(shared("weight"));
                    let weight = schedule::value(scopes, &operand.tensor, at);
                    weights.push(weight.ok_or_else(|| missing("weight", &format!(" of {}", operand.model)))?);
                }
                let normalize = schedule::value(shared("normalize"), name, at).unwrap_or(1.0) != 0.0;
                let total: f64 = weights.iter().sum();
                // mergekit divides by 1 where the weights cancel out.
                let divisor = if normalize && total.abs() >= 1e-8 { total } else { 1.0 };
                Ok(Operation::Linear(weights.iter().map(|weight| weight / divisor).collect()))
            }
            Method::Passthrough => {
                let Some(operand) = operands.first() else { return Ok(Operation::Linear(vec![])) };
                let scopes = [operand.scale].into_iter().chain(shared("scale"));
                Ok(Operation::Linear(vec![schedule::value(scopes, &operand.tensor, at).unwrap_or(1.0)]))
            }
        }
    }

    fn combine(&mut self, index: usize, name: String, operation: Operation, operands: Vec<usize>) -> usize {
        let below = operands.iter().filter_map(|&operand| self.nodes.get(operand));
        let level = below.map(|node| node.level).max().unwrap_or(0);
        let level = level + usize::from(matches!(operation, Operation::Slerp(_)));
        let dtypes = operands.iter().filter_map(|&operand| self.nodes.get(operand)).map(|node| node.dtype);
        let common = dtypes.reduce(promoted);
        let document = self.recipe.documents.get(index);
        let cast = document.and_then(|document| document.dtype);
        let merged = cast.or(common).unwrap_or(Dtype::F32);
        let out = document.and_then(|document| document.out_dtype);
        let dtype = out.unwrap_or(merged);
        let rounds = if dtype == merged { vec![merged] } else { vec![merged, dtype] };
        let origin = Some((index, name));
        self.nodes.push(Node { operation, operands, cast, rounds, dtype, level, origin });
        self.nodes.len() - 1
    }
}

/// The precision in which values of both are combined where the recipe names none: the wider, or F32
/// where each holds what the other does not.
fn promoted(a: Dtype, b: Dtype) -> Dtype {
    match a.size_bytes().cmp(&b.size_bytes()) {
        _ if a == b => a,
        Ordering::Less => b,
        Ordering::Greater => a,
        Ordering::Equal => Dtype::F32,
    }
}
