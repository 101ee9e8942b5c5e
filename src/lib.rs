//! bise runs Mistral-family language models in a browser tab.
//!
//! The modules are floors: each one uses only those listed above it, and
//! `tests/structure.rs` enforces that order.
//!
//! ```text
//! dtype       exact scalar codecs: F8_E4M3, F8_E5M2, BF16, F16, F32
//! steps       the interface of a decoder layer's steps; a backend implements it
//! checkpoint  bytes -> tensors (no GPU, no web)
//! gpu         device, buffers, pipelines (knows no kernel and no model)
//! kernels     WGSL and its dispatch: the steps on WebGPU
//! cpu         the steps on the CPU, with SIMD
//! reference   the same steps in plain Rust: the oracle (native builds only)
//! model       config, weights, key/value cache, the decoder
//! merge       recipes, schedules, and merged tensors in chunks
//! text        tokens <-> text: tokenizer, chat template, sampler
//! engine      the loops that tie the floors together
//! web         the only wasm-bindgen code
//! ```

pub mod dtype;
pub mod steps;

pub mod checkpoint;

pub mod gpu;

pub mod kernels;

pub mod cpu;

#[cfg(not(target_arch = "wasm32"))]
pub mod reference;

pub mod model;

pub mod merge;

pub mod text;

pub mod engine;

#[cfg(target_arch = "wasm32")]
pub mod web;
