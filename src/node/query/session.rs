//! What was last read or written through this node: a bounded memory that keeps its clients from
//! going back in time (`PROTOCOL.md` 3).
//!
//! For each key it knows the largest record that a client was shown, or handed in. It decides
//! nothing: a GET asks it before it ends early.
//!
//! Which key is forgotten for a new one is found as a clock's hand goes round: one that was looked
//! up since the hand last passed it is passed over once more. So a key that is known costs one
//! look-up and writes one bit, as it happens on every GET that is served from here; an order by the
//! last use would touch its neighbours as well, each of them far away in memory.

use std::cell::Cell;

use crate::id::{Key, KeyMap, KeySeed};
use crate::limits::VERSIONS_REMEMBERED_MAX;
use crate::record::Precedence;

/// A key's place in the ring.
type Index = usize;

/// Places that the hand passes over, at most, before it takes one that was looked up meanwhile: the
/// work of remembering one more key has a bound.
const LOOKS_MAX: usize = 16;

/// What is remembered of a key.
#[derive(Clone, Debug)]
struct Memory {
    seen: Precedence,
    /// Whether it was looked up since the hand last passed it.
    used: Cell<bool>,
}

/// The memory.
#[derive(Debug)]
pub(crate) struct Versions {
    memories: KeyMap<Key, Memory>,
    /// All keys that are remembered, each once.
    ring: Vec<Key>,
    /// Where the next key to be forgotten is looked for.
    hand: Index,
    most: usize,
}

impl Versions {
    /// A memory of nothing yet.
    pub(crate) fn new(seed: KeySeed) -> Self {
        Self::of_at_most(VERSIONS_REMEMBERED_MAX, seed)
    }

    fn of_at_most(most: usize, seed: KeySeed) -> Self {
        Self { memories: KeyMap::with_hasher(seed), ring: Vec::new(), hand: 0, most }
    }

    /// What is remembered of `key`, which will not be forgotten soon.
    pub(crate) fn newest(&self, key: &Key) -> Option<Precedence> {
        let memory = self.memories.get(key)?;
        memory.used.set(true);
        Some(memory.seen)
    }

    /// `seen` was read or written; what is larger and remembered stays.
    pub(crate) fn remember(&mut self, key: Key, seen: Precedence) {
        self.set(key, |before| before.max(seen), seen);
    }

    /// `seen` was read after all were asked who might know a larger one: whatever was remembered is
    /// not to be had any more.
    pub(crate) fn replace(&mut self, key: Key, seen: Precedence) {
        self.set(key, |_| seen, seen);
    }

    /// Remembers of `key` what `newest` makes of what is remembered of it, or `first`.
    fn set(&mut self, key: Key, newest: impl FnOnce(Precedence) -> Precedence, first: Precedence) {
        if let Some(memory) = self.memories.get_mut(&key) {
            memory.seen = newest(memory.seen);
            memory.used.set(true);
            return;
        }
        if self.ring.len() < self.most {
            self.ring.push(key);
        } else {
            let index = self.forget_one();
            self.ring[index] = key;
        }
        self.memories.insert(key, Memory { seen: first, used: Cell::new(false) });
    }

    /// Forgets a key that was not looked up for long; returns its place.
    fn forget_one(&mut self) -> Index {
        let mut index = self.hand;
        for _ in 0..LOOKS_MAX {
            let is_used = self.memories.get(&self.ring[index]).is_some_and(|memory| memory.used.take());
            if !is_used {
                break;
            }
            index = self.after(index);
        }
        self.memories.remove(&self.ring[index]);
        self.hand = self.after(index);
        index
    }

    fn after(&self, index: Index) -> Index {
        (index + 1) % self.ring.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Class, Life, Rank, Version};

    fn seen(class: Class, version: u64) -> Precedence {
        Rank { class, life: Life::Alive, version: Version::from_bits(version) }.precedence()
    }

    fn key(n: u8) -> Key {
        Key::new([n; 32])
    }

    #[test]
    fn the_largest_is_remembered_and_a_class_that_certifies_itself_is_larger() {
        let mut versions = Versions::new(KeySeed::new([1, 2, 3, 4]));
        assert_eq!(versions.newest(&key(1)), None);
        for (class, version, newest) in [
            (Class::Plain, 5, seen(Class::Plain, 5)),
            (Class::Plain, 3, seen(Class::Plain, 5)),
            (Class::Signed, 1, seen(Class::Signed, 1)),
            (Class::Plain, 9, seen(Class::Signed, 1)),
        ] {
            versions.remember(key(1), seen(class, version));
            assert_eq!(versions.newest(&key(1)), Some(newest));
        }
        versions.replace(key(1), seen(Class::Plain, 3));
        assert_eq!(versions.newest(&key(1)), Some(seen(Class::Plain, 3)));
    }

    #[test]
    fn what_is_looked_up_outlives_what_is_not() {
        let mut versions = Versions::of_at_most(4, KeySeed::new([1, 2, 3, 4]));
        for n in 0..4 {
            versions.remember(key(n), seen(Class::Plain, 1));
        }
        for n in 4..100 {
            assert!(versions.newest(&key(0)).is_some(), "looked up before each of {n} others came");
            versions.remember(key(n), seen(Class::Plain, 1));
        }
        assert_eq!(versions.newest(&key(1)), None);
    }

    proptest! {
        /// Goal: no more keys are remembered than may be, and what is known of each is true.
        ///
        /// Method: beside a list of all that was ever remembered.
        #[test]
        fn what_is_remembered_is_the_largest_and_the_last_key_is_never_forgotten_for_itself(
            deeds in proptest::collection::vec((0..40_u8, 0..9_u64), 0..300),
        ) {
            let mut versions = Versions::of_at_most(20, KeySeed::new([1, 2, 3, 4]));
            let mut largest = [None; 40];
            for (n, version) in deeds {
                let known = &mut largest[usize::from(n)];
                if versions.memories.contains_key(&key(n)) {
                    *known = (*known).max(Some(version));
                } else {
                    *known = Some(version); // it was forgotten meanwhile
                }
                versions.remember(key(n), seen(Class::Plain, version));
                prop_assert_eq!(versions.newest(&key(n)), known.map(|version| seen(Class::Plain, version)));
                prop_assert_eq!(versions.memories.len(), versions.ring.len());
                prop_assert!(versions.ring.len() <= 20);
                prop_assert!(versions.ring.iter().all(|key| versions.memories.contains_key(key)));
            }
        }
    }
}
