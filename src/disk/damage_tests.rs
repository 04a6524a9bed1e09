//! A store whose files were cut, changed, removed, exchanged or replaced: it is refused with the right words, or all
//! of it is read correctly. Each variant follows from a seed and its number.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::disk::files::Files;
use crate::disk::replay;
use crate::disk::segment::{FORMAT, Mark, Position, READ_SIZE, sequence_of};
use crate::disk::simulated::SimulatedDisk;
use crate::disk::state::{State, StateFile};
use crate::disk::store::tests::{batch, in_order, pack, persisted};
use crate::disk::store::{Effort, Store, StoreError, StoreFault};
use crate::node::persisted::{Batch, Pack, PersistedKey};

const SEGMENT_SIZE: u32 = 4_096;
const KEYS: u64 = 60;
const BATCHES: u64 = 250;

/// The kinds of damage, and what a refusal may say.
const KINDS: [(Kind, &[&str]); 9] = [
    (Kind::Cut, &["was cut", "is damaged at offset"]),
    (Kind::Flipped, &["is damaged at offset"]),
    (Kind::Zeroed, &["is damaged at offset", "is newer than", "is missing"]),
    (Kind::Missing, &["is missing"]),
    (Kind::Swapped, &["under a wrong name"]),
    (Kind::Duplicated, &["under a wrong name"]),
    (Kind::Foreign, &["belongs to another store"]),
    (Kind::Stale, &["was cut", "is damaged at offset"]),
    (Kind::PutBack, &["is stale", "is newer than", "is missing", "was cut", "is damaged at offset"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cut,
    Flipped,
    Zeroed,
    Missing,
    Swapped,
    Duplicated,
    Foreign,
    Stale,
    PutBack,
}

/// A disk with a store, files of earlier moments and of another store, and the keys that are stored.
pub(super) struct Original {
    pub(super) disk: SimulatedDisk,
    foreign: SimulatedDisk,
    /// The store at earlier moments.
    pub(super) earlier: Vec<SimulatedDisk>,
    pub(super) keys: Vec<PersistedKey>,
    /// Every state that a key had.
    pub(super) written: Vec<PersistedKey>,
    /// The packs that are stored, and all that were.
    pub(super) packs: Vec<Pack>,
    pub(super) written_packs: Vec<Pack>,
}

/// How the original was left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Closed,
    Killed,
}

/// The packs of a history: each batch writes one, and removes a former one of the last nine.
fn packs_of(number: u64) -> [Pack; 2] {
    let new = u32::try_from(number).expect("few batches");
    [pack(new, number), Pack::removed(pack(new - new.min(1 + new * 5 % 9), 0).id)]
}

/// Writes the history of a store; returns it at every tenth batch too, and all states that keys had, in their order.
fn history(disk: &SimulatedDisk, seed: u64) -> (Store, Vec<SimulatedDisk>, Vec<PersistedKey>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut store = Store::on_simulated(disk, SEGMENT_SIZE).expect("a new store");
    let (mut written, mut earlier) = (Vec::new(), Vec::new());
    for number in 0..BATCHES {
        let changes: BTreeMap<u64, PersistedKey> = (0..rng.random_range(1..8))
            .map(|_| {
                let key = rng.random_range(0..KEYS);
                let mut state = persisted(key, rng.random_range(1..300));
                if let Some(record) = &mut state.record {
                    record.record.version = crate::record::Version::from_bits(number);
                }
                if rng.random_bool(0.2) {
                    state = PersistedKey { record: None, tombstone: None, ..state };
                }
                (key, state)
            })
            .collect();
        let packs = packs_of(number).map(Arc::new).to_vec();
        store.write(&Batch { packs, ..batch(changes.values().cloned()) }).expect("the disk works");
        let effort = if number % 4 == 0 { Effort::Idle } else { Effort::Due };
        store.clean(effort).expect("the disk works");
        written.extend(changes.into_values());
        if number % 10 == 0 {
            earlier.push(disk.after_kill());
        }
    }
    (store, earlier, written)
}

impl Original {
    pub(super) fn new(end: End) -> Self {
        let (disk, foreign) = (SimulatedDisk::default(), SimulatedDisk::default());
        replay::create(&foreign, "records", [8; 16]).expect("the disk works");
        let _ = history(&foreign, 2);
        let (store, earlier, written) = history(&disk, 1);
        let keys: BTreeMap<_, _> = written.iter().map(|state| (state.key, state.clone())).collect();
        let keys = in_order(keys.into_values().filter(|state| state.record.is_some()));
        match end {
            End::Closed => drop(store),
            End::Killed => store.kill(),
        }
        let written_packs: Vec<Pack> = (0..BATCHES).map(|number| packs_of(number)[0].clone()).collect();
        let mut packs = BTreeMap::new();
        for pack in (0..BATCHES).flat_map(packs_of) {
            packs.insert(pack.id, pack);
        }
        let packs = packs.into_values().filter(|pack| !pack.tombstones.is_empty()).collect();
        Self { disk, foreign, earlier, keys, written, packs, written_packs }
    }

    /// Paths of the segments, and of `state` if that is wanted too.
    pub(super) fn paths(disk: &SimulatedDisk, with_state: bool) -> Vec<String> {
        let names = disk.list("records").expect("the disk works").into_iter().map(|(name, _)| name);
        let names = names.filter(|name| sequence_of(name).is_some() || with_state && name == "state");
        names.map(|name| format!("records/{name}")).collect()
    }

    /// The disk with the damage number `variant`.
    pub(super) fn damaged(&self, variant: u64) -> SimulatedDisk {
        let mut rng = StdRng::seed_from_u64(variant);
        let (kind, _) = kind_of(variant);
        let disk = self.disk.after_kill();
        let paths = Self::paths(&disk, matches!(kind, Kind::Cut | Kind::Flipped | Kind::Zeroed | Kind::Missing));
        let [here, there] = [(); 2].map(|()| paths[rng.random_range(0..paths.len())].clone());
        let mut content = disk.content(&here);
        let at = rng.random_range(0..content.len());
        let earlier = &self.earlier[rng.random_range(0..self.earlier.len())];
        match kind {
            Kind::Cut => disk.set_content(&here, &content[..at]),
            Kind::Flipped => {
                content[at] ^= 1 << rng.random_range(0..8);
                disk.set_content(&here, &content);
            }
            Kind::Zeroed => {
                let end = content.len().min(at + rng.random_range(1..600));
                content[at..end].fill(0);
                disk.set_content(&here, &content);
            }
            Kind::Missing => disk.remove(&here).expect("the disk works"),
            Kind::Swapped => {
                disk.set_content(&here, &disk.content(&there));
                disk.set_content(&there, &content);
            }
            Kind::Duplicated => {
                let last = paths.last().expect("a segment").trim_start_matches("records/").trim_end_matches(".log");
                let next: u32 = last.parse::<u32>().expect("a number") + 1;
                let copy = if rng.random() { format!("records/{next:08}.log") } else { there };
                disk.set_content(&copy, &content);
            }
            Kind::Foreign => {
                let foreign = Self::paths(&self.foreign, false);
                let of = if foreign.contains(&here) { &here } else { &foreign[rng.random_range(0..foreign.len())] };
                disk.set_content(&here, &self.foreign.content(of));
            }
            Kind::Stale => {
                // Segments that have grown since.
                let of = |earlier: &SimulatedDisk| {
                    let paths = Self::paths(earlier, false).into_iter();
                    paths.map(|path| (earlier.content(&path), path)).collect::<Vec<_>>()
                };
                let mut stale: Vec<_> = self.earlier.iter().flat_map(of).collect();
                stale.retain(|(content, path)| paths.contains(path) && disk.content(path) != *content);
                let (content, path) = &stale[rng.random_range(0..stale.len())];
                disk.set_content(path, content);
            }
            Kind::PutBack => {
                let all = Self::paths(earlier, true);
                let path = &all[rng.random_range(0..all.len())];
                disk.set_content(path, &earlier.content(path));
            }
        }
        disk
    }
}

fn kind_of(variant: u64) -> (Kind, &'static [&'static str]) {
    KINDS[usize::try_from(variant).expect("few variants") % KINDS.len()]
}

fn read_with_packs(disk: &SimulatedDisk) -> Result<(Vec<PersistedKey>, Vec<Pack>), StoreError> {
    let keys = read(disk)?;
    let store = Store::on_simulated(disk, SEGMENT_SIZE)?;
    Ok((keys, store.packs()?))
}

fn read(disk: &SimulatedDisk) -> Result<Vec<PersistedKey>, StoreError> {
    let store = Store::on_simulated(disk, SEGMENT_SIZE)?;
    store.contacts()?;
    store.try_all().map(in_order)
}

/// Expects that the store with this damage is refused with the right words, or correct; returns whether it is refused.
fn expect_refused_or_correct(original: &Original, variant: u64) -> bool {
    let disk = original.damaged(variant);
    let (kind, words) = kind_of(variant);
    // The refused attempt changes nothing: a second start does not accept what the first refused.
    for _ in 0..2 {
        match read_with_packs(&disk) {
            Ok((keys, packs)) => {
                assert!(keys == original.keys, "variant {variant} {kind:?}: {} keys", keys.len());
                assert!(packs == original.packs, "variant {variant} {kind:?}: {} packs", packs.len());
                return false;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(error.fault().is_damage(), "variant {variant} {kind:?}: {text}");
                assert!(words.iter().any(|words| text.contains(words)), "variant {variant} {kind:?}: {text}");
                assert!(text.contains("records/") && text.contains("move the directory records away"), "{text}");
            }
        }
    }
    true
}

fn expect_of_all(variants: std::ops::Range<u64>) {
    for end in [End::Closed, End::Killed] {
        let original = Original::new(end);
        assert!(Original::paths(&original.disk, false).len() > 4, "several segments");
        let mut refused = BTreeMap::new();
        for variant in variants.clone() {
            *refused.entry(kind_of(variant).0).or_insert(0) += u64::from(expect_refused_or_correct(&original, variant));
        }
        println!("{end:?}: {refused:?}"); // for --nocapture
        let of_each = (variants.end - variants.start) / KINDS.len() as u64;
        for (kind, refused) in refused {
            assert!(refused > of_each / 3, "{end:?} {kind:?}: {refused} of {of_each} refused");
        }
    }
}

#[test]
fn a_damaged_store_is_refused_with_the_right_words_or_read_correctly() {
    expect_of_all(0..504);
}

#[test]
#[ignore = "takes a minute"]
fn five_thousand_damaged_stores_are_refused_or_read_correctly() {
    expect_of_all(10_000..15_000);
}

/// After a power failure, `state` may be older than the newest segment. Then marks in the segment say what was on
/// disk, and beyond the last one a bad entry is an interrupted write.
#[test]
fn damage_before_a_later_mark_is_refused_and_an_interrupted_last_batch_is_dropped() {
    let disk = SimulatedDisk::default();
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store");
    let (state, file) = (disk.content("records/state"), "records/00000001.log");
    let mut ends = Vec::new();
    for number in 0..4 {
        store.write(&batch([persisted(number, 100)])).expect("the disk works");
        ends.push(disk.content(file).len());
    }
    store.kill();
    disk.set_content("records/state", &state);
    for at in (44..ends[3]).step_by(7) {
        let flipped = disk.after_kill();
        let mut content = flipped.content(file);
        content[at] ^= 1;
        flipped.set_content(file, &content);
        match read(&flipped) {
            Err(error) => {
                let is_damage = matches!(error.fault(), StoreFault::Damaged { .. });
                assert!(is_damage && at < ends[2], "byte {at}: {error}");
            }
            // The mark of the last batch says that the first three were on disk.
            Ok(keys) => assert!(at >= ends[2] && keys == in_order((0..3).map(|number| persisted(number, 100)))),
        }
    }
    assert_eq!(read(&disk).expect("all is there").len(), 4);
}

/// `state` says that the last batch was on disk, and no later mark does.
#[test]
fn damage_of_the_last_batch_is_refused_if_the_state_names_it() {
    let disk = SimulatedDisk::default();
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store");
    for number in 0..2 {
        store.write(&batch([persisted(number, 100)])).expect("the disk works");
    }
    drop(store);
    let file = "records/00000001.log";
    let intact = disk.content(file);
    for at in 0..intact.len() {
        let mut content = intact.clone();
        content[at] ^= 1;
        disk.set_content(file, &content);
        let error = read(&disk).expect_err("a damaged store");
        assert!(matches!(error.fault(), StoreFault::Damaged { .. }), "byte {at}: {error}");
    }
}

/// The checksum of an entry depends on its place.
#[test]
fn entries_that_exchanged_their_places_are_refused() {
    let disk = SimulatedDisk::default();
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store");
    store.write(&batch([persisted(1, 100), persisted(2, 100)])).expect("the disk works");
    drop(store);
    let mut content = disk.content("records/00000001.log");
    let size = (content.len() - 44 - 24) / 2;
    let (first, second) = content[44..44 + 2 * size].split_at_mut(size);
    first.swap_with_slice(second);
    disk.set_content("records/00000001.log", &content);
    let error = read(&disk).expect_err("a damaged store");
    assert!(matches!(error.fault(), StoreFault::Damaged { offset: 44, .. }), "{error}");
}

/// The process ended before `state` named the segment, so this shows that `state` is older than the segments.
#[test]
fn a_segment_with_entries_that_the_state_does_not_name_is_refused() {
    let disk = SimulatedDisk::default();
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store");
    let mut state = Vec::new();
    for number in 0.. {
        if store.segments() > 1 {
            break;
        }
        state = disk.content("records/state");
        store.write(&batch([persisted(number, 300)])).expect("the disk works");
    }
    drop(store);
    disk.set_content("records/state", &state);
    let error = read(&disk).expect_err("an old state");
    assert!(matches!(error.fault(), StoreFault::Ahead { newest: 1, .. }), "{error}");
}

/// Power failed during a write, of which the last part is on disk and the first is not. The next batch is as large as
/// the first part.
#[test]
fn the_rest_of_an_interrupted_write_does_not_follow_the_next_batch() {
    const MARK: usize = 24;
    let disk = SimulatedDisk::default();
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store");
    let state = disk.content("records/state");
    store.write(&batch([persisted(1, 100), persisted(2, 100)])).expect("the disk works");
    store.kill();
    let mut content = disk.content("records/00000001.log");
    content[60] ^= 1;
    disk.set_content("records/00000001.log", &content);
    disk.set_content("records/state", &state);
    let next = persisted(3, 100 - MARK);
    let mut store = Store::on_simulated(&disk, SEGMENT_SIZE).expect("the store is intact");
    assert!(store.is_empty());
    store.write(&batch([next.clone()])).expect("the disk works");
    store.kill();
    assert_eq!(read(&disk).expect("the store is intact"), [next]);
}

/// A mark is found wherever it is in the pieces in which the rest of a file is read.
#[test]
fn a_later_mark_is_found_far_behind_the_damage() {
    const HEADER: usize = 44;
    const MARK: usize = 24;
    let piece = usize::try_from(READ_SIZE).expect("a small number");
    // From a mark that begins in the second piece to one that ends in the first.
    for shift in 0..=MARK + 1 {
        let disk = SimulatedDisk::default();
        let mut store = Store::on_simulated(&disk, u32::MAX).expect("a new store");
        let (state, file) = (disk.content("records/state"), "records/00000001.log");
        store.write(&batch([persisted(0, 1)])).expect("the disk works");
        let entry = disk.content(file).len() - HEADER - MARK - 1;
        let first = (1..=4).map(|number| persisted(number, 60_000));
        store.write(&batch(first)).expect("the disk works");
        let filler = HEADER + piece - disk.content(file).len() - 2 * entry - MARK - 100;
        store.write(&batch([persisted(5, filler)])).expect("the disk works");
        let end = disk.content(file).len();
        let size = HEADER + piece + 1 - shift - end - entry;
        store.write(&batch([persisted(6, size)])).expect("the disk works");
        assert_eq!(disk.content(file).len(), HEADER + piece + 1 - shift + MARK);
        store.kill();
        disk.set_content("records/state", &state);
        let mut content = disk.content(file);
        // The first entry is damaged, and all marks but the last one.
        let salt = u32::from_be_bytes(content[40..HEADER].try_into().expect("4 bytes"));
        let (mut at, mut marks) = (0, Vec::new());
        while Mark::find(&content[HEADER..], salt, 44, &mut at).is_some() {
            marks.push(HEADER + at - 1);
        }
        let last = marks.pop().expect("four marks");
        assert_eq!((marks.len(), last), (3, HEADER + piece + 1 - shift));
        marks.push(HEADER);
        for at in marks {
            content[at] ^= 1;
        }
        disk.set_content(file, &content);
        let error = read(&disk).expect_err("a damaged store");
        assert!(matches!(error.fault(), StoreFault::Damaged { offset: 44, .. }), "shift {shift}: {error}");
    }
}

#[test]
fn a_state_that_names_impossible_segments_is_refused() {
    for (oldest, newest) in [(0, 1), (2, 1), (1, u32::MAX)] {
        let disk = SimulatedDisk::default();
        drop(Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store"));
        let synced = Position { segment: newest, offset: 44 };
        let state = State { store: crate::disk::store::tests::ID, oldest, synced };
        let file = disk.create("records/state").expect("the disk works");
        StateFile::create(file, &state).expect("the disk works");
        let error = read(&disk).expect_err("no such segments");
        assert!(error.to_string().contains("records/state is damaged"), "{error}");
    }
}

/// Such a store is read by two threads.
#[test]
fn a_large_store_is_read_completely_or_its_first_damage_is_named() {
    let disk = SimulatedDisk::default();
    let mut store = Store::on_simulated(&disk, 1 << 18).expect("a new store");
    for size in [200, 300] {
        for begin in (0..6_000).step_by(2_000) {
            store.write(&batch((begin..begin + 2_000).map(|number| persisted(number, size)))).expect("the disk works");
        }
    }
    drop(store);
    let all = in_order((0..6_000).map(|number| persisted(number, 300)));
    assert!(read(&disk).expect("the store is intact") == all);
    for (segment, at) in [(2, 50), (5, 100_000), (9, 260_000)] {
        let damaged = disk.after_kill();
        for segment in [segment, 11] {
            let path = format!("records/{segment:08}.log");
            let mut content = damaged.content(&path);
            content[at] ^= 1;
            damaged.set_content(&path, &content);
        }
        let error = read(&damaged).expect_err("a damaged store");
        let StoreFault::Damaged { file, offset } = error.fault() else { panic!("{error}") };
        let from = at - usize::try_from(*offset).expect("a small number");
        assert_eq!((&file[..], from < 600), (&format!("{segment:08}.log")[..], true), "{error}");
    }
}

/// A file of an earlier or a later version of this program.
#[test]
fn another_format_is_refused() {
    for (file, format) in [("00000001.log", 2), ("state", 2), ("00000001.log", FORMAT + 1), ("state", FORMAT + 1)] {
        let disk = SimulatedDisk::default();
        drop(Store::on_simulated(&disk, SEGMENT_SIZE).expect("a new store"));
        let path = format!("records/{file}");
        let mut content = disk.content(&path);
        content[8..12].copy_from_slice(&format.to_be_bytes());
        let covered = if file == "state" { 48 } else { 40 };
        let crc = crc32fast::hash(&content[..covered]);
        content[covered..covered + 4].copy_from_slice(&crc.to_be_bytes());
        disk.set_content(&path, &content);
        let error = read(&disk).expect_err("another format");
        assert!(matches!(error.fault(), StoreFault::Format { found, .. } if *found == format), "{error}");
        let words = format!("records/{file} has the format {format} of another version of this program, expected 4");
        let text = error.to_string();
        assert!(
            text.contains(&words) && text.contains("move the directory records away to start without it"),
            "{text}"
        );
        assert_eq!(disk.content(&path), content);
    }
}
