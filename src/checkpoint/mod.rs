//! Bytes to tensors: safetensors checkpoints, streamed. No GPU, no web.
//!
//! ```text
//! source    ByteSource, the one door to the outside
//! transport single requests that may fail; answer: what comes of them; retry: when to ask again
//! line      the line to one server; lane: one range of a file on its way over it
//! steady    a ByteSource over a transport: several lanes at once, in order
//! header    one file's header -> TensorInfo
//! index     tensor -> file
//! stream    push parser: bytes -> chunks of whole rows
//! foreign   what lies there instead of a checkpoint
//! manifest  a whole checkpoint, and the streams over it
//! hash      SHA-256 of a file while it streams
//! scales    which FP8 format this is: weight -> scale
//! sink      where files are written to
//! writer    the inverse: tensors -> files and index
//! storage   files that are kept, written in place
//! pack      records in such a file, each with a checksum
//! journal   how much of a pack is durable
//! ```

pub mod source;
pub mod answer;
pub mod retry;
pub mod transport;
mod line;
mod lane;
pub mod steady;
pub mod error;
mod unique;
pub mod hash;
pub mod header;
pub mod index;
pub mod stream;
pub mod foreign;
pub mod manifest;
pub mod scales;
pub mod sink;
pub mod writer;
pub mod storage;
pub mod pack;
pub mod journal;

pub use error::CheckpointError;
pub use header::{Header, TensorInfo};
pub use manifest::{Manifest, Shard, ShardStream};
pub use source::{ByteSource, ByteStream, Opened, SourceError};
pub use stream::{Event, StreamParser, TensorChunk};
