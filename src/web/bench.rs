//! A loaded engine's bench, for the client's `bench`.

use js_sys::Function;
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;

use super::error::from_engine;
use super::{Callback, WebEngine, to_js};
use crate::engine::bench::BenchOptions;

#[wasm_bindgen]
impl WebEngine {
    /// Logits that [`WebEngine::bench`] of the same model on another backend compares its own with.
    ///
    /// # Errors
    /// A JavaScript `Error` with a `code`.
    #[wasm_bindgen(js_name = benchLogits)]
    pub async fn bench_logits(&self) -> Result<Vec<f32>, JsValue> {
        let mut engine = self.take()?;
        let logits = engine.bench_logits().await;
        self.put_back(engine);
        logits.map_err(from_engine)
    }

    /// Compares logits with `expected`, then times the model and its adapter, with the numbers of
    /// [`BenchOptions`]; `on_progress` hears what is being done. Gives a
    /// [`BenchReport`](crate::engine::bench::BenchReport).
    ///
    /// # Errors
    /// A JavaScript `Error` with a `code`; what `on_progress` throws, if it does.
    pub async fn bench(
        &self,
        expected: Vec<f32>,
        rounds: u32,
        longest: u32,
        quick: bool,
        on_progress: Function,
        signal: AbortSignal,
    ) -> Result<JsValue, JsValue> {
        let mut engine = self.take()?;
        let report = Callback::new(on_progress);
        let stopped = || signal.aborted() || report.has_thrown();
        let progress = &mut |what: &'static str, at| report.call(&(what, at));
        let result =
            engine.bench(&expected, BenchOptions { rounds, longest, quick }, progress, &stopped).await;
        self.put_back(engine);
        report.rethrow()?;
        to_js(&result.map_err(from_engine)?)
    }
}
