//! Random histories of a store on a simulated disk that crashes, fails or is full, against a model of what was
//! written.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::disk::simulated::{Fault, SimulatedDisk};
use crate::disk::store::tests::{batch, in_order, pack, persisted};
use crate::disk::store::{Cleaned, Effort, Store, StoreError, Trust};
use crate::node::persisted::{Batch, Pack, PersistedKey};
use crate::record::Version;

/// A small segment: it has room for about ten entries.
const SEGMENT_SIZE: u32 = 2_048;

/// Keys of a history.
const KEYS: u64 = 24;

/// Steps of a history.
pub(super) const STEPS: u64 = 40;

/// What a store may contain: the number of each key or pack, and which batch wrote it.
type Content = BTreeMap<u64, u64>;

/// The key `number` as the batch `number_of_batch` writes it.
fn state(number: u64, number_of_batch: u64) -> PersistedKey {
    let size = usize::try_from((number * 37 + number_of_batch * 101) % 400 + 1).expect("a small number");
    let mut state = persisted(number, size);
    if let Some(record) = &mut state.record {
        record.record.version = Version::from_bits(number_of_batch);
    }
    state
}

fn removal(number: u64) -> PersistedKey {
    PersistedKey { record: None, tombstone: None, ..persisted(number, 1) }
}

/// Whether a number of a history is that of a pack.
fn is_pack(number: u64) -> bool {
    number < KEYS && number % 4 == 3
}

fn pack_of(number: u64, number_of_batch: u64) -> Pack {
    pack(u32::try_from(number).expect("a small number"), number_of_batch)
}

/// The keys and packs of a store.
type Stored = (Vec<PersistedKey>, Vec<Pack>);

fn stored_of(content: &Content) -> Stored {
    let all = |of_packs| content.iter().filter(move |(number, _)| is_pack(**number) == of_packs);
    let mut packs: Vec<Pack> = all(true).map(|(number, batch)| pack_of(*number, *batch)).collect();
    packs.sort_by_key(|pack| pack.id);
    (in_order(all(false).map(|(number, batch)| state(*number, *batch))), packs)
}

fn found_in(store: &Store) -> Result<Stored, StoreError> {
    Ok((in_order(store.try_all()?), store.packs()?))
}

/// A store, and all contents that it may have.
pub(super) struct History {
    pub(super) disk: SimulatedDisk,
    store: Option<Store>,
    /// After a crash of the process.
    possible: Vec<Content>,
    /// After a power failure besides: those since the last sync.
    unsynced: Vec<Content>,
    rng: StdRng,
    /// Whether a call failed.
    pub(super) has_failed: bool,
    /// What the store that failed said of itself.
    trust: Trust,
}

impl History {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let disk = SimulatedDisk::default();
        disk.inject(fault);
        let possible = vec![Content::new()];
        let rng = StdRng::seed_from_u64(seed);
        Self { disk, store: None, possible, unsynced: Vec::new(), rng, has_failed: false, trust: Trust::All }
    }

    /// Runs all steps, or to the first failure if `ends_at_failure`.
    pub(super) fn run(mut self, ends_at_failure: bool) -> Self {
        for number in 0..STEPS {
            self.step(number);
            if self.has_failed && ends_at_failure {
                break;
            }
        }
        self
    }

    fn open(&self) -> Result<Store, StoreError> {
        match self.trust {
            Trust::All => Store::on_simulated(&self.disk, SEGMENT_SIZE),
            Trust::NotNewest | Trust::Nothing => Store::on_again(&self.disk, SEGMENT_SIZE, self.trust),
        }
    }

    pub(super) fn step(&mut self, number: u64) {
        let choice = self.rng.random_range(0..20);
        let count = if number % 7 == 3 { 20 } else { self.rng.random_range(1..6) };
        let keys: BTreeMap<u64, bool> =
            (0..count).map(|_| (self.rng.random_range(0..KEYS), self.rng.random_bool(0.25))).collect();
        if self.store.is_none() {
            match self.open() {
                Ok(store) => {
                    self.trust = Trust::All;
                    let Ok(found) = found_in(&store) else {
                        store.kill();
                        return self.has_failed = true;
                    };
                    self.possible = vec![expect_one_of(&self.possible, &found)];
                    self.unsynced.clear(); // all that was found is on disk now
                    self.store = Some(store);
                }
                Err(_) => return self.has_failed = true,
            }
        }
        let mut store = self.store.take().expect("it was opened");
        match choice {
            0 => drop(store),
            1 => store.kill(),
            2..6 => match store.clean(if choice < 4 { Effort::Due } else { Effort::Idle }) {
                Ok(_) => self.store = Some(store),
                Err(_) => self.failed(store),
            },
            _ => self.write(store, number, &keys),
        }
    }

    /// Writes the state or the removal of each of `keys`.
    fn write(&mut self, mut store: Store, number: u64, keys: &BTreeMap<u64, bool>) {
        let (packs, keys_alone): (Vec<_>, Vec<_>) = keys.iter().partition(|(key, _)| is_pack(**key));
        let states =
            keys_alone.iter().map(|(key, removed)| if **removed { removal(**key) } else { state(**key, number) });
        let packs = packs.iter().map(|(key, removed)| {
            let pack = pack_of(**key, number);
            Arc::new(if **removed { Pack::removed(pack.id) } else { pack })
        });
        let packs = packs.collect();
        let contacts = number.is_multiple_of(5).then(Vec::new);
        let sync = self.rng.random_bool(0.5);
        let written = store.write(&Batch { sync, packs, contacts, ..batch(states) });
        let before = std::mem::take(&mut self.possible);
        for content in &before {
            let mut after = content.clone();
            for (key, removed) in keys {
                if *removed {
                    after.remove(key)
                } else {
                    after.insert(*key, number)
                };
            }
            self.possible.push(after);
        }
        if written.is_ok() {
            self.store = Some(store);
            self.unsynced.extend(before);
            if sync {
                self.unsynced.clear();
            }
            return;
        }
        if store.is_usable() {
            self.possible = before;
        } else {
            self.possible.extend(before);
            self.possible.sort();
            self.possible.dedup();
        }
        self.failed(store);
    }

    /// An operation has failed.
    fn failed(&mut self, store: Store) {
        self.has_failed = true;
        self.trust = store.trust();
        assert_ne!(self.trust, Trust::Nothing, "no other process changes files of this disk");
        if self.trust != Trust::All {
            self.possible.extend(self.unsynced.iter().cloned()); // a sync failed, so what came before it may be gone
        }
        self.store = Some(store).filter(Store::is_usable);
    }

    /// Expects a possible content on the disk after a crash of the process.
    pub(super) fn expect_recovery_from_kill(&self, rng: &mut StdRng) {
        expect_recovery(&self.disk.after_kill(), &self.possible, rng);
    }

    /// Expects a possible content on the disk after a power failure.
    pub(super) fn expect_recovery_from_power_failure(&self, rng: &mut StdRng) {
        self.expect_recovery(&self.disk.after_power_failure(rng), rng);
    }

    /// Expects on `disk` what may be there after a power failure.
    fn expect_recovery(&self, disk: &SimulatedDisk, rng: &mut StdRng) {
        let possible: Vec<Content> = self.possible.iter().chain(&self.unsynced).cloned().collect();
        expect_recovery(disk, &possible, rng);
    }
}

/// The content with the keys and packs `found`, which must be one of `possible`.
fn expect_one_of(possible: &[Content], found: &Stored) -> Content {
    let content = possible.iter().find(|content| stored_of(content) == *found);
    content.unwrap_or_else(|| panic!("{} keys, none of {} contents", found.0.len(), possible.len())).clone()
}

/// Expects one of `possible` on `disk`, which stays the same after more crashes, and can be changed.
fn expect_recovery(disk: &SimulatedDisk, possible: &[Content], rng: &mut StdRng) {
    let store = Store::on_simulated(disk, SEGMENT_SIZE).expect("the store is intact");
    let found = found_in(&store).expect("the store is intact");
    let content = expect_one_of(possible, &found);
    store.kill();
    let again = disk.after_power_failure(rng);
    let mut store = Store::on_simulated(&again, SEGMENT_SIZE).expect("the store is intact");
    assert!(found_in(&store).expect("the store is intact") == found, "what was found is decided");
    let next = in_order([state(0, 1_000), state(KEYS, 1_000)]);
    store.write(&batch(next)).expect("the disk works");
    store.clean_all(Effort::Idle);
    store.kill();
    let mut expected = content;
    expected.extend([(0, 1_000), (KEYS, 1_000)]);
    let last = again.after_power_failure(rng);
    let store = Store::on_simulated(&last, SEGMENT_SIZE).expect("the store is intact");
    assert_eq!(found_in(&store).expect("the store is intact"), stored_of(&expected));
}

/// A crash at each call of a history, with several outcomes each; returns the number of crashes.
fn crash_everywhere(seed: u64) -> u64 {
    let calls = History::new(seed, None).run(true).disk.calls();
    for from in 0..calls {
        let history = History::new(seed, Some(Fault { from, until: u64::MAX, kind: ErrorKind::Other })).run(true);
        history.disk.inject(None);
        let mut rng = StdRng::seed_from_u64(seed << 32 | from);
        history.expect_recovery_from_kill(&mut rng);
        for _ in 0..3 {
            history.expect_recovery_from_power_failure(&mut rng);
        }
    }
    calls
}

#[test]
fn a_crash_at_any_call_loses_nothing_that_was_written() {
    let crashes = crash_everywhere(1) + crash_everywhere(2);
    assert!(crashes > 500, "{crashes}");
}

/// Power fails, and then again at each call of the next start.
#[test]
fn a_crash_while_the_store_is_opened_after_a_crash_loses_nothing_that_was_written() {
    let seed = 7;
    let calls = History::new(seed, None).run(true).disk.calls();
    let mut crashes = 0;
    for from in (0..calls).step_by(3) {
        let history = History::new(seed, Some(Fault { from, until: u64::MAX, kind: ErrorKind::Other })).run(true);
        let mut rng = StdRng::seed_from_u64(from);
        let first = history.disk.after_power_failure(&mut rng);
        for calls in 0.. {
            let second = first.after_kill();
            let from = second.calls() + calls;
            second.inject(Some(Fault { from, until: u64::MAX, kind: ErrorKind::Other }));
            let opened = Store::on_simulated(&second, SEGMENT_SIZE);
            let is_done = opened.map(Store::kill).is_ok();
            history.expect_recovery(&second.after_power_failure(&mut rng), &mut rng);
            if is_done {
                break;
            }
            crashes += 1;
        }
    }
    assert!(crashes > 500, "{crashes}");
}

/// Power fails, a call of the next start fails, and then power fails again.
#[test]
fn what_a_start_after_a_failed_start_has_found_is_decided() {
    let seed = 9;
    let calls = History::new(seed, None).run(true).disk.calls();
    let mut failures = 0;
    for from in (0..calls).step_by(2) {
        let history = History::new(seed, Some(Fault { from, until: u64::MAX, kind: ErrorKind::Other })).run(true);
        let mut rng = StdRng::seed_from_u64(from);
        let first = history.disk.after_kill();
        for calls in 0.. {
            let second = first.after_kill();
            let from = second.calls() + calls;
            second.inject(Some(Fault { from, until: from + 1, kind: ErrorKind::Other }));
            let opened = Store::on_simulated(&second, SEGMENT_SIZE);
            let is_done = opened.map(Store::kill).is_ok();
            second.inject(None);
            history.expect_recovery(&second, &mut rng);
            if is_done {
                break;
            }
            failures += 1;
        }
    }
    assert!(failures > 500, "{failures}");
}

#[test]
#[ignore = "takes a minute"]
fn ten_thousand_crashes_lose_nothing_that_was_written() {
    let mut crashes = 0;
    for seed in 100.. {
        crashes += crash_everywhere(seed);
        if crashes > 10_000 {
            return;
        }
    }
}

/// Calls of `kind` fail once, or several times in a row, at each place of a history.
fn fail_everywhere(seed: u64, kind: ErrorKind, times: u64) {
    let calls = History::new(seed, None).run(false).disk.calls();
    let mut failed = 0;
    for from in 0..calls {
        let history = History::new(seed, Some(Fault { from, until: from + times, kind })).run(false);
        failed += u64::from(history.has_failed);
        history.disk.inject(None);
        let mut rng = StdRng::seed_from_u64(seed << 32 | from);
        history.expect_recovery_from_kill(&mut rng);
        history.expect_recovery_from_power_failure(&mut rng);
    }
    assert!(failed > calls / 2, "{failed} of {calls}");
}

#[test]
fn a_failure_of_any_call_loses_nothing_that_was_written() {
    fail_everywhere(3, ErrorKind::Other, 1);
    fail_everywhere(4, ErrorKind::Other, 7);
}

/// The store goes on in another file, so that it does not matter that a page of the first one is lost.
#[test]
fn a_failed_sync_that_loses_a_page_that_was_synced_before_loses_nothing_that_was_written() {
    let seed = 8;
    let calls = History::new(seed, None).run(false).disk.calls();
    let mut untrusted = 0;
    for from in 0..calls {
        let fault = Fault { from, until: from + 1, kind: ErrorKind::Other };
        let mut history = History::new(seed, Some(fault));
        history.disk.lose_pages();
        let mut rng = StdRng::seed_from_u64(from);
        for number in 0..STEPS {
            history.step(number);
            untrusted += u64::from(history.trust == Trust::NotNewest);
            if history.has_failed && history.store.is_some() {
                history.expect_recovery(&history.disk.after_power_failure(&mut rng), &mut rng);
                break;
            }
        }
    }
    assert!(untrusted > 20, "{untrusted} of {calls}");
}

#[test]
fn a_full_disk_at_any_call_loses_nothing_that_was_written() {
    fail_everywhere(5, ErrorKind::StorageFull, 1);
    fail_everywhere(6, ErrorKind::StorageFull, 7);
}

/// A store in which some entries of each segment are outdated: the key `number` is written `number % 5` times more.
fn filled(disk: &SimulatedDisk) -> Store {
    let mut store = Store::on_simulated(disk, SEGMENT_SIZE).expect("a new store");
    for round in 0..5 {
        for number in (0..KEYS).filter(|number| number % 5 >= round) {
            store.write(&batch([state(number, round)])).expect("the disk has room");
        }
    }
    store
}

#[test]
fn cleaning_works_on_a_full_disk_and_makes_room_for_batches() {
    let disk = SimulatedDisk::default();
    let mut store = filled(&disk);
    disk.set_capacity(disk.used() + 10);
    store.write(&batch((0..8).map(|number| state(number, 9)))).expect_err("the disk is full");
    store.kill();
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("the store is intact");
    store.clean_all(Effort::Due);
    store.write(&batch((0..8).map(|number| state(number, 9)))).expect("there is room");
    let content = (0..KEYS).map(|number| state(number, if number < 8 { 9 } else { number % 5 }));
    assert_eq!(store.all(), in_order(content));
}

/// A batch that does not fit is withdrawn: its space is free again, and the next attempt reads nothing.
#[test]
fn a_batch_for_which_there_is_no_room_leaves_the_store_as_it_was() {
    for segments in [1, 3] {
        let disk = SimulatedDisk::default();
        let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store");
        let mut content = Vec::new();
        while store.segments() < segments || content.is_empty() {
            content.push(state(content.len() as u64 + 100, 0));
            store.write(&batch(content.last().cloned())).expect("the disk works");
        }
        let used = disk.used();
        for room in (0..2 * SEGMENT_SIZE as usize).step_by(101) {
            disk.set_capacity(used + room);
            let before = disk.calls();
            store.write(&batch((0..KEYS).map(|number| state(number, 9)))).expect_err("the disk is full");
            assert!(store.is_usable());
            assert!(disk.calls() - before < 40, "{} calls", disk.calls() - before);
        }
        let grown = disk.used() - used;
        assert!(grown <= 3 * SEGMENT_SIZE as usize && store.segments() <= segments + 2, "{grown}");
        assert_eq!(store.all(), in_order(content.clone()));
        disk.set_capacity(usize::MAX);
        store.write(&batch([state(1, 10)])).expect("there is room");
        content.push(state(1, 10));
        store.kill();
        assert_eq!(Store::on_simulated(&disk, SEGMENT_SIZE).expect("the store is intact").all(), in_order(content));
    }
}

#[test]
fn the_error_for_a_reserve_that_does_not_fit_says_what_it_is_for() {
    let disk = SimulatedDisk::default();
    filled(&disk).kill();
    disk.set_content("records/spare", &[0; 100]);
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("the store is intact");
    disk.set_capacity(disk.used() + 10);
    let error = store.write(&batch([state(0, 9)])).expect_err("the disk is full");
    assert!(error.fault().is_full() && error.to_string().contains("one segment of space in reserve"), "{error}");
}

/// The process ended while the file was written.
#[test]
fn an_incomplete_reserve_is_completed() {
    let disk = SimulatedDisk::default();
    filled(&disk).kill();
    disk.set_content("records/spare", &[0; 100]);
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("the store is intact");
    store.write(&batch([state(0, 9)])).expect("the disk works");
    assert_eq!(disk.content("records/spare").len(), SEGMENT_SIZE as usize);
}

/// What was written while nothing was due does not make the first piece large: a batch would wait for it.
#[test]
fn the_first_piece_of_cleaning_is_small() {
    let disk = SimulatedDisk::default();
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store");
    for number in 0..400 {
        store.write(&batch([state(number, 0)])).expect("the disk works");
        assert_eq!(store.clean(Effort::Due).expect("the disk works"), Cleaned::Nothing);
    }
    let mut number = 0;
    while store.clean(Effort::Due).expect("the disk works") == Cleaned::Nothing {
        // Segments before the last ones stay current.
        store.write(&batch([state(300 + number % 100, number)])).expect("the disk works");
        number += 1;
    }
    assert!(store.is_cleaning(), "the first segment is larger than a piece");
}

/// Also while batches come without a pause, each with one piece of cleaning after it.
#[test]
fn the_bytes_on_disk_are_bounded_by_the_current_entries() {
    let keys = 600;
    for (pattern, effort) in (0..4).flat_map(|pattern| [(pattern, Effort::Due), (pattern, Effort::Idle)]) {
        let disk = SimulatedDisk::default();
        let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store");
        let mut rng = StdRng::seed_from_u64(pattern);
        for step in 0..6_000 {
            let number = match pattern {
                0 => step % keys,
                1 => rng.random_range(0..keys),
                2 => rng.random_range(0..keys).min(rng.random_range(0..keys)),
                _ if step < keys => step,
                _ => keys / 2 + rng.random_range(0..keys / 8), // the older segments stay current
            };
            let change = if step % 11 == 0 && pattern == 1 { removal(number) } else { state(number, step) };
            store.write(&batch([change])).expect("the disk works");
            store.clean(effort).expect("the disk works");
            let (used, live) = (disk.used() as u64, store.live_bytes());
            let bound = live * 22 / 10 + 2 * u64::from(SEGMENT_SIZE);
            assert!(used <= bound, "pattern {pattern}, {effort:?}, step {step}: {used} bytes on disk, {live} current");
        }
        for number in 0..keys {
            store.write(&batch([removal(number)])).expect("the disk works");
            store.clean(Effort::Due).expect("the disk works");
        }
        store.clean_all(Effort::Due);
        assert!(store.is_empty());
        let used = (disk.used() - disk.content("records/state").len()) as u64;
        assert!(used <= 2 * u64::from(SEGMENT_SIZE), "{used}");
        assert_eq!(store.clean(Effort::Due).expect("the disk works"), Cleaned::Nothing);
    }
}

/// A store in which a quarter is outdated, in all segments, and the entries that are current.
fn quarter_outdated(disk: &SimulatedDisk, keys: u64) -> (Store, Vec<PersistedKey>) {
    let mut store = Store::on_simulated(disk, SEGMENT_SIZE).expect("a new store");
    let batch_of = |key: u64| u64::from(key.is_multiple_of(3));
    for (number_of_batch, step) in [(0, 1), (1, 3)] {
        for key in (0..keys).step_by(step) {
            store.write(&Batch { sync: false, ..batch([state(key, number_of_batch)]) }).expect("the disk works");
        }
    }
    assert_eq!(store.clean(Effort::Due).expect("the disk works"), Cleaned::Nothing);
    (store, in_order((0..keys).map(|key| state(key, batch_of(key)))))
}

/// The bytes of the segments.
fn bytes_of_log(disk: &SimulatedDisk) -> u64 {
    (disk.used() - disk.content("records/state").len() - disk.content("records/spare").len()) as u64
}

#[test]
fn a_store_without_batches_settles_near_its_current_entries_and_then_writes_nothing() {
    let disk = SimulatedDisk::default();
    let keys = 800;
    let (mut store, content) = quarter_outdated(&disk, keys);
    let (live, before) = (store.live_bytes(), store.segments());
    assert!(bytes_of_log(&disk) > live * 130 / 100);
    // A batch comes when some segments are cleaned: what it makes outdated in the others is given back too.
    for _ in 0..4 * before {
        assert_eq!(store.clean(Effort::Idle).expect("the disk works"), Cleaned::Piece);
    }
    for key in (1..keys).step_by(3) {
        store.write(&batch([state(key, 0)])).expect("the disk works");
    }
    assert!(store.clean_all(Effort::Idle) > before);
    // Pieces of such small segments have few entries, and each has a mark; each segment has a header. To clean again
    // would not make that less.
    let (marks_and_headers, log) = (live * 20 / 100, bytes_of_log(&disk));
    assert!(log < live * 101 / 100 + marks_and_headers && store.live_bytes() == live, "{log} bytes for {live}");
    let calls = disk.calls();
    assert_eq!((store.clean_all(Effort::Idle), disk.calls()), (0, calls));
    assert!(store.all() == content);
    store.kill();
    assert!(Store::on_simulated(&disk, SEGMENT_SIZE).expect("the store is intact").all() == content);
}

#[test]
fn a_store_settles_when_a_tenth_and_half_a_segment_is_outdated() {
    let mut store = Store::on_simulated(&SimulatedDisk::default(), 1 << 16).expect("a new store");
    let mut write = |keys: u64| {
        store.write(&batch((0..keys).map(|key| state(key, 0)))).expect("the disk works");
        store.clean_all(Effort::Idle) > 0
    };
    assert!(!write(2_000), "nothing is outdated");
    let settles = [(); 6].map(|()| write(100));
    // A twentieth each time, and half a segment is as much as another.
    assert_eq!(settles, [false, false, false, true, false, false]);
}

#[test]
fn a_crash_at_any_call_while_the_store_settles_loses_nothing() {
    let disk = SimulatedDisk::default();
    let (store, content) = quarter_outdated(&disk, 200);
    let mut rng = StdRng::seed_from_u64(11);
    drop(store);
    let mut crashes = 0;
    for calls in (0..).step_by(3) {
        let disk = disk.after_kill();
        let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("the store is intact");
        let from = disk.calls() + calls;
        disk.inject(Some(Fault { from, until: u64::MAX, kind: ErrorKind::Other }));
        let cleaned =
            std::iter::repeat_with(|| store.clean(Effort::Idle)).find(|cleaned| !matches!(cleaned, Ok(Cleaned::Piece)));
        store.kill();
        for disk in [disk.after_kill(), disk.after_power_failure(&mut rng), disk.after_power_failure(&mut rng)] {
            let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("the store is intact");
            assert_eq!(store.all(), content, "{calls} calls");
            store.clean_all(Effort::Idle);
            assert_eq!(store.all(), content, "{calls} calls");
        }
        if matches!(cleaned, Some(Ok(Cleaned::Nothing))) {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 100, "{crashes}");
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let disk = SimulatedDisk::default();
    let mut store = filled(&disk);
    assert!(store.clean_all(Effort::Due) + store.clean_all(Effort::Idle) > 0);
    let calls = disk.calls();
    assert_eq!(store.clean(Effort::Idle).expect("the disk works"), Cleaned::Nothing);
    store.write(&Batch::default()).expect("the disk works");
    assert_eq!(disk.calls(), calls);
    drop(store);
    let before = disk.used();
    for _ in 0..10 {
        Store::on_simulated(&disk, SEGMENT_SIZE).expect("the store is intact").kill();
    }
    assert_eq!(disk.used(), before);
}
