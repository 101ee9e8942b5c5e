//! A merge out to a place that takes files.

use super::{Merge, MergeError};
use crate::checkpoint::sink::ByteSink;
use crate::checkpoint::source::read_all;
use crate::checkpoint::{ByteSource, ByteStream, CheckpointError, SourceError};

/// Largest side file that is copied, bytes.
const LIMIT_BYTES: u64 = 64 << 20;

/// How far a merge is.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteProgress {
    /// The file being written.
    pub file: String,
    /// Bytes of weight files that were written.
    pub done: u64,
    /// Bytes of all weight files.
    pub total: u64,
}

impl<S: ByteSource + Clone + 'static> Merge<S> {
    /// Computes everything and writes it; last what makes the directory a checkpoint, so that one
    /// that was interrupted is none.
    ///
    /// # Errors
    /// What the parents or the sink meet; [`SourceError::Aborted`] once the caller has stopped it.
    pub async fn write(
        &self,
        sink: &mut impl ByteSink,
        progress: &mut dyn FnMut(&WriteProgress),
    ) -> Result<(), MergeError> {
        let total = self.inner.plan.shards.iter().map(|shard| shard.header.file_bytes()).sum();
        let mut state = WriteProgress { file: String::new(), done: 0, total };
        for file in self.files() {
            if (self.inner.cancelled)() {
                return Err(CheckpointError::from(SourceError::Aborted).into());
            }
            state.file.clone_from(&file);
            progress(&state);
            if let Some(shard) = self.inner.plan.shards.iter().find(|shard| shard.file == file) {
                let mut stream = self.open(&file, None).await?.stream;
                sink.create(&file, shard.header.file_bytes()).await?;
                while let Some(piece) = stream.next().await? {
                    sink.write(&piece).await?;
                    state.done += piece.len() as u64;
                    progress(&state);
                }
            } else {
                let content = match read_all(self, &file, None, LIMIT_BYTES).await {
                    Ok(content) => content,
                    Err(SourceError::NotFound { .. }) => continue,
                    Err(error) => return Err(error.into()),
                };
                sink.create(&file, content.len() as u64).await?;
                sink.write(&content).await?;
            }
            sink.finish().await?;
        }
        Ok(())
    }
}
