//! The tombstones of a storage. A tombstone *lapses* when no older version can be alive on any node.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::id::Key;
use crate::record::Tombstone;
use crate::storage::{StorageFault, check_number};
use crate::time::Time;

/// Bytes of memory that a tombstone takes: an entry in each of two ordered sets, which may be one third
/// empty.
pub const TOMBSTONE_BYTES: usize = (size_of::<(Key, Entry)>() + size_of::<(Time, Key)>()) * 3 / 2;

/// Tombstones by key and by the moment they lapse.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    by_key: BTreeMap<Key, Entry>,
    by_lapse: BTreeSet<(Time, Key)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tombstone: Tombstone,
    lapses: Time,
}

impl Tombstones {
    /// The tombstone of `key`, unless it has lapsed at `now`.
    pub(super) fn find(&self, now: Time, key: &Key) -> Option<Tombstone> {
        self.by_key.get(key).filter(|entry| now < entry.lapses).map(|entry| entry.tombstone)
    }

    /// Sets the tombstone of `key`, which lapses at `lapses`.
    pub(super) fn insert(&mut self, key: Key, tombstone: Tombstone, lapses: Time) {
        if let Some(before) = self.by_key.insert(key, Entry { tombstone, lapses }) {
            self.by_lapse.remove(&(before.lapses, key));
        }
        self.by_lapse.insert((lapses, key));
    }

    /// Removes the tombstone that lapses first, now or later.
    pub(super) fn take_oldest(&mut self) -> Option<Key> {
        let (_, key) = self.by_lapse.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// Removes the tombstones that `which` selects.
    pub(super) fn take_out(&mut self, which: impl Fn(Tombstone) -> bool) -> Vec<(Key, Tombstone)> {
        let chosen = self.by_key.iter().filter(|(_, entry)| which(entry.tombstone));
        let chosen: Vec<(Key, Entry)> = chosen.map(|(key, entry)| (*key, *entry)).collect();
        for (key, entry) in &chosen {
            self.by_key.remove(key);
            self.by_lapse.remove(&(entry.lapses, *key));
        }
        chosen.into_iter().map(|(key, entry)| (key, entry.tombstone)).collect()
    }

    /// Removes a tombstone that has lapsed at `now`.
    pub(super) fn take_lapsed(&mut self, now: Time) -> Option<Key> {
        self.next_lapse().filter(|lapse| *lapse <= now).and_then(|_| self.take_oldest())
    }

    pub(super) fn next_lapse(&self) -> Option<Time> {
        self.by_lapse.first().map(|&(lapse, _)| lapse)
    }

    pub(super) fn range(&self, keys: RangeInclusive<Key>) -> impl Iterator<Item = (&Key, Tombstone)> {
        let keys = if keys.is_empty() { None } else { Some(keys) };
        let range = keys.into_iter().flat_map(|keys| self.by_key.range(keys));
        range.map(|(key, entry)| (key, entry.tombstone))
    }

    pub(super) fn bytes(&self) -> usize {
        self.by_key.len() * TOMBSTONE_BYTES
    }

    pub(super) fn check_invariants(&self) -> Result<(), StorageFault> {
        let lapses = |(key, entry): &(&Key, &Entry)| self.by_lapse.contains(&(entry.lapses, **key));
        check_number("tombstones that lapse", self.by_key.iter().filter(lapses).count(), self.by_key.len())?;
        check_number("tombstones by lapse", self.by_lapse.len(), self.by_key.len())
    }
}
