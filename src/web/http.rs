//! Files of a directory on a web server, over fetch.

use std::ops::Range;

use js_sys::{Array, Function, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, AbortSignal, Headers, RequestCache, RequestInit, Url};

use super::error::{bad_request, describe};
use super::stream::{Pool, WebBody};
use crate::checkpoint::SourceError;
use crate::checkpoint::transport::Response;

/// A directory's URL, and what to send with each request.
pub struct HttpDirectory {
    /// With a trailing slash, without query.
    base: String,
    /// `?...` or empty: a signed URL keeps its signature.
    query: String,
    /// An object of header names and values, or undefined.
    headers: JsValue,
    pool: Pool,
}

/// Ends a request when it is dropped: the answer that nobody waits for any more, or the rest of its
/// body. After the body's end that does nothing.
pub struct Ending(AbortController);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
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
        Ok(HttpDirectory { base, query: url.search(), headers, pool: Pool::shared() })
    }

    /// A file's URL, without the query, which may hold a secret.
    pub fn url(&self, file: &str) -> String {
        let part = |part| String::from(js_sys::encode_uri_component(part));
        let path: Vec<String> = file.split('/').map(part).collect();
        format!("{}{}", self.base, path.join("/"))
    }

    /// Sends one request. Errors name the file by its URL.
    pub async fn fetch(
        &self,
        file: &str,
        range: Option<Range<u64>>,
        bulk: bool,
        signal: &AbortSignal,
    ) -> Result<Response<WebBody>, SourceError> {
        let url = self.url(file);
        let failed = |thrown: JsValue| {
            if signal.aborted() {
                return SourceError::Aborted;
            }
            SourceError::Network { file: url.clone(), detail: describe(&thrown) }
        };
        let ending = Ending(AbortController::new().map_err(failed)?);
        let either = AbortSignal::any(&Array::of2(signal, &ending.0.signal()));
        let response = self.send(&url, range, bulk, &either).await.map_err(failed)?;
        let header = |name: &str| response.headers().get(name).ok().flatten();
        let encoded = header("content-encoding").is_some();
        // The length counts only where no header can be hidden that would tell of compression: in
        // answers of the page's own origin.
        let is_plain = !encoded && response.type_() == web_sys::ResponseType::Basic;
        let body_bytes = header("content-length").filter(|_| is_plain).and_then(|bytes| bytes.parse().ok());
        let body = match response.body() {
            Some(body) => Some(WebBody::new(&url, &body, &self.pool, signal.clone(), Some(ending))?),
            None => None,
        };
        Ok(Response {
            status: response.status(),
            content_range: header("content-range"),
            body_bytes,
            validator: header("etag").or_else(|| header("last-modified")).filter(|_| !encoded),
            linked_etag: header("x-linked-etag"),
            retry_after: header("retry-after"),
            body,
        })
    }

    async fn send(
        &self,
        url: &str,
        range: Option<Range<u64>>,
        bulk: bool,
        signal: &AbortSignal,
    ) -> Result<web_sys::Response, JsValue> {
        let url = format!("{url}{}", self.query);
        let headers = match self.headers.is_object() {
            true => Headers::new_with_headers(self.headers.unchecked_ref())?,
            false => Headers::new()?,
        };
        if let Some(Range { start, end }) = range {
            let last = if end == u64::MAX { String::new() } else { end.saturating_sub(1).to_string() };
            headers.set("Range", &format!("bytes={start}-{last}"))?;
        }
        let init = RequestInit::new();
        init.set_headers(&headers);
        init.set_signal(Some(signal));
        if bulk {
            // Browsers' caches let one request at a time write an entry: the others would wait.
            init.set_cache(RequestCache::NoStore);
        }
        // Looked up rather than imported: the same code runs in a page, a worker and a test runner.
        let fetch: Function = Reflect::get(&js_sys::global(), &"fetch".into())?.dyn_into()?;
        let promise = fetch.call2(&JsValue::UNDEFINED, &url.into(), &init)?;
        JsFuture::from(js_sys::Promise::resolve(&promise)).await?.dyn_into()
    }
}
