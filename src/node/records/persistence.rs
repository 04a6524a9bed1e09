//! Persistence: which records and contacts survive a restart, and when the host writes them to disk.
//!
//! A key whose state has changed is *unsaved* until a batch with that state is written. At most one batch is
//! in flight; changes meanwhile are collected, and a later state of a key replaces an earlier one.
//!
//! * `durability = always`: the next batch leaves at once. The source of a record gets its confirmation when
//!   the batch is on disk, if the batch wrote that record or a larger one.
//! * `durability = interval`: the source gets its confirmation when the system has the batch, so a crash of the
//!   process loses nothing that was confirmed. The next batch leaves at once if a source waits for it, or if it is
//!   full. The disk is synced every half interval, so a power failure loses the changes of the last interval at most,
//!   as long as the disk keeps up. Half a second after a change at the latest, the host looks for its files.
//! * `durability = none`: only contacts are saved, and failures of the disk have no effect on records.
//!
//! A batch that was written and not synced is *unsynced*. If the disk fails, its keys are unsaved again.
//!
//! If the host says that nothing is on disk any more, all is written again. What is to be saved before it is confirmed
//! is confirmed when all of it is.
//!
//! While the disk fails, this node refuses new records of peers, confirms nothing that is not on disk, and
//! keeps the unsaved keys for the next attempt; it answers reads as before. The batches of these attempts are smaller,
//! for where there is no room for a large one. A disk that hangs blocks nobody: [`crate::node::records::hung_disk`].

use std::sync::Arc;
use std::time::Duration;

use crate::contact::Contact;
use crate::id::{Key, KeySeed};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::Durability;
use crate::node::persisted::{Batch, PersistedKey, PersistedRecord, Saved, SavedAt};
use crate::node::records::changes::{Changes, InFlight, Waiter};
use crate::node::records::packs::Packs;
use crate::node::timers::Timer;
use crate::record::{Age, Precedence, age_at};
use crate::time::{BootTime, Now, Time};
use crate::wire::peer::{ErrorCode, Reply, StoreOutcome};

/// Replies to peers and PUTs of this node that wait for a record to be on disk. At the bound clients wait,
/// and peers get ERROR 429.
const DISK_WAITERS_MAX: usize = 1 << 14;

/// Keys whose state is not written: 16 full batches, which take some 5 MB. At the bound clients wait, and peers get
/// ERROR 429. If the disk fails or hangs then, nobody waits: there is no room for new records.
const UNSAVED_MAX: usize = 1 << 16;

/// Unsynced keys, after which a batch is synced before its interval has passed. They take 32 bytes each.
const UNSYNCED_MAX: usize = 1 << 16;

/// How long after a change the host makes sure that its files have not been replaced: an operator may expect that a
/// node notices it within a second.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Pause before a disk that has failed is tried again.
const SAVE_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long after a change the contacts are written to disk. They change all the time, and most of them
/// stay the same for a minute.
const CONTACTS_SAVE_PAUSE: Duration = Duration::from_mins(1);

/// The same for the first change of a run. A node that is killed before would know none of its contacts at its
/// next start, and could found another network.
const FIRST_CONTACTS_SAVE_PAUSE: Duration = Duration::from_secs(1);

/// What the host says about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// It has written the last batch, and those that wait for it hope for the next one.
    Works,
    /// Those that wait for it have waited for too long ([`crate::node::records::hung_disk`]).
    Hangs,
    /// The host could not write the last batch.
    Fails,
}

/// When a record is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDisk {
    /// It is there already.
    Now,
    /// Its waiter gets an answer.
    Soon,
    /// Nobody knows: the disk hangs.
    Late,
}

/// The changes that are not on disk yet.
#[derive(Debug)]
pub(crate) struct Saving {
    /// Unsaved keys.
    pub(super) changes: Changes,
    /// How many waiters there are, those of the batch in flight included.
    pub(super) waiters: usize,
    pub(super) in_flight: Option<InFlight>,
    /// Keys that the system has, and that are not known to be on disk. A key may occur several times.
    unsynced: Vec<Key>,
    /// When the next batch that is synced leaves, if there are changes for it.
    sync_due: Option<Time>,
    /// When the next batch with [`Batch::look`] leaves, if something has changed since the last one.
    look_due: Option<Time>,
    /// Whether the disk had lost all, and not all of it is written again.
    pub(super) is_writing_again: bool,
    /// Waiters whose record was written, and what was. They wait until all is written again.
    pub(super) held_back: Vec<(Key, Waiter, Option<Precedence>)>,
    /// Packs of old tombstones.
    pub(super) packs: Packs,
    pub(super) disk: Disk,
    /// The number of changes of the table when the contacts last left in a batch.
    contacts: u64,
    /// Whether the node is leaving, and its contacts have not left in a batch since it began to.
    contacts_due: bool,
    /// Room for the keys that the storage names.
    named: Vec<Key>,
}

impl Saving {
    pub(crate) fn new(seed: KeySeed) -> Self {
        Self {
            changes: Changes::new(seed),
            waiters: 0,
            in_flight: None,
            unsynced: Vec::new(),
            sync_due: None,
            look_due: None,
            is_writing_again: false,
            held_back: Vec::new(),
            packs: Packs::default(),
            disk: Disk::Works,
            contacts: 0,
            contacts_due: false,
            named: Vec::new(),
        }
    }

    /// Whether there is no room for more unsaved keys, or for more waiters.
    pub(crate) fn is_full(&self) -> bool {
        self.changes.len() >= UNSAVED_MAX || self.waiters >= DISK_WAITERS_MAX
    }

    /// Whether there will soon be room again, so that clients wait for it.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_full() && self.disk == Disk::Works
    }

    /// Whether there is no room, and nobody knows when there will be: new records are not even kept in memory.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_full() && self.disk != Disk::Works
    }

    /// Whether the state of `key` is not written. A batch in flight counts as written, unless the disk fails.
    pub(crate) fn is_unsaved(&self, key: &Key) -> bool {
        let fails = |batch: &InFlight| self.disk == Disk::Fails && batch.contains(key);
        self.changes.contains(key) || self.in_flight.as_ref().is_some_and(fails)
    }

    /// Whether all changes are on disk.
    pub(crate) fn is_done(&self) -> bool {
        let is_saved = self.changes.is_empty() && self.in_flight.is_none() && self.unsynced.is_empty();
        is_saved && self.packs.is_done() && !self.contacts_due
    }

    /// Whether a waiter waits for a key that is unsaved.
    fn is_awaited(&self) -> bool {
        self.waiters > self.in_flight.as_ref().map_or(0, |batch| batch.waiting.len())
    }
}

/// Saving.
impl Node {
    /// Keys whose state has changed since it last left in a batch.
    pub fn unsaved(&self) -> usize {
        self.saving.changes.len()
    }

    /// Whether a record is confirmed only when it is saved. `is_told` says whether a client or
    /// another node gets a confirmation.
    pub(crate) fn saves_first(&self, is_told: bool) -> bool {
        match self.params.durability {
            Durability::Always => true,
            Durability::Interval(_) => is_told || self.saving.disk == Disk::Fails,
            Durability::None => false,
        }
    }

    /// Makes `waiter` wait until the record of `key`, which is stored now, is saved: it gets its answer then. Does nothing
    /// if the record is saved already: such a record is not written again.
    pub(crate) fn save_first(&mut self, now: Now, key: Key, waiter: Waiter) -> OnDisk {
        self.note_changes(now, None);
        let saving = &mut self.saving;
        if saving.disk == Disk::Hangs {
            let is_in_flight = saving.in_flight.as_ref().is_some_and(|batch| batch.contains(&key));
            return if is_in_flight || saving.changes.contains(&key) { OnDisk::Late } else { OnDisk::Now };
        }
        if !saving.changes.wait(key, waiter) {
            let Some(batch) = saving.in_flight.as_mut().filter(|batch| batch.contains(&key)) else {
                return OnDisk::Now;
            };
            batch.waiting.push((key, waiter));
        }
        saving.waiters += 1;
        self.watch_disk(now);
        self.plan_to_save(now);
        OnDisk::Soon
    }

    /// Collects the keys that have changed, and schedules the next batch. The state of the key `on_disk` is on
    /// disk already.
    #[inline(never)] // [`Node::finish`] is part of every GET, and this of none
    pub(crate) fn note_changes(&mut self, now: Now, on_disk: Option<Key>) {
        if self.params.durability == Durability::None {
            return self.storage.forget_changed();
        }
        self.storage.take_changed(&mut self.saving.named);
        while let Some(key) = self.saving.named.pop() {
            if Some(key) == on_disk {
                continue;
            }
            if let Some(place) = self.saving.changes.place(key) {
                let state = self.persisted(now, key);
                self.saving.changes.set(place, state);
            }
        }
        self.plan_to_save(now);
    }

    /// Schedules the next batch, if there is something to save.
    pub(super) fn plan_to_save(&mut self, now: Now) {
        let saving = &mut self.saving;
        if saving.in_flight.is_some() || saving.disk == Disk::Fails || saving.is_done() {
            return;
        }
        let at = match self.params.durability {
            Durability::Interval(pause) if !self.status.is_leaving() => {
                // Half: what a full batch leaves behind has to be on disk within the interval too.
                let due = *saving.sync_due.get_or_insert(now.mono + pause / 2);
                let due = due.min(*saving.look_due.get_or_insert(now.mono + LOOK_PAUSE));
                let is_full = saving.changes.is_full() || saving.unsynced.len() >= UNSYNCED_MAX;
                let is_behind = saving.changes.is_behind() || saving.packs.is_writing_again();
                if is_full || is_behind || saving.is_awaited() { now.mono } else { due }
            }
            Durability::Always | Durability::Interval(_) | Durability::None => now.mono,
        };
        self.timers.hasten(Timer::Save, at);
    }

    /// Whether the next batch is synced before its result.
    fn syncs(&self, now: Now) -> bool {
        let saving = &self.saving;
        let is_due = saving.sync_due.is_some_and(|due| due <= now.mono) || saving.unsynced.len() >= UNSYNCED_MAX;
        let is_interval = matches!(self.params.durability, Durability::Interval(_));
        !is_interval || is_due || saving.disk == Disk::Fails || self.status.is_leaving()
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
        self.note_changes(now, None); // of this turn
        self.timers.cancel(Timer::Save);
        if self.saving.in_flight.is_some() {
            return;
        }
        while let Some((key, place)) = self.saving.changes.next_noted() {
            let state = self.persisted(now, key);
            self.saving.changes.set(place, state);
        }
        let mut contacts = None;
        if self.saving.contacts != self.table.changes() {
            self.saving.contacts = self.table.changes();
            contacts = self.address_book.to_persist(now.mono, &self.table);
        }
        self.saving.contacts_due = false;
        self.write_packs_again();
        let packs = self.saving.packs.take();
        let sync = contacts.is_some() || self.syncs(now);
        if sync {
            self.saving.sync_due = None;
        }
        let look = sync || self.saving.look_due.is_some_and(|due| due <= now.mono);
        if look {
            self.saving.look_due = None;
        }
        let is_unsynced = !self.saving.unsynced.is_empty() || !self.saving.packs.is_done();
        if contacts.is_some() || !packs.is_empty() || !self.saving.changes.is_empty() || is_unsynced {
            let in_flight = self.saving.changes.take(Batch { sync, look, packs, contacts, keys: Vec::new() });
            self.watch_disk(now);
            out.save(Arc::clone(&in_flight.batch));
            self.saving.in_flight = Some(in_flight);
        }
    }

    /// The state of `key`, in the form for the disk.
    fn persisted(&self, now: Now, key: Key) -> PersistedKey {
        let saved = SavedAt { wall: now.wall, boot: self.since_boot(now) };
        let (held, tombstone) = self.storage.state_on_disk(now, &key);
        let record = held.map(|held| PersistedRecord {
            record: held.record.clone(),
            age: age_at(now.mono, held.record.ttl, held.expires),
            saved,
            source: held.source(),
        });
        PersistedKey { key, record: record.or_else(|| self.set_aside.persisted(now, &key, saved)), tombstone }
    }

    /// The host has written the batch in flight, or could not.
    pub fn on_saved(&mut self, now: Now, saved: Saved, out: &mut Actions) {
        let Some(in_flight) = self.saving.in_flight.take() else { return };
        let keys = in_flight.batch.keys.iter().map(|state| state.key);
        self.note_disk(saved);
        match saved {
            Saved::Durable => {
                self.saving.unsynced.clear();
                self.saving.packs.note_durable();
            }
            Saved::Written => {
                self.saving.unsynced.extend(keys);
                self.saving.packs.note_written(&in_flight.batch.packs);
            }
            Saved::Lost => return self.save_all_again(now, in_flight, out),
            Saved::Failed => {
                self.saving.packs.note_failed(&in_flight.batch.packs);
                self.saving.changes.make_batches_smaller(keys.len());
                let keys = keys.chain(self.saving.unsynced.drain(..));
                if self.saving.is_writing_again {
                    self.saving.changes.lose(keys);
                } else {
                    keys.for_each(|key| self.saving.changes.note(key));
                }
                self.saving.contacts = 0;
                self.timers.hasten(Timer::Save, now.mono + SAVE_RETRY_PAUSE);
            }
        }
        let with_written = |&(key, waiter): &(Key, Waiter)| (key, waiter, in_flight.written(&key));
        let mut waiting: Vec<_> = in_flight.waiting.iter().map(with_written).collect();
        if saved != Saved::Failed {
            self.saving.changes.make_batches_larger(in_flight.batch.keys.len());
            self.saving.is_writing_again &= self.saving.changes.has_lost() || self.saving.packs.is_writing_again();
            waiting.append(&mut self.saving.held_back);
            if self.saving.is_writing_again {
                self.saving.held_back = std::mem::take(&mut waiting);
            }
        }
        self.saving.waiters -= waiting.len();
        self.disk_answered(now, waiting.len());
        if saved != Saved::Failed {
            self.plan_to_save(now);
        }
        for (key, waiter, written) in waiting {
            let on_disk = written.filter(|_| saved != Saved::Failed);
            self.answer_waiter(now, key, waiter, on_disk, saved, out);
        }
        self.finish(now, out);
    }

    /// Nothing is on disk any more. All that is persisted is written again; requests that wait for `in_flight`, and
    /// later ones, wait until that is done.
    fn save_all_again(&mut self, now: Now, in_flight: InFlight, out: &mut Actions) {
        if self.params.durability != Durability::None {
            let stored = self.storage.walk(None).map(|held| held.record.key);
            let ended = self.storage.tombstones(Key::new([0; 32])..=Key::new([0xff; 32])).map(|(key, _)| *key);
            self.saving.changes.lose(stored.chain(ended).chain(self.set_aside.keys()));
            self.saving.packs.lose();
            self.saving.is_writing_again = true;
        }
        let held_back = std::mem::take(&mut self.saving.held_back).into_iter().map(|(key, waiter, _)| (key, waiter));
        for (key, waiter) in held_back.chain(in_flight.waiting) {
            self.saving.changes.wait_again(key, waiter);
        }
        self.saving.unsynced.clear();
        self.saving.contacts = 0;
        self.timers.hasten(Timer::Save, now.mono);
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
            Waiter::Own(attempt) => return self.own_copy_written(now, attempt, on_disk, saved, out),
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

    /// The host will restore about `keys` keys. It may call this before the first one, so that no table grows
    /// meanwhile.
    pub fn expect_restored(&mut self, keys: usize) {
        self.storage.begin_loading(keys);
    }

    /// Prefetches what [`Node::restore`] reads for each of `keys`. Changes nothing.
    pub fn prefetch_for_restoring(&self, keys: &[PersistedKey]) {
        self.storage.prefetch_for_loading(keys.iter().map(|persisted| &persisted.key));
    }

    /// Restores the state of a key that an earlier run has persisted. The host calls this before any other
    /// event, and [`Node::restored`] after the last one. A record whose life certainly ended while the process
    /// was down becomes a tombstone; one whose age is uncertain is set aside. What a record proves is verified later
    /// (`node/records/verification.rs`), but before it is used.
    ///
    /// A key whose state is the same as on disk is not written again: a large store would keep the disk busy
    /// for minutes after the start.
    pub fn restore(&mut self, now: Now, persisted: PersistedKey) {
        self.storage.begin_loading(0);
        let PersistedKey { key, record, tombstone } = persisted;
        let Some(kept) = record else {
            return self.restore_state(now, PersistedKey { key, record, tombstone });
        };
        match self.certain_age(now, &kept).filter(|_| tombstone.is_none()) {
            Some(age) => self.restore_alive(now, kept, age),
            None => self.restore_state(now, PersistedKey { key, record: Some(kept), tombstone }),
        }
    }

    /// The usual case: stores a record whose life has not ended for certain. It is not looked up again, because most
    /// of the time of a start is spent in waiting for memory.
    fn restore_alive(&mut self, now: Now, kept: PersistedRecord, age: Age) {
        let PersistedRecord { record, saved, source, .. } = kept;
        self.set_aside.note_save(saved);
        let due = self.first_offer(now.mono, &record.key, record.replication, now.mono + record.ttl.left_at(age));
        if self.storage.restore(now, record, age, Some(due), source) {
            self.storage.forget_changed();
        } else {
            self.note_changes(now, None);
        }
    }

    fn restore_state(&mut self, now: Now, persisted: PersistedKey) {
        let key = persisted.key;
        if let Some(kept) = &persisted.record {
            self.restore_record(now, kept.clone());
            self.plan_offer(now, &key);
        }
        if let Some(tombstone) = persisted.tombstone {
            self.restore_tombstone(now, key, tombstone);
        }
        let is_unchanged = self.is_as_on_disk(now, persisted);
        self.note_changes(now, is_unchanged.then_some(key));
    }

    /// Whether the state of a key is as it was persisted, but for the moment at which that was.
    fn is_as_on_disk(&self, now: Now, persisted: PersistedKey) -> bool {
        let key = persisted.key;
        let (held, tombstone) = self.storage.state_on_disk(now, &key);
        if let (Some(held), Some(kept)) = (held, &persisted.record) {
            return held.record == kept.record && held.source() == kept.source && tombstone == persisted.tombstone;
        }
        let state = |persisted: PersistedKey| {
            (persisted.record.map(|persisted| (persisted.record, persisted.source)), persisted.tombstone)
        };
        state(self.persisted(now, key)) == state(persisted)
    }

    /// Restores a contact of an earlier run: this node joins through it as through a bootstrap.
    pub fn remember(&mut self, now: Now, contact: Contact) {
        if contact.id != self.me.id && self.address_book.remember(contact) {
            self.begin_to_join(now);
        }
    }
}
