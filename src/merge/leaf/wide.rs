//! Tensors of doubles, read as such.

use super::LeafReader;
use crate::checkpoint::{ByteSource, CheckpointError};
use crate::dtype::Dtype;

impl<S: ByteSource + Clone> LeafReader<S> {
    /// Replaces `out` by the next `count` values in f64; `narrow` is scratch.
    pub(in crate::merge) async fn read_wide(
        &mut self,
        count: usize,
        narrow: &mut Vec<f32>,
        out: &mut Vec<f64>,
    ) -> Result<(), CheckpointError> {
        out.clear();
        if self.info.dtype != Dtype::F64 {
            self.read(count, narrow).await?;
            out.extend(narrow.iter().copied().map(f64::from));
            return Ok(());
        }
        while out.len() < count {
            self.fill().await?;
            let before = out.len();
            out.extend(self.doubles().take(count - before));
            self.advance(out.len() - before);
        }
        Ok(())
    }

    /// Refuses what is not finite among the doubles that came.
    pub(super) fn check_doubles(&self) -> Result<(), CheckpointError> {
        match self.doubles().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(index) => Err(self.not_finite(self.element + index as u64)),
        }
    }

    fn doubles(&self) -> impl Iterator<Item = f64> {
        self.available().as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes))
    }
}
