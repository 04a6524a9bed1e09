//! Changed keys on their way to the disk: those of the next batch, and those of the batch that the host writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{Key, KeyMap, KeySeed};
use crate::limits::{SAVE_BYTES_MAX, SAVE_KEYS_MAX};
use crate::node::action::Caller;
use crate::node::persisted::{Batch, PersistedKey};
use crate::node::purpose::Attempt;
use crate::record::{Precedence, Rank};

/// After a failure, the next batch has a quarter of the keys at most: six attempts lead to single keys.
const SMALLER: usize = 4;

/// After a batch that was written, the next one may have twice as many.
const LARGER: usize = 2;

/// A request that waits for a record to be saved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiter {
    /// The STORE of a peer, and the rank for its reply.
    Copy(Caller, Rank),
    /// A PUT of this node, in this attempt.
    Own(Attempt),
}

/// Keys that have changed since they last left in a batch.
///
/// The state of a key is taken when it changes, because its record is in the cache of the processor then: to look all
/// keys of a batch up again takes as long as the PUTs themselves. Keys beyond one batch are only noted.
#[derive(Debug)]
pub(super) struct Changes {
    keys: Vec<PersistedKey>,
    /// The positions in `keys`.
    nth: KeyMap<Key, usize>,
    /// The sum of the values in `keys`.
    bytes: usize,
    waiting: Vec<(Key, Waiter)>,
    /// Keys that had no room.
    later: BTreeMap<Key, Vec<Waiter>>,
    /// Keys that have not changed, and whose state is not on disk any more.
    lost: BTreeSet<Key>,
    /// Keys for which the next batch has room.
    keys_max: usize,
}

impl Changes {
    pub(super) fn new(seed: KeySeed) -> Self {
        let nth = KeyMap::with_hasher(seed);
        Self {
            keys: Vec::new(),
            nth,
            bytes: 0,
            waiting: Vec::new(),
            later: BTreeMap::new(),
            lost: BTreeSet::new(),
            keys_max: SAVE_KEYS_MAX,
        }
    }

    /// A batch of `keys` keys failed. The next ones are smaller: where there is no room for all of it, there may be
    /// room for a part.
    pub(super) fn make_batches_smaller(&mut self, keys: usize) {
        self.keys_max = (keys / SMALLER).clamp(1, self.keys_max);
    }

    /// A batch was written. If it was as large as allowed, the next ones may be larger.
    pub(super) fn make_batches_larger(&mut self, keys: usize) {
        if keys >= self.keys_max {
            self.keys_max = (self.keys_max * LARGER).min(SAVE_KEYS_MAX);
        }
    }

    /// The number of keys that have changed.
    pub(super) fn len(&self) -> usize {
        self.keys.len() + self.later.len()
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.later.is_empty() && self.lost.is_empty()
    }

    /// Whether the next batch has no room for another key that changes. Half of it is for lost keys, if there are any.
    pub(super) fn is_full(&self) -> bool {
        self.takes_up(if self.lost.is_empty() { 1 } else { 2 })
    }

    /// Whether the next batch takes up its bounds, divided by `parts`.
    fn takes_up(&self, parts: usize) -> bool {
        self.keys.len() >= self.keys_max.div_ceil(parts) || self.bytes >= SAVE_BYTES_MAX / parts
    }

    /// Whether the state of `key` is to be written.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.nth.contains_key(key) || self.later.contains_key(key) || self.lost.contains(key)
    }

    /// Nothing is on disk any more; `keys` have a state.
    pub(super) fn lose(&mut self, keys: impl Iterator<Item = Key>) {
        self.lost.extend(keys);
    }

    /// Whether lost keys are left.
    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Notes `key`, and makes `waiter` wait until its state is written.
    pub(super) fn wait_again(&mut self, key: Key, waiter: Waiter) {
        self.later.entry(key).or_default().push(waiter);
    }

    /// The position in the next batch for the state of `key`, which has changed: the caller sets it. If there is no room,
    /// the key is noted.
    pub(super) fn place(&mut self, key: Key) -> Option<usize> {
        if let Some(nth) = self.nth.get(&key) {
            return Some(*nth);
        }
        if self.is_full() || !self.later.is_empty() && self.later.contains_key(&key) {
            self.note(key);
            return None;
        }
        self.nth.insert(key, self.keys.len());
        Some(self.keys.len())
    }

    /// Sets the state at the position that [`Changes::place`] or [`Changes::next_noted`] returned last.
    pub(super) fn set(&mut self, nth: usize, state: PersistedKey) {
        self.bytes += value_size(&state);
        if let Some(before) = self.keys.get_mut(nth) {
            self.bytes -= value_size(before);
            *before = state;
        } else {
            self.keys.push(state);
        }
    }

    /// Notes a key whose state is to be read when the next batch has room for it.
    pub(super) fn note(&mut self, key: Key) {
        self.later.entry(key).or_default();
    }

    /// Takes a key that was noted or lost, if the next batch has room for it, and returns the position for its state.
    pub(super) fn next_noted(&mut self) -> Option<(Key, usize)> {
        let noted = if self.is_full() { None } else { self.later.pop_first() };
        if let Some((key, waiters)) = noted {
            self.waiting.extend(waiters.into_iter().map(|waiter| (key, waiter)));
            return Some((key, self.place(key)?));
        }
        let key = if self.takes_up(1) { None } else { self.lost.pop_first() };
        key.map(|key| (key, *self.nth.entry(key).or_insert(self.keys.len())))
    }

    /// Makes `waiter` wait for `key`, if its state is to be written.
    pub(super) fn wait(&mut self, key: Key, waiter: Waiter) -> bool {
        if self.nth.contains_key(&key) {
            self.waiting.push((key, waiter));
        } else if self.later.contains_key(&key) || self.lost.contains(&key) {
            self.wait_again(key, waiter);
        } else {
            return false;
        }
        true
    }

    /// Takes all waiters. What they wait for is still to be written.
    pub(super) fn take_waiters(&mut self) -> impl Iterator<Item = (Key, Waiter)> {
        let later = self.later.iter_mut().flat_map(|(key, waiters)| waiters.drain(..).map(|waiter| (*key, waiter)));
        self.waiting.drain(..).chain(later)
    }

    /// Whether there are keys for which the next batch had no room.
    pub(super) fn is_behind(&self) -> bool {
        !self.later.is_empty() || self.has_lost()
    }

    /// Takes the next batch: `batch` without its keys.
    pub(super) fn take(&mut self, batch: Batch) -> InFlight {
        self.bytes = 0;
        let nth = KeyMap::with_hasher(self.nth.hasher().clone());
        let nth = std::mem::replace(&mut self.nth, nth);
        let keys = std::mem::take(&mut self.keys);
        InFlight { batch: Arc::new(Batch { keys, ..batch }), nth, waiting: std::mem::take(&mut self.waiting) }
    }
}

fn value_size(state: &PersistedKey) -> usize {
    state.record.as_ref().map_or(0, |persisted| persisted.record.value.len())
}

/// The batch that the host writes.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) batch: Arc<Batch>,
    /// The positions of its keys.
    nth: KeyMap<Key, usize>,
    pub(super) waiting: Vec<(Key, Waiter)>,
}

impl InFlight {
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.nth.contains_key(key)
    }

    /// The precedence of the record that the batch writes for `key`, if it writes one.
    pub(super) fn written(&self, key: &Key) -> Option<Precedence> {
        let state = &self.batch.keys[*self.nth.get(key)?];
        state.record.as_ref().map(|persisted| persisted.record.rank().precedence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::purpose::QueryId;
    use crate::record::{Tombstone, Version};

    fn key(number: usize) -> Key {
        let bytes = number.to_be_bytes();
        Key::new(std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0)))
    }

    /// A state of the key `number`. `version` distinguishes it from the other states of that key.
    fn state(number: usize, version: u64) -> PersistedKey {
        let tombstone = Some(Tombstone { signed: None, plain: Some(Version::from_bits(version)) });
        PersistedKey { key: key(number), record: None, tombstone }
    }

    fn waiter(number: u64) -> Waiter {
        Waiter::Own(Attempt { query: QueryId(number), number: 0 })
    }

    /// Changes that fill one batch, and two keys more.
    fn more_than_a_batch() -> Changes {
        let mut changes = Changes::new(KeySeed::new([1, 2, 3, 4]));
        for number in 0..SAVE_KEYS_MAX + 2 {
            let place = changes.place(key(number));
            assert_eq!(place, Some(number).filter(|number| *number < SAVE_KEYS_MAX));
            if let Some(place) = place {
                changes.set(place, state(number, 1));
            }
        }
        changes
    }

    #[test]
    fn a_later_state_of_a_key_replaces_the_earlier_one() {
        let mut changes = more_than_a_batch();
        assert_eq!(changes.place(key(3)), Some(3), "the batch is full, but has the key");
        changes.set(3, state(3, 2));
        let batch = changes.take(Batch::default()).batch;
        assert_eq!(batch.keys.len(), SAVE_KEYS_MAX);
        assert_eq!(batch.keys[3], state(3, 2));
    }

    #[test]
    fn keys_without_room_follow_in_the_next_batch_with_their_waiters() {
        let mut changes = more_than_a_batch();
        let (first, last) = (key(0), key(SAVE_KEYS_MAX + 1));
        assert!(changes.wait(first, waiter(1)) && changes.wait(last, waiter(2)));
        assert!(!changes.wait(key(SAVE_KEYS_MAX + 2), waiter(3)), "it has not changed");
        assert_eq!(changes.next_noted(), None, "there is no room");
        let in_flight = changes.take(Batch::default());
        assert_eq!(in_flight.waiting.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [first]);
        assert!(in_flight.contains(&first) && !in_flight.contains(&last));
        assert!(changes.contains(&last) && changes.is_behind() && changes.len() == 2);
        while let Some((key, place)) = changes.next_noted() {
            changes.set(place, PersistedKey { key, ..state(0, 2) });
        }
        assert!(!changes.is_behind());
        let in_flight = changes.take(Batch { sync: true, ..Batch::default() });
        assert_eq!(in_flight.waiting.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [last]);
        assert_eq!(in_flight.batch.keys, [state(SAVE_KEYS_MAX, 2), state(SAVE_KEYS_MAX + 1, 2)]);
        assert!(changes.is_empty());
    }

    #[test]
    fn batches_are_smaller_after_a_failure_and_larger_after_full_ones_that_were_written() {
        let mut changes = Changes::new(KeySeed::new([1, 2, 3, 4]));
        let next = |changes: &mut Changes, keys: usize| {
            (0..keys).for_each(|number| changes.note(key(number)));
            while let Some((key, place)) = changes.next_noted() {
                changes.set(place, PersistedKey { key, ..state(0, 2) });
            }
            changes.take(Batch::default()).batch.keys.len()
        };
        let mut sizes = Vec::new();
        for _ in 0..8 {
            let keys = next(&mut changes, SAVE_KEYS_MAX);
            sizes.push(keys);
            changes.make_batches_smaller(keys);
        }
        assert_eq!(sizes, [4_096, 1_024, 256, 64, 16, 4, 1, 1]);
        changes.make_batches_larger(0);
        assert_eq!(next(&mut changes, 9), 1, "a sync without keys proves nothing");
        for larger in [2, 4, 8] {
            changes.make_batches_larger(larger / 2);
            assert_eq!(next(&mut changes, 9), larger);
        }
        for _ in 0..20 {
            changes.make_batches_larger(SAVE_KEYS_MAX);
        }
        assert_eq!(next(&mut changes, 2 * SAVE_KEYS_MAX), SAVE_KEYS_MAX);
    }

    #[test]
    fn lost_keys_get_at_least_half_of_each_batch() {
        let mut changes = Changes::new(KeySeed::new([1, 2, 3, 4]));
        let lost = 2 * SAVE_KEYS_MAX;
        changes.lose((0..lost).map(key));
        for number in lost..lost + SAVE_KEYS_MAX {
            if let Some(place) = changes.place(key(number)) {
                changes.set(place, state(number, 1));
            }
        }
        assert!(changes.wait(key(7), waiter(1)), "a lost key is to be written");
        assert_eq!(changes.lost.len(), lost, "it counts as lost until then");
        let mut batches = 0;
        while changes.has_lost() {
            while let Some((key, place)) = changes.next_noted() {
                changes.set(place, PersistedKey { key, ..state(0, 2) });
            }
            let batch = changes.take(Batch::default()).batch;
            assert!(batch.keys.len() == SAVE_KEYS_MAX || !changes.has_lost());
            batches += 1;
        }
        assert!(batches <= 5, "{batches}");
    }
}
