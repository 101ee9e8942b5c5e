//! Files that are kept from one load to the next: written in place, and durable once flushed.
//!
//! Every call is synchronous, as those of the browser's own handles are in a worker.

/// Why a file could not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The storage is full, or this origin's share of it.
    #[error("no space left ({0})")]
    NoSpace(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// One opened file. A write is durable after the next flush; until then a power cut may undo it, or
/// leave a part of it.
pub trait StoredFile {
    /// Length in bytes.
    ///
    /// # Errors
    /// [`StorageError`].
    fn bytes(&self) -> Result<u64, StorageError>;

    /// Reads from `at` on; returns how many bytes there were, fewer than asked for only at the end.
    ///
    /// # Errors
    /// [`StorageError`].
    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<usize, StorageError>;

    /// Writes all of `bytes` from `at` on; the file grows as needed.
    ///
    /// # Errors
    /// [`StorageError`].
    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// Cuts the file off at that length.
    ///
    /// # Errors
    /// [`StorageError`].
    fn truncate(&self, bytes: u64) -> Result<(), StorageError>;

    /// Makes durable what was written.
    ///
    /// # Errors
    /// [`StorageError`].
    fn flush(&self) -> Result<(), StorageError>;
}

/// A file that is looked at alone: nothing is cut off, and a write fails.
pub struct LookedAt(pub Box<dyn StoredFile>);

impl StoredFile for LookedAt {
    fn bytes(&self) -> Result<u64, StorageError> {
        self.0.bytes()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<usize, StorageError> {
        self.0.read_at(at, into)
    }

    fn write_at(&self, _at: u64, _bytes: &[u8]) -> Result<(), StorageError> {
        Err(StorageError::Failed("the file is only looked at".to_owned()))
    }

    fn truncate(&self, _bytes: u64) -> Result<(), StorageError> {
        // Whoever cuts, writes or ignores what is behind.
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use native::DiskFile;

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::fs::{File, OpenOptions};
    use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
    use std::path::Path;

    use super::{StorageError, StoredFile};

    /// A file on disk.
    #[derive(Debug)]
    pub struct DiskFile(File);

    impl DiskFile {
        /// Opens a file, or makes it.
        ///
        /// # Errors
        /// [`StorageError`].
        pub fn open(path: impl AsRef<Path>) -> Result<DiskFile, StorageError> {
            let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            options.map(DiskFile).map_err(failed)
        }

        fn at(&self, at: u64) -> Result<&File, StorageError> {
            (&self.0).seek(SeekFrom::Start(at)).map_err(failed)?;
            Ok(&self.0)
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
    fn failed(error: io::Error) -> StorageError {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StorageError::NoSpace(error.to_string()),
            _ => StorageError::Failed(error.to_string()),
        }
    }

    impl StoredFile for DiskFile {
        fn bytes(&self) -> Result<u64, StorageError> {
            Ok(self.0.metadata().map_err(failed)?.len())
        }

        fn read_at(&self, at: u64, into: &mut [u8]) -> Result<usize, StorageError> {
            let (mut file, mut read) = (self.at(at)?, 0);
            while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
                match file.read(rest) {
                    Ok(0) => break,
                    Ok(bytes) => read += bytes,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            Ok(read)
        }

        fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), StorageError> {
            self.at(at)?.write_all(bytes).map_err(failed)
        }

        fn truncate(&self, bytes: u64) -> Result<(), StorageError> {
            self.0.set_len(bytes).map_err(failed)
        }

        fn flush(&self) -> Result<(), StorageError> {
            self.0.sync_data().map_err(failed)
        }
    }
}
