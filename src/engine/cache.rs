//! What is kept of a model: the small files of its checkpoint as they were read, and what its weights
//! became on their way to the device, in one pack; how far it is, in a journal beside it.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::types::WeightMode;
use crate::checkpoint::journal::{Journal, Point};
use crate::checkpoint::pack::{Pack, PackError, Tag};
use crate::checkpoint::storage::{LookedAt, StorageError, StoredFile};

/// Bytes of weights between two points from which an interrupted load goes on. With all lanes of a
/// transfer full behind them (see [`LANE_BYTES`](crate::checkpoint::steady::LANE_BYTES)), an
/// interruption costs less than 64 MiB.
pub const POINT_BYTES: u64 = 16 << 20;

/// Kinds of records, beside [`WEIGHTS`](crate::model::weight_cache::WEIGHTS).
const READ: u8 = 2;
const PIECE: u8 = 3;
const READ_END: u8 = 4;
const PLAN: u8 = 5;
/// The SHA-256 of a whole weight file, in hexadecimal; `row` is its number.
pub(super) const HASH: u8 = 6;

/// What a source told of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KnownFile {
    /// Its length in bytes.
    pub bytes: Option<u64>,
    /// Its ETag or Last-Modified.
    pub validator: Option<String>,
}

/// Where a model is kept, and what is known of it beforehand.
pub struct CacheFiles {
    /// The records.
    pub pack: Box<dyn StoredFile>,
    /// The points.
    pub journal: Box<dyn StoredFile>,
    /// Whether what is kept is what the source has now; else it is replaced, once the source has sent
    /// something: until then it stays.
    pub fresh: bool,
    /// Whether the revision is known by something else than what each file's answer tells.
    pub identified: bool,
    /// Space that is left beside what is kept already, in bytes, where it is known.
    pub free_bytes: Option<u64>,
    /// A number that no earlier pack in these files had.
    pub salt: u64,
    /// As [`POINT_BYTES`].
    pub point_bytes: u64,
    /// Hears which files a new entry is made of, how long it will be in bytes, and the form of its weights.
    pub on_start: OnStart,
    /// Asked before what was kept goes, and waited for.
    pub on_replace: OnReplace,
}

/// Hears of a new entry: its files, bytes and form.
pub type OnStart = Box<dyn Fn(&BTreeMap<String, KnownFile>, u64, WeightMode)>;

/// What is wanted of the weights of an entry.
pub(super) struct Wanted {
    /// Says where each goes.
    pub plan: Vec<u8>,
    /// Their form.
    pub form: WeightMode,
    /// Their bytes on the device.
    pub bytes: u64,
    /// The files they come from.
    pub files: BTreeMap<String, KnownFile>,
}

/// Forgets what described what is about to be replaced.
pub type OnReplace = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()>>>>;

/// One read of a small file, or of a part of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Read {
    pub file: String,
    pub range: Option<Range<u64>>,
    /// Whether there is such a file.
    pub found: bool,
    pub file_bytes: Option<u64>,
    pub validator: Option<String>,
    pub linked_sha256: Option<String>,
}

/// A read that can be answered from the pack.
pub(super) struct KeptRead {
    pub read: Read,
    /// Where its pieces lie.
    pub pieces: Vec<u64>,
    is_whole: bool,
}

impl CacheFiles {
    /// The same to be looked at alone: whatever is damaged there stays.
    #[must_use]
    pub fn looked_at(self) -> CacheFiles {
        let (pack, journal) = (Box::new(LookedAt(self.pack)), Box::new(LookedAt(self.journal)));
        CacheFiles { pack, journal, ..self }
    }
}

/// One kept model. All of its small files come before the first point, all weights after it.
pub(super) struct Cache {
    pub pack: Pack,
    pub journal: Journal,
    reads: Vec<KeptRead>,
    /// The plan of the weights that were kept.
    plan: Option<Vec<u8>>,
    free_bytes: Option<u64>,
    point_bytes: u64,
    pub identified: bool,
    on_start: OnStart,
    on_replace: OnReplace,
    /// What lies in the files is of no use, and is to be replaced under this salt.
    stale: Option<u64>,
    /// Files that were found missing before that.
    absent: Vec<Read>,
}

impl Cache {
    /// Takes up what is kept. What is damaged or out of date lies there until [`Cache::replace`].
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn open(files: CacheFiles) -> Result<Cache, StorageError> {
        let CacheFiles { pack, journal, free_bytes, point_bytes, identified, on_start, on_replace, .. } =
            files;
        let journal = Journal::open(journal)?;
        let bytes = journal.points().last().map_or(0, |last| last.pack_bytes);
        let pack = Pack::new(pack, journal.salt(), bytes);
        let (reads, plan, stale, absent) = (Vec::new(), None, None, Vec::new());
        let mut cache = Cache {
            pack,
            journal,
            reads,
            plan,
            free_bytes,
            point_bytes,
            identified,
            on_start,
            on_replace,
            stale,
            absent,
        };
        let usable = files.fresh && !cache.is_new() && cache.find_reads().is_ok();
        if usable {
            // What came after the last point is written anew.
            cache.go_back(|_| true)?;
        } else {
            cache.reads.clear();
            cache.stale = Some(files.salt);
            // What goes makes room for what comes.
            cache.free_bytes = free_bytes.map(|free| free.saturating_add(bytes));
        }
        Ok(cache)
    }

    /// Whether small files are still to be kept: none of the weights is.
    pub fn is_new(&self) -> bool {
        self.stale.is_some() || self.journal.points().is_empty()
    }

    /// The last point.
    pub fn last(&self) -> Option<Point> {
        self.journal.points().last().copied().filter(|_| self.stale.is_none())
    }

    /// What to wait for before [`Cache::replace`], if that is due.
    pub fn before_replacing(&self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        self.stale.map(|_| self.before_renewing())
    }

    /// What to wait for before [`Cache::renew_weights`].
    pub fn before_renewing(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        (self.on_replace)()
    }

    /// Makes room for what the source has now, where what is kept is of no use.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn replace(&mut self) -> Result<(), StorageError> {
        let Some(salt) = self.stale.take() else { return Ok(()) };
        // In this order: a point must never stand for what is not there.
        self.journal.restart(salt)?;
        self.pack.restart(salt)?;
        for read in std::mem::take(&mut self.absent) {
            self.begin_read(&read)?;
        }
        Ok(())
    }

    fn find_reads(&mut self) -> Result<(), PackError> {
        let end = self.journal.points().first().map_or(0, |first| first.pack_bytes);
        let (mut at, mut payload) = (0, Vec::new());
        while at < end {
            let (tag, next) = self.pack.read(at, end, &mut payload)?;
            let kept = usize::try_from(tag.row).unwrap_or(usize::MAX);
            match (tag.kind, self.reads.get_mut(kept)) {
                (READ, None) => {
                    let read = serde_json::from_slice(&payload).map_err(|_| PackError::Damaged { at })?;
                    self.reads.push(KeptRead { read, pieces: Vec::new(), is_whole: false });
                }
                (PIECE, Some(kept)) => kept.pieces.push(at),
                (READ_END, Some(kept)) => kept.is_whole = true,
                (PLAN, _) => self.plan = Some(payload.clone()),
                _ => return Err(PackError::Damaged { at }),
            }
            at = next;
        }
        Ok(())
    }

    /// What is kept of a read.
    pub fn find(&self, file: &str, range: Option<&Range<u64>>) -> Option<&KeptRead> {
        let same =
            |kept: &&KeptRead| kept.is_whole && kept.read.file == file && kept.read.range.as_ref() == range;
        // Before the first point, some of it may still be on its way to the file.
        self.reads.iter().find(same).filter(|_| !self.is_new())
    }

    /// The files that were read, as the source told of them.
    pub fn known_files(&self) -> BTreeMap<String, KnownFile> {
        let found = self.reads.iter().filter(|kept| kept.read.found).map(|kept| {
            let Read { file, file_bytes, validator, .. } = kept.read.clone();
            (file, KnownFile { bytes: file_bytes, validator })
        });
        found.collect()
    }

    /// Begins to keep a read; gives its number.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn begin_read(&mut self, read: &Read) -> Result<u32, StorageError> {
        if self.stale.is_some() && !read.found {
            // That a file is missing is no reason to give up what is kept.
            self.absent.push(read.clone());
            return Ok(0);
        }
        self.replace()?;
        let number = self.reads.len() as u32;
        // Plain data always converts.
        let payload = serde_json::to_vec(read).unwrap_or_default();
        self.pack.append(Tag { kind: READ, row: number, ..Tag::default() }, &payload)?;
        self.reads.push(KeptRead { read: read.clone(), pieces: Vec::new(), is_whole: false });
        if !read.found {
            self.end_read(number)?;
        }
        Ok(number)
    }

    /// Keeps the next piece of a read.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn piece(&mut self, read: u32, bytes: &[u8]) -> Result<(), StorageError> {
        if let Some(kept) = self.reads.get_mut(read as usize) {
            kept.pieces.push(self.pack.bytes());
        }
        self.pack.append(Tag { kind: PIECE, row: read, ..Tag::default() }, bytes)
    }

    /// Says that all of a read is kept.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn end_read(&mut self, read: u32) -> Result<(), StorageError> {
        if let Some(kept) = self.reads.get_mut(read as usize) {
            kept.is_whole = true;
        }
        self.pack.append(Tag { kind: READ_END, row: read, ..Tag::default() }, &[])
    }

    /// Whether weights are kept by this plan.
    pub fn holds(&self, plan: &[u8]) -> bool {
        self.plan.as_deref() == Some(plan)
    }

    /// Begins with the weights, or checks that those kept are the ones wanted. `Ok(false)` if they are not: they
    /// stay until [`Cache::renew_weights`].
    ///
    /// # Errors
    /// [`StorageError`]; [`StorageError::NoSpace`] if what is left will not do.
    pub fn begin_weights(&mut self, wanted: &Wanted) -> Result<bool, StorageError> {
        self.replace()?;
        let (is_new, holds) = (self.is_new(), self.holds(&wanted.plan));
        let needed = self.needed_bytes(wanted);
        let complete = holds && self.last().is_some_and(|last| last.complete);
        let kept = self.last().map_or(0, |last| last.pack_bytes);
        if let Some(free) = self.free_bytes.filter(|free| !complete && needed.saturating_sub(kept) > *free) {
            return Err(StorageError::NoSpace(format!("{needed} bytes are needed, {free} are left")));
        }
        if is_new {
            self.start_weights(wanted)?;
        }
        Ok(is_new || holds)
    }

    /// Gives up the weights that are kept for others of the same files; what is kept of small files stays.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn renew_weights(&mut self, wanted: &Wanted) -> Result<(), StorageError> {
        // In this order: a point must never stand for what is not there.
        let small = self.small_bytes();
        self.journal.cut(0)?;
        self.pack.cut(small)?;
        self.start_weights(wanted)
    }

    fn start_weights(&mut self, wanted: &Wanted) -> Result<(), StorageError> {
        let needed = self.needed_bytes(wanted);
        self.pack.append(Tag { kind: PLAN, ..Tag::default() }, &wanted.plan)?;
        self.plan = Some(wanted.plan.clone());
        (self.on_start)(&wanted.files, needed, wanted.form);
        self.add_point(Point::default())
    }

    /// Where the small files end.
    fn small_bytes(&self) -> u64 {
        self.journal.points().first().map_or(self.pack.bytes(), |first| first.pack_bytes)
    }

    /// Heads of records, and room for the rest of the page.
    fn needed_bytes(&self, Wanted { bytes, .. }: &Wanted) -> u64 {
        self.small_bytes() + bytes + bytes / 64 + (1 << 20)
    }

    /// Whether that many bytes of weights are enough for another point.
    pub fn is_point_due(&self, done_bytes: u64) -> bool {
        self.last().is_some_and(|last| done_bytes.saturating_sub(last.done_bytes) >= self.point_bytes)
    }

    /// Makes everything so far durable.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn add_point(&mut self, point: Point) -> Result<(), StorageError> {
        self.pack.flush()?;
        self.journal.append(Point { pack_bytes: self.pack.bytes(), ..point })
    }

    /// Keeps the hash of a whole weight file, and a point behind it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn end_file(&mut self, number: u32, hash: &str, point: Point) -> Result<(), StorageError> {
        self.pack.append(Tag { kind: HASH, row: number, ..Tag::default() }, hash.as_bytes())?;
        self.add_point(point)
    }

    /// Goes back to the last of the points that `keep` agrees to and a load can go on from, or to the
    /// first; that is the last now.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn go_back(&mut self, keep: impl Fn(&Point) -> bool) -> Result<(), StorageError> {
        let is_sound = |point: &Point| point.goes_on() && keep(point);
        let count = self.journal.points().iter().rposition(is_sound).unwrap_or(0) + 1;
        self.journal.cut(count)?;
        let bytes = self.journal.points().last().map_or(0, |last| last.pack_bytes);
        self.pack.cut(bytes)
    }

    /// Forgets everything: nothing half is kept.
    pub fn clear(mut self) {
        if self.stale.is_some() {
            return;
        }
        // Storage that fails here has failed before, and that is reported.
        if self.journal.cut(0).is_ok() {
            let _ = self.pack.cut(0);
        }
    }
}
