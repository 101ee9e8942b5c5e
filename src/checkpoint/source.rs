//! The one door to the outside: named files, read as ranges of bytes in pieces.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Why bytes did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant names its fields")]
pub enum SourceError {
    #[error("{file}: not found; check that the checkpoint is complete")]
    NotFound { file: String },
    #[error("{file}: the server answered {status}; {}", advice(*status))]
    Status { file: String, status: u16 },
    #[error("{file}: the server sent {sent:?} where other bytes were asked for; use another host")]
    WrongRange { file: String, sent: String },
    #[error("{file}: changed on the server while it was read, before byte {offset}; load it again")]
    Changed { file: String, offset: u64 },
    /// After attempts at these bytes of the file.
    #[error("{error} (at byte {offset}, attempts: {attempts})")]
    GaveUp { offset: u64, attempts: u32, error: Box<SourceError> },
    #[error("{file}: the connection was cut at byte {offset} of {expected}; try again")]
    Cut { file: String, offset: u64, expected: u64 },
    #[error("{file}: network failure: {detail}")]
    Network { file: String, detail: String },
    #[error("{file}: {detail}")]
    Io { file: String, detail: String },
    #[error("aborted")]
    Aborted,
    /// A checkpoint from which these bytes were to be computed.
    #[error("{model}: {error}")]
    Parent { model: String, error: Box<super::CheckpointError> },
    #[error("{file}: is larger than {limit} bytes ({bytes} or more); that cannot be right")]
    TooLarge { file: String, bytes: u64, limit: u64 },
}

/// What to do about an HTTP status.
fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            "the model is gated or private, or there is none of that name: pass an access token (the \
             option token, or headers for other servers than the hub), or download the model and open its folder"
        }
        429 => "it has had too many requests: try again later",
        500.. => "try again later",
        _ => "check the address",
    }
}

/// A place that holds a checkpoint's files.
#[allow(async_fn_in_trait, reason = "single-threaded by design")]
pub trait ByteSource {
    /// The bytes of one opened range.
    type Stream: ByteStream;

    /// Opens `range` of `file`; `None` is the whole file. A range that passes the end is clamped;
    /// one that starts there or later is an empty stream.
    ///
    /// # Errors
    /// [`SourceError::NotFound`] where there is no such file, and whatever the source meets.
    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<Self::Stream>, SourceError>;

    /// Names of all files, where the source can tell; else none. For messages.
    async fn list(&self) -> Vec<String> {
        Vec::new()
    }

    /// Lets what is on its way arrive, where that takes a turn of somebody's event loop.
    async fn turn(&self) {}

    /// Bytes of memory that reading it may take beside what a transfer has on its way.
    fn memory_bytes(&self) -> u64 {
        0
    }
}

impl<S: ByteSource> ByteSource for &S {
    type Stream = S::Stream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<Self::Stream>, SourceError> {
        (**self).open(file, range).await
    }

    async fn list(&self) -> Vec<String> {
        (**self).list().await
    }

    async fn turn(&self) {
        (**self).turn().await;
    }

    fn memory_bytes(&self) -> u64 {
        (**self).memory_bytes()
    }
}

impl<S: ByteSource> ByteSource for Rc<S> {
    type Stream = S::Stream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<Self::Stream>, SourceError> {
        (**self).open(file, range).await
    }

    async fn list(&self) -> Vec<String> {
        (**self).list().await
    }

    async fn turn(&self) {
        (**self).turn().await;
    }

    fn memory_bytes(&self) -> u64 {
        (**self).memory_bytes()
    }
}

/// An opened range.
#[derive(Debug)]
pub struct Opened<S> {
    /// Its bytes.
    pub stream: S,
    /// Length of the whole file in bytes, where the source knows it.
    pub file_bytes: Option<u64>,
    /// What tells this version of the file from others: its ETag, else its Last-Modified, as the
    /// server gave it and where the page may see it.
    pub validator: Option<String>,
    /// SHA-256 of the whole file in lower-case hexadecimal, where the server tells it.
    pub linked_sha256: Option<String>,
}

impl<S> Opened<S> {
    /// An opened range of a file of which no more is known.
    pub fn new(stream: S, file_bytes: Option<u64>) -> Opened<S> {
        Opened { stream, file_bytes, validator: None, linked_sha256: None }
    }

    /// The same with another stream.
    pub fn map<T>(self, change: impl FnOnce(S) -> T) -> Opened<T> {
        let Opened { stream, file_bytes, validator, linked_sha256 } = self;
        Opened { stream: change(stream), file_bytes, validator, linked_sha256 }
    }
}

/// Bytes in pieces of any size.
#[allow(async_fn_in_trait, reason = "single-threaded by design")]
pub trait ByteStream {
    /// The next piece; `None` at the end. Dropping the stream ends the transfer.
    ///
    /// # Errors
    /// Whatever the source meets; the stream is then at its end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError>;
}

/// Reads a range into memory.
///
/// # Errors
/// [`SourceError::TooLarge`] as soon as more than `limit_bytes` came: side files are not trusted.
pub async fn read_all(
    source: &impl ByteSource,
    file: &str,
    range: Option<Range<u64>>,
    limit_bytes: u64,
) -> Result<Vec<u8>, SourceError> {
    let whole = range.is_none();
    let Opened { mut stream, file_bytes, .. } = source.open(file, range).await?;
    let mut all = Vec::new();
    if let Some(bytes) = file_bytes.filter(|bytes| whole && *bytes <= limit_bytes) {
        // Growing would hold up to three times as much.
        all.reserve_exact(bytes as usize);
    }
    append(&mut all, &mut stream, file, limit_bytes).await?;
    Ok(all)
}

/// Drains `stream` into memory, at most `limit_bytes`.
pub(super) async fn collect(
    stream: &mut impl ByteStream,
    file: &str,
    limit_bytes: u64,
) -> Result<Vec<u8>, SourceError> {
    let mut all = Vec::new();
    append(&mut all, stream, file, limit_bytes).await?;
    Ok(all)
}

/// Drains `stream` to the end of `all`, which then holds at most `limit_bytes`.
pub(super) async fn append(
    all: &mut Vec<u8>,
    stream: &mut impl ByteStream,
    file: &str,
    limit_bytes: u64,
) -> Result<(), SourceError> {
    while let Some(piece) = stream.next().await? {
        let bytes = all.len() as u64 + piece.len() as u64;
        if bytes > limit_bytes {
            return Err(SourceError::TooLarge { file: file.to_owned(), bytes, limit: limit_bytes });
        }
        if all.capacity() - all.len() < piece.len() {
            // By a quarter, not to double: side files are large for a browser's memory.
            all.reserve_exact(piece.len().max(all.len() / 4));
        }
        all.extend_from_slice(&piece);
    }
    Ok(())
}

/// `range` within a file of `length` bytes.
fn clamp(range: Option<Range<u64>>, length: u64) -> Range<u64> {
    let range = range.unwrap_or(0..length);
    let end = range.end.min(length);
    range.start.min(end)..end
}

/// Files in memory.
#[derive(Clone, Debug)]
pub struct MemorySource {
    /// Name to content.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Longest piece in bytes; at least 1.
    pub piece_bytes: usize,
}

impl MemorySource {
    /// A source of these files, in pieces of 64 KiB.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> MemorySource {
        MemorySource { files: files.into_iter().collect(), piece_bytes: 64 << 10 }
    }
}

impl ByteSource for MemorySource {
    type Stream = MemoryStream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<MemoryStream>, SourceError> {
        let not_found = || SourceError::NotFound { file: file.to_owned() };
        let content = self.files.get(file).ok_or_else(not_found)?;
        let length = content.len() as u64;
        let range = clamp(range, length);
        // Both ends lie within a slice, so they fit usize.
        let bytes = content.get(range.start as usize..range.end as usize).unwrap_or_default().to_vec();
        let stream = MemoryStream { bytes, at: 0, piece_bytes: self.piece_bytes.max(1) };
        Ok(Opened::new(stream, Some(length)))
    }

    async fn list(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }
}

/// A range of a [`MemorySource`]'s file.
#[derive(Clone, Debug)]
pub struct MemoryStream {
    bytes: Vec<u8>,
    at: usize,
    piece_bytes: usize,
}

impl ByteStream for MemoryStream {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let piece = rest.get(..self.piece_bytes.min(rest.len())).unwrap_or_default();
        self.at += piece.len();
        Ok((!piece.is_empty()).then(|| piece.to_vec()))
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use native::{FileSource, FileStream};

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::fs::File;
    use std::io::{ErrorKind, Read, Seek, SeekFrom};
    use std::ops::Range;
    use std::path::{Path, PathBuf};

    use super::{ByteSource, ByteStream, Opened, SourceError, clamp};

    /// Bytes per read.
    const PIECE_BYTES: u64 = 1 << 20;

    /// The files of one directory.
    #[derive(Clone, Debug)]
    pub struct FileSource {
        directory: PathBuf,
    }

    impl FileSource {
        /// A source of the files directly in `directory`.
        pub fn new(directory: impl AsRef<Path>) -> FileSource {
            FileSource { directory: directory.as_ref().to_owned() }
        }
    }

    impl ByteSource for FileSource {
        type Stream = FileStream;

        async fn open(
            &self,
            file: &str,
            range: Option<Range<u64>>,
        ) -> Result<Opened<FileStream>, SourceError> {
            let failed = |error: std::io::Error| match error.kind() {
                ErrorKind::NotFound => SourceError::NotFound { file: file.to_owned() },
                _ => SourceError::Io { file: file.to_owned(), detail: error.to_string() },
            };
            // Names come from the checkpoint's index: they must not leave the directory.
            if !crate::checkpoint::index::is_plain_name(file) {
                let detail = "not the name of a file in the checkpoint's directory".to_owned();
                return Err(SourceError::Io { file: file.to_owned(), detail });
            }
            let mut handle = File::open(self.directory.join(file)).map_err(failed)?;
            let metadata = handle.metadata().map_err(failed)?;
            if !metadata.is_file() {
                let detail = "is not a file".to_owned();
                return Err(SourceError::Io { file: file.to_owned(), detail });
            }
            let range = clamp(range, metadata.len());
            handle.seek(SeekFrom::Start(range.start)).map_err(failed)?;
            let stream = FileStream { file: file.to_owned(), handle, left: range.end - range.start };
            Ok(Opened::new(stream, Some(metadata.len())))
        }

        async fn list(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.sort();
            names
        }
    }

    /// A range of a [`FileSource`]'s file.
    #[derive(Debug)]
    pub struct FileStream {
        file: String,
        handle: File,
        left: u64,
    }

    impl ByteStream for FileStream {
        async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
            let mut piece = Vec::with_capacity(self.left.min(PIECE_BYTES) as usize);
            let limit = self.left.min(PIECE_BYTES);
            match (&mut self.handle).take(limit).read_to_end(&mut piece) {
                Ok(0) => Ok(None),
                Ok(read) => {
                    self.left -= read as u64;
                    Ok(Some(piece))
                }
                Err(error) => {
                    self.left = 0;
                    Err(SourceError::Io { file: self.file.clone(), detail: error.to_string() })
                }
            }
        }
    }
}
