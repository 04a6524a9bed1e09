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
use crate::storage::slots::{PLACE_OVERHEAD, Place, Slots};
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
    let in_place = size_of::<Option<Held>>() + PLACE_OVERHEAD + FORK_BYTES;
    let by_key = (size_of::<Place>() + 1) * 2 * 8 / 7 + 1;
    let by_schedule = size_of::<(Time, Place)>() * 5 / 2;
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
    by_schedule: BTreeSet<(Time, Place)>,
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
    pub(super) fn place(&self, key: &Key) -> Option<Place> {
        self.by_key.find(key, &self.records)
    }

    pub(super) fn find(&self, key: &Key) -> Option<&Held> {
        self.place(key).map(|place| &self.records[place])
    }

    /// Reads what looking up each of `keys` will read, and the beginning of its value.
    ///
    /// What is far away in memory takes a large part of a request's time. Here the processor waits for
    /// that of all keys at once, if each step is short and none depends on another one: so there is a
    /// loop for each step, and the keys are not compared.
    pub(super) fn bring_near<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        let hashes: ArrayVec<u64, BATCH_MAX> = keys.take(BATCH_MAX).map(|key| self.by_key.seed.hash_one(key)).collect();
        let places: ArrayVec<Place, BATCH_MAX> = hashes.iter().filter_map(|hash| self.by_key.guess(*hash)).collect();
        let mut read = 0;
        for place in &places {
            read ^= self.records[*place].touch();
        }
        for place in &places {
            for line in self.records[*place].record.value.chunks(LINE).take(LINES_BROUGHT_NEAR) {
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
        let place = self.records.insert(held);
        self.by_key.insert(&key, place, &self.records);
        self.in_order.insert(&key, place, |place| self.records[place].record.key);
        self.by_schedule.insert((self.records[place].due, place));
    }

    /// Puts `held` in the place of the record of its key, and returns that one.
    pub(super) fn replace(&mut self, place: Place, mut held: Held) -> Held {
        let due = held.due;
        let before = &mut self.records[place];
        held.scheduled = before.scheduled;
        self.bytes = self.bytes + held.bytes() - before.bytes();
        let before = std::mem::replace(before, held);
        self.set_due(place, due);
        before
    }

    pub(super) fn remove(&mut self, place: Place) -> Held {
        let key = self.records[place].record.key;
        self.by_key.remove(&key, place, &self.records);
        self.in_order.remove(&key);
        let held = self.records.remove(place);
        self.by_schedule.remove(&(held.scheduled, place));
        self.bytes -= held.bytes();
        held
    }

    /// Changes a record, but neither its key nor its value, nor is it due earlier.
    pub(super) fn amend(&mut self, place: Place) -> &mut Held {
        &mut self.records[place]
    }

    /// The record at `place` is worth a look at `at`, or at its end if that is earlier.
    pub(super) fn set_due(&mut self, place: Place, at: Time) {
        let held = &mut self.records[place];
        held.due = at.min(held.expires);
        if held.due < held.scheduled {
            self.settle(place);
        }
    }

    /// The record at `place` is scheduled for the moment it is due.
    pub(super) fn settle(&mut self, place: Place) {
        let held = &mut self.records[place];
        self.by_schedule.remove(&(held.scheduled, place));
        held.scheduled = held.due;
        self.by_schedule.insert((held.scheduled, place));
    }

    /// Records by the moment for which they are scheduled, and that moment: none is due before.
    pub(super) fn by_schedule(&self) -> impl Iterator<Item = (Time, Place)> {
        self.by_schedule.iter().copied()
    }

    /// Records in the order of their keys, from the first that is not less than `first`.
    pub(super) fn walk(&self, first: Key) -> impl Iterator<Item = &Held> {
        let places = self.in_order.walk(&first, |place| self.records[place].record.key);
        places.map(|place| &self.records[place])
    }

    /// Records in the order of their distance to `point`, the farthest first, and where they are.
    pub(super) fn farthest(&self, point: Key) -> impl Iterator<Item = (Place, &Held)> {
        self.in_order.farthest(point).map(|place| (place, &self.records[place]))
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
    pub(super) fn check(&self) -> Result<(), StorageFault> {
        let (mut found, mut in_order, mut last) = (0, 0, None);
        for held in self.walk(Key::new([0; KEY_SIZE])) {
            let key = held.record.key;
            let place = self.place(&key).filter(|place| std::ptr::eq(&raw const self.records[*place], held));
            let is_scheduled = |place| self.by_schedule.contains(&(held.scheduled, place));
            let in_time = held.scheduled <= held.due && held.due <= held.expires;
            if !place.is_some_and(is_scheduled) || !in_time || last >= Some(key) {
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

impl Index<Place> for Orders {
    type Output = Held;

    fn index(&self, place: Place) -> &Held {
        &self.records[place]
    }
}

/// Tables that places by key are spread over: one that grows hashes all of its keys anew, and that
/// must not take long, however many records there are.
const TABLES: usize = 128;

/// Places by the hash of the key that is there; never iterated, for their order says nothing.
struct ByKey {
    seed: KeySeed,
    tables: Vec<HashTable<Place>>,
}

impl ByKey {
    fn new(seed: KeySeed) -> Self {
        Self { seed, tables: vec![HashTable::new(); TABLES] }
    }

    fn find(&self, key: &Key, records: &Slots<Held>) -> Option<Place> {
        let hash = self.seed.hash_one(key);
        self.tables[table(hash)].find(hash, |place| records[*place].record.key == *key).copied()
    }

    /// Where the record of `key` is, if there is one; that key is not looked at.
    fn guess(&self, hash: u64) -> Option<Place> {
        self.tables[table(hash)].find(hash, |_| true).copied()
    }

    fn insert(&mut self, key: &Key, place: Place, records: &Slots<Held>) {
        let hash = self.seed.hash_one(key);
        let hash_at = |place: &Place| self.seed.hash_one(records[*place].record.key);
        self.tables[table(hash)].insert_unique(hash, place, hash_at);
    }

    fn remove(&mut self, key: &Key, place: Place, records: &Slots<Held>) {
        let hash = self.seed.hash_one(key);
        let table = &mut self.tables[table(hash)];
        if let Ok(entry) = table.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
        // What has become much too large is given back, and has room to grow again.
        if table.len() < table.capacity() / 8 {
            table.shrink_to(2 * table.len(), |place| self.seed.hash_one(records[*place].record.key));
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
