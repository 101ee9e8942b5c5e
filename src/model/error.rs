//! What a checkpoint may get wrong about its model.

use crate::checkpoint::CheckpointError;

/// A model that cannot be run, or not as described.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A side file is not what it should be.
    #[error("{file}: {detail}")]
    BadFile {
        /// Its name.
        file: &'static str,
        /// What is wrong, and where.
        detail: String,
    },
    /// A setting that this decoder does not implement.
    #[error("{file}: {key} = {value} is not supported; {supported}")]
    Unsupported {
        /// The file.
        file: &'static str,
        /// Key path.
        key: String,
        /// Its value.
        value: String,
        /// What would be.
        supported: &'static str,
    },
    /// Tensors that do not fit the configuration, all of them together.
    #[error("the tensors do not fit config.json: {}", problems.join("; "))]
    Tensors {
        /// One line each.
        problems: Vec<String>,
    },
    /// A data type that the decoder cannot use.
    #[error(
        "tensor {tensor} has dtype {dtype}; weights must be F32, F16, BF16, F8_E4M3 or F8_E5M2 (packed integers and 4-bit floats are not read)"
    )]
    Dtype {
        /// Name.
        tensor: String,
        /// Its dtype.
        dtype: &'static str,
    },
    /// The checkpoint's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
