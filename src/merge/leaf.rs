//! A parent's tensor as runs of f32, read once where its bytes may be kept, else once per pass.

use std::ops::Range;
use std::rc::Rc;

use self::scales::BlockScales;
use super::parent::Parent;
use crate::checkpoint::source::read_all;
use crate::checkpoint::{ByteSource, CheckpointError, Manifest, ShardStream, SourceError, TensorInfo};
use crate::dtype::{Dtype, find_non_finite, widen};

mod scales;
mod wide;

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

/// Largest scale tensor that is read, bytes: one per row or block is far less, and all of it is kept.
const SCALES_LIMIT_BYTES: u64 = 16 << 20;

/// Where the bytes come from.
enum Input<S: ByteSource> {
    Stream(Box<ShardStream<S, Box<dyn Fn() -> bool>>>),
    /// Short ranges, fetched whole one after the other; the next one begins at this byte of the tensor.
    Windows(u64),
    Kept(usize),
    Closed,
}

/// Takes the bytes of whole elements, and whether they are still to be checked.
type Take<'a, S> = dyn FnMut(&LeafReader<S>, &[u8], bool) -> Result<(), CheckpointError> + 'a;

/// One tensor of one parent.
pub(super) struct LeafReader<S: ByteSource> {
    /// The parent's name.
    parent: String,
    source: S,
    manifest: Rc<Manifest>,
    cancelled: Cancelled,
    info: TensorInfo,
    file: String,
    scales: Option<BlockScales>,
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
                    Some(BlockScales::new(weight.granularity, info.rows(), cols, values)?)
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
        out.clear();
        let read = self.each_run(count, &mut |reader, bytes, check| reader.take(bytes, check, out)).await;
        read.map_err(|error| self.name_parent(error))?;
        if let Some(scales) = &self.scales {
            scales.apply(self.element, out);
        }
        self.element += count as u64;
        Ok(())
    }

    fn name_parent(&self, error: CheckpointError) -> CheckpointError {
        match error {
            CheckpointError::Source(SourceError::Aborted) => error,
            other => SourceError::Parent { model: self.parent.clone(), error: other.into() }.into(),
        }
    }

    /// Passes the bytes of the next `count` elements on in runs of whole ones, each with whether they
    /// are still to be checked.
    async fn each_run(&mut self, count: usize, take: &mut Take<'_, S>) -> Result<(), CheckpointError> {
        let size = self.info.dtype.size_bytes() as usize;
        let mut wanted = count * size;
        while wanted > 0 {
            if let Input::Kept(at) = &mut self.input {
                let bytes = self.kept.as_deref().unwrap_or_default().get(*at..*at + wanted);
                *at += wanted;
                // Checked when it was read first.
                take(self, bytes.unwrap_or_default(), false)?;
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
            take(self, bytes, true)?;
            if let Some(kept) = &mut self.kept {
                kept.extend_from_slice(bytes);
            }
            self.piece = piece;
            self.taken += whole;
            wanted -= whole;
        }
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
            return Err(self.not_finite(self.element + (out.len() + index) as u64));
        }
        widen(dtype, bytes, out).map_err(failed)
    }

    fn not_finite(&self, element: u64) -> CheckpointError {
        let (file, tensor, dtype) = (self.file.clone(), self.info.name.clone(), self.info.dtype);
        CheckpointError::NotFinite { file, tensor, dtype, element }
    }
}
