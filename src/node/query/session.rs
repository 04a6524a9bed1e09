//! The newest version of each key that clients have read or written through this node, for a bounded
//! number of keys. It gives the clients of this node monotonic reads and read-your-writes
//! (`PROTOCOL.md` 3): a GET compares with it before it ends early.
//!
//! Non-goal: this module decides nothing and stores no values.
//!
//! The CLOCK algorithm chooses the key to forget: the hand moves over a ring of keys and skips each key
//! that was used since the hand last passed it. So a known key costs one hash lookup and one written bit
//! per GET. A list in the order of use (LRU) would also write to two other entries, each a cache miss.

use std::cell::Cell;

use crate::id::{Key, KeyMap, KeySeed};
use crate::record::Precedence;
use crate::time::WallTime;

/// Keys for which a node remembers the last version that was read or written through it; about 2 MB.
const VERSIONS_REMEMBERED_MAX: usize = 1 << 14;

/// The most keys that the hand skips: it then takes the next key even if that was used, so that each
/// insertion does a bounded amount of work.
const SKIPS_MAX: usize = 16;

/// The entry of a key.
#[derive(Clone, Debug)]
struct Entry {
    newest: Precedence,
    /// Whether the key was used since the hand last passed it.
    used: Cell<bool>,
}

/// The newest versions that clients have read or written.
#[derive(Debug)]
pub(crate) struct Versions {
    entries: KeyMap<Key, Entry>,
    /// The keys of all entries, each once.
    ring: Vec<Key>,
    /// The index in the ring at which the search for a key to forget begins.
    hand: usize,
    keys_max: usize,
}

impl Versions {
    /// No versions.
    pub(crate) fn new(seed: KeySeed) -> Self {
        Self::with_capacity(VERSIONS_REMEMBERED_MAX, seed)
    }

    fn with_capacity(keys_max: usize, seed: KeySeed) -> Self {
        Self { entries: KeyMap::with_hasher(seed), ring: Vec::new(), hand: 0, keys_max }
    }

    /// The newest version of `key` that is remembered. The key counts as used.
    pub(crate) fn newest(&self, key: &Key) -> Option<Precedence> {
        let entry = self.entries.get(key)?;
        entry.used.set(true);
        Some(entry.newest)
    }

    /// A client has read or written the version `seen`. A newer one that is remembered stays.
    pub(crate) fn remember(&mut self, key: Key, seen: Precedence) {
        self.set(key, |newest| newest.max(seen), seen);
    }

    /// A client has read the version `seen`, and a complete lookup has found no newer one: a newer one
    /// that is remembered no longer exists.
    pub(crate) fn replace(&mut self, key: Key, seen: Precedence) {
        self.set(key, |_| seen, seen);
    }

    /// The wall clock was set: versions that are too far ahead of it are not remembered any more.
    pub(crate) fn forget_impossible(&mut self, wall: WallTime) {
        self.entries.retain(|_, entry| !entry.newest.version().is_too_early(wall));
        let entries = &self.entries;
        self.ring.retain(|key| entries.contains_key(key));
        self.hand = 0;
    }

    /// The version `seen` of `key` does not exist: its PUT was refused.
    pub(crate) fn forget(&mut self, key: &Key, seen: Precedence) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.newest == seen) {
            entry.newest = Precedence::LOWEST;
        }
    }

    /// Changes the version of `key` by `change`; sets it to `first` if none is remembered.
    fn set(&mut self, key: Key, change: impl FnOnce(Precedence) -> Precedence, first: Precedence) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.newest = change(entry.newest);
            entry.used.set(true);
            return;
        }
        if self.ring.len() < self.keys_max {
            self.ring.push(key);
        } else {
            let index = self.forget_one();
            self.ring[index] = key;
        }
        self.entries.insert(key, Entry { newest: first, used: Cell::new(false) });
    }

    /// Forgets the first key that was not used; returns its index in the ring.
    fn forget_one(&mut self) -> usize {
        let mut index = self.hand;
        for _ in 0..SKIPS_MAX {
            let is_used = self.entries.get(&self.ring[index]).is_some_and(|entry| entry.used.take());
            if !is_used {
                break;
            }
            index = self.after(index);
        }
        self.entries.remove(&self.ring[index]);
        self.hand = self.after(index);
        index
    }

    fn after(&self, index: usize) -> usize {
        (index + 1) % self.ring.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Class, Life, Rank, Version};

    fn precedence(class: Class, version: u64) -> Precedence {
        Rank { class, life: Life::Alive, version: Version::from_bits(version) }.precedence()
    }

    fn key(n: u8) -> Key {
        Key::new([n; 32])
    }

    #[test]
    fn the_newest_version_is_remembered_and_a_certified_one_is_newer_than_a_plain_one() {
        let mut versions = Versions::new(KeySeed::new([1, 2, 3, 4]));
        assert_eq!(versions.newest(&key(1)), None);
        for (class, version, newest) in [
            (Class::Plain, 5, precedence(Class::Plain, 5)),
            (Class::Plain, 3, precedence(Class::Plain, 5)),
            (Class::Signed, 1, precedence(Class::Signed, 1)),
            (Class::Plain, 9, precedence(Class::Signed, 1)),
        ] {
            versions.remember(key(1), precedence(class, version));
            assert_eq!(versions.newest(&key(1)), Some(newest));
        }
        versions.replace(key(1), precedence(Class::Plain, 3));
        assert_eq!(versions.newest(&key(1)), Some(precedence(Class::Plain, 3)));
    }

    #[test]
    fn a_key_in_use_is_remembered_longer_than_keys_that_are_not() {
        let mut versions = Versions::with_capacity(4, KeySeed::new([1, 2, 3, 4]));
        for n in 0..4 {
            versions.remember(key(n), precedence(Class::Plain, 1));
        }
        for n in 4..100 {
            assert!(versions.newest(&key(0)).is_some(), "used before each of {n} insertions");
            versions.remember(key(n), precedence(Class::Plain, 1));
        }
        assert_eq!(versions.newest(&key(1)), None);
    }

    proptest! {
        /// Goal: the number of keys is bounded, and the version of each key is the newest since the key
        /// was inserted.
        ///
        /// Method: comparison with an array of the newest versions.
        #[test]
        fn each_remembered_version_is_the_newest_and_an_insertion_never_evicts_its_own_key(
            actions in proptest::collection::vec((0..40_u8, 0..9_u64), 0..300),
        ) {
            let mut versions = Versions::with_capacity(20, KeySeed::new([1, 2, 3, 4]));
            let mut newest = [None; 40];
            for (n, version) in actions {
                let known = &mut newest[usize::from(n)];
                if versions.entries.contains_key(&key(n)) {
                    *known = (*known).max(Some(version));
                } else {
                    *known = Some(version); // the key was evicted meanwhile
                }
                versions.remember(key(n), precedence(Class::Plain, version));
                prop_assert_eq!(versions.newest(&key(n)), known.map(|version| precedence(Class::Plain, version)));
                prop_assert_eq!(versions.entries.len(), versions.ring.len());
                prop_assert!(versions.ring.len() <= 20);
                prop_assert!(versions.ring.iter().all(|key| versions.entries.contains_key(key)));
            }
        }
    }
}
