//! Values in numbered places, which they keep while they are there.
//!
//! Places come in chunks. What is in a chunk never moves, so that no turn has to copy it all to
//! grow, and a chunk in which nothing is left is given back. The lowest free place is taken first,
//! so that what stays gathers in few chunks.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

/// Places in a chunk: as many as its map has bits.
const CHUNK: usize = u64::BITS as usize;

/// Places there can be: with their numbers a trie has a bit left.
const SLOTS_MAX: u32 = 1 << 31;

/// Bytes that each place takes besides its value, where all of its chunk are taken: its part of
/// what names the chunk, and of the header that the allocator adds.
pub(super) const SLOT_OVERHEAD: usize = (size_of::<(Chunk<()>, u64)>() + 16).div_ceil(CHUNK);

/// Where a value is; a number below 2³¹.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

impl Slot {
    /// The place of that number.
    pub(super) const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub(super) const fn number(self) -> u32 {
        self.0
    }

    fn chunk(self) -> usize {
        self.0 as usize / CHUNK
    }

    fn within(self) -> usize {
        self.0 as usize % CHUNK
    }
}

/// Values, each in a place of its own.
#[derive(Debug)]
pub(super) struct Slots<T> {
    chunks: Vec<Chunk<T>>,
    /// For each chunk a bit for each place that is taken.
    taken: Vec<u64>,
    /// Chunks with a free place.
    open: BTreeSet<usize>,
    len: usize,
}

/// None while nothing is in it.
type Chunk<T> = Option<Box<[Option<T>; CHUNK]>>;

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), taken: Vec::new(), open: BTreeSet::new(), len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Puts `value` into the lowest free place.
    pub(super) fn insert(&mut self, value: T) -> Slot {
        let at = self.open.first().copied().unwrap_or_else(|| self.open_chunk());
        let within = self.taken[at].trailing_ones() as usize;
        self.taken[at] |= 1 << within;
        if self.taken[at] == u64::MAX {
            self.open.remove(&at);
        }
        let chunk = self.chunks[at].get_or_insert_with(|| Box::new([const { None }; CHUNK]));
        chunk[within] = Some(value);
        self.len += 1;
        let number = u32::try_from(at * CHUNK + within).ok().filter(|number| *number < SLOTS_MAX);
        Slot(number.expect("a storage holds fewer values than there are places"))
    }

    /// Takes the value out of `slot`, which is free then.
    ///
    /// # Panics
    ///
    /// If nothing is there.
    pub(super) fn remove(&mut self, slot: Slot) -> T {
        let at = slot.chunk();
        let value = self.chunks[at].as_mut().and_then(|chunk| chunk[slot.within()].take());
        if self.taken[at] == u64::MAX {
            self.open.insert(at);
        }
        self.taken[at] &= !(1 << slot.within());
        if self.taken[at] == 0 {
            self.chunks[at] = None;
        }
        self.len -= 1;
        value.expect(TAKEN)
    }

    fn open_chunk(&mut self) -> usize {
        let at = self.chunks.len();
        self.chunks.push(None);
        self.taken.push(0);
        self.open.insert(at);
        at
    }
}

const TAKEN: &str = "only places that are taken are named";

impl<T> Index<Slot> for Slots<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        let chunk = self.chunks[slot.chunk()].as_ref();
        chunk.and_then(|chunk| chunk[slot.within()].as_ref()).expect(TAKEN)
    }
}

impl<T> IndexMut<Slot> for Slots<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        let chunk = self.chunks[slot.chunk()].as_mut();
        chunk.and_then(|chunk| chunk[slot.within()].as_mut()).expect(TAKEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chunk_in_which_nothing_is_left_is_given_back_and_used_again() {
        let mut slots = Slots::new();
        let all: Vec<Slot> = (0..2 * CHUNK).map(|value| slots.insert(value)).collect();
        for slot in &all[..CHUNK] {
            slots.remove(*slot);
        }
        assert!(slots.chunks[0].is_none());
        assert_eq!(slots[all[CHUNK]], CHUNK, "the other chunk stays");
        assert_eq!(slots.insert(7), all[0]);
        assert_eq!(slots.chunks.len(), 2);
    }

    proptest! {
        /// Each step puts a value in, or takes one of those out that are there.
        #[test]
        fn values_stay_in_their_places_and_the_lowest_free_one_is_next(
            steps in proptest::collection::vec(proptest::option::weighted(0.4, any::<proptest::sample::Index>()), 0..400),
        ) {
            let mut slots = Slots::new();
            let mut model: Vec<Option<usize>> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let taken: Vec<usize> = (0..model.len()).filter(|at| model[*at].is_some()).collect();
                if let Some(which) = step.filter(|_| !taken.is_empty()) {
                    let at = *which.get(&taken);
                    let slot = Slot::new(u32::try_from(at).expect("at most 400"));
                    prop_assert_eq!(Some(slots.remove(slot)), model[at].take());
                } else {
                    let free = model.iter().position(Option::is_none).unwrap_or(model.len());
                    let slot = slots.insert(number);
                    prop_assert_eq!(slot.number() as usize, free);
                    model.resize(model.len().max(free + 1), None);
                    model[free] = Some(number);
                }
                let taken = (0..).zip(&model).filter_map(|(at, value)| Some((Slot::new(at), (*value)?)));
                prop_assert_eq!(slots.len(), taken.clone().count());
                for (slot, value) in taken {
                    prop_assert_eq!(slots[slot], value);
                }
            }
        }
    }
}
