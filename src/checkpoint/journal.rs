//! How much of a pack is durable: points from which an interrupted load goes on.
//!
//! A point is written only after everything before it in the pack was flushed, so one that reads
//! back whole never promises more than is there. The file is frames of [`FRAME_BYTES`], little-endian:
//!
//! ```text
//! "biseJ001" | salt u64 | number of the frame u64 | pack bytes u64 | bytes done u64 | shard u32 | tensor u32
//!   | offset in the tensor u64 | complete u32 | has a hash u32 | state of the shard's hash | checksum u64
//! ```

use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::hash::{FileHash, STATE_BYTES};
use crate::checkpoint::pack::take;
use crate::checkpoint::storage::{StorageError, StoredFile};

/// Bytes of a frame.
pub const FRAME_BYTES: u64 = 176;
const MAGIC: u64 = u64::from_le_bytes(*b"biseJ001");
/// Most frames that are read: of 32 MiB each, a terabyte.
const FRAMES_LIMIT: u64 = 1 << 15;

/// Where a load may go on: everything before is in the pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Length of the pack.
    pub pack_bytes: u64,
    /// Bytes of weights that were streamed.
    pub done_bytes: u64,
    /// The file that is next, by position in the manifest.
    pub shard: u32,
    /// The tensor that is next, by position in its header.
    pub tensor: u32,
    /// Where in the tensor the next chunk lies, in bytes.
    pub offset: u64,
    /// Whether nothing follows.
    pub complete: bool,
    /// The hash of the file so far; `None` at its beginning.
    pub hash: Option<[u8; STATE_BYTES]>,
}

impl Point {
    /// Whether a load can go on from here: the rest of a file cannot be checked without the hash of its
    /// beginning.
    pub fn goes_on(&self) -> bool {
        let starts = (self.tensor, self.offset) == (0, 0);
        self.hash.map_or(starts, |state| FileHash::from_state(state).is_some())
    }
}

/// The file.
pub struct Journal {
    file: Box<dyn StoredFile>,
    salt: u64,
    points: Vec<Point>,
}

impl Journal {
    /// Reads the points, up to the first that is damaged.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn open(file: Box<dyn StoredFile>) -> Result<Journal, StorageError> {
        let mut journal = Journal { file, salt: 0, points: Vec::new() };
        let mut frame = [0; FRAME_BYTES as usize];
        for number in 0..FRAMES_LIMIT {
            if journal.file.read_at(number * FRAME_BYTES, &mut frame)? < frame.len() {
                break;
            }
            let Some((salt, point)) = decode(&frame, number) else { break };
            let before = journal.points.last().map_or(0, |last| last.pack_bytes);
            if point.pack_bytes < before || (number > 0 && salt != journal.salt) {
                break;
            }
            journal.salt = salt;
            journal.points.push(point);
        }
        Ok(journal)
    }

    /// What the pack's checksums are salted with.
    pub fn salt(&self) -> u64 {
        self.salt
    }

    /// The points, in order.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Adds a point and makes it durable. What it stands for must be durable already.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn append(&mut self, point: Point) -> Result<(), StorageError> {
        let number = self.points.len() as u64;
        self.file.write_at(number * FRAME_BYTES, &encode(self.salt, number, &point))?;
        self.file.flush()?;
        self.points.push(point);
        Ok(())
    }

    /// Forgets all points but the first `count`.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn cut(&mut self, count: usize) -> Result<(), StorageError> {
        self.points.truncate(count);
        self.file.truncate(self.points.len() as u64 * FRAME_BYTES)?;
        self.file.flush()
    }

    /// Forgets all points, and begins again with another salt.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn restart(&mut self, salt: u64) -> Result<(), StorageError> {
        self.salt = salt;
        self.cut(0)
    }
}

fn encode(salt: u64, number: u64, point: &Point) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_BYTES as usize);
    for value in [MAGIC, salt, number, point.pack_bytes, point.done_bytes] {
        frame.extend_from_slice(&value.to_le_bytes());
    }
    for value in [point.shard, point.tensor] {
        frame.extend_from_slice(&value.to_le_bytes());
    }
    frame.extend_from_slice(&point.offset.to_le_bytes());
    for value in [point.complete, point.hash.is_some()] {
        frame.extend_from_slice(&u32::from(value).to_le_bytes());
    }
    frame.extend_from_slice(&point.hash.unwrap_or([0; STATE_BYTES]));
    let checksum = xxh3_64(&frame);
    frame.extend_from_slice(&checksum.to_le_bytes());
    frame
}

/// The salt and the point of a frame; `None` if it is damaged, or not the one of that number.
fn decode(frame: &[u8], number: u64) -> Option<(u64, Point)> {
    let (fields, checksum) = frame.split_last_chunk()?;
    if xxh3_64(fields) != u64::from_le_bytes(*checksum) {
        return None;
    }
    let mut left = fields;
    let mut long = || u64::from_le_bytes(take(&mut left));
    let [magic, salt, found, pack_bytes, done_bytes] = [long(), long(), long(), long(), long()];
    if magic != MAGIC || found != number {
        return None;
    }
    let mut short = || u32::from_le_bytes(take(&mut left));
    let [shard, tensor] = [short(), short()];
    let offset = u64::from_le_bytes(take(&mut left));
    let [complete, has_hash] = [(); 2].map(|()| u32::from_le_bytes(take(&mut left)) != 0);
    let hash = has_hash.then(|| take(&mut left));
    Some((salt, Point { pack_bytes, done_bytes, shard, tensor, offset, complete, hash }))
}
