//! Neighbouring tensors of a parent over one connection: asking for a small tensor takes longer than
//! its bytes do.

use std::rc::Rc;

use super::evaluate::is_read_once;
use super::leaf::Cancelled;
use super::merged::Inner;
use super::tensor::TensorPlan;
use crate::checkpoint::writer::PlannedShard;
use crate::checkpoint::{ByteSource, CheckpointError, Shard, ShardStream};

/// A connection to a parent's file, at the first byte of a tensor.
pub(super) struct Feed<S: ByteSource> {
    parent: usize,
    file: String,
    /// Positions in the file of that tensor, and after the last.
    next: usize,
    end: usize,
    stream: ShardStream<S, Box<dyn Fn() -> bool>>,
    /// Bytes that came along with the tensor before.
    rest: Vec<u8>,
}

impl<S: ByteSource> Feed<S> {
    /// Opens `count` tensors from `next` on, of which the first lacks the first `offset` bytes.
    pub(super) async fn open(
        source: &S,
        (parent, shard): (usize, &Shard),
        (next, offset): (usize, u64),
        count: usize,
        cancelled: Cancelled,
    ) -> Result<Feed<S>, CheckpointError> {
        let cancelled: Box<dyn Fn() -> bool> = Box::new(move || cancelled());
        let end = next + count;
        let stream = ShardStream::open_at(source, shard, next..end, offset, cancelled).await?;
        Ok(Feed { parent, file: shard.file.clone(), next, end, stream, rest: Vec::new() })
    }

    /// More bytes of the tensor, which lacks `missing` of them.
    pub(super) async fn next_piece(&mut self, missing: u64) -> Result<Option<Vec<u8>>, CheckpointError> {
        let mut piece = std::mem::take(&mut self.rest);
        if piece.is_empty() {
            match self.stream.next_piece().await? {
                Some(next) => piece = next,
                None => return Ok(None),
            }
        }
        if piece.len() as u64 > missing {
            // Less than a piece in memory, so it fits usize.
            self.rest = piece.split_off(missing as usize);
        }
        Ok(Some(piece))
    }

    /// What remains once the tensor is complete.
    pub(super) fn after(mut self) -> Option<Feed<S>> {
        self.next += 1;
        (self.next < self.end).then_some(self)
    }
}

/// The connections that the last tensor left at this one, and how far new ones are to go.
pub(super) struct Feeds<'a, S: ByteSource> {
    /// What is not taken is closed: nobody would read from it.
    pub(super) open: Vec<Feed<S>>,
    /// Those that this tensor leaves at the next one.
    pub(super) next: &'a mut Vec<Feed<S>>,
    /// For the index of a parent, how many of its tensors to ask for.
    pub(super) run: &'a dyn Fn(usize) -> usize,
}

impl<S: ByteSource> Feeds<'_, S> {
    /// The connection that is at this tensor, if there is one.
    pub(super) fn take(&mut self, parent: usize, shard: &Shard, position: usize) -> Option<Feed<S>> {
        let is_there =
            |feed: &Feed<S>| feed.parent == parent && feed.next == position && feed.file == shard.file;
        let index = self.open.iter().position(is_there)?;
        Some(self.open.swap_remove(index))
    }
}

/// How many neighbouring tensors of a parent the result's tensors from `position` on read one after
/// the other, each once: at least 1. `end` is the byte of the data that is not wanted any more.
pub(super) fn run<S>(
    inner: &Inner<S>,
    shard: &PlannedShard,
    position: usize,
    end: u64,
    parent: usize,
) -> usize {
    let Some(manifest) = inner.parents.get(parent).map(|parent| &parent.manifest) else { return 1 };
    let mut place: Option<(&Shard, usize)> = None;
    let mut count = 0;
    for info in shard.header.tensors.iter().skip(position).take_while(|info| info.begin < end) {
        let kept_bytes = inner.options.kept_bytes;
        let once = |plan: &&Rc<TensorPlan>| is_read_once(plan, &inner.parents, kept_bytes);
        let Some(plan) = inner.tensors.get(&info.name).filter(once) else { break };
        let mut leaves = plan.leaves.iter().filter(|leaf| leaf.parent == parent);
        let (Some(leaf), None) = (leaves.next(), leaves.next()) else { break };
        let Some((file, at)) = manifest.find(&leaf.tensor) else { break };
        if place.is_some_and(|(before, next)| before.file != file.file || next != at) {
            break;
        }
        place = Some((file, at + 1));
        count += 1;
    }
    count.max(1)
}
