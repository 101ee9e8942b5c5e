//! Which source layers make which output layers, document by document.

use std::collections::HashMap;

use super::MergeError;
use super::parent::Parent;
use super::plan::Target;
use super::recipe::{Document, Layout, Method, ModelRef, Parameters, Recipe, Slice, Source};
use crate::model::Config;
use crate::model::rope::RopeScaling;

/// Most layers of a result; the largest models have a few hundred.
const MAX_LAYERS: u64 = 4096;

/// What a source of a slice stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Input {
    /// A checkpoint, by index.
    Parent(usize),
    /// The result of an earlier document, by index.
    Document(usize),
}

/// One source of a slice.
#[derive(Clone, Debug)]
pub(super) struct ResolvedSource {
    pub(super) input: Input,
    pub(super) name: String,
    pub(super) first_layer: u32,
    pub(super) parameters: Parameters,
}

/// Consecutive output layers. The base, if it is among the sources, comes first for SLERP.
#[derive(Clone, Debug)]
pub(super) struct ResolvedSlice {
    pub(super) place: String,
    pub(super) sources: Vec<ResolvedSource>,
    pub(super) layers: u32,
    pub(super) parameters: Parameters,
}

#[derive(Clone, Debug)]
struct ResolvedDocument {
    slices: Vec<ResolvedSlice>,
    /// Where config.json and, unless told otherwise, the tokenizer come from.
    base: Input,
}

/// The layers of every document.
#[derive(Clone, Debug)]
pub(super) struct Layouts {
    documents: Vec<ResolvedDocument>,
}

impl Layouts {
    pub(super) fn new<S>(recipe: &Recipe, parents: &[Parent<S>]) -> Result<Layouts, MergeError> {
        let mut layouts = Layouts { documents: Vec::new() };
        let mut inputs: HashMap<ModelRef, Input> =
            parents.iter().enumerate().map(|(i, parent)| (parent.name.clone(), Input::Parent(i))).collect();
        for (index, document) in recipe.documents.iter().enumerate() {
            let resolved = Resolver { document, parents, layouts: &layouts, inputs: &inputs }.resolve()?;
            layouts.documents.push(resolved);
            if let Some(name) = &document.name {
                let name = ModelRef { path: name.clone(), revision: None };
                inputs.insert(name, Input::Document(index));
            }
        }
        Ok(layouts)
    }

    /// Output layers of a document.
    pub(super) fn layers(&self, document: usize) -> u32 {
        let document = self.documents.get(document);
        document.map_or(0, |document| document.slices.iter().map(|slice| slice.layers).sum())
    }

    /// The slice that a tensor belongs to, and the layer's index in it.
    pub(super) fn slice(&self, document: usize, target: Target) -> Option<(&ResolvedSlice, u32)> {
        let slices = &self.documents.get(document)?.slices;
        match target {
            Target::Embed => Some((slices.first()?, 0)),
            Target::Norm | Target::Head => Some((slices.last()?, 0)),
            Target::Layer(layer, _) => {
                let mut first = 0;
                for slice in slices {
                    if layer - first < slice.layers {
                        return Some((slice, layer - first));
                    }
                    first += slice.layers;
                }
                None
            }
        }
    }

    /// The parent at the bottom of a document's chain of bases.
    pub(super) fn base_parent(&self, document: usize) -> usize {
        let mut input = Input::Document(document);
        loop {
            match input {
                Input::Parent(parent) => return parent,
                // Bases lie in earlier documents, so this ends.
                Input::Document(index) => match self.documents.get(index) {
                    Some(document) => input = document.base,
                    None => return 0,
                },
            }
        }
    }

    fn config<'a, S>(&self, input: Input, parents: &'a [Parent<S>]) -> Option<&'a Config> {
        let parent = match input {
            Input::Parent(parent) => parent,
            Input::Document(document) => self.base_parent(document),
        };
        parents.get(parent).map(|parent| &parent.config)
    }

    fn input_layers<S>(&self, input: Input, parents: &[Parent<S>]) -> u32 {
        match input {
            Input::Parent(_) => self.config(input, parents).map_or(0, |config| config.layers),
            Input::Document(document) => self.layers(document),
        }
    }
}

struct Resolver<'a, S> {
    document: &'a Document,
    parents: &'a [Parent<S>],
    layouts: &'a Layouts,
    inputs: &'a HashMap<ModelRef, Input>,
}

fn error(place: &str, message: String) -> MergeError {
    MergeError::Recipe { place: place.to_owned(), message }
}

impl<S> Resolver<'_, S> {
    fn resolve(&self) -> Result<ResolvedDocument, MergeError> {
        let slices = match &self.document.layout {
            Layout::Slices(slices) => {
                slices.iter().map(|slice| self.slice(slice)).collect::<Result<_, _>>()?
            }
            Layout::Models(models) => {
                let (place, parameters) = (self.document.place.clone(), Parameters::new());
                vec![self.slice(&Slice { place, sources: models.clone(), parameters })?]
            }
        };
        let layers = slices.iter().map(|slice: &ResolvedSlice| u64::from(slice.layers)).sum::<u64>();
        if layers > MAX_LAYERS {
            let message = format!("the result would have {layers} layers; at most {MAX_LAYERS} are possible");
            return Err(error(&self.document.place, message));
        }
        let base = match &self.document.base {
            Some(base) => self.input(base, &self.document.place)?,
            None => {
                let first = slices.first().and_then(|slice: &ResolvedSlice| slice.sources.first());
                first.map(|source| source.input).ok_or_else(|| {
                    error(&self.document.place, "there are no sources; a merge needs at least one".into())
                })?
            }
        };
        Ok(ResolvedDocument { slices, base })
    }

    fn input(&self, model: &ModelRef, place: &str) -> Result<Input, MergeError> {
        self.inputs.get(model).copied().ok_or_else(|| {
            error(place, format!("{model} is neither among the models given nor an earlier document"))
        })
    }

    fn slice(&self, slice: &Slice) -> Result<ResolvedSlice, MergeError> {
        let mut sources = Vec::new();
        let mut layers = None;
        for source in &slice.sources {
            let (resolved, count) = self.source(source)?;
            let first = layers.get_or_insert((count, source.model.clone())).0;
            if first != count {
                let other = layers.map(|(_, model)| model.to_string()).unwrap_or_default();
                let message = format!(
                    "{} gives {count} layers, but {other} gives {first}; all sources of a slice must span \
                     the same number",
                    source.model
                );
                return Err(error(&source.place, message));
            }
            sources.push((Some(&source.model) == self.document.base.as_ref(), resolved));
        }
        if self.document.method == Method::Slerp {
            // t = 0 is the base, wherever the recipe lists it.
            sources.sort_by_key(|(is_base, _)| !is_base);
        }
        Ok(ResolvedSlice {
            place: slice.place.clone(),
            sources: sources.into_iter().map(|(_, source)| source).collect(),
            layers: layers.map_or(0, |(count, _)| count),
            parameters: slice.parameters.clone(),
        })
    }

    fn source(&self, source: &Source) -> Result<(ResolvedSource, u32), MergeError> {
        let input = self.input(&source.model, &source.place)?;
        self.check_architecture(source, input)?;
        let available = self.layouts.input_layers(input, self.parents);
        let range = source.layers.clone().unwrap_or(0..available);
        if range.end > available {
            let message = format!(
                "layer_range ends at {}, but {} has {available} layers; use at most {available}",
                range.end, source.model
            );
            return Err(error(&source.place, message));
        }
        let count = range.end.saturating_sub(range.start);
        let (name, parameters) = (source.model.to_string(), source.parameters.clone());
        Ok((ResolvedSource { input, name, first_layer: range.start, parameters }, count))
    }

    /// What shapes alone do not tell: two models whose tensors fit may still compute differently.
    fn check_architecture(&self, source: &Source, input: Input) -> Result<(), MergeError> {
        let Some(first) = self.parents.first() else { return Ok(()) };
        let Some(config) = self.layouts.config(input, self.parents) else { return Ok(()) };
        let facts = |config: &Config| {
            [
                ("model_type", config.model_type.clone()),
                ("num_attention_heads", config.heads.to_string()),
                ("num_key_value_heads", config.kv_heads.to_string()),
                ("head_dim", config.head_dim.to_string()),
            ]
        };
        for ((key, here), (_, there)) in facts(config).into_iter().zip(facts(&first.config)) {
            if here != there {
                let message = format!(
                    "{key} is {here} in {} and {there} in {}; only models of one architecture can be merged",
                    source.model, first.name
                );
                return Err(error(&source.place, message));
            }
        }
        Ok(())
    }
}

/// Settings that shape no tensor but steer the computation, and differ from those of the base.
pub(super) fn warnings<S>(layouts: &Layouts, parents: &[Parent<S>], last: usize) -> Vec<String> {
    let Some(base) = parents.get(layouts.base_parent(last)) else { return Vec::new() };
    let facts = |config: &Config| {
        [
            ("rope_theta", config.rope_theta.to_string()),
            ("rope_scaling", rope_scaling(config.rope_scaling)),
            ("rms_norm_eps", config.norm_epsilon.to_string()),
            ("sliding_window", config.window.map_or("none".to_owned(), |window| window.to_string())),
        ]
    };
    let mut warnings = Vec::new();
    for parent in parents {
        for ((key, here), (_, in_base)) in facts(&parent.config).into_iter().zip(facts(&base.config)) {
            if here != in_base {
                warnings.push(format!(
                    "{key} is {here} in {} and {in_base} in {}; the result takes the latter",
                    parent.name, base.name
                ));
            }
        }
        if parent.config.tied != base.config.tied {
            let (tied, own) = if parent.config.tied { (parent, base) } else { (base, parent) };
            warnings.push(format!(
                "tie_word_embeddings is true in {} and false in {}; a head that only one of them has is taken \
                 as it is",
                tied.name, own.name
            ));
        }
    }
    warnings
}

/// As config.json has it.
fn rope_scaling(scaling: RopeScaling) -> String {
    match scaling {
        RopeScaling::Default => "none".to_owned(),
        RopeScaling::Linear { factor } => format!("linear by {factor}"),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => format!(
            "llama3 by {factor} (low_freq_factor {low_freq_factor}, high_freq_factor {high_freq_factor}, \
             original_max_position_embeddings {original})"
        ),
    }
}

/// Most documents in a recipe, and most models that it reads: every one costs memory in each chunk.
const MOST: usize = 64;

impl Recipe {
    /// Refuses recipes that are larger than any merge.
    pub(super) fn check_size(&self) -> Result<(), MergeError> {
        let counts = [("documents", self.documents.len()), ("models", self.models().len())];
        for (what, count) in counts {
            if count > MOST {
                let place = self.documents.get(MOST).map_or("line 1", |document| &document.place);
                return Err(error(
                    place,
                    format!("the recipe has {count} {what}; at most {MOST} are possible"),
                ));
            }
        }
        Ok(())
    }

    /// The checkpoints that a recipe reads, each once, in the order in which it names them.
    pub fn models(&self) -> Vec<ModelRef> {
        let mut models = Vec::new();
        let mut documents = Vec::new();
        for document in &self.documents {
            let sources: Vec<&Source> = match &document.layout {
                Layout::Slices(slices) => slices.iter().flat_map(|slice| &slice.sources).collect(),
                Layout::Models(models) => models.iter().collect(),
            };
            for Source { model, .. } in sources {
                let is_document = model.revision.is_none() && documents.contains(&Some(&model.path));
                if !is_document && !models.contains(model) {
                    models.push(model.clone());
                }
            }
            documents.push(document.name.as_ref());
        }
        models
    }
}
