//! Merges as JavaScript asks for them: sources by name, and a sink of its own.

use std::rc::Rc;

use futures_util::future::try_join_all;
use js_sys::{Function, Map, Promise, Reflect};
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::AbortSignal;

use super::any::AnySource;
use super::error::{bad_request, describe, from_engine, name_of};
use super::source::WebSource;
use super::{Callback, from_js, is_merge, on_waiting, to_js};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::sink::ByteSink;
use crate::engine::Kept;
use crate::gpu::GpuOptions;
use crate::merge::{Arithmetic, Merge, MergeError, MergeOptions, ModelRef, OnTensor, Parent, Recipe};

/// Elements that are computed and written together: every write visits JavaScript.
const CHUNK_ELEMENTS: usize = 1 << 18;

/// Options of [`merge`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Options {
    /// Longest data of a weight file in bytes.
    shard_bytes: Option<u64>,
    /// Whether linear weights become FP8.
    f8: bool,
    /// Where to compute.
    backend: Backend,
    /// What a single model is called in messages and in the report.
    name: String,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Backend {
    /// On a GPU that is no software adapter, else on the CPU.
    #[default]
    Auto,
    Webgpu,
    Cpu,
}

/// Where a merge is computed unless the caller says otherwise.
fn auto() -> Arithmetic {
    Arithmetic::Auto(GpuOptions::default())
}

/// What may be kept of operands where a tokenizer, and on the CPU a model, lie in the same memory, bytes.
const KEPT_BESIDE_ENGINE: u64 = 24 << 20;

/// A merge into an engine's weights.
pub(super) fn into_engine() -> MergeOptions {
    MergeOptions { arithmetic: auto(), kept_bytes: KEPT_BESIDE_ENGINE, ..MergeOptions::default() }
}

/// The models that a recipe reads, each once.
///
/// # Errors
/// `bad-recipe`.
#[wasm_bindgen(js_name = recipeModels)]
pub fn recipe_models(recipe: &str) -> Result<Vec<String>, JsValue> {
    let recipe = Recipe::parse(recipe).map_err(from_merge)?;
    Ok(recipe.models().iter().map(ToString::to_string).collect())
}

/// A recipe as plain data, and the models that it reads.
#[derive(Serialize)]
struct Outline {
    #[serde(flatten)]
    recipe: Recipe,
    models: Vec<ModelRef>,
}

/// What a recipe says, as plain data: a [`Recipe`] with `models`, those that it reads, each once.
///
/// # Errors
/// `bad-recipe`.
#[wasm_bindgen(js_name = recipeOutline)]
pub fn recipe_outline(recipe: &str) -> Result<JsValue, JsValue> {
    let recipe = Recipe::parse(recipe).map_err(from_merge)?;
    let models = recipe.models();
    to_js(&Outline { recipe, models })
}

/// Merges into `sink`, an object whose `create(file, bytes)`, `write(data)` and `finish()` return
/// promises. `source` is `{kind: "merge", recipe, models: Map}`, or a single model's as for
/// [`WebEngine::load`](super::WebEngine::load), which is copied. `on_progress` gets
/// [`WriteProgress`](crate::merge::WriteProgress), `on_tensor` a
/// [`TensorReport`](crate::merge::TensorReport). Gives the
/// [`MergeReport`](crate::merge::MergeReport).
///
/// # Errors
/// A JavaScript `Error` with a `code`; what a callback throws, if one does.
#[wasm_bindgen]
pub async fn merge(
    source: JsValue,
    options: JsValue,
    sink: JsValue,
    on_progress: Function,
    on_tensor: Function,
    signal: AbortSignal,
) -> Result<JsValue, JsValue> {
    let Options { shard_bytes, f8, backend, name } = from_js("merge options", options)?;
    let arithmetic = match backend {
        Backend::Auto => auto(),
        Backend::Webgpu => Arithmetic::Gpu(GpuOptions::default()),
        Backend::Cpu => Arithmetic::Cpu,
    };
    let mut options =
        MergeOptions { quantize: f8, arithmetic, chunk_elements: CHUNK_ELEMENTS, ..MergeOptions::default() };
    options.shard_bytes = shard_bytes.unwrap_or(options.shard_bytes);
    let on_progress = Rc::new(Callback::new(on_progress));
    let plan = open(&source, &name, options, on_tensor, &on_progress, signal).await?;
    let mut sink = WebSink { sink: sink.unchecked_into(), file: String::new() };
    let written = plan.write(&mut sink, &mut |progress| on_progress.call(progress)).await;
    on_progress.rethrow()?;
    written.map_err(from_merge)?;
    to_js(&plan.report())
}

/// Plans the merge that `source` describes, or the copy of the single model `name`. It stops when the signal
/// says so, or when a callback has thrown.
pub(super) async fn open(
    source: &JsValue,
    name: &str,
    options: MergeOptions,
    on_tensor: Function,
    on_progress: &Rc<Callback>,
    signal: AbortSignal,
) -> Result<Merge<AnySource>, JsValue> {
    let field = |name: &str| Reflect::get(source, &name.into()).unwrap_or(JsValue::UNDEFINED);
    let recipe = match is_merge(source) {
        false => None,
        true => {
            let text = field("recipe").as_string();
            let text =
                text.ok_or_else(|| bad_request("recipe must be a string: the YAML of a mergekit recipe"))?;
            Some((Recipe::parse(&text).map_err(from_merge)?, text))
        }
    };
    let named = match &recipe {
        None => vec![(ModelRef { path: name.to_owned(), revision: None }, source.clone())],
        Some((recipe, _)) => {
            let models: Map =
                field("models").dyn_into().map_err(|_| bad_request("models must be a Map of sources"))?;
            let named = |model: ModelRef| (models.get(&model.to_string().into()), model);
            recipe.models().into_iter().map(named).map(|(source, model)| (model, source)).collect()
        }
    };
    let (mut opening, siblings) = (Vec::new(), named.len().saturating_sub(1));
    for (model, source) in named {
        let source = WebSource::new(&source, signal.clone(), on_waiting(on_progress), siblings)?;
        let source = AnySource::files(source, Rc::new(Kept::nothing()));
        opening.push(Parent::open(model, source));
    }
    let mut parents = try_join_all(opening).await.map_err(from_merge)?;
    let on_tensor: OnTensor = {
        let report = on_progress.clone();
        Box::new(move |tensor| {
            report.call_other(&on_tensor, tensor);
        })
    };
    let report = on_progress.clone();
    let cancelled = Rc::new(move || signal.aborted() || report.has_thrown());
    let planned = match (recipe, parents.pop()) {
        (None, Some(parent)) => Merge::copy(parent, options, cancelled, on_tensor).await,
        (Some((recipe, text)), last) => {
            parents.extend(last);
            Merge::new(recipe, &text, parents, options, cancelled, on_tensor).await
        }
        (None, None) => return Err(bad_request("there is no model")),
    };
    planned.map_err(from_merge)
}

fn from_merge(error: MergeError) -> JsValue {
    from_engine(error.into())
}

#[wasm_bindgen]
extern "C" {
    /// A JavaScript object that takes files, as `www/bise/sink.js` describes it.
    type Sink;

    #[wasm_bindgen(method, catch)]
    fn create(this: &Sink, file: &str, bytes: f64) -> Result<Promise, JsValue>;

    // The array is a view of wasm memory: the sink copies what it needs after it has returned.
    #[wasm_bindgen(method, catch)]
    fn write(this: &Sink, data: &[u8]) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch)]
    fn finish(this: &Sink) -> Result<Promise, JsValue>;
}

struct WebSink {
    sink: Sink,
    file: String,
}

impl WebSink {
    async fn settle(&self, called: Result<Promise, JsValue>) -> Result<(), CheckpointError> {
        let called = match called {
            Ok(promise) => JsFuture::from(promise).await,
            Err(thrown) => Err(thrown),
        };
        called.map(|_| ()).map_err(|thrown| {
            let (file, detail) = (self.file.clone(), describe(&thrown));
            match name_of(&thrown).as_deref() {
                Some("QuotaExceededError") => CheckpointError::NoSpace { file, detail },
                _ => CheckpointError::Write { file, detail },
            }
        })
    }
}

impl ByteSink for WebSink {
    async fn create(&mut self, file: &str, bytes: u64) -> Result<(), CheckpointError> {
        file.clone_into(&mut self.file);
        // f64 holds every integer to 2^53 exactly, and no file is larger.
        self.settle(self.sink.create(file, bytes as f64)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.settle(self.sink.write(bytes)).await
    }

    async fn finish(&mut self) -> Result<(), CheckpointError> {
        self.settle(self.sink.finish()).await
    }
}
