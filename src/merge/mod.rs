//! Merging checkpoints: mergekit recipes, tensor by tensor, chunk by chunk.
//!
//! ```text
//! recipe    mergekit YAML -> Recipe; every rejected key named with its place
//! schedule  gradients and filters -> the value of a parameter for one tensor
//! ```

mod error;
pub mod recipe;
pub mod schedule;

pub use error::MergeError;
pub use recipe::{Document, Layout, Method, ModelRef, Recipe, Slice, Source};
