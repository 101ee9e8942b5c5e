//! Everything that may fail, and the stable code that callers see.

use super::backend::BackendError;
use crate::checkpoint::{CheckpointError, SourceError};
use crate::cpu::CpuError;
use crate::gpu::GpuError;
use crate::merge::MergeError;
use crate::model::ModelError;
use crate::model::weights::LoadError;
use crate::text::TextError;

/// Failure of a load or a generation.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The caller stopped it.
    #[error("aborted by the caller")]
    Aborted,
    /// No config.json, hence no model.
    #[error("there is no model here: {file} was not found; check the name or address of the model")]
    NoModel {
        /// The file's name or URL.
        file: String,
    },
    /// A request that cannot be carried out as it stands.
    #[error("{0}")]
    BadRequest(String),
    /// The adapter's logits are not those of the reference: nothing that it does is worth timing.
    #[error("the adapter's logits are off the reference's by {0} of the largest: nothing was timed")]
    WrongLogits(f32),
    /// The checkpoint's files.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// The checkpoint's model.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// The device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The CPU backend.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A tokenizer or template file of the checkpoint.
    #[error(transparent)]
    TextFile(TextError),
    /// A merge.
    #[error(transparent)]
    Merge(Box<MergeError>),
    /// Text, messages or sampling options of a request.
    #[error(transparent)]
    Text(#[from] TextError),
}

impl EngineError {
    /// The code that `BiseError` carries.
    pub fn code(&self) -> &'static str {
        match self {
            EngineError::Aborted => "aborted",
            EngineError::NoModel { .. } => "bad-checkpoint",
            EngineError::BadRequest(_) => "bad-request",
            EngineError::WrongLogits(_) => "integrity",
            EngineError::TextFile(TextError::UnsupportedTokenizer { .. }) => "unsupported-model",
            EngineError::TextFile(_) => "bad-checkpoint",
            // Numbers that are not numbers come from weights, not from a request.
            EngineError::Text(TextError::NonFiniteLogits { .. } | TextError::LogitCount { .. }) => {
                "bad-checkpoint"
            }
            EngineError::Text(_) => "bad-request",
            EngineError::Checkpoint(error) => checkpoint_code(error),
            EngineError::Model(error) => model_code(error),
            EngineError::Merge(error) => match &**error {
                MergeError::Recipe { .. } => "bad-recipe",
                MergeError::Source { error, .. } => model_code(error),
                MergeError::Checkpoint(error) => checkpoint_code(error),
                MergeError::Gpu(error) => gpu_code(error),
            },
            EngineError::Gpu(error) => gpu_code(error),
            EngineError::Cpu(CpuError::OutOfMemory { .. } | CpuError::TooLarge { .. }) => "out-of-memory",
            EngineError::Cpu(CpuError::Shape { .. }) => "bad-checkpoint",
        }
    }
}

fn gpu_code(error: &GpuError) -> &'static str {
    match error {
        GpuError::NoAdapter { .. } | GpuError::Software { .. } | GpuError::NoDevice { .. } => "no-webgpu",
        GpuError::Lost { .. } | GpuError::Rejected { .. } => "device-lost",
        GpuError::OutOfMemory { .. } | GpuError::TooLarge { .. } => "out-of-memory",
        GpuError::Shape { .. } => "bad-checkpoint",
    }
}

fn model_code(error: &ModelError) -> &'static str {
    match error {
        ModelError::Unsupported { .. } | ModelError::Dtype { .. } => "unsupported-model",
        ModelError::Checkpoint(error) => checkpoint_code(error),
        _ => "bad-checkpoint",
    }
}

fn checkpoint_code(error: &CheckpointError) -> &'static str {
    match error {
        CheckpointError::Source(error) => source_code(error),
        CheckpointError::NoSpace { .. } => "quota",
        CheckpointError::Integrity { .. } => "integrity",
        // The place to write to was the caller's choice.
        CheckpointError::Write { .. } | CheckpointError::IntegrityFile { .. } => "bad-request",
        // Both parents are sound; what the recipe makes of them is not.
        CheckpointError::Overflow { .. } => "bad-recipe",
        CheckpointError::UnsupportedQuantization { .. } | CheckpointError::OtherFormat { .. } => {
            "unsupported-model"
        }
        _ => "bad-checkpoint",
    }
}

fn source_code(error: &SourceError) -> &'static str {
    match error {
        SourceError::Aborted => "aborted",
        // Files that are missing, unreadable or impossible are the checkpoint's fault wherever they lie.
        SourceError::NotFound { .. } | SourceError::TooLarge { .. } | SourceError::Io { .. } => {
            "bad-checkpoint"
        }
        SourceError::Status { .. }
        | SourceError::WrongRange { .. }
        | SourceError::Cut { .. }
        | SourceError::Network { .. } => "network",
        SourceError::Changed { .. } => "integrity",
        SourceError::GaveUp { error, .. } => source_code(error),
        SourceError::Parent { error, .. } => checkpoint_code(error),
    }
}

impl From<CheckpointError> for EngineError {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Source(SourceError::Aborted) => EngineError::Aborted,
            other => EngineError::Checkpoint(Box::new(other)),
        }
    }
}

impl From<MergeError> for EngineError {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::Checkpoint(error) => error.into(),
            MergeError::Gpu(error) => error.into(),
            other => EngineError::Merge(Box::new(other)),
        }
    }
}

impl From<SourceError> for EngineError {
    fn from(error: SourceError) -> Self {
        CheckpointError::Source(error).into()
    }
}

impl From<ModelError> for EngineError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Checkpoint(error) => error.into(),
            other => EngineError::Model(Box::new(other)),
        }
    }
}

impl From<LoadError<BackendError>> for EngineError {
    fn from(error: LoadError<BackendError>) -> Self {
        match error {
            LoadError::Model(error) => error.into(),
            LoadError::Backend(error) => error.into(),
        }
    }
}
