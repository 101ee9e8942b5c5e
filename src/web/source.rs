//! Where a checkpoint lies, as the client describes it.

use std::ops::Range;

use js_sys::{Map, Reflect};
use serde_json::Value;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Blob, FileSystemDirectoryHandle, FileSystemFileHandle};

use super::error::{bad_request, from_file};
use super::http::HttpDirectory;
use super::stream::{Bounds, WebStream};
use crate::checkpoint::{ByteSource, ByteStream, Opened, SourceError};

/// Longest list of a hub's repository that is read, bytes.
const LISTING_LIMIT_BYTES: usize = 2 << 20;

/// A checkpoint's directory in the browser. Dropping a stream of it cancels the read.
pub struct WebSource {
    place: Place,
    signal: AbortSignal,
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
    /// Reads `{kind: "http", base, listing?, headers?}`, `{kind: "files", files}` or
    /// `{kind: "directory", handle}`.
    ///
    /// # Errors
    /// `bad-request` for any other shape.
    pub fn new(source: &JsValue, signal: AbortSignal) -> Result<WebSource, JsValue> {
        let field = |name: &str| Reflect::get(source, &name.into()).unwrap_or(JsValue::UNDEFINED);
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
        Ok(WebSource { place, signal })
    }
}

impl ByteSource for WebSource {
    type Stream = WebStream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<WebStream>, SourceError> {
        if self.signal.aborted() {
            return Err(SourceError::Aborted);
        }
        let parts = path_inside(file)?;
        let blob: Blob = match &self.place {
            Place::Http(directory, _) => return directory.open(&parts, range, &self.signal).await,
            Place::Files(files) => files
                .get(&file.into())
                .dyn_into()
                .map_err(|_| SourceError::NotFound { file: file.to_owned() })?,
            Place::Directory(directory) => {
                picked(directory.clone(), &parts).await.map_err(|thrown| from_file(file, &thrown))?
            }
        };
        open_blob(file, &blob, range, &self.signal)
    }

    async fn list(&self) -> Vec<String> {
        match &self.place {
            Place::Http(_, Some((directory, file))) => self.hub_files(directory, file).await,
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

impl WebSource {
    /// The files that a hub lists; none if it does not answer as ours does.
    async fn hub_files(&self, directory: &HttpDirectory, file: &str) -> Vec<String> {
        let Ok(Opened { mut stream, .. }) = directory.open(&[file], None, &self.signal).await else {
            return Vec::new();
        };
        let mut json = Vec::new();
        while let Ok(Some(piece)) = stream.next().await {
            json.extend_from_slice(&piece);
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

/// The parts of a relative path. File names come from a checkpoint's index, which anybody may have
/// written: one that leaves the checkpoint's directory is refused.
fn path_inside(file: &str) -> Result<Vec<&str>, SourceError> {
    let parts: Vec<&str> = file.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('\\')) {
        let detail = "not the name of a file inside the checkpoint's directory".to_owned();
        return Err(SourceError::Io { file: file.to_owned(), detail });
    }
    Ok(parts)
}

async fn picked(mut directory: FileSystemDirectoryHandle, parts: &[&str]) -> Result<Blob, JsValue> {
    let Some((name, parents)) = parts.split_last() else {
        return Err(JsValue::from_str("empty file name"));
    };
    for parent in parents {
        directory = JsFuture::from(directory.get_directory_handle(parent)).await?.dyn_into()?;
    }
    let handle: FileSystemFileHandle = JsFuture::from(directory.get_file_handle(name)).await?.dyn_into()?;
    JsFuture::from(handle.get_file()).await?.dyn_into()
}

fn open_blob(
    file: &str,
    blob: &Blob,
    range: Option<Range<u64>>,
    signal: &AbortSignal,
) -> Result<Opened<WebStream>, SourceError> {
    let file_bytes = blob.size() as u64;
    let asked = range.unwrap_or(0..file_bytes);
    let (start, end) = (asked.start.min(file_bytes), asked.end.min(file_bytes));
    // f64 holds every integer to 2^53 exactly, and no file is larger.
    let part = blob
        .slice_with_f64_and_f64(start as f64, end.max(start) as f64)
        .map_err(|thrown| from_file(file, &thrown))?;
    let end = Some(end.max(start));
    let stream = WebStream::new(file, &part.stream(), Bounds { start, limit: end, end }, signal.clone())?;
    Ok(Opened::new(stream, Some(file_bytes)))
}
