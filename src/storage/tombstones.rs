//! Tombstones: which versions are over, until no older one can be alive anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::id::Key;
use crate::record::Tombstone;
use crate::storage::StorageFault;
use crate::time::Time;

/// Bytes that a tombstone takes: a place in each of two ordered sets, which may be a third empty.
pub const TOMBSTONE_BYTES: usize = (size_of::<(Key, Buried)>() + size_of::<(Time, Key)>()) * 3 / 2;

/// All tombstones of a storage, by key and by the moment they lapse.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    by_key: BTreeMap<Key, Buried>,
    by_lapse: BTreeSet<(Time, Key)>,
}

#[derive(Clone, Copy, Debug)]
struct Buried {
    tombstone: Tombstone,
    lapses: Time,
}

impl Tombstones {
    /// The tombstone of `key`, unless it has lapsed at `now`.
    pub(super) fn find(&self, now: Time, key: &Key) -> Option<Tombstone> {
        self.by_key.get(key).filter(|buried| now < buried.lapses).map(|buried| buried.tombstone)
    }

    /// Puts `tombstone` in the place of the one of `key`; `lapses` is the first moment at which it
    /// counts no more.
    pub(super) fn insert(&mut self, key: Key, tombstone: Tombstone, lapses: Time) {
        if let Some(before) = self.by_key.insert(key, Buried { tombstone, lapses }) {
            self.by_lapse.remove(&(before.lapses, key));
        }
        self.by_lapse.insert((lapses, key));
    }

    /// Takes the one that would lapse first, whenever that is.
    pub(super) fn take_oldest(&mut self) -> Option<Key> {
        let (_, key) = self.by_lapse.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// Takes one that has lapsed.
    pub(super) fn take_lapsed(&mut self, now: Time) -> Option<Key> {
        self.next_lapse().filter(|lapse| *lapse <= now).and_then(|_| self.take_oldest())
    }

    pub(super) fn next_lapse(&self) -> Option<Time> {
        self.by_lapse.first().map(|&(lapse, _)| lapse)
    }

    pub(super) fn range(&self, keys: RangeInclusive<Key>) -> impl Iterator<Item = (&Key, Tombstone)> {
        let keys = if keys.is_empty() { None } else { Some(keys) };
        let range = keys.into_iter().flat_map(|keys| self.by_key.range(keys));
        range.map(|(key, buried)| (key, buried.tombstone))
    }

    pub(super) fn bytes(&self) -> usize {
        self.by_key.len() * TOMBSTONE_BYTES
    }

    pub(super) fn check_invariants(&self) -> Result<(), StorageFault> {
        let by_lapse = self.by_lapse.len();
        let whole = self.by_key.iter().all(|(key, buried)| self.by_lapse.contains(&(buried.lapses, *key)));
        if whole && by_lapse == self.by_key.len() {
            return Ok(());
        }
        Err(StorageFault::Tombstones { by_key: self.by_key.len(), by_lapse })
    }
}
