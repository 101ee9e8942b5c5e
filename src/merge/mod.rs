//! Merging checkpoints: mergekit recipes, tensor by tensor, chunk by chunk.
//!
//! ```text
//! recipe    mergekit YAML -> Recipe; every rejected key named with its place
//! schedule  gradients and filters -> the value of a parameter for one tensor
//! parent    a checkpoint that is read, checked before any weight is fetched
//! layout    which source layers make which output layers, document by document
//! tensor    one output tensor as a graph of parents' tensors
//! plan      recipe and headers -> the graph of every output tensor
//! slerp     the arithmetic: sums, coefficients, combination
//! bulk      its loops over BF16, natively (with FMA where there is one) and in wasm SIMD
//! feed      neighbouring tensors of a parent over one connection
//! ahead     tensors that are fetched while others are computed
//! leaf      a parent's tensor as runs of bytes or f32
//! evaluate  one output tensor, pass by pass, chunk by chunk
//! on_gpu    the same on a GPU
//! files     the result's files that are not weights
//! same_tokenizer  whether two models have one
//! merged    Merge: the result as a place to read a checkpoint from
//! shard     one weight file of it, computed while it is read
//! write     all of it, out to a place that takes files
//! report    what was done to each tensor
//! tell      how that comes into it
//! ```

mod ahead;
mod bulk;
mod error;
mod evaluate;
mod feed;
mod files;
mod layout;
mod leaf;
mod merged;
mod on_gpu;
mod parent;
mod plan;
pub mod recipe;
pub mod report;
mod same_tokenizer;
pub mod schedule;
mod shard;
pub mod slerp;
mod tell;
mod tensor;
mod write;

pub use error::MergeError;
pub use merged::{Arithmetic, Merge, MergeOptions, MergedStream, OnTensor};
pub use parent::Parent;
pub use recipe::{Document, Layout, Method, ModelRef, Recipe, Slice, Source};
pub use report::{MergeReport, TensorReport};
pub use write::WriteProgress;
