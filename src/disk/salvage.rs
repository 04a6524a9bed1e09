//! Copies what is intact in a damaged store to another store, when the operator asks for it.
//!
//! Guarantees:
//!
//! * The damaged store is not changed.
//! * What is copied was written to the damaged store as it is, for the key that it names: the checksum of each entry
//!   covers its store, its segment and its offset.
//! * Everything that is not copied is logged, with its file and its size.
//!
//! Non-goals: where an entry is damaged, an older state of its key may return, and a key that was removed may return.
//! A batch with a damaged entry is copied without that entry. A segment whose header is damaged is dropped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use log::warn;

use crate::contact::Contact;
use crate::disk::entry;
use crate::disk::fault::StoreFault;
use crate::disk::files::{Files, ReadFile};
use crate::disk::replay::{read_header, read_state};
use crate::disk::segment::{BadEntry, Entries, Entry, HEADER_SIZE, Header, Kind, Mark, Position, StoreId, sequence_of};
use crate::id::Key;
use crate::node::persisted::{Batch, Pack, PackId, PersistedKey};

/// Keys in a batch for the new store.
const KEYS_AT_A_TIME: usize = 1 << 12;

/// What was dropped of a damaged store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Files of which nothing was kept.
    pub files: u32,
    /// Bytes in them, and damaged bytes in the others.
    pub bytes: u64,
}

/// A segment that can be read.
struct Intact {
    file: String,
    length: u64,
    header: Header,
}

/// Reads the store `name`, and calls `keep` with what is intact, in the order of the log.
pub(super) fn salvage(
    files: &dyn Files,
    name: &str,
    keep: impl FnMut(&Batch) -> Result<(), StoreFault>,
) -> Result<Dropped, StoreFault> {
    let mut dropped = Dropped::default();
    let segments = intact_segments(files, name, &mut dropped)?;
    let (keys, packs) = (BTreeMap::new(), BTreeMap::new());
    let mut copy = Copy { keep, pending: Vec::new(), has_gap: false, batch: Batch::default(), keys, packs };
    let mut expected = segments.keys().next().copied();
    for (sequence, segment) in &segments {
        copy.has_gap |= expected.replace(sequence + 1) != Some(*sequence);
        // Where a segment ends stands in the next one. What follows there was dropped before.
        let next = segments.get(&(sequence + 1)).map(|next| next.header.previous_end);
        let length = u32::try_from(segment.length).unwrap_or(u32::MAX);
        let missing = next.map_or(0, |end| end.saturating_sub(length));
        let file = Box::new(Sectors(files.open(&format!("{name}/{}", segment.file))?));
        let end = next.unwrap_or(length).min(length);
        let damaged = copy.read_segment(*sequence, Entries::new(file, segment.header.salt(), HEADER_SIZE, end))?;
        copy.has_gap |= missing > 0;
        if damaged.bytes > 0 || missing > 0 {
            let Damaged { places, first, bytes, .. } = damaged;
            let file = &segment.file;
            warn!("damaged file={name}/{file} places={places} first={first} bytes={bytes} missing={missing}");
            dropped.bytes += bytes + u64::from(missing);
        }
    }
    copy.end()?;
    Ok(dropped)
}

/// The segments of the store whose headers are intact, by their numbers.
fn intact_segments(files: &dyn Files, name: &str, dropped: &mut Dropped) -> Result<BTreeMap<u32, Intact>, StoreFault> {
    let state = match read_state(files, name) {
        Ok((_, state)) => Some(state),
        Err(fault) if is_refusal(&fault) => return Err(fault),
        Err(_) => {
            warn!("dropped file={name}/state: it is damaged");
            None
        }
    };
    let mut drop_file = |file: &str, length: u64, reason: &str| {
        warn!("dropped file={name}/{file} bytes={length}: {reason}");
        dropped.files += 1;
        dropped.bytes += length;
    };
    let mut readable = Vec::new();
    for (file, length) in files.list(name)? {
        if sequence_of(&file).is_none() {
            continue;
        }
        match read_header(files, name, &file) {
            Ok((header, _)) => readable.push(Intact { file, length, header }),
            Err(fault) if is_refusal(&fault) => return Err(fault),
            Err(_) => drop_file(&file, length, "its header cannot be read, or is damaged"),
        }
    }
    let store = state.as_ref().map(|state| state.store).or_else(|| most_frequent(&readable));
    let oldest = state.map_or(0, |state| state.oldest);
    // The file that has its right name comes first.
    readable.sort_by_key(|segment| sequence_of(&segment.file) != Some(segment.header.sequence));
    let mut segments = BTreeMap::new();
    for segment in readable {
        let Header { sequence, store: of, .. } = segment.header;
        let reason = if Some(of) != store {
            "it belongs to another store"
        } else if sequence < oldest {
            "it was removed from this store before"
        } else if let Place::Vacant(place) = segments.entry(sequence) {
            place.insert(segment);
            continue;
        } else {
            "it is a copy of another segment"
        };
        drop_file(&segment.file, segment.length, reason);
    }
    Ok(segments)
}

/// Whether nothing can be salvaged: this process may not read the store, or it is of another version.
fn is_refusal(fault: &StoreFault) -> bool {
    match fault {
        StoreFault::Io(source) => source.kind() == ErrorKind::PermissionDenied,
        fault => matches!(fault, StoreFault::Format { .. }),
    }
}

/// The store to which most of the segments belong.
fn most_frequent(segments: &[Intact]) -> Option<StoreId> {
    let mut counts = BTreeMap::<StoreId, usize>::new();
    for segment in segments {
        *counts.entry(segment.header.store).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(store, _)| store)
}

/// The damage of a segment.
#[derive(Default)]
struct Damaged {
    /// Stretches of damaged bytes.
    places: u32,
    /// The offset of the first one.
    first: u32,
    /// Where the last one ends.
    end: u32,
    /// Bytes in all of them.
    bytes: u64,
}

impl Damaged {
    fn note(&mut self, from: u32, to: u32) {
        if self.places == 0 {
            self.first = from;
        }
        self.places += 1;
        self.end = to;
        self.bytes += u64::from(to - from);
    }

    /// Whether the last damaged bytes are those before `offset`.
    fn ends_at(&self, offset: u32) -> bool {
        self.places > 0 && self.end == offset
    }
}

/// A file of which some parts cannot be read: they are read as zeros, so that their entries are damaged.
#[derive(Debug)]
struct Sectors(Box<dyn ReadFile>);

/// The smallest part of a file that a disk cannot read.
const SECTOR: u32 = 1 << 9;

impl ReadFile for Sectors {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.read(offset, out).is_ok() {
            return Ok(());
        }
        let mut at = offset;
        for sector in out.chunks_mut(SECTOR as usize) {
            if self.0.read(at, sector).is_err() {
                sector.fill(0);
            }
            at += u64::from(SECTOR);
        }
        Ok(())
    }
}

/// What an intact entry means.
enum Found {
    Key(PersistedKey),
    Pack(Pack),
    Contacts(Vec<Contact>),
    Mark(Mark),
}

impl Found {
    /// `None` if its content has no meaning.
    fn of(entry: &Entry<'_>) -> Option<Self> {
        Some(match entry.kind {
            Kind::State => Self::Key(entry::read_key(entry.content).ok()?),
            Kind::Removal => {
                Self::Key(PersistedKey { key: entry::key_of(entry.content).ok()?, record: None, tombstone: None })
            }
            Kind::Pack => Self::Pack(entry::read_pack(entry.content).ok()?),
            Kind::PackRemoval => Self::Pack(Pack::removed(entry::pack_of(entry.content).ok()?)),
            Kind::Contacts => Self::Contacts(entry::read_contacts(entry.content).ok()?),
            Kind::Mark => Self::Mark(Mark::read(entry.content)?),
        })
    }
}

/// The state of copying.
struct Copy<K> {
    keep: K,
    /// Entries of a batch that has not ended.
    pending: Vec<(Position, Found)>,
    /// Whether something is damaged or missing since the last mark. Then a mark may be missing too, and all that is
    /// pending is kept. Otherwise, entries before the begin of a batch were left by an interrupted one.
    has_gap: bool,
    /// What the new store gets next; its keys and packs are in `keys` and `packs` until then.
    batch: Batch,
    keys: BTreeMap<Key, PersistedKey>,
    packs: BTreeMap<PackId, Arc<Pack>>,
}

impl<K: FnMut(&Batch) -> Result<(), StoreFault>> Copy<K> {
    fn read_segment(&mut self, sequence: u32, mut entries: Entries) -> Result<Damaged, StoreFault> {
        let mut damaged = Damaged::default();
        loop {
            match entries.next() {
                Ok(None) => break,
                Ok(Some(entry)) => match Found::of(&entry) {
                    Some(Found::Mark(mark)) => self.end_batch(mark)?,
                    Some(found) => self.pending.push((Position { segment: sequence, offset: entry.offset }, found)),
                    None => damaged.note(entry.offset, entry.offset + entry.size),
                },
                Err(BadEntry::Damaged(from)) => {
                    entries.skip_damage()?;
                    damaged.note(from, entries.offset());
                }
                Err(BadEntry::Io(source)) => return Err(StoreFault::Io(source)),
            }
            self.has_gap |= damaged.ends_at(entries.offset());
        }
        Ok(damaged)
    }

    fn end_batch(&mut self, mark: Mark) -> Result<(), StoreFault> {
        let begin = if std::mem::take(&mut self.has_gap) { Position::default() } else { mark.begin };
        for (_, found) in std::mem::take(&mut self.pending).into_iter().filter(|(at, _)| *at >= begin) {
            match found {
                Found::Key(state) => drop(self.keys.insert(state.key, state)),
                Found::Pack(pack) => drop(self.packs.insert(pack.id, Arc::new(pack))),
                Found::Contacts(contacts) => self.batch.contacts = Some(contacts),
                Found::Mark(_) => {}
            }
        }
        if self.keys.len() + self.packs.len() >= KEYS_AT_A_TIME { self.pass_on() } else { Ok(()) }
    }

    fn pass_on(&mut self) -> Result<(), StoreFault> {
        self.batch.keys.extend(std::mem::take(&mut self.keys).into_values());
        self.batch.packs.extend(std::mem::take(&mut self.packs).into_values());
        (self.keep)(&std::mem::take(&mut self.batch))
    }

    /// The log has ended. A batch without a mark counts only if the mark may have been damaged.
    fn end(mut self) -> Result<(), StoreFault> {
        if self.has_gap {
            self.end_batch(Mark { begin: Position::default(), synced: Position::default() })?;
        }
        self.batch.sync = true;
        self.pass_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::damage_tests::{End, Original};
    use crate::disk::simulated::{Fault, SimulatedDisk};
    use crate::disk::store::tests::{batch, in_order, persisted};
    use crate::disk::store::{Effort, Store, StoreError};
    use crate::disk::tests::Scratch;
    use crate::disk::{DataDir, Salvaged};
    use std::fs;

    /// What is salvaged from `disk`, in ascending order.
    fn salvaged(disk: &SimulatedDisk) -> Result<(Vec<PersistedKey>, Dropped), StoreFault> {
        salvaged_with_packs(disk).map(|(keys, _, dropped)| (keys, dropped))
    }

    fn salvaged_with_packs(disk: &SimulatedDisk) -> Result<(Vec<PersistedKey>, Vec<Pack>, Dropped), StoreFault> {
        let mut store = Store::on_simulated(&SimulatedDisk::default(), 1 << 20).expect("a new store");
        let dropped = salvage(disk, "records", |batch| store.write(batch).map_err(StoreError::into_fault))?;
        Ok((store.all(), store.packs().expect("the store is intact"), dropped))
    }

    fn contents(disk: &SimulatedDisk) -> Vec<(String, Vec<u8>)> {
        Original::paths(disk, true).into_iter().map(|path| (path.clone(), disk.content(&path))).collect()
    }

    #[test]
    fn all_of_an_intact_store_is_salvaged() {
        for end in [End::Closed, End::Killed] {
            let original = Original::new(end);
            let (keys, packs, dropped) = salvaged_with_packs(&original.disk).expect("the disk works");
            assert!(keys == original.keys && packs == original.packs);
            assert_eq!(dropped, Dropped::default());
        }
    }

    #[test]
    fn what_is_salvaged_was_written_to_this_store_and_the_damaged_one_stays_as_it_is() {
        for end in [End::Closed, End::Killed] {
            let original = Original::new(end);
            for variant in 0..504 {
                let disk = original.damaged(variant);
                let before = contents(&disk);
                let salvaged = salvaged_with_packs(&disk);
                let (keys, packs, _) = salvaged.unwrap_or_else(|fault| panic!("variant {variant}: {fault:?}"));
                assert!(packs.iter().all(|pack| original.written_packs.contains(pack)), "variant {variant}");
                assert!(contents(&disk) == before, "variant {variant}");
                for state in keys {
                    let is_written = original.written.contains(&state);
                    assert!(is_written, "{end:?} variant {variant}: {:?}", state.key);
                }
            }
        }
    }

    /// Which bytes belong to which entry is found again after each damaged byte.
    #[test]
    fn a_damaged_byte_costs_one_entry() {
        let original = Original::new(End::Closed);
        let path = Original::paths(&original.disk, false)[2].clone();
        let intact = original.disk.content(&path);
        let (mut changed, mut all) = (0, 0);
        for at in (HEADER_SIZE as usize..intact.len()).step_by(3) {
            let disk = original.disk.after_kill();
            let mut content = intact.clone();
            content[at] ^= 0x41;
            disk.set_content(&path, &content);
            let (keys, dropped) = salvaged(&disk).expect("the disk works");
            let lost = original.keys.iter().filter(|key| !keys.contains(key)).count();
            let back = keys.iter().filter(|key| !original.keys.contains(key)).count();
            assert!(lost <= 1 && back <= 1 && dropped.files == 0 && dropped.bytes > 0, "byte {at}: {lost}, {back}");
            changed += lost.max(back);
            all += 1;
        }
        assert!(0 < changed && changed < all, "some entries are outdated: {changed} of {all}");
    }

    #[test]
    fn without_the_file_state_the_segments_say_which_store_it_is() {
        let original = Original::new(End::Closed);
        let disk = original.disk.after_kill();
        disk.set_content("records/state", b"");
        let (keys, _) = salvaged(&disk).expect("the disk works");
        assert!(keys == original.keys);
    }

    /// A batch that was interrupted leaves entries without a mark, in one segment or in several.
    #[test]
    fn what_interrupted_batches_have_left_does_not_count() {
        let mut interrupted = 0;
        for calls in 1.. {
            let disk = SimulatedDisk::default();
            let mut store = Store::on_simulated(&disk, 2_000).expect("a new store");
            store.write(&batch([persisted(0, 100)])).expect("the disk works");
            let from = disk.calls() + calls;
            disk.inject(Some(Fault { from, until: u64::MAX, kind: ErrorKind::Other }));
            let is_written = store.write(&batch((1..60).map(|number| persisted(number, 100)))).is_ok();
            store.kill();
            disk.inject(None);
            let mut store = Store::on_simulated(&disk, 2_000).expect("the store is intact");
            store.write(&batch([persisted(99, 100)])).expect("the disk works");
            let all = store.all();
            drop(store);
            assert!(salvaged(&disk).expect("the disk works") == (all.clone(), Dropped::default()), "call {calls}");
            if is_written {
                break;
            }
            interrupted += u32::from(all.len() == 2);
        }
        assert!(interrupted > 10);
    }

    #[test]
    fn a_segment_that_was_put_back_brings_nothing_back() {
        let original = Original::new(End::Closed);
        let mut put_back = 0;
        for earlier in &original.earlier {
            for path in Original::paths(earlier, false) {
                let disk = original.disk.after_kill();
                if !disk.exists(&path).expect("the disk works") {
                    disk.set_content(&path, &earlier.content(&path));
                    let (keys, dropped) = salvaged(&disk).expect("the disk works");
                    assert!(keys == original.keys && dropped.files == 1, "{path}");
                    put_back += 1;
                }
            }
        }
        assert!(put_back > 10);
    }

    /// Some bytes, of which those from `from` to `to` cannot be read.
    #[derive(Debug)]
    struct Unreadable {
        bytes: Vec<u8>,
        from: usize,
        to: usize,
    }

    impl ReadFile for Unreadable {
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let begin = usize::try_from(offset).expect("a small number");
            let end = begin + out.len();
            if begin < self.to && self.from < end {
                return Err(ErrorKind::Other.into());
            }
            out.copy_from_slice(&self.bytes[begin..end]);
            Ok(())
        }
    }

    #[test]
    fn a_sector_that_cannot_be_read_costs_no_other_one() {
        let bytes: Vec<u8> = (0..5_000_u32).map(|at| at.to_be_bytes()[3] | 1).collect();
        let file = Sectors(Box::new(Unreadable { bytes: bytes.clone(), from: 1_000, to: 1_010 }));
        let mut read = vec![9; 4_000];
        file.read(500, &mut read).expect("what cannot be read is zero");
        let zeros: Vec<usize> = (0..4_000).filter(|at| read[*at] != bytes[500 + at]).collect();
        assert!(!zeros.is_empty() && zeros.len() <= 2 * SECTOR as usize);
        assert!(zeros.iter().all(|at| read[*at] == 0 && (1_000 - 512..1_010 + 512).contains(&(at + 500))));
    }

    #[test]
    fn a_data_directory_gets_a_new_store_and_the_damaged_one_stays_beside_it() {
        let scratch = Scratch::new("salvage");
        let dir = DataDir::open(&scratch.0, 1).expect("no other process has the lock");
        let mut store = dir.store([7; 16]).expect("a new store");
        store.write(&batch((0..9).map(|number| persisted(number, 100)))).expect("the disk works");
        store.clean(Effort::Due).expect("the disk works");
        drop(store);
        assert!(dir.salvage([8; 16]).expect("an intact store").is_none());
        let path = scratch.0.join("records/00000001.log");
        let mut content = fs::read(&path).expect("a segment");
        content[60] ^= 1;
        fs::write(&path, &content).expect("a segment");
        let error = dir.store([8; 16]).expect_err("a damaged store").to_string();
        assert!(error.contains("start once with --salvage to keep what is intact"), "{error}");
        let Salvaged { keys, dropped, original } =
            dir.salvage([8; 16]).expect("the disk works").expect("a damaged store");
        assert_eq!((keys, dropped.files), (8, 0));
        assert_eq!(original, scratch.0.join("records.aside"));
        assert_eq!(fs::read(original.join("00000001.log")).expect("the damaged segment"), content);
        let store = dir.store([9; 16]).expect("the new store");
        assert_eq!((store.id(), store.all()), ([8; 16], in_order((1..9).map(|number| persisted(number, 100)))));
        let names = fs::read_dir(&scratch.0).expect("the directory").count();
        assert_eq!(names, 3, "lock, records and records.aside");
    }

    #[test]
    fn a_file_that_cannot_be_read_costs_no_other_one() {
        let original = Original::new(End::Closed);
        for path in Original::paths(&original.disk, true) {
            let disk = original.disk.after_kill();
            disk.remove(&path).expect("the disk works");
            disk.create_directory(&path).expect("the name is free");
            let (keys, _) = salvaged(&disk).expect("the others can be read");
            assert!(!keys.is_empty(), "{path}");
        }
    }

    /// No other version's store is taken for a damaged one.
    #[test]
    fn another_format_is_not_salvaged() {
        let scratch = Scratch::new("salvage-format");
        let dir = DataDir::open(&scratch.0, 1).expect("no other process has the lock");
        drop(dir.store([7; 16]).expect("a new store"));
        let path = scratch.0.join("records/00000001.log");
        let mut content = fs::read(&path).expect("a segment");
        content[11] += 1;
        let crc = crc32fast::hash(&content[..40]);
        content[40..44].copy_from_slice(&crc.to_be_bytes());
        fs::write(&path, &content).expect("a segment");
        let error = dir.salvage([8; 16]).expect_err("another format");
        assert!(matches!(error.fault(), StoreFault::Format { .. }), "{error}");
        assert!(!error.to_string().contains("--salvage"), "{error}");
        assert_eq!(fs::read(&path).expect("a segment"), content);
    }
}
