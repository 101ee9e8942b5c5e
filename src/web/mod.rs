//! The exported engine: what `worker.js` calls.
//!
//! ```text
//! mod.rs     WebEngine: load, info, generate; inspect
//! source.rs  where a checkpoint lies: a URL, picked files, a picked directory
//! http.rs    one file of it over fetch
//! any.rs     files or a merge, as one type
//! merge.rs   merges: their sources and where their files go
//! compile.rs  pipelines without holding up the queue
//! cache.rs   where a model is kept, and the hashes of its files
//! stream.rs  a ReadableStream as the body of an answer; turns and timers
//! bench.rs   the bench of a loaded engine, in the wasm that has it
//! diagnostics.rs  what tests ask of the adapter
//! error.rs   errors as JavaScript sees them
//! ```
//!
//! Nothing here panics on what JavaScript passes or throws: it comes back as a
//! rejected promise with a `code`.

mod any;
#[cfg(feature = "bench")]
mod bench;
mod cache;
mod compile;
mod diagnostics;
mod error;
mod http;
mod merge;
mod source;
mod stream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use js_sys::{Function, Object, Reflect};
use serde::{Serialize, de::DeserializeOwned};
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;
use web_time::{Duration, Instant};

use crate::engine::{self, CacheFiles, Delta, Engine, Info, Kept, LoadOptions, Progress, Request};
use crate::gpu::DeviceTier;
use crate::merge::MergeReport;
use any::AnySource;
use error::{bad_request, from_engine};
use source::{OnWaiting, WebSource};

/// Longest time between two reports of progress.
const PACE: Duration = Duration::from_millis(40);

/// Sends panic messages to the console, where a crash report can quote them.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// Size of the wasm memory in bytes. It never shrinks, so a leak shows as growth.
#[wasm_bindgen]
pub fn wasm_memory() -> f64 {
    const PAGE_BYTES: f64 = 65536.0;
    core::arch::wasm32::memory_size::<0>() as f64 * PAGE_BYTES
}

/// Describes a checkpoint without loading it: an [`Inspection`](crate::engine::Inspection), with the
/// limits of this browser's adapter where it has one. `source` is as for [`WebEngine::load`], but no
/// merge, and its cache, if there is one, whole; `options` are [`LoadOptions`].
///
/// # Errors
/// A JavaScript `Error` with a `code`.
#[wasm_bindgen]
pub async fn inspect(source: JsValue, options: JsValue, signal: AbortSignal) -> Result<JsValue, JsValue> {
    let options: LoadOptions = from_js("options", options)?;
    let (trust, files) = cache::of_source(&source)?;
    let source = WebSource::new(&source, signal, Rc::new(|_| {}), 0)?;
    let kept = Rc::new(Kept::new(trust, files.map(CacheFiles::looked_at)));
    let source = AnySource::files(source, kept.clone());
    let tier = DeviceTier::probe(&options.gpu).await.ok();
    let inspection = engine::inspect_cached(&source, &kept, &options, tier.as_ref()).await;
    to_js(&inspection.map_err(from_engine)?)
}

/// A loaded model. `free()` releases its memory on the device.
#[wasm_bindgen]
pub struct WebEngine {
    /// Taken out while a generation runs; back when it ends, however it ends.
    engine: RefCell<Option<Engine>>,
    info: RefCell<Info>,
    /// What the merge did that made these weights, if one did.
    merged: RefCell<Option<MergeReport>>,
}

#[wasm_bindgen]
impl WebEngine {
    /// Loads a checkpoint. `source` is `{kind: "http", base, listing?, headers?}`,
    /// `{kind: "files", files: Map}`, `{kind: "directory", handle}`, each with `trust` and `cache` where
    /// there are any, or `{kind: "merge", recipe, models: Map}`; `options` are [`LoadOptions`];
    /// `on_progress` gets [`Progress`], and `on_tensor` what a merge did to each
    /// tensor, a [`TensorReport`](crate::merge::TensorReport).
    ///
    /// # Errors
    /// A JavaScript `Error` with a `code`; what `on_progress` throws, if it does.
    pub async fn load(
        source: JsValue,
        options: JsValue,
        on_progress: Function,
        on_tensor: Function,
        signal: AbortSignal,
    ) -> Result<WebEngine, JsValue> {
        let mut options: LoadOptions = from_js("load options", options)?;
        options.turn = Some(|| Box::pin(stream::turn()));
        options.gpu.compile_ahead = Some(compile::ahead);
        let report = Rc::new(Callback::new(on_progress));
        let progress = &mut paced(&report);
        let stopped = || signal.aborted() || report.has_thrown();
        let (trust, files) = cache::of_source(&source)?;
        let kept = Rc::new(Kept::new(trust, files));
        let (source, merge) = if is_merge(&source) {
            let merge_options = merge::into_engine();
            let merge = merge::open(&source, "", merge_options, on_tensor, &report, signal.clone()).await?;
            (AnySource::Merge(merge.clone()), Some(merge))
        } else {
            let source = WebSource::new(&source, signal.clone(), on_waiting(&report), 0)?;
            (AnySource::files(source, kept.clone()), None)
        };
        let manifest = match &merge {
            Some(merge) => Some(merge.manifest().map_err(|error| from_engine(error.into()))?),
            None => None,
        };
        let engine = Engine::load_cached(&source, &kept, manifest, &options, progress, &stopped).await;
        report.rethrow()?;
        let engine = engine.map_err(from_engine)?;
        let info = RefCell::new(engine.info());
        Ok(WebEngine {
            engine: RefCell::new(Some(engine)),
            info,
            merged: RefCell::new(merge.map(|merge| merge.report())),
        })
    }

    /// Merges into this engine's weights; `source` is `{kind: "merge", recipe, models: Map}`. Gives
    /// the [`MergeReport`].
    ///
    /// # Errors
    /// A JavaScript `Error` with a `code`; what a callback throws, if one does.
    #[wasm_bindgen(js_name = replaceWeights)]
    pub async fn replace_weights(
        &self,
        source: JsValue,
        on_progress: Function,
        on_tensor: Function,
        signal: AbortSignal,
    ) -> Result<JsValue, JsValue> {
        let report = Rc::new(Callback::new(on_progress));
        let options = merge::into_engine();
        let merge = merge::open(&source, "", options, on_tensor, &report, signal.clone()).await?;
        let manifest = merge.manifest().map_err(|error| from_engine(error.into()))?;
        let mut engine = self.take()?;
        let progress = &mut paced(&report);
        let stopped = || signal.aborted() || report.has_thrown();
        let source = AnySource::Merge(merge.clone());
        let replaced = engine.replace_weights(&source, &manifest, progress, &stopped).await;
        self.put_back(engine);
        report.rethrow()?;
        replaced.map_err(from_engine)?;
        let merged = merge.report();
        let value = to_js(&merged)?;
        self.merged.replace(Some(merged));
        Ok(value)
    }

    /// What the merge did that made these weights: a [`MergeReport`], or null.
    ///
    /// # Errors
    /// None in practice: plain data always converts.
    #[wasm_bindgen(js_name = mergeReport)]
    pub fn merge_report(&self) -> Result<JsValue, JsValue> {
        to_js(&*self.merged.borrow())
    }

    /// What is loaded: [`Info`].
    ///
    /// # Errors
    /// None in practice: plain data always converts.
    pub fn info(&self) -> Result<JsValue, JsValue> {
        to_js(&*self.info.borrow())
    }

    /// Generates text for a [`Request`]; `on_delta` gets a [`Delta`] per token. Gives the whole
    /// [`Output`](crate::engine::Output).
    ///
    /// # Errors
    /// A JavaScript `Error` with a `code`; what `on_delta` throws, if it does.
    pub async fn generate(
        &self,
        request: JsValue,
        on_delta: Function,
        signal: AbortSignal,
    ) -> Result<JsValue, JsValue> {
        let request: Request = from_js("request", request)?;
        let mut engine = self.take()?;
        let report = Callback::new(on_delta);
        let output = engine
            .generate(&request, &mut |delta: &Delta| report.call(delta), &|| {
                signal.aborted() || report.has_thrown()
            })
            .await;
        self.put_back(engine);
        report.rethrow()?;
        to_js(&output.map_err(from_engine)?)
    }
}

impl WebEngine {
    fn take(&self) -> Result<Engine, JsValue> {
        let taken = self.engine.borrow_mut().take();
        taken.ok_or_else(|| bad_request("this engine is at work: wait for it, or abort what runs"))
    }

    fn put_back(&self, engine: Engine) {
        self.info.replace(engine.info());
        self.engine.replace(Some(engine));
    }
}

fn is_merge(source: &JsValue) -> bool {
    let kind = Reflect::get(source, &"kind".into()).ok();
    kind.and_then(|kind| kind.as_string()).as_deref() == Some("merge")
}

/// Progress in steps of a hundredth, or 25 times a second: every piece of gigabytes would keep the page
/// busy.
fn paced(report: &Rc<Callback>) -> impl FnMut(Progress) {
    let report = report.clone();
    let mut told: Option<(Progress, Instant)> = None;
    move |progress| {
        let is_due = told.as_ref().is_none_or(|(last, at)| {
            last.phase != progress.phase
                || progress.done == progress.total
                || progress.done.saturating_sub(last.done) >= progress.total / 100
                || at.elapsed() >= PACE
        });
        if is_due {
            report.call(&progress);
            told = Some((progress, Instant::now()));
        }
    }
}

/// Tells a progress callback of transfers that stand still.
fn on_waiting(report: &Rc<Callback>) -> OnWaiting {
    let report = report.clone();
    Rc::new(move |waiting| report.repeat("waiting", waiting))
}

/// A JavaScript callback. The first exception it throws is kept: the caller stops
/// its work and hands that on.
struct Callback {
    function: Function,
    /// What it was called with last.
    last: RefCell<JsValue>,
    thrown: Cell<Option<JsValue>>,
    has_thrown: Cell<bool>,
}

impl Callback {
    fn new(function: Function) -> Callback {
        let last = RefCell::new(JsValue::UNDEFINED);
        Callback { function, last, thrown: Cell::new(None), has_thrown: Cell::new(false) }
    }

    fn call<T: Serialize>(&self, value: &T) {
        self.last.replace(self.call_other(&self.function, value));
    }

    /// Calls it with what it had last, and one more field.
    fn repeat<T: Serialize>(&self, field: &str, value: &T) {
        let last = self.last.borrow().clone();
        let (Some(last), Ok(value)) = (last.dyn_ref::<Object>(), to_js(value)) else { return };
        let again = Object::assign(&Object::new(), last);
        if Reflect::set(&again, &field.into(), &value).is_ok() {
            self.call_with(&self.function, &again.into());
        }
    }

    /// Calls another function under the same rule.
    fn call_other<T: Serialize>(&self, function: &Function, value: &T) -> JsValue {
        // Plain data always converts.
        let value = to_js(value).unwrap_or_default();
        self.call_with(function, &value);
        value
    }

    fn call_with(&self, function: &Function, value: &JsValue) {
        if self.has_thrown.get() {
            return;
        }
        if let Err(thrown) = function.call1(&JsValue::NULL, value) {
            self.has_thrown.set(true);
            self.thrown.set(Some(thrown));
        }
    }

    fn has_thrown(&self) -> bool {
        self.has_thrown.get()
    }

    fn rethrow(&self) -> Result<(), JsValue> {
        self.thrown.take().map_or(Ok(()), Err)
    }
}

/// Plain objects, arrays and Numbers (u64 counters included: all are far below 2^53).
fn to_js<T: Serialize>(value: &T) -> Result<JsValue, JsValue> {
    let serializer = serde_wasm_bindgen::Serializer::json_compatible();
    value.serialize(&serializer).map_err(|error| bad_request(&error.to_string()))
}

/// Errors name the field by its path. By way of JSON's values, since the direct way looks up the fields
/// it knows and never sees the others.
fn from_js<T: DeserializeOwned>(what: &str, value: JsValue) -> Result<T, JsValue> {
    let refused = |error: &dyn std::fmt::Display| bad_request(&format!("{what}: {error}"));
    let value: serde_json::Value = serde_wasm_bindgen::from_value(value).map_err(|error| refused(&error))?;
    serde_path_to_error::deserialize(value).map_err(|error| match error.path().iter().len() {
        0 => refused(error.inner()),
        _ => refused(&error),
    })
}
