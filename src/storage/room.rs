//! Room in a storage whose memory is bounded: which records and tombstones give way, and in which order.

use crate::record::{Record, Source, Tombstone};
use crate::storage::quota::Quota;
use crate::storage::slots::Slot;
use crate::storage::{Storage, bytes_of};
use crate::time::{Now, Time};

/// While this part of the bound is used, in percent, no stranger and no address group may take more than its
/// quota.
pub(super) const CROWDED_PERCENT: usize = 90;

/// A quota is the bound divided by this number: it takes 16 parties that want all they can get to fill a storage.
pub(super) const QUOTAS: usize = 16;

/// Tombstones take at most the bound divided by this number. A flood of records with short lives would fill all of it.
pub(super) const TOMBSTONE_PART: usize = 4;

/// Records that are looked at to make room for one. The farthest come first, and those are the ones out of
/// scope, so 64 suffice; if there is not enough room among them, the record is refused.
const EVICTION_LOOKS_MAX: usize = 64;

impl Storage {
    /// Removes tombstones until all fits, the oldest first: records have priority over them.
    #[inline] // a part of every PUT, which mostly finds room
    pub(super) fn trim(&mut self) {
        if !self.tombstones.is_empty() {
            self.drop_tombstones();
        }
    }

    #[inline(never)]
    fn drop_tombstones(&mut self) {
        let tombstones_max = self.bytes_max / TOMBSTONE_PART;
        while self.bytes() > self.bytes_max || self.tombstones.bytes() > tombstones_max {
            let Some(oldest) = self.tombstones.take_oldest() else { break };
            self.note_removed(oldest);
            self.tombstones_dropped += 1;
        }
    }

    /// Makes room for `record` instead of the record in `slot`, if there is one, and returns whether there
    /// is enough. Tombstones do not count, because they are trimmed afterwards. If there is not enough
    /// room, no live record is removed.
    pub(super) fn make_room(
        &mut self,
        now: Now,
        record: &Record,
        slot: Option<Slot>,
        source: Source,
        in_scope: impl Fn(&Record) -> bool,
    ) -> bool {
        let bytes = bytes_of(record);
        let replaced = slot.map(|slot| (self.records[slot].quota, self.records[slot].bytes()));
        let freed = replaced.map_or(0, |(_, bytes)| bytes);
        let needed = |storage: &Self| storage.bytes_of_records() - freed + bytes + storage.quotas.cost_of(source);
        if needed(self) > self.bytes_max {
            self.finish_loading();
        }
        while needed(self) > self.bytes_max
            && let Some(ended) = self.find_ended(now.mono)
        {
            self.bury_ended(now, ended);
        }
        let is_crowded = needed(self) > self.bytes_max / 100 * CROWDED_PERCENT;
        if is_crowded && !self.quotas.admit(source, bytes, replaced, self.bytes_max / QUOTAS) {
            return false;
        }
        let missing = needed(self).saturating_sub(self.bytes_max);
        let Some(evicted) = self.find_evictable(record, source, missing, in_scope) else { return false };
        for slot in evicted {
            let held = &self.records[slot];
            let proves = !held.is_unverified();
            let tombstone = if proves { Tombstone::of_older(held.record.rank()) } else { Tombstone::default() };
            self.remove_for(now, slot, tombstone);
        }
        true
    }

    /// A record whose life has ended, among the first that are scheduled. The tick of `now` counts, although the sweep
    /// looks at it later: some of its records have ended.
    fn find_ended(&self, now: Time) -> Option<Slot> {
        let mut first = self.records.scheduled_until(now).take(EVICTION_LOOKS_MAX);
        first.find(|slot| self.records[*slot].expires <= now)
    }

    /// Records of at least `missing` bytes that may be evicted for `record`; `None` if there are not
    /// enough.
    fn find_evictable(
        &self,
        record: &Record,
        source: Source,
        missing: usize,
        in_scope: impl Fn(&Record) -> bool,
    ) -> Option<Vec<Slot>> {
        let mut evicted = Vec::new();
        if missing == 0 {
            return Some(evicted);
        }
        let mut freed = 0;
        let has_priority = source == Source::Client || in_scope(record);
        let distance = self.me.distance(&record.key);
        for (slot, held) in self.records.farthest(self.me).take(EVICTION_LOOKS_MAX) {
            let key = held.record.key;
            if freed >= missing || (!has_priority && self.me.distance(&key) <= distance) {
                break;
            }
            let is_needed = held.quota == Quota::CLIENT || in_scope(&held.record);
            if key != record.key && (!is_needed || self.is_hidden(&held.record)) {
                freed += held.bytes();
                evicted.push(slot);
            }
        }
        (freed >= missing).then_some(evicted)
    }
}
