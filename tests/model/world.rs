//! Replicas, the messages between them, and those who write: one step after the other, all drawn
//! from one seed.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use dht::id::Key;
use dht::identity::PublicKey;
use dht::limits::CLOCK_SKEW_MAX;
use dht::record::envelope::{ENVELOPE_SIZE_MIN, hashed_key, owned_key, seal};
use dht::record::{Age, Class, Record, Ttl, Version, crc_of};
use dht::storage::{RECORD_OVERHEAD, Stored, TOMBSTONE_BYTES};
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::replica::{Copy, Replica, Taken, order, wall};

static KEYS: LazyLock<[Key; 3]> =
    LazyLock::new(|| [Key::new([1; 32]), owned_key(&PublicKey::of(&OWNER), b""), hashed_key(HASHED_VALUE)]);
const PLAIN: usize = 0;
const OWNED: usize = 1;
const HASHED: usize = 2;

/// Replicas verify what they restore, so the owner signs, and the hashed value has its key.
static OWNER: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[1; 32]));
const HASHED_VALUE: &[u8] = b"hash";

/// How long a message may be under way, in milliseconds, where nobody attacks.
const TRANSIT_MAX: u64 = 10_000;

/// Largest plain value that is written, and largest payload that is signed, in bytes.
const VALUE_MAX: usize = 4;

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A record from the future was read.
    Future { key: Key },
    /// An older version was read after a newer one.
    Older { key: Key },
    /// A version was read whose end had been seen.
    Resurrected { key: Key },
    /// A plain record was read while a signed one could be alive.
    Outranked { key: Key },
    /// A record that came in made one read less.
    Less { key: Key },
    /// A record was read beyond the end of its life.
    Prolonged { key: Key },
    /// Two replicas disagree though nothing parts them.
    Disagreeing { key: Key, replicas: (usize, usize) },
    /// A record was refused for want of room, which there was.
    Full,
}

/// What happened, over many schedules.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) held: u64,
    pub(crate) larger: u64,
    pub(crate) over: u64,
    pub(crate) too_early: u64,
    pub(crate) no_life: u64,
    pub(crate) crashes: u64,
    pub(crate) forgotten: u64,
    pub(crate) reads: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put {
        at: usize,
        key: usize,
        ttl: Ttl,
        to: u8,
    },
    /// The owner signs a version, whose time may be past, and may sign the same one twice.
    Sign {
        ago: u64,
        twice: bool,
        ttl: Ttl,
        to: u8,
    },
    Hash {
        ttl: Ttl,
        to: u8,
    },
    HandOn {
        at: usize,
        key: usize,
        to: u8,
    },
    Attack(Attack),
    Deliver {
        count: usize,
    },
    Wait {
        millis: u64,
    },
    Sweep {
        at: usize,
        max: usize,
    },
    Save {
        at: usize,
    },
    Crash {
        at: usize,
        millis: u64,
    },
    Split {
        sides: u8,
    },
}

#[derive(Clone, Copy, Debug)]
enum Attack {
    /// A plain record with the largest version there is.
    Largest { key: usize, to: u8 },
    /// A plain record from so many milliseconds ahead of a right clock, which a clock that is ahead
    /// may take.
    Ahead { key: usize, millis: u64, to: u8 },
    /// A record of before, as if it were new; with a longer TTL, where nobody has signed it.
    Replay { which: usize, to: u8 },
    /// A plain record with the version of one of before, and another value.
    Tie { which: usize, to: u8 },
}

/// What tells one record from another: the number of its key, version and value.
type Written = (usize, Version, Vec<u8>);

struct Message {
    to: usize,
    sent: u64,
    copy: Copy,
}

pub(crate) struct World {
    rng: StdRng,
    /// Milliseconds since the world began.
    now: u64,
    replicas: Vec<Replica>,
    /// The side of each replica, a bit each: messages do not cross.
    sides: u8,
    messages: Vec<Message>,
    /// All that was ever written.
    written: Vec<Record>,
    /// Where nobody attacks, until when each record may be read.
    ends: Option<BTreeMap<Written, u64>>,
    /// Whether tombstones may have to give way.
    is_tight: bool,
    owner_skew: i64,
    delivered: u64,
    trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let is_tight = rng.random_bool(0.3);
        let values = KEYS.len() * VALUE_MAX + ENVELOPE_SIZE_MIN;
        let room = KEYS.len() * RECORD_OVERHEAD + values + rng.random_range(0..3) * TOMBSTONE_BYTES;
        let bytes_max = if is_tight { room } else { usize::MAX };
        // Two clocks are at most CLOCK_SKEW_MAX apart.
        let half = i64::try_from(CLOCK_SKEW_MAX.as_millis() / 2).expect("five minutes fit");
        let count = rng.random_range(3..=6);
        let replicas = (0..count).map(|_| Replica::new(bytes_max, rng.random_range(-half..=half))).collect();
        Self {
            now: 0,
            replicas,
            sides: 0,
            messages: Vec::new(),
            written: Vec::new(),
            ends: rng.random_bool(0.5).then(BTreeMap::new),
            is_tight,
            owner_skew: rng.random_range(-half..=half),
            delivered: 0,
            trace: None,
            rng,
        }
    }

    /// The same world, keeping a line of every step.
    pub(crate) fn traced(mut self) -> Self {
        self.trace = Some(Vec::new());
        self
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// Lives through a schedule and its end.
    pub(crate) fn run(&mut self, tally: &mut Tally) -> Result<(), Broken> {
        for _ in 0..self.rng.random_range(20..60) {
            let step = self.draw();
            self.note(|| format!("{step:?}"));
            self.step(step, tally)?;
            self.read_all(tally)?;
        }
        self.heal(tally)
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12} ms  {}", self.now, line()));
        }
    }

    fn draw(&mut self) -> Step {
        let rng = &mut self.rng;
        let at = rng.random_range(0..self.replicas.len());
        let key = rng.random_range(0..KEYS.len());
        let to = rng.random();
        let seconds = [1, 60, 600, 3_600, 20_000, 65_535][rng.random_range(0..6)];
        let ttl = Ttl::from_secs(seconds).expect("none is zero");
        match rng.random_range(0..100) {
            0..14 => Step::Put { at, key, ttl, to },
            14..22 => {
                let ago = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..40_000_000) };
                Step::Sign { ago, twice: rng.random_bool(0.1), ttl, to }
            }
            22..26 => Step::Hash { ttl, to },
            26..38 => Step::HandOn { at, key, to },
            38..48 if self.ends.is_none() => {
                let which = rng.random_range(0..usize::MAX);
                Step::Attack(match rng.random_range(0..8) {
                    0 => Attack::Largest { key, to },
                    1..3 => Attack::Ahead { key, millis: rng.random_range(0..3_600_000), to },
                    3..6 => Attack::Replay { which, to },
                    _ => Attack::Tie { which, to },
                })
            }
            38..68 => Step::Deliver { count: rng.random_range(1..6) },
            68..82 => {
                let longest = [1_000, 10_000, 600_000, 3_600_000, 39_600_000][rng.random_range(0..5)];
                Step::Wait { millis: rng.random_range(0..=longest) }
            }
            82..87 => Step::Sweep { at, max: rng.random_range(1..4) },
            87..92 => Step::Save { at },
            92..96 => Step::Crash { at, millis: rng.random_range(0..7_200_000) },
            _ => Step::Split { sides: rng.random() },
        }
    }

    fn step(&mut self, step: Step, tally: &mut Tally) -> Result<(), Broken> {
        match step {
            Step::Put { at, key, ttl, to } => {
                let version = self.replicas[at].draw(self.now, &KEYS[key], self.rng.random());
                let record = self.write(key, Class::Plain, version, ttl);
                self.send(Some(at), to, &record, Age(0));
                self.take(at, Copy { record, age: Age(0) }, tally)?;
            }
            Step::Sign { ago, twice, ttl, to } => {
                let clock = wall(self.now.saturating_sub(ago), self.owner_skew);
                let version = Version::draw(clock, self.rng.random(), None);
                for _ in 0..=usize::from(twice) {
                    let record = self.write(OWNED, Class::Signed, version, ttl);
                    self.send(None, to, &record, Age(0));
                }
            }
            Step::Hash { ttl, to } => {
                let record = record_of(HASHED, Class::Hashed, Version::from_bits(0), ttl, HASHED_VALUE);
                self.note_written(HASHED, &record);
                self.send(None, to, &record, Age(0));
            }
            Step::HandOn { at, key, to } => {
                if let Some(Copy { record, age }) = self.replicas[at].copy(self.now, &KEYS[key]) {
                    self.send(Some(at), to, &record, age);
                }
            }
            Step::Attack(attack) => self.attack(attack),
            Step::Deliver { count } => {
                for _ in 0..count {
                    self.deliver(tally)?;
                }
            }
            Step::Wait { millis } => self.now += millis,
            Step::Sweep { at, max } => self.replicas[at].sweep(self.now, max),
            Step::Save { at } => self.replicas[at].save(self.now),
            Step::Crash { at, millis } => {
                tally.crashes += 1;
                self.now += millis;
                self.replicas[at].restart(self.now);
            }
            Step::Split { sides } => self.sides = sides,
        }
        Ok(())
    }

    fn attack(&mut self, attack: Attack) {
        let ttl = Ttl::from_secs(u16::MAX).expect("not zero");
        let (record, to) = match attack {
            Attack::Largest { key, to } => (self.write(key, Class::Plain, Version::from_bits(u64::MAX), ttl), to),
            Attack::Ahead { key, millis, to } => {
                let version = Version::draw(wall(self.now + millis, 0), self.rng.random(), None);
                (self.write(key, Class::Plain, version, ttl), to)
            }
            Attack::Replay { which, to } => {
                let Some(record) = self.written.get(which % self.written.len().max(1)) else { return };
                let ttl = if record.class == Class::Signed { record.ttl } else { ttl };
                (Record { ttl, ..record.clone() }, to)
            }
            Attack::Tie { which, to } => {
                let Some(record) = self.written.get(which % self.written.len().max(1)) else { return };
                let key = KEYS.iter().position(|key| *key == record.key).expect("one of them");
                let version = record.version;
                (self.write(key, Class::Plain, version, ttl), to)
            }
        };
        self.send(None, to, &record, Age(0));
    }

    /// Somebody writes a value that was never written before, or once in a while was.
    fn write(&mut self, key: usize, class: Class, version: Version, ttl: Ttl) -> Record {
        let payload = self.rng.random::<[u8; 2]>();
        let value = if class == Class::Signed { seal(&OWNER, version, ttl, b"", &payload) } else { payload.into() };
        let record = record_of(key, class, version, ttl, &value);
        self.note_written(key, &record);
        record
    }

    fn note_written(&mut self, key: usize, record: &Record) {
        self.written.push(record.clone());
        if let Some(ends) = &mut self.ends {
            let end = ends.entry((key, record.version, record.value.to_vec())).or_default();
            *end = (*end).max(self.now + u64::from(record.ttl.as_secs()) * 1_000);
        }
    }

    /// Sends a record to those in the set `to`, as far as `from` reaches them.
    fn send(&mut self, from: Option<usize>, to: u8, record: &Record, age: Age) {
        for other in 0..self.replicas.len() {
            let parted = from.is_some_and(|from| (self.sides >> from ^ self.sides >> other) & 1 == 1);
            if to >> other & 1 == 1 && !parted {
                let copy = Copy { record: record.clone(), age };
                self.messages.push(Message { to: other, sent: self.now, copy });
            }
        }
    }

    /// Delivers one of the messages under way, whichever, and perhaps not for the last time.
    fn deliver(&mut self, tally: &mut Tally) -> Result<(), Broken> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let which = self.rng.random_range(0..self.messages.len());
        let Message { to, sent, copy } = self.messages.swap_remove(which);
        if self.ends.is_some() && self.now - sent > TRANSIT_MAX {
            return Ok(());
        }
        if self.rng.random_bool(0.2) {
            self.messages.push(Message { to, sent, copy: copy.clone() });
        }
        self.delivered += 1;
        self.take(to, copy, tally)
    }

    fn take(&mut self, at: usize, copy: Copy, tally: &mut Tally) -> Result<(), Broken> {
        self.note(|| format!("  at {at}: {:?}", (&copy.record.key, copy.record.class, copy.record.version, copy.age)));
        let taken = self.replicas[at].take(self.now, copy)?;
        self.note(|| format!("  {taken:?}"));
        *match taken {
            Taken::TooEarly => &mut tally.too_early,
            Taken::NoLife => &mut tally.no_life,
            Taken::Stored(Stored::Held) => &mut tally.held,
            Taken::Stored(Stored::Larger(_)) => &mut tally.larger,
            Taken::Stored(Stored::Over) => &mut tally.over,
            Taken::Stored(Stored::Full) => return Err(Broken::Full),
        } += 1;
        self.read_all(tally)
    }

    fn read_all(&mut self, tally: &mut Tally) -> Result<(), Broken> {
        let slack = self.delivered * TRANSIT_MAX;
        for replica in &mut self.replicas {
            for (number, key) in KEYS.iter().enumerate() {
                tally.forgotten += replica.read(self.now, key)?;
                tally.reads += 1;
                let Some((ends, found)) = self.ends.as_ref().zip(replica.find(self.now, key)) else { continue };
                let end = ends[&(number, found.version, found.value.to_vec())];
                if self.now >= end + slack {
                    return Err(Broken::Prolonged { key: *key });
                }
            }
        }
        Ok(())
    }

    /// The network heals; twice the skew later everybody tells everybody what it holds.
    fn heal(&mut self, tally: &mut Tally) -> Result<(), Broken> {
        self.messages.clear();
        self.now += u64::try_from(2 * CLOCK_SKEW_MAX.as_millis()).expect("twenty minutes fit");
        self.note(|| "healed".to_owned());
        self.read_all(tally)?;
        // A tombstone that gives way during an exchange makes room for what the next one brings: each
        // of them has one record more, or is the last.
        let exchanges = if self.is_tight { self.replicas.len() * KEYS.len() } else { 1 };
        let mut end = Ok(());
        for _ in 0..exchanges {
            self.exchange(tally)?;
            end = self.judge();
            if end.is_ok() {
                break;
            }
        }
        end
    }

    fn judge(&self) -> Result<(), Broken> {
        for one in 0..self.replicas.len() {
            for other in 0..self.replicas.len() {
                for key in *KEYS {
                    if !self.agree(one, other, &key) {
                        return Err(Broken::Disagreeing { key, replicas: (one, other) });
                    }
                }
            }
        }
        Ok(())
    }

    fn exchange(&mut self, tally: &mut Tally) -> Result<(), Broken> {
        for from in 0..self.replicas.len() {
            for key in *KEYS {
                let Some(copy) = self.replicas[from].copy(self.now, &key) else { continue };
                for to in (0..self.replicas.len()).filter(|to| *to != from) {
                    self.take(to, copy.clone(), tally)?;
                }
            }
        }
        Ok(())
    }

    /// Whether `other` has what `one` reads of `key`, or knows better.
    fn agree(&self, one: usize, other: usize, key: &Key) -> bool {
        let Some(copy) = self.replicas[one].copy(self.now, key) else { return true };
        let found = self.replicas[other].find(self.now, key);
        found.is_some_and(|found| order(found) >= order(&copy.record))
            || self.replicas[other].knows_the_end_of(self.now, &copy)
    }
}

fn record_of(key: usize, class: Class, version: Version, ttl: Ttl, value: &[u8]) -> Record {
    let envelope = if class == Class::Signed { ENVELOPE_SIZE_MIN } else { 0 };
    assert!(value.len() <= envelope + VALUE_MAX, "there is room for so much");
    Record { key: KEYS[key], class, version, ttl, replication: 8, crc: crc_of(value), value: value.into() }
}

/// Three random records of one key, in each order and one of them twice, end in one state.
pub(crate) fn merge_three(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut any = || {
        let value = [rng.random_range(0..2_u8)];
        let ttl = Ttl::from_secs(rng.random_range(1..4)).expect("not zero");
        let (class, version) = match rng.random_range(0..3) {
            0 => (Class::Hashed, Version::from_bits(0)),
            1 => (Class::Signed, Version::draw(wall(rng.random_range(0..3), 0), 0, None)),
            _ => (Class::Plain, Version::draw(wall(rng.random_range(0..3), 0), 0, None)),
        };
        record_of(PLAIN, class, version, ttl, &value)
    };
    let three = [any(), any(), any()];
    let end = |order: &[usize]| {
        let mut replica = Replica::new(usize::MAX, 0);
        for which in order {
            let copy = Copy { record: three[*which].clone(), age: Age(0) };
            replica.take(10, copy).expect("what comes in makes nobody read less");
        }
        let end = replica.copy(10, &KEYS[PLAIN]).expect("one of them is held");
        (end.record, end.age, replica.floor(10, &KEYS[PLAIN]))
    };
    let first = end(&[0, 1, 2]);
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        assert_eq!(end(&order), first, "seed {seed}, order {order:?} of {three:?}");
    }
    for again in 0..3 {
        assert_eq!(end(&[0, 1, 2, again]), first, "seed {seed}, {again} again of {three:?}");
    }
}
