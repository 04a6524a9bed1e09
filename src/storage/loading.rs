//! Loading: the records of an earlier run come all at once, before anything else happens.

use crate::id::Key;
use crate::record::{Age, Record, Source, Tombstone, end_of_life};
use crate::storage::{Proof, RECORD_OVERHEAD, Storage, Stored, bytes_of};
use crate::time::{Now, Time};

/// Records of an earlier run for which there was no room: the bound is smaller than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WithoutRoom {
    /// How many.
    pub records: usize,
    /// The bytes that they would take.
    pub bytes: usize,
}

impl Storage {
    /// About `expected` records of an earlier run will be restored. Until [`Storage::finish_loading`], records are
    /// found by their keys alone: the storage has no order of them. Does nothing if there are records already.
    pub fn begin_loading(&mut self, expected: usize) {
        self.records.begin_loading(expected.min(self.bytes_max / RECORD_OVERHEAD));
    }

    /// Prefetches what the restoration of records of `keys` reads. Changes nothing.
    pub fn prefetch_for_loading<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.records.prefetch_for_loading(keys);
    }

    /// Stores a record of an earlier run, which has this age now; it is due at `due`, or at its end if that is earlier
    /// or `due` is `None`. If its life has ended, it leaves its tombstone. A certified record is not verified before
    /// that is necessary. Returns whether the record is new, and nothing else has changed since
    /// [`Storage::take_changed`].
    pub fn restore(&mut self, now: Now, record: Record, age: Age, due: Option<Time>, source: Source) -> bool {
        let (key, before, bytes) = (record.key, self.len(), bytes_of(&record));
        let proof = self.prove_if_contested(now, &record);
        match end_of_life(now, record.ttl, age, record.class, record.version) {
            _ if proof == Proof::Refuted => {}
            Some(expires) => {
                // No neighbour is known yet, so every record is in scope.
                let stored = self.store(now, record, expires, due.unwrap_or(expires), source, |_| true);
                if stored == Stored::Full {
                    self.without_room.records += 1;
                    self.without_room.bytes += bytes;
                } else if proof == Proof::Due && stored == Stored::Held {
                    self.mark_unverified(&key);
                }
            }
            None => {
                if proof == Proof::Due {
                    self.store_ended(now, record, source);
                } else {
                    self.bury(now, key, Tombstone::of_ended(&record, now.wall));
                }
                // Its state on disk is out of date, also if it leaves no tombstone.
                if self.records.slot(&key).is_none() {
                    self.note_change(key);
                }
            }
        }
        self.len() == before + 1 && self.changed == [key]
    }

    /// Old tombstones were added by [`Storage::add_old_tombstone`] beside records: replaces the records that they beat.
    /// Looks at every record.
    pub fn bury_what_old_tombstones_beat(&mut self, now: Now) {
        let beaten = self.walk(None).filter_map(|held| {
            let old = self.tombstones.find_old(now.mono, &held.record.key)?;
            old.beats(held.record.rank().precedence()).map(|_| (held.record.key, old))
        });
        let beaten: Vec<(Key, Tombstone)> = beaten.collect();
        for (key, old) in beaten {
            self.bury(now, key, old);
        }
    }

    /// What could not be restored. Its state on disk stays as it is.
    pub fn without_room(&self) -> WithoutRoom {
        self.without_room
    }

    /// The records are restored.
    pub fn finish_loading(&mut self) {
        self.records.finish_loading();
    }
}
