//! A parent's tensor as runs of f32, read once where its bytes may be kept, else once per pass.

use std::ops::Range;
use std::rc::Rc;

use super::parent::Parent;
use crate::checkpoint::scales::expand;
use crate::checkpoint::source::read_all;
use crate::checkpoint::{ByteSource, CheckpointError, Manifest, ShardStream, SourceError, TensorInfo};
use crate::dtype::{Dtype, find_non_finite, widen};

/// Bytes that are fetched at once where so many tensors are read together that a connection for each
/// would be too many: browsers allow six to one host, and a seventh waits for ever.
const WINDOW_BYTES: u64 = 1 << 20;

/// How a tensor's bytes are fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    /// Whether to keep them for the next pass.
    pub(super) keep: bool,
    /// Whether to fetch short ranges instead of holding a connection open.
    pub(super) windows: bool,
}

/// Whether the caller has stopped the merge.
pub(super) type Cancelled = Rc<dyn Fn() -> bool>;

/// Largest scale tensor that is read, bytes.
const SCALES_LIMIT_BYTES: u64 = 64 << 20;

/// The scales of an FP8 tensor.
struct RowScales {
    /// Neighbouring columns that share one.
    scale_cols: usize,
    /// `(rows, ceil(cols / scale_cols))`
    values: Vec<f32>,
    cols: usize,
}

/// Where the bytes come from.
enum Input<S: ByteSource> {
    Stream(Box<ShardStream<S, Box<dyn Fn() -> bool>>>),
    /// Short ranges, fetched whole one after the other; the next one begins at this byte of the tensor.
    Windows(u64),
    Kept(usize),
    Closed,
}

/// One tensor of one parent.
pub(super) struct LeafReader<S: ByteSource> {
    /// The parent's name.
    parent: String,
    source: S,
    manifest: Rc<Manifest>,
    cancelled: Cancelled,
    info: TensorInfo,
    file: String,
    scales: Option<RowScales>,
    input: Input<S>,
    windows: bool,
    /// All bytes, gathered in the first pass, if there is room for them.
    kept: Option<Vec<u8>>,
    /// What came and was not taken yet, from `taken` on.
    piece: Vec<u8>,
    taken: usize,
    /// Elements that were passed on in this pass.
    element: u64,
}

impl<S: ByteSource + Clone> LeafReader<S> {
    /// A reader of the tensor.
    pub(super) async fn open(
        parent: &Parent<S>,
        tensor: &str,
        fetch: Fetch,
        cancelled: Cancelled,
    ) -> Result<LeafReader<S>, CheckpointError> {
        let unknown = || CheckpointError::UnknownTensor { tensor: tensor.to_owned() };
        let (shard, info) = parent.manifest.get(tensor).ok_or_else(unknown)?;
        let (file, info) = (shard.file.clone(), info.clone());
        let scales = match parent.scales.weights.get(tensor) {
            Some(weight) => match &weight.scale {
                None => None, // A raw cast: every value stands for itself.
                Some(name) => {
                    let (manifest, source) = (&parent.manifest, &parent.source);
                    let values = manifest.read_f32(source, name, SCALES_LIMIT_BYTES, &*cancelled).await?;
                    let cols = info.shape.last().copied().unwrap_or(1);
                    let (scale_cols, values) = expand(weight.granularity, info.rows(), cols, &values)?;
                    Some(RowScales { scale_cols: scale_cols.max(1) as usize, values, cols: cols as usize })
                }
            },
            None => None,
        };
        Ok(LeafReader {
            parent: parent.name.to_string(),
            source: parent.source.clone(),
            manifest: parent.manifest.clone(),
            cancelled,
            windows: fetch.windows,
            kept: fetch.keep.then(|| Vec::with_capacity(info.bytes() as usize)),
            info,
            file,
            scales,
            input: Input::Closed,
            piece: Vec::new(),
            taken: 0,
            element: 0,
        })
    }

    /// Precision of the values: FP8 ones are scaled, and need more than their own.
    pub(super) fn dtype(&self) -> Dtype {
        if self.scales.is_some() { Dtype::F32 } else { self.info.dtype }
    }

    /// Goes back to the first element.
    pub(super) async fn rewind(&mut self) -> Result<(), CheckpointError> {
        (self.piece, self.taken, self.element) = (Vec::new(), 0, 0);
        let complete = |kept: &Vec<u8>| kept.len() as u64 == self.info.bytes();
        if self.kept.as_ref().is_some_and(complete) {
            self.input = Input::Kept(0);
            return Ok(());
        }
        if let Some(kept) = &mut self.kept {
            kept.clear(); // What a pass that ended early left there.
        }
        if self.windows {
            self.input = Input::Windows(0);
            return Ok(());
        }
        let unknown = || CheckpointError::UnknownTensor { tensor: self.info.name.clone() };
        let (shard, position) = self.manifest.find(&self.info.name).ok_or_else(unknown)?;
        let cancelled = self.cancelled.clone();
        let cancelled: Box<dyn Fn() -> bool> = Box::new(move || cancelled());
        let stream = ShardStream::open(&self.source, shard, position..position + 1, cancelled);
        self.input = Input::Stream(Box::new(stream.await?));
        Ok(())
    }

    /// Ends the pass: a connection that nobody reads from is closed.
    pub(super) fn close(&mut self) {
        self.input = Input::Closed;
        self.piece = Vec::new();
    }

    /// Replaces `out` by the next `count` values. Errors name the parent: files of several are often
    /// named alike.
    pub(super) async fn read(&mut self, count: usize, out: &mut Vec<f32>) -> Result<(), CheckpointError> {
        self.read_values(count, out).await.map_err(|error| match error {
            CheckpointError::Source(SourceError::Aborted) => error,
            other => SourceError::Parent { model: self.parent.clone(), error: other.into() }.into(),
        })
    }

    async fn read_values(&mut self, count: usize, out: &mut Vec<f32>) -> Result<(), CheckpointError> {
        out.clear();
        let size = self.info.dtype.size_bytes() as usize;
        let mut wanted = count * size;
        while wanted > 0 {
            if let Input::Kept(at) = &mut self.input {
                let bytes = self.kept.as_deref().unwrap_or_default().get(*at..*at + wanted);
                *at += wanted;
                // Checked when it was read first.
                self.take(bytes.unwrap_or_default(), false, out)?;
                break;
            }
            let available = self.piece.len() - self.taken;
            let whole = available.min(wanted) / size * size;
            if whole == 0 {
                self.refill().await?;
                continue;
            }
            let piece = std::mem::take(&mut self.piece);
            let bytes = piece.get(self.taken..self.taken + whole).unwrap_or_default();
            self.take(bytes, true, out)?;
            if let Some(kept) = &mut self.kept {
                kept.extend_from_slice(bytes);
            }
            self.piece = piece;
            self.taken += whole;
            wanted -= whole;
        }
        self.scale(out);
        self.element += count as u64;
        Ok(())
    }

    /// Fetches more; what is left of the last piece is part of an element.
    async fn refill(&mut self) -> Result<(), CheckpointError> {
        self.piece.drain(..self.taken.min(self.piece.len()));
        self.taken = 0;
        let next = match &mut self.input {
            Input::Stream(stream) => stream.next_piece().await?,
            Input::Windows(at) => {
                let begin = *at;
                *at = (begin + WINDOW_BYTES).min(self.info.bytes());
                let window = begin..*at;
                if window.is_empty() { None } else { Some(self.window(window).await?) }
            }
            _ => None,
        };
        match next {
            Some(next) if self.piece.is_empty() => self.piece = next,
            Some(next) => self.piece.extend_from_slice(&next),
            None => {
                let (bytes, expected) = (self.element * self.info.dtype.size_bytes(), self.info.bytes());
                return Err(CheckpointError::Truncated { file: self.file.clone(), bytes, expected });
            }
        }
        Ok(())
    }

    /// Fetches a range of the tensor, whole.
    async fn window(&self, window: Range<u64>) -> Result<Vec<u8>, CheckpointError> {
        if (self.cancelled)() {
            return Err(SourceError::Aborted.into());
        }
        let unknown = || CheckpointError::UnknownTensor { tensor: self.info.name.clone() };
        let (shard, _) = self.manifest.get(&self.info.name).ok_or_else(unknown)?;
        let start = shard.header.data_start + self.info.begin;
        let (range, length) = (start + window.start..start + window.end, window.end - window.start);
        let bytes = read_all(&self.source, &self.file, Some(range.clone()), length).await?;
        if bytes.len() as u64 != length {
            let (file, offset) = (self.file.clone(), range.start + bytes.len() as u64);
            return Err(SourceError::Cut { file, offset, expected: range.end }.into());
        }
        Ok(bytes)
    }

    fn take(&self, bytes: &[u8], check: bool, out: &mut Vec<f32>) -> Result<(), CheckpointError> {
        let (file, tensor, dtype) = (&self.file, &self.info.name, self.info.dtype);
        let failed = |source| CheckpointError::Values { file: file.clone(), tensor: tensor.clone(), source };
        if check && let Some(index) = find_non_finite(dtype, bytes).map_err(failed)? {
            let element = self.element + (out.len() + index) as u64;
            return Err(CheckpointError::NotFinite {
                file: file.clone(),
                tensor: tensor.clone(),
                dtype,
                element,
            });
        }
        widen(dtype, bytes, out).map_err(failed)
    }

    fn scale(&self, values: &mut [f32]) {
        let Some(RowScales { scale_cols, values: scales, cols }) = &self.scales else { return };
        let per_row = cols.div_ceil(*scale_cols);
        // At most the tensor's rows times scales per row, which were read into memory.
        let (mut row, mut col) =
            ((self.element / *cols as u64) as usize, (self.element % *cols as u64) as usize);
        let mut rest = values;
        while !rest.is_empty() {
            let run = (scale_cols - col % scale_cols).min(cols - col).min(rest.len());
            let (now, later) = rest.split_at_mut(run);
            let scale = scales.get(row * per_row + col / scale_cols).copied().unwrap_or(1.0);
            now.iter_mut().for_each(|value| *value *= scale);
            rest = later;
            col += run;
            if col == *cols {
                (row, col) = (row + 1, 0);
            }
        }
    }
}
