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
        let mut take = |reader: &Self, bytes: &[u8], _| {
            let first = reader.element + out.len() as u64;
            out.extend(bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)));
            let new = out.get((first - reader.element) as usize..).unwrap_or_default();
            match new.iter().position(|value| !value.is_finite()) {
                None => Ok(()),
                Some(index) => Err(reader.not_finite(first + index as u64)),
            }
        };
        let read = self.each_run(count, &mut take).await;
        read.map_err(|error| self.name_parent(error))?;
        self.element += count as u64;
        Ok(())
    }
}
