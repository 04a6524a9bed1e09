//! A store file that was cut, flipped, zeroed or shuffled: the store refuses it, or reads all of it
//! correctly.
//!
//! Each variant follows from a seed and its number. Correct is the state of the last commit, or of the
//! one before it: if the first bytes of the file say that the last commit never ended, no more can be
//! seen.

use std::fs;
use std::path::Path;

use crate::common::process::Process;
use crate::common::{Scratch, dht_server};
use dht::disk::store::{Store, StoreError, StoreFault};
use dht::id::Key;
use dht::node::persisted::{Batch, PersistedKey, PersistedRecord, SavedAt};
use dht::record::{Age, Class, Record, Source, Tombstone, Ttl, Version, crc_of};
use dht::time::WallTime;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const PAGE: usize = 4096;
const VARIANTS: u64 = 1_000;
const VARIANTS_OF_SERVERS: u64 = 20;

/// Keys of the store; a tenth of them are tombstones.
const KEYS: u64 = 400;

/// A store file, and its content after its last two commits.
struct Original {
    bytes: Vec<u8>,
    commits: [Vec<PersistedKey>; 2],
}

impl Original {
    /// Writes the keys in two batches; the second replaces some of the first. The file is as the store
    /// leaves it at a close, or as a killed process leaves it.
    fn write(path: &Path, end: End) -> Self {
        let mut store = Store::open(path).expect("a new store");
        let first: Vec<_> = (0..KEYS / 2).map(|number| state(number, 0)).collect();
        let second: Vec<_> = (KEYS / 4..KEYS).map(|number| state(number, 1)).collect();
        store.write(&Batch { keys: first.clone(), contacts: Some(Vec::new()) }).expect("it is written");
        store.write(&Batch { keys: second.clone(), contacts: None }).expect("it is written");
        if end == End::Closed {
            drop(store);
        }
        let bytes = fs::read(path).expect("the file");
        let last = first[..usize::try_from(KEYS / 4).expect("few")].iter().chain(&second).cloned().collect();
        Self { bytes, commits: [in_order(first), in_order(last)] }
    }

    /// The file with the damage number `variant`.
    fn damaged(&self, variant: u64) -> Vec<u8> {
        let mut rng = StdRng::seed_from_u64(variant);
        let mut bytes = self.bytes.clone();
        let used = self.used_pages();
        let mut page = || used[rng.random_range(0..used.len())] * PAGE;
        let (here, there) = (page(), page());
        match variant % 5 {
            0 => bytes.truncate(rng.random_range(0..bytes.len())),
            1 => bytes[here + rng.random_range(0..PAGE)] ^= 1 << rng.random_range(0..8),
            2 => bytes[rng.random_range(0..PAGE / 8)] = rng.random(), // where the file says what it is
            3 => bytes[here..here + PAGE].fill(0),
            _ => {
                let page = bytes[here..here + PAGE].to_vec();
                bytes.copy_within(there..there + PAGE, here);
                bytes[there..there + PAGE].copy_from_slice(&page);
            }
        }
        bytes
    }

    /// Pages that are not all zero.
    fn used_pages(&self) -> Vec<usize> {
        let pages = self.bytes.chunks_exact(PAGE).enumerate();
        pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0)).map(|(at, _)| at).collect()
    }
}

/// How the original was left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closed,
    Killed,
}

/// The key number `number` as the batch number `batch` has it.
fn state(number: u64, batch: u64) -> PersistedKey {
    let mut rng = StdRng::seed_from_u64(number);
    let key = Key::new(rng.random());
    if number.is_multiple_of(10) {
        let plain = Some(Version::from_bits(number << 16 | batch));
        return PersistedKey { key, record: None, tombstone: Some(Tombstone { signed: None, plain }) };
    }
    let value: Vec<u8> = (0..rng.random_range(1..1_500)).map(|_| rng.random()).collect();
    let record = Record {
        key,
        class: Class::Plain,
        version: Version::from_bits(number << 16 | batch),
        ttl: Ttl::from_secs(3600).expect("not zero"),
        replication: 8,
        crc: crc_of(&value),
        value: value.into(),
    };
    let kept = PersistedRecord {
        record,
        age: Age(5),
        saved: SavedAt { wall: WallTime::from_millis(number), boot: None },
        source: Source::Client,
    };
    PersistedKey { key, record: Some(kept), tombstone: None }
}

fn in_order(mut keys: Vec<PersistedKey>) -> Vec<PersistedKey> {
    keys.sort_by_key(|kept| *kept.key.as_bytes());
    keys
}

fn read(path: &Path) -> Result<Vec<PersistedKey>, StoreError> {
    let store = Store::open(path)?;
    store.contacts()?;
    store.keys().collect()
}

/// What the store makes of the file at `path`, which is a damaged `original`.
fn judge(original: &Original, path: &Path) -> Judgement {
    match read(path) {
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("records.redb") && text.contains("move the file away"), "{text}");
            assert!(!matches!(error.fault(), StoreFault::Io(_) | StoreFault::Held), "{text}");
            Judgement::Refused
        }
        Ok(keys) if keys == original.commits[1] => Judgement::Last,
        Ok(keys) if keys == original.commits[0] => Judgement::BeforeLast,
        Ok(keys) => panic!("{} keys that no commit has left so", keys.len()),
    }
}

enum Judgement {
    Refused,
    Last,
    BeforeLast,
}

/// The outcomes of the damaged variants of one original.
#[derive(Debug, Default)]
struct Tally {
    refused: u64,
    last: u64,
    before_last: u64,
}

fn tally(end: End) -> Tally {
    let scratch = Scratch::new();
    let original = Original::write(&scratch.path("original.redb"), end);
    let path = scratch.path("records.redb");
    let mut tally = Tally::default();
    for variant in 0..VARIANTS / 2 {
        fs::write(&path, original.damaged(variant)).expect("a file for this test");
        match judge(&original, &path) {
            Judgement::Refused => {
                tally.refused += 1;
                // The refused attempt changes nothing: a second start does not accept what the first
                // refused.
                match judge(&original, &path) {
                    Judgement::Refused | Judgement::Last => {}
                    Judgement::BeforeLast => panic!("variant {variant} of {end:?} went back at its second start"),
                }
            }
            Judgement::Last => tally.last += 1,
            Judgement::BeforeLast => tally.before_last += 1,
        }
    }
    tally
}

fn expect_refused_or_right(end: End) {
    let tally = tally(end);
    println!("{end:?}: {tally:?}"); // for --nocapture
    assert!(tally.refused > VARIANTS / 10 && tally.last > 0, "the damage was none: {tally:?}");
    assert!(tally.before_last < VARIANTS / 50, "{tally:?}");
}

#[test]
fn a_damaged_store_of_a_stopped_node_is_refused_or_read_completely() {
    expect_refused_or_right(End::Closed);
}

#[test]
fn a_damaged_store_of_a_killed_node_is_refused_or_read_completely() {
    expect_refused_or_right(End::Killed);
}

#[test]
fn a_server_with_a_damaged_store_starts_correctly_or_names_the_fault_and_the_remedy() {
    let scratch = Scratch::new();
    let config = scratch.write_config("");
    let original = Original::write(&scratch.path("original.redb"), End::Closed);
    let path = scratch.path("data").join("records.redb");
    fs::create_dir_all(scratch.path("data")).expect("a directory for this test");
    let mut refused = 0;
    for variant in 0..VARIANTS_OF_SERVERS {
        fs::write(&path, original.damaged(variant)).expect("a file for this test");
        let mut server = Process::spawn(dht_server().arg("-c").arg(&config));
        let mut lines = (0..).map(|skipped| server.stderr().nth_line_with("records", skipped));
        let line = lines.find(|line| !line.contains("repaired")).expect("there is always a next line");
        if line.contains("loaded records=") {
            server.stderr().line_with("listening api=");
            server.signal("TERM");
            assert_eq!(server.wait().code(), Some(0), "{variant}");
        } else {
            assert!(line.contains("data/records.redb") && line.contains("move the file away"), "{variant}: {line}");
            assert_eq!(server.wait().code(), Some(1), "{variant}: {line}");
            refused += 1;
        }
    }
    assert!((1..VARIANTS_OF_SERVERS).contains(&refused), "{refused} refused");
    fs::rename(&path, scratch.path("away.redb")).expect("the way out");
    let server = Process::spawn(dht_server().arg("-c").arg(&config));
    server.stderr().line_with("loaded records=0 contacts=0");
}
