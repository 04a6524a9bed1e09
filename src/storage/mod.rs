//! The records and tombstones that this node stores, in bounded memory.
//!
//! Of the records of a key the largest is stored ([`Record::compare`]), so every order of arrival ends in
//! the same state. From the exact end of its life a record is not found any more, even if the sweep
//! ([`Storage::sweep`]) comes later. It leaves a [`Tombstone`], and no record that is not newer is accepted
//! (`PROTOCOL.md` 3).
//!
//! A record whose version is too old by the wall clock ([`Version::is_too_old`]) although its life has not ended is
//! *hidden*: it is not found, and it leaves no tombstone. Some clock is wrong; if it is this one, and is put right,
//! the record is found again. A hidden record gives way to every other one.
//!
//! The sweep looks at a record up to a quarter of a second after it is due (`schedule`).
//!
//! The bound counts all memory of records and tombstones, not only the values. A record that needs more
//! room than is left replaces, in this order:
//!
//! 1. records whose life has ended, and tombstones, the oldest first, to the minute;
//! 2. records out of scope that no client of this node has stored, the farthest from this node first. A
//!    record that is itself out of scope, and comes from a peer, replaces only farther ones.
//!
//! If that is not enough, the record is refused ([`Stored::Full`]). Tombstones take at most 1/`TOMBSTONE_PART` of the
//! bound; beyond that the oldest give way too. Each one that gives way is counted ([`Storage::tombstones_dropped`]).
//! That a storage has no tombstone of a version is therefore no proof that the node never saw it. After an hour only a
//! fingerprint of the key is kept ([`Storage::turn_old`]), in less than half of the memory.
//!
//! A *stranger* is a peer with a quota ([`Source::Stranger`]). While more than `CROWDED_PERCENT` of the
//! bound is used, the records of one stranger, and those of one address group, may take no more than
//! 1/`QUOTAS` of it. A record is charged to the first peer that stored it. Storing it again neither charges
//! nor transfers it, unless the new source has no quota. So no peer can use up the quota of another, or
//! use its own quota to block a record that another peer brings.
//!
//! [`Storage::take_changed`] names every key whose state has changed, for a copy of the state on disk.
//!
//! The caller decides whether a record is in scope, whether it proves what it claims, whether its version
//! is too far ahead, and which other nodes shall store it. Records of an earlier run are verified here (`unverified`).

mod held;
mod index;
mod loading;
mod quota;
mod room;
mod schedule;
mod slots;
mod sorted;
mod tombstones;
mod trie;
mod unverified;

use std::cell::Cell;
use std::cmp::Ordering;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::id::{KEY_SIZE, Key, KeySeed, NodeId};
use crate::record::fingerprint::{Epoch, FingerprintKey, OldTombstone};
use crate::record::{Class, Rank, Record, Source, Tombstone, Ttl, Version};
use crate::time::{Now, Time, WallTime};

use held::{AGE_UNCERTAIN, LASTING, PEER_BITS, SHOWN};
use index::IndexedRecords;
use quota::{Quota, Quotas};
use schedule::{Place, Tick};
use slots::Slot;
use tombstones::{Removed, Tombstones};
use unverified::{LOOKS_PER_PROOF, Unverified};

pub use held::Held;
pub use index::RECORD_OVERHEAD;
pub use loading::WithoutRoom;
pub use quota::QUOTA_BYTES;
pub use tombstones::{OLD_TOMBSTONE_BYTES, TOMBSTONE_BYTES, TurnedOld};
pub use unverified::{Proof, Refuted};

const _: () = {
    assert!(100 + RECORD_OVERHEAD <= 300, "a million records of 100 bytes shall fit 300 MB");
    assert!(TOMBSTONE_BYTES <= RECORD_OVERHEAD, "a record that ends leaves room for its tombstone");
};

/// A bounded set of records and tombstones.
#[derive(Debug)]
pub struct Storage {
    me: Key,
    records: IndexedRecords,
    tombstones: Tombstones,
    quotas: Quotas,
    bytes_max: usize,
    changed: Vec<Key>,
    /// By the wall clock no plain or signed record of an older version can be alive.
    oldest: Version,
    /// Tombstones that gave way before they lapsed.
    tombstones_dropped: u64,
    unverified: Unverified,
    without_room: WithoutRoom,
}

fn bytes_of(record: &Record) -> usize {
    RECORD_OVERHEAD + record.value.len()
}

/// The outcome of [`Storage::store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Exactly this record is stored now, new or as before.
    Held,
    /// Nothing has changed: a larger record is stored, with this rank.
    Larger(Rank),
    /// Nothing has changed: the life of the record has ended, or a tombstone beats it.
    Over,
    /// Nothing has changed: no room can be made for the record, or its source has used up its quota.
    Full,
}

/// What is known about a record before it is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// This would be the outcome of storing it, whatever it proves.
    Settled(Stored),
    /// It needs no verification: it is plain, or exactly this record is stored and was verified before.
    Proven,
    /// It has to be verified.
    Unproven,
}

/// Methods that change the storage.
impl Storage {
    /// An empty storage of the node `me`. Records and tombstones may take `bytes_max` bytes in all, with
    /// [`RECORD_OVERHEAD`], [`TOMBSTONE_BYTES`] or [`OLD_TOMBSTONE_BYTES`] and, for each stranger, [`QUOTA_BYTES`].
    /// `seed` keys the hash tables.
    pub fn new(me: NodeId, bytes_max: usize, seed: KeySeed) -> Self {
        Self {
            me: *me.key(),
            records: IndexedRecords::new(seed),
            tombstones: Tombstones::default(),
            quotas: Quotas::default(),
            bytes_max,
            changed: Vec::new(),
            oldest: Version::from_bits(0),
            tombstones_dropped: 0,
            unverified: Unverified::default(),
            without_room: WithoutRoom::default(),
        }
    }

    /// The wall clock shows `wall`: from now on this decides which records are hidden. The caller sets it whenever time
    /// has passed, once for all calls of a moment.
    pub fn set_wall(&mut self, wall: WallTime) {
        self.oldest = Version::oldest(wall);
    }

    /// Whether a record with this key, rank, TTL and value has to be verified: a replay of a known record
    /// costs no signature check. Changes nothing.
    pub fn judge(&self, now: Now, key: &Key, rank: Rank, ttl: Ttl, value: &[u8]) -> Judgement {
        if rank.class == Class::Plain {
            return Judgement::Proven;
        }
        if let Some(held) = self.find(now.mono, key) {
            match rank.compare(value, &held.record) {
                Ordering::Less => return Judgement::Settled(Stored::Larger(held.record.rank())),
                Ordering::Equal if held.record.class == rank.class && held.record.ttl == ttl => {
                    return Judgement::Proven;
                }
                Ordering::Equal | Ordering::Greater => {}
            }
        }
        if self.is_over(now, key, rank) { Judgement::Settled(Stored::Over) } else { Judgement::Unproven }
    }

    /// Stores `record` until `expires`, unless a larger record is stored or a tombstone beats it. Of
    /// equal records the later end and the larger replication remain (`PROTOCOL.md` 3, Order).
    ///
    /// The record is due at `due`, rounded up to a quarter of a second, or at its end if that is earlier. If an equal
    /// record is stored, its due time stays, unless it was the end of its life and that end moves. `in_scope` says which records must
    /// not be evicted.
    pub fn store(
        &mut self,
        now: Now,
        record: Record,
        expires: Time,
        due: Time,
        source: Source,
        in_scope: impl Fn(&Record) -> bool,
    ) -> Stored {
        if expires <= now.mono || self.is_hidden(&record) {
            return Stored::Over;
        }
        let (key, rank) = (record.key, record.rank());
        let slot = self.live_slot(now, &key);
        let mut hidden = Tombstone::default();
        let mut may_be_over = true;
        if let Some(slot) = slot {
            let held = &self.records[slot].record;
            let larger = held.rank();
            match record.compare(held) {
                Ordering::Less => {
                    self.merge_tombstone(now, key, Tombstone::of_hidden(rank, larger));
                    return Stored::Larger(larger);
                }
                Ordering::Equal => {
                    self.prolong(slot, &record, expires, due, source);
                    return Stored::Held;
                }
                Ordering::Greater => hidden = Tombstone::of_hidden(larger, rank),
            }
            // No tombstone beats a stored record, and so none beats a larger one of its class.
            may_be_over = larger.class != rank.class;
        }
        // No record of this key has ended without its tombstone: `live_slot` has added it.
        let existing = if may_be_over { self.tombstones.find(now.mono, &key) } else { None };
        if existing.is_some_and(|existing| existing.beats(rank.precedence()).is_some()) {
            return Stored::Over;
        }
        if !self.make_room(now, &record, slot, source, in_scope) {
            return Stored::Full;
        }
        // Added before the old record is removed: so a peer that replaces its only record keeps its row and
        // its group.
        let quota = self.quotas.add(source, bytes_of(&record));
        let due = Tick::of(due.min(expires));
        let held = Held { record, expires, quota, due, place: Place::default(), heard: Cell::new(0) };
        match slot {
            Some(slot) => {
                let before = self.records.replace(slot, held);
                self.quotas.remove(before.quota, before.bytes());
                debug_assert!(!before.is_unverified(), "it was compared");
            }
            None => self.records.insert(held),
        }
        self.changed.push(key);
        self.trim();
        self.merge_tombstone(now, key, hidden);
        Stored::Held
    }

    /// Removes the records whose lives have not ended and that `which` selects, and returns them with their ends. They
    /// leave no tombstones, and their state on disk stays as it is.
    pub fn take_out(&mut self, now: Time, which: impl Fn(&Record) -> bool) -> Vec<(Record, Time, Source)> {
        let live = self.walk(None).filter(|held| now < held.expires && which(&held.record)); // hidden ones too
        let slots: Vec<Slot> = live.filter_map(|held| self.records.slot(&held.record.key)).collect();
        let mut taken = Vec::with_capacity(slots.len());
        for slot in slots {
            let held = self.detach(slot);
            let source = held.source();
            taken.push((held.record, held.expires, source));
        }
        taken
    }

    /// The same for old tombstones, of which only fingerprints are known.
    pub fn take_out_old_tombstones(&mut self, which: impl Fn(Tombstone) -> bool) -> Vec<OldTombstone> {
        self.tombstones.take_out_old(which)
    }

    /// The same for young ones.
    pub fn take_out_tombstones(&mut self, which: impl Fn(Tombstone) -> bool) -> Vec<(Key, Tombstone)> {
        self.tombstones.take_out(which)
    }

    /// Removes the record of `key` without a tombstone, if it has exactly this version.
    pub fn forget(&mut self, key: &Key, version: Version) {
        if let Some(slot) = self.records.slot(key).filter(|slot| self.records[*slot].record.version == version) {
            self.remove_without_tombstone(slot);
        }
    }

    /// All lives end earlier by `span`: so much time has passed that the monotonic clock has not counted.
    pub fn make_older(&mut self, now: Time, span: Duration) {
        let slots: Vec<Slot> = self.walk(None).filter_map(|held| self.records.slot(&held.record.key)).collect();
        for slot in slots {
            let held = self.records.amend(slot);
            held.expires = held.expires.earlier(span).max(now);
            let due = held.due();
            self.records.set_due(slot, due);
            self.changed.push(self.records[slot].record.key);
        }
    }

    /// The state of `key` on disk is out of date.
    pub fn note_change(&mut self, key: Key) {
        self.changed.push(key);
    }

    /// Adds the versions in `tombstone` to those of `key` that are over, if there is room, and removes a
    /// live record that it beats.
    pub fn bury(&mut self, now: Now, key: Key, tombstone: Tombstone) {
        let held = self.records.slot(&key).map(|slot| (slot, self.records[slot].record.rank()));
        match held.filter(|(_, held)| tombstone.beats(held.precedence()).is_some()) {
            Some((slot, beaten)) => self.remove_for(now, slot, tombstone.and(Tombstone::of(beaten))),
            None => self.merge_tombstone(now, key, tombstone),
        }
    }

    /// Turns the next tombstones old that are due, in a step of bounded work. Their keys have changed: on disk, packs of
    /// old tombstones take the place of their states.
    pub fn turn_old(&mut self, now: Now) -> TurnedOld {
        self.tombstones.turn_old(now.mono, &mut self.changed)
    }

    /// What keys the fingerprints of old tombstones.
    pub fn fingerprint_key(&self) -> FingerprintKey {
        self.tombstones.fingerprint_key()
    }

    /// Sets what keys the fingerprints of old tombstones.
    ///
    /// # Panics
    ///
    /// If there are old tombstones.
    pub fn set_fingerprint_key(&mut self, key: FingerprintKey) {
        self.tombstones.set_fingerprint_key(key);
    }

    /// Adds an old tombstone, if there is room and it is needed still. It does not remove a record that it beats.
    pub fn add_old_tombstone(&mut self, now: Now, old: OldTombstone) {
        self.tombstones.add_old(now, old);
        self.trim();
    }

    /// Replaces records whose life has ended by their tombstones, removes tombstones that are not needed
    /// any more, and returns the keys of records that are due. Looks at no more than `max` records and
    /// `max` tombstones; an unverified record is verified and counts as `LOOKS_PER_PROOF`.
    ///
    /// A record that is returned is not due again before its end, unless it is scheduled; the peers known
    /// to store it are remembered until then. A record whose due time has moved to a later moment is looked
    /// at once and not returned. The sweep looks at a record from the end of the quarter of a second in which it is due.
    /// That of a later due time ends after `now`, so no record is looked at twice.
    pub fn sweep(&mut self, now: Now, max: usize) -> Vec<Key> {
        for _ in 0..max {
            let Some(lapsed) = self.tombstones.take_lapsed(now.mono) else { break };
            self.note_removed(lapsed);
        }
        let mut due = Vec::new();
        let mut looks = max;
        while looks > 0 {
            let Some((_, slot)) = self.records.first_scheduled().filter(|(at, _)| *at <= now.mono) else { break };
            looks -= 1;
            if self.records[slot].is_unverified() {
                looks = looks.saturating_sub(LOOKS_PER_PROOF - 1);
            }
            if !self.prove_or_remove(slot) {
                continue;
            }
            let held = self.records.amend(slot);
            if held.expires <= now.mono {
                self.bury_ended(now, slot);
                continue;
            }
            if held.due() <= now.mono {
                held.due = Tick::of(held.expires);
                due.push(held.record.key);
            }
            self.records.reschedule(slot);
        }
        due
    }

    /// Makes the record of `key` due at `at`, rounded up to a quarter of a second, or at its end if that is earlier, and
    /// forgets which peers store it.
    pub fn schedule(&mut self, key: &Key, at: Time) {
        if let Some(slot) = self.records.slot(key) {
            self.records.set_due(slot, at);
            let heard = &self.records[slot].heard;
            heard.set(heard.get() & LASTING);
        }
    }

    /// Like [`Storage::schedule`], but only if the record would be due later, in another quarter of a second.
    pub fn hasten(&mut self, key: &Key, at: Time) {
        if self.records.find(key).is_some_and(|held| Tick::of(at) < held.due) {
            self.schedule(key, at);
        }
    }

    /// A newer version of `key` may exist: a GET has to ask other nodes again before it returns the record.
    pub fn doubt(&self, key: &Key) {
        if let Some(held) = self.records.find(key) {
            held.heard.set(held.heard.get() & !SHOWN);
        }
    }

    /// `peer` stores exactly the record of `key` that is stored here.
    pub fn heard(&self, key: &Key, peer: &NodeId) {
        if let Some(held) = self.records.find(key) {
            let [.., last] = peer.key().as_bytes();
            held.heard.set(held.heard.get() | 1 << (u32::from(*last) % PEER_BITS));
        }
    }

    /// Nothing confirms the age of the record of `key`: it leaves no tombstone when its life ends, unless its age is
    /// trusted or a copy of a later end comes before.
    pub fn doubt_age(&self, key: &Key) {
        if let Some(held) = self.records.find(key) {
            held.heard.set(held.heard.get() | AGE_UNCERTAIN);
        }
    }

    /// The age of the record of `key` is confirmed.
    pub fn trust_age(&self, key: &Key) {
        if let Some(held) = self.records.find(key) {
            held.heard.set(held.heard.get() & !AGE_UNCERTAIN);
        }
    }

    /// No other node is known to store any record.
    pub fn forget_replicas(&self) {
        for held in self.walk(None) {
            held.heard.set(held.heard.get() & (SHOWN | LASTING));
        }
    }

    /// Whether [`Storage::take_changed`] would add any key.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Forgets which keys have changed.
    pub fn forget_changed(&mut self) {
        self.changed.clear();
    }

    /// Adds the keys whose state has changed since the last call to `to`. A key may occur several times.
    pub fn take_changed(&mut self, to: &mut impl Extend<Key>) {
        to.extend(self.changed.drain(..));
    }
}

/// Methods that read the storage.
impl Storage {
    /// The record of `key`, if its life has not ended at `now`, and it is not hidden.
    #[inline] // a part of every GET
    pub fn find(&self, now: Time, key: &Key) -> Option<&Held> {
        let held = self.records.find(key).filter(|held| now < held.expires && !self.is_hidden(&held.record))?;
        if held.is_unverified() { self.proven(held) } else { Some(held) }
    }

    /// The same, hidden or not.
    pub fn find_hidden(&self, now: Time, key: &Key) -> Option<&Held> {
        self.records.find(key).filter(|held| now < held.expires && self.is_proven(held))
    }

    /// Whether the version of `record` is too old by the wall clock.
    pub fn is_hidden(&self, record: &Record) -> bool {
        record.version < self.oldest && record.class != Class::Hashed
    }

    /// Which versions of `key` are over, as far as this node knows. A key can have a tombstone and a live
    /// certified record.
    pub fn tombstone(&self, now: Now, key: &Key) -> Option<Tombstone> {
        self.known(now, key).1
    }

    /// Prefetches the records of `keys`, of at most [`BATCH_MAX`] of them, into the cache of the processor.
    /// Changes nothing.
    ///
    /// [`BATCH_MAX`]: crate::limits::BATCH_MAX
    pub fn prefetch<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.records.prefetch(keys);
    }

    /// Prefetches what the insertion of records of `keys` reads, for at most [`BATCH_MAX`] of them, if the first one is
    /// absent. Changes nothing.
    ///
    /// [`BATCH_MAX`]: crate::limits::BATCH_MAX
    pub fn prefetch_for_insertion<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.records.prefetch_for_insertion(keys);
    }

    /// The results of [`Storage::find`] and [`Storage::tombstone`].
    pub fn known(&self, now: Now, key: &Key) -> (Option<&Held>, Option<Tombstone>) {
        let (held, tombstone) = self.state(now, key);
        (held.filter(|held| !self.is_hidden(&held.record)), tombstone)
    }

    /// The results of [`Storage::find_hidden`] and [`Storage::tombstone`].
    pub fn state(&self, now: Now, key: &Key) -> (Option<&Held>, Option<Tombstone>) {
        let (young, old) = (self.tombstones.find_young(now.mono, key), self.tombstones.find_old(now.mono, key));
        let both = |old: Option<Tombstone>| young.into_iter().chain(old).reduce(Tombstone::and);
        match self.records.find(key) {
            Some(rare) if rare.expires <= now.mono || rare.is_unverified() => self.state_of_rare(now, rare, both(old)),
            // No tombstone beats a stored record. So one that does is that of another key with the same fingerprint.
            Some(held) => (Some(held), both(old.filter(|old| old.beats(held.record.rank().precedence()).is_none()))),
            None => (None, both(old)),
        }
    }

    /// When [`Storage::sweep`] is needed next; a past moment if it is late. It may be too early, if the due
    /// time of a record has moved to a later moment; a sweep corrects that. For a record it is the end of a quarter of a
    /// second.
    pub fn next_due(&self) -> Option<Time> {
        let record = self.records.first_scheduled().map(|(at, _)| at);
        Time::first_of([record, self.tombstones.next_lapse()])
    }

    /// The records in the order of their keys, behind `after` or from the first one. Records whose life has
    /// ended are included until they are swept, and so are hidden and unverified ones.
    pub fn walk(&self, after: Option<&Key>) -> impl Iterator<Item = &Held> {
        let first = after.map_or(Some(Key::new([0; KEY_SIZE])), Key::successor);
        first.into_iter().flat_map(|first| self.records.range_from(first))
    }

    /// Whether there is a young tombstone.
    pub fn has_young_tombstones(&self) -> bool {
        self.tombstones.has_young()
    }

    /// The epochs that have old tombstones.
    pub fn old_epochs(&self) -> impl Iterator<Item = Epoch> {
        self.tombstones.epochs()
    }

    /// The first `max` old tombstones behind one of them, or from the first one on.
    pub fn old_tombstones(&self, after: Option<OldTombstone>, max: usize) -> Vec<OldTombstone> {
        self.tombstones.old_behind(after, max)
    }

    /// The young tombstones of a range of keys, in the order of their keys, until they are swept.
    pub fn tombstones(&self, keys: RangeInclusive<Key>) -> impl Iterator<Item = (&Key, Tombstone)> {
        self.tombstones.range(keys)
    }

    /// The number of records, with those whose life has ended and that were not swept yet.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that records, tombstones and quotas take.
    pub fn bytes(&self) -> usize {
        self.bytes_of_records() + self.tombstones.bytes()
    }

    /// How many tombstones were removed before they lapsed, for want of room.
    pub fn tombstones_dropped(&self) -> u64 {
        self.tombstones_dropped
    }

    /// The largest possible value of [`Storage::bytes`].
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Checks that all indexes contain the same records, that the counted bytes are right, and that they
    /// are within the bound. Looks at every record: for the simulator and for tests.
    ///
    /// # Errors
    ///
    /// [`StorageFault`], the first one that is found.
    pub fn check_invariants(&self) -> Result<(), StorageFault> {
        self.records.check_invariants()?;
        self.tombstones.check_invariants()?;
        let unverified = self.walk(None).filter(|held| held.is_unverified()).count();
        check_number("unverified records", self.unverified(), unverified)?;
        self.quotas.check_invariants(self.walk(None).map(|held| (held.quota, held.bytes())))?;
        let tombstones_max = self.bytes_max / room::TOMBSTONE_PART;
        let excess = self.tombstones.bytes().saturating_sub(tombstones_max);
        check_number("bytes of tombstones above their bound", excess, 0)?;
        check_number("bytes above the bound", self.bytes().saturating_sub(self.bytes_max), 0)
    }
}

/// Private methods.
impl Storage {
    fn is_over(&self, now: Now, key: &Key, rank: Rank) -> bool {
        self.tombstone(now, key).is_some_and(|tombstone| tombstone.beats(rank.precedence()).is_some())
    }

    fn bytes_of_records(&self) -> usize {
        self.records.bytes() + self.quotas.bytes()
    }

    /// The slot of the record of `key`, if it is found; otherwise the record is replaced by its tombstone, if it leaves
    /// one. It is verified first.
    #[inline] // a part of every PUT
    fn live_slot(&mut self, now: Now, key: &Key) -> Option<Slot> {
        let slot = self.records.slot(key)?;
        let held = &self.records[slot];
        if now.mono < held.expires && !self.is_hidden(&held.record) && !held.is_unverified() {
            return Some(slot);
        }
        self.live_slot_of_rare(now, slot)
    }

    /// Removes the record in `slot`, and remembers that the versions in `behind` are over.
    fn remove_for(&mut self, now: Now, slot: Slot, behind: Tombstone) {
        let key = self.remove_without_tombstone(slot);
        self.merge_tombstone(now, key, behind);
    }

    /// The state on disk of a tombstone that was removed is out of date. An old one stays in its pack.
    fn note_removed(&mut self, removed: Removed) {
        if let Removed::Young(key) = removed {
            self.changed.push(key);
        }
    }

    fn remove_without_tombstone(&mut self, slot: Slot) -> Key {
        let key = self.detach(slot).record.key;
        self.changed.push(key);
        key
    }

    /// Removes the record in `slot`, as if its key had not changed.
    fn detach(&mut self, slot: Slot) -> Held {
        let held = self.records.remove(slot);
        self.quotas.remove(held.quota, held.bytes());
        self.forget_unverified(&held);
        held
    }

    /// Replaces the record in `slot`, whose life has ended or which is hidden, by its tombstone, if it leaves one.
    fn bury_ended(&mut self, now: Now, slot: Slot) {
        let tombstone = self.records[slot].tombstone(now.wall);
        self.remove_for(now, slot, tombstone);
    }

    /// The record in `slot` was stored again. The later end and the larger replication remain, the due time
    /// stays, and the record moves to the new source only if that has no quota.
    fn prolong(&mut self, slot: Slot, again: &Record, expires: Time, due: Time, source: Source) {
        let held = &self.records[slot];
        let replication = held.record.replication.max(again.replication);
        let quota = match source {
            Source::Client => Quota::CLIENT,
            Source::Peer if held.quota != Quota::CLIENT => Quota::PEER,
            Source::Peer | Source::Stranger(..) => held.quota,
        };
        // Most records that are stored again bring nothing new and need not be written to disk.
        if expires <= held.expires && (replication, quota) == (held.record.replication, held.quota) {
            return;
        }
        self.changed.push(held.record.key);
        if held.quota != quota {
            self.quotas.remove(held.quota, held.bytes());
        }
        let held = self.records.amend(slot);
        held.quota = quota;
        held.record.replication = replication;
        if expires > held.expires {
            let due = if held.due() < held.expires { held.due() } else { due };
            held.expires = expires;
            held.heard.set(held.heard.get() & !AGE_UNCERTAIN);
            held.record.ttl = again.ttl;
            self.records.set_due(slot, due);
        }
    }

    /// Adds `tombstone` to that of `key`, unless it is not needed any more.
    #[inline] // a part of every PUT, which mostly adds none
    fn merge_tombstone(&mut self, now: Now, key: Key, tombstone: Tombstone) {
        if !tombstone.is_empty() {
            self.add_tombstone(now, key, tombstone);
        }
    }

    #[inline(never)]
    fn add_tombstone(&mut self, now: Now, key: Key, tombstone: Tombstone) {
        if self.tombstones.add(now, key, tombstone) {
            self.changed.push(key);
            self.trim();
        }
    }
}

/// A broken invariant that [`Storage::check_invariants`] has found: a wrong number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageFault {
    what: &'static str,
    found: usize,
    expected: usize,
}

/// Checks that `found`, the number of `what`, is `expected`.
fn check_number(what: &'static str, found: usize, expected: usize) -> Result<(), StorageFault> {
    if found == expected { Ok(()) } else { Err(StorageFault { what, found, expected }) }
}

impl fmt::Display for StorageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, found, expected } = self;
        write!(f, "found {found} {what}, expected {expected}")
    }
}

impl std::error::Error for StorageFault {}

#[cfg(test)]
mod tests;
