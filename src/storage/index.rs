//! The records of a storage, each in a place of its own, and three orders of these places: by key
//! for every GET, in the order of their keys for walks and ranges, and by the moment at which each
//! is scheduled for a look.
//!
//! A record that takes the place of another one of its key touches none of the orders but, perhaps,
//! the last, and that one is lazy: a record may be scheduled for an earlier moment than it is due.
//! Whoever looks at it then finds out, and schedules it anew ([`Orders::settle`]). So records that
//! are written time and again, each time due a little later, cost no order a step.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::BuildHasher;
use std::ops::Index;

use arrayvec::ArrayVec;
use hashbrown::HashTable;

use crate::id::{KEY_SIZE, Key, KeySeed};
use crate::limits::BATCH_MAX;
use crate::storage::slots::{SLOT_OVERHEAD, Slot, Slots};
use crate::storage::trie::{FORK_BYTES, Trie};
use crate::storage::{Held, StorageFault};
use crate::time::Time;

/// Bytes that a record takes besides its value.
///
/// Its value is allocated with two reference counts and with what the allocator adds: a header, and
/// what it is rounded up by. A table by key has a control byte for each entry, and has grown to
/// twice its size when it was seven eighths full; a node of the ordered set may be half empty, and
/// has a head besides.
pub const RECORD_OVERHEAD: usize = {
    const REFERENCE_COUNTS: usize = 2 * size_of::<usize>();
    const HEADER: usize = 8;
    const ROUNDING: usize = 8;
    let in_place = size_of::<Option<Held>>() + SLOT_OVERHEAD + FORK_BYTES;
    let by_key = (size_of::<Slot>() + 1) * 2 * 8 / 7 + 1;
    let by_schedule = size_of::<(Time, Slot)>() * 5 / 2;
    in_place + REFERENCE_COUNTS + HEADER + ROUNDING + by_key + by_schedule
};

/// Bytes that come from memory at a time.
const LINE: usize = 64;

/// Lines of a value that are brought near: what follows comes in order, and so by itself.
const LINES_BROUGHT_NEAR: usize = 4;

/// Records, each under its own key.
#[derive(Debug)]
pub(super) struct Orders {
    records: Slots<Held>,
    by_key: ByKey,
    in_order: Trie,
    by_schedule: BTreeSet<(Time, Slot)>,
    bytes: usize,
}

impl Orders {
    pub(super) fn new(seed: KeySeed) -> Self {
        Self {
            records: Slots::new(),
            by_key: ByKey::new(seed),
            in_order: Trie::new(),
            by_schedule: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Where the record of `key` is, as long as it is there.
    pub(super) fn slot(&self, key: &Key) -> Option<Slot> {
        self.by_key.find(key, &self.records)
    }

    pub(super) fn find(&self, key: &Key) -> Option<&Held> {
        self.slot(key).map(|slot| &self.records[slot])
    }

    /// Reads what looking up each of `keys` will read, and the beginning of its value.
    ///
    /// What is far away in memory takes a large part of a request's time. Here the processor waits for
    /// that of all keys at once, if each step is short and none depends on another one: so there is a
    /// loop for each step, and the keys are not compared.
    pub(super) fn bring_near<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        let hashes: ArrayVec<u64, BATCH_MAX> = keys.take(BATCH_MAX).map(|key| self.by_key.seed.hash_one(key)).collect();
        let slots: ArrayVec<Slot, BATCH_MAX> = hashes.iter().filter_map(|hash| self.by_key.guess(*hash)).collect();
        let mut read = 0;
        for slot in &slots {
            read ^= self.records[*slot].touch();
        }
        for slot in &slots {
            for line in self.records[*slot].record.value.chunks(LINE).take(LINES_BROUGHT_NEAR) {
                read ^= u64::from(line[0]);
            }
        }
        std::hint::black_box(read); // or none of this would be compiled
    }

    /// Adds `held`, of whose key there is no record.
    pub(super) fn insert(&mut self, mut held: Held) {
        let key = held.record.key;
        held.scheduled = held.due;
        self.bytes += held.bytes();
        let slot = self.records.insert(held);
        self.by_key.insert(&key, slot, &self.records);
        self.in_order.insert(&key, slot, |slot| self.records[slot].record.key);
        self.by_schedule.insert((self.records[slot].due, slot));
    }

    /// Puts `held` in the place of the record of its key, and returns that one.
    pub(super) fn replace(&mut self, slot: Slot, mut held: Held) -> Held {
        let due = held.due;
        let before = &mut self.records[slot];
        held.scheduled = before.scheduled;
        self.bytes = self.bytes + held.bytes() - before.bytes();
        let before = std::mem::replace(before, held);
        self.set_due(slot, due);
        before
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Held {
        let key = self.records[slot].record.key;
        self.by_key.remove(&key, slot, &self.records);
        self.in_order.remove(&key);
        let held = self.records.remove(slot);
        self.by_schedule.remove(&(held.scheduled, slot));
        self.bytes -= held.bytes();
        held
    }

    /// Changes a record, but neither its key nor its value, nor is it due earlier.
    pub(super) fn amend(&mut self, slot: Slot) -> &mut Held {
        &mut self.records[slot]
    }

    /// The record at `slot` is worth a look at `at`, or at its end if that is earlier.
    pub(super) fn set_due(&mut self, slot: Slot, at: Time) {
        let held = &mut self.records[slot];
        held.due = at.min(held.expires);
        if held.due < held.scheduled {
            self.settle(slot);
        }
    }

    /// The record at `slot` is scheduled for the moment it is due.
    pub(super) fn settle(&mut self, slot: Slot) {
        let held = &mut self.records[slot];
        self.by_schedule.remove(&(held.scheduled, slot));
        held.scheduled = held.due;
        self.by_schedule.insert((held.scheduled, slot));
    }

    /// Records by the moment for which they are scheduled, and that moment: none is due before.
    pub(super) fn by_schedule(&self) -> impl Iterator<Item = (Time, Slot)> {
        self.by_schedule.iter().copied()
    }

    /// Records in the order of their keys, from the first that is not less than `first`.
    pub(super) fn walk(&self, first: Key) -> impl Iterator<Item = &Held> {
        let slots = self.in_order.walk(&first, |slot| self.records[slot].record.key);
        slots.map(|slot| &self.records[slot])
    }

    /// Records in the order of their distance to `point`, the farthest first, and where they are.
    pub(super) fn farthest(&self, point: Key) -> impl Iterator<Item = (Slot, &Held)> {
        self.in_order.farthest(point).map(|slot| (slot, &self.records[slot]))
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// What they take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks that all orders hold the same records, each once, scheduled no later than it is due,
    /// and that the bytes are what they take.
    pub(super) fn check_invariants(&self) -> Result<(), StorageFault> {
        let (mut found, mut in_order, mut last) = (0, 0, None);
        for held in self.walk(Key::new([0; KEY_SIZE])) {
            let key = held.record.key;
            let slot = self.slot(&key).filter(|slot| std::ptr::eq(&raw const self.records[*slot], held));
            let is_scheduled = |slot| self.by_schedule.contains(&(held.scheduled, slot));
            let in_time = held.scheduled <= held.due && held.due <= held.expires;
            if !slot.is_some_and(is_scheduled) || !in_time || last >= Some(key) {
                return Err(StorageFault::Lost { key });
            }
            last = Some(key);
            in_order += 1;
            found += held.bytes();
        }
        let sizes = [self.by_key.len(), in_order, self.by_schedule.len()];
        if sizes.iter().any(|size| *size != self.len()) || self.in_order.forks() != in_order.saturating_sub(1) {
            return Err(StorageFault::Orders { by_key: sizes[0], in_order: sizes[1], by_schedule: sizes[2] });
        }
        if found != self.bytes {
            return Err(StorageFault::Bytes { found, counted: self.bytes });
        }
        Ok(())
    }
}

impl Index<Slot> for Orders {
    type Output = Held;

    fn index(&self, slot: Slot) -> &Held {
        &self.records[slot]
    }
}

/// Tables that places by key are spread over: one that grows hashes all of its keys anew, and that
/// must not take long, however many records there are.
const TABLES: usize = 128;

/// Places by the hash of the key that is there; never iterated, for their order says nothing.
struct ByKey {
    seed: KeySeed,
    tables: Vec<HashTable<Slot>>,
}

impl ByKey {
    fn new(seed: KeySeed) -> Self {
        Self { seed, tables: vec![HashTable::new(); TABLES] }
    }

    fn find(&self, key: &Key, records: &Slots<Held>) -> Option<Slot> {
        let hash = self.seed.hash_one(key);
        self.tables[table(hash)].find(hash, |slot| records[*slot].record.key == *key).copied()
    }

    /// Where the record of `key` is, if there is one; that key is not looked at.
    fn guess(&self, hash: u64) -> Option<Slot> {
        self.tables[table(hash)].find(hash, |_| true).copied()
    }

    fn insert(&mut self, key: &Key, slot: Slot, records: &Slots<Held>) {
        let hash = self.seed.hash_one(key);
        let hash_at = |slot: &Slot| self.seed.hash_one(records[*slot].record.key);
        self.tables[table(hash)].insert_unique(hash, slot, hash_at);
    }

    fn remove(&mut self, key: &Key, slot: Slot, records: &Slots<Held>) {
        let hash = self.seed.hash_one(key);
        let table = &mut self.tables[table(hash)];
        if let Ok(entry) = table.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        // What has become much too large is given back, and has room to grow again.
        if table.len() < table.capacity() / 8 {
            table.shrink_to(2 * table.len(), |slot| self.seed.hash_one(records[*slot].record.key));
        }
    }

    fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }
}

impl fmt::Debug for ByKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByKey").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Which of [`TABLES`] a hash belongs to: by bits that the table itself does not look at, as long
/// as it has fewer than 2^32 places.
fn table(hash: u64) -> usize {
    (hash >> 32) as usize % TABLES
}
