//! The cache of one load, while it works: storage that fails ends the cache, never the load.

use std::cell::RefCell;

use super::cache::{Cache, CacheFiles};
use super::types::{CacheReport, CacheState};
use crate::checkpoint::pack::Tag;
use crate::checkpoint::storage::StorageError;
use crate::model::weight_cache::WriteLog;

/// The cache, if there still is one, and what became of it.
pub struct Keeper {
    cache: RefCell<Option<Cache>>,
    /// Why the cache has to end, until it did.
    failure: RefCell<Option<StorageError>>,
    report: RefCell<CacheReport>,
}

impl Keeper {
    pub(super) fn new(files: Option<CacheFiles>) -> Keeper {
        let (mut cache, mut failure) = (None, None);
        match files.map(Cache::open) {
            Some(Ok(opened)) => cache = Some(opened),
            Some(Err(error)) => failure = Some(error),
            None => {}
        }
        let state = if cache.is_some() { CacheState::Stored } else { CacheState::Off };
        let report = CacheReport { state, note: None };
        Keeper { cache: RefCell::new(cache), failure: RefCell::new(failure), report: RefCell::new(report) }
    }

    /// Whether there is a cache.
    pub(super) fn is_on(&self) -> bool {
        self.cache.borrow().is_some()
    }

    pub(super) fn report(&self) -> CacheReport {
        self.settle();
        self.report.borrow().clone()
    }

    pub(super) fn set_state(&self, state: CacheState) {
        self.report.borrow_mut().state = state;
    }

    /// Looks something up.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Cache) -> T) -> Option<T> {
        self.cache.borrow().as_ref().map(look)
    }

    /// Works on the cache.
    pub(super) fn work<T>(&self, work: impl FnOnce(&mut Cache) -> Result<T, StorageError>) -> Option<T> {
        self.settle();
        match self.cache.borrow_mut().as_mut().map(work)? {
            Ok(value) => Some(value),
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                None
            }
        }
    }

    /// Ends the cache if its storage has failed.
    pub(super) fn settle(&self) {
        let (why, detail) = match self.failure.take() {
            None => return,
            Some(StorageError::NoSpace(detail)) => ("this browser has too little space for it", detail),
            Some(StorageError::Failed(detail)) => ("the browser's storage failed", detail),
        };
        self.end(Some(format!("the model is not kept for next time: {why} ({detail})")));
    }

    /// Goes on without a cache; nothing half is kept.
    pub(super) fn end(&self, note: Option<String>) {
        if let Some(cache) = self.cache.take() {
            cache.clear();
        }
        *self.report.borrow_mut() = CacheReport { state: CacheState::Off, note };
    }
}

impl WriteLog for Keeper {
    fn write(&self, tag: Tag, payload: &[u8]) {
        self.work(|cache| cache.pack.append(tag, payload));
    }
}
