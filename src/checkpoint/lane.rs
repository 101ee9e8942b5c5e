//! One range of a file on its way: attempt after attempt, each going on at the byte reached, until
//! all of it is there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::checkpoint::answer::{Answer, judge, sent_end};
use crate::checkpoint::line::{Flow, Head, Shared, Slot};
use crate::checkpoint::retry::{Attempts, Failed, Waiting, retry_after_ms};
use crate::checkpoint::source::SourceError;
use crate::checkpoint::transport::{Body, Piece, Response, Transport};

/// Bytes that a lane holds for whoever reads from it; more stay with the network. Lanes that were
/// opened ahead would otherwise come no further than the buffers of the browser.
const HELD_BYTES: u64 = 8 << 20;

pub(super) type PieceOf<T> = <<T as Transport>::Body as Body>::Piece;

/// How a lane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With its last byte.
    Complete,
    /// With the last byte of the file, which came before.
    EndOfFile,
    /// Before it began: the server sends nothing but whole files, one reader at a time.
    NotFirst,
}

/// What a lane and its stream share.
pub(super) struct State<P> {
    /// Its bytes of the file. The end moves where the server sends the whole file.
    pub(super) start: u64,
    pub(super) end: Cell<u64>,
    /// Where the stream ends that the lane belongs to.
    stream_end: u64,
    /// Whether a part of the file is asked for, and whether the stream has several.
    ranged: bool,
    bulk: bool,
    /// Whether the stream reads from this lane now.
    pub(super) first: Cell<bool>,
    /// Whether the lane goes on to the end of the stream.
    pub(super) whole: Cell<bool>,
    pub(super) head: RefCell<Option<Head>>,
    pieces: RefCell<VecDeque<P>>,
    held: Cell<u64>,
    /// Since when nothing has come, milliseconds, while something is waited for.
    pub(super) waiting_since: Cell<Option<u64>>,
    /// For how long the network was waited for until now, milliseconds.
    waited_ms: Cell<u64>,
    /// Set to give the connection up.
    pub(super) stalled: Cell<bool>,
    /// The wait before the next attempt, until somebody has heard of it.
    pub(super) pause: RefCell<Option<Waiting>>,
}

impl<P: Piece> State<P> {
    fn push(&self, piece: P) {
        self.held.set(self.held.get() + piece.held_bytes());
        self.pieces.borrow_mut().push_back(piece);
    }

    /// The next bytes.
    pub(super) fn pop(&self) -> Option<P> {
        let piece = self.pieces.borrow_mut().pop_front()?;
        self.held.set(self.held.get().saturating_sub(piece.held_bytes()));
        Some(piece)
    }

    /// Waits for room. Wakes nobody: whoever takes a piece polls the lane.
    async fn room(&self) {
        poll_fn(|_| if self.held.get() < HELD_BYTES { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Waits for the network.
    async fn patiently<T: Transport, O>(
        &self,
        shared: &Shared<T>,
        work: impl Future<Output = Result<O, SourceError>>,
    ) -> Result<O, Stopped> {
        let since = shared.transport.now_ms();
        self.waiting_since.set(Some(since));
        let mut work = pin!(work);
        let result = poll_fn(|context| match self.stalled.take() {
            true => Poll::Ready(Err(Stopped::Stalled)),
            false => work.as_mut().poll(context).map_err(Stopped::Failed),
        });
        let result = result.await;
        self.waiting_since.set(None);
        let waited_ms = shared.transport.now_ms().saturating_sub(since);
        self.waited_ms.set(self.waited_ms.get().saturating_add(waited_ms));
        result
    }
}

enum Stopped {
    Stalled,
    Failed(SourceError),
}

/// One range on its way. Dropping it ends the transfer.
pub(super) struct Lane<T: Transport> {
    pub(super) state: Rc<State<PieceOf<T>>>,
    work: Pin<Box<dyn Future<Output = Result<Outcome, SourceError>>>>,
    pub(super) outcome: Option<Outcome>,
    _slot: Slot,
}

/// What to transfer.
pub(super) struct Task {
    pub(super) file: Rc<str>,
    pub(super) range: Range<u64>,
    pub(super) stream_end: u64,
    pub(super) ranged: bool,
    pub(super) bulk: bool,
    pub(super) first: bool,
}

impl<T: Transport> Lane<T> {
    pub(super) fn new(shared: Rc<Shared<T>>, task: Task) -> Lane<T> {
        let Task { file, range, stream_end, ranged, bulk, first } = task;
        let state = Rc::new(State {
            start: range.start,
            end: Cell::new(range.end),
            stream_end,
            ranged,
            bulk,
            first: Cell::new(first),
            whole: Cell::new(false),
            head: RefCell::default(),
            pieces: RefCell::default(),
            held: Cell::new(0),
            waiting_since: Cell::new(None),
            waited_ms: Cell::new(0),
            stalled: Cell::new(false),
            pause: RefCell::default(),
        });
        let slot = Slot::new(&shared.lanes);
        let work = Box::pin(run(shared, file, state.clone()));
        Lane { state, work, outcome: None, _slot: slot }
    }

    /// Goes on.
    pub(super) fn poll(&mut self, context: &mut Context) -> Result<(), SourceError> {
        if self.outcome.is_none()
            && let Poll::Ready(outcome) = self.work.as_mut().poll(context)
        {
            self.outcome = Some(outcome?);
        }
        Ok(())
    }
}

async fn run<T: Transport>(
    shared: Rc<Shared<T>>,
    file: Rc<str>,
    state: Rc<State<PieceOf<T>>>,
) -> Result<Outcome, SourceError> {
    let mut at = state.start;
    let mut attempts = Attempts::new(shared.network, at);
    let transport = &shared.transport;
    loop {
        // What one request was told holds for all.
        let held = shared.quiet_until_ms.get().saturating_sub(transport.now_ms());
        if held > 0 {
            transport.pause(held).await;
        }
        let failed = match attempt(&shared, &file, &state, &mut at).await {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => continue,
            Err(failed) => failed,
        };
        let retry_after_ms = failed.retry_after_ms;
        let waiting = attempts.wait(at, failed, shared.heard.get(), transport.random())?;
        if let Some(ms) = retry_after_ms {
            shared.quiet_until_ms.set(shared.quiet_until_ms.get().max(transport.now_ms() + ms));
        }
        let ms = waiting.ms;
        state.pause.replace(Some(waiting));
        transport.pause(ms).await;
        state.pause.take();
    }
}

/// One connection: as far as it comes, `at` moves with the bytes. `None`: all came that the server sends at
/// a time.
async fn attempt<T: Transport>(
    shared: &Shared<T>,
    file: &Rc<str>,
    state: &State<PieceOf<T>>,
    at: &mut u64,
) -> Result<Option<Outcome>, Failed> {
    let name = || shared.transport.name(file);
    let stopped = |stopped: Stopped| match stopped {
        Stopped::Failed(error) => error,
        Stopped::Stalled => {
            let detail = format!("nothing came for {} s", shared.network.stall_ms.div_ceil(1000));
            SourceError::Network { file: name(), detail }
        }
    };
    let begun = *at;
    let parked = if state.first.get() { shared.take_parked(file, *at) } else { None };
    let mut flow = match parked {
        Some(flow) => {
            state.head.replace(Some(flow.head.clone()));
            flow
        }
        None => {
            let asked = (state.ranged || *at > 0).then(|| *at..state.end.get());
            let fetching = shared.transport.fetch(file, asked.clone(), state.bulk);
            let response = state.patiently(shared, fetching).await.map_err(stopped)?;
            shared.heard.set(true);
            match begin(shared, file, state, *at, asked, response)? {
                Ok(flow) => flow,
                Err(outcome) => return Ok(Some(outcome)),
            }
        }
    };
    if flow.whole {
        state.end.set(state.stream_end);
        state.whole.set(true);
    }
    loop {
        let end = state.end.get();
        if *at >= end {
            if flow.whole {
                shared.park(flow);
            } else {
                shared.adapt(end - state.start, state.waited_ms.get());
            }
            return Ok(Some(Outcome::Complete));
        }
        state.room().await;
        let next = match flow.rest.take() {
            Some(piece) => Some(piece),
            None => state.patiently(shared, flow.body.next()).await.map_err(stopped)?,
        };
        let Some(mut piece) = next else {
            let outcome = ended(&flow, *at, end, name);
            return match outcome {
                // All that was announced, and some servers announce little: that is no failure.
                Err(_) if flow.sent_end == Some(*at) && *at > begun => Ok(None),
                outcome => outcome.map(Some).map_err(Failed::from),
            };
        };
        let before = at.saturating_sub(flow.position);
        flow.position += piece.bytes();
        if before > 0 {
            if flow.position <= *at {
                continue;
            }
            piece = piece.split_off(before);
        }
        let surplus = flow.position.saturating_sub(end);
        if surplus > 0 {
            flow.rest = Some(piece.split_off(piece.bytes() - surplus));
            flow.position = end;
        }
        *at += piece.bytes();
        state.push(piece);
    }
}

/// What an answer brings: bytes, or the end.
fn begin<T: Transport>(
    shared: &Shared<T>,
    file: &Rc<str>,
    state: &State<PieceOf<T>>,
    at: u64,
    asked: Option<Range<u64>>,
    response: Response<T::Body>,
) -> Result<Result<Flow<T::Body>, Outcome>, Failed> {
    let name = || shared.transport.name(file);
    let Response { status, content_range, body_bytes, validator, linked_etag, retry_after, body } = response;
    let ranged = asked.is_some();
    let answer = judge(status, content_range.as_deref(), body_bytes, asked.as_ref());
    let past_end = matches!(answer, Answer::PastEnd { .. });
    let (position, end, file_bytes) = match answer {
        Answer::Body { end, file_bytes } => (at, end, file_bytes),
        Answer::Whole { file_bytes } => (0, file_bytes, file_bytes),
        Answer::PastEnd { file_bytes } => (at, None, file_bytes),
        Answer::NotFound => return Err(SourceError::NotFound { file: name() }.into()),
        Answer::WrongRange => {
            return Err(
                SourceError::WrongRange { file: name(), sent: content_range.unwrap_or_default() }.into()
            );
        }
        Answer::Status => {
            let transport = &shared.transport;
            let date_ms = |text: &str| transport.date_ms(text);
            let retry_after_ms = retry_after.and_then(|v| retry_after_ms(&v, transport.now_ms(), &date_ms));
            return Err(Failed { error: SourceError::Status { file: name(), status }, retry_after_ms });
        }
    };
    // What a refusal says of itself is not said of the file.
    let validator = validator.filter(|_| !past_end);
    let head = Head { file_bytes, validator, linked_sha256: linked_etag.as_deref().and_then(sha256_of) };
    if !shared.is_same_version(file, &head) {
        return Err(SourceError::Changed { file: name(), offset: at }.into());
    }
    state.head.replace(Some(head.clone()));
    if past_end {
        return Ok(Err(Outcome::EndOfFile));
    }
    let whole = status == 200;
    if ranged {
        shared.ranges.set(Some(!whole));
    }
    if whole && ranged && !state.first.get() {
        return Ok(Err(Outcome::NotFirst));
    }
    let no_body = || SourceError::Network { file: name(), detail: "the answer has no body".to_owned() };
    let body = body.ok_or_else(no_body)?;
    let announced = content_range.as_deref().and_then(sent_end);
    let sent_end = announced.or(body_bytes.map(|bytes| at.saturating_add(bytes))).filter(|_| !whole);
    Ok(Ok(Flow { file: file.clone(), body, rest: None, position, end, sent_end, whole, head }))
}

/// What the end of a body means that came before the lane's `end`.
fn ended<B: Body>(
    flow: &Flow<B>,
    at: u64,
    end: u64,
    name: impl Fn() -> String,
) -> Result<Outcome, SourceError> {
    let expected = match (flow.end, flow.head.file_bytes) {
        (Some(known), _) if at < known.min(end) => known.min(end),
        (_, Some(bytes)) if at >= bytes => return Ok(Outcome::EndOfFile),
        (_, None) if flow.whole || end == u64::MAX => return Ok(Outcome::EndOfFile),
        // Whoever does not know the file's length asks for one byte too many.
        (None, None) if end - at <= 1 => return Ok(Outcome::EndOfFile),
        _ => end,
    };
    Err(SourceError::Cut { file: name(), offset: at, expected })
}

/// The digest that the hub gives as the ETag of a large file.
fn sha256_of(etag: &str) -> Option<String> {
    let digest = etag.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
    (digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digest)
}
