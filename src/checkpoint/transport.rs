//! What carries bytes over a network: single requests that may fail at any moment. No policy here;
//! [`Steady`](super::steady::Steady) makes a [`ByteSource`](super::ByteSource) of it.

use std::ops::Range;

use crate::checkpoint::retry::Waiting;
use crate::checkpoint::source::SourceError;

/// Sends requests, and has a clock.
#[allow(async_fn_in_trait, reason = "single-threaded by design")]
pub trait Transport: 'static {
    /// The body of an answer.
    type Body: Body;

    /// Sends a request for `range` of a file, to the end of the file where it ends at `u64::MAX`, or
    /// for all of it. `bulk` bytes are too many to be kept by caches on the way. Dropping the future
    /// ends the request.
    ///
    /// # Errors
    /// [`SourceError::Network`] where no answer came: that may pass. Any other error will not.
    async fn fetch(
        &self,
        file: &str,
        range: Option<Range<u64>>,
        bulk: bool,
    ) -> Result<Response<Self::Body>, SourceError>;

    /// Waits that long.
    async fn sleep(&self, ms: u64);

    /// Waits that long, or until the caller has ended the transfer.
    async fn pause(&self, ms: u64);

    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// A date as HTTP writes it, in milliseconds since 1970.
    fn date_ms(&self, text: &str) -> Option<u64>;

    /// A number in [0, 1).
    fn random(&self) -> f64;

    /// Hears that nothing comes until another attempt is made.
    fn waiting(&self, waiting: &Waiting);

    /// What errors call a file, such as its URL.
    fn name(&self, file: &str) -> String;
}

/// The body of an answer. Dropping it closes the connection.
#[allow(async_fn_in_trait, reason = "single-threaded by design")]
pub trait Body {
    /// Bytes, wherever they lie until they are needed.
    type Piece: Piece;

    /// The next bytes; `None` at the end. Dropping the future loses no more than the body.
    ///
    /// # Errors
    /// As [`Transport::fetch`].
    async fn next(&mut self) -> Result<Option<Self::Piece>, SourceError>;
}

/// Some bytes.
pub trait Piece {
    /// How many.
    fn bytes(&self) -> u64;

    /// Memory that they keep from other use, bytes.
    fn held_bytes(&self) -> u64 {
        self.bytes()
    }

    /// Takes off all from byte `at` on, which is at most their number.
    fn split_off(&mut self, at: u64) -> Self;

    /// Copies them.
    fn to_vec(&self) -> Vec<u8>;
}

/// An answer: its status and those headers that the caller may see.
#[derive(Clone, Debug)]
pub struct Response<B> {
    /// HTTP status.
    pub status: u16,
    /// Content-Range.
    pub content_range: Option<String>,
    /// Length of the body in bytes, where that is certain.
    pub body_bytes: Option<u64>,
    /// ETag, else Last-Modified, of a body that is not compressed.
    pub validator: Option<String>,
    /// x-linked-etag.
    pub linked_etag: Option<String>,
    /// Retry-After.
    pub retry_after: Option<String>,
    /// The bytes.
    pub body: Option<B>,
}

impl<B> Default for Response<B> {
    fn default() -> Response<B> {
        Response {
            status: 0,
            content_range: None,
            body_bytes: None,
            validator: None,
            linked_etag: None,
            retry_after: None,
            body: None,
        }
    }
}
