//! Where a model is kept, as the client opened it: files of the origin's private file system.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use js_sys::{Function, Math, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{FileSystemReadWriteOptions, FileSystemSyncAccessHandle};

use super::error::{bad_request, describe, name_of};
use super::{from_js, to_js};
use crate::checkpoint::storage::{StorageError, StoredFile};
use crate::engine::cache::{KnownFile, POINT_BYTES};
use crate::engine::{CacheFiles, Trust, WeightMode};

/// Reads `trust` and `cache: {pack, journal, fresh, identified, freeBytes, onStart, onReplace}` of a
/// source, where it has them; `onReplace` gives a promise.
///
/// # Errors
/// `bad-request` for any other shape.
pub fn of_source(source: &JsValue) -> Result<(Trust, Option<CacheFiles>), JsValue> {
    let field = |of: &JsValue, name: &str| Reflect::get(of, &name.into()).unwrap_or(JsValue::UNDEFINED);
    let trust = field(source, "trust");
    let trust = if trust.is_object() { from_js("source.trust", trust)? } else { Trust::default() };
    let cache = field(source, "cache");
    if !cache.is_object() {
        return Ok((trust, None));
    }
    let file = |name: &str| -> Result<Box<dyn StoredFile>, JsValue> {
        let handle: FileSystemSyncAccessHandle = field(&cache, name)
            .dyn_into()
            .map_err(|_| bad_request("source.cache: pack and journal must be synchronous access handles"))?;
        Ok(Box::new(OriginFile(handle)))
    };
    let on_start: Option<Function> = field(&cache, "onStart").dyn_into().ok();
    let on_start = move |files: &BTreeMap<String, KnownFile>, bytes: u64, form: WeightMode| {
        if let (Some(on_start), Ok(files), Ok(form)) = (&on_start, to_js(files), to_js(&form)) {
            // What it throws concerns the list of entries, not the load.
            let _ = on_start.call3(&JsValue::NULL, &files, &JsValue::from_f64(bytes as f64), &form);
        }
    };
    let on_replace: Option<Function> = field(&cache, "onReplace").dyn_into().ok();
    let on_replace = move || {
        let promise = on_replace.as_ref().and_then(|ask| ask.call0(&JsValue::NULL).ok());
        let promise: Option<Promise> = promise.and_then(|value| value.dyn_into().ok());
        let waiting = async move {
            if let Some(promise) = promise {
                // Whatever it meets, the entry is made anew.
                let _ = JsFuture::from(promise).await;
            }
        };
        Box::pin(waiting) as Pin<Box<dyn Future<Output = ()>>>
    };
    let files = CacheFiles {
        pack: file("pack")?,
        journal: file("journal")?,
        fresh: field(&cache, "fresh").is_truthy(),
        identified: field(&cache, "identified").is_truthy(),
        free_bytes: field(&cache, "freeBytes").as_f64().map(|bytes| bytes as u64),
        salt: Math::random().to_bits(),
        point_bytes: POINT_BYTES,
        on_start: Box::new(on_start),
        on_replace: Box::new(on_replace),
    };
    Ok((trust, Some(files)))
}

/// A file of the origin's private file system.
struct OriginFile(FileSystemSyncAccessHandle);

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn failed(thrown: JsValue) -> StorageError {
    match name_of(&thrown).as_deref() {
        Some("QuotaExceededError") => StorageError::NoSpace(describe(&thrown)),
        _ => StorageError::Failed(describe(&thrown)),
    }
}

fn at(position: u64) -> FileSystemReadWriteOptions {
    let options = FileSystemReadWriteOptions::new();
    // f64 holds every integer to 2^53 exactly, and no file is larger.
    options.set_at(position as f64);
    options
}

impl StoredFile for OriginFile {
    fn bytes(&self) -> Result<u64, StorageError> {
        self.0.get_size().map(|bytes| bytes as u64).map_err(failed)
    }

    fn read_at(&self, from: u64, into: &mut [u8]) -> Result<usize, StorageError> {
        let read = self.0.read_with_u8_array_and_options(into, &at(from)).map_err(failed)?;
        Ok(read as usize)
    }

    fn write_at(&self, to: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let written = self.0.write_with_u8_array_and_options(bytes, &at(to)).map_err(failed)?;
        if written as usize == bytes.len() {
            return Ok(());
        }
        // What it says instead may be no length, but an error's number.
        Err(StorageError::NoSpace("not all could be written".to_owned()))
    }

    fn truncate(&self, bytes: u64) -> Result<(), StorageError> {
        self.0.truncate_with_f64(bytes as f64).map_err(failed)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.0.flush().map_err(failed)
    }
}
