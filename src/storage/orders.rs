//! The records of a storage in three orders, each record allocated once and shared by all of them:
//! by key for every GET, in the order of their keys for walks and ranges, and by the moment at
//! which each is next worth a look.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::ops::RangeBounds;
use std::rc::Rc;

use crate::id::{KEY_SIZE, Key, KeySeed, KeySet};
use crate::storage::{Held, StorageFault};
use crate::time::Time;

/// Bytes that a record takes besides its value.
///
/// It is allocated once and its value once more, each with two reference counts and with what
/// the allocator adds: a header, and for the value what it is rounded up by. The hash set, with a
/// control byte for each place, and the nodes of the ordered sets may be half empty.
pub const RECORD_OVERHEAD: usize = {
    const REFERENCE_COUNTS: usize = 2 * size_of::<usize>();
    const HEADER: usize = 8;
    const ROUNDING: usize = 8;
    let allocated = size_of::<Held>() + 2 * (REFERENCE_COUNTS + HEADER) + ROUNDING;
    allocated + 2 * (size_of::<ByKey>() + 1) + 2 * size_of::<ByDue>() + 2 * size_of::<InOrder>()
};

/// Records, each under its own key.
#[derive(Debug)]
pub(super) struct Orders {
    by_key: KeySet<ByKey>,
    in_order: BTreeSet<InOrder>,
    by_due: BTreeSet<ByDue>,
    bytes: usize,
}

#[expect(clippy::mutable_key_type, reason = "what may change in a record is neither hashed nor compared in the set")]
impl Orders {
    pub(super) fn new(seed: KeySeed) -> Self {
        let by_key = KeySet::with_hasher(seed);
        Self { by_key, in_order: BTreeSet::new(), by_due: BTreeSet::new(), bytes: 0 }
    }

    pub(super) fn find(&self, key: &Key) -> Option<&Held> {
        self.by_key.get(key).map(|ByKey(held)| &**held)
    }

    /// Puts `held` in the place of the record of its key, and returns that one if there was one.
    pub(super) fn replace(&mut self, held: Held) -> Option<Held> {
        self.bytes += held.bytes();
        let held = Rc::new(held);
        let before = self.by_key.replace(ByKey(Rc::clone(&held)));
        self.in_order.replace(InOrder(Rc::clone(&held)));
        if let Some(ByKey(before)) = &before {
            self.bytes -= before.bytes();
            self.by_due.remove(&ByDue(Rc::clone(before)));
        }
        self.by_due.insert(ByDue(held));
        before.map(|ByKey(before)| alone(before))
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Held> {
        let ByKey(held) = self.by_key.take(key)?;
        self.bytes -= held.bytes();
        self.in_order.remove(key);
        self.by_due.remove(&ByDue(Rc::clone(&held)));
        Some(alone(held))
    }

    /// The record of `key`, which is worth a look at `at`, or at its end if that is earlier.
    pub(super) fn set_due(&mut self, key: &Key, at: Time) -> Option<&Held> {
        let ByKey(held) = self.by_key.get(key)?;
        let place = ByDue(Rc::clone(held));
        self.by_due.remove(&place);
        held.due.set(at.min(held.expires));
        self.by_due.insert(place);
        Some(held)
    }

    /// Records by the moment at which they are worth a look.
    pub(super) fn by_due(&self) -> impl Iterator<Item = &Held> {
        self.by_due.iter().map(|ByDue(held)| &**held)
    }

    pub(super) fn range(&self, keys: impl RangeBounds<Key>) -> impl DoubleEndedIterator<Item = &Held> {
        self.in_order.range(keys).map(|InOrder(held)| &**held)
    }

    /// Records in the order of their distance to `point`, the farthest first.
    pub(super) fn farthest(&self, point: Key) -> impl Iterator<Item = &Held> {
        let ends = |keys: (Key, Key)| {
            let mut range = self.range(keys.0..=keys.1);
            let first = range.next()?.record.key;
            Some((first, range.next_back().map_or(first, |last| last.record.key)))
        };
        // Ranges of keys that share a prefix, the nearest first, each from its first key that is
        // there to its last one.
        let mut ranges: Vec<(Key, Key)> =
            ends((Key::new([0; KEY_SIZE]), Key::new([u8::MAX; KEY_SIZE]))).into_iter().collect();
        std::iter::from_fn(move || {
            loop {
                let (first, last) = ranges.pop()?;
                let Some(bit) = first.distance(&last).shared_bits() else { return self.find(&first) };
                let middle = first.diverging_at(bit, &Key::new([0; KEY_SIZE]));
                let (Some(lower), Some(upper)) = (self.last_before(first, middle), ends((middle, last))) else {
                    unreachable!("both ends of a range are there");
                };
                let lower = (first, lower);
                let lower_is_far = point.distance(&first).bit(bit);
                ranges.extend(if lower_is_far { [upper, lower] } else { [lower, upper] });
            }
        })
    }

    fn last_before(&self, first: Key, end: Key) -> Option<Key> {
        self.range(first..end).next_back().map(|held| held.record.key)
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    /// What they take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks that all orders hold the same records, and that the bytes are what they take.
    pub(super) fn check(&self) -> Result<(), StorageFault> {
        let mut found = 0;
        for InOrder(held) in &self.in_order {
            let key = held.record.key;
            let same = self.by_key.get(&key).is_some_and(|ByKey(other)| Rc::ptr_eq(held, other));
            if !same || !self.by_due.contains(&ByDue(Rc::clone(held))) {
                return Err(StorageFault::Lost { key });
            }
            found += held.bytes();
        }
        let sizes = [self.by_key.len(), self.in_order.len(), self.by_due.len()];
        if sizes.iter().any(|size| *size != sizes[0]) {
            return Err(StorageFault::Orders { by_key: sizes[0], in_order: sizes[1], by_due: sizes[2] });
        }
        if found != self.bytes {
            return Err(StorageFault::Bytes { found, counted: self.bytes });
        }
        Ok(())
    }
}

/// The record that has left all orders.
fn alone(held: Rc<Held>) -> Held {
    Rc::into_inner(held).expect("nobody shares a record but its orders")
}

/// A record as the hash set sees it: its key.
#[derive(Debug)]
struct ByKey(Rc<Held>);

impl Borrow<Key> for ByKey {
    fn borrow(&self) -> &Key {
        &self.0.record.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.record.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.record.key == other.0.record.key
    }
}

impl Eq for ByKey {}

/// A record as the set in key order sees it.
#[derive(Debug)]
struct InOrder(Rc<Held>);

impl Borrow<Key> for InOrder {
    fn borrow(&self) -> &Key {
        &self.0.record.key
    }
}

impl Ord for InOrder {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.record.key.cmp(&other.0.record.key)
    }
}

/// A record as upkeep sees it: when it is due, and among those due at one moment its key. While
/// it is in the set its moment must not change.
#[derive(Debug)]
struct ByDue(Rc<Held>);

impl Ord for ByDue {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = || self.0.record.key.cmp(&other.0.record.key);
        self.0.due().cmp(&other.0.due()).then_with(by_key)
    }
}

macro_rules! ordered {
    ($($name:ident),*) => {$(
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }

        impl Eq for $name {}
    )*};
}

ordered!(InOrder, ByDue);
