//! What can be wrong with a merge.

use crate::checkpoint::{CheckpointError, SourceError};
use crate::gpu::GpuError;
use crate::model::ModelError;

/// A merge that cannot be done as it stands.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The recipe.
    #[error("{place}: {message}")]
    Recipe {
        /// Where: line, column and key path, such as `line 4: slices[0].sources[1].layer_range`.
        place: String,
        /// What is wrong there and what would be right.
        message: String,
    },
    /// One of the sources' files.
    #[error("{model}: {error}")]
    Source {
        /// The model as the recipe names it.
        model: String,
        /// What is wrong with it.
        error: Box<ModelError>,
    },
    /// The device, where the caller insisted on one.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The output, or anything that is no source's fault.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl From<SourceError> for MergeError {
    fn from(error: SourceError) -> Self {
        MergeError::Checkpoint(error.into())
    }
}
