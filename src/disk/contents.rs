//! What is in a store: the current entries of the log, and how much space they take.

use std::collections::BTreeMap;

use crate::disk::index::{Fingerprint, Index, Place};
use crate::node::persisted::PackId;

/// Changes for which the index is prefetched at a time.
const CHANGES_AT_A_TIME: usize = 32;

/// An entry that changes the content of the store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    State(Fingerprint, Place),
    Removal(Fingerprint, Place),
    Contacts(Place),
    Pack(PackId, Place),
    PackRemoval(PackId, Place),
}

impl Change {
    /// The place of the entry.
    pub(super) fn place(&self) -> Place {
        match *self {
            Self::State(_, place)
            | Self::Removal(_, place)
            | Self::Contacts(place)
            | Self::Pack(_, place)
            | Self::PackRemoval(_, place) => place,
        }
    }

    fn key(&self) -> Option<Fingerprint> {
        match *self {
            Self::State(key, _) | Self::Removal(key, _) => Some(key),
            Self::Contacts(_) | Self::Pack(..) | Self::PackRemoval(..) => None,
        }
    }

    /// The same change by an entry at another place.
    pub(super) fn moved_to(self, place: Place) -> Self {
        match self {
            Self::State(key, _) => Self::State(key, place),
            Self::Removal(key, _) => Self::Removal(key, place),
            Self::Contacts(_) => Self::Contacts(place),
            Self::Pack(pack, _) => Self::Pack(pack, place),
            Self::PackRemoval(pack, _) => Self::PackRemoval(pack, place),
        }
    }
}

/// The current entries.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) index: Index,
    pub(super) contacts: Option<Place>,
    /// A few thousand at most: each has many tombstones.
    pub(super) packs: BTreeMap<PackId, Place>,
    /// Bytes of the current entries in each segment that has any.
    live: BTreeMap<u32, u64>,
    live_bytes: u64,
}

impl Contents {
    /// Bytes of all current entries.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Whether the segment has current entries.
    pub(super) fn is_live(&self, segment: u32) -> bool {
        self.live.contains_key(&segment)
    }

    /// Whether `change` has made the current entry, or the removal, of what it is about.
    pub(super) fn is_current(&self, change: Change) -> bool {
        match change {
            Change::State(key, place) => self.index.find(key) == Some(place),
            Change::Removal(key, _) => self.index.find(key).is_none(),
            Change::Contacts(place) => self.contacts == Some(place),
            Change::Pack(pack, place) => self.packs.get(&pack) == Some(&place),
            Change::PackRemoval(pack, _) => !self.packs.contains_key(&pack),
        }
    }

    /// Applies changes in their order.
    pub(super) fn apply_all(&mut self, changes: &[Change]) {
        for some in changes.chunks(CHANGES_AT_A_TIME) {
            self.index.prefetch(some.iter().filter_map(Change::key));
            for change in some {
                self.apply(*change);
            }
        }
    }

    fn apply(&mut self, change: Change) {
        let (old, new) = match change {
            Change::State(key, place) => (self.index.insert(key, place), Some(place)),
            Change::Removal(key, _) => (self.index.remove(key), None),
            Change::Contacts(place) => (self.contacts.replace(place), Some(place)),
            Change::Pack(pack, place) => (self.packs.insert(pack, place), Some(place)),
            Change::PackRemoval(pack, _) => (self.packs.remove(&pack), None),
        };
        if let Some(Place { at, size }) = new {
            *self.live.entry(at.segment).or_default() += u64::from(size);
            self.live_bytes += u64::from(size);
        }
        if let Some(Place { at, size }) = old {
            let live = self.live.get_mut(&at.segment).expect("the segment of a current entry");
            *live -= u64::from(size);
            if *live == 0 {
                self.live.remove(&at.segment);
            }
            self.live_bytes -= u64::from(size);
        }
    }
}
