//! A `ReadableStream` as a byte stream.

use js_sys::{Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{AbortSignal, MessageChannel, ReadableStream, ReadableStreamDefaultReader};
use web_time::{Duration, Instant};

use super::error::describe;
use crate::checkpoint::{ByteStream, SourceError};

/// Bytes copied into wasm memory at a time. A browser may hand out pieces of any size.
const PIECE_BYTES: u32 = 1 << 20;

/// How long reads may go on without letting the worker see its messages. Pieces that lie ready
/// arrive without a turn of the event loop, and an abort would wait for all of them.
const TURN: Duration = Duration::from_millis(20);

/// Where a body lies in its file; all absolute.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Position of its first byte.
    pub start: u64,
    /// Nothing is read from here on.
    pub limit: Option<u64>,
    /// Where it ends, if known: before that it was cut.
    pub end: Option<u64>,
}

/// Bytes of one file. Dropping it closes the connection.
pub struct WebStream {
    file: String,
    /// None once the stream has ended.
    reader: Option<ReadableStreamDefaultReader>,
    /// What the browser handed out and is not copied yet.
    rest: Option<Uint8Array>,
    /// Absolute position of the next byte.
    offset: u64,
    bounds: Bounds,
    signal: AbortSignal,
    last_turn: Instant,
}

impl WebStream {
    /// Reads `body`.
    pub fn new(
        file: &str,
        body: &ReadableStream,
        bounds: Bounds,
        signal: AbortSignal,
    ) -> Result<WebStream, SourceError> {
        let reader = ReadableStreamDefaultReader::new(body)
            .map_err(|thrown| SourceError::Io { file: file.to_owned(), detail: describe(&thrown) })?;
        let mut stream = WebStream::empty(file, bounds.start, signal);
        (stream.reader, stream.bounds) = (Some(reader), bounds);
        Ok(stream)
    }

    /// A stream without bytes.
    pub fn empty(file: &str, offset: u64, signal: AbortSignal) -> WebStream {
        let (last_turn, bounds) = (Instant::now(), Bounds { start: offset, limit: None, end: None });
        WebStream { file: file.to_owned(), reader: None, rest: None, offset, bounds, signal, last_turn }
    }

    /// The next piece of what is left, at most [`PIECE_BYTES`] and never beyond the limit.
    fn cut(&mut self) -> Option<Vec<u8>> {
        let rest = self.rest.take()?;
        let wanted = self.bounds.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.offset));
        let bytes = rest.length().min(PIECE_BYTES).min(u32::try_from(wanted).unwrap_or(u32::MAX));
        if bytes == 0 {
            return None;
        }
        let piece = rest.subarray(0, bytes).to_vec();
        if bytes < rest.length() {
            self.rest = Some(rest.subarray(bytes, rest.length()));
        }
        self.offset += u64::from(bytes);
        Some(piece)
    }

    fn has_all(&self) -> bool {
        let Bounds { limit, end, .. } = self.bounds;
        limit.into_iter().chain(end).any(|end| self.offset >= end)
    }

    /// Reads on; `false` at the end of the body.
    async fn refill(&mut self) -> Result<bool, SourceError> {
        let Some(reader) = &self.reader else { return Ok(false) };
        match read(reader).await {
            Ok(Some(bytes)) => {
                self.rest = Some(bytes);
                Ok(true)
            }
            Ok(None) => {
                self.reader = None;
                match self.bounds.end {
                    Some(expected) if self.offset < expected => Err(self.cut_short(expected)),
                    _ => Ok(false),
                }
            }
            Err(_) if self.signal.aborted() => Err(SourceError::Aborted),
            Err(thrown) => {
                self.reader = None;
                Err(match self.bounds.end {
                    Some(expected) => self.cut_short(expected),
                    None => SourceError::Network { file: self.file.clone(), detail: describe(&thrown) },
                })
            }
        }
    }

    fn cut_short(&self, expected: u64) -> SourceError {
        SourceError::Cut { file: self.file.clone(), offset: self.offset, expected }
    }

    async fn take_turn(&mut self) {
        if self.last_turn.elapsed() >= TURN {
            turn().await;
            self.last_turn = Instant::now();
        }
    }
}

impl ByteStream for WebStream {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        loop {
            self.take_turn().await;
            if self.signal.aborted() {
                return Err(SourceError::Aborted);
            }
            if let Some(piece) = self.cut() {
                return Ok(Some(piece));
            }
            if self.has_all() || !self.refill().await? {
                return Ok(None);
            }
        }
    }
}

impl Drop for WebStream {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            settle(reader.cancel());
        }
    }
}

/// `{done, value}` of one read.
async fn read(reader: &ReadableStreamDefaultReader) -> Result<Option<Uint8Array>, JsValue> {
    let result = JsFuture::from(reader.read()).await?;
    match Reflect::get(&result, &"done".into())?.is_truthy() {
        true => Ok(None),
        false => Reflect::get(&result, &"value".into())?.dyn_into().map(Some),
    }
}

/// Lets a promise end without anybody listening: a rejection unheard is an error in the console.
pub fn settle(promise: Promise) {
    spawn_local(async move {
        let _ = JsFuture::from(promise).await;
    });
}

/// Waits for one turn of the event loop. A message channel, since timers are held back to 4 ms.
async fn turn() {
    let Ok(channel) = MessageChannel::new() else { return };
    let promise = Promise::new(&mut |resolve, _reject| {
        channel.port1().set_onmessage(Some(&resolve));
        if channel.port2().post_message(&JsValue::NULL).is_err() {
            let _ = resolve.call0(&JsValue::NULL);
        }
    });
    let _ = JsFuture::from(promise).await;
    channel.port1().close();
}
