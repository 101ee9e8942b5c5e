//! Files of a directory on a web server, over fetch.

use std::ops::Range;

use js_sys::{Function, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Headers, RequestInit, Response, Url};

use super::answer::{Answer, judge};
use super::error::{bad_request, describe};
use super::stream::{Bounds, WebStream};
use crate::checkpoint::{Opened, SourceError};

/// A directory's URL, and what to send with each request.
pub struct HttpDirectory {
    /// With a trailing slash, without query.
    base: String,
    /// `?...` or empty: a signed URL keeps its signature.
    query: String,
    /// An object of header names and values, or undefined.
    headers: JsValue,
}

impl HttpDirectory {
    /// A directory at an absolute URL.
    ///
    /// # Errors
    /// `bad-request` if that is no URL.
    pub fn new(base: &str, headers: JsValue) -> Result<HttpDirectory, JsValue> {
        let url = Url::new(base).map_err(|_| bad_request(&format!("\"{base}\" is not an absolute URL")))?;
        let path = url.pathname();
        let slash = if path.ends_with('/') { "" } else { "/" };
        let base = format!("{}{path}{slash}", url.origin());
        Ok(HttpDirectory { base, query: url.search(), headers })
    }

    /// Opens a file, or a range of its bytes. Errors name it by its URL.
    pub async fn open(
        &self,
        parts: &[&str],
        range: Option<Range<u64>>,
        signal: &AbortSignal,
    ) -> Result<Opened<WebStream>, SourceError> {
        let start = range.as_ref().map_or(0, |range| range.start);
        let url = self.url(parts);
        let file = url.as_str();
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(Opened::new(WebStream::empty(file, start, signal.clone()), None));
        }
        let failed = |thrown: JsValue| {
            if signal.aborted() {
                return SourceError::Aborted;
            }
            SourceError::Network { file: file.to_owned(), detail: describe(&thrown) }
        };
        let response = self.fetch(file, range.as_ref(), signal).await.map_err(failed)?;
        let header = |name: &str| response.headers().get(name).ok().flatten();
        let content_range = header("content-range");
        let answer =
            judge(response.status(), content_range.as_deref(), plain_length(&response), range.as_ref());
        let (bounds, file_bytes) = match answer {
            Answer::Body { limit, end, file_bytes } => (Bounds { start, limit, end }, file_bytes),
            Answer::PastEnd { file_bytes } => {
                discard(&response);
                let stream = WebStream::empty(file, start, signal.clone());
                return Ok(Opened::new(stream, file_bytes));
            }
            other => {
                discard(&response);
                return Err(refusal(file, &other, response.status(), content_range));
            }
        };
        let body = response.body().ok_or_else(|| SourceError::Network {
            file: file.to_owned(),
            detail: "the answer has no body".to_owned(),
        })?;
        let stream = WebStream::new(file, &body, bounds, signal.clone())?;
        let validator = header("etag").or_else(|| header("last-modified"));
        let linked_sha256 = header("x-linked-etag").and_then(|etag| sha256_of(&etag));
        Ok(Opened { stream, file_bytes, validator, linked_sha256 })
    }

    /// A file's URL, without the query, which may hold a secret.
    fn url(&self, parts: &[&str]) -> String {
        let path: Vec<String> =
            parts.iter().map(|part| String::from(js_sys::encode_uri_component(part))).collect();
        format!("{}{}", self.base, path.join("/"))
    }

    async fn fetch(
        &self,
        url: &str,
        range: Option<&Range<u64>>,
        signal: &AbortSignal,
    ) -> Result<Response, JsValue> {
        let url = format!("{url}{}", self.query);
        let headers = match self.headers.is_object() {
            true => Headers::new_with_headers(self.headers.unchecked_ref())?,
            false => Headers::new()?,
        };
        if let Some(range) = range {
            headers.set("Range", &format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))?;
        }
        let init = RequestInit::new();
        init.set_headers(&headers);
        init.set_signal(Some(signal));
        // Looked up rather than imported: the same code runs in a page, a worker and a test runner.
        let fetch: Function = Reflect::get(&js_sys::global(), &"fetch".into())?.dyn_into()?;
        let promise = fetch.call2(&JsValue::UNDEFINED, &url.into(), &init)?;
        JsFuture::from(js_sys::Promise::resolve(&promise)).await?.dyn_into()
    }
}

/// The body's length, where the header says it: not for compressed bodies, and only where no header
/// that would tell so can be hidden (answers of the page's own origin).
fn plain_length(response: &Response) -> Option<u64> {
    if response.type_() != web_sys::ResponseType::Basic {
        return None;
    }
    let header = |name: &str| response.headers().get(name).ok().flatten();
    match header("content-encoding") {
        None => header("content-length")?.parse().ok(),
        Some(_) => None,
    }
}

/// The digest that the hub gives as the ETag of a large file.
fn sha256_of(etag: &str) -> Option<String> {
    let digest = etag.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
    (digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digest)
}

fn refusal(file: &str, answer: &Answer, status: u16, content_range: Option<String>) -> SourceError {
    let file = file.to_owned();
    match answer {
        Answer::NotFound => SourceError::NotFound { file },
        Answer::RangeIgnored => SourceError::RangeIgnored { file },
        Answer::WrongRange => SourceError::Network {
            file,
            detail: format!("the server sent \"{}\"", content_range.unwrap_or_default()),
        },
        _ => SourceError::Status { file, status },
    }
}

/// Closes the connection of an answer that nobody will read.
fn discard(response: &Response) {
    if let Some(body) = response.body() {
        super::stream::settle(body.cancel());
    }
}
