//! A disk whose power can be cut: what was not flushed is lost, in part, or torn.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bise::checkpoint::storage::{StorageError, StoredFile};

use crate::common::Random;

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

#[derive(Clone, Default)]
struct Image {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

impl Image {
    fn apply(content: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Truncate(bytes) => content.resize(*bytes, 0),
            Change::Write { at, bytes } => {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

/// When the power goes.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// After that many bytes were written.
    Bytes(u64),
    /// Before the flush of that number takes effect.
    BeforeFlush(u64),
    /// Right after it has.
    AfterFlush(u64),
}

#[derive(Default)]
struct State {
    files: BTreeMap<&'static str, Image>,
    cut: Option<Cut>,
    is_cut: bool,
    written: u64,
    flushes: u64,
    room: Option<u64>,
}

#[derive(Clone, Default)]
pub struct Disk(Rc<RefCell<State>>);

impl Disk {
    pub fn cut_at(&self, cut: Cut) {
        self.0.borrow_mut().cut = Some(cut);
    }

    pub fn is_cut(&self) -> bool {
        self.0.borrow().is_cut
    }

    /// Bytes written and flushes so far.
    pub fn work(&self) -> (u64, u64) {
        (self.0.borrow().written, self.0.borrow().flushes)
    }

    /// Writes fail beyond that many bytes in all files.
    pub fn limit(&self, bytes: u64) {
        self.0.borrow_mut().room = Some(bytes);
    }

    pub fn open(&self, name: &'static str) -> Box<dyn StoredFile> {
        self.0.borrow_mut().files.entry(name).or_default();
        Box::new(OpenFile { disk: self.clone(), name })
    }

    pub fn content(&self, name: &'static str) -> Vec<u8> {
        self.0.borrow().files.get(name).map_or_else(Vec::new, |image| image.now.clone())
    }

    pub fn flip(&self, name: &'static str, bit: u64) {
        let mut state = self.0.borrow_mut();
        let image = state.files.get_mut(name).unwrap();
        image.now[(bit / 8) as usize] ^= 1 << (bit % 8);
        image.durable = image.now.clone();
    }

    /// What the machine finds when it starts again: all that was flushed, and of the rest any part in
    /// any order, its pieces torn at any byte.
    pub fn after_cut(&self, random: &mut Random) -> Disk {
        let mut files = BTreeMap::new();
        for (name, image) in &self.0.borrow().files {
            let mut content = image.durable.clone();
            for change in &image.pending {
                match (random.below(3), change) {
                    (0, _) => {}
                    (1, Change::Write { at, bytes }) => {
                        let kept = random.below(bytes.len() as u64 + 1) as usize;
                        let torn = Change::Write { at: *at, bytes: bytes[..kept].to_vec() };
                        Image::apply(&mut content, &torn);
                    }
                    _ => Image::apply(&mut content, change),
                }
            }
            files.insert(*name, Image { now: content.clone(), durable: content, pending: Vec::new() });
        }
        Disk(Rc::new(RefCell::new(State { files, ..State::default() })))
    }
}

struct OpenFile {
    disk: Disk,
    name: &'static str,
}

impl OpenFile {
    fn with<T>(&self, work: impl FnOnce(&mut Image) -> T) -> Result<T, StorageError> {
        let mut state = self.disk.0.borrow_mut();
        if state.is_cut {
            return Err(StorageError::Failed("the power is off".to_owned()));
        }
        Ok(work(state.files.get_mut(self.name).unwrap()))
    }
}

impl StoredFile for OpenFile {
    fn bytes(&self) -> Result<u64, StorageError> {
        self.with(|image| image.now.len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<usize, StorageError> {
        self.with(|image| {
            let from = image.now.get(at as usize..).unwrap_or_default();
            let bytes = from.len().min(into.len());
            into[..bytes].copy_from_slice(&from[..bytes]);
            bytes
        })
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let (mut length, mut ends) = (bytes.len(), false);
        {
            let state = &mut *self.disk.0.borrow_mut();
            let used: usize = state.files.values().map(|image| image.now.len()).sum();
            let grows = (at as usize + length).saturating_sub(state.files[self.name].now.len());
            if state.room.is_some_and(|room| (used + grows) as u64 > room) {
                return Err(StorageError::NoSpace("the disk is full".to_owned()));
            }
            if let Some(Cut::Bytes(cut)) = state.cut
                && state.written + length as u64 > cut
            {
                (length, ends) = ((cut - state.written) as usize, true);
            }
            state.written += length as u64;
        }
        let change = Change::Write { at: at as usize, bytes: bytes[..length].to_vec() };
        self.with(|image| {
            Image::apply(&mut image.now, &change);
            image.pending.push(change.clone());
        })?;
        if ends {
            self.disk.0.borrow_mut().is_cut = true;
            return Err(StorageError::Failed("the power went".to_owned()));
        }
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> Result<(), StorageError> {
        self.with(|image| {
            let change = Change::Truncate(bytes as usize);
            Image::apply(&mut image.now, &change);
            image.pending.push(change);
        })
    }

    fn flush(&self) -> Result<(), StorageError> {
        let number = self.disk.0.borrow().flushes;
        let cut = self.disk.0.borrow().cut;
        if matches!(cut, Some(Cut::BeforeFlush(at)) if at == number) {
            self.disk.0.borrow_mut().is_cut = true;
        }
        self.with(|image| {
            image.durable = image.now.clone();
            image.pending.clear();
        })?;
        self.disk.0.borrow_mut().flushes += 1;
        if matches!(cut, Some(Cut::AfterFlush(at)) if at == number) {
            self.disk.0.borrow_mut().is_cut = true;
        }
        Ok(())
    }
}
