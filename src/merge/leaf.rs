//! A parent's tensor as runs of bytes or f32, read once where its bytes may be kept, else once per pass.

use std::ops::Range;
use std::rc::Rc;

use self::scales::BlockScales;
use super::feed::{Feed, Feeds};
use super::parent::Parent;
use super::tensor::Leaf;
use crate::checkpoint::source::read_all;
use crate::checkpoint::{ByteSource, CheckpointError, Manifest, SourceError, TensorInfo};
use crate::dtype::{Dtype, DtypeError, find_non_finite, widen};

mod scales;
mod wide;

/// Bytes that are fetched at once where so many tensors are read together that a connection for each
/// would be too many: browsers allow six to one host, and a seventh waits for ever.
const WINDOW_BYTES: u64 = 1 << 20;

/// How a tensor's bytes are fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    /// How many of them to keep for the next pass.
    pub(super) keep: u64,
    /// Whether to fetch short ranges instead of holding a connection open.
    pub(super) windows: bool,
}

/// Whether the caller has stopped the merge.
pub(super) type Cancelled = Rc<dyn Fn() -> bool>;

/// Largest scale tensor that is read, bytes: one per row or block is far less, and all of it is kept.
const SCALES_LIMIT_BYTES: u64 = 16 << 20;

/// Where the bytes come from.
enum Input {
    Feed,
    /// Short ranges, fetched whole one after the other; the next one begins at this byte of the tensor.
    Windows(u64),
    /// What was kept, from this piece on.
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
    scales: Option<BlockScales>,
    input: Input,
    /// Index of the parent.
    index: usize,
    feed: Option<Feed<S>>,
    /// Bytes that came from it.
    fed: u64,
    /// How many tensors a new one is asked for.
    run: usize,
    windows: bool,
    /// The first bytes as they came in the first pass, in pieces of whole elements: as many as there is
    /// room for.
    kept: Vec<Vec<u8>>,
    kept_bytes: u64,
    kept_limit: u64,
    /// What came last; unless it is one of those kept.
    piece: Vec<u8>,
    /// Bytes of the current piece that were passed on.
    taken: usize,
    /// Elements that were passed on in this pass.
    element: u64,
    /// Bytes of the values that were read last, where somebody wants those as well.
    stored: Option<Vec<u8>>,
}

impl<S: ByteSource + Clone> LeafReader<S> {
    /// A reader of the tensor.
    pub(super) async fn open(
        parents: &[Parent<S>],
        Leaf { parent: index, tensor }: &Leaf,
        fetch: Fetch,
        cancelled: Cancelled,
        feeds: &mut Feeds<'_, S>,
    ) -> Result<LeafReader<S>, CheckpointError> {
        let unknown = || CheckpointError::UnknownTensor { tensor: tensor.to_owned() };
        let parent = parents.get(*index).ok_or_else(unknown)?;
        let (shard, info) = parent.manifest.get(tensor).ok_or_else(unknown)?;
        let (file, info) = (shard.file.clone(), info.clone());
        let position = parent.manifest.find(tensor).map_or(0, |(_, position)| position);
        let feed = feeds.take(*index, shard, position);
        let run = if feed.is_some() || fetch.windows { 1 } else { (feeds.run)(*index) };
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
            kept: Vec::new(),
            kept_bytes: 0,
            kept_limit: fetch.keep,
            info,
            file,
            scales,
            input: Input::Closed,
            index: *index,
            feed,
            fed: 0,
            run,
            piece: Vec::new(),
            taken: 0,
            element: 0,
            stored: None,
        })
    }

    /// From now on keeps the bytes of what was read last.
    pub(super) fn keep_stored(&mut self) {
        self.stored = Some(Vec::new());
    }

    /// Whether it does.
    pub(super) fn keeps_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// The bytes of what was read last, after [`Self::keep_stored`].
    pub(super) fn last_stored(&self) -> &[u8] {
        self.stored.as_deref().unwrap_or_default()
    }

    /// Precision of the values: FP8 ones are scaled, and need more than their own.
    pub(super) fn dtype(&self) -> Dtype {
        if self.scales.is_some() { Dtype::F32 } else { self.info.dtype }
    }

    /// The type of the stored elements, if they are the values themselves.
    pub(super) fn stored(&self) -> Option<Dtype> {
        self.scales.is_none().then_some(self.info.dtype)
    }

    /// The scales of rows that have one each; 1 where there are no scales.
    pub(super) fn row_scales(&self, rows: Range<u64>) -> impl Iterator<Item = f32> {
        rows.map(|row| self.scales.as_ref().map_or(1.0, |scales| scales.of_row(row)))
    }

    /// Goes back to the first element.
    pub(super) async fn rewind(&mut self) -> Result<(), CheckpointError> {
        self.keep_piece();
        (self.piece, self.taken, self.element) = (Vec::new(), 0, 0);
        if !self.kept.is_empty() {
            self.input = Input::Kept(0);
            return Ok(());
        }
        self.fetch().await
    }

    /// Fetches what is not kept.
    async fn fetch(&mut self) -> Result<(), CheckpointError> {
        if self.windows {
            self.input = Input::Windows(self.kept_bytes);
            return Ok(());
        }
        self.input = Input::Feed;
        // One that was not read from yet, or no further than is kept, has the rest before it.
        if self.feed.is_none() || self.fed != self.kept_bytes {
            let unknown = || CheckpointError::UnknownTensor { tensor: self.info.name.clone() };
            let (shard, position) = self.manifest.find(&self.info.name).ok_or_else(unknown)?;
            let run = std::mem::replace(&mut self.run, 1);
            let (place, from) = ((self.index, shard), (position, self.kept_bytes));
            let feed = Feed::open(&self.source, place, from, run, self.cancelled.clone());
            self.feed = Some(feed.await?);
        }
        self.fed = self.kept_bytes;
        Ok(())
    }

    /// Whether all bytes are in memory.
    pub(super) fn is_kept(&self) -> bool {
        self.kept_bytes == self.info.bytes()
    }

    /// The connection, where it goes on into the next tensor and this one needs it no more.
    pub(super) fn take_feed(&mut self) -> Option<Feed<S>> {
        let is_done = self.is_kept() && self.fed == self.info.bytes();
        if is_done { self.feed.take()?.after() } else { None }
    }

    /// The connection, where it goes on into the next tensor.
    pub(super) fn into_feed(self) -> Option<Feed<S>> {
        self.feed.filter(|_| self.fed == self.info.bytes())?.after()
    }

    /// Ends the pass: a connection that nobody reads from is closed.
    pub(super) fn close(&mut self) {
        self.input = Input::Closed;
        self.piece = Vec::new();
        // One at the tensor's beginning or end is still of use.
        self.feed = self.feed.take().filter(|_| self.fed == 0 || self.fed == self.info.bytes());
    }

    /// Replaces `out` by the next `count` values.
    pub(super) async fn read(&mut self, count: usize, out: &mut Vec<f32>) -> Result<(), CheckpointError> {
        out.clear();
        let mut stored = self.stored.take();
        stored.iter_mut().for_each(Vec::clear);
        let size = self.info.dtype.size_bytes() as usize;
        let begin = self.element;
        while out.len() < count {
            self.fill().await?;
            let available = self.available();
            let bytes = available.get(..available.len().min((count - out.len()) * size)).unwrap_or_default();
            let taken = bytes.len() / size;
            // Doubles are looked at again: as f32 some of them are not finite.
            let checked = if self.info.dtype == Dtype::F64 { self.check(bytes) } else { Ok(()) };
            let widened =
                checked.and_then(|()| widen(self.info.dtype, bytes, out).map_err(|error| self.failed(error)));
            widened.map_err(|error| self.named(error))?;
            stored.iter_mut().for_each(|stored| stored.extend_from_slice(bytes));
            self.advance(taken);
        }
        self.stored = stored;
        if let Some(scales) = &self.scales {
            scales.apply(begin, out);
        }
        Ok(())
    }

    /// Stored elements that lie ready, all of them finite; [`Self::fill`] goes before.
    pub(super) fn available(&self) -> &[u8] {
        let piece = match self.input {
            Input::Kept(index) => self.kept.get(index),
            _ => Some(&self.piece),
        };
        let rest = piece.and_then(|piece| piece.get(self.taken..)).unwrap_or_default();
        let size = self.info.dtype.size_bytes() as usize;
        rest.get(..rest.len() / size * size).unwrap_or_default()
    }

    /// Passes over that many of the available elements.
    pub(super) fn advance(&mut self, count: usize) {
        self.taken += count * self.info.dtype.size_bytes() as usize;
        self.element += count as u64;
    }

    /// Sees to it that elements are available. Errors name the parent: files of several are often
    /// named alike.
    pub(super) async fn fill(&mut self) -> Result<(), CheckpointError> {
        while self.available().is_empty() {
            self.refill().await.map_err(|error| self.named(error))?;
        }
        Ok(())
    }

    /// Fetches the whole tensor, if all of it is kept, over its connection.
    pub(super) async fn gather(&mut self) -> Result<(), CheckpointError> {
        if self.kept_limit < self.info.bytes() || !matches!(self.input, Input::Feed) {
            return Ok(());
        }
        let size = self.info.dtype.size_bytes();
        while self.element * size < self.info.bytes() {
            self.fill().await?;
            self.advance(self.available().len() / size as usize);
        }
        self.rewind().await
    }

    fn named(&self, error: CheckpointError) -> CheckpointError {
        match error {
            CheckpointError::Source(SourceError::Aborted) => error,
            other => SourceError::Parent { model: self.parent.clone(), error: other.into() }.into(),
        }
    }

    /// Puts a piece that was passed on aside for the next pass, and takes its part of an element out.
    fn keep_piece(&mut self) -> Vec<u8> {
        let mut piece = std::mem::take(&mut self.piece);
        let rest = piece.split_off(self.taken.min(piece.len()));
        let (bytes, end) = (piece.len() as u64, self.element * self.info.dtype.size_bytes());
        let follows = self.kept_bytes + bytes == end && !piece.is_empty();
        if follows && end <= self.kept_limit {
            self.kept.push(piece);
            self.kept_bytes = end;
        }
        self.taken = 0;
        rest
    }

    /// Fetches more; what is left of the last piece is part of an element.
    async fn refill(&mut self) -> Result<(), CheckpointError> {
        if let Input::Kept(index) = &mut self.input {
            (*index, self.taken) = (*index + 1, 0);
            if self.kept.len() > *index {
                return Ok(());
            }
            if self.kept_bytes == self.info.bytes() {
                return Err(self.truncated());
            }
            self.fetch().await?;
        }
        let mut piece = self.keep_piece();
        let next = match &mut self.input {
            Input::Feed => match &mut self.feed {
                Some(feed) if self.fed < self.info.bytes() => {
                    let next = feed.next_piece(self.info.bytes() - self.fed).await?;
                    self.fed += next.as_ref().map_or(0, |next| next.len() as u64);
                    next
                }
                _ => None,
            },
            Input::Windows(at) => {
                let begin = *at;
                *at = (begin + WINDOW_BYTES).min(self.info.bytes());
                let window = begin..*at;
                if window.is_empty() { None } else { Some(self.window(window).await?) }
            }
            _ => None,
        };
        let Some(next) = next else { return Err(self.truncated()) };
        if piece.is_empty() {
            piece = next;
        } else {
            piece.extend_from_slice(&next);
        }
        self.piece = piece;
        if self.info.dtype == Dtype::F64 {
            return self.check_doubles();
        }
        self.check(self.available())
    }

    fn truncated(&self) -> CheckpointError {
        let (bytes, expected) = (self.element * self.info.dtype.size_bytes(), self.info.bytes());
        CheckpointError::Truncated { file: self.file.clone(), bytes, expected }
    }

    fn failed(&self, source: DtypeError) -> CheckpointError {
        CheckpointError::Values { file: self.file.clone(), tensor: self.info.name.clone(), source }
    }

    /// Refuses what is not finite, as f32, among the next elements.
    fn check(&self, bytes: &[u8]) -> Result<(), CheckpointError> {
        match find_non_finite(self.info.dtype, bytes).map_err(|source| self.failed(source))? {
            None => Ok(()),
            Some(index) => Err(self.not_finite(self.element + index as u64)),
        }
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

    fn not_finite(&self, element: u64) -> CheckpointError {
        let (file, tensor, dtype) = (self.file.clone(), self.info.name.clone(), self.info.dtype);
        CheckpointError::NotFinite { file, tensor, dtype, element }
    }
}
