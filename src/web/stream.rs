//! A `ReadableStream` as the body of an answer, and what time there is in a browser.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use js_sys::{ArrayBuffer, Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    AbortSignal, MessageChannel, ReadableStream, ReadableStreamByobReader, ReadableStreamDefaultReader,
};

use super::error::describe;
use super::http::Ending;
use crate::checkpoint::SourceError;
use crate::checkpoint::transport::{Body, Piece};

/// Bytes that the browser is given room for at a time: what arrives while one read is dealt with.
const READ_BYTES: u32 = 256 << 10;
/// Buffers that wait for another read: more than a load has on its way would lie idle.
const MOST_SPARE: usize = 32;

/// Buffers for the browser to fill. Reading into memory that was used before is half the work:
/// fresh memory has to be mapped and cleared page by page.
#[derive(Clone)]
pub struct Pool(Rc<RefCell<Vec<ArrayBuffer>>>);

thread_local! {
    /// One for all that is read at a time, for as long as somebody reads.
    static POOL: RefCell<Weak<RefCell<Vec<ArrayBuffer>>>> = RefCell::default();
}

impl Pool {
    /// The pool that all share.
    pub fn shared() -> Pool {
        POOL.with_borrow_mut(|shared| {
            let pool = shared.upgrade().unwrap_or_default();
            *shared = Rc::downgrade(&pool);
            Pool(pool)
        })
    }

    fn take(&self) -> ArrayBuffer {
        self.0.borrow_mut().pop().unwrap_or_else(|| ArrayBuffer::new(READ_BYTES))
    }

    fn give(&self, buffer: ArrayBuffer) {
        let mut spare = self.0.borrow_mut();
        if spare.len() < MOST_SPARE {
            spare.push(buffer);
        } else {
            free(&buffer);
        }
    }
}

/// Gives memory back at once: garbage collectors wait until there is more of it than a load may take.
fn free(buffer: &ArrayBuffer) {
    let transfer = Reflect::get(buffer, &"transfer".into());
    if let Ok(transfer) = transfer.and_then(|transfer| transfer.dyn_into::<Function>()) {
        let _ = transfer.call1(buffer, &JsValue::from_f64(0.0));
    }
}

/// Bytes of one file. Dropping it closes the connection.
pub struct WebBody {
    file: String,
    /// None once the body has ended.
    reader: Option<Reader>,
    signal: AbortSignal,
    /// The request, if it was one: then failures may pass.
    ending: Option<Ending>,
}

enum Reader {
    /// Fills buffers of ours.
    Into(ReadableStreamByobReader, Pool),
    /// Hands out its own: of streams that are no byte streams, and in browsers without the other kind.
    Handing(ReadableStreamDefaultReader),
}

impl Reader {
    fn new(body: &ReadableStream, pool: &Pool) -> Result<Reader, JsValue> {
        match ReadableStreamByobReader::new(body) {
            Ok(reader) => Ok(Reader::Into(reader, pool.clone())),
            Err(_) => ReadableStreamDefaultReader::new(body).map(Reader::Handing),
        }
    }

    /// The next bytes; `None` at the end.
    async fn read(&self) -> Result<Option<WebPiece>, JsValue> {
        let reading = match self {
            Reader::Into(reader, pool) => reader.read_with_array_buffer_view(&Uint8Array::new(&pool.take())),
            Reader::Handing(reader) => reader.read(),
        };
        let result = JsFuture::from(reading).await?;
        if Reflect::get(&result, &"done".into())?.is_truthy() {
            return Ok(None);
        }
        let bytes: Uint8Array = Reflect::get(&result, &"value".into())?.dyn_into()?;
        let Reader::Into(_, pool) = self else { return Ok(Some(WebPiece::new(bytes, None))) };
        if bytes.length() >= READ_BYTES / 2 {
            return Ok(Some(WebPiece::new(bytes, Some(pool))));
        }
        // Pieces are held by their length: a few bytes must not hold a whole buffer.
        let copy = bytes.slice(0, bytes.length());
        pool.give(bytes.buffer().unchecked_into());
        Ok(Some(WebPiece::new(copy, None)))
    }

    fn cancel(&self) -> Promise {
        match self {
            Reader::Into(reader, _) => reader.cancel(),
            Reader::Handing(reader) => reader.cancel(),
        }
    }
}

impl WebBody {
    /// Reads `body`, into buffers of `pool` where the browser can.
    pub fn new(
        file: &str,
        body: &ReadableStream,
        pool: &Pool,
        signal: AbortSignal,
        ending: Option<Ending>,
    ) -> Result<WebBody, SourceError> {
        let reader = Reader::new(body, pool)
            .map_err(|thrown| SourceError::Io { file: file.to_owned(), detail: describe(&thrown) })?;
        Ok(WebBody { file: file.to_owned(), reader: Some(reader), signal, ending })
    }
}

impl Body for WebBody {
    type Piece = WebPiece;

    async fn next(&mut self) -> Result<Option<WebPiece>, SourceError> {
        let Some(reader) = &self.reader else { return Ok(None) };
        let error = match reader.read().await {
            Ok(Some(piece)) => return Ok(Some(piece)),
            Ok(None) => None,
            Err(_) if self.signal.aborted() => Some(SourceError::Aborted),
            Err(thrown) => {
                let (file, detail) = (self.file.clone(), describe(&thrown));
                Some(match self.ending {
                    Some(_) => SourceError::Network { file, detail: format!("connection cut: {detail}") },
                    None => SourceError::Io { file, detail },
                })
            }
        };
        self.reader = None;
        error.map_or(Ok(None), Err)
    }
}

impl Drop for WebBody {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            settle(reader.cancel());
        }
    }
}

/// Bytes outside wasm memory.
pub struct WebPiece {
    bytes: Uint8Array,
    owner: Rc<Owner>,
}

/// What becomes of a piece's memory.
enum Owner {
    /// It goes back.
    Pool(ArrayBuffer, Pool),
    /// It came for this piece alone, and is given back to the browser.
    Piece(ArrayBuffer),
    /// It belongs to others, too: a page may have put its own `fetch` in the place of the browser's.
    Others,
}

impl Drop for Owner {
    fn drop(&mut self) {
        match self {
            Owner::Pool(buffer, pool) => pool.give(buffer.clone()),
            Owner::Piece(buffer) => free(buffer),
            Owner::Others => {}
        }
    }
}

impl WebPiece {
    fn new(bytes: Uint8Array, pool: Option<&Pool>) -> WebPiece {
        let buffer: ArrayBuffer = bytes.buffer().unchecked_into();
        let owner = match pool {
            Some(pool) => Owner::Pool(buffer, pool.clone()),
            None if bytes.length() == buffer.byte_length() => Owner::Piece(buffer),
            None => Owner::Others,
        };
        WebPiece { bytes, owner: Rc::new(owner) }
    }
}

impl Piece for WebPiece {
    fn bytes(&self) -> u64 {
        u64::from(self.bytes.length())
    }

    fn held_bytes(&self) -> u64 {
        match &*self.owner {
            Owner::Pool(buffer, _) => u64::from(buffer.byte_length()),
            _ => self.bytes(),
        }
    }

    fn split_off(&mut self, at: u64) -> WebPiece {
        let length = self.bytes.length();
        let at = u32::try_from(at).unwrap_or(length).min(length);
        let tail = self.bytes.subarray(at, length);
        self.bytes = self.bytes.subarray(0, at);
        WebPiece { bytes: tail, owner: self.owner.clone() }
    }

    fn to_vec(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }
}

/// Lets a promise end without anybody listening: a rejection unheard is an error in the console.
fn settle(promise: Promise) {
    spawn_local(async move {
        let _ = JsFuture::from(promise).await;
    });
}

/// Waits for one turn of the event loop. A message channel, since timers are held back to 4 ms.
pub async fn turn() {
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

/// Waits that long, or until the signal says so.
pub async fn sleep(ms: u64, until: Option<&AbortSignal>) {
    let mut awake = JsValue::UNDEFINED;
    let promise = Promise::new(&mut |resolve: Function, _reject| {
        let timer = Reflect::get(&js_sys::global(), &"setTimeout".into());
        let timer = timer.and_then(|timer| timer.dyn_into::<Function>());
        let set =
            timer.and_then(|timer| timer.call2(&JsValue::UNDEFINED, &resolve, &JsValue::from_f64(ms as f64)));
        if set.is_err() || until.is_some_and(AbortSignal::aborted) {
            let _ = resolve.call0(&JsValue::NULL);
        }
        if let Some(signal) = until {
            let _ = signal.add_event_listener_with_callback("abort", &resolve);
        }
        awake = resolve.into();
    });
    let _ = JsFuture::from(promise).await;
    if let (Some(signal), Some(awake)) = (until, awake.dyn_ref::<Function>()) {
        let _ = signal.remove_event_listener_with_callback("abort", awake);
    }
}
