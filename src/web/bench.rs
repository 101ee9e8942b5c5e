//! A loaded engine's bench, for the client's `bench`.

use js_sys::Function;
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;

use super::error::from_engine;
use super::{Callback, WebEngine, from_js, to_js};
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

    /// Compares logits with `expected`, then times the model and its adapter; `options` are [`BenchOptions`],
    /// `on_progress` hears what is being done. Gives a [`BenchReport`](crate::engine::bench::BenchReport).
    ///
    /// # Errors
    /// A JavaScript `Error` with a `code`; what `on_progress` throws, if it does.
    pub async fn bench(
        &self,
        expected: Vec<f32>,
        options: JsValue,
        on_progress: Function,
        signal: AbortSignal,
    ) -> Result<JsValue, JsValue> {
        let options: BenchOptions = from_js("bench options", options)?;
        let mut engine = self.take()?;
        let report = Callback::new(on_progress);
        let result = engine
            .bench(&expected, options, &mut |what| report.call(&what), &|| {
                signal.aborted() || report.has_thrown()
            })
            .await;
        self.put_back(engine);
        report.rethrow()?;
        to_js(&result.map_err(from_engine)?)
    }
}
