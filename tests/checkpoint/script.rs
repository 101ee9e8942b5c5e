//! A server that plays what a test wrote, on a clock that nobody has to wait for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use bise::checkpoint::SourceError;
use bise::checkpoint::retry::{Network, Waiting};
use bise::checkpoint::steady::Steady;
use bise::checkpoint::transport::{Body, Piece, Response, Transport};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The only file there is.
pub const FILE: &str = "m.safetensors";

/// Its byte at a place.
pub fn byte_at(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

/// Its bytes.
pub fn bytes_of(range: Range<u64>) -> Vec<u8> {
    range.map(byte_at).collect()
}

/// Reads dates where no browser does.
pub fn date_ms(text: &str) -> Option<u64> {
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis() as u64)
}

/// Time that passes when everybody waits.
#[derive(Default)]
pub struct Clock {
    pub now: Cell<u64>,
    next: Cell<u64>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
}

impl Clock {
    /// Waits until then, or until `early` says so whenever the clock moves.
    async fn until(&self, due: u64, early: impl Fn() -> bool) {
        let id = self.next.replace(self.next.get() + 1);
        poll_fn(|context| {
            if self.now.get() >= due || early() {
                self.timers.borrow_mut().remove(&(due, id));
                return Poll::Ready(());
            }
            self.timers.borrow_mut().insert((due, id), context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub async fn sleep(&self, ms: u64) {
        self.until(self.now.get() + ms, || false).await;
    }

    /// Runs a future; time passes whenever it waits for nothing else.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(flag.clone());
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            if flag.0.swap(false, Relaxed) {
                continue;
            }
            let first = self.timers.borrow_mut().pop_first();
            let ((due, _), timer) = first.expect("nothing to wait for: this would hang for ever");
            self.now.set(self.now.get().max(due));
            timer.wake();
        }
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// What a request gets.
#[derive(Clone, Debug)]
pub enum Play {
    /// What it asked for.
    Serve,
    /// What it asked for, at so many milliseconds a piece.
    Paced(u64),
    /// That many bytes of it, then a broken connection.
    Cut(u64),
    /// That many bytes of it, then a clean end.
    Short(u64),
    /// At most that many bytes of it, as its headers say.
    Capped(u64),
    /// That many bytes of it, then nothing for ever.
    Stall(u64),
    /// No answer, for ever.
    Hang,
    /// No connection.
    Refuse,
    /// A status, and perhaps a Retry-After.
    Status(u16, Option<String>),
    /// The whole file.
    Whole,
    /// That many bytes of the whole file, then a broken connection.
    WholeCut(u64),
    /// The range before the one it asked for, and the header says so.
    Wrong,
    /// What it asked for, but of a file that is one byte on.
    Shifted,
    /// What it asked for, of a file of this ETag.
    Tagged(String),
}

/// A request, as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub range: Option<Range<u64>>,
    pub at_ms: u64,
}

/// What the nth request gets.
type Plays = Box<dyn Fn(usize, &Asked) -> Play>;

/// The server.
pub struct Script {
    pub clock: Rc<Clock>,
    pub file_bytes: u64,
    /// Bytes per piece.
    pub piece: u64,
    /// Milliseconds per piece.
    pub ms: u64,
    /// Whether answers say no more than their status.
    pub hidden: bool,
    /// What the nth request gets, counted from 0.
    pub plays: Plays,
    pub log: RefCell<Vec<Asked>>,
    pub requests: Cell<usize>,
    pub waited: RefCell<Vec<Waiting>>,
    /// Whether the caller has stopped.
    pub ended: Rc<Cell<bool>>,
    /// Bodies that are open, and most at once.
    pub open: Rc<Cell<usize>>,
    pub most_open: Cell<usize>,
    /// Bytes handed out.
    pub sent: Rc<Cell<u64>>,
    pub rng: RefCell<ChaCha8Rng>,
}

impl Script {
    pub fn new(file_bytes: u64, plays: impl Fn(usize, &Asked) -> Play + 'static) -> Script {
        Script {
            clock: Rc::default(),
            file_bytes,
            piece: 100,
            ms: 5,
            hidden: false,
            plays: Box::new(plays),
            log: RefCell::default(),
            requests: Cell::new(0),
            waited: RefCell::default(),
            ended: Rc::default(),
            open: Rc::default(),
            most_open: Cell::new(0),
            sent: Rc::default(),
            rng: RefCell::new(ChaCha8Rng::seed_from_u64(7)),
        }
    }

    /// A source over it, in lanes of 1000 bytes.
    pub fn steady(self) -> Steady<Script> {
        Steady::new(self, Network::default(), 1000..=1000, Rc::default())
    }

    /// The ranges that were asked for.
    pub fn asked(&self) -> Vec<Range<u64>> {
        self.log.borrow().iter().map(|asked| asked.range.clone().unwrap_or(0..u64::MAX)).collect()
    }
}

impl Transport for Script {
    type Body = ScriptBody;

    async fn fetch(
        &self,
        file: &str,
        range: Option<Range<u64>>,
        _bulk: bool,
    ) -> Result<Response<ScriptBody>, SourceError> {
        assert_eq!(file, FILE);
        if self.ended.get() {
            return Err(SourceError::Aborted);
        }
        let asked = Asked { range: range.clone(), at_ms: self.clock.now.get() };
        let number = self.requests.replace(self.requests.get() + 1);
        let play = (self.plays)(number, &asked);
        self.log.borrow_mut().push(asked);
        self.clock.sleep(self.ms).await;
        let length = self.file_bytes;
        let ms = if let Play::Paced(ms) = play { ms } else { self.ms };
        let tag = if let Play::Tagged(tag) = &play { tag.clone() } else { "\"1\"".into() };
        let served = match &range {
            Some(range) if range.start >= length => None,
            Some(range) => Some(range.start..range.end.min(length)),
            None => Some(0..length),
        };
        let failure = |status, retry_after| Response { status, retry_after, ..Response::default() };
        let (range, served, after) = match (play, served) {
            (Play::Refuse, _) => {
                return Err(SourceError::Network { file: FILE.into(), detail: "refused".into() });
            }
            (Play::Hang, _) => {
                self.clock.sleep(u64::MAX / 4).await;
                panic!("hung to the end of time");
            }
            (Play::Status(status, retry_after), _) => return Ok(failure(status, retry_after)),
            (Play::Whole, _) => (None, 0..length, After::End),
            (Play::WholeCut(bytes), _) => (None, 0..length, After::Cut(bytes)),
            (_, None) => {
                let content_range = (!self.hidden).then(|| format!("bytes */{length}"));
                return Ok(Response { content_range, ..failure(416, None) });
            }
            (Play::Wrong, Some(served)) => (range, served.start - 1..served.end - 1, After::End),
            (Play::Cut(bytes), Some(served)) => (range, served, After::Cut(bytes)),
            (Play::Capped(bytes), Some(served)) => {
                (range, served.start..served.end.min(served.start + bytes), After::End)
            }
            (Play::Short(bytes), Some(served)) => (range, served, After::Short(bytes)),
            (Play::Stall(bytes), Some(served)) => (range, served, After::Stall(bytes)),
            (Play::Shifted, Some(served)) => (range, served, After::Shifted),
            (_, Some(served)) => (range, served, After::End),
        };
        let content_range = format!("bytes {}-{}/{length}", served.start, served.end.saturating_sub(1));
        self.open.set(self.open.get() + 1);
        self.most_open.set(self.most_open.get().max(self.open.get()));
        let body = ScriptBody {
            clock: self.clock.clone(),
            left: served.clone(),
            begin: served.start,
            after,
            piece: self.piece,
            ms,
            open: self.open.clone(),
            sent: self.sent.clone(),
        };
        Ok(Response {
            status: if range.is_some() { 206 } else { 200 },
            content_range: range.filter(|_| !self.hidden).map(|_| content_range),
            body_bytes: (!self.hidden).then_some(served.end - served.start),
            validator: (!self.hidden).then_some(tag),
            body: Some(body),
            ..Response::default()
        })
    }

    async fn sleep(&self, ms: u64) {
        self.clock.sleep(ms).await;
    }

    async fn pause(&self, ms: u64) {
        self.clock.until(self.clock.now.get() + ms, || self.ended.get()).await;
    }

    fn now_ms(&self) -> u64 {
        self.clock.now.get()
    }

    fn date_ms(&self, text: &str) -> Option<u64> {
        date_ms(text)
    }

    fn random(&self) -> f64 {
        f64::from(self.rng.borrow_mut().next_u32()) / f64::from(u32::MAX)
    }

    fn waiting(&self, waiting: &Waiting) {
        self.waited.borrow_mut().push(waiting.clone());
    }

    fn name(&self, file: &str) -> String {
        format!("https://host/{file}")
    }
}

/// How a body ends.
enum After {
    End,
    Cut(u64),
    Short(u64),
    Stall(u64),
    Shifted,
}

/// The body of an answer.
pub struct ScriptBody {
    clock: Rc<Clock>,
    left: Range<u64>,
    begin: u64,
    after: After,
    piece: u64,
    ms: u64,
    open: Rc<Cell<usize>>,
    sent: Rc<Cell<u64>>,
}

impl Body for ScriptBody {
    type Piece = Bytes;

    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        self.clock.sleep(self.ms).await;
        let stop = match self.after {
            After::Cut(bytes) | After::Short(bytes) | After::Stall(bytes) => self.begin + bytes,
            _ => self.left.end,
        };
        let end = self.left.end.min(stop).min(self.left.start + self.piece);
        if self.left.start < end {
            let shift = u64::from(matches!(self.after, After::Shifted));
            let bytes = bytes_of(self.left.start + shift..end + shift);
            self.left.start = end;
            self.sent.set(self.sent.get() + bytes.len() as u64);
            return Ok(Some(Bytes(bytes)));
        }
        match self.after {
            After::Cut(_) => Err(SourceError::Network { file: FILE.into(), detail: "connection cut".into() }),
            After::Stall(_) => {
                self.clock.sleep(u64::MAX / 4).await;
                panic!("stalled to the end of time");
            }
            _ => Ok(None),
        }
    }
}

impl Drop for ScriptBody {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

/// Bytes in memory.
pub struct Bytes(Vec<u8>);

impl Piece for Bytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn split_off(&mut self, at: u64) -> Bytes {
        Bytes(self.0.split_off(at as usize))
    }

    fn to_vec(&self) -> Vec<u8> {
        self.0.clone()
    }
}
