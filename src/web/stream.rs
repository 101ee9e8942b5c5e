//! A `ReadableStream` as the body of an answer, and what time there is in a browser.

use std::rc::Rc;

use js_sys::{ArrayBuffer, Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{AbortSignal, MessageChannel, ReadableStream, ReadableStreamDefaultReader};

use super::error::describe;
use super::http::Ending;
use crate::checkpoint::SourceError;
use crate::checkpoint::transport::{Body, Piece};

/// Bytes of one file. Dropping it closes the connection.
pub struct WebBody {
    file: String,
    /// None once the body has ended.
    reader: Option<ReadableStreamDefaultReader>,
    signal: AbortSignal,
    /// The request, if it was one: then failures may pass.
    ending: Option<Ending>,
}

impl WebBody {
    /// Reads `body`.
    pub fn new(
        file: &str,
        body: &ReadableStream,
        signal: AbortSignal,
        ending: Option<Ending>,
    ) -> Result<WebBody, SourceError> {
        let reader = ReadableStreamDefaultReader::new(body)
            .map_err(|thrown| SourceError::Io { file: file.to_owned(), detail: describe(&thrown) })?;
        Ok(WebBody { file: file.to_owned(), reader: Some(reader), signal, ending })
    }
}

impl Body for WebBody {
    type Piece = WebPiece;

    async fn next(&mut self) -> Result<Option<WebPiece>, SourceError> {
        let Some(reader) = &self.reader else { return Ok(None) };
        let error = match read(reader).await {
            Ok(Some(bytes)) => return Ok(Some(WebPiece::new(bytes))),
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
    owner: Rc<Buffer>,
}

/// Memory that the browser handed out. It is given back at once: garbage collectors wait until there
/// is more of it than a load may take.
struct Buffer(ArrayBuffer);

impl Drop for Buffer {
    fn drop(&mut self) {
        let transfer = Reflect::get(&self.0, &"transfer".into());
        if let Ok(transfer) = transfer.and_then(|transfer| transfer.dyn_into::<Function>()) {
            let _ = transfer.call1(&self.0, &JsValue::from_f64(0.0));
        }
    }
}

impl WebPiece {
    fn new(bytes: Uint8Array) -> WebPiece {
        let owner = Rc::new(Buffer(bytes.buffer().unchecked_into()));
        WebPiece { bytes, owner }
    }
}

impl Piece for WebPiece {
    fn bytes(&self) -> u64 {
        u64::from(self.bytes.length())
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

/// `{done, value}` of one read.
async fn read(reader: &ReadableStreamDefaultReader) -> Result<Option<Uint8Array>, JsValue> {
    let result = JsFuture::from(reader.read()).await?;
    match Reflect::get(&result, &"done".into())?.is_truthy() {
        true => Ok(None),
        false => Reflect::get(&result, &"value".into())?.dyn_into().map(Some),
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
