//! Errors as JavaScript sees them: an `Error` with a stable `code`.

use js_sys::{Error, Reflect};
use wasm_bindgen::JsValue;

use crate::checkpoint::SourceError;
use crate::engine::EngineError;

/// An `Error` named `BiseError` with `code` and `message`; the client turns it into its own class,
/// which cannot cross from a worker.
fn with_code(code: &str, message: &str) -> JsValue {
    let error = Error::new(message);
    error.set_name("BiseError");
    // Cannot fail on an object made one line above; if it did, the message alone would still arrive.
    let _ = Reflect::set(&error, &"code".into(), &code.into());
    error.into()
}

/// A request or an option that cannot be served as it is.
pub fn bad_request(message: &str) -> JsValue {
    with_code("bad-request", message)
}

/// The engine's own errors.
#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
pub fn from_engine(error: EngineError) -> JsValue {
    with_code(error.code(), &error.to_string())
}

/// What was thrown, in words.
pub fn describe(thrown: &JsValue) -> String {
    // Errors and DOMExceptions have one, and so has GPUError, which is neither.
    text(thrown, "message")
        .filter(|message| !message.is_empty())
        .or_else(|| name_of(thrown))
        .unwrap_or_else(|| format!("{thrown:?}"))
}

fn text(object: &JsValue, key: &str) -> Option<String> {
    Reflect::get(object, &key.into()).ok()?.as_string()
}

/// The `name` of a thrown Error or DOMException, such as `NotFoundError`.
pub fn name_of(thrown: &JsValue) -> Option<String> {
    text(thrown, "name")
}

/// A rejected read of a file on this computer.
pub fn from_file(file: &str, thrown: &JsValue) -> SourceError {
    match name_of(thrown).as_deref() {
        Some("AbortError") => SourceError::Aborted,
        Some("NotFoundError" | "TypeMismatchError") => SourceError::NotFound { file: file.to_owned() },
        _ => SourceError::Io { file: file.to_owned(), detail: describe(thrown) },
    }
}
