//! What is to survive a restart, on its way to the host's disk.
//!
//! A key whose state changed is *unsaved* until a batch with that state is on disk. Only one batch
//! is under way at a time, so that what changes meanwhile is gathered, and a later state of a key
//! takes the place of an earlier one. Under `durability = always` the next batch leaves at once,
//! and whoever brought a record is told that it is held when its batch is on disk; otherwise a
//! batch leaves so long after the first change, and nobody waits.
//!
//! While the disk fails, new records of peers are refused, nothing that is not on disk counts as
//! held here, and what is unsaved waits; reads go on. Under `durability = none` only contacts are
//! saved, and nobody minds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::contact::Contact;
use crate::id::{Key, RpcId};
use crate::limits::{
    CONTACTS_PERSISTED_MAX, CONTACTS_SAVE_PAUSE, DISK_WAITERS_MAX, SAVE_BYTES_MAX, SAVE_KEYS_MAX, SAVE_RETRY_PAUSE,
    UNSAVED_MAX,
};
use crate::node::Node;
use crate::node::action::{Actions, ConnId};
use crate::node::params::Durability;
use crate::node::persisted::{Batch, PersistedKey, PersistedRecord, Saved};
use crate::node::purpose::QueryId;
use crate::node::timers::Timer;
use crate::record::envelope::{self, Unverified};
use crate::record::{Rank, age_at};
use crate::time::Now;
use crate::wire::peer::{ErrorCode, PeerMessage, Reply, StoreOutcome};

/// Who waits for a record to be on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiter {
    /// A peer that sent a STORE, and what it is told.
    Copy(ConnId, RpcId, Rank),
    /// A PUT of this node, in its spreading of that number.
    Own(QueryId, u32),
}

/// Whether a record counts as held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDisk {
    /// It does.
    Now,
    /// It will, once it is on disk: whoever waits is told.
    Later,
}

/// What is not on disk yet.
#[derive(Debug, Default)]
pub(crate) struct Saving {
    /// Keys whose state has changed since it was last sent to disk.
    unsaved: BTreeSet<Key>,
    /// Who waits for one of them.
    waiting: BTreeMap<Key, Vec<Waiter>>,
    /// How many wait, for a key or for the batch under way.
    waiters: usize,
    in_flight: Option<InFlight>,
    /// Whether the last batch could not be written.
    failing: bool,
    /// How often the table had changed when the contacts were last sent to disk.
    contacts: u64,
}

#[derive(Debug)]
struct InFlight {
    /// In their order.
    keys: Vec<Key>,
    waiting: Vec<(Key, Waiter)>,
    /// Whether keys were left behind for want of room.
    is_full: bool,
}

impl Saving {
    /// Whether there is no room for more that is unsaved, or for more who wait.
    pub(crate) fn is_full(&self) -> bool {
        self.unsaved.len() >= UNSAVED_MAX || self.waiters >= DISK_WAITERS_MAX
    }

    /// Whether the disk takes nothing.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Whether all is on disk.
    pub(crate) fn is_done(&self) -> bool {
        self.unsaved.is_empty() && self.in_flight.is_none()
    }
}

/// Saving.
impl Node {
    /// Whether whoever brings a record is told that it is held only when it is on disk: under
    /// `always`, and in any case while the disk fails.
    pub(crate) fn saves_first(&self) -> bool {
        self.params.durability == Durability::Always || self.saving.failing
    }

    /// Whether `waiter`, who brought the record of `key` as it is held now, may be told so at once;
    /// if not, it is told when the record is on disk. What was there already costs the disk nothing.
    pub(crate) fn wait_for_disk(&mut self, now: Now, key: Key, waiter: Waiter) -> OnDisk {
        if !self.saves_first() {
            return OnDisk::Now;
        }
        self.note_changes(now);
        let saving = &mut self.saving;
        if saving.unsaved.contains(&key) {
            saving.waiting.entry(key).or_default().push(waiter);
        } else if let Some(batch) = &mut saving.in_flight
            && batch.keys.binary_search(&key).is_ok()
        {
            batch.waiting.push((key, waiter));
        } else {
            return OnDisk::Now;
        }
        saving.waiters += 1;
        OnDisk::Later
    }

    /// Takes note of what changed in this call: it is to be saved in time.
    pub(crate) fn note_changes(&mut self, now: Now) {
        if self.storage.has_changed() {
            self.note_changes_but(now, None);
        }
    }

    /// The same; the state of the key `on_disk` is there already.
    fn note_changes_but(&mut self, now: Now, on_disk: Option<Key>) {
        let pause = self.save_pause();
        let changed = self.storage.take_changed();
        if self.params.durability == Durability::None {
            return;
        }
        self.saving.unsaved.extend(changed.filter(|key| Some(*key) != on_disk));
        if !self.saving.unsaved.is_empty() && self.saving.in_flight.is_none() && !self.saving.failing {
            self.timers.hasten(Timer::Save, now.mono + pause);
        }
    }

    /// From a change to the batch that saves it; who leaves does not wait.
    fn save_pause(&self) -> Duration {
        match self.params.durability {
            Durability::Interval(pause) if !self.status.is_leaving() => pause,
            Durability::Always | Durability::Interval(_) | Durability::None => Duration::ZERO,
        }
    }

    /// The table may have changed: contacts are saved now and then.
    pub(crate) fn note_contacts(&mut self, now: Now) {
        if self.saving.contacts != self.table.changes() {
            self.timers.hasten(Timer::Save, now.mono + CONTACTS_SAVE_PAUSE);
        }
    }

    /// Sends a batch to disk, if none is under way.
    pub(crate) fn save(&mut self, now: Now, out: &mut Actions) {
        self.timers.cancel(Timer::Save);
        if self.saving.in_flight.is_some() {
            return;
        }
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.keys.len() < SAVE_KEYS_MAX && bytes < SAVE_BYTES_MAX {
            let Some(key) = self.saving.unsaved.pop_first() else { break };
            let persisted = self.persisted(now, key);
            bytes += persisted.record.as_ref().map_or(0, |persisted| persisted.record.value.len());
            batch.keys.push(persisted);
        }
        if self.saving.contacts != self.table.changes() {
            self.saving.contacts = self.table.changes();
            let known = self.table.iter().chain(self.table.unresponsive());
            batch.contacts = Some(known.take(CONTACTS_PERSISTED_MAX).copied().collect());
        }
        if batch == Batch::default() {
            return;
        }
        let keys: Vec<Key> = batch.keys.iter().map(|persisted| persisted.key).collect();
        let waiting = keys.iter().flat_map(|key| {
            let waiters = self.saving.waiting.remove(key).unwrap_or_default();
            waiters.into_iter().map(|waiter| (*key, waiter))
        });
        let waiting = waiting.collect();
        let is_full = !self.saving.unsaved.is_empty();
        self.saving.in_flight = Some(InFlight { keys, waiting, is_full });
        out.save(batch);
    }

    /// The state of `key`, as it is kept.
    fn persisted(&self, now: Now, key: Key) -> PersistedKey {
        let record = self.storage.find(now.mono, &key).map(|held| PersistedRecord {
            record: held.record.clone(),
            age: age_at(now.mono, held.record.ttl, held.expires),
            saved: now.wall,
            source: held.source(),
        });
        PersistedKey { key, record, tombstone: self.storage.tombstone(now.mono, &key) }
    }

    /// The batch in flight is on disk, or could not be written.
    pub fn on_saved(&mut self, now: Now, saved: Saved, out: &mut Actions) {
        let Some(batch) = self.saving.in_flight.take() else { return };
        self.saving.failing = saved == Saved::Failed && self.params.durability != Durability::None;
        match saved {
            Saved::Durable => {
                if !self.saving.unsaved.is_empty() {
                    let pause = if batch.is_full { Duration::ZERO } else { self.save_pause() };
                    self.timers.hasten(Timer::Save, now.mono + pause);
                }
            }
            Saved::Failed => {
                self.saving.unsaved.extend(batch.keys);
                self.saving.contacts = 0;
                self.timers.hasten(Timer::Save, now.mono + SAVE_RETRY_PAUSE);
            }
        }
        self.saving.waiters -= batch.waiting.len();
        for (key, waiter) in batch.waiting {
            self.tell_waiter(now, key, waiter, saved, out);
        }
        self.finish(now, out);
    }

    fn tell_waiter(&mut self, now: Now, key: Key, waiter: Waiter, saved: Saved, out: &mut Actions) {
        match (waiter, saved) {
            (Waiter::Copy(conn, rpc, held), saved) => {
                let reply = match saved {
                    Saved::Durable => Reply::Stored { key, outcome: StoreOutcome::Held, held },
                    Saved::Failed => Reply::Error(ErrorCode::FULL),
                };
                out.send(conn, &PeerMessage::Reply(rpc, reply), None);
            }
            (Waiter::Own(query, attempt), saved) => self.own_copy_written(now, query, attempt, saved, out),
        }
    }
}

/// Restoring.
impl Node {
    /// Takes back what an earlier run has persisted of a key, before anything else happens. A record
    /// whose life ended while this node was switched off leaves its tombstone.
    ///
    /// What is stored again as it was persisted is not written a second time: the disk would be busy
    /// for minutes after the start of a large store.
    ///
    /// # Errors
    ///
    /// [`Unverified`] if the record does not prove what its class claims; then nothing is taken.
    pub fn restore(&mut self, now: Now, persisted: PersistedKey) -> Result<(), Unverified> {
        if let Some(PersistedRecord { record, age, saved, source }) = &persisted.record {
            envelope::verify(&record.key, record.class, record.version, record.ttl, &record.value)?;
            self.storage.restore(now, record.clone(), *age, *saved, *source);
            self.plan_offer(now, &persisted.key);
        }
        if let Some(tombstone) = persisted.tombstone {
            self.storage.bury(now, persisted.key, tombstone);
        }
        let held = self.persisted(now, persisted.key);
        let what = |persisted: PersistedKey| {
            (persisted.record.map(|persisted| (persisted.record, persisted.source)), persisted.tombstone)
        };
        let key = persisted.key;
        let same = what(held) == what(persisted);
        self.note_changes_but(now, same.then_some(key));
        Ok(())
    }

    /// Takes back a contact of an earlier run: it is dialled beside the bootstraps.
    pub fn remember(&mut self, now: Now, contact: Contact) {
        if contact.id != self.me.id && self.join.remembered.len() < CONTACTS_PERSISTED_MAX {
            self.join.remembered.push(contact);
            self.begin_to_join(now);
        }
    }
}
