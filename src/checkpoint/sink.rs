//! Where files are written to: the counterpart of [`ByteSource`](super::ByteSource).

use std::collections::BTreeMap;

use crate::checkpoint::error::CheckpointError;

/// A place that takes files, one after the other.
#[allow(async_fn_in_trait, reason = "single-threaded by design")]
pub trait ByteSink {
    /// Begins a file of that length in bytes. It must not appear under its name before
    /// [`ByteSink::finish`].
    ///
    /// # Errors
    /// [`CheckpointError::Write`].
    async fn create(&mut self, file: &str, bytes: u64) -> Result<(), CheckpointError>;

    /// Appends to the file that was begun.
    ///
    /// # Errors
    /// [`CheckpointError::Write`].
    async fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError>;

    /// Completes the file.
    ///
    /// # Errors
    /// [`CheckpointError::Write`].
    async fn finish(&mut self) -> Result<(), CheckpointError>;
}

/// Keeps files in memory.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    /// Complete files, name to content.
    pub files: BTreeMap<String, Vec<u8>>,
    current: (String, Vec<u8>),
}

impl ByteSink for MemorySink {
    async fn create(&mut self, file: &str, _bytes: u64) -> Result<(), CheckpointError> {
        self.current = (file.to_owned(), Vec::new());
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.current.1.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), CheckpointError> {
        let (file, content) = std::mem::take(&mut self.current);
        self.files.insert(file, content);
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use native::FileSink;

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::fs::{self, File};
    use std::io::{self, ErrorKind, Write as _};
    use std::path::{Path, PathBuf};

    use super::{ByteSink, CheckpointError};

    /// Writes files into one directory. A file has `.partial` behind its name until it is
    /// complete, and is removed if it never is.
    #[derive(Debug)]
    pub struct FileSink {
        directory: PathBuf,
        current: Option<(String, File)>,
    }

    impl FileSink {
        /// A sink into `directory`, which must exist.
        pub fn new(directory: impl AsRef<Path>) -> FileSink {
            FileSink { directory: directory.as_ref().to_owned(), current: None }
        }

        fn partial(&self, file: &str) -> PathBuf {
            self.directory.join(format!("{file}.partial"))
        }
    }

    fn failed(file: &str, error: &io::Error) -> CheckpointError {
        let (file, detail) = (file.to_owned(), error.to_string());
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => CheckpointError::NoSpace { file, detail },
            _ => CheckpointError::Write { file, detail },
        }
    }

    fn not_begun() -> CheckpointError {
        CheckpointError::Write { file: "output".to_owned(), detail: "no file was begun".to_owned() }
    }

    impl ByteSink for FileSink {
        async fn create(&mut self, file: &str, _bytes: u64) -> Result<(), CheckpointError> {
            let handle = File::create(self.partial(file)).map_err(|error| failed(file, &error))?;
            self.current = Some((file.to_owned(), handle));
            Ok(())
        }

        async fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
            match &mut self.current {
                Some((file, handle)) => handle.write_all(bytes).map_err(|error| failed(file, &error)),
                None => Err(not_begun()),
            }
        }

        async fn finish(&mut self) -> Result<(), CheckpointError> {
            let Some((file, handle)) = &self.current else {
                return Err(not_begun());
            };
            let (from, to) = (self.partial(file), self.directory.join(file));
            // A name that survives a power cut must not stand for bytes that did not.
            handle.sync_all().map_err(|error| failed(file, &error))?;
            fs::rename(from, to).map_err(|error| failed(file, &error))?;
            self.current = None;
            Ok(())
        }
    }

    impl Drop for FileSink {
        fn drop(&mut self) {
            if let Some((file, _)) = &self.current {
                // Nothing can be done about a failure here; the name says what the file is.
                let _ = fs::remove_file(self.partial(file));
            }
        }
    }
}
