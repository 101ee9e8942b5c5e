//! A file of records, one behind the other, each with a checksum over all of it.
//!
//! ```text
//! "bise" | kind u8 | part u8 | layer u16 | row u32 | payload bytes u32 | offset in the file u64 | checksum u64 | payload
//! ```
//!
//! Little-endian. The checksum is XXH3 of the payload, seeded with that of the head and with the
//! pack's own salt: neither a record in the wrong place nor one of another pack passes.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::checkpoint::storage::{StorageError, StoredFile};

/// Bytes of a record before its payload.
pub const HEAD_BYTES: u64 = 32;
/// The part of them that the checksum covers.
const CHECKED_BYTES: usize = 24;
const MAGIC: u32 = u32::from_le_bytes(*b"bise");
/// Longest payload: a chunk of the longest rows, as f32.
const PAYLOAD_LIMIT_BYTES: u32 = 64 << 20;
/// Small writes are gathered to about this size.
const BUFFER_BYTES: usize = 1 << 20;

/// What a record is; what the numbers mean is up to who writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "their meaning is the writer's")]
pub struct Tag {
    pub kind: u8,
    pub part: u8,
    pub layer: u16,
    pub row: u32,
}

/// Why a record could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// It is not what was written.
    #[error("the record at byte {at} is damaged")]
    Damaged {
        /// Where it begins.
        at: u64,
    },
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The file. Appends are gathered in memory until [`Pack::flush`].
pub struct Pack {
    file: Box<dyn StoredFile>,
    salt: u64,
    /// Bytes that were handed to the file.
    written: u64,
    buffer: Vec<u8>,
}

impl Pack {
    /// The pack in `file` with that salt, of which the first `bytes` count.
    pub fn new(file: Box<dyn StoredFile>, salt: u64, bytes: u64) -> Pack {
        Pack { file, salt, written: bytes, buffer: Vec::new() }
    }

    /// Length with what is still to be written, in bytes.
    pub fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn append(&mut self, tag: Tag, payload: &[u8]) -> Result<(), StorageError> {
        let length = u32::try_from(payload.len()).ok().filter(|length| *length <= PAYLOAD_LIMIT_BYTES);
        let length = length.ok_or_else(|| StorageError::Failed("a record is too long".to_owned()))?;
        let head = head(tag, length, self.bytes());
        let checksum = checksum(&head, payload, self.salt);
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        if payload.len() >= BUFFER_BYTES {
            // Not copied once more.
            self.write_out()?;
            self.file.write_at(self.written, payload)?;
            self.written += u64::from(length);
            return Ok(());
        }
        self.buffer.extend_from_slice(payload);
        if self.buffer.len() >= BUFFER_BYTES { self.write_out() } else { Ok(()) }
    }

    /// Hands everything to the file and makes it durable.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn flush(&mut self) -> Result<(), StorageError> {
        self.write_out()?;
        self.file.flush()
    }

    fn write_out(&mut self) -> Result<(), StorageError> {
        if !self.buffer.is_empty() {
            self.file.write_at(self.written, &self.buffer)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Reads the record at `at`, which must end at `end` or before; returns where the next begins.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn read(&self, at: u64, end: u64, payload: &mut Vec<u8>) -> Result<(Tag, u64), PackError> {
        let damaged = || PackError::Damaged { at };
        let mut bytes = [0_u8; HEAD_BYTES as usize];
        if end.saturating_sub(at) < HEAD_BYTES || self.file.read_at(at, &mut bytes)? < bytes.len() {
            return Err(damaged());
        }
        let (found, sum) = bytes.split_at(CHECKED_BYTES);
        let mut fields = found;
        let magic = u32::from_le_bytes(take(&mut fields));
        let [kind, part] = take(&mut fields);
        let layer = u16::from_le_bytes(take(&mut fields));
        let (row, length) = (u32::from_le_bytes(take(&mut fields)), u32::from_le_bytes(take(&mut fields)));
        let next = at + HEAD_BYTES + u64::from(length);
        if magic != MAGIC || length > PAYLOAD_LIMIT_BYTES || next > end {
            return Err(damaged());
        }
        // The length is not checked yet: memory is taken only for what is there.
        if length as usize > payload.capacity() && next > self.file.bytes()? {
            return Err(damaged());
        }
        payload.resize(length as usize, 0);
        let tag = Tag { kind, part, layer, row };
        let whole = self.file.read_at(at + HEAD_BYTES, payload)? == payload.len();
        let expected = head(tag, length, at);
        if !whole || found != expected || sum != checksum(&expected, payload, self.salt).to_le_bytes() {
            return Err(damaged());
        }
        Ok((tag, next))
    }

    /// Forgets everything from that byte on.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn cut(&mut self, bytes: u64) -> Result<(), StorageError> {
        self.buffer.clear();
        self.written = bytes;
        self.file.truncate(bytes)?;
        self.file.flush()
    }

    /// Forgets everything, and begins again with another salt.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn restart(&mut self, salt: u64) -> Result<(), StorageError> {
        self.salt = salt;
        self.cut(0)
    }
}

/// The part of a record's head that its checksum covers.
fn head(tag: Tag, length: u32, at: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(CHECKED_BYTES);
    head.extend_from_slice(&MAGIC.to_le_bytes());
    head.extend_from_slice(&[tag.kind, tag.part]);
    head.extend_from_slice(&tag.layer.to_le_bytes());
    for field in [tag.row, length] {
        head.extend_from_slice(&field.to_le_bytes());
    }
    head.extend_from_slice(&at.to_le_bytes());
    head
}

fn checksum(head: &[u8], payload: &[u8], salt: u64) -> u64 {
    xxh3_64_with_seed(payload, xxh3_64(head) ^ salt)
}

/// The next bytes; zeros where there are none left.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let Some((first, rest)) = bytes.split_first_chunk() else { return [0; N] };
    *bytes = rest;
    *first
}
