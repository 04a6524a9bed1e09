//! Compares a storage with the simplest implementation of its rules: a list of records and a list of
//! tombstones, searched from end to end for every call.

use super::*;
use std::cmp::Reverse;
use std::collections::BTreeSet;

#[derive(Debug)]
struct Entry {
    record: Record,
    expires: Time,
    due: Time,
    /// When the sweep looks at it. Of entries of the same moment it looks first at the one that came to it last, which
    /// has the largest `turn`.
    scheduled: Time,
    turn: u64,
    source: Source,
    heard: BTreeSet<u8>,
}

impl Entry {
    /// Its place in the order of the sweep.
    fn place(&self) -> (Time, Reverse<u64>) {
        (self.scheduled, Reverse(self.turn))
    }

    /// The sweep looks at it at `at`.
    fn move_to(&mut self, at: Time, turns: &mut u64) {
        *turns += 1;
        (self.scheduled, self.turn) = (at, *turns);
    }

    /// The sweep looks at it when it is due, at the latest.
    fn schedule_in_time(&mut self, turns: &mut u64) {
        if self.due < self.scheduled {
            self.move_to(self.due, turns);
        }
    }

    fn is_found(&self, now: Now) -> bool {
        now.mono < self.expires && may_live(&self.record, now)
    }

    /// What the record leaves when its life has ended.
    fn tombstone(&self, now: Now) -> Tombstone {
        let ahead = self.record.version.time().since(now.wall);
        let has_ended = ahead + Duration::from_mins(1) <= CLOCK_SKEW_MAX;
        if may_live(&self.record, now) && has_ended { Tombstone::of(self.record.rank()) } else { Tombstone::default() }
    }
}

/// Whether a record of its version can be alive by the wall clock.
fn may_live(record: &Record, now: Now) -> bool {
    record.class == Class::Hashed || now.wall.since(record.version.time()) < TTL_LONGEST + CLOCK_SKEW_MAX
}

#[derive(Debug, Default)]
struct List {
    held: Vec<Entry>,
    over: Vec<Over>,
    last_removed: Option<Key>,
    dropped: u64,
    bytes_max: usize,
    /// How often an entry came to another moment.
    turns: u64,
}

/// The newest version of a class that is over; `lapses` is the end of a minute, more or less.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Over {
    key: Key,
    class: Class,
    version: Version,
    lapses: Time,
}

/// The end of the 64 s in which a tombstone of that version lapses.
fn lapse_of(now: Now, version: Version) -> Time {
    let left = (version.time().after(TTL_LONGEST + CLOCK_SKEW_MAX * 2)).since(now.wall);
    let secs = (now.mono + left).since(Time::ZERO).as_millis().div_ceil(64_000) * 64;
    mono(u64::try_from(secs).expect("few"))
}

impl List {
    fn entry(&mut self, key: &Key) -> Option<&mut Entry> {
        self.held.iter_mut().find(|entry| entry.record.key == *key)
    }

    fn live(&self, now: Now, key: &Key) -> Option<&Entry> {
        self.held.iter().find(|entry| entry.record.key == *key && entry.is_found(now))
    }

    fn tombstone(&self, now: Now, key: &Key) -> Tombstone {
        let swept = self.over.iter().filter(|over| over.key == *key && now.mono < over.lapses);
        let swept = swept.map(|over| match over.class {
            Class::Signed => Tombstone { signed: Some(over.version), plain: None },
            _ => Tombstone { signed: None, plain: Some(over.version) },
        });
        let ended = self.held.iter().find(|entry| entry.record.key == *key && entry.expires <= now.mono);
        let swept = swept.reduce(Tombstone::and).unwrap_or_default();
        swept.and(ended.map_or(Tombstone::default(), |entry| entry.tombstone(now)))
    }

    fn is_over(&self, now: Now, record: &Record) -> bool {
        self.tombstone(now, &record.key).beats(record.rank().precedence()).is_some()
    }

    fn record_bytes(&self) -> usize {
        let records: usize = self.held.iter().map(|entry| RECORD_OVERHEAD + entry.record.value.len()).sum();
        let peers: BTreeSet<NodeId> = self.held.iter().filter_map(|entry| peer(entry.source)).collect();
        records + peers.len() * QUOTA_BYTES
    }

    fn bytes(&self) -> usize {
        self.record_bytes() + self.over.len() * TOMBSTONE_BYTES
    }

    fn trim(&mut self) {
        while !self.over.is_empty()
            && (self.bytes() > self.bytes_max || self.over.len() * TOMBSTONE_BYTES > self.bytes_max / 4)
        {
            self.remove_oldest();
            self.dropped += 1;
        }
    }

    /// Of those that lapse at the same time, the next one behind the one that was removed last.
    fn remove_oldest(&mut self) {
        let last = self.last_removed.unwrap_or(key(0));
        let next = |over: &Over| (over.lapses, over.key < last, over.key, over.class == Class::Signed);
        let oldest = (0..self.over.len()).min_by_key(|at| next(&self.over[*at])).expect("not empty");
        self.last_removed = Some(self.over.remove(oldest).key);
    }

    fn merge_tombstone(&mut self, now: Now, key: Key, tombstone: Tombstone) {
        let mut is_changed = false;
        for (class, version) in [(Class::Plain, tombstone.plain), (Class::Signed, tombstone.signed)] {
            let Some(version) = version else { continue };
            let of_class = |over: &&Over| over.key == key && over.class == class;
            let before = self.over.iter().find(of_class).filter(|over| now.mono < over.lapses);
            let until = version.time().after(TTL_LONGEST + CLOCK_SKEW_MAX * 2);
            if now.wall < until && before.is_none_or(|before| before.version < version) {
                self.over.retain(|over| !of_class(&over));
                self.over.push(Over { key, class, version, lapses: lapse_of(now, version) });
                is_changed = true;
            }
        }
        if is_changed {
            self.trim();
        }
    }

    fn drop_for(&mut self, now: Now, key: Key, behind: Tombstone) {
        self.held.retain(|entry| entry.record.key != key);
        self.merge_tombstone(now, key, behind);
    }

    fn bury_ended(&mut self, now: Now, key: Key) {
        let ended = self.held.iter().find(|entry| entry.record.key == key && !entry.is_found(now));
        if let Some(tombstone) = ended.map(|entry| entry.tombstone(now)) {
            self.drop_for(now, key, tombstone);
        }
    }

    fn bury(&mut self, now: Now, key: Key, tombstone: Tombstone) {
        let held = self.held.iter().find(|entry| entry.record.key == key).map(|entry| entry.record.rank());
        match held.filter(|rank| tombstone.beats(rank.precedence()).is_some()) {
            Some(rank) => self.drop_for(now, key, tombstone.and(Tombstone::of(rank))),
            None => self.merge_tombstone(now, key, tombstone),
        }
    }

    fn store(&mut self, now: Now, record: Record, expires: Time, due: Time, source: Source) -> Stored {
        if expires <= now.mono || !may_live(&record, now) {
            return Stored::Over;
        }
        self.bury_ended(now, record.key);
        let mut hidden = Tombstone::default();
        if let Some(entry) = self.held.iter_mut().find(|entry| entry.record.key == record.key) {
            let (held, new) = (entry.record.rank(), record.rank());
            let is_certified = |rank: Rank| rank.class != Class::Plain;
            match record.compare(&entry.record) {
                Ordering::Less => {
                    if is_certified(held) && !is_certified(new) {
                        self.merge_tombstone(now, record.key, Tombstone::of(new));
                    }
                    return Stored::Larger(held);
                }
                Ordering::Equal => {
                    if entry.expires < expires {
                        entry.due = if entry.due < entry.expires { entry.due } else { due.min(expires) };
                        entry.schedule_in_time(&mut self.turns);
                        entry.expires = expires;
                    }
                    entry.record.replication = entry.record.replication.max(record.replication);
                    if source == Source::Client || (source == Source::Peer && entry.source != Source::Client) {
                        entry.source = source;
                    }
                    return Stored::Held;
                }
                Ordering::Greater if is_certified(new) && !is_certified(held) => hidden = Tombstone::of(held),
                Ordering::Greater => {}
            }
        }
        if self.is_over(now, &record) {
            return Stored::Over;
        }
        if !self.make_room(now, &record, source) {
            return Stored::Full;
        }
        let source = self.with_first_group(source);
        let key = record.key;
        let due = due.min(expires);
        let (scheduled, turn) =
            self.entry(&key).map_or((Time::from_nanos(u64::MAX), 0), |before| (before.scheduled, before.turn));
        self.held.retain(|entry| entry.record.key != key);
        let mut entry = Entry { record, expires, due, scheduled, turn, source, heard: BTreeSet::new() };
        entry.schedule_in_time(&mut self.turns);
        self.held.push(entry);
        self.trim();
        self.merge_tombstone(now, key, hidden);
        Stored::Held
    }

    /// A peer belongs to the group from which it brought its first record that is still stored.
    fn with_first_group(&self, source: Source) -> Source {
        let same = self.held.iter().find(|entry| peer(source).is_some() && peer(entry.source) == peer(source));
        same.map_or(source, |entry| entry.source)
    }

    fn make_room(&mut self, now: Now, record: &Record, source: Source) -> bool {
        let size = |record: &Record| RECORD_OVERHEAD + record.value.len();
        let needed = |list: &Self| {
            let freed: usize = list.held.iter().filter(|e| e.record.key == record.key).map(|e| size(&e.record)).sum();
            let known = peer(source).is_none() || list.held.iter().any(|entry| peer(entry.source) == peer(source));
            list.record_bytes() - freed + size(record) + if known { 0 } else { QUOTA_BYTES }
        };
        while needed(self) > self.bytes_max {
            let ended = self.held.iter().filter(|entry| entry.expires <= now.mono);
            let Some(key) = ended.min_by_key(|entry| entry.place()).map(|entry| entry.record.key) else {
                break;
            };
            self.bury_ended(now, key);
        }
        if let Source::Stranger(id, group) = self.with_first_group(source)
            && needed(self) > self.bytes_max / 100 * CROWDED_PERCENT
        {
            let others = || self.held.iter().filter(|entry| entry.record.key != record.key);
            let of = |list: Vec<&Entry>| list.iter().map(|entry| size(&entry.record)).sum::<usize>() + size(record);
            let by_peer = others().filter(|entry| peer(entry.source) == Some(id)).collect();
            let in_group = |entry: &&Entry| matches!(entry.source, Source::Stranger(_, home) if home == group);
            let quota = self.bytes_max / QUOTAS;
            if of(by_peer) > quota || of(others().filter(in_group).collect()) > quota {
                return false;
            }
        }
        let missing = needed(self).saturating_sub(self.bytes_max);
        let mut evictable: Vec<&Entry> = self.held.iter().filter(|e| may_evict(now, e, record, source)).collect();
        evictable.sort_by_key(|entry| std::cmp::Reverse(entry.record.key));
        let mut freed = 0;
        let mut evicted = Vec::new();
        for entry in evictable {
            if freed < missing {
                freed += size(&entry.record);
                evicted.push((entry.record.key, entry.record.rank()));
            }
        }
        if freed < missing {
            return false;
        }
        for (key, rank) in evicted {
            self.drop_for(now, key, Tombstone::of_older(rank));
        }
        true
    }

    fn sweep(&mut self, now: Now, max: usize) -> Vec<Key> {
        let lapsed = self.over.iter().filter(|over| over.lapses <= now.mono).count();
        for _ in 0..lapsed.min(max) {
            self.remove_oldest();
        }
        let mut due = Vec::new();
        for _ in 0..max {
            let Some(first) = self.held.iter_mut().min_by_key(|entry| entry.place()) else { break };
            let key = first.record.key;
            if first.scheduled > now.mono {
                break;
            } else if first.expires <= now.mono {
                self.bury_ended(now, key);
                continue;
            } else if first.due <= now.mono {
                first.due = first.expires;
                due.push(key);
            }
            first.move_to(first.due, &mut self.turns);
        }
        due
    }

    fn schedule(&mut self, key: &Key, at: Time) {
        if let Some(entry) = self.held.iter_mut().find(|entry| entry.record.key == *key) {
            entry.due = at.min(entry.expires);
            entry.schedule_in_time(&mut self.turns);
            entry.heard.clear();
        }
    }

    fn hasten(&mut self, key: &Key, at: Time) {
        if self.entry(key).is_some_and(|entry| at < entry.due) {
            self.schedule(key, at);
        }
    }
}

fn peer(source: Source) -> Option<NodeId> {
    match source {
        Source::Stranger(peer, _) => Some(peer),
        Source::Client | Source::Peer => None,
    }
}

/// The node has the key 0, so a larger key is farther.
fn may_evict(now: Now, entry: &Entry, newcomer: &Record, source: Source) -> bool {
    let outranked = source == Source::Client || in_scope(newcomer) || entry.record.key > newcomer.key;
    let is_needed = may_live(&entry.record, now) && (entry.source == Source::Client || in_scope(&entry.record));
    entry.record.key != newcomer.key && !is_needed && outranked
}

fn in_scope(record: &Record) -> bool {
    record.key.as_bytes()[0].is_multiple_of(2)
}

#[derive(Clone, Debug)]
enum Step {
    Store { record: Record, life: u64, wait: u64, source: Source },
    Bury { key: u8, tombstone: Tombstone },
    Wait { secs: u64 },
    Sweep { max: usize },
    Schedule { key: u8, wait: u64 },
    Hasten { key: u8, wait: u64 },
    Heard { key: u8, peer: u8 },
}

fn any_record() -> impl Strategy<Value = Record> {
    let class = prop_oneof![4 => Just(Class::Plain), 2 => Just(Class::Signed), 1 => Just(Class::Hashed)];
    let value = (1..4_usize, 0..2_u8).prop_map(|(size, byte)| vec![byte; size]);
    (0..KEYS, class, 1..5_u64, value, 1..4_u8).prop_map(|(at, class, version, value, replication)| {
        let version = if class == Class::Hashed { 0 } else { (version * 30_000_000) << 16 };
        Record { replication, ..record_of(class, at, version, &value) }
    })
}

fn any_source() -> impl Strategy<Value = Source> {
    let strange = (1..5_u8, 1..4_u8).prop_map(|(peer, group)| stranger(peer, group));
    prop_oneof![1 => Just(Source::Client), 2 => Just(Source::Peer), 3 => strange]
}

fn step() -> impl Strategy<Value = Step> {
    let version = || proptest::option::of((0..4_u64).prop_map(|n| Version::from_bits((n * 30_000_000) << 16)));
    let tombstone = (version(), version()).prop_map(|(signed, plain)| Tombstone { signed, plain });
    prop_oneof![
        16 => (any_record(), 0..9_u64, 0..9_u64, any_source())
            .prop_map(|(record, life, wait, source)| Step::Store { record, life, wait, source }),
        1 => (0..KEYS, tombstone).prop_map(|(key, tombstone)| Step::Bury { key, tombstone }),
        2 => prop_oneof![8 => 0..3_u64, 1 => 1..70_000_u64].prop_map(|secs| Step::Wait { secs }),
        1 => (0..4_usize).prop_map(|max| Step::Sweep { max }),
        1 => (0..KEYS, 0..9_u64).prop_map(|(key, wait)| Step::Schedule { key, wait }),
        1 => (0..KEYS, 0..9_u64).prop_map(|(key, wait)| Step::Hasten { key, wait }),
        1 => (0..KEYS, 0..40_u8).prop_map(|(key, peer)| Step::Heard { key, peer }),
    ]
}

const KEYS: u8 = 40;

/// Reduces the keys of a step to `keys` different ones: few, so that records of one key meet, or many, so
/// that quotas matter.
fn folded(step: Step, keys: u8) -> Step {
    match step {
        Step::Store { record, life, wait, source } => {
            let number = record.key.as_bytes()[0] % keys;
            Step::Store { record: Record { key: key(number), ..record }, life, wait, source }
        }
        Step::Bury { key, tombstone } => Step::Bury { key: key % keys, tombstone },
        Step::Schedule { key, wait } => Step::Schedule { key: key % keys, wait },
        Step::Hasten { key, wait } => Step::Hasten { key: key % keys, wait },
        Step::Heard { key, peer } => Step::Heard { key: key % keys, peer },
        Step::Wait { .. } | Step::Sweep { .. } => step,
    }
}

fn take(step: Step, now: &mut Now, storage: &mut Storage, list: &mut List) {
    match step {
        Step::Store { record, life, wait, source } => {
            let (expires, due) = (now.mono + Duration::from_secs(life), now.mono + Duration::from_secs(wait));
            let stored = storage.store(*now, record.clone(), expires, due, source, in_scope);
            assert_eq!(stored, list.store(*now, record, expires, due, source));
        }
        Step::Bury { key: at, tombstone } => {
            storage.bury(*now, key(at), tombstone);
            list.bury(*now, key(at), tombstone);
        }
        Step::Wait { secs } => {
            *now = at(now.mono.since(Time::ZERO).as_secs() + secs);
            storage.set_wall(now.wall);
        }
        Step::Sweep { max } => assert_eq!(storage.sweep(*now, max), list.sweep(*now, max)),
        Step::Schedule { key: at, wait } => {
            let due = now.mono + Duration::from_secs(wait);
            storage.schedule(&key(at), due);
            list.schedule(&key(at), due);
        }
        Step::Hasten { key: at, wait } => {
            let due = now.mono + Duration::from_secs(wait);
            storage.hasten(&key(at), due);
            list.hasten(&key(at), due);
        }
        Step::Heard { key: at, peer } => {
            storage.heard(&key(at), &NodeId::new(key(peer)));
            if let Some(entry) = list.entry(&key(at)) {
                entry.heard.insert(peer % 28);
            }
        }
    }
}

fn assert_same(now: Now, storage: &Storage, list: &List) {
    let keys: Vec<Key> = (0..KEYS).map(key).collect();
    storage.prefetch_for_insertion(keys.iter());
    storage.prefetch(keys.iter()); // more keys than one call prefetches; it changes nothing
    assert_eq!(storage.check_invariants(), Ok(()));
    assert_eq!((storage.bytes(), storage.len()), (list.bytes(), list.held.len()));
    assert_eq!(storage.tombstones_dropped(), list.dropped);
    let lapses = list.over.iter().map(|over| over.lapses);
    assert_eq!(storage.next_due(), list.held.iter().map(|entry| entry.scheduled).chain(lapses).min());
    for number in 0..KEYS {
        let over = Some(list.tombstone(now, &key(number))).filter(|tombstone| !tombstone.is_empty());
        assert_eq!(storage.tombstone(now, &key(number)), over);
        let held = storage.find(now.mono, &key(number));
        let held = held.map(|held| (&held.record, held.expires, held.due(), held.heard_from(), held.source()));
        let live = list.live(now, &key(number)).map(|entry| {
            let heard = u32::try_from(entry.heard.len()).expect("at most 28");
            let source = if entry.source == Source::Client { Source::Client } else { Source::Peer };
            (&entry.record, entry.expires, entry.due, heard, source)
        });
        assert_eq!(held, live);
    }
}

proptest! {
    #[test]
    fn a_storage_behaves_like_two_plain_lists(
        steps in proptest::collection::vec(step(), 1..160),
        (keys, room) in prop_oneof![
            (Just(6), 0..6 * (RECORD_OVERHEAD + QUOTA_BYTES)),
            (Just(KEYS), 16 * RECORD_OVERHEAD..45 * RECORD_OVERHEAD),
            (Just(6), Just(usize::MAX)),
        ],
    ) {
        let mut storage = Storage::new(me(), room, seed());
        let mut list = List { bytes_max: room, ..List::default() };
        // Three of the versions are of the past.
        let mut now = at(90_000);
        storage.set_wall(now.wall);
        for step in steps {
            take(folded(step, keys), &mut now, &mut storage, &mut list);
            assert_same(now, &storage, &list);
        }
    }
}
