//! How fast the store is on the disk of this machine. Prints figures and asserts none of them.

use std::time::Instant;

use crate::disk::store::tests::{ID, batch, persisted};
use crate::disk::store::{Effort, Store, Trust};
use crate::disk::tests::Scratch;

/// Distinct keys of 100 bytes.
const KEYS: u64 = 632_000;

/// As many as one batch of a node has at most.
const KEYS_PER_BATCH: u64 = 4_096;

#[test]
#[ignore = "writes 500 MB"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn the_throughput_of_the_store_is_printed() {
    let scratch = Scratch::new("throughput");
    let path = scratch.0.join("records");
    let mut store = Store::open(&path, ID).expect("a new store");
    let mut written = Vec::new();
    for _ in 0..3 {
        let mut took = std::time::Duration::ZERO;
        for begin in (0..KEYS).step_by(4_096) {
            let keys = batch((begin..KEYS.min(begin + KEYS_PER_BATCH)).map(|number| persisted(number, 100)));
            let begun = Instant::now();
            store.write(&keys).expect("the disk works");
            store.clean(Effort::Due).expect("the disk works");
            took += begun.elapsed();
        }
        written.push(took);
    }
    let begun = Instant::now();
    store.clean_all(Effort::Due);
    let cleaned = begun.elapsed();
    let (live, segments) = (store.live_bytes(), store.segments());
    drop(store);
    let begun = Instant::now();
    let store = Store::reopen(&path, Trust::All).expect("the store is intact");
    let opened = begun.elapsed();
    let mut read = 0;
    store.read_keys(|some| read += some.len()).expect("the store is intact");
    let all = begun.elapsed();
    println!("keys={KEYS} written_and_twice_overwritten={written:?} cleaned={cleaned:?} live_bytes={live}");
    println!("segments={segments} opened={opened:?} opened_and_read={all:?} keys={read}");
}
