//! The records of a storage, each in a slot, with three indexes of the slots: by key for look-ups, in the
//! order of keys for scans and ranges, and by the tick in which the sweep looks at each record (`schedule`).
//!
//! Replacing a record by another one of its key changes only the last index, and often not even that: a
//! record may be scheduled for an earlier tick than that of its due time. The sweep then finds that it is not
//! due, and schedules it again ([`IndexedRecords::reschedule`]). So a record that is written often, each
//! time with a slightly later due time, costs no work in the index.
//!
//! While a store is loaded ([`IndexedRecords::begin_loading`]), only the index by key is kept. The others are built
//! from sorted lists when all records are there: that takes a tenth of the time of as many insertions, which wait for
//! memory at each step.

use std::hash::BuildHasher;
use std::ops::Index;

use arrayvec::ArrayVec;
use hashbrown::HashTable;

use crate::id::{KEY_SIZE, Key, KeySeed};
use crate::limits::BATCH_MAX;
use crate::storage::schedule::{Schedule, TICK_BYTES, TICKS_MAX, Tick};
use crate::storage::slots::{SLOT_OVERHEAD, Slot, Slots};
use crate::storage::trie::{FORK_BYTES, Trie};
use crate::storage::{Held, StorageFault, check_number};
use crate::time::Time;

/// Bytes of memory that a record takes besides its value.
///
/// The value is allocated with two reference counts, and the allocator adds a header and rounds the size
/// up. The hash table by key has one control byte per entry; it doubles when seven eighths are full.
///
/// The ticks of the schedule count as if there were a million records, of which about four share each tick.
/// If each one of fewer records has a tick of its own, it takes up to `TICK_BYTES` instead: 4.5 MB more than
/// counted, at most.
pub const RECORD_OVERHEAD: usize = {
    const REFERENCE_COUNTS: usize = 2 * size_of::<usize>();
    const HEADER: usize = 8;
    const ROUNDING: usize = 8;
    let in_slot = size_of::<Option<Held>>() + SLOT_OVERHEAD + FORK_BYTES;
    let by_key = (size_of::<Slot>() + 1) * 2 * 8 / 7 + 1;
    let by_schedule = (TICKS_MAX * TICK_BYTES).div_ceil(1_000_000);
    in_slot + REFERENCE_COUNTS + HEADER + ROUNDING + by_key + by_schedule
};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Cache lines of a value that are prefetched. The processor itself prefetches the following ones, because
/// they are read in order.
const LINES_PREFETCHED: usize = 4;

/// Records with different keys.
#[derive(Debug)]
pub(super) struct IndexedRecords {
    records: Slots<Held>,
    by_key: ByKey,
    in_order: Trie,
    schedule: Schedule,
    bytes: usize,
    /// Whether records are being loaded: then `in_order` and `schedule` are empty.
    is_loading: bool,
}

impl IndexedRecords {
    pub(super) fn new(seed: KeySeed) -> Self {
        Self {
            records: Slots::new(),
            by_key: ByKey::new(seed),
            in_order: Trie::new(),
            schedule: Schedule::new(),
            bytes: 0,
            is_loading: false,
        }
    }

    /// About `expected` records will be inserted: until [`IndexedRecords::finish_loading`], only the index by key has
    /// them, and records are found by key alone. Does nothing if there are records already.
    pub(super) fn begin_loading(&mut self, expected: usize) {
        if self.len() == 0 {
            self.is_loading = true;
            self.by_key.reserve(expected);
        }
    }

    /// Reads the memory of the index by key that the insertion of `keys` reads.
    pub(super) fn prefetch_for_loading<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        let guesses = keys.filter_map(|key| self.by_key.guess(self.by_key.seed.hash_one(key)));
        std::hint::black_box(guesses.fold(0, |read, slot| read ^ slot.number()));
    }

    /// Builds the other indexes, unless they are complete.
    pub(super) fn finish_loading(&mut self) {
        if !std::mem::take(&mut self.is_loading) {
            return;
        }
        let records = &self.records;
        let mut in_order: Vec<(u64, Slot)> =
            records.iter().map(|(slot, held)| (prefix_of(&held.record.key), slot)).collect();
        let key_at = |slot: Slot| records[slot].record.key;
        in_order.sort_unstable_by(|(one, here), (other, there)| {
            one.cmp(other).then_with(|| key_at(*here).cmp(&key_at(*there)))
        });
        self.in_order = Trie::of_sorted(in_order.iter().copied(), key_at);
        drop(in_order);
        self.schedule = Schedule::of(&mut self.records);
    }

    /// The slot of the record of `key`.
    pub(super) fn slot(&self, key: &Key) -> Option<Slot> {
        self.by_key.find(key, &self.records)
    }

    pub(super) fn find(&self, key: &Key) -> Option<&Held> {
        self.slot(key).map(|slot| &self.records[slot])
    }

    /// Reads the memory that a look-up of each of `keys` reads, and the beginning of the value.
    ///
    /// Waiting for memory is a large part of the time of a request. Here the processor waits for all keys
    /// at once. That works only if each step is short and none depends on another one; so there is one loop
    /// per step, and the keys are not compared.
    pub(super) fn prefetch<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        let hashes: ArrayVec<u64, BATCH_MAX> = keys.take(BATCH_MAX).map(|key| self.by_key.seed.hash_one(key)).collect();
        let slots: ArrayVec<Slot, BATCH_MAX> = hashes.iter().filter_map(|hash| self.by_key.guess(*hash)).collect();
        let mut read = 0;
        for slot in &slots {
            read ^= self.records[*slot].touch();
        }
        for slot in &slots {
            for byte in self.records[*slot].record.value.iter().step_by(LINE).take(LINES_PREFETCHED) {
                read ^= u64::from(*byte);
            }
        }
        std::hint::black_box(read); // otherwise the compiler removes all of this
    }

    /// Reads the memory that the insertion of `keys` reads, if there is no record of the first one: the others are mostly
    /// absent too then.
    #[inline(never)] // GETs do not need it
    pub(super) fn prefetch_for_insertion<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        let mut keys = keys.peekable();
        let is_absent = |key: &&Key| self.by_key.guess(self.by_key.seed.hash_one(*key)).is_none();
        if keys.peek().is_some_and(is_absent) {
            let reached = self.in_order.prefetch(keys);
            let read = reached.iter().fold(0, |read, slot| read ^ self.records[*slot].touch());
            std::hint::black_box(read);
        }
    }

    /// Inserts `held`; there is no record of its key.
    pub(super) fn insert(&mut self, held: Held) {
        let key = held.record.key;
        self.bytes += held.bytes();
        let slot = self.records.insert(held);
        self.by_key.insert(&key, slot, &self.records);
        if self.is_loading {
            return;
        }
        self.in_order.insert(&key, slot, |slot| self.records[slot].record.key);
        self.schedule.insert(slot, &mut self.records);
    }

    /// Replaces the record in `slot` by `held`, which has the same key, and returns the old one.
    pub(super) fn replace(&mut self, slot: Slot, mut held: Held) -> Held {
        let before = &mut self.records[slot];
        held.place = before.place;
        self.bytes = self.bytes + held.bytes() - before.bytes();
        let before = std::mem::replace(before, held);
        self.schedule_in_time(slot);
        before
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Held {
        let key = self.records[slot].record.key;
        self.by_key.remove(&key, slot, &self.records);
        if !self.is_loading {
            self.in_order.remove(&key);
            self.schedule.remove(slot, &mut self.records);
        }
        let held = self.records.remove(slot);
        self.bytes -= held.bytes();
        held
    }

    /// Gives access to a record. The caller changes neither its key nor its value, and does not make it due
    /// earlier.
    pub(super) fn amend(&mut self, slot: Slot) -> &mut Held {
        &mut self.records[slot]
    }

    /// Makes the record in `slot` due at `at`, or at its end if that is earlier.
    pub(super) fn set_due(&mut self, slot: Slot, at: Time) {
        let held = &mut self.records[slot];
        held.due = Tick::of(at.min(held.expires));
        self.schedule_in_time(slot);
    }

    /// Schedules the record in `slot` for the tick in which it is due, if it is scheduled for a later one.
    fn schedule_in_time(&mut self, slot: Slot) {
        let held = &self.records[slot];
        if held.due < held.place.tick() {
            self.reschedule(slot);
        }
    }

    /// Schedules the record in `slot` for the tick in which it is due.
    pub(super) fn reschedule(&mut self, slot: Slot) {
        if !self.is_loading {
            self.schedule.remove(slot, &mut self.records);
            self.schedule.insert(slot, &mut self.records);
        }
    }

    /// The record that the sweep looks at next, and the moment from which it may.
    pub(super) fn first_scheduled(&self) -> Option<(Time, Slot)> {
        debug_assert!(!self.is_loading, "no record has its place in this order yet");
        self.schedule.first()
    }

    /// The records in the order of the schedule, with all those that are due at `now`. Some may be due up to one tick
    /// later.
    pub(super) fn scheduled_until(&self, now: Time) -> impl Iterator<Item = Slot> {
        debug_assert!(!self.is_loading, "no record has its place in this order yet");
        self.schedule.until(Tick::of(now), &self.records)
    }

    /// The records in the order of their keys, from the first key that is not less than `first`.
    pub(super) fn range_from(&self, first: Key) -> impl Iterator<Item = &Held> {
        debug_assert!(!self.is_loading, "no record has its place in this order yet");
        let slots = self.in_order.range_from(&first, |slot| self.records[slot].record.key);
        slots.map(|slot| &self.records[slot])
    }

    /// The records by their distance to `point`, the farthest first.
    pub(super) fn farthest(&self, point: Key) -> impl Iterator<Item = (Slot, &Held)> {
        debug_assert!(!self.is_loading, "no record has its place in this order yet");
        self.in_order.farthest(point).map(|slot| (slot, &self.records[slot]))
    }

    /// The records in the order of their slots, from the first slot that is not less than `first`.
    pub(super) fn slots_from(&self, first: Slot) -> impl Iterator<Item = (Slot, &Held)> {
        self.records.iter_from(first)
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The bytes of memory that all records take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks that all indexes contain the same records, each once, that no record is scheduled after it is
    /// due, and that the counted bytes are right.
    pub(super) fn check_invariants(&self) -> Result<(), StorageFault> {
        let (mut sound, mut in_order, mut bytes, mut last) = (0, 0, 0, None);
        for held in self.range_from(Key::new([0; KEY_SIZE])) {
            let key = held.record.key;
            let slot = self.slot(&key).filter(|slot| std::ptr::eq(&raw const self.records[*slot], held));
            let in_time = held.place.tick() <= held.due && held.due <= Tick::of(held.expires);
            sound += usize::from(slot.is_some() && in_time && last < Some(key));
            last = Some(key);
            in_order += 1;
            bytes += held.bytes();
        }
        check_number("records that are the same in all indexes", sound, self.len())?;
        check_number("records by key", self.by_key.len(), self.len())?;
        check_number("records in order", in_order, self.len())?;
        check_number("forks between records", self.in_order.forks(), self.len().saturating_sub(1))?;
        check_number("scheduled records", self.schedule.count_sound(&self.records), self.len())?;
        check_number("bytes of records", self.bytes, bytes)
    }
}

/// The first 64 bits of a key.
fn prefix_of(key: &Key) -> u64 {
    u64::from_be_bytes(*key.as_bytes().first_chunk().expect("8 of 32 bytes"))
}

impl Index<Slot> for IndexedRecords {
    type Output = Held;

    fn index(&self, slot: Slot) -> &Held {
        &self.records[slot]
    }
}

/// The slots by key are spread over this number of hash tables. A table that grows hashes all of its keys
/// again, and with one table that would take too long if there are many records.
const TABLES: usize = 128;

/// Slots by the hash of their key. Never iterated, because the order means nothing.
#[derive(Debug)]
struct ByKey {
    seed: KeySeed,
    tables: Vec<HashTable<Slot>>,
}

impl ByKey {
    fn new(seed: KeySeed) -> Self {
        Self { seed, tables: vec![HashTable::new(); TABLES] }
    }

    /// Makes room for that many slots, if there is none.
    fn reserve(&mut self, slots: usize) {
        for table in &mut self.tables {
            // An empty table has nothing to hash again.
            table.reserve(slots.div_ceil(TABLES), |_| 0);
        }
    }

    fn find(&self, key: &Key, records: &Slots<Held>) -> Option<Slot> {
        let hash = self.seed.hash_one(key);
        self.tables[table(hash)].find(hash, |slot| records[*slot].record.key == *key).copied()
    }

    /// The slot that the record with this hash probably has. The key is not compared.
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
        // Returns the memory of a table that is mostly empty; what stays is room to grow again.
        if table.len() < table.capacity() / 8 {
            table.shrink_to(2 * table.len(), |slot| self.seed.hash_one(records[*slot].record.key));
        }
    }

    fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }
}

/// The hash table for a hash. It is chosen by bits that the table itself does not use while it has fewer
/// than 2^32 entries.
fn table(hash: u64) -> usize {
    (hash >> 32) as usize % TABLES
}
