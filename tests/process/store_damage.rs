//! A store with a file that was cut, flipped, zeroed or shuffled: the store is refused, or all of it is read
//! correctly.
//!
//! Each variant follows from a seed and its number. Stores of many segments, and segments that are missing or
//! exchanged, are in the tests of `src/disk`.

use std::fs;
use std::path::Path;

use crate::common::process::Process;
use crate::common::{Scratch, dht_server};
use dht::disk::store::{Store, StoreError, Trust};
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

/// The files of a store, and its content.
struct Original {
    files: Vec<(&'static str, Vec<u8>)>,
    keys: Vec<PersistedKey>,
}

impl Original {
    /// Writes the keys in two batches; the second replaces some of the first. The files are as the store
    /// leaves them at a close, or as a killed process leaves them.
    fn write(path: &Path, end: End) -> Self {
        let mut store = Store::open(path, [7; 16]).expect("a new store");
        let first: Vec<_> = (0..KEYS / 2).map(|number| state(number, 0)).collect();
        let second: Vec<_> = (KEYS / 4..KEYS).map(|number| state(number, 1)).collect();
        store
            .write(&Batch { sync: true, keys: first.clone(), contacts: Some(Vec::new()), ..Batch::default() })
            .expect("it is written");
        store.write(&Batch { sync: true, keys: second.clone(), ..Batch::default() }).expect("it is written");
        if end == End::Closed {
            drop(store);
        }
        let read = |file| (file, fs::read(path.join(file)).expect("the file"));
        let files = ["00000001.log", "state"].map(read).to_vec();
        let last = first[..usize::try_from(KEYS / 4).expect("few")].iter().chain(&second).cloned().collect();
        Self { files, keys: in_order(last) }
    }

    /// Writes the files with the damage number `variant` to the directory `path`.
    fn write_damaged(&self, variant: u64, path: &Path) {
        let mut rng = StdRng::seed_from_u64(variant);
        let mut files = self.files.clone();
        let of_log = variant % 10 < 8;
        let bytes = &mut files[usize::from(!of_log)].1;
        let page_size = PAGE.min(bytes.len() / 3);
        let mut page = || rng.random_range(0..bytes.len() / page_size) * page_size;
        let (here, there) = (page(), page());
        match variant % 4 {
            0 => bytes.truncate(rng.random_range(0..bytes.len())),
            1 => bytes[here + rng.random_range(0..page_size)] ^= 1 << rng.random_range(0..8),
            2 => bytes[here..here + page_size].fill(0),
            _ => {
                let page = bytes[here..here + page_size].to_vec();
                bytes.copy_within(there..there + page_size, here);
                bytes[there..there + page_size].copy_from_slice(&page);
            }
        }
        fs::create_dir_all(path).expect("a directory for this test");
        for (file, bytes) in files {
            fs::write(path.join(file), bytes).expect("a file for this test");
        }
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
    let store = Store::reopen(path, Trust::All)?;
    store.contacts()?;
    let mut keys = Vec::new();
    store.read_keys(|some| keys.extend(some))?;
    Ok(in_order(keys))
}

/// Whether the store at `path`, which is a damaged `original`, is refused. Otherwise all of it is read correctly.
fn is_refused(original: &Original, path: &Path) -> bool {
    match read(path) {
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("records/") && text.contains("move the directory"), "{text}");
            assert!(error.fault().is_damage(), "{text}");
            true
        }
        Ok(keys) if keys == original.keys => false,
        Ok(keys) => panic!("{} keys that no batch has left so", keys.len()),
    }
}

fn expect_refused_or_right(end: End) {
    let scratch = Scratch::new();
    let original = Original::write(&scratch.path("original"), end);
    let path = scratch.path("records");
    let mut refused = 0;
    for variant in 0..VARIANTS / 2 {
        original.write_damaged(variant, &path);
        if is_refused(&original, &path) {
            refused += 1;
            // The refused attempt changes nothing: a second start does not accept what the first refused.
            assert!(is_refused(&original, &path), "variant {variant} of {end:?}");
        }
    }
    println!("{end:?}: {refused} refused"); // for --nocapture
    assert!((VARIANTS / 4..VARIANTS / 2).contains(&refused), "{refused} refused");
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
    let original = Original::write(&scratch.path("original"), End::Closed);
    let path = scratch.path("data").join("records");
    let mut refused = 0;
    for variant in 0..VARIANTS_OF_SERVERS {
        let _ = fs::remove_dir_all(&path);
        original.write_damaged(variant, &path);
        let mut server = Process::spawn(dht_server().arg("-c").arg(&config));
        let line = server.stderr().nth_line_with("records", 0);
        if line.contains("loaded records=") {
            server.stderr().line_with("listening api=");
            server.signal("TERM");
            assert_eq!(server.wait().code(), Some(0), "{variant}");
        } else {
            assert!(line.contains("data/records/") && line.contains("move the directory"), "{variant}: {line}");
            assert_eq!(server.wait().code(), Some(1), "{variant}: {line}");
            refused += 1;
        }
    }
    assert!((1..VARIANTS_OF_SERVERS).contains(&refused), "{refused} refused");
    fs::rename(&path, scratch.path("away")).expect("the way out");
    let server = Process::spawn(dht_server().arg("-c").arg(&config));
    server.stderr().line_with("loaded records=0 contacts=0");
}
