//! Keys in their order: a crit-bit trie of the slots in which the keys are stored.
//!
//! A fork has a bit. Below it are keys that agree in all bits before that one; on one side the bit is 0, on
//! the other it is 1. Common prefixes take no memory, so there is one fork less than keys. No path is
//! longer than the 256 bits of a key, whatever keys a peer chooses.
//!
//! The trie has the shape of Kademlia's key space. A traversal that enters, at each fork, first the side
//! that differs from a point meets the keys by their XOR distance to the point, the farthest first. The
//! order of keys is the order of the distance to the largest key.
//!
//! The trie does not contain the keys. The caller passes a function from a slot to its key, which must
//! always return the same key for a slot.

use std::num::NonZeroU32;

use arrayvec::ArrayVec;

use crate::id::{KEY_SIZE, Key};
use crate::limits::BATCH_MAX;
use crate::storage::slots::{SLOT_OVERHEAD, Slot, Slots};

/// Bytes of memory that a key takes in the trie.
pub(super) const FORK_BYTES: usize = size_of::<Option<Fork>>() + SLOT_OVERHEAD;

/// The largest key.
const LAST: Key = Key::new([u8::MAX; KEY_SIZE]);

/// Keys, each known by its slot.
#[derive(Debug)]
pub(super) struct Trie {
    root: Option<Branch>,
    forks: Slots<Fork>,
}

/// A point at which keys divide.
#[derive(Debug)]
struct Fork {
    /// The first bit in which they differ, where 0 is the most significant one.
    bit: u8,
    /// The keys in which the bit is 0, and those in which it is 1.
    sides: [Branch; 2],
}

/// A key or a fork, in four bytes. The lowest bit is 1 for a key. Above it is the number of the slot of a
/// key, or that of a fork plus 1, so that the value is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Branch(NonZeroU32);

/// An unpacked [`Branch`].
enum Unpacked {
    Key(Slot),
    Fork(Slot),
}

/// Where a branch is attached: a fork and one of its sides; `None` for the root.
type Link = Option<(Slot, usize)>;

impl Branch {
    fn key(slot: Slot) -> Self {
        Self(NonZeroU32::MIN | slot.number() << 1)
    }

    fn fork(slot: Slot) -> Self {
        let above = slot.number().checked_add(1).and_then(|number| NonZeroU32::new(number << 1));
        Self(above.expect("there are fewer than 2^31 slots"))
    }

    fn unpack(self) -> Unpacked {
        let number = self.0.get() >> 1;
        if self.0.get() & 1 == 1 { Unpacked::Key(Slot::new(number)) } else { Unpacked::Fork(Slot::new(number - 1)) }
    }
}

impl Fork {
    /// The side on which `key` is.
    fn side(&self, key: &Key) -> usize {
        side(key, self.bit)
    }
}

impl Trie {
    pub(super) const fn new() -> Self {
        Self { root: None, forks: Slots::new() }
    }

    /// The trie of keys in ascending order, each once, given as the first 64 bits of each and its slot.
    ///
    /// Each key is to the right of all before it. So its fork is on the path of the last key: below the forks with
    /// smaller bits, and above those with larger ones.
    pub(super) fn of_sorted(keys: impl Iterator<Item = (u64, Slot)>, key_at: impl Fn(Slot) -> Key) -> Self {
        let mut trie = Self::new();
        // The forks on the path of the last key, from the root on: at most one per bit.
        let mut path: Vec<Slot> = Vec::new();
        let mut last: Option<(u64, Slot)> = None;
        for (prefix, slot) in keys {
            let Some((prefix_before, before)) = last.replace((prefix, slot)) else {
                trie.root = Some(Branch::key(slot));
                continue;
            };
            let shared = match prefix ^ prefix_before {
                0 => key_at(slot).distance(&key_at(before)).shared_bits().expect("no key comes twice"),
                differing => differing.leading_zeros() as usize,
            };
            let bit = u8::try_from(shared).expect("keys that differ share fewer than 256 bits");
            let mut below = Branch::key(before);
            while let Some(fork) = path.pop_if(|fork| trie.forks[*fork].bit > bit) {
                below = Branch::fork(fork);
            }
            let fork = trie.forks.insert(Fork { bit, sides: [below, Branch::key(slot)] });
            trie.relink(path.last().map(|above| (*above, 1)), Some(Branch::fork(fork)));
            path.push(fork);
        }
        trie
    }

    /// Inserts `key`, which is stored in `slot`. It is not in the trie yet.
    pub(super) fn insert(&mut self, key: &Key, slot: Slot, key_at: impl Fn(Slot) -> Key) {
        let Some(bit) = self.first_difference(key, key_at) else {
            assert!(self.root.is_none(), "no key is added twice");
            self.root = Some(Branch::key(slot));
            return;
        };
        let (link, branch) = self.descend(key, |fork| fork.bit < bit);
        let Some(branch) = branch else { unreachable!("the trie has a key that differs") };
        let mut sides = [branch; 2];
        sides[side(key, bit)] = Branch::key(slot);
        let fork = self.forks.insert(Fork { bit, sides });
        self.relink(link, Some(Branch::fork(fork)));
    }

    /// Removes `key`, which is in the trie.
    pub(super) fn remove(&mut self, key: &Key) {
        let (mut above, mut link, mut next) = (None, None, self.root);
        while let Some(Unpacked::Fork(slot)) = next.map(Branch::unpack) {
            let fork = &self.forks[slot];
            let side = fork.side(key);
            (above, link, next) = (link, Some((slot, side)), Some(fork.sides[side]));
        }
        let sibling = link.map(|(slot, side)| self.forks.remove(slot).sides[1 - side]);
        self.relink(above, sibling);
    }

    /// The slots of the keys by their distance to `point`, the farthest first.
    pub(super) fn farthest(&self, point: Key) -> Traversal<'_> {
        Traversal { forks: &self.forks, point, ahead: self.root.into_iter().collect() }
    }

    /// The slots of the keys in their order, from the first key that is not less than `first`.
    pub(super) fn range_from(&self, first: &Key, key_at: impl Fn(Slot) -> Key) -> Traversal<'_> {
        let first_difference = self.first_difference(first, key_at);
        let mut ahead = Vec::new();
        let mut next = self.root;
        while let Some(Unpacked::Fork(slot)) = next.map(Branch::unpack) {
            let fork = &self.forks[slot];
            if first_difference.is_some_and(|bit| bit < fork.bit) {
                break;
            }
            let side = fork.side(first);
            if side == 0 {
                ahead.push(fork.sides[1]);
            }
            next = Some(fork.sides[side]);
        }
        // All keys below this branch agree with `first` before the bit in which they differ, so all are
        // greater, or all are less.
        let is_greater = first_difference.is_none_or(|bit| side(first, bit) == 0);
        ahead.extend(next.filter(|_| is_greater));
        Traversal { forks: &self.forks, point: LAST, ahead }
    }

    /// Reads the memory that an insertion of each of `keys` reads in the trie, level by level, so that the processor
    /// waits for all of them at once. Returns the keys of the trie to which the insertions compare them.
    pub(super) fn prefetch<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> ArrayVec<Slot, BATCH_MAX> {
        let Some(root) = self.root else { return ArrayVec::new() };
        let mut paths: ArrayVec<(&Key, Branch), BATCH_MAX> = keys.take(BATCH_MAX).map(|key| (key, root)).collect();
        let mut goes_on = true;
        while goes_on {
            goes_on = false;
            for (key, next) in &mut paths {
                if let Unpacked::Fork(slot) = next.unpack() {
                    let fork = &self.forks[slot];
                    *next = fork.sides[fork.side(key)];
                    goes_on = true;
                }
            }
        }
        let leaf = |(_, branch): &(&Key, Branch)| match branch.unpack() {
            Unpacked::Key(slot) => Some(slot),
            Unpacked::Fork(_) => None,
        };
        paths.iter().filter_map(leaf).collect()
    }

    /// The number of forks: one less than keys, or 0.
    pub(super) const fn forks(&self) -> usize {
        self.forks.len()
    }

    /// The first bit in which `key` differs from every key of the trie; `None` if `key` is one of them, or
    /// if there are none.
    fn first_difference(&self, key: &Key, key_at: impl Fn(Slot) -> Key) -> Option<u8> {
        let (_, like) = self.descend(key, |_| true);
        let Some(Unpacked::Key(slot)) = like.map(Branch::unpack) else { return None };
        let shared = key.distance(&key_at(slot)).shared_bits()?;
        Some(u8::try_from(shared).expect("keys that differ share fewer than 256 bits"))
    }

    /// Descends on the side of `key` while `goes_on` is true of the next fork. Returns the branch that is
    /// reached, and where it is attached.
    fn descend(&self, key: &Key, goes_on: impl Fn(&Fork) -> bool) -> (Link, Option<Branch>) {
        let (mut link, mut next) = (None, self.root);
        while let Some(Unpacked::Fork(slot)) = next.map(Branch::unpack) {
            let fork = &self.forks[slot];
            if !goes_on(fork) {
                break;
            }
            let side = fork.side(key);
            (link, next) = (Some((slot, side)), Some(fork.sides[side]));
        }
        (link, next)
    }

    /// Replaces the branch at `link` by `branch`.
    fn relink(&mut self, link: Link, branch: Option<Branch>) {
        match (link, branch) {
            (Some((slot, side)), Some(branch)) => self.forks[slot].sides[side] = branch,
            (None, root) => self.root = root,
            (Some(_), None) => unreachable!("a fork always has two branches"),
        }
    }
}

/// Slots of keys, those farthest from a point first.
#[derive(Debug)]
pub(super) struct Traversal<'a> {
    forks: &'a Slots<Fork>,
    point: Key,
    /// The branches that come next, the last one first: at most one per bit.
    ahead: Vec<Branch>,
}

impl Iterator for Traversal<'_> {
    type Item = Slot;

    fn next(&mut self) -> Option<Slot> {
        loop {
            match self.ahead.pop()?.unpack() {
                Unpacked::Key(slot) => return Some(slot),
                Unpacked::Fork(slot) => {
                    let fork = &self.forks[slot];
                    let near = fork.side(&self.point);
                    self.ahead.extend([fork.sides[near], fork.sides[1 - near]]);
                }
            }
        }
    }
}

fn side(key: &Key, bit: u8) -> usize {
    let byte = key.as_bytes()[usize::from(bit / 8)];
    usize::from(byte >> (7 - bit % 8) & 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Key),
        /// One of the keys that are in the trie.
        Remove(proptest::sample::Index),
    }

    /// Keys with long common prefixes: short texts padded with zeros, keys that differ in one bit from one
    /// of three keys; and random keys.
    fn key() -> impl Strategy<Value = Key> {
        let text = proptest::collection::vec(b'a'..=b'b', 0..6).prop_map(|text| {
            let mut bytes = [0; KEY_SIZE];
            bytes[..text.len()].copy_from_slice(&text);
            Key::new(bytes)
        });
        let flipped = (0..3_u8, 0..KEY_SIZE * 8).prop_map(|(fill, bit)| {
            let mut bytes = [fill.wrapping_sub(1); KEY_SIZE];
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            Key::new(bytes)
        });
        prop_oneof![text, flipped, any::<[u8; KEY_SIZE]>().prop_map(Key::new), Just(LAST)]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => key().prop_map(Step::Insert),
            1 => any::<proptest::sample::Index>().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..120)
    }

    /// A trie after `steps`, the keys in their slots, and a set of the same keys to compare with.
    fn grown(steps: &[Step]) -> (Trie, Slots<Key>, BTreeSet<Key>) {
        let (mut trie, mut keys, mut model) = (Trie::new(), Slots::new(), BTreeSet::new());
        let mut slots = Vec::new();
        for step in steps {
            match step {
                Step::Insert(key) if model.insert(*key) => {
                    let slot = keys.insert(*key);
                    slots.push(slot);
                    trie.insert(key, slot, |slot| keys[slot]);
                }
                Step::Remove(which) if !slots.is_empty() => {
                    let key = keys.remove(slots.swap_remove(which.index(slots.len())));
                    trie.remove(&key);
                    model.remove(&key);
                }
                Step::Insert(_) | Step::Remove(_) => {}
            }
        }
        (trie, keys, model)
    }

    proptest! {
        #[test]
        fn a_range_returns_the_keys_in_order_from_any_first_key(steps in steps(), first in key()) {
            let (trie, keys, model) = grown(&steps);
            prop_assert_eq!(trie.forks(), model.len().saturating_sub(1));
            for first in model.iter().chain([&first, &Key::new([0; KEY_SIZE])]) {
                let met = trie.range_from(first, |slot| keys[slot]).map(|slot| keys[slot]);
                prop_assert!(met.eq(model.range(first..).copied()), "from {first}");
            }
        }

        /// The shape of a trie depends on its keys alone, not on the order in which they come.
        #[test]
        fn a_trie_of_sorted_keys_is_the_same_as_after_insertions(steps in steps(), points in [key(), key()]) {
            let (trie, keys, _) = grown(&steps);
            let mut sorted: Vec<Slot> = keys.iter().map(|(slot, _)| slot).collect();
            sorted.sort_unstable_by_key(|slot| keys[*slot]);
            let prefix = |slot: Slot| u64::from_be_bytes(*keys[slot].as_bytes().first_chunk().expect("8 of 32 bytes"));
            let built = Trie::of_sorted(sorted.iter().map(|slot| (prefix(*slot), *slot)), |slot| keys[slot]);
            prop_assert_eq!(built.forks(), trie.forks());
            for point in points {
                prop_assert!(built.farthest(point).eq(trie.farthest(point)));
                let range = |trie: &Trie| trie.range_from(&point, |slot| keys[slot]).collect::<Vec<_>>();
                prop_assert_eq!(range(&built), range(&trie));
            }
        }

        #[test]
        fn a_prefetch_reaches_the_key_to_which_an_insertion_compares(steps in steps(), others in proptest::collection::vec(key(), 1..5)) {
            let (trie, keys, model) = grown(&steps);
            let wanted: Vec<Key> = others.into_iter().chain(model.iter().copied()).take(BATCH_MAX).collect();
            let reached = trie.prefetch(wanted.iter());
            prop_assert_eq!(reached.len(), if model.is_empty() { 0 } else { wanted.len() });
            for (key, slot) in wanted.iter().zip(reached) {
                let shared = |other: &Key| key.distance(other).shared_bits();
                let most = model.iter().map(|other| shared(other).unwrap_or(usize::MAX)).max();
                prop_assert_eq!(Some(shared(&keys[slot]).unwrap_or(usize::MAX)), most, "no key shares more bits");
            }
        }

        #[test]
        fn a_traversal_returns_the_keys_farthest_from_a_point_first(steps in steps(), point in key()) {
            let (trie, keys, model) = grown(&steps);
            let mut expected: Vec<Key> = model.into_iter().collect();
            expected.sort_by_key(|key| std::cmp::Reverse(key.distance(&point)));
            let met: Vec<Key> = trie.farthest(point).map(|slot| keys[slot]).collect();
            prop_assert_eq!(met, expected);
        }
    }

    #[test]
    fn no_choice_of_keys_makes_a_trie_deeper_than_256_bits() {
        let mut steps = vec![Step::Insert(LAST)];
        steps.extend((0..KEY_SIZE * 8).map(|bit| {
            let mut bytes = [u8::MAX; KEY_SIZE];
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            Step::Insert(Key::new(bytes))
        }));
        let (trie, keys, model) = grown(&steps);
        let mut traversal = trie.farthest(Key::new([0; KEY_SIZE]));
        let mut met = 0;
        while traversal.next().is_some() {
            met += 1;
            assert!(traversal.ahead.len() <= KEY_SIZE * 8);
        }
        assert_eq!((met, keys.len()), (model.len(), KEY_SIZE * 8 + 1));
    }
}
