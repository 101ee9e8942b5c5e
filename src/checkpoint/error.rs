//! Everything that can be wrong with a checkpoint, with names and numbers.

use crate::checkpoint::source::SourceError;
use crate::dtype::{Dtype, DtypeError};

/// Longest safetensors header that is read, and most that all headers of a checkpoint may take
/// together, in bytes. The format's own library reads 100 MB per file; a dense model of 400 billion
/// parameters has about 300 KB in all.
pub const HEADER_LIMIT_BYTES: u64 = 8 << 20;
/// Most tensors of a checkpoint, and most entries of an index.
pub const TENSOR_LIMIT: usize = 100_000;
/// Longest row (last dimension) that is streamed, in bytes: memory is bounded by one row.
pub const ROW_LIMIT_BYTES: u64 = 16 << 20;

/// A checkpoint that cannot be used, or not as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant names its fields")]
pub enum CheckpointError {
    #[error(transparent)]
    Source(#[from] SourceError),

    // The header of one file.
    #[error(
        "{file}: header of {bytes} bytes exceeds the limit of {HEADER_LIMIT_BYTES}; this is no safetensors file"
    )]
    HeaderTooLarge { file: String, bytes: u64 },
    #[error(
        "{file}: with its header of {bytes} bytes, those of the checkpoint exceed {HEADER_LIMIT_BYTES} together; that is no language model"
    )]
    HeadersTooLarge { file: String, bytes: u64 },
    #[error(
        "{file}: with its {tensors} tensors, the checkpoint has more than {TENSOR_LIMIT}; that is no language model"
    )]
    TooManyTensors { file: String, tensors: usize },
    #[error("{file}: ends after {bytes} bytes, inside its header of {expected}; download it again")]
    HeaderTruncated { file: String, bytes: u64, expected: u64 },
    #[error("{file}: header is not UTF-8 at byte {offset}; this is no safetensors file")]
    HeaderNotUtf8 { file: String, offset: u64 },
    #[error("{file}: header does not start with an opening brace; this is no safetensors file")]
    HeaderNotObject { file: String },
    #[error("{file}: header is not valid: {detail}")]
    HeaderJson { file: String, detail: String },
    #[error("{file}: header names {key:?} twice; which of the two is meant cannot be known")]
    DuplicateKey { file: String, key: String },
    #[error("{file}: tensor {tensor} has dtype {dtype}, which bise does not read")]
    UnknownDtype { file: String, tensor: String, dtype: String },
    #[error("{file}: tensor {tensor} of shape {shape:?} is larger than 2^64 bytes")]
    SizeOverflow { file: String, tensor: String, shape: Vec<u64> },
    #[error("{file}: tensor {tensor} ends at {end}, before it begins at {begin}")]
    NegativeSize { file: String, tensor: String, begin: u64, end: u64 },
    #[error("{file}: tensor {tensor} holds {bytes} bytes, but {dtype} of shape {shape:?} needs {expected}")]
    SizeMismatch { file: String, tensor: String, dtype: Dtype, shape: Vec<u64>, bytes: u64, expected: u64 },
    #[error("{file}: tensor {tensor} begins at {begin}, but the data before it ends at {expected}: a hole")]
    Hole { file: String, tensor: String, begin: u64, expected: u64 },
    #[error(
        "{file}: tensor {tensor} begins at {begin}, inside the tensor before it, which ends at {expected}"
    )]
    Overlap { file: String, tensor: String, begin: u64, expected: u64 },

    // The data of one file.
    #[error("{file}: is {bytes} bytes long, but its header describes {expected}; download it again")]
    FileLength { file: String, bytes: u64, expected: u64 },
    #[error("{file}: ends after {bytes} of {expected} bytes; download it again")]
    Truncated { file: String, bytes: u64, expected: u64 },
    #[error("{file}: goes on after its {expected} bytes; download it again")]
    TrailingBytes { file: String, expected: u64 },
    #[error(
        "{file}: tensor {tensor} has rows of {row_bytes} bytes; at most {ROW_LIMIT_BYTES} can be streamed"
    )]
    RowTooLong { file: String, tensor: String, row_bytes: u64 },
    #[error("{file}: parser was used again after a failure")]
    Poisoned { file: String },
    #[error(
        "{file}: tensor {tensor} ({dtype}) holds NaN or infinity at element {element}; the checkpoint is damaged"
    )]
    NotFinite { file: String, tensor: String, dtype: Dtype, element: u64 },
    #[error(
        "{file}: has the SHA-256 {found}, but {origin} {expected}; the file was damaged or exchanged on its way: {advice}"
    )]
    Integrity { file: String, expected: String, found: String, origin: &'static str, advice: &'static str },
    #[error("integrity: there is no weight file {file:?}; this model has {files}")]
    IntegrityFile { file: String, files: String },
    #[error("{file}: tensor {tensor}: {source}")]
    Values { file: String, tensor: String, source: DtypeError },

    #[error("element {element} of the result does not fit {dtype}; choose a dtype with a wider range")]
    Overflow { dtype: Dtype, element: u64 },

    // Several files.
    #[error(
        "no weights found: looked for {looked_for}; other formats (GGUF, pytorch_model.bin, consolidated) are not read"
    )]
    NoWeights { looked_for: String },
    #[error(
        "no model.safetensors and no index of shards here, but {found}: {what}, which bise does not read; {advice}"
    )]
    OtherFormat { found: String, what: &'static str, advice: &'static str },
    #[error("{file}: not a valid index: {detail}")]
    IndexJson { file: String, detail: String },
    #[error("{file}: tensor {tensor} is said to lie in {shard:?}, which is no plain .safetensors file name")]
    IndexShard { file: String, tensor: String, shard: String },
    #[error("tensor {tensor} is listed in the index for {shard}, but no file holds it")]
    MissingTensor { tensor: String, shard: String },
    #[error("tensor {tensor} is listed in the index for {listed}, but lies in {found}")]
    WrongShard { tensor: String, listed: String, found: String },
    #[error("tensor {tensor} lies in {shard}, but the index does not list it")]
    Unlisted { tensor: String, shard: String },
    #[error("tensor {tensor} lies in both {first} and {second}")]
    DuplicateTensor { tensor: String, first: String, second: String },
    #[error("the checkpoint has no tensor {tensor}")]
    UnknownTensor { tensor: String },

    // Quantisation.
    #[error("quantization_config: {key} is {found}, which is not supported; {supported}")]
    UnsupportedQuantization { key: String, found: String, supported: String },
    #[error("quantised tensor {tensor} has no scale: none of {looked_for} exists")]
    MissingScale { tensor: String, looked_for: String },
    #[error(
        "scale {scale} has shape {shape:?}, which does not fit {tensor} of shape {tensor_shape:?}: {expected}"
    )]
    ScaleShape { tensor: String, tensor_shape: Vec<u64>, scale: String, shape: Vec<u64>, expected: String },
    #[error("scale {scale} has dtype {dtype}; scales are F32, F16 or BF16")]
    ScaleDtype { scale: String, dtype: Dtype },
    #[error("{values} scales given where {granularity} of a {rows} x {cols} matrix needs {expected}")]
    ScaleCount { granularity: String, rows: u64, cols: u64, values: u64, expected: u64 },

    // Writing.
    #[error("tensor {tensor} would be written twice, or is named as the format reserves")]
    WriterName { tensor: String },
    #[error("{tensor} is to be written, but {expected} is next")]
    WriterOrder { tensor: String, expected: String },
    #[error("tensor {tensor} got {bytes} bytes where it has {expected}")]
    WriterSize { tensor: String, bytes: u64, expected: u64 },
    #[error("checkpoint is incomplete: {missing} tensors were not written, {tensor} first")]
    WriterIncomplete { tensor: String, missing: u64 },
    #[error("writing {file}: {detail}")]
    Write { file: String, detail: String },
    #[error("writing {file}: no space left ({detail}); free some, or write elsewhere")]
    NoSpace { file: String, detail: String },
}
