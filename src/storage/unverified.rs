//! Records of an earlier run whose envelopes are not verified yet.
//!
//! Verifying a signature takes about 50 µs, and a node with a million signed records shall not wait a minute before it
//! listens. So a certified record comes from the disk *unverified*, and is verified when it is first needed, or later
//! in the background ([`Storage::verify_some`]), in the order of the slots.
//!
//! Every method that gives a record to a caller verifies it first ([`Storage::is_proven`]). So no caller can serve,
//! offer, count or compare an unverified record by mistake. Exceptions are [`Storage::walk`], which looks at all records
//! at once, [`Storage::take_out`], whose caller stores the records again by [`Storage::prove_if_contested`], and the
//! methods here whose documentation says so.
//!
//! A record that does not prove what its class claims is *refuted*: from then on it is not found. It is removed without
//! a tombstone by the next method that changes its key, or by the background. When the life of an unverified record ends,
//! the sweep verifies it; if it gives way to others before, it leaves no tombstone.
//!
//! A caller that looks at many records in one turn says how many may be verified meanwhile
//! ([`VERIFIED_PER_TURN_MAX`](crate::limits::VERIFIED_PER_TURN_MAX)).

use std::cell::Cell;
use std::ops::RangeInclusive;

use crate::id::Key;
use crate::record::envelope::{self, verify_record};
use crate::record::{Class, Record, Source, Tombstone};
use crate::storage::held::{REFUTED, UNVERIFIED};
use crate::storage::schedule::{Place, Tick};
use crate::storage::slots::Slot;
use crate::storage::{Held, Judgement, Storage, bytes_of};
use crate::time::{Now, Time};

/// Slots that [`Storage::verify_some`] looks at, at most: a look at a verified record takes about 0.1 µs.
const LOOKS_MAX: usize = 1 << 10;

/// Records that a sweep looks at in the time of one verification, or fewer.
pub(super) const LOOKS_PER_PROOF: usize = 32;

/// What [`Storage`] counts about unverified records.
#[derive(Debug)]
pub(super) struct Unverified {
    /// Stored records that are unverified or refuted.
    left: Cell<usize>,
    /// Records that were refuted since they were last taken.
    refuted: Cell<Option<Refuted>>,
    /// Where the background goes on.
    next: Slot,
}

impl Default for Unverified {
    fn default() -> Self {
        Self { left: Cell::new(0), refuted: Cell::new(None), next: Slot::new(0) }
    }
}

/// Records that did not prove what their class claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refuted {
    /// How many.
    pub records: u64,
    /// The key of the first one.
    pub key: Key,
    /// What is wrong with it.
    pub fault: envelope::Unverified,
}

/// Whether a record from the disk is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is verified, or its class claims nothing.
    Given,
    /// It is not. No other record or tombstone of its key exists, so it competes with nothing.
    Due,
    /// It does not prove what its class claims, and its key is noted as changed.
    Refuted,
}

impl Held {
    /// Whether the record is unverified or refuted.
    pub(super) fn is_unverified(&self) -> bool {
        self.heard.get() & UNVERIFIED != 0
    }

    fn is_refuted(&self) -> bool {
        self.heard.get() & REFUTED != 0
    }
}

/// Verifying.
impl Storage {
    /// How many stored records are not verified, with those that were refuted and are not removed yet.
    pub fn unverified(&self) -> usize {
        self.unverified.left.get()
    }

    /// Whether [`Storage::take_refuted`] would return any.
    pub fn has_refuted(&self) -> bool {
        self.unverified.refuted.get().is_some()
    }

    /// The records that were refuted since the last call.
    pub fn take_refuted(&mut self) -> Option<Refuted> {
        self.unverified.refuted.take()
    }

    /// The record `held`, if it proves what its class claims.
    #[cold] // most records that a GET finds are verified
    #[inline(never)]
    pub(super) fn proven<'a>(&self, held: &'a Held) -> Option<&'a Held> {
        self.is_proven(held).then_some(held)
    }

    /// Whether `held` proves what its class claims. It is verified now if it was not before.
    pub(super) fn is_proven(&self, held: &Held) -> bool {
        if !held.is_unverified() {
            return true;
        }
        if held.is_refuted() {
            return false;
        }
        match verify_record(&held.record) {
            Ok(()) => {
                held.heard.set(held.heard.get() & !UNVERIFIED);
                self.unverified.left.update(|left| left - 1);
                true
            }
            Err(fault) => {
                held.heard.set(held.heard.get() | REFUTED);
                self.note_refuted(held.record.key, fault);
                false
            }
        }
    }

    fn note_refuted(&self, key: Key, fault: envelope::Unverified) {
        let first = self.unverified.refuted.get().unwrap_or(Refuted { records: 0, key, fault });
        self.unverified.refuted.set(Some(Refuted { records: first.records + 1, ..first }));
    }

    /// Whether it is known what the record of `key` proves, or there is none. If not, it is verified now, at the cost of
    /// one of `proofs`, unless none is left.
    pub fn verify_within(&self, key: &Key, proofs: &mut usize) -> bool {
        if self.unverified() == 0 {
            return true; // the usual case, without a look-up
        }
        let is_open = |held: &&Held| held.is_unverified() && !held.is_refuted();
        let Some(held) = self.records.find(key).filter(is_open) else { return true };
        if *proofs == 0 {
            return false;
        }
        *proofs -= 1;
        self.is_proven(held);
        true
    }

    /// Verifies the next records in the order of the slots, at most `max`, and removes those that are refuted.
    pub fn verify_some(&mut self, max: usize) {
        if self.unverified() == 0 {
            return;
        }
        let mut found = Vec::with_capacity(max);
        let mut next = Slot::new(0); // from the first again, if none is left
        for (looks, (slot, held)) in self.records.slots_from(self.unverified.next).enumerate() {
            if found.len() == max || looks == LOOKS_MAX {
                next = slot;
                break;
            }
            if held.is_unverified() {
                found.push(slot);
            }
        }
        self.unverified.next = next;
        for slot in found {
            self.prove_or_remove(slot);
        }
    }

    /// Whether the record in `slot` proves what its class claims. If not, it is removed without a tombstone.
    pub(super) fn prove_or_remove(&mut self, slot: Slot) -> bool {
        let is_proven = self.is_proven(&self.records[slot]);
        if !is_proven {
            self.remove_without_tombstone(slot);
        }
        is_proven
    }

    /// The result of [`Storage::live_slot`] for a record that is unverified, hidden, or has ended.
    #[cold]
    #[inline(never)]
    pub(super) fn live_slot_of_rare(&mut self, now: Now, slot: Slot) -> Option<Slot> {
        if !self.prove_or_remove(slot) {
            return None;
        }
        let held = &self.records[slot];
        if now.mono < held.expires && !self.is_hidden(&held.record) {
            return Some(slot);
        }
        self.bury_ended(now, slot);
        None
    }

    /// `held` was removed.
    pub(super) fn forget_unverified(&self, held: &Held) {
        if held.is_unverified() {
            self.unverified.left.update(|left| left - 1);
        }
    }
}

/// Restoring.
impl Storage {
    /// Verifies a record from the disk that is about to be stored, if it would compete with another record of its key,
    /// or with a tombstone. An unverified record must neither win that nor lose it to leave something behind.
    pub fn prove_if_contested(&mut self, now: Now, record: &Record) -> Proof {
        if record.class == Class::Plain {
            return Proof::Given;
        }
        let key = &record.key;
        if self.records.slot(key).is_none() && self.tombstones.find(now.mono, key).is_none() {
            return Proof::Due;
        }
        // The same record is often stored again: a peer has sent it meanwhile.
        if self.judge(now, key, record.rank(), record.ttl, &record.value) == Judgement::Proven {
            return Proof::Given;
        }
        self.prove(record)
    }

    fn prove(&mut self, record: &Record) -> Proof {
        match verify_record(record) {
            Ok(()) => Proof::Given,
            Err(fault) => {
                self.note_refuted(record.key, fault);
                self.changed.push(record.key);
                Proof::Refuted
            }
        }
    }

    /// The record of `key`, which was stored as [`Proof::Due`], is not verified.
    pub fn mark_unverified(&self, key: &Key) {
        if let Some(held) = self.records.find(key).filter(|held| !held.is_unverified()) {
            held.heard.set(held.heard.get() | UNVERIFIED);
            self.unverified.left.update(|left| left + 1);
        }
    }

    /// Stores an unverified record whose life has ended, until the sweep verifies it and replaces it by its tombstone.
    /// Does nothing if it would leave none. If there is no room, it is verified now.
    pub(super) fn store_ended(&mut self, now: Now, record: Record, source: Source) {
        let tombstone = Tombstone::of_ended(&record, now.wall);
        if tombstone.is_empty() || tombstone.lapses() <= now.wall {
            return;
        }
        let bytes = bytes_of(&record);
        if self.bytes_of_records() + bytes + self.quotas.cost_of(source) > self.bytes_max {
            if self.prove(&record) == Proof::Given {
                self.bury(now, record.key, tombstone);
            }
            return;
        }
        let quota = self.quotas.add(source, bytes);
        let (expires, due, heard) = (now.mono, Tick::of(now.mono), Cell::new(UNVERIFIED));
        self.records.insert(Held { record, expires, quota, due, place: Place::default(), heard });
        self.unverified.left.update(|left| left + 1);
        self.trim();
    }
}

/// Reading.
impl Storage {
    /// The same as [`Storage::find`], but the record may be unverified: only for planning what happens to it.
    pub fn find_unverified(&self, now: Time, key: &Key) -> Option<&Held> {
        let held = self.records.find(key).filter(|held| now < held.expires && !self.is_hidden(&held.record))?;
        (!held.is_refuted()).then_some(held)
    }

    /// The result of [`Storage::state`] for a record that is unverified or has ended, with the tombstone `swept` of its
    /// key.
    #[cold] // most records that a GET finds are verified and alive
    #[inline(never)]
    pub(super) fn state_of_rare<'a>(
        &self,
        now: Now,
        held: &'a Held,
        swept: Option<Tombstone>,
    ) -> (Option<&'a Held>, Option<Tombstone>) {
        if !self.is_proven(held) {
            return (None, swept);
        }
        if now.mono < held.expires {
            return (Some(held), swept);
        }
        let both = swept.unwrap_or_default().and(held.tombstone(now.wall));
        (None, Some(both).filter(|both| !both.is_empty()))
    }

    /// What is to be on disk of `key`: the same as [`Storage::state`] without old tombstones, but an unverified record
    /// stays as it is, even if its life has ended.
    pub fn state_on_disk(&self, now: Now, key: &Key) -> (Option<&Held>, Option<Tombstone>) {
        let young = self.tombstones.find_young(now.mono, key);
        match self.records.find(key) {
            Some(held) if held.is_unverified() && !held.is_refuted() => (Some(held), young),
            Some(rare) if rare.expires <= now.mono || rare.is_unverified() => self.state_of_rare(now, rare, young),
            held => (held, young),
        }
    }

    /// The live records of a range of keys, in the order of their keys.
    pub fn range(&self, now: Time, keys: RangeInclusive<Key>) -> impl Iterator<Item = &Held> {
        self.range_unverified(now, keys).filter(|held| self.is_proven(held))
    }

    /// The first `max` live records of a range of keys, in the order of their keys. At most `proofs` records are
    /// verified: if that is not enough, the list ends before the returned key.
    pub fn page(
        &self,
        now: Time,
        keys: RangeInclusive<Key>,
        max: usize,
        mut proofs: usize,
    ) -> (Vec<&Held>, Option<Key>) {
        let mut page = Vec::new();
        for held in self.range_unverified(now, keys) {
            if page.len() == max {
                break;
            }
            if held.is_unverified() && !held.is_refuted() {
                if proofs == 0 {
                    return (page, Some(held.record.key));
                }
                proofs -= 1;
            }
            if self.is_proven(held) {
                page.push(held);
            }
        }
        (page, None)
    }

    /// The same as [`Storage::range`], but the records may be unverified: only for planning what happens to them.
    pub fn range_unverified(&self, now: Time, keys: RangeInclusive<Key>) -> impl Iterator<Item = &Held> {
        let (first, last) = keys.into_inner();
        let range = self.records.range_from(first).take_while(move |held| held.record.key <= last);
        range.filter(move |held| now < held.expires && !self.is_hidden(&held.record))
    }
}
