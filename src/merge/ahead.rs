//! Tensors that are fetched while others are computed. Otherwise the processor would wait for the network,
//! and then the network for the processor.
//!
//! ```text
//! computed     | tensor 0 | tensor 1      | 2 | ...
//! fetched   0 | 1 | 2 | 3      | 4   ...
//! ```

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::evaluate::{Evaluation, bytes_of_leaves, is_read_once};
use super::feed::{self, Feed, Feeds};
use super::merged::Inner;
use super::tensor::TensorPlan;
use crate::checkpoint::{ByteSource, CheckpointError};

type Fetched<S> = Result<Box<Evaluation<S>>, CheckpointError>;

/// A range of one weight file, as far as it is fetched ahead.
pub(super) struct Ahead<S: ByteSource> {
    inner: Rc<Inner<S>>,
    shard: usize,
    /// The byte of the file's data that is not wanted any more.
    end: u64,
    /// Position of the first of those that are ready; more are behind it.
    first: usize,
    ready: VecDeque<Fetched<S>>,
    opening: Option<Pin<Box<dyn Future<Output = Fetched<S>>>>>,
    /// What these and the tensor that is computed now hold in memory.
    held_bytes: u64,
    /// Whether nothing may be asked for: the connections are not at the next tensor yet.
    blocked: bool,
    /// Connections to parents, each at the first byte of a tensor that comes next.
    pub(super) feeds: Vec<Feed<S>>,
}

impl<S: ByteSource + Clone + 'static> Ahead<S> {
    /// Of the file at that index, up to the byte `end` of its data.
    pub(super) fn new(inner: Rc<Inner<S>>, shard: usize, end: u64) -> Ahead<S> {
        let (ready, feeds) = Default::default();
        Ahead { inner, shard, end, first: 0, ready, opening: None, held_bytes: 0, blocked: true, feeds }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        (self.opening, self.held_bytes, self.blocked) = (None, 0, true);
        self.ready.clear();
        self.feeds.clear();
    }

    /// The tensor at that position, if it was asked for; it counts until [`Self::done`] says that it is
    /// computed. `None`: whoever computes it opens it, and says so with [`Self::going_on_behind`].
    pub(super) async fn take(&mut self, position: usize) -> Option<Fetched<S>> {
        if position != self.first || (self.ready.is_empty() && self.opening.is_none()) {
            let feeds = std::mem::take(&mut self.feeds);
            self.clear();
            self.feeds = feeds;
            return None;
        }
        poll_fn(|context| {
            if self.ready.is_empty() {
                self.poll(context);
            }
            let Some(fetched) = self.ready.pop_front() else { return Poll::Pending };
            self.first += 1;
            self.blocked = fetched.as_ref().map_or(true, |evaluation| !evaluation.is_gathered());
            Poll::Ready(Some(fetched))
        })
        .await
    }

    /// The tensor at that position is computed next. If all of it is in memory the connections are free.
    pub(super) fn going_on_behind(&mut self, position: usize, evaluation: &mut Evaluation<S>) {
        self.first = position + 1;
        self.held_bytes = bytes_of_leaves(evaluation.plan(), &self.inner.parents);
        self.blocked = !evaluation.is_gathered();
        if !self.blocked {
            self.feeds.extend(evaluation.take_feeds());
        }
    }

    /// That tensor is computed.
    pub(super) fn done(&mut self, evaluation: Evaluation<S>) {
        let bytes = bytes_of_leaves(evaluation.plan(), &self.inner.parents);
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.feeds.extend(evaluation.into_feeds());
        self.blocked = false;
    }

    /// Whether something is on its way; asks for it, if there is room.
    pub(super) fn is_busy(&mut self) -> bool {
        if self.opening.is_none() {
            self.opening = self.open();
        }
        self.opening.is_some()
    }

    /// Does the work, and meanwhile takes what comes.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            let result = work.as_mut().poll(context);
            if result.is_pending() {
                self.poll(context);
            }
            result
        })
        .await
    }

    fn poll(&mut self, context: &mut Context) {
        while self.is_busy() {
            let Some(opening) = &mut self.opening else { return };
            let Poll::Ready(mut fetched) = opening.as_mut().poll(context) else { return };
            self.opening = None;
            // Of an error hears whoever gets there.
            if let Ok(evaluation) = &mut fetched {
                self.feeds.extend(evaluation.take_feeds());
            }
            self.ready.push_back(fetched);
        }
    }

    /// Asks for the next tensor that is not asked for yet, if it is one that the CPU computes from what
    /// was kept of it.
    fn open(&mut self) -> Option<Pin<Box<dyn Future<Output = Fetched<S>>>>> {
        // Connections that a tensor holds, since it is not in memory as a whole, are not at the next one; and
        // behind an error nothing is wanted any more.
        let holds = |last: &Fetched<S>| last.as_ref().map_or(true, |evaluation| !evaluation.is_gathered());
        if self.blocked || self.ready.back().is_some_and(holds) || self.inner.has_gpu() {
            return None;
        }
        let position = self.first + self.ready.len();
        let info = self.inner.plan.shards.get(self.shard)?.header.tensors.get(position)?;
        let plan = self.inner.tensors.get(&info.name).filter(|_| info.begin < self.end)?.clone();
        let room = self.inner.options.kept_bytes.saturating_sub(self.held_bytes);
        if plan.levels() == 0 || !is_read_once(&plan, &self.inner.parents, room) {
            return None;
        }
        self.held_bytes = self.held_bytes.saturating_add(bytes_of_leaves(&plan, &self.inner.parents));
        let feeds = std::mem::take(&mut self.feeds);
        let (inner, shard, end) = (self.inner.clone(), self.shard, self.end);
        Some(Box::pin(async move { fetch(&inner, plan, (shard, position, end), room, feeds).await }))
    }
}

async fn fetch<S: ByteSource + Clone>(
    inner: &Inner<S>,
    plan: Rc<TensorPlan>,
    (shard, position, end): (usize, usize, u64),
    room: u64,
    open: Vec<Feed<S>>,
) -> Fetched<S> {
    let shard = inner.plan.shards.get(shard);
    let run = |parent| shard.map_or(1, |shard| feed::run(inner, shard, position, end, parent));
    let mut feeds = Feeds { open, next: &mut Vec::new(), run: &run };
    let opened = Evaluation::open(plan, &inner.parents, room, &inner.cancelled, &mut feeds);
    let mut evaluation = Box::new(opened.await?);
    evaluation.gather().await?;
    Ok(evaluation)
}
