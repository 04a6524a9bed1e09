//! What was last read or written through this node: a bounded memory that keeps its clients from
//! going back in time (`PROTOCOL.md` 3).
//!
//! For each key it knows the largest record that a client was shown, or handed in. Whoever was not
//! remembered for the longest time goes first. It decides nothing: a GET asks it before it ends
//! early.
//!
//! Remembering a key that is known costs one look-up and allocates nothing: it happens on every GET
//! that is served from here.

use crate::id::{Key, KeyMap, KeySeed};
use crate::limits::VERSIONS_REMEMBERED_MAX;
use crate::record::{Rank, Version};

/// What two records of one key are first compared by (`PROTOCOL.md` 3): whether they certify
/// themselves, then their versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    certifies_itself: bool,
    version: Version,
}

impl Seen {
    /// What a record of `rank` is compared by.
    pub(super) fn of(rank: Rank) -> Self {
        Self { certifies_itself: rank.class.certifies_itself(), version: rank.version }
    }

    /// The version, if the record was plain.
    pub(super) fn plain(self) -> Option<Version> {
        (!self.certifies_itself).then_some(self.version)
    }
}

/// Where a key stands in the list: the place of no key is [`NOWHERE`].
type Place = u32;

/// Beyond either end of the list.
const NOWHERE: Place = Place::MAX;

/// A key that is remembered, between one that was remembered later and one that was earlier.
#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Key,
    seen: Seen,
    later: Place,
    earlier: Place,
}

/// The memory.
#[derive(Debug)]
pub(super) struct Versions {
    places: KeyMap<Key, Place>,
    slots: Vec<Slot>,
    latest: Place,
    earliest: Place,
    most: usize,
}

impl Versions {
    /// A memory of nothing yet.
    pub(super) fn new(seed: KeySeed) -> Self {
        Self::of_at_most(VERSIONS_REMEMBERED_MAX, seed)
    }

    fn of_at_most(most: usize, seed: KeySeed) -> Self {
        let places = KeyMap::with_hasher(seed);
        Self { places, slots: Vec::new(), latest: NOWHERE, earliest: NOWHERE, most }
    }

    /// What is remembered of `key`.
    pub(super) fn newest(&self, key: &Key) -> Option<Seen> {
        self.places.get(key).map(|&place| self.slot(place).seen)
    }

    /// `seen` was read or written; what is larger and remembered stays.
    pub(super) fn remember(&mut self, key: Key, seen: Seen) {
        self.admit(key, seen);
    }

    /// Remembers `seen`, and says whether nothing larger was: whether it may be shown.
    pub(super) fn admit(&mut self, key: Key, seen: Seen) -> bool {
        self.set(key, |before| before.map_or(seen, |before| before.max(seen))) == seen
    }

    /// `seen` was read after all were asked who might know a larger one: whatever was remembered is
    /// not to be had any more.
    pub(super) fn settle_for(&mut self, key: Key, seen: Seen) {
        self.set(key, |_| seen);
    }

    /// Remembers of `key`, as the latest, what `newest` makes of what is remembered of it.
    fn set(&mut self, key: Key, newest: impl FnOnce(Option<Seen>) -> Seen) -> Seen {
        let (place, seen) = if let Some(&place) = self.places.get(&key) {
            self.unlink(place);
            (place, newest(Some(self.slot(place).seen)))
        } else {
            let place = self.free_place();
            self.places.insert(key, place);
            (place, newest(None))
        };
        let slot = Slot { key, seen, later: NOWHERE, earlier: self.latest };
        let at = index(place);
        if at == self.slots.len() {
            self.slots.push(slot);
        } else {
            self.slots[at] = slot;
        }
        match self.latest {
            NOWHERE => self.earliest = place,
            latest => self.slots[index(latest)].later = place,
        }
        self.latest = place;
        seen
    }

    /// A place for one more key: a new one, or that of the key that goes for it.
    fn free_place(&mut self) -> Place {
        if self.slots.len() < self.most {
            return Place::try_from(self.slots.len()).expect("the bound of the memory is a small one");
        }
        let place = self.earliest;
        let forgotten = self.slot(place).key;
        self.unlink(place);
        self.places.remove(&forgotten);
        place
    }

    /// Takes the slot at `place` out of the list.
    fn unlink(&mut self, place: Place) {
        let Slot { later, earlier, .. } = *self.slot(place);
        match later {
            NOWHERE => self.latest = earlier,
            later => self.slots[index(later)].earlier = earlier,
        }
        match earlier {
            NOWHERE => self.earliest = later,
            earlier => self.slots[index(earlier)].later = later,
        }
    }

    fn slot(&self, place: Place) -> &Slot {
        &self.slots[index(place)]
    }
}

fn index(place: Place) -> usize {
    usize::try_from(place).expect("32 bits fit")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Class, Life};

    fn seen(class: Class, version: u64) -> Seen {
        Seen::of(Rank { class, life: Life::Alive, version: Version::from_bits(version) })
    }

    fn key(n: u8) -> Key {
        Key::new([n; 32])
    }

    #[test]
    fn the_largest_is_remembered_and_a_class_that_certifies_itself_is_larger() {
        let mut versions = Versions::new(KeySeed::new(1, 2));
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
        versions.settle_for(key(1), seen(Class::Plain, 3));
        assert_eq!(versions.newest(&key(1)), Some(seen(Class::Plain, 3)));
    }

    proptest! {
        /// Goal: of more keys than there is room for, those remembered last are known.
        ///
        /// Method: a list that is searched from its end, which is the memory's plain model.
        #[test]
        fn whoever_was_not_remembered_for_the_longest_time_is_forgotten(
            deeds in proptest::collection::vec((0..12_u8, 0..9_u64), 0..200),
        ) {
            let mut versions = Versions::of_at_most(5, KeySeed::new(1, 2));
            let mut model: Vec<(u8, u64)> = Vec::new();
            for (n, version) in deeds {
                versions.remember(key(n), seen(Class::Plain, version));
                let before = model.iter().position(|(other, _)| *other == n).map(|at| model.remove(at));
                model.push((n, before.map_or(version, |(_, before)| before.max(version))));
                if model.len() > 5 {
                    model.remove(0);
                }
                for n in 0..12 {
                    let known = model.iter().find(|(other, _)| *other == n);
                    prop_assert_eq!(versions.newest(&key(n)), known.map(|(_, version)| seen(Class::Plain, *version)));
                }
                prop_assert_eq!(versions.places.len(), model.len());
            }
        }
    }
}
