//! The line to one server: what all transfers from it share.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::RangeInclusive;
use std::rc::Rc;

use crate::checkpoint::retry::Network;
use crate::checkpoint::transport::{Body, Transport};

/// Connections up to which the body of a whole file is kept for whoever reads on.
const PARKED: usize = 3;

/// A lane that is waited for less than this is followed by longer ones, and one that is waited for longer
/// than that by shorter ones, milliseconds.
const QUICK_MS: u64 = 100;
const SLOW_MS: u64 = 600;

/// A connection, counted while it may be open.
pub(super) struct Slot(Rc<Cell<usize>>);

impl Slot {
    pub(super) fn new(count: &Rc<Cell<usize>>) -> Slot {
        count.set(count.get() + 1);
        Slot(count.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// What an answer says of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) file_bytes: Option<u64>,
    pub(super) validator: Option<String>,
    pub(super) linked_sha256: Option<String>,
}

/// A body that is being read.
pub(super) struct Flow<B: Body> {
    pub(super) file: Rc<str>,
    pub(super) body: B,
    /// Bytes of it before the next.
    pub(super) rest: Option<B::Piece>,
    /// Byte of the file that comes next.
    pub(super) position: u64,
    /// Byte after its last, if known.
    pub(super) end: Option<u64>,
    /// Byte of the file after the last that the answer announced, where it was a part.
    pub(super) sent_end: Option<u64>,
    /// Whether it is the whole file.
    pub(super) whole: bool,
    pub(super) head: Head,
}

/// What all streams of a source share.
pub(super) struct Shared<T: Transport> {
    pub(super) transport: T,
    pub(super) network: Network,
    /// Bytes of the next lane.
    pub(super) lane_bytes: Cell<u64>,
    /// Those of the shortest and of the longest.
    pub(super) lane_range: RangeInclusive<u64>,
    /// Lanes of all sources that use the same connections.
    pub(super) lanes: Rc<Cell<usize>>,
    /// Whether the server sends ranges, once that was seen.
    pub(super) ranges: Cell<Option<bool>>,
    /// Whether it ever answered.
    pub(super) heard: Cell<bool>,
    /// The server wants no request before, milliseconds since 1970.
    pub(super) quiet_until_ms: Cell<u64>,
    /// Files whose hashes will tell whether they are what they should be.
    pub(super) hashed: OnceCell<Vec<String>>,
    /// What the first answer for each file said.
    versions: RefCell<Vec<(Rc<str>, Head)>>,
    parked: RefCell<Vec<(Flow<T::Body>, Slot)>>,
}

impl<T: Transport> Shared<T> {
    pub(super) fn new(
        transport: T,
        network: Network,
        lane_range: RangeInclusive<u64>,
        lanes: Rc<Cell<usize>>,
    ) -> Shared<T> {
        Shared {
            transport,
            network,
            lane_bytes: Cell::new((*lane_range.start()).max(1)),
            lane_range,
            lanes,
            ranges: Cell::new(None),
            heard: Cell::new(false),
            quiet_until_ms: Cell::new(0),
            hashed: OnceCell::new(),
            versions: RefCell::default(),
            parked: RefCell::default(),
        }
    }

    /// A lane of so many bytes has come to its end, and was waited for so long: where that is no time, asking
    /// for the next one would count.
    pub(super) fn adapt(&self, bytes: u64, waited_ms: u64) {
        let now = self.lane_bytes.get();
        let next = match waited_ms {
            ..QUICK_MS if bytes >= now => now.saturating_mul(2),
            SLOW_MS.. => now / 2,
            _ => now,
        };
        self.lane_bytes.set(next.min(*self.lane_range.end()).max(*self.lane_range.start()).max(1));
    }

    /// Whether an answer is about the file that earlier ones were about, as far as both tell. Servers of one
    /// network need not agree on a validator: where a hash tells more, it alone counts.
    pub(super) fn is_same_version(&self, file: &Rc<str>, head: &Head) -> bool {
        fn agree<V: PartialEq>(known: &Option<V>, now: &Option<V>) -> bool {
            known.is_none() || now.is_none() || known == now
        }
        let mut versions = self.versions.borrow_mut();
        if let Some((_, known)) = versions.iter_mut().find(|(name, _)| name == file) {
            let is_hashed = self.hashed.get().is_some_and(|files| files.iter().any(|name| **name == **file));
            let same = agree(&known.file_bytes, &head.file_bytes)
                && (is_hashed || agree(&known.validator, &head.validator));
            known.file_bytes = known.file_bytes.or(head.file_bytes);
            known.validator = known.validator.take().or_else(|| head.validator.clone());
            return same;
        }
        versions.push((file.clone(), head.clone()));
        true
    }

    /// Keeps the body of a whole file for whoever reads on: there is no other way to its later bytes
    /// than through the earlier ones.
    pub(super) fn park(&self, flow: Flow<T::Body>) {
        let mut parked = self.parked.borrow_mut();
        let over = flow.head.file_bytes.is_some_and(|bytes| flow.position >= bytes);
        // The lane that it came from is still counted.
        if self.lanes.get() <= PARKED && !over {
            parked.push((flow, Slot::new(&self.lanes)));
        }
    }

    pub(super) fn take_parked(&self, file: &Rc<str>, at: u64) -> Option<Flow<T::Body>> {
        let mut parked = self.parked.borrow_mut();
        let found = parked.iter().position(|(flow, _)| flow.file == *file && flow.position <= at)?;
        Some(parked.swap_remove(found).0)
    }
}
