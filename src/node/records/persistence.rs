//! Persistence: which records and contacts survive a restart, and when the host writes them to disk.
//!
//! A key whose state has changed is *unsaved* until a batch with that state is on disk. At most one batch is
//! in flight; changes meanwhile are collected, and a later state of a key replaces an earlier one.
//!
//! * `durability = always`: the next batch leaves at once. The source of a record gets its confirmation when
//!   the batch is on disk, if the batch wrote that record or a larger one.
//! * `durability = interval`: a batch leaves one interval after the first change, and no source waits for
//!   it. A crash loses at most that interval and the batch in flight.
//! * `durability = none`: only contacts are saved, and failures of the disk have no effect on records.
//!
//! While the disk fails, this node refuses new records of peers, confirms nothing that is not on disk, and
//! keeps the unsaved keys for the next attempt; it answers reads as before.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contact::Contact;
use crate::id::Key;
use crate::limits::SAVE_BYTES_MAX;
use crate::node::Node;
use crate::node::action::{Actions, Caller};
use crate::node::params::Durability;
use crate::node::persisted::{Batch, PersistedKey, PersistedRecord, Saved, SavedAt};
use crate::node::purpose::Attempt;
use crate::node::timers::Timer;
use crate::record::envelope::{self, Unverified};
use crate::record::{Precedence, Rank, age_at};
use crate::time::{BootTime, Now, Time};
use crate::wire::peer::{ErrorCode, Reply, StoreOutcome};

/// Replies to peers and PUTs of this node that wait for a record to be on disk. At the bound clients wait,
/// and peers get ERROR 429.
const DISK_WAITERS_MAX: usize = 1 << 14;

/// Keys whose state is not on disk. At the bound clients wait, and peers get ERROR 429.
const UNSAVED_MAX: usize = 1 << 18;

/// Keys in one batch for the disk: enough to share the cost of a commit, few enough that collecting them
/// does not delay a turn.
const SAVE_KEYS_MAX: usize = 4_096;

/// Pause before a disk that has failed is tried again.
const SAVE_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long after a change the contacts are written to disk. They change all the time, and most of them
/// stay the same for a minute.
const CONTACTS_SAVE_PAUSE: Duration = Duration::from_mins(1);

/// The same for the first change of a run. A node that is killed before would know none of its contacts at its
/// next start, and could found another network.
const FIRST_CONTACTS_SAVE_PAUSE: Duration = Duration::from_secs(1);

/// A request that waits for a record to be on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiter {
    /// The STORE of a peer, and the rank for its reply.
    Copy(Caller, Rank),
    /// A PUT of this node, in this attempt.
    Own(Attempt),
}

/// The changes that are not on disk yet.
#[derive(Debug, Default)]
pub(crate) struct Saving {
    /// Keys whose state has changed since it last left in a batch, and the waiters for each of them.
    unsaved: BTreeMap<Key, Vec<Waiter>>,
    /// How many waiters there are, those of the batch in flight included.
    waiters: usize,
    in_flight: Option<InFlight>,
    /// Whether the host could not write the last batch.
    pub(super) failing: bool,
    /// The number of changes of the table when the contacts last left in a batch.
    contacts: u64,
    /// Whether the node is leaving, and its contacts have not left in a batch since it began to.
    contacts_due: bool,
}

/// The batch that the host writes.
#[derive(Debug, Default)]
struct InFlight {
    /// Its keys, in ascending order, and what it writes for each: the precedence of the record, if there is one.
    keys: Vec<(Key, Option<Precedence>)>,
    waiting: Vec<(Key, Waiter)>,
    /// Whether it had no room for some unsaved keys.
    is_full: bool,
}

impl InFlight {
    fn contains(&self, key: &Key) -> bool {
        self.keys.binary_search_by_key(key, |(key, _)| *key).is_ok()
    }

    /// The precedence of the record that the batch writes for `key`, if it writes one.
    fn written(&self, key: &Key) -> Option<Precedence> {
        let nth = self.keys.binary_search_by_key(key, |(key, _)| *key).ok()?;
        self.keys[nth].1
    }
}

impl Saving {
    /// Whether there is no room for more unsaved keys, or for more waiters.
    pub(crate) fn is_full(&self) -> bool {
        self.unsaved.len() >= UNSAVED_MAX || self.waiters >= DISK_WAITERS_MAX
    }

    /// Whether the state of `key` is not on disk. A batch in flight counts as written, unless the disk fails.
    pub(crate) fn is_unsaved(&self, key: &Key) -> bool {
        let fails = |batch: &InFlight| self.failing && batch.contains(key);
        self.unsaved.contains_key(key) || self.in_flight.as_ref().is_some_and(fails)
    }

    /// Whether all changes are on disk.
    pub(crate) fn is_done(&self) -> bool {
        self.unsaved.is_empty() && self.in_flight.is_none() && !self.contacts_due
    }
}

/// Saving.
impl Node {
    /// Whether a record is confirmed only when it is on disk: under `always`, and while the disk fails.
    pub(crate) fn saves_first(&self) -> bool {
        self.params.durability == Durability::Always || self.saving.failing
    }

    /// Whether `waiter` waits until the record of `key`, which is stored now, is on disk: it gets its answer
    /// then. `false` if the record may be confirmed at once; one that is on disk already is not written again.
    pub(crate) fn waits_for_disk(&mut self, now: Now, key: Key, waiter: Waiter) -> bool {
        if !self.saves_first() {
            return false;
        }
        self.note_changes(now, None);
        let saving = &mut self.saving;
        if let Some(waiters) = saving.unsaved.get_mut(&key) {
            waiters.push(waiter);
        } else if let Some(batch) = &mut saving.in_flight
            && batch.contains(&key)
        {
            batch.waiting.push((key, waiter));
        } else {
            return false;
        }
        saving.waiters += 1;
        true
    }

    /// Collects the keys that have changed, and schedules the next batch. The state of the key `on_disk` is on
    /// disk already.
    pub(crate) fn note_changes(&mut self, now: Now, on_disk: Option<Key>) {
        let pause = self.save_pause();
        let changed = self.storage.take_changed();
        if self.params.durability == Durability::None {
            return;
        }
        for key in changed.filter(|key| Some(*key) != on_disk) {
            self.saving.unsaved.entry(key).or_default();
        }
        if !self.saving.unsaved.is_empty() && self.saving.in_flight.is_none() && !self.saving.failing {
            self.timers.hasten(Timer::Save, now.mono + pause);
        }
    }

    /// The pause from a change to the batch that saves it; a leaving node saves at once.
    fn save_pause(&self) -> Duration {
        match self.params.durability {
            Durability::Interval(pause) if !self.status.is_leaving() => pause,
            Durability::Always | Durability::Interval(_) | Durability::None => Duration::ZERO,
        }
    }

    /// If the table has changed, schedules a batch with its contacts.
    pub(crate) fn note_contacts(&mut self, now: Now) {
        if self.saving.contacts != self.table.changes() {
            self.plan_to_save_contacts(now);
        }
    }

    /// Not inlined: [`Node::finish`] is part of every GET, and this of few.
    #[cold]
    fn plan_to_save_contacts(&mut self, now: Now) {
        let pause = if self.saving.contacts == 0 { FIRST_CONTACTS_SAVE_PAUSE } else { CONTACTS_SAVE_PAUSE };
        self.timers.hasten(Timer::Save, now.mono + pause);
    }

    /// Saves what has changed before the node leaves, with its contacts of this moment.
    pub(crate) fn save_before_leaving(&mut self, now: Now, out: &mut Actions) {
        self.saving.contacts_due = true;
        self.save(now, out);
    }

    /// Hands a batch to the host, if none is in flight and there are changes.
    pub(crate) fn save(&mut self, now: Now, out: &mut Actions) {
        self.timers.cancel(Timer::Save);
        if self.saving.in_flight.is_some() {
            return;
        }
        let (mut batch, mut in_flight) = (Batch::default(), InFlight::default());
        let mut bytes = 0;
        while batch.keys.len() < SAVE_KEYS_MAX && bytes < SAVE_BYTES_MAX {
            let Some((key, waiters)) = self.saving.unsaved.pop_first() else { break };
            let persisted = self.persisted(now, key);
            bytes += persisted.record.as_ref().map_or(0, |persisted| persisted.record.value.len());
            in_flight.keys.push((key, persisted.record.as_ref().map(|persisted| persisted.record.rank().precedence())));
            in_flight.waiting.extend(waiters.into_iter().map(|waiter| (key, waiter)));
            batch.keys.push(persisted);
        }
        if self.saving.contacts != self.table.changes() {
            self.saving.contacts = self.table.changes();
            batch.contacts = self.address_book.to_persist(now.mono, &self.table);
        }
        self.saving.contacts_due = false;
        if batch != Batch::default() {
            in_flight.is_full = !self.saving.unsaved.is_empty();
            self.saving.in_flight = Some(in_flight);
            out.save(batch);
        }
    }

    /// The state of `key`, in the form for the disk.
    fn persisted(&self, now: Now, key: Key) -> PersistedKey {
        let saved = SavedAt { wall: now.wall, boot: self.since_boot(now) };
        let record = self.storage.find(now.mono, &key).map(|held| PersistedRecord {
            record: held.record.clone(),
            age: age_at(now.mono, held.record.ttl, held.expires),
            saved,
            source: held.source(),
        });
        let record = record.or_else(|| self.set_aside.persisted(now, &key, saved));
        PersistedKey { key, record, tombstone: self.storage.tombstone(now.mono, &key) }
    }

    /// The host has written the batch in flight, or could not.
    pub fn on_saved(&mut self, now: Now, saved: Saved, out: &mut Actions) {
        let Some(batch) = self.saving.in_flight.take() else { return };
        self.saving.failing = saved == Saved::Failed && self.params.durability != Durability::None;
        if saved == Saved::Failed {
            for (key, _) in &batch.keys {
                self.saving.unsaved.entry(*key).or_default();
            }
            self.saving.contacts = 0;
            self.timers.hasten(Timer::Save, now.mono + SAVE_RETRY_PAUSE);
        } else if !self.saving.unsaved.is_empty() || self.saving.contacts_due {
            let pause = if batch.is_full { Duration::ZERO } else { self.save_pause() };
            self.timers.hasten(Timer::Save, now.mono + pause);
        }
        self.saving.waiters -= batch.waiting.len();
        for (key, waiter) in &batch.waiting {
            let on_disk = batch.written(key).filter(|_| saved == Saved::Durable);
            self.answer_waiter(now, *key, *waiter, on_disk, saved, out);
        }
        self.finish(now, out);
    }

    /// The batch that `waiter` waited for has ended, and has written a record of precedence `on_disk`, or none. What
    /// is stored now is no proof: the record of the waiter may have been removed before the batch was made, and
    /// another one stored since.
    fn answer_waiter(
        &mut self,
        now: Now,
        key: Key,
        waiter: Waiter,
        on_disk: Option<Precedence>,
        saved: Saved,
        out: &mut Actions,
    ) {
        let (caller, held) = match waiter {
            Waiter::Own(attempt) => return self.own_copy_written(now, attempt, on_disk, out),
            Waiter::Copy(caller, held) => (caller, held),
        };
        let precedence = held.precedence();
        let stored = self.storage.find(now.mono, &key).map(|held| held.record.rank().precedence());
        let reply = if saved == Saved::Failed {
            Reply::Error(ErrorCode::FULL)
        } else if on_disk >= Some(precedence) && stored >= Some(precedence) {
            Reply::Stored { key, outcome: StoreOutcome::Held, held }
        } else {
            // Its life has ended meanwhile, perhaps before the batch was made.
            Reply::Error(ErrorCode::GONE)
        };
        out.reply_to(&caller, reply);
    }
}

/// Restoring.
impl Node {
    /// At [`Time::ZERO`], the clock that counts from the boot of the host showed `at_zero`. The host calls this
    /// before it restores anything, if it knows.
    pub fn booted(&mut self, at_zero: BootTime) {
        self.boot = Some(at_zero);
    }

    /// This moment since the boot of the host, if the host knows.
    pub(super) fn since_boot(&self, now: Now) -> Option<BootTime> {
        self.boot.map(|start| start.after(now.mono - Time::ZERO))
    }

    /// Restores the state of a key that an earlier run has persisted. The host calls this before any other
    /// event, and [`Node::restored`] after the last one. A record whose life certainly ended while the process
    /// was down becomes a tombstone; one whose age is uncertain is set aside.
    ///
    /// A key whose state is the same as on disk is not written again: a large store would keep the disk busy
    /// for minutes after the start.
    ///
    /// # Errors
    ///
    /// [`Unverified`] if the record does not prove what its class claims; then nothing is restored.
    pub fn restore(&mut self, now: Now, persisted: PersistedKey) -> Result<(), Unverified> {
        if let Some(persisted) = &persisted.record {
            let record = &persisted.record;
            envelope::verify(&record.key, record.class, record.version, record.ttl, &record.value)?;
            self.restore_record(now, persisted.clone());
            self.plan_offer(now, &record.key);
        }
        if let Some(tombstone) = persisted.tombstone {
            self.restore_tombstone(now, persisted.key, tombstone);
        }
        let key = persisted.key;
        let state = |persisted: PersistedKey| {
            (persisted.record.map(|persisted| (persisted.record, persisted.source)), persisted.tombstone)
        };
        let is_unchanged = state(self.persisted(now, key)) == state(persisted);
        self.note_changes(now, is_unchanged.then_some(key));
        Ok(())
    }

    /// Restores a contact of an earlier run: this node joins through it as through a bootstrap.
    pub fn remember(&mut self, now: Now, contact: Contact) {
        if contact.id != self.me.id && self.address_book.remember(contact) {
            self.begin_to_join(now);
        }
    }
}
