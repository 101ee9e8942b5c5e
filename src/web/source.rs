//! Where a checkpoint lies, as the client describes it.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use js_sys::{Map, Object, Reflect};
use serde_json::Value;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Blob, FileSystemDirectoryHandle, FileSystemFileHandle};
use web_time::{Duration, Instant};

use super::error::{bad_request, from_file};
use super::http::HttpDirectory;
use super::stream::{Pool, WebBody, sleep, turn};
use crate::checkpoint::retry::{Network, Waiting};
use crate::checkpoint::steady::{LANE_BYTES, LANES as LANES_AHEAD, Steady, SteadyStream};
use crate::checkpoint::transport::{Body as _, Piece as _, Response, Transport};
use crate::checkpoint::{ByteSource, ByteStream, Opened, SourceError};

/// Longest list of a hub's repository that is read, bytes.
const LISTING_LIMIT_BYTES: usize = 2 << 20;

/// How long reads may go on without letting the worker see its messages. Pieces that lie ready
/// arrive without a turn of the event loop, and an abort would wait for all of them.
const TURN: Duration = Duration::from_millis(20);

thread_local! {
    /// Connections are the browser's, however many sources share them.
    static LANES: Rc<Cell<usize>> = Rc::default();
}

/// Hears that a transfer stands still until its next attempt.
pub type OnWaiting = Rc<dyn Fn(&Waiting)>;

/// A checkpoint's directory in the browser. Dropping a stream of it cancels the read.
pub struct WebSource(Steady<WebTransport>);

/// How its files are read.
pub struct WebTransport {
    place: Place,
    /// For files of this computer.
    pool: Pool,
    signal: AbortSignal,
    on_waiting: OnWaiting,
}

enum Place {
    /// A directory on a web server, and where a hub lists its files: the URL's last part apart.
    Http(HttpDirectory, Option<(HttpDirectory, String)>),
    /// Name -> `File`.
    Files(Map),
    /// A picked directory.
    Directory(FileSystemDirectoryHandle),
}

impl WebSource {
    /// Reads `{kind: "http", base, listing?, headers?, network?}`, `{kind: "files", files}` or
    /// `{kind: "directory", handle}`; `network` is `{attempts?, backoffMs?, stallMs?}`, `trust` the hashes that a
    /// [`Kept`](crate::engine::cached::Kept) will compare.
    ///
    /// `siblings` sources are read beside it: with more than one, connections are spared, of which browsers
    /// allow six to a host.
    ///
    /// # Errors
    /// `bad-request` for any other shape.
    pub fn new(
        source: &JsValue,
        signal: AbortSignal,
        on_waiting: OnWaiting,
        siblings: usize,
    ) -> Result<WebSource, JsValue> {
        let field = |name: &str| get(source, name);
        let place = match field("kind").as_string().as_deref() {
            Some("http") => {
                let base = field("base").as_string();
                let base = base.ok_or_else(|| bad_request("source.base must be a string"))?;
                let listing = field("listing").as_string();
                let listing = match listing.as_deref().and_then(|url| url.rsplit_once('/')) {
                    Some((base, file)) => {
                        Some((HttpDirectory::new(base, field("headers"))?, file.to_owned()))
                    }
                    None => None,
                };
                Place::Http(HttpDirectory::new(&base, field("headers"))?, listing)
            }
            Some("files") => Place::Files(
                field("files").dyn_into().map_err(|_| bad_request("source.files must be a Map of Files"))?,
            ),
            Some("directory") => Place::Directory(
                field("handle")
                    .dyn_into()
                    .map_err(|_| bad_request("source.handle must be a FileSystemDirectoryHandle"))?,
            ),
            _ => return Err(bad_request("source.kind must be \"http\", \"files\" or \"directory\"")),
        };
        let network = network(&field("network"));
        let (lane_bytes, lanes) = match place {
            Place::Http(..) if siblings < 2 => (LANE_BYTES, LANES.with(Rc::clone)),
            Place::Http(..) => (LANE_BYTES, Rc::new(Cell::new(LANES_AHEAD))),
            // A file of this computer comes no faster in parts.
            _ => (u64::MAX..=u64::MAX, Rc::default()),
        };
        let transport = WebTransport { place, pool: Pool::shared(), signal, on_waiting };
        let hashed = ["manifest", "hub"].map(|by| get(&get(source, "trust"), by));
        let hashed = hashed.iter().filter_map(|hashes| hashes.dyn_ref::<Object>());
        let hashed = hashed.flat_map(|hashes| {
            Object::keys(hashes).iter().filter_map(|name| name.as_string()).collect::<Vec<_>>()
        });
        Ok(WebSource(Steady::new(transport, network, lane_bytes, lanes).hashing(hashed.collect())))
    }
}

fn get(object: &JsValue, name: &str) -> JsValue {
    Reflect::get(object, &name.into()).unwrap_or(JsValue::UNDEFINED)
}

/// The client has checked these numbers.
fn network(given: &JsValue) -> Network {
    let usual = Network::default();
    let number = |name: &str, usual: u64| get(given, name).as_f64().map_or(usual, |number| number as u64);
    Network {
        attempts: number("attempts", usual.attempts.into()) as u32,
        backoff_ms: number("backoffMs", usual.backoff_ms),
        stall_ms: number("stallMs", usual.stall_ms),
    }
}

impl ByteSource for WebSource {
    type Stream = WebStream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<WebStream>, SourceError> {
        let signal = self.0.transport().signal.clone();
        if signal.aborted() {
            return Err(SourceError::Aborted);
        }
        check_inside(file)?;
        let opened = self.0.open(file, range).await?;
        Ok(opened.map(|steady| WebStream { steady, signal, last_turn: Instant::now() }))
    }

    async fn turn(&self) {
        turn().await;
    }

    async fn list(&self) -> Vec<String> {
        let transport = self.0.transport();
        match &transport.place {
            Place::Http(_, Some((directory, file))) => transport.hub_files(directory, file).await,
            Place::Http(_, None) => Vec::new(),
            Place::Files(files) => names(files.keys()),
            Place::Directory(directory) => {
                let (mut all, entries) = (Vec::new(), directory.keys());
                while let Ok(next) = entries.next().map(JsFuture::from) {
                    let value = next.await.and_then(|step| Reflect::get(&step, &"value".into()));
                    match value.ok().and_then(|name| name.as_string()) {
                        Some(name) => all.push(name),
                        None => break,
                    }
                }
                all
            }
        }
    }
}

/// Bytes of one file. Dropping it closes its connections.
pub struct WebStream {
    steady: SteadyStream<WebTransport>,
    signal: AbortSignal,
    last_turn: Instant,
}

impl ByteStream for WebStream {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        if self.last_turn.elapsed() >= TURN {
            turn().await;
            self.last_turn = Instant::now();
        }
        if self.signal.aborted() {
            return Err(SourceError::Aborted);
        }
        self.steady.next().await
    }
}

impl Transport for WebTransport {
    type Body = WebBody;

    async fn fetch(
        &self,
        file: &str,
        range: Option<Range<u64>>,
        bulk: bool,
    ) -> Result<Response<WebBody>, SourceError> {
        if self.signal.aborted() {
            return Err(SourceError::Aborted);
        }
        let blob: Blob = match &self.place {
            Place::Http(directory, _) => return directory.fetch(file, range, bulk, &self.signal).await,
            Place::Files(files) => files
                .get(&file.into())
                .dyn_into()
                .map_err(|_| SourceError::NotFound { file: file.to_owned() })?,
            Place::Directory(directory) => {
                picked(directory.clone(), file).await.map_err(|thrown| from_file(file, &thrown))?
            }
        };
        open_blob(file, &blob, range, &self.pool, &self.signal)
    }

    async fn sleep(&self, ms: u64) {
        sleep(ms, None).await;
    }

    async fn pause(&self, ms: u64) {
        sleep(ms, Some(&self.signal)).await;
    }

    fn now_ms(&self) -> u64 {
        js_sys::Date::now() as u64
    }

    fn date_ms(&self, text: &str) -> Option<u64> {
        let ms = js_sys::Date::parse(text);
        ms.is_finite().then_some(ms as u64)
    }

    fn random(&self) -> f64 {
        js_sys::Math::random()
    }

    fn waiting(&self, waiting: &Waiting) {
        (self.on_waiting)(waiting);
    }

    fn name(&self, file: &str) -> String {
        match &self.place {
            Place::Http(directory, _) => directory.url(file),
            _ => file.to_owned(),
        }
    }
}

impl WebTransport {
    /// The files that a hub lists; none if it does not answer as ours does.
    async fn hub_files(&self, directory: &HttpDirectory, file: &str) -> Vec<String> {
        let answer = directory.fetch(file, None, false, &self.signal).await;
        let Ok(Response { status: 200, body: Some(mut body), .. }) = answer else { return Vec::new() };
        let mut json = Vec::new();
        while let Ok(Some(piece)) = body.next().await {
            json.extend_from_slice(&piece.to_vec());
            if json.len() > LISTING_LIMIT_BYTES {
                return Vec::new();
            }
        }
        let repository: Value = serde_json::from_slice(&json).unwrap_or_default();
        let siblings = repository.get("siblings").and_then(Value::as_array).into_iter().flatten();
        let names = siblings.filter_map(|sibling| sibling.get("rfilename")?.as_str());
        names.map(str::to_owned).collect()
    }
}

fn names(iterator: js_sys::Iterator) -> Vec<String> {
    iterator.into_iter().flatten().filter_map(|name| name.as_string()).collect()
}

/// File names come from a checkpoint's index, which anybody may have written: one that leaves the
/// checkpoint's directory is refused.
fn check_inside(file: &str) -> Result<(), SourceError> {
    if file.split('/').any(|part| matches!(part, "" | "." | "..") || part.contains('\\')) {
        let detail = "not the name of a file inside the checkpoint's directory".to_owned();
        return Err(SourceError::Io { file: file.to_owned(), detail });
    }
    Ok(())
}

async fn picked(mut directory: FileSystemDirectoryHandle, file: &str) -> Result<Blob, JsValue> {
    let (parents, name) = file.rsplit_once('/').map_or(("", file), |(parents, name)| (parents, name));
    for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
        directory = JsFuture::from(directory.get_directory_handle(parent)).await?.dyn_into()?;
    }
    let handle: FileSystemFileHandle = JsFuture::from(directory.get_file_handle(name)).await?.dyn_into()?;
    JsFuture::from(handle.get_file()).await?.dyn_into()
}

/// A file of this computer, answered as a server would.
fn open_blob(
    file: &str,
    blob: &Blob,
    range: Option<Range<u64>>,
    pool: &Pool,
    signal: &AbortSignal,
) -> Result<Response<WebBody>, SourceError> {
    let file_bytes = blob.size() as u64;
    let Range { start, end } = range.clone().unwrap_or(0..file_bytes);
    let end = end.min(file_bytes);
    if range.is_some() && start >= end {
        let content_range = Some(format!("bytes */{file_bytes}"));
        return Ok(Response { status: 416, content_range, ..Response::default() });
    }
    // f64 holds every integer to 2^53 exactly, and no file is larger.
    let part =
        blob.slice_with_f64_and_f64(start as f64, end as f64).map_err(|thrown| from_file(file, &thrown))?;
    Ok(Response {
        status: if range.is_some() { 206 } else { 200 },
        content_range: range.map(|_| format!("bytes {start}-{}/{file_bytes}", end.saturating_sub(1))),
        body_bytes: Some(end - start),
        body: Some(WebBody::new(file, &part.stream(), pool, signal.clone(), None)?),
        ..Response::default()
    })
}
