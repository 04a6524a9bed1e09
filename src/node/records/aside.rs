//! Records that this node stores but does not use now, because its wall clock and the record contradict each
//! other. They are *set aside*: not answered, not offered, no obstacle to a PUT of their key, and they leave no
//! tombstone. Their state on disk stays as it is.
//!
//! A record is set aside if
//!
//! - by the wall clock no record of its version can be alive: all other nodes would refuse it
//!   (`PROTOCOL.md` 3, Version and Life). The clock may be wrong now, or was wrong when the version was drawn;
//! - it is from an earlier run under another boot, and its age is uncertain: the wall clock is earlier than at
//!   the last save, three peers disagree with it, or the life seems to have ended while this node was off.
//!
//! A record of the first kind comes back if the wall clock is set and the version can be alive then. If the
//! version becomes possible only because time passes, a wrong clock has drawn it: the record is dropped, so that
//! it does not replace what was written meanwhile. It is dropped, too, if this node stores a plain record of the key that
//! was written later, by the ages of both: their versions say nothing, if all clocks were wrong together.
//!
//! A record of the second kind waits until the neighbours were asked what they store
//! ([`crate::node::replication::sync`]); or until the wall clock is set. What the neighbours store has replaced it
//! by then. Otherwise its life ends now by the wall clock, with a tombstone if most contacts agree with that clock; or,
//! if they disagree with it, it goes on from the age at the save.
//!
//! A record of an earlier run may be set aside before it is verified. It is verified before it is used again.
//!
//! A record whose age the wall clock has told is used, but leaves no tombstone until that age is confirmed
//! ([`crate::storage::Storage::doubt_age`]).
//!
//! Not guaranteed: a record that is set aside in memory only, because its key was written again, does not survive
//! a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use log::{info, warn};

use crate::id::Key;
use crate::limits::CLOCK_DIFFERENCE_MAX;
use crate::node::Node;
use crate::node::persisted::{PersistedRecord, SavedAt};
use crate::record::fingerprint::{Epoch, OldTombstone};
use crate::record::{Age, Class, Rank, Record, Source, Tombstone, Version, age_at, end_of_life};
use crate::storage::{Proof, Stored, WithoutRoom};
use crate::time::{Now, Time, WallTime};

/// Records that are known to be outdated, at most: 4 MiB. Those beyond it are given to others all the same.
const OUTDATED_MAX: usize = 1 << 16;

/// The records and tombstones that are set aside. They come from the storage or from its disk, so they take no
/// more memory than the storage may take.
#[derive(Debug, Default)]
pub(crate) struct SetAside {
    records: BTreeMap<Key, Aside>,
    tombstones: BTreeMap<Key, Tombstone>,
    /// Old ones. They stay in their packs on disk.
    old: Vec<OldTombstone>,
    /// Records in the storage whose age was computed by the wall clock at the start, until that clock counts as
    /// right.
    aged_by_wall: BTreeMap<Key, (Version, CertainAge)>,
    /// Records in the storage that others have replaced, by newer ones that are too far ahead for the wall clock.
    outdated: BTreeMap<Key, Version>,
    /// The latest moment at which an earlier run has saved a record, by its wall clock.
    last_save: Option<WallTime>,
}

/// What is certain about the age of a record of an earlier run: it was `age` at the moment `saved`, and this node has
/// run since `restored`.
#[derive(Clone, Copy, Debug)]
struct CertainAge {
    age: Age,
    saved: SavedAt,
    restored: Time,
}

impl CertainAge {
    /// The age when it was saved, and the moment of the save, both later by the time that this node has run.
    fn at(self, now: Time) -> (Age, SavedAt) {
        let run = now - self.restored;
        (self.age.after(run), SavedAt { wall: self.saved.wall.after(run), boot: None })
    }
}

/// A record that is set aside.
#[derive(Clone, Debug)]
struct Aside {
    record: Record,
    source: Source,
    doubt: Doubt,
}

impl Aside {
    /// The record as it was saved, if its age is uncertain.
    fn of_uncertain_age(self, now: Time) -> Option<PersistedRecord> {
        let Doubt::Age(certain) = self.doubt else { return None };
        let (age, saved) = certain.at(now);
        Some(PersistedRecord { record: self.record, age, saved, source: self.source })
    }
}

/// What is wrong with a record that is set aside.
#[derive(Clone, Copy, Debug)]
enum Doubt {
    /// No record of its version can be alive, by the wall clock. Its life ends at this moment.
    Version { expires: Time },
    /// Its age is uncertain.
    Age(CertainAge),
}

impl SetAside {
    /// Whether the wall clock shows a moment before the last save of an earlier run.
    pub(crate) fn is_before_last_save(&self, wall: WallTime) -> bool {
        self.last_save.is_some_and(|last| last.since(wall) > CLOCK_DIFFERENCE_MAX)
    }

    /// An earlier run has saved a record at this moment.
    pub(super) fn note_save(&mut self, saved: SavedAt) {
        self.last_save = self.last_save.max(Some(saved.wall));
    }

    /// Whether others have replaced `record`.
    pub(crate) fn is_outdated(&self, record: &Record) -> bool {
        !self.outdated.is_empty() && self.outdated.get(&record.key) == Some(&record.version)
    }

    /// The wall clock counts as right, or was set: no record counts as outdated any more. Returns whether any did.
    pub(crate) fn trust_all(&mut self) -> bool {
        !std::mem::take(&mut self.outdated).is_empty()
    }

    /// This node stores a record of `key` and that age. A plain one that is older, and is set aside because of its
    /// version, was overwritten: it does not come back, although its version is larger.
    pub(super) fn written_again(&mut self, now: Now, key: &Key, class: Class, age: Age) {
        let is_overwritten = |aside: &Aside| {
            let Doubt::Version { expires } = aside.doubt else { return false };
            aside.record.class == Class::Plain && age_at(now.mono, aside.record.ttl, expires) > age
        };
        if !self.records.is_empty() && class == Class::Plain && self.records.get(key).is_some_and(is_overwritten) {
            self.records.remove(key);
        }
    }

    fn insert(&mut self, record: Record, source: Source, doubt: Doubt) {
        self.records.insert(record.key, Aside { record, source, doubt });
    }

    /// Takes the records of uncertain age.
    fn take_uncertain_ages(&mut self, now: Time) -> Vec<PersistedRecord> {
        let uncertain = self.records.extract_if(.., |_, aside| matches!(aside.doubt, Doubt::Age(_)));
        uncertain.filter_map(|(_, aside)| aside.of_uncertain_age(now)).collect()
    }

    /// The state of `key` for the disk, if its record is set aside.
    pub(super) fn persisted(&self, now: Now, key: &Key, moment: SavedAt) -> Option<PersistedRecord> {
        let Aside { record, source, doubt } = self.records.get(key)?.clone();
        let (age, saved) = match doubt {
            Doubt::Version { expires } => (age_at(now.mono, record.ttl, expires), moment),
            Doubt::Age(certain) => certain.at(now.mono),
        };
        Some(PersistedRecord { record, age, saved, source })
    }

    /// The keys whose records are set aside.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.records.keys().copied()
    }

    /// The old tombstones that are set aside.
    pub(super) fn old(&self) -> impl Iterator<Item = OldTombstone> {
        self.old.iter().copied()
    }

    /// Their epochs.
    pub(super) fn old_epochs(&self) -> impl Iterator<Item = Epoch> {
        self.old.iter().map(|old| Epoch::of(old.version))
    }

    /// How many records are set aside.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}

/// Restoring.
impl Node {
    /// The age now of a record of an earlier run, if it is certain, its life has not ended, and its version is
    /// possible.
    pub(super) fn certain_age(&self, now: Now, kept: &PersistedRecord) -> Option<Age> {
        let PersistedRecord { record, age, saved, .. } = kept;
        let off = self.since_boot(now)?.since(saved.boot?)?;
        let age = age.after(off);
        let is_possible = record.is_plausible(now.wall) && !record.version.is_too_early(now.wall.before(off));
        (is_possible && !record.ttl.left_at(age).is_zero()).then_some(age)
    }

    /// Stores a record of an earlier run, or sets it aside.
    pub(super) fn restore_record(&mut self, now: Now, persisted: PersistedRecord) {
        let saved = persisted.saved;
        self.set_aside.note_save(saved);
        let off = self.since_boot(now).zip(saved.boot).and_then(|(now, saved)| now.since(saved));
        let Some(off) = off else { return self.restore_by_wall(now, persisted) };
        let PersistedRecord { record, age, source, .. } = persisted;
        // By the clock of now, its version was too far ahead when it was saved. So a wrong clock has drawn it.
        if record.is_plausible(now.wall) && record.version.is_too_early(now.wall.before(off)) {
            return self.storage.note_change(record.key);
        }
        self.restore_aged(now, record, age.after(off), source);
    }

    /// Restores a record whose age only the wall clock tells.
    fn restore_by_wall(&mut self, now: Now, persisted: PersistedRecord) {
        let PersistedRecord { record, age, saved, source } = persisted;
        let by_wall = age_by_wall(now, &record, age, saved);
        let has_ended = |age: Age| record.ttl.left_at(age).is_zero();
        let is_uncertain = self.set_aside.is_before_last_save(now.wall) || has_ended(by_wall);
        let certain = CertainAge { age, saved, restored: now.mono };
        if is_uncertain && !has_ended(age) {
            self.set_aside.insert(record, source, Doubt::Age(certain));
        } else {
            self.restore_by_age_of_wall(now, record, by_wall, certain, source);
        }
    }

    /// Restores a record whose age the wall clock has told, until that clock counts as right.
    fn restore_by_age_of_wall(&mut self, now: Now, record: Record, by_wall: Age, certain: CertainAge, source: Source) {
        let key = record.key;
        let has_ended = record.ttl.left_at(by_wall).is_zero();
        self.set_aside.aged_by_wall.insert(key, (record.version, certain));
        self.restore_aged(now, record, by_wall, source);
        if !has_ended {
            self.storage.doubt_age(&key);
        }
    }

    /// Stores a record that is as old as `age`, or sets it aside if its version is not possible.
    fn restore_aged(&mut self, now: Now, record: Record, age: Age, source: Source) {
        let left = record.ttl.left_at(age);
        if record.is_plausible(now.wall) || left.is_zero() {
            self.storage.restore(now, record, age, None, source);
        } else {
            self.set_aside.insert(record, source, Doubt::Version { expires: now.mono + left });
        }
    }

    /// Restores a tombstone of an earlier run, or sets it aside.
    pub(super) fn restore_tombstone(&mut self, now: Now, key: Key, tombstone: Tombstone) {
        if tombstone.is_plausible(now.wall) {
            self.storage.bury(now, key, tombstone);
            if !self.storage.has_changed() && self.storage.state_on_disk(now, &key).1.is_none() {
                self.storage.note_change(key); // it has lapsed, or a pack has it
            }
        } else {
            self.set_aside.tombstones.insert(key, tombstone);
        }
    }

    /// The same for an old one.
    pub(super) fn restore_old_tombstone(&mut self, now: Now, old: OldTombstone) {
        if old.tombstone().is_plausible(now.wall) {
            self.storage.add_old_tombstone(now, old);
        } else {
            self.set_aside.old.push(old);
        }
    }

    /// Everything of an earlier run is restored. A node that has no other node to ask trusts its clock.
    pub fn restored(&mut self, now: Now) {
        self.storage.finish_loading();
        let WithoutRoom { records, bytes } = self.storage.without_room();
        if records > 0 {
            let (bound, stored) = (self.storage.bytes_max(), self.storage.bytes());
            warn!(
                "storage_bytes_max={bound} is less than what is on disk, stored_bytes={}: records={records} stay on disk \
                 alone, and are not served",
                stored + bytes
            );
        }
        self.plan_to_verify(now);
        if self.set_aside.is_before_last_save(now.wall) {
            self.doubt_ages(now);
            let behind = self.set_aside.last_save.map_or(Duration::ZERO, |last| last.since(now.wall));
            let waiting = self.set_aside.len();
            warn!("wall clock is earlier than the last save seconds={} records_waiting={waiting}", behind.as_secs());
        }
        if self.is_founder() && !self.set_aside.is_before_last_save(now.wall) && self.set_aside.len() > 0 {
            let ended = self.set_aside.take_uncertain_ages(now.mono);
            info!("records ended while this node was off, by the clock of this node alone records={}", ended.len());
            for persisted in ended {
                self.storage.note_change(persisted.record.key);
            }
        }
    }
}

/// PUTs that other nodes refuse.
impl Node {
    /// Other nodes do not accept this record, so that it does not live on here: neither stored, nor set aside.
    pub(crate) fn drop_refused(&mut self, key: &Key, version: Version) {
        self.storage.forget(key, version);
        if self.set_aside.records.get(key).is_some_and(|aside| aside.record.version == version) {
            self.set_aside.records.remove(key);
            self.storage.note_change(*key);
        }
    }

    /// Stores again what a refused PUT has replaced, or sets it aside if its version is not possible now.
    pub(crate) fn hold_again(&mut self, now: Now, record: Record, expires: Time, source: Source) {
        if record.is_plausible(now.wall) {
            self.hold(now, record, expires, source);
        } else {
            self.storage.note_change(record.key);
            self.set_aside.insert(record, source, Doubt::Version { expires });
        }
    }
}

/// Records that others have replaced.
impl Node {
    /// Another node stores a record of `key` and `rank`, which is plain or verified. If it is larger than that of
    /// this node, but too far ahead for the wall clock of this node alone, then this node stores an old record: it
    /// does not give that to others any more.
    pub(crate) fn note_newer(&mut self, now: Now, key: &Key, rank: Rank) {
        let held = self.storage.find(now.mono, key).map(|held| held.record.rank());
        let Some(older) = held.filter(|held| held.precedence() < rank.precedence()) else { return };
        if self.set_aside.outdated.len() < OUTDATED_MAX && self.is_possible_for_peers(now, rank.version) {
            self.set_aside.outdated.insert(*key, older.version);
        }
    }
}

/// Setting aside, and taking back.
impl Node {
    /// The wall clock was set at this moment; the old setting would show `before` now. The records that this node
    /// uses again may be old.
    pub(crate) fn recheck_records(&mut self, now: Now, before: WallTime) {
        self.set_aside.trust_all();
        let taken_back = self.take_back(now, before);
        let set_aside = self.set_aside_impossible(now);
        if set_aside > 0 || taken_back > 0 {
            info!("records and the wall clock set_aside={set_aside} taken_back={taken_back}");
        }
    }

    /// Sets aside the records and tombstones whose versions are not possible by the wall clock.
    fn set_aside_impossible(&mut self, now: Now) -> usize {
        let records = self.storage.take_out(now.mono, |record| !record.is_plausible(now.wall));
        let count = records.len();
        for (record, expires, source) in records {
            self.set_aside.insert(record, source, Doubt::Version { expires });
        }
        for (key, tombstone) in self.storage.take_out_tombstones(|tombstone| !tombstone.is_plausible(now.wall)) {
            self.set_aside.tombstones.insert(key, tombstone);
        }
        let old = self.storage.take_out_old_tombstones(|tombstone| !tombstone.is_plausible(now.wall));
        self.set_aside.old.extend(old);
        count
    }

    /// Takes back what is possible by the wall clock now, and drops what would have become possible without
    /// setting it. Returns the number of records that are stored again.
    fn take_back(&mut self, now: Now, before: WallTime) -> usize {
        let mut taken_back = 0;
        for (key, aside) in std::mem::take(&mut self.set_aside.records) {
            let Aside { record, source, doubt } = aside;
            match doubt {
                Doubt::Version { expires } if expires <= now.mono || record.is_plausible(before) => {
                    self.storage.note_change(key);
                }
                Doubt::Version { expires } if record.is_plausible(now.wall) => {
                    taken_back += usize::from(self.hold_unverified(now, record, expires, source));
                }
                Doubt::Version { .. } => self.set_aside.insert(record, source, doubt),
                Doubt::Age(certain) => {
                    let (age, saved) = certain.at(now.mono);
                    self.restore_by_wall(now, PersistedRecord { record, age, saved, source });
                    taken_back += usize::from(!self.set_aside.records.contains_key(&key));
                }
            }
        }
        for (key, tombstone) in std::mem::take(&mut self.set_aside.tombstones) {
            if tombstone.is_plausible(now.wall) && !tombstone.is_plausible(before) {
                self.storage.bury(now, key, tombstone);
            } else if !tombstone.is_plausible(now.wall) {
                self.set_aside.tombstones.insert(key, tombstone);
            }
        }
        let old = std::mem::take(&mut self.set_aside.old);
        let is_any_old = !old.is_empty();
        for old in old {
            // What would have become plausible without setting the clock is dropped.
            if !old.tombstone().is_plausible(before) {
                self.restore_old_tombstone(now, old);
            }
        }
        if is_any_old {
            self.storage.bury_what_old_tombstones_beat(now);
        }
        taken_back
    }

    /// Stores a record that was set aside, perhaps before it was verified. Returns whether it is stored.
    fn hold_unverified(&mut self, now: Now, record: Record, expires: Time, source: Source) -> bool {
        let (key, proof) = (record.key, self.storage.prove_if_contested(now, &record));
        let is_held = proof != Proof::Refuted && self.hold(now, record, expires, source) == Stored::Held;
        if is_held && proof == Proof::Due {
            self.storage.mark_unverified(&key);
        }
        is_held
    }

    /// Three peers disagree with the wall clock, or it is earlier than the last save: the ages that it has told
    /// are uncertain. Returns the number of records that are set aside for it.
    pub(crate) fn doubt_ages(&mut self, now: Now) -> usize {
        let aged_by_wall = std::mem::take(&mut self.set_aside.aged_by_wall);
        if aged_by_wall.is_empty() {
            return 0;
        }
        let is_restored =
            |record: &Record| aged_by_wall.get(&record.key).is_some_and(|(version, _)| *version == record.version);
        let taken = self.storage.take_out(now.mono, is_restored);
        let count = taken.len();
        info!("records of uncertain age are set aside until other nodes were asked records={count}");
        for (record, life_ends, source) in taken {
            let (age, saved) = aged_by_wall[&record.key].1.at(now.mono);
            // A peer may have told a smaller age meanwhile.
            let age = age.min(age_at(now.mono, record.ttl, life_ends));
            self.set_aside.insert(record, source, Doubt::Age(CertainAge { age, saved, restored: now.mono }));
        }
        count
    }

    /// The wall clock counts as right.
    pub(crate) fn trust_ages(&mut self) {
        for key in std::mem::take(&mut self.set_aside.aged_by_wall).into_keys() {
            self.storage.trust_age(&key);
        }
    }

    /// The neighbours have told which records they store, and this node has fetched what it missed. What is
    /// still of uncertain age is not stored by them.
    pub(crate) fn resolve_ages(&mut self, now: Now) {
        let uncertain = self.set_aside.take_uncertain_ages(now.mono);
        if uncertain.is_empty() {
            return;
        }
        let is_wrong = self.set_aside.is_before_last_save(now.wall) || self.clock_differs();
        let (mut ended, mut stored) = (0, 0);
        for PersistedRecord { record, age, saved, source } in uncertain {
            let certain = CertainAge { age, saved, restored: now.mono };
            let age = if is_wrong { age } else { age_by_wall(now, &record, age, saved) };
            let has_ended = end_of_life(now, record.ttl, age, record.class, record.version).is_none();
            ended += usize::from(has_ended);
            stored += usize::from(!has_ended);
            self.storage.note_change(record.key);
            if is_wrong && !has_ended || self.clock_agrees() {
                self.restore_aged(now, record, age, source);
            } else if !has_ended {
                self.restore_by_age_of_wall(now, record, age, certain, source);
            }
        }
        info!("records of uncertain age that no neighbour stores ended={ended} stored={stored}");
    }
}

/// The age now, if the wall clock is right now and was right at the save, or wrong by as much. A save that is earlier
/// than the version was made by a clock that was behind: then the record is as old as its version.
fn age_by_wall(now: Now, record: &Record, age: Age, saved: SavedAt) -> Age {
    if record.version.is_too_early(saved.wall) && !record.version.is_too_early(now.wall) {
        return age.max(Age(0).after(now.wall.since(record.version.time())));
    }
    age.after(now.wall.since(saved.wall)).less(saved.wall.since(now.wall))
}
