//! A source of bytes over a network that may fail: several ranges of a file on their way at once,
//! handed out in order. What is wrong with one connection is mended by the next.
//!
//! ```text
//!            read now      ahead
//! file  ...|##########>..|####>........|##>..........|             |
//!           lane 0        lane 1        lane 2        not asked for yet
//! ```
//!
//! Whoever reads is the only motor: lanes move while [`SteadyStream::next`](ByteStream::next) runs.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::{Range, RangeInclusive};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::checkpoint::lane::{Lane, Outcome, PieceOf, Task};
use crate::checkpoint::line::{Head, Shared};
use crate::checkpoint::retry::Network;
use crate::checkpoint::source::{ByteSource, ByteStream, Opened, SourceError};
use crate::checkpoint::transport::{Piece, Transport};

/// Lanes at the same time, over all streams that share a count, beyond those that are read from:
/// browsers allow six connections to a host over HTTP/1.1, a merge reads from three at a time.
pub const LANES: usize = 4;
/// Bytes of a lane: long enough that asking for the next one does not count. On a line that delivers at once
/// it does, and lanes become longer; what they hold, which is lost when a load is interrupted, does not.
pub const LANE_BYTES: RangeInclusive<u64> = 8 << 20..=64 << 20;
/// Bytes handed out at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// A [`ByteSource`] over a [`Transport`].
pub struct Steady<T: Transport> {
    shared: Rc<Shared<T>>,
}

impl<T: Transport> Steady<T> {
    /// A source that reads in lanes of `lane_bytes`, at first the least of them, as far as `lanes`, a count shared by all sources
    /// that use the same connections, allows.
    pub fn new(
        transport: T,
        network: Network,
        lane_bytes: RangeInclusive<u64>,
        lanes: Rc<Cell<usize>>,
    ) -> Steady<T> {
        let shared = Shared::new(transport, network, lane_bytes, lanes);
        Steady { shared: Rc::new(shared) }
    }

    /// These files are hashed as they come, and compared: their answers need not name one version.
    pub fn hashing(self, files: Vec<String>) -> Steady<T> {
        // Once, before anything is read.
        let _ = self.shared.hashed.set(files);
        self
    }

    /// What it reads over.
    pub fn transport(&self) -> &T {
        &self.shared.transport
    }
}

impl<T: Transport> ByteSource for Steady<T> {
    type Stream = SteadyStream<T>;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<Self::Stream>, SourceError> {
        let mut stream = SteadyStream::new(self.shared.clone(), file, range);
        let head = poll_fn(|context| stream.poll_head(context)).await?;
        let Head { file_bytes, validator, linked_sha256 } = head;
        Ok(Opened { stream, file_bytes, validator, linked_sha256 })
    }
}

/// A range of a file. Dropping it ends all transfers.
pub struct SteadyStream<T: Transport> {
    shared: Rc<Shared<T>>,
    file: Rc<str>,
    /// In the order of the file; the first is read from.
    lanes: VecDeque<Lane<T>>,
    /// What is not asked for yet.
    rest: Range<u64>,
    ranged: bool,
    bulk: bool,
    piece: Option<PieceOf<T>>,
    /// Looks for connections that deliver nothing.
    alarm: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl<T: Transport> SteadyStream<T> {
    fn new(shared: Rc<Shared<T>>, file: &str, range: Option<Range<u64>>) -> SteadyStream<T> {
        let ranged = range.is_some();
        let rest = range.unwrap_or(0..u64::MAX);
        let bulk = ranged && rest.end.saturating_sub(rest.start) > *shared.lane_range.start();
        let lanes = VecDeque::new();
        SteadyStream { shared, file: file.into(), lanes, rest, ranged, bulk, piece: None, alarm: None }
    }

    /// Opens lanes: one to read from, and more ahead where the server sends ranges.
    fn fill(&mut self) {
        let Shared { ranges, lanes, lane_bytes, .. } = &*self.shared;
        let lane_bytes = lane_bytes.get();
        while !self.rest.is_empty() {
            let first = self.lanes.is_empty();
            let whole = self.lanes.front().is_some_and(|lane| lane.state.whole.get());
            // Of several streams none takes all: whoever has most of them waits.
            let (own, all) = (self.lanes.len(), lanes.get());
            let is_greedy = own < all && own > all - own;
            if !first && (whole || ranges.get() != Some(true) || all >= LANES || is_greedy) {
                return;
            }
            let Range { start, end: stream_end } = self.rest;
            // Where servers send whole files, or all is asked for, there is one lane.
            let single = !self.ranged || ranges.get() == Some(false);
            let end = match start.checked_add(lane_bytes) {
                // A short last part is not worth a request of its own.
                Some(end) if !single && stream_end.saturating_sub(end) > lane_bytes / 4 => end,
                _ => stream_end,
            };
            let (file, ranged, bulk) = (self.file.clone(), self.ranged, self.bulk);
            let task = Task { file, range: start..end, stream_end, ranged, bulk, first };
            self.rest.start = end;
            self.lanes.push_back(Lane::new(self.shared.clone(), task));
        }
    }

    /// Moves every lane, and sees to the order among them. Ready with `None` at the end.
    fn poll_lanes(&mut self, context: &mut Context) -> Result<(), SourceError> {
        loop {
            self.fill();
            for lane in &mut self.lanes {
                lane.poll(context)?;
            }
            let Some(front) = self.lanes.front() else { return Ok(()) };
            let state = &front.state;
            if state.whole.get() {
                self.rest.start = self.rest.end;
                self.lanes.truncate(1);
                return Ok(());
            }
            if let Some(bytes) = state.head.borrow().as_ref().and_then(|head| head.file_bytes) {
                self.rest.end = self.rest.end.min(bytes.max(self.rest.start));
            }
            let before = self.lanes.len();
            self.fill();
            if self.lanes.len() == before {
                return Ok(());
            }
        }
    }

    /// Puts the next lane in the place of a first one that has ended; whether there was one.
    fn advance(&mut self) -> bool {
        let Some(outcome) = self.lanes.front().and_then(|lane| lane.outcome) else { return false };
        let Some(ended) = self.lanes.pop_front() else { return false };
        match outcome {
            Outcome::Complete => {}
            Outcome::EndOfFile => self.stop(),
            Outcome::NotFirst => {
                // Now it is the first.
                self.lanes.clear();
                self.rest.start = ended.state.start;
            }
        }
        if let Some(next) = self.lanes.front() {
            next.state.first.set(true);
        }
        true
    }

    fn stop(&mut self) {
        self.lanes.clear();
        self.rest.start = self.rest.end;
    }

    fn poll_piece(&mut self, context: &mut Context) -> Poll<Result<Option<PieceOf<T>>, SourceError>> {
        loop {
            if let Err(error) = self.poll_lanes(context) {
                self.stop();
                return Poll::Ready(Err(error));
            }
            let Some(front) = self.lanes.front() else { return Poll::Ready(Ok(None)) };
            if let Some(piece) = front.state.pop() {
                return Poll::Ready(Ok(Some(piece)));
            }
            if !self.advance() && !self.has_given_up(context) {
                return Poll::Pending;
            }
        }
    }

    /// Waits for the first answer.
    fn poll_head(&mut self, context: &mut Context) -> Poll<Result<Head, SourceError>> {
        loop {
            if let Err(error) = self.poll_lanes(context) {
                self.stop();
                return Poll::Ready(Err(error));
            }
            let Some(front) = self.lanes.front() else { return Poll::Ready(Ok(Head::default())) };
            if let Some(head) = &*front.state.head.borrow() {
                return Poll::Ready(Ok(head.clone()));
            }
            if !self.has_given_up(context) {
                return Poll::Pending;
            }
        }
    }

    /// Tells of pauses, and gives up connections on which nothing has come for too long; whether
    /// there was one.
    fn has_given_up(&mut self, context: &mut Context) -> bool {
        let Shared { transport, network, .. } = &*self.shared;
        if let Some(waiting) = self.lanes.front().and_then(|lane| lane.state.pause.take()) {
            transport.waiting(&waiting);
        }
        loop {
            let now = transport.now_ms();
            let since = |lane: &Lane<T>| lane.state.waiting_since.get();
            let Some(oldest) = self.lanes.iter().filter_map(since).min() else { return false };
            let due = oldest.saturating_add(network.stall_ms);
            if due <= now {
                for lane in &self.lanes {
                    let stalled =
                        since(lane).is_some_and(|since| since.saturating_add(network.stall_ms) <= now);
                    lane.state.stalled.set(stalled);
                }
                return true;
            }
            let shared = self.shared.clone();
            let sleep = move || async move { shared.transport.sleep(due - now).await };
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep()));
            if alarm.as_mut().poll(context).is_pending() {
                return false;
            }
            self.alarm = None;
        }
    }
}

impl<T: Transport> ByteStream for SteadyStream<T> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let piece = match self.piece.take() {
            Some(piece) => Some(piece),
            None => poll_fn(|context| self.poll_piece(context)).await?,
        };
        let Some(mut piece) = piece else { return Ok(None) };
        if piece.bytes() > PIECE_BYTES {
            self.piece = Some(piece.split_off(PIECE_BYTES));
        }
        Ok(Some(piece.to_vec()))
    }
}
