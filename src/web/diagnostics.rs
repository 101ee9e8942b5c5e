//! What tests ask of the adapter behind a page.

use wasm_bindgen::prelude::*;

use super::error::{bad_request, from_engine};
use crate::dtype::Dtype;
use crate::gpu::{Gpu, GpuOptions, Kernels};
use crate::kernels::decode_fp8;
use crate::kernels::weights::Decoder;

/// What this browser's adapter makes of FP8 codes, whole multiples of 16 of them. `format` is
/// `e4m3` or `e5m2`, `decoder` `fast`, `products` or `safe`.
///
/// # Errors
/// A JavaScript `Error` with a `code`.
#[wasm_bindgen(js_name = decodeFp8)]
pub async fn decode_codes(format: String, decoder: String, codes: Vec<u8>) -> Result<Vec<f32>, JsValue> {
    let dtype = match format.as_str() {
        "e4m3" => Dtype::F8E4m3,
        "e5m2" => Dtype::F8E5m2,
        other => return Err(bad_request(&format!("format is {other:?}, not e4m3 or e5m2"))),
    };
    let decoder = match decoder.as_str() {
        "fast" => Decoder::Fast,
        "safe" => Decoder::Safe,
        "products" => Decoder::Products,
        other => return Err(bad_request(&format!("decoder is {other:?}, not fast, products or safe"))),
    };
    if codes.is_empty() || !codes.len().is_multiple_of(16) {
        return Err(bad_request("the codes must be a multiple of 16"));
    }
    let gpu = Gpu::open(&GpuOptions::default()).await.map_err(|e| from_engine(e.into()))?;
    let mut kernels = Kernels::default();
    decode_fp8::run(&gpu, &mut kernels, dtype, decoder, &codes).await.map_err(|e| from_engine(e.into()))
}
