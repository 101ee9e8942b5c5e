//! A checkpoint whose small files are kept as they are read, or read from what was kept, and whose
//! weight files have hashes to be compared with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use serde::Deserialize;

use super::cache::{Cache, CacheFiles, KnownFile, Read};
use super::keeper::Keeper;
use super::types::CacheReport;
use crate::checkpoint::{ByteSource, ByteStream, CheckpointError, Manifest, Opened, Shard, SourceError};
use crate::model::WeightPlan;

/// What the hashes of weight files are compared with: by file name, in lower-case hexadecimal.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// What the caller says: every file named must be there.
    pub manifest: BTreeMap<String, String>,
    /// What the hub says.
    pub hub: BTreeMap<String, String>,
    /// What was downloaded the first time.
    pub pins: BTreeMap<String, Pin>,
}

/// The hash of one version of a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Its ETag or Last-Modified.
    pub validator: String,
    /// In lower-case hexadecimal.
    pub sha256: String,
}

/// What is kept of a source, and what is known of its files.
pub struct Kept {
    trust: Trust,
    pub(super) keeper: Rc<Keeper>,
    files: RefCell<BTreeMap<String, KnownFile>>,
    hashes: RefCell<BTreeMap<String, String>>,
}

impl Kept {
    /// For a source of which nothing is kept.
    pub fn nothing() -> Kept {
        Kept::new(Trust::default(), None)
    }

    /// For a source that is kept in `files`, and whose weight files are compared with `trust`.
    pub fn new(trust: Trust, files: Option<CacheFiles>) -> Kept {
        let keeper = Rc::new(Keeper::new(files));
        let files = keeper.look(|cache| cache.known_files()).unwrap_or_default();
        Kept { trust, keeper, files: RefCell::new(files), hashes: RefCell::default() }
    }

    /// What became of the cache so far.
    pub fn report(&self) -> CacheReport {
        self.keeper.report()
    }

    /// Whether weights are kept as this plan has them.
    pub(super) fn holds(&self, plan: &WeightPlan) -> bool {
        self.keeper.look(|cache| cache.holds(&plan.fingerprint())).unwrap_or(false)
    }

    /// Whether all of them are.
    pub(super) fn holds_all(&self, plan: &WeightPlan) -> bool {
        self.holds(plan) && self.keeper.look(Cache::last).flatten().is_some_and(|last| last.complete)
    }

    /// SHA-256 of the weight files that were hashed.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        self.hashes.borrow().clone()
    }

    /// What the source told of the files that were opened.
    pub fn known_files(&self) -> BTreeMap<String, KnownFile> {
        self.files.borrow().clone()
    }

    /// Whether a later load can find out whether the source still has these files: by their revision,
    /// by what each answer told, or by what the caller says they are.
    pub(super) fn can_be_found_again(&self, manifest: &Manifest) -> bool {
        let is_told = |shard: &Shard| shard.validator.is_some();
        let is_named = |shard: &Shard| self.trust.manifest.contains_key(&shard.file);
        let shards = || manifest.shards.iter();
        self.keeper.look(|cache| cache.identified || !cache.is_new()).unwrap_or(true)
            || shards().all(is_told)
            || shards().all(is_named)
    }

    /// Whether a weight file is hashed while it streams: if there is something to compare it with, or
    /// if it is kept, for later downloads.
    pub(super) fn hashes_file(&self, shard: &Shard) -> bool {
        self.keeper.is_on() || self.expected(shard).is_some()
    }

    /// Every file that the caller named is among the weight files.
    pub(super) fn check_names(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        let unknown = |file: &&String| !manifest.shards.iter().any(|shard| shard.file == **file);
        let Some(file) = self.trust.manifest.keys().find(unknown) else { return Ok(()) };
        let files: Vec<&str> = manifest.shards.iter().map(|shard| shard.file.as_str()).collect();
        Err(CheckpointError::IntegrityFile { file: file.clone(), files: files.join(", ") })
    }

    /// Compares the hash of a whole weight file, and remembers it.
    pub(super) fn check_hash(&self, shard: &Shard, found: String) -> Result<(), CheckpointError> {
        let file = shard.file.clone();
        if let Some((origin, advice, expected)) = self.expected(shard)
            && *expected != found
        {
            let expected = expected.clone();
            return Err(CheckpointError::Integrity { file, expected, found, origin, advice });
        }
        self.hashes.borrow_mut().insert(file, found);
        Ok(())
    }

    /// Who says what the hash of a weight file is, what to do where it is another, and the hash.
    fn expected<'a>(&'a self, shard: &'a Shard) -> Option<(&'static str, &'static str, &'a String)> {
        let Trust { manifest, hub, pins, .. } = &self.trust;
        let file = &shard.file;
        let pinned = pins.get(file).filter(|pin| Some(&pin.validator) == shard.validator.as_ref());
        let says = [
            ("the option integrity says", "load it again", manifest.get(file)),
            ("the server says", "load it again", hub.get(file).or(shard.linked_sha256.as_ref())),
            (
                "when it was first downloaded it had",
                "load it again, or, if its source has replaced it, forget that first download (cache.forget)",
                pinned.map(|pin| &pin.sha256),
            ),
        ];
        says.into_iter().find_map(|(origin, advice, hash)| Some((origin, advice, hash?)))
    }

    /// Remembers what the source tells of a file; two answers must be of the same version, unless its
    /// hash will tell: a network of servers need not agree on an ETag.
    fn meet(&self, file: &str, bytes: Option<u64>, validator: Option<&String>) -> Result<(), SourceError> {
        let mut files = self.files.borrow_mut();
        let known = files.entry(file.to_owned()).or_default();
        let is_hashed = self.trust.manifest.contains_key(file) || self.trust.hub.contains_key(file);
        if let (Some(before), Some(now)) = (&known.validator, validator)
            && before != now
            && !is_hashed
        {
            self.keeper.end(None);
            let detail = "the file was replaced on the server meanwhile; load again".to_owned();
            return Err(SourceError::Network { file: file.to_owned(), detail });
        }
        known.bytes = known.bytes.or(bytes);
        known.validator = known.validator.take().or_else(|| validator.cloned());
        Ok(())
    }

    /// What is kept of a read, and where its pieces lie.
    fn find(&self, file: &str, range: Option<&Range<u64>>) -> Option<(Read, Vec<u64>)> {
        let find = |cache: &Cache| {
            let kept = cache.find(file, range)?;
            Some((kept.read.clone(), kept.pieces.clone()))
        };
        self.keeper.look(find).flatten()
    }

    /// Begins to keep a read, if small files still are.
    fn keep(&self, read: &Read) -> Option<u32> {
        let begin = |cache: &mut Cache| match cache.is_new() {
            true => cache.begin_read(read).map(Some),
            false => Ok(None),
        };
        self.keeper.work(begin).flatten()
    }
}

/// A source with what is kept of it.
pub struct CachedSource<S> {
    source: S,
    kept: Rc<Kept>,
}

impl<S> CachedSource<S> {
    /// What `kept` has of `source` comes from there; what comes from `source` is kept.
    pub fn new(source: S, kept: Rc<Kept>) -> CachedSource<S> {
        CachedSource { source, kept }
    }
}

impl<S: ByteSource> ByteSource for CachedSource<S> {
    type Stream = CachedStream<S::Stream>;

    async fn list(&self) -> Vec<String> {
        self.source.list().await
    }

    async fn turn(&self) {
        self.source.turn().await;
    }

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<Self::Stream>, SourceError> {
        let keeper = &self.kept.keeper;
        if let Some((read, pieces)) = self.kept.find(file, range.as_ref()) {
            let Read { file, found, file_bytes, validator, linked_sha256, .. } = read;
            if !found {
                return Err(SourceError::NotFound { file });
            }
            let stream = CachedStream::kept(keeper.clone(), file, pieces);
            return Ok(Opened { stream, file_bytes, validator, linked_sha256 });
        }
        let opened = self.source.open(file, range.clone()).await;
        let mut read = Read { file: file.to_owned(), range, ..Read::default() };
        let opened = match opened {
            Err(error) => {
                if matches!(error, SourceError::NotFound { .. }) {
                    self.kept.keep(&read);
                }
                return Err(error);
            }
            Ok(opened) => opened,
        };
        self.kept.meet(file, opened.file_bytes, opened.validator.as_ref())?;
        if let Some(waiting) = keeper.look(Cache::before_replacing).flatten() {
            waiting.await;
        }
        read.found = true;
        (read.file_bytes, read.validator) = (opened.file_bytes, opened.validator.clone());
        read.linked_sha256.clone_from(&opened.linked_sha256);
        let kept_as = self.kept.keep(&read).map(|number| (keeper.clone(), number));
        Ok(opened.map(|stream| CachedStream(From::Source { stream, kept_as })))
    }
}

/// One opened range of a [`CachedSource`].
pub struct CachedStream<T>(From<T>);

enum From<T> {
    /// As the source gives it, and kept as the read of that number.
    Source { stream: T, kept_as: Option<(Rc<Keeper>, u32)> },
    /// From what is kept.
    Kept { keeper: Rc<Keeper>, file: String, pieces: std::vec::IntoIter<u64> },
}

impl<T> CachedStream<T> {
    fn kept(keeper: Rc<Keeper>, file: String, pieces: Vec<u64>) -> CachedStream<T> {
        CachedStream(From::Kept { keeper, file, pieces: pieces.into_iter() })
    }
}

impl<T: ByteStream> ByteStream for CachedStream<T> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        match &mut self.0 {
            From::Source { stream, kept_as } => {
                let piece = stream.next().await?;
                if let Some((keeper, number)) = kept_as {
                    let number = *number;
                    keeper.work(|cache| match &piece {
                        Some(piece) => cache.piece(number, piece),
                        None => cache.end_read(number),
                    });
                    if piece.is_none() {
                        *kept_as = None;
                    }
                }
                Ok(piece)
            }
            From::Kept { keeper, file, pieces } => {
                let Some(at) = pieces.next() else { return Ok(None) };
                let mut piece = Vec::new();
                // They were sound when the load began.
                let failed = |detail: String| SourceError::Io { file: file.clone(), detail };
                let gone = || failed("what was kept of it is gone; load again".to_owned());
                let read = keeper.look(|cache| cache.pack.read(at, u64::MAX, &mut piece));
                read.ok_or_else(gone)?.map_err(|error| failed(error.to_string()))?;
                Ok(Some(piece))
            }
        }
    }
}
