//! The records that this node holds, and the tombstones of those it held: bounded in bytes, read
//! until the exact end of their life.
//!
//! Of the records of a key the largest is held ([`Record::compare`]), so that any order of
//! arrival ends in the same state. A record is not found any more from the moment its life ends,
//! however late the sweep ([`Storage::sweep`]) comes to it; what then stays is a [`Tombstone`],
//! and no record that is not newer takes its place (`PROTOCOL.md` 3).
//!
//! The bound counts what records and tombstones take in memory, not their values alone. Where room
//! is short, what gives way is, in this order:
//!
//! 1. records whose life is over, and tombstones, the oldest first;
//! 2. records that peers brought and that are out of scope, the farthest from this node first, for
//!    a record that is in scope, nearer, or of a client of this node;
//! 3. nothing else: the record is refused ([`Stored::Full`]).
//!
//! Above [`CROWDED_PERCENT`] of the bound no stranger, and no address group, may hold more than one
//! of [`QUOTAS`] shares. A record counts to whoever brought it first; who brings the very same one
//! later neither pays for it nor takes it over, unless his share is not counted at all. So nobody
//! can fill another's share, nor make a record go by his own.
//!
//! Every key whose state changed is named once by [`Storage::take_changed`], for whoever keeps
//! the state elsewhere.
//!
//! What is not decided here: whether a record belongs here (scope), whether it proves what it
//! claims, whether its version lies too far ahead, and who else shall have it.

mod index;
mod quota;
mod slots;
mod tombstones;
mod trie;

use std::cell::Cell;
use std::cmp::Ordering;
use std::fmt;
use std::ops::RangeInclusive;

use crate::id::{KEY_SIZE, Key, KeySeed, NodeId};
use crate::limits::{CROWDED_PERCENT, EVICTION_LOOKS_MAX, QUOTAS};
use crate::record::{Age, Class, Rank, Record, Source, Tombstone, Ttl, end_of_life};
use crate::time::{Now, Time, WallTime};

use index::Orders;
use quota::{Quota, Quotas};
use slots::Slot;
use tombstones::Tombstones;

pub use index::RECORD_OVERHEAD;
pub use quota::QUOTA_BYTES;
pub use tombstones::TOMBSTONE_BYTES;

const _: () = {
    assert!(100 + RECORD_OVERHEAD <= 300, "a million records of 100 bytes shall fit 300 MB");
    assert!(TOMBSTONE_BYTES <= RECORD_OVERHEAD, "a record that ends leaves room for its tombstone");
};

/// A bounded set of records and of tombstones.
#[derive(Debug)]
pub struct Storage {
    me: Key,
    records: Orders,
    tombstones: Tombstones,
    quotas: Quotas,
    bytes_max: usize,
    changed: Vec<Key>,
}

/// A record with the moment its life ends.
#[derive(Debug)]
pub struct Held {
    /// The record.
    pub record: Record,
    /// The first moment at which it is not found any more.
    pub expires: Time,
    quota: Quota,
    /// When it is next worth a look: at the latest when its life ends.
    due: Time,
    /// When it is looked at: at the latest when it is due.
    scheduled: Time,
    /// A bit for each peer, by its id, that was heard to hold it since it was last scheduled; and
    /// [`SHOWN`].
    heard: Cell<u32>,
}

/// The bit that says that a record is known to be the newest that was seen here.
const SHOWN: u32 = 1 << PEER_BITS;

/// Bits for peers beside that one.
const PEER_BITS: u32 = u32::BITS - 1;

impl Held {
    /// When it is next due to be offered to others; its end, if it is not.
    pub fn due(&self) -> Time {
        self.due
    }

    /// How many peers at least were heard to hold exactly this record since it was last scheduled.
    pub fn heard_from(&self) -> u32 {
        (self.heard.get() & !SHOWN).count_ones()
    }

    /// Reads a little of each line of memory that a look-up reads.
    fn touch(&self) -> u64 {
        let key = self.record.key.as_bytes();
        u64::from(key[0] ^ key[KEY_SIZE - 1]) ^ u64::from(self.heard.get()) ^ self.expires.as_nanos()
    }

    /// Whether [`Held::show`] was called of it, and neither [`Storage::doubt`] nor a new schedule
    /// came after.
    pub fn is_shown(&self) -> bool {
        self.heard.get() & SHOWN != 0
    }

    /// Nothing newer was seen by those who are shown it: whoever asks again need not compare.
    pub fn show(&self) {
        self.heard.set(self.heard.get() | SHOWN);
    }

    /// Who brought it, as far as that outlives a run: [`Source::Client`] or [`Source::Peer`].
    pub fn source(&self) -> Source {
        if self.quota == Quota::CLIENT { Source::Client } else { Source::Peer }
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.record)
    }
}

fn bytes_of(record: &Record) -> usize {
    RECORD_OVERHEAD + record.value.len()
}

/// What became of a record that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Exactly this record is held now, whether it was new or not.
    Held,
    /// Nothing changed: a larger one is held, of this rank.
    Larger(Rank),
    /// Nothing changed: its life is over, or that of its version or a newer one is.
    Over,
    /// Nothing changed: what may not give way leaves no room for it, or its giver has had his share.
    Full,
}

/// What is known of a record before it is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// This becomes of it, whether it proves what it claims or not.
    Settled(Stored),
    /// There is nothing to verify: it claims nothing, or is held already, and was verified then.
    Proven,
    /// It has to be verified.
    Unproven,
}

/// Taking records, and giving them up.
impl Storage {
    /// An empty storage for records and tombstones of `bytes_max` bytes in all, with
    /// [`RECORD_OVERHEAD`], [`TOMBSTONE_BYTES`] and, for each stranger, [`QUOTA_BYTES`] included.
    /// What is farthest from `me` gives way first; `seed` keys the hash set.
    pub fn new(me: NodeId, bytes_max: usize, seed: KeySeed) -> Self {
        Self {
            me: *me.key(),
            records: Orders::new(seed),
            tombstones: Tombstones::default(),
            quotas: Quotas::default(),
            bytes_max,
            changed: Vec::new(),
        }
    }

    /// Whether a record of this key, rank, TTL and value needs to be verified at all: a replay of
    /// what is known costs no signature check. Changes nothing.
    pub fn judge(&self, now: Time, key: &Key, rank: Rank, ttl: Ttl, value: &[u8]) -> Judgement {
        if rank.class == Class::Plain {
            return Judgement::Proven;
        }
        if let Some(held) = self.find(now, key) {
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

    /// Holds `record` until `expires`, unless a larger one is held, or a tombstone beats it. Of
    /// equal records the later end and the larger replication are kept (`PROTOCOL.md` 3).
    ///
    /// It is due at `due`, or at its end if that is earlier. What is held already stays due as it
    /// was, but for what was due at its end only, if that is put off. `in_scope` says which records
    /// may not give way.
    pub fn store(
        &mut self,
        now: Now,
        record: Record,
        expires: Time,
        due: Time,
        source: Source,
        in_scope: impl Fn(&Record) -> bool,
    ) -> Stored {
        if expires <= now.mono {
            return Stored::Over;
        }
        let (key, rank) = (record.key, record.rank());
        let slot = self.live_slot(now, &key);
        let mut floor = Tombstone::default();
        let mut may_be_over = true;
        if let Some(slot) = slot {
            let held = &self.records[slot].record;
            let larger = held.rank();
            match record.compare(held) {
                Ordering::Less => {
                    self.lay(now, key, Tombstone::of_hidden(rank, larger));
                    return Stored::Larger(larger);
                }
                Ordering::Equal => {
                    self.prolong(slot, &record, expires, due, source);
                    return Stored::Held;
                }
                Ordering::Greater => floor = Tombstone::of_hidden(larger, rank),
            }
            // No tombstone beats what is held, nor then what is larger and of its class.
            may_be_over = larger.class != rank.class;
        }
        // No record of this key has ended and is unswept: that is buried above.
        let buried = if may_be_over { self.tombstones.find(now.mono, &key) } else { None };
        if buried.is_some_and(|buried| buried.beats(rank.precedence()).is_some()) {
            return Stored::Over;
        }
        if !self.make_room(now, &record, slot, source, in_scope) {
            return Stored::Full;
        }
        // Added before the other is taken away: a peer that replaces all it has stays who it was.
        let quota = self.quotas.add(source, bytes_of(&record));
        let due = due.min(expires);
        let held = Held { record, expires, quota, due, scheduled: due, heard: Cell::new(0) };
        match slot {
            Some(slot) => {
                let before = self.records.replace(slot, held);
                self.quotas.remove(before.quota, before.bytes());
            }
            None => self.records.insert(held),
        }
        self.changed.push(key);
        self.trim();
        self.lay(now, key, floor);
        Stored::Held
    }

    /// Takes back a record of an earlier run, which was `age` old when it was `saved`: time spent
    /// switched off counts. If its life has ended meanwhile, it leaves its tombstone.
    pub fn restore(&mut self, now: Now, record: Record, age: Age, saved: WallTime, source: Source) {
        let age = age.after(now.wall.since(saved));
        match end_of_life(now, record.ttl, age, record.class, record.version) {
            // No neighbour is known yet, so that everything is in scope.
            Some(expires) => drop(self.store(now, record, expires, expires, source, |_| true)),
            None => self.bury(now, record.key, Tombstone::of(record.rank())),
        }
    }

    /// Notes that `tombstone` of `key` is over, if there is room to remember it. A live record
    /// that it beats is gone.
    pub fn bury(&mut self, now: Now, key: Key, tombstone: Tombstone) {
        let held = self.records.slot(&key).map(|slot| (slot, self.records[slot].record.rank()));
        match held.filter(|(_, held)| tombstone.beats(held.precedence()).is_some()) {
            Some((slot, beaten)) => self.remove_for(now, slot, tombstone.and(Tombstone::of(beaten))),
            None => self.lay(now, key, tombstone),
        }
    }

    /// Buries what is over at `now`, and returns the keys of records that are due; looks at no
    /// more than `max` records and as many tombstones. Some of these records may turn out to be due
    /// later; none of them is looked at again before. What is returned is not due again before
    /// its end, unless it is scheduled; until then it is known who was heard to hold it.
    pub fn sweep(&mut self, now: Now, max: usize) -> Vec<Key> {
        for _ in 0..max {
            let Some(lapsed) = self.tombstones.take_lapsed(now.mono) else { break };
            self.changed.push(lapsed);
        }
        let mut due = Vec::new();
        for _ in 0..max {
            let Some((_, slot)) = self.records.by_schedule().next().filter(|(at, _)| *at <= now.mono) else { break };
            let held = self.records.amend(slot);
            if held.expires <= now.mono {
                self.bury_ended(now, slot);
                continue;
            }
            if held.due <= now.mono {
                held.due = held.expires;
                due.push(held.record.key);
            }
            self.records.settle(slot);
        }
        due
    }

    /// The record of `key` is due at `at`, or at its end if that is earlier; who was heard to hold
    /// it before is forgotten.
    pub fn schedule(&mut self, key: &Key, at: Time) {
        if let Some(slot) = self.records.slot(key) {
            self.records.set_due(slot, at);
            self.records[slot].heard.set(0);
        }
    }

    /// The record of `key` is due at `at`, as if scheduled, if it would be later otherwise.
    pub fn hasten(&mut self, key: &Key, at: Time) {
        if self.records.find(key).is_some_and(|held| at < held.due) {
            self.schedule(key, at);
        }
    }

    /// Something newer than the record of `key` may have been seen: it is to be compared before it is
    /// shown again.
    pub fn doubt(&self, key: &Key) {
        if let Some(held) = self.records.find(key) {
            held.heard.set(held.heard.get() & !SHOWN);
        }
    }

    /// `peer` holds exactly the record of `key` that is held here.
    pub fn heard(&self, key: &Key, peer: &NodeId) {
        if let Some(held) = self.records.find(key) {
            let [.., last] = peer.key().as_bytes();
            held.heard.set(held.heard.get() | 1 << (u32::from(*last) % PEER_BITS));
        }
    }

    /// Whether [`Storage::take_changed`] has any key to name.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The keys whose state has changed since this was last asked; some perhaps several times.
    pub fn take_changed(&mut self) -> std::vec::Drain<'_, Key> {
        self.changed.drain(..)
    }
}

/// What is there.
impl Storage {
    /// The record of `key`, if its life is not over at `now`.
    pub fn find(&self, now: Time, key: &Key) -> Option<&Held> {
        self.records.find(key).filter(|held| now < held.expires)
    }

    /// Which versions of `key` are over, as far as this node knows. It may stand beneath a live
    /// record.
    pub fn tombstone(&self, now: Time, key: &Key) -> Option<Tombstone> {
        self.known(now, key).1
    }

    /// Brings what is held of `keys` near to the processor, of `BATCH_MAX` of them at most.
    pub fn bring_near<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.records.bring_near(keys);
    }

    /// Both of the above.
    pub fn known(&self, now: Time, key: &Key) -> (Option<&Held>, Option<Tombstone>) {
        let swept = self.tombstones.find(now, key);
        match self.records.find(key) {
            Some(ended) if ended.expires <= now => {
                let both = swept.unwrap_or_default().and(Tombstone::of(ended.record.rank()));
                (None, Some(both).filter(|both| !both.is_empty()))
            }
            held => (held, swept),
        }
    }

    /// When [`Storage::sweep`] is next needed; past, if it is behind. It is too early where what was
    /// due first has become due later since: a sweep finds that out.
    pub fn next_due(&self) -> Option<Time> {
        let record = self.records.by_schedule().next().map(|(at, _)| at);
        Time::first_of([record, self.tombstones.next_lapse()])
    }

    /// Records in the order of their keys, from behind `after`, or from the first. Expired ones
    /// are met until they are swept; those that come and go meanwhile, perhaps.
    pub fn walk(&self, after: Option<&Key>) -> impl Iterator<Item = &Held> {
        let first = after.map_or(Some(Key::new([0; KEY_SIZE])), Key::successor);
        first.into_iter().flat_map(|first| self.records.walk(first))
    }

    /// Live records of a range of keys, in the order of their keys.
    pub fn range(&self, now: Time, keys: RangeInclusive<Key>) -> impl Iterator<Item = &Held> {
        let (first, last) = keys.into_inner();
        let range = self.records.walk(first).take_while(move |held| held.record.key <= last);
        range.filter(move |held| now < held.expires)
    }

    /// Tombstones of a range of keys, in the order of their keys, until they are swept.
    pub fn tombstones(&self, keys: RangeInclusive<Key>) -> impl Iterator<Item = (&Key, Tombstone)> {
        self.tombstones.range(keys)
    }

    /// Records held, those included that expired but were not swept yet.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no record is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that records, tombstones and the count of shares take in memory.
    pub fn bytes(&self) -> usize {
        self.bytes_of_records() + self.tombstones.bytes()
    }

    /// The most that [`Storage::bytes`] can become.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Checks that all orders hold the same records and that the bytes are what they take, within
    /// the bound. Looks at each record: for the simulator and for tests.
    pub fn check_invariants(&self) -> Result<(), StorageFault> {
        self.records.check_invariants()?;
        self.tombstones.check_invariants()?;
        self.quotas.check_invariants(self.walk(None).map(|held| (held.quota, held.bytes())))?;
        if self.bytes() > self.bytes_max {
            return Err(StorageFault::Bound { found: self.bytes(), max: self.bytes_max });
        }
        Ok(())
    }
}

/// What is common to the above.
impl Storage {
    fn is_over(&self, now: Time, key: &Key, rank: Rank) -> bool {
        self.tombstone(now, key).is_some_and(|tombstone| tombstone.beats(rank.precedence()).is_some())
    }

    fn bytes_of_records(&self) -> usize {
        self.records.bytes() + self.quotas.bytes()
    }

    /// Where the record of `key` is, if its life is not over; if it is, it is buried.
    fn live_slot(&mut self, now: Now, key: &Key) -> Option<Slot> {
        let slot = self.records.slot(key)?;
        if now.mono < self.records[slot].expires {
            return Some(slot);
        }
        self.bury_ended(now, slot);
        None
    }

    /// Takes the record at `slot` away, which leaves `behind` what is over now.
    fn remove_for(&mut self, now: Now, slot: Slot, behind: Tombstone) {
        let held = self.records.remove(slot);
        self.quotas.remove(held.quota, held.bytes());
        self.changed.push(held.record.key);
        self.lay(now, held.record.key, behind);
    }

    /// The record at `slot`, whose life is over, leaves its tombstone.
    fn bury_ended(&mut self, now: Now, slot: Slot) {
        let rank = self.records[slot].record.rank();
        self.remove_for(now, slot, Tombstone::of(rank));
    }

    /// `again` is held already, at `slot`: its later end and its larger replication count. Whoever
    /// brings it takes it over only if his share is not counted, and does not put off what is due.
    fn prolong(&mut self, slot: Slot, again: &Record, expires: Time, due: Time, source: Source) {
        let held = &self.records[slot];
        let replication = held.record.replication.max(again.replication);
        let quota = match source {
            Source::Client => Quota::CLIENT,
            Source::Peer if held.quota != Quota::CLIENT => Quota::PEER,
            Source::Peer | Source::Stranger(..) => held.quota,
        };
        // Most that is brought again says nothing new, and need not be saved.
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
            let due = if held.due < held.expires { held.due } else { due };
            held.expires = expires;
            held.record.ttl = again.ttl;
            self.records.set_due(slot, due);
        }
    }

    /// Adds to the tombstone of `key`, unless it would have lapsed already.
    fn lay(&mut self, now: Now, key: Key, tombstone: Tombstone) {
        if tombstone.is_empty() {
            return;
        }
        let before = self.tombstones.find(now.mono, &key).unwrap_or_default();
        let both = before.and(tombstone);
        let lapses = now.mono + both.lapses().since(now.wall);
        if both != before && lapses > now.mono {
            self.tombstones.insert(key, both, lapses);
            self.changed.push(key);
            self.trim();
        }
    }

    /// Tombstones give way to records, and the older ones to the newer.
    fn trim(&mut self) {
        while self.bytes() > self.bytes_max {
            let Some(oldest) = self.tombstones.take_oldest() else { break };
            self.changed.push(oldest);
        }
    }

    /// Whether there is room for `record`, instead of the one at `slot` if there is one, but for
    /// tombstones, which are trimmed when it is there. What cannot fit displaces nothing that is
    /// alive.
    fn make_room(
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
            let rank = self.records[slot].record.rank();
            self.remove_for(now, slot, Tombstone::of_older(rank));
        }
        true
    }

    /// A record whose life is over, if one is among those that are scheduled first.
    fn find_ended(&self, now: Time) -> Option<Slot> {
        let first = self.records.by_schedule().take_while(|(at, _)| *at <= now).take(EVICTION_LOOKS_MAX);
        first.map(|(_, slot)| slot).find(|slot| self.records[*slot].expires <= now)
    }

    /// Records of `missing` bytes at least that give way to `record`; `None` if there are not
    /// enough of them.
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
        let own = source == Source::Client || in_scope(record);
        let distance = self.me.distance(&record.key);
        for (slot, held) in self.records.farthest(self.me).take(EVICTION_LOOKS_MAX) {
            let key = held.record.key;
            if freed >= missing || (!own && self.me.distance(&key) <= distance) {
                break;
            }
            if key != record.key && held.quota != Quota::CLIENT && !in_scope(&held.record) {
                freed += held.bytes();
                evicted.push(slot);
            }
        }
        (freed >= missing).then_some(evicted)
    }
}

/// What [`Storage::check_invariants`] found broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFault {
    /// A record is not the same in all orders.
    Lost {
        /// Its key.
        key: Key,
    },
    /// The orders hold different numbers of records.
    Orders {
        /// Records by key.
        by_key: usize,
        /// Records in the order of their keys.
        in_order: usize,
        /// Records by the moment for which they are scheduled.
        by_schedule: usize,
    },
    /// The two orders of tombstones hold different numbers of them.
    Tombstones {
        /// Tombstones by key.
        by_key: usize,
        /// Tombstones by the moment they lapse.
        by_lapse: usize,
    },
    /// The bytes counted are not those of the records.
    Bytes {
        /// What the records take.
        found: usize,
        /// What was counted.
        counted: usize,
    },
    /// The bytes counted for a stranger are not those of what it brought.
    Quota {
        /// What its records take.
        found: usize,
        /// What was counted.
        counted: usize,
    },
    /// The strangers, or their groups, are not those that brought something.
    Quotas {
        /// Strangers by id.
        peers: usize,
        /// Strangers that are counted.
        rows: usize,
    },
    /// More is held than may be.
    Bound {
        /// Bytes that are taken.
        found: usize,
        /// The most that may be.
        max: usize,
    },
}

impl fmt::Display for StorageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { key } => write!(f, "record {key:.8} is not the same in all orders"),
            Self::Orders { by_key, in_order, by_schedule } => {
                write!(f, "{by_key} records by key, {in_order} in order, {by_schedule} scheduled")
            }
            Self::Tombstones { by_key, by_lapse } => write!(f, "{by_key} tombstones by key, {by_lapse} that lapse"),
            Self::Bytes { found, counted } => write!(f, "records take {found} bytes, counted {counted}"),
            Self::Quota { found, counted } => write!(f, "a stranger's records take {found} bytes, counted {counted}"),
            Self::Quotas { peers, rows } => write!(f, "{peers} strangers by id, {rows} with a share, or a wrong group"),
            Self::Bound { found, max } => write!(f, "{found} bytes are taken, expected at most {max}"),
        }
    }
}

impl std::error::Error for StorageFault {}

#[cfg(test)]
mod tests;
