//! One replica: the real storage, a clock that is wrong, a disk, and what was read of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dht::id::{Key, KeySeed, NodeId};
use dht::limits::{CLOCK_SKEW_MAX, TTL_LONGEST};
use dht::record::{Age, Class, Record, Source, Tombstone, Version, age_at, end_of_life};
use dht::storage::{Storage, Stored};
use dht::time::{Now, Time, WallTime};

use crate::world::Broken;

/// When the world begins, by a right clock: some time in 2023.
const EPOCH: u64 = 1_700_000_000_000;

/// What a message carries of a record.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) record: Record,
    pub(crate) age: Age,
}

/// What became of a copy that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    TooEarly,
    NoLife,
    Stored(Stored),
}

/// What a replica has read of one class of one key.
#[derive(Clone, Debug, Default)]
struct Read {
    largest: Option<(Version, Vec<u8>)>,
    /// The largest version whose end it has seen.
    ended: Option<Version>,
}

#[derive(Clone, Debug, Default)]
struct Memory {
    plain: Read,
    signed: Read,
    /// What was read last.
    last: Option<(Class, Version)>,
}

#[derive(Clone, Debug)]
struct Kept {
    record: Option<(Record, Age, WallTime)>,
    tombstone: Option<Tombstone>,
}

pub(crate) struct Replica {
    storage: Storage,
    bytes_max: usize,
    /// How far its clock is ahead, in milliseconds.
    skew: i64,
    /// When it last started, in the world's milliseconds.
    started: u64,
    disk: BTreeMap<Key, Kept>,
    unsaved: BTreeSet<Key>,
    memory: BTreeMap<Key, Memory>,
    saved_memory: BTreeMap<Key, Memory>,
}

impl Replica {
    pub(crate) fn new(bytes_max: usize, skew: i64) -> Self {
        Self {
            storage: empty(bytes_max),
            bytes_max,
            skew,
            started: 0,
            disk: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            memory: BTreeMap::new(),
            saved_memory: BTreeMap::new(),
        }
    }

    /// Its clocks, so many milliseconds after the world began.
    pub(crate) fn now(&self, world: u64) -> Now {
        Now { mono: Time::ZERO + Duration::from_millis(world - self.started), wall: wall(world, self.skew) }
    }

    /// The version that a PUT here is given.
    pub(crate) fn draw(&self, world: u64, key: &Key, tail: u16) -> Version {
        let now = self.now(world);
        let held = self.storage.find(now.mono, key).map(|held| &held.record);
        let plain = held.filter(|record| record.class == Class::Plain).map(|record| record.version);
        let over = self.storage.tombstone(now, key).and_then(|tombstone| tombstone.plain);
        Version::draw(now.wall, tail, plain.max(over))
    }

    /// What it would hand on of a key.
    pub(crate) fn copy(&self, world: u64, key: &Key) -> Option<Copy> {
        let now = self.now(world).mono;
        let held = self.storage.find(now, key)?;
        Some(Copy { record: held.record.clone(), age: age_at(now, held.record.ttl, held.expires) })
    }

    /// Takes a copy as a node does: versions from the future first, then lives that are over.
    pub(crate) fn take(&mut self, world: u64, copy: Copy) -> Result<Taken, Broken> {
        let now = self.now(world);
        let Copy { record, age } = copy;
        if record.version.is_too_early(now.wall) {
            return Ok(Taken::TooEarly);
        }
        let Some(expires) = end_of_life(now, record.ttl, age, record.class, record.version) else {
            return Ok(Taken::NoLife);
        };
        let key = record.key;
        let before = self.storage.find(now.mono, &key).map(|held| held.record.clone());
        let dropped = self.storage.tombstones_dropped();
        let stored = self.storage.store(now, record, expires, expires, Source::Peer, |_| true);
        if self.storage.tombstones_dropped() != dropped {
            self.forget_dropped(now);
        }
        let after = self.storage.find(now.mono, &key).map(|held| &held.record);
        if before.as_ref().map(order) > after.map(order) {
            return Err(Broken::Less { key });
        }
        if stored == Stored::Full {
            return Err(Broken::Full);
        }
        self.storage.take_changed(&mut self.unsaved);
        Ok(Taken::Stored(stored))
    }

    /// Tombstones have given way. What they stood for may be stored again before the next read, or was already.
    fn forget_dropped(&mut self, now: Now) {
        for (key, memory) in &mut self.memory {
            let tombstone = self.storage.tombstone(now, key).unwrap_or_default();
            for (read, known) in [(&mut memory.plain, tombstone.plain), (&mut memory.signed, tombstone.signed)] {
                if read.ended > known {
                    *read = Read::default();
                }
            }
        }
    }

    pub(crate) fn sweep(&mut self, world: u64, max: usize) {
        let now = self.now(world);
        self.storage.sweep(now, max);
        // On disk it stays as it is: packs belong to the node.
        while !self.storage.turn_old(now).is_round_done {}
        self.storage.take_changed(&mut self.unsaved);
    }

    /// What has changed is on disk from now on.
    pub(crate) fn save(&mut self, world: u64) {
        let now = self.now(world);
        for key in std::mem::take(&mut self.unsaved) {
            let record = self.copy(world, &key).map(|copy| (copy.record, copy.age, now.wall));
            self.disk.insert(key, Kept { record, tombstone: self.storage.tombstone(now, &key) });
        }
        self.saved_memory = self.memory.clone();
    }

    /// It starts again from its disk; what was not there is gone.
    pub(crate) fn restart(&mut self, world: u64) {
        self.started = world;
        self.storage = empty(self.bytes_max);
        self.unsaved.clear();
        self.memory = self.saved_memory.clone();
        let now = self.now(world);
        for (key, kept) in &self.disk {
            if let Some((record, age, saved)) = kept.record.clone() {
                self.storage.restore(now, record, age.after(now.wall.since(saved)), None, Source::Peer);
            }
            if let Some(tombstone) = kept.tombstone {
                self.storage.bury(now, *key, tombstone);
            }
        }
        self.storage.take_changed(&mut self.unsaved);
    }

    /// Reads a key, and holds what it reads against all that it has read before. Returns how much
    /// of that it must have forgotten, because tombstones gave way.
    pub(crate) fn read(&mut self, world: u64, key: &Key) -> Result<u64, Broken> {
        let now = self.now(world);
        self.storage.set_wall(now.wall);
        let held = self.storage.find(now.mono, key).map(|held| &held.record);
        let memory = self.memory.entry(*key).or_default();
        let tombstone = self.storage.tombstone(now, key).unwrap_or_default();
        let found = held.map(|record| (record.class, record.version));
        if let Some((class, version)) = memory.last.filter(|last| found.is_none_or(|found| found != *last))
            && found.is_none()
            && let Some(read) = memory.of(class)
        {
            read.ended = read.ended.max(Some(version));
        }
        memory.last = found;
        let mut forgotten = 0;
        if self.bytes_max != usize::MAX {
            let live = |class| held.filter(|held| held.class == class).map(|held| held.version);
            forgotten += memory.plain.forget(live(Class::Plain).max(tombstone.plain));
            forgotten += memory.signed.forget(live(Class::Signed).max(tombstone.signed));
        }
        let Some(record) = held else { return Ok(forgotten) };
        let skew = CLOCK_SKEW_MAX.as_millis();
        let ahead = record.version.time().since(now.wall).as_millis();
        if ahead > skew {
            return Err(Broken::Future { key: *key });
        }
        let longest = (TTL_LONGEST + CLOCK_SKEW_MAX).as_millis();
        if record.class != Class::Hashed && now.wall.since(record.version.time()).as_millis() >= longest {
            return Err(Broken::Prolonged { key: *key });
        }
        let signed = memory.signed.largest.as_ref().map(|(version, _)| version.time());
        let may_live = |signed: WallTime| now.wall.since(signed) < TTL_LONGEST + CLOCK_SKEW_MAX;
        if record.class == Class::Plain && signed.is_some_and(may_live) {
            return Err(Broken::Outranked { key: *key });
        }
        let Some(read) = memory.of(record.class) else { return Ok(forgotten) };
        let version = (record.version, record.value.to_vec());
        if read.ended.is_some_and(|ended| record.version <= ended) {
            return Err(Broken::Resurrected { key: *key });
        }
        if read.largest.as_ref().is_some_and(|largest| version < *largest) {
            return Err(Broken::Older { key: *key });
        }
        read.largest = Some(version);
        Ok(forgotten)
    }

    /// What a reader is answered.
    pub(crate) fn find(&self, world: u64, key: &Key) -> Option<&Record> {
        self.storage.find(self.now(world).mono, key).map(|held| &held.record)
    }

    /// Which versions are over, or were seen beneath what certifies itself.
    pub(crate) fn floor(&self, world: u64, key: &Key) -> Option<Tombstone> {
        self.storage.tombstone(self.now(world), key)
    }

    /// Whether it knows that `copy` is over: by a tombstone, or by its clock.
    pub(crate) fn knows_the_end_of(&self, world: u64, copy: &Copy) -> bool {
        let now = self.now(world);
        let Copy { record, age } = copy;
        let tombstone = self.storage.tombstone(now, &record.key).unwrap_or_default();
        tombstone.beats(record.rank().precedence()).is_some()
            || end_of_life(now, record.ttl, *age, record.class, record.version).is_none()
    }
}

impl Memory {
    /// Of hashed records nothing is remembered: the same bytes may come back.
    fn of(&mut self, class: Class) -> Option<&mut Read> {
        match class {
            Class::Plain => Some(&mut self.plain),
            Class::Signed => Some(&mut self.signed),
            Class::Hashed => None,
        }
    }
}

impl Read {
    /// A replica whose tombstones give way remembers no more than what it `knows`.
    fn forget(&mut self, knows: Option<Version>) -> u64 {
        let largest = self.largest.as_ref().map(|(version, _)| *version);
        if largest.max(self.ended) <= knows {
            return 0;
        }
        *self = Self::default();
        1
    }
}

fn empty(bytes_max: usize) -> Storage {
    Storage::new(NodeId::new(Key::new([0; 32])), bytes_max, KeySeed::new([1, 2, 3, 4]))
}

/// What a clock says that is so many milliseconds ahead.
pub(crate) fn wall(world: u64, skew: i64) -> WallTime {
    WallTime::from_millis((EPOCH + world).checked_add_signed(skew).expect("far from both ends"))
}

/// The order of `PROTOCOL.md` 3, said once more.
pub(crate) fn order(record: &Record) -> (bool, u64, &[u8]) {
    (record.class != Class::Plain, record.version.bits(), &record.value)
}
