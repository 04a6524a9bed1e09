//! Keys in their order: a crit-bit trie over the places of those that carry them.
//!
//! Beneath each fork lie the keys that agree in all bits before one, on one side those in which
//! that bit is 0, on the other those in which it is 1. What a key has in common with its neighbours
//! takes no room, so the trie has one fork less than keys, and no way down is longer than a key has
//! bits, whatever keys a stranger chooses.
//!
//! The trie is the key space of Kademlia itself: whoever goes at each fork to the side that differs
//! from a point first, meets the keys by their XOR distance to it, the farthest first. The order of
//! keys is that of their distance to the last key of all.
//!
//! The keys themselves are elsewhere; who calls says which key is at a place, and always says the
//! same.

use std::num::NonZeroU32;

use crate::id::{KEY_SIZE, Key};
use crate::storage::slots::{SLOT_OVERHEAD, Slot, Slots};

/// Bytes that each key takes here.
pub(super) const FORK_BYTES: usize = size_of::<Option<Fork>>() + SLOT_OVERHEAD;

/// The last key there can be.
const LAST: Key = Key::new([u8::MAX; KEY_SIZE]);

/// Keys, each named by its place.
#[derive(Debug)]
pub(super) struct Trie {
    root: Option<Branch>,
    forks: Slots<Fork>,
}

/// Where keys part.
#[derive(Debug)]
struct Fork {
    /// The first bit in which they differ, counted from the most significant one.
    bit: u8,
    /// Those in which it is 0, and those in which it is 1.
    sides: [Branch; 2],
}

/// What lies beneath a fork, in four bytes: in the lowest bit whether that is a key, above it the
/// place; that of a fork one higher, so that none is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Branch(NonZeroU32);

/// A [`Branch`], unfolded.
enum Beneath {
    Key(Slot),
    Fork(Slot),
}

/// What leads to a branch: the fork above it, and the side; nothing above the root.
type Link = Option<(Slot, usize)>;

impl Branch {
    fn key(slot: Slot) -> Self {
        Self(NonZeroU32::MIN | slot.number() << 1)
    }

    fn fork(slot: Slot) -> Self {
        let above = slot.number().checked_add(1).and_then(|number| NonZeroU32::new(number << 1));
        Self(above.expect("there are fewer than 2^31 places"))
    }

    fn beneath(self) -> Beneath {
        let number = self.0.get() >> 1;
        if self.0.get() & 1 == 1 { Beneath::Key(Slot::new(number)) } else { Beneath::Fork(Slot::new(number - 1)) }
    }
}

impl Fork {
    /// The side on which `key` lies.
    fn side(&self, key: &Key) -> usize {
        side(key, self.bit)
    }
}

impl Trie {
    pub(super) const fn new() -> Self {
        Self { root: None, forks: Slots::new() }
    }

    /// Adds `key`, which is at `slot` and not in the trie yet.
    pub(super) fn insert(&mut self, key: &Key, slot: Slot, key_at: impl Fn(Slot) -> Key) {
        let Some(bit) = self.parting(key, key_at) else {
            assert!(self.root.is_none(), "no key is added twice");
            self.root = Some(Branch::key(slot));
            return;
        };
        let (link, branch) = self.descend(key, |fork| fork.bit < bit);
        let Some(branch) = branch else { unreachable!("a key parts from one that is there") };
        let mut sides = [branch; 2];
        sides[side(key, bit)] = Branch::key(slot);
        let fork = self.forks.insert(Fork { bit, sides });
        self.relink(link, Some(Branch::fork(fork)));
    }

    /// Takes `key` out, which is in the trie.
    pub(super) fn remove(&mut self, key: &Key) {
        let (mut above, mut link, mut next) = (None, None, self.root);
        while let Some(Beneath::Fork(slot)) = next.map(Branch::beneath) {
            let fork = &self.forks[slot];
            let side = fork.side(key);
            (above, link, next) = (link, Some((slot, side)), Some(fork.sides[side]));
        }
        let sibling = link.map(|(slot, side)| self.forks.remove(slot).sides[1 - side]);
        self.relink(above, sibling);
    }

    /// Keys in the order of their distance to `point`, the farthest first.
    pub(super) fn farthest(&self, point: Key) -> Walk<'_> {
        Walk { forks: &self.forks, point, ahead: self.root.into_iter().collect() }
    }

    /// Keys in their order, from the first that is not less than `first`.
    pub(super) fn walk(&self, first: &Key, key_at: impl Fn(Slot) -> Key) -> Walk<'_> {
        let parting = self.parting(first, key_at);
        let mut ahead = Vec::new();
        let mut next = self.root;
        while let Some(Beneath::Fork(slot)) = next.map(Branch::beneath) {
            let fork = &self.forks[slot];
            if parting.is_some_and(|bit| bit < fork.bit) {
                break;
            }
            let side = fork.side(first);
            if side == 0 {
                ahead.push(fork.sides[1]);
            }
            next = Some(fork.sides[side]);
        }
        // What is left agrees with `first` up to where they part, and lies wholly to one side of it.
        let is_behind = parting.is_none_or(|bit| side(first, bit) == 0);
        ahead.extend(next.filter(|_| is_behind));
        Walk { forks: &self.forks, point: LAST, ahead }
    }

    /// Forks; one less than keys, if there are any.
    pub(super) const fn forks(&self) -> usize {
        self.forks.len()
    }

    /// The first bit in which `key` differs from all keys that are there; `None` if there is no
    /// such bit: it is one of them, or there are none.
    fn parting(&self, key: &Key, key_at: impl Fn(Slot) -> Key) -> Option<u8> {
        let (_, like) = self.descend(key, |_| true);
        let Some(Beneath::Key(slot)) = like.map(Branch::beneath) else { return None };
        let shared = key.distance(&key_at(slot)).shared_bits()?;
        Some(u8::try_from(shared).expect("keys that differ share fewer than 256 bits"))
    }

    /// Goes down, on the side of `key`, through the forks that `goes_on` says: what is beneath
    /// them, and what leads there.
    fn descend(&self, key: &Key, goes_on: impl Fn(&Fork) -> bool) -> (Link, Option<Branch>) {
        let (mut link, mut next) = (None, self.root);
        while let Some(Beneath::Fork(slot)) = next.map(Branch::beneath) {
            let fork = &self.forks[slot];
            if !goes_on(fork) {
                break;
            }
            let side = fork.side(key);
            (link, next) = (Some((slot, side)), Some(fork.sides[side]));
        }
        (link, next)
    }

    /// `branch` takes the place of what `link` led to.
    fn relink(&mut self, link: Link, branch: Option<Branch>) {
        match (link, branch) {
            (Some((slot, side)), Some(branch)) => self.forks[slot].sides[side] = branch,
            (None, root) => self.root = root,
            (Some(_), None) => unreachable!("beneath a fork there is always something"),
        }
    }
}

/// The places of keys, those farthest from a point first.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    forks: &'a Slots<Fork>,
    point: Key,
    /// What is yet to come, the next at the end: at most one branch for each bit.
    ahead: Vec<Branch>,
}

impl Iterator for Walk<'_> {
    type Item = Slot;

    fn next(&mut self) -> Option<Slot> {
        loop {
            match self.ahead.pop()?.beneath() {
                Beneath::Key(slot) => return Some(slot),
                Beneath::Fork(slot) => {
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
        /// Of those that are there.
        Remove(proptest::sample::Index),
    }

    /// Keys that share long prefixes: short texts padded with zeros, and those that differ from
    /// one of a few keys in any one bit.
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

    /// A trie after `steps`, the keys at their places, and the plain set beside them.
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
        fn keys_come_and_go_and_are_met_in_their_order_from_anywhere(steps in steps(), first in key()) {
            let (trie, keys, model) = grown(&steps);
            prop_assert_eq!(trie.forks(), model.len().saturating_sub(1));
            for first in model.iter().chain([&first, &Key::new([0; KEY_SIZE])]) {
                let met = trie.walk(first, |slot| keys[slot]).map(|slot| keys[slot]);
                prop_assert!(met.eq(model.range(first..).copied()), "from {first}");
            }
        }

        #[test]
        fn the_farthest_from_a_point_come_first(steps in steps(), point in key()) {
            let (trie, keys, model) = grown(&steps);
            let mut expected: Vec<Key> = model.into_iter().collect();
            expected.sort_by_key(|key| std::cmp::Reverse(key.distance(&point)));
            let met: Vec<Key> = trie.farthest(point).map(|slot| keys[slot]).collect();
            prop_assert_eq!(met, expected);
        }
    }

    #[test]
    fn a_trie_is_no_deeper_than_a_key_has_bits_however_keys_are_chosen() {
        let mut steps = vec![Step::Insert(LAST)];
        steps.extend((0..KEY_SIZE * 8).map(|bit| {
            let mut bytes = [u8::MAX; KEY_SIZE];
            bytes[bit / 8] ^= 0x80 >> (bit % 8);
            Step::Insert(Key::new(bytes))
        }));
        let (trie, keys, model) = grown(&steps);
        let mut walk = trie.farthest(Key::new([0; KEY_SIZE]));
        let mut met = 0;
        while walk.next().is_some() {
            met += 1;
            assert!(walk.ahead.len() <= KEY_SIZE * 8);
        }
        assert_eq!((met, keys.len()), (model.len(), KEY_SIZE * 8 + 1));
    }
}
