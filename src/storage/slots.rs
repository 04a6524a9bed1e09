//! Values in numbered slots. A value stays in its slot until it is removed.
//!
//! Slots come in chunks. A chunk never moves, so the storage grows without copying, and an empty chunk is
//! freed. The lowest free slot is used first, so that few chunks are partly empty.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

/// Slots in a chunk: as many as its bit map has bits.
const CHUNK: usize = CHUNK_SLOTS as usize;
const CHUNK_SLOTS: u32 = u64::BITS;

/// The largest number of slots: a trie needs one more bit beside the number.
const SLOTS_MAX: u32 = 1 << 31;

/// Bytes of memory that a slot takes besides its value, if its chunk is full: its part of the pointer to
/// the chunk, of the bit map, and of the allocator's header.
pub(super) const SLOT_OVERHEAD: usize = (size_of::<(Chunk<()>, u64)>() + 16).div_ceil(CHUNK);

/// The number of a slot; less than 2³¹.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

impl Slot {
    /// The slot of that number.
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

/// Values in slots.
#[derive(Debug)]
pub(super) struct Slots<T> {
    chunks: Vec<Chunk<T>>,
    /// One bit for each slot of a chunk: whether it has a value.
    used: Vec<u64>,
    /// Chunks with a free slot.
    open: BTreeSet<usize>,
    len: usize,
}

/// `None` while the chunk is empty.
type Chunk<T> = Option<Box<[Option<T>; CHUNK]>>;

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), used: Vec::new(), open: BTreeSet::new(), len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Stores `value` in the lowest free slot.
    pub(super) fn insert(&mut self, value: T) -> Slot {
        let at = self.open.first().copied().unwrap_or_else(|| self.open_chunk());
        let within = self.used[at].trailing_ones() as usize;
        self.used[at] |= 1 << within;
        if self.used[at] == u64::MAX {
            self.open.remove(&at);
        }
        let chunk = self.chunks[at].get_or_insert_with(|| Box::new([const { None }; CHUNK]));
        chunk[within] = Some(value);
        self.len += 1;
        let number = u32::try_from(at * CHUNK + within).ok().filter(|number| *number < SLOTS_MAX);
        Slot(number.expect("a storage has fewer values than there are slots"))
    }

    /// Removes and returns the value in `slot`.
    ///
    /// # Panics
    ///
    /// If the slot is free.
    pub(super) fn remove(&mut self, slot: Slot) -> T {
        let at = slot.chunk();
        let value = self.chunks[at].as_mut().and_then(|chunk| chunk[slot.within()].take());
        if self.used[at] == u64::MAX {
            self.open.insert(at);
        }
        self.used[at] &= !(1 << slot.within());
        if self.used[at] == 0 {
            self.chunks[at] = None;
        }
        self.len -= 1;
        value.expect(USED)
    }

    /// The values in the order of their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.iter_from(Slot(0))
    }

    /// The values in the order of their slots, from the first slot that is not less than `first`.
    pub(super) fn iter_from(&self, first: Slot) -> impl Iterator<Item = (Slot, &T)> {
        let chunks = self.chunks.iter().zip(0..).skip(first.chunk());
        let values = chunks.filter_map(|(chunk, at)| Some((chunk.as_ref()?, at)));
        let values = values.flat_map(|(chunk, at): (_, u32)| {
            let first = at * CHUNK_SLOTS;
            chunk.iter().zip(first..).filter_map(|(value, number)| Some((Slot(number), value.as_ref()?)))
        });
        values.skip_while(move |(slot, _)| *slot < first)
    }

    fn open_chunk(&mut self) -> usize {
        let at = self.chunks.len();
        self.chunks.push(None);
        self.used.push(0);
        self.open.insert(at);
        at
    }
}

const USED: &str = "every number names a used slot";

impl<T> Index<Slot> for Slots<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        let chunk = self.chunks[slot.chunk()].as_ref();
        chunk.and_then(|chunk| chunk[slot.within()].as_ref()).expect(USED)
    }
}

impl<T> IndexMut<Slot> for Slots<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        let chunk = self.chunks[slot.chunk()].as_mut();
        chunk.and_then(|chunk| chunk[slot.within()].as_mut()).expect(USED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_chunk_is_freed_and_used_again() {
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
        /// Each step inserts a value, or removes one.
        #[test]
        fn values_stay_in_their_slots_and_the_lowest_free_slot_is_used_next(
            steps in proptest::collection::vec(
                proptest::option::weighted(0.4, any::<proptest::sample::Index>()),
                0..400,
            ),
        ) {
            let mut slots = Slots::new();
            let mut model: Vec<Option<usize>> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let used: Vec<usize> = (0..model.len()).filter(|at| model[*at].is_some()).collect();
                if let Some(which) = step.filter(|_| !used.is_empty()) {
                    let at = *which.get(&used);
                    let slot = Slot::new(u32::try_from(at).expect("at most 400"));
                    prop_assert_eq!(Some(slots.remove(slot)), model[at].take());
                } else {
                    let free = model.iter().position(Option::is_none).unwrap_or(model.len());
                    let slot = slots.insert(number);
                    prop_assert_eq!(slot.number() as usize, free);
                    model.resize(model.len().max(free + 1), None);
                    model[free] = Some(number);
                }
                let used = (0..).zip(&model).filter_map(|(at, value)| Some((Slot::new(at), (*value)?)));
                prop_assert_eq!(slots.len(), used.clone().count());
                for (slot, value) in used.clone() {
                    prop_assert_eq!(slots[slot], value);
                }
                prop_assert!(slots.iter().map(|(slot, value)| (slot, *value)).eq(used.clone()));
                let first = Slot::new(u32::try_from(number).expect("at most 400") / 2);
                let later = used.filter(|(slot, _)| *slot >= first);
                prop_assert!(slots.iter_from(first).map(|(slot, value)| (slot, *value)).eq(later));
            }
        }
    }
}
