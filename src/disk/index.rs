//! Where in the log the current entry of each key is.
//!
//! Memory: 28 bytes for a key and at most 3 % more, and 6 to 12 bytes of a hash table. Memory holds a
//! fingerprint of 128 bits of each key, not the key: the start of SHA-256 of the store's id, which is secret, and the
//! key. Two keys have the same fingerprint only if SHA-256 is broken.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use sha2::{Digest, Sha256};

use crate::disk::segment::{Position, StoreId};

/// Stands for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 16]);

impl Fingerprint {
    pub(super) fn of(store: &StoreId, key: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::new().chain_update(store).chain_update(key).finalize().into();
        Self(*digest.first_chunk().expect("16 of 32 bytes"))
    }

    fn hash(self) -> u64 {
        u64::from_be_bytes(*self.0.first_chunk().expect("8 of 16 bytes"))
    }
}

/// An entry in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: Position,
    /// The size of the entry with its frame.
    pub(super) size: u32,
}

/// The place of the current entry of each key.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: Vec<(Fingerprint, Place)>,
    /// Numbers of slots. Never iterated.
    table: HashTable<u32>,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&self, key: Fingerprint) -> Option<Place> {
        let slot = self.table.find(key.hash(), |slot| self.slots[*slot as usize].0 == key)?;
        Some(self.slots[*slot as usize].1)
    }

    /// Reads the memory that a look-up of each of `keys` reads, so that the processor waits for all of them at once.
    /// Changes nothing.
    pub(super) fn prefetch(&self, keys: impl Iterator<Item = Fingerprint>) {
        let guesses = keys.filter_map(|key| self.table.find(key.hash(), |_| true));
        std::hint::black_box(guesses.fold(0, |read, slot| read ^ self.slots[*slot as usize].1.size));
    }

    /// Makes room for about `keys` keys, so that the hash table does not grow while they are inserted.
    pub(super) fn reserve(&mut self, keys: usize) {
        let Self { slots, table } = self;
        table.reserve(keys.saturating_sub(table.len()), |slot| slots[*slot as usize].0.hash());
    }

    /// Returns the memory of the hash table that [`Index::reserve`] took for too many keys.
    pub(super) fn end_reserve(&mut self) {
        let Self { slots, table } = self;
        if table.capacity() > 2 * table.len() {
            table.shrink_to_fit(|slot| slots[*slot as usize].0.hash());
        }
    }

    /// Sets the place of a key; returns the place before.
    pub(super) fn insert(&mut self, key: Fingerprint, place: Place) -> Option<Place> {
        let Self { slots, table } = self;
        let hash_of = |slot: &u32| slots[*slot as usize].0.hash();
        match table.entry(key.hash(), |slot| slots[*slot as usize].0 == key, hash_of) {
            Entry::Occupied(entry) => {
                let slot = *entry.get() as usize;
                Some(std::mem::replace(&mut slots[slot].1, place))
            }
            Entry::Vacant(entry) => {
                entry.insert(u32::try_from(slots.len()).expect("fewer than 2^32 keys"));
                if slots.len() == slots.capacity() {
                    slots.reserve_exact(slots.len() / 32 + 64);
                }
                slots.push((key, place));
                None
            }
        }
    }

    /// Removes a key; returns its place.
    pub(super) fn remove(&mut self, key: Fingerprint) -> Option<Place> {
        let Self { slots, table } = self;
        let entry = table.find_entry(key.hash(), |slot| slots[*slot as usize].0 == key).ok()?;
        let (slot, _) = entry.remove();
        let last = u32::try_from(slots.len() - 1).expect("fewer than 2^32 keys");
        let (_, place) = slots.swap_remove(slot as usize);
        if slot != last {
            let moved = slots[slot as usize].0;
            *table.find_mut(moved.hash(), |other| *other == last).expect("each slot is in the table") = slot;
        }
        self.shrink();
        Some(place)
    }

    /// Where the entries of all keys begin, in any order.
    pub(super) fn positions(&self) -> impl Iterator<Item = Position> {
        self.slots.iter().map(|(_, place)| place.at)
    }

    /// Returns memory that is mostly unused; what stays is room to grow again.
    fn shrink(&mut self) {
        let Self { slots, table } = self;
        if slots.len() < slots.capacity() / 4 {
            slots.shrink_to(2 * slots.len());
        }
        if table.len() < table.capacity() / 8 {
            table.shrink_to(2 * table.len(), |slot| slots[*slot as usize].0.hash());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeMap;

    impl Index {
        /// The bytes that the index takes up.
        fn memory(&self) -> usize {
            self.slots.capacity() * size_of::<(Fingerprint, Place)>() + self.table.allocation_size()
        }
    }

    fn key(number: u32) -> Fingerprint {
        Fingerprint::of(&[7; 16], &number.to_be_bytes())
    }

    fn place(offset: u32) -> Place {
        Place { at: Position { segment: 1, offset }, size: 9 }
    }

    #[test]
    fn an_index_answers_as_a_sorted_map_does() {
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        let mut rng = StdRng::seed_from_u64(1);
        for step in 0..20_000 {
            let number = rng.random_range(0..300_u32);
            if rng.random_range(0..10) < 10 * (step / 5_000 % 2) + 3 {
                assert_eq!(index.remove(key(number)), model.remove(&number));
            } else {
                assert_eq!(index.insert(key(number), place(step)), model.insert(number, place(step)));
            }
            let other = rng.random_range(0..300);
            assert_eq!(index.find(key(other)), model.get(&other).copied());
            assert_eq!(index.len(), model.len());
        }
    }

    #[test]
    fn a_reserve_for_too_many_keys_is_returned() {
        for reserved in [0, 1_000, 1_000_000] {
            let mut index = Index::default();
            index.reserve(reserved);
            for number in 0..20_000 {
                index.insert(key(number), place(number));
            }
            index.end_reserve();
            assert!(index.memory() <= 41 * index.len(), "{} after {reserved}", index.memory());
            assert!((0..20_000).all(|number| index.find(key(number)) == Some(place(number))));
        }
    }

    #[test]
    fn a_key_takes_41_bytes_of_memory_at_most_and_removed_keys_none() {
        let mut index = Index::default();
        for number in 0..200_000_u32 {
            index.insert(key(number), place(number));
            let keys = index.len();
            assert!(keys < 20_000 || index.memory() <= 41 * keys, "{} for {keys}", index.memory());
        }
        for number in 0..200_000 {
            index.remove(key(number));
        }
        assert!(index.memory() < 4_096, "{}", index.memory());
    }
}
