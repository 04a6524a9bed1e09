//! The store of a node's records and contacts: a log in a directory, used only if all of it is intact.
//!
//! The files in the directory: segments `00000001.log`, `00000002.log`, … (`segment`), `state` (`state`), and from
//! the second segment on `spare`, which reserves space (`log`). `index` finds the entries in the log, `replay` opens
//! it and `current` reads its current entries, both with two threads if there is much to read (`ahead`). `cleaner`
//! gives the space of outdated entries back, `salvage` reads what is intact of a damaged store, and `files` has the
//! operations of the system.
//!
//! Guarantees:
//!
//! * A batch that was written survives a crash of the process, and no older state of its keys returns. From the next
//!   sync on it also survives a power failure. A power failure before may take batches away, from one on to the last.
//! * A batch whose write failed or was interrupted is there completely or not at all; whether it is, is
//!   decided when the store is opened the next time, and does not change later. Until it is written again, a failed
//!   batch may therefore be visible after a restart.
//! * All checksums are verified before the first read. Damage of what is known to be on disk is an error that
//!   names the file and the offset and tells the operator what to do. It never looks like an empty or an older
//!   store: the directory is created under another name and renamed when it is complete, and `state` names the
//!   segments.
//! * A file that is deleted, cut or replaced while the process uses it is noticed at the next batch with
//!   [`Batch::sync`] or [`Batch::look`], before that counts as written; a segment other than the newest one when its
//!   turn comes, a few such batches later. Each batch notices that the newest segment was deleted or cut.
//! * Nothing is written while nothing changes, when the space of outdated entries is given back.
//!
//! Each key has an entry in the log and 41 bytes of memory. Old tombstones come in packs of up to some hundred, each of
//! which has one entry, as the state of one key has: it is written once, copied by the cleaner, and removed when none
//! of its tombstones is needed. The batch with a pack removes the states of its keys.
//!
//! A store of format 3, which has no packs, is read and changed like any other one; from the first change on, programs
//! that know only that format refuse it. Stores of all other formats are refused.
//!
//! Non-goals: after a power failure, the store cannot tell damage of the last batch from an interrupted write. It
//! does not notice if its whole directory is replaced by a complete copy from an earlier time while no process uses
//! it.
//!
//! After an error in [`Store::write`] or [`Store::clean`] the state is unknown, and the caller must open the store
//! again, unless [`Store::is_usable`]: on a full disk the store withdraws the batch, so that a retry costs little.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use log::warn;
use sha2::{Digest, Sha256};

use crate::contact::Contact;
use crate::disk::ahead::read_ahead;
use crate::disk::cleaner::Cleaner;
pub use crate::disk::cleaner::{Cleaned, Effort};
use crate::disk::contents::{Change, Contents};
use crate::disk::current;
use crate::disk::entry;
pub use crate::disk::fault::{StoreError, StoreFault};
use crate::disk::files::{Files, SystemFiles, split};
use crate::disk::index::{Fingerprint, Place};
pub use crate::disk::log::Trust;
use crate::disk::log::{Log, Room, Space};
use crate::disk::replay;
pub use crate::disk::segment::StoreId;
use crate::disk::segment::{Kind, name_of};
use crate::node::persisted::{Batch, Pack, PersistedKey};
use crate::wire::codec::WireError;

/// Size at which the log continues in a new segment: little beside the records of a store that has several segments,
/// because as much space is reserved; and as much as the largest batch, because each segment costs four syncs.
const SEGMENT_SIZE: u32 = 4 << 20;

/// The persisted state of a node, open for reading and writing by one process.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    log: Log,
    contents: Contents,
    cleaner: Cleaner,
    /// Whether an operation failed, so that the state of the log is unknown.
    has_failed: bool,
}

impl Store {
    /// Opens the store in the directory `path`. Creates an empty store, which `id` distinguishes from every other
    /// one, if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. If the store is damaged, the text tells how to start without it.
    pub fn open(path: &Path, id: StoreId) -> Result<Self, StoreError> {
        let created = split(path).and_then(|(parent, name)| {
            let files = SystemFiles(parent);
            if files.exists(&name)? { Ok(()) } else { replay::create(&files, &name, id) }
        });
        created.map_err(|source| StoreError::new(path, source))?;
        Self::reopen(path, Trust::All)
    }

    /// Opens the store in the directory `path` again. What `trust` excludes is written to another file first.
    ///
    /// # Errors
    ///
    /// As [`Store::open`], and also if the directory does not exist: then its records are lost.
    pub fn reopen(path: &Path, trust: Trust) -> Result<Self, StoreError> {
        let (parent, name) = split(path).map_err(|source| StoreError::new(path, source))?;
        Self::on(Box::new(SystemFiles(parent)), path, &name, SEGMENT_SIZE, trust)
    }

    /// Opens the store `name`.
    fn on(files: Box<dyn Files>, path: &Path, name: &str, segment_size: u32, trust: Trust) -> Result<Self, StoreError> {
        let opened = replay::open(files, name, segment_size, trust);
        let (log, contents) = opened.map_err(|fault| StoreError::new(path, fault))?;
        Ok(Self { path: path.to_owned(), log, contents, cleaner: Cleaner::default(), has_failed: false })
    }

    /// Begins an empty store at `path` in place of the one that a process had there, of which `id` was the id. What
    /// has the name is renamed and not changed, as soon as the empty store is on disk. After an error, the caller may
    /// try again.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the system refuses.
    pub fn begin_anew(path: &Path, id: StoreId) -> Result<Self, StoreError> {
        let (parent, name) = split(path).map_err(|source| StoreError::new(path, source))?;
        Self::begin_anew_on(Box::new(SystemFiles(parent)), path, &name, SEGMENT_SIZE, id)
    }

    fn begin_anew_on(
        files: Box<dyn Files>,
        path: &Path,
        name: &str,
        segment_size: u32,
        id: StoreId,
    ) -> Result<Self, StoreError> {
        let id = next_id(id);
        let found = match replay::read_state(&*files, name) {
            Ok((_, state)) => Some(state.store),
            Err(fault @ StoreFault::Io(_)) => return Err(StoreError::new(path, fault)),
            Err(_) => None,
        };
        let is_begun = found == Some(id); // by an attempt that failed
        if !is_begun {
            let begun = replay::create_beside(&*files, name, id).and_then(|new| {
                set_aside(&*files, name)?;
                replay::put_in_place(&*files, &new, name)
            });
            begun.map_err(|source| StoreError::new(path, source))?;
        }
        Self::on(files, path, name, segment_size, Trust::All)
    }

    /// Renames what is at `path`, if anything is there, to a name that no file has; returns that path.
    pub(super) fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
        let (parent, name) = split(path)?;
        let aside = set_aside(&SystemFiles(parent), &name)?;
        Ok(aside.map(|aside| path.with_file_name(aside)))
    }

    /// The id of the store.
    pub fn id(&self) -> StoreId {
        self.log.store
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.contents.index.len()
    }

    /// Whether the store has neither keys nor packs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.contents.packs.is_empty()
    }

    /// Calls `take` with the states of all keys, some at a time and each once, in any order.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. Then `take` was not called with all keys.
    pub fn read_keys(&self, mut take: impl FnMut(Vec<PersistedKey>)) -> Result<(), StoreError> {
        let Self { log, contents, .. } = self;
        let read = |pass: &mut dyn FnMut(Vec<PersistedKey>) -> _| current::read(log, &contents.index, pass);
        let result = read_ahead(contents.live_bytes(), read, |keys| {
            take(keys);
            Ok(())
        });
        result.map_err(|fault| self.error(fault))
    }

    /// Calls `take` with each pack, in the order of their ids.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. Then `take` was not called with all packs.
    pub fn read_packs(&self, mut take: impl FnMut(Pack)) -> Result<(), StoreError> {
        for place in self.contents.packs.values() {
            let pack = self.read_one(*place, entry::read_pack)?;
            take(pack);
        }
        Ok(())
    }

    /// Reads the contacts.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn contacts(&self) -> Result<Vec<Contact>, StoreError> {
        self.contents.contacts.map_or(Ok(Vec::new()), |place| self.read_one(place, entry::read_contacts))
    }

    /// Reads the entry at `place`, which is not that of a key.
    fn read_one<T>(&self, place: Place, read: impl FnOnce(&[u8]) -> Result<T, WireError>) -> Result<T, StoreError> {
        let file = name_of(place.at.segment);
        let mut entries = self.log.entry(place).map_err(|source| self.error(source))?;
        let entry = entries.next().map_err(|bad| self.error(StoreFault::of_entry(file.clone(), bad)))?;
        let entry = entry.expect("an entry that was read before");
        read(entry.content)
            .map_err(|error| self.error(StoreFault::Entry { file, offset: entry.offset, key: None, error }))
    }

    /// Hands `batch` to the system: it survives a crash of the process. With [`Batch::sync`], this batch and all
    /// earlier ones are on disk after success, and survive a power failure too.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. Then the caller must open the store again, unless [`Store::is_usable`].
    pub fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if *batch == Batch::default() {
            return Ok(());
        }
        self.act(|store| {
            // Also before: a write makes a file that was cut long again.
            let looks = batch.sync || batch.look;
            if looks {
                store.log.expect_in_place()?;
            } else {
                store.log.expect_newest_intact()?;
            }
            store.log.begin(Space::Free)?;
            let changes = store.append(batch)?;
            if !changes.is_empty() {
                store.log.commit()?;
            }
            if batch.sync {
                store.log.sync()?;
            }
            if looks {
                store.log.expect_in_place()?;
            }
            store.contents.apply_all(&changes);
            Ok(())
        })
    }

    /// Gives some space of outdated entries back, if there is as much of it as `effort` requires. Takes a bounded time.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. Then the caller must open the store again, unless [`Store::is_usable`].
    pub fn clean(&mut self, effort: Effort) -> Result<Cleaned, StoreError> {
        self.act(|store| store.cleaner.clean(effort, &mut store.log, &mut store.contents))
    }

    /// Whether the store can be used after an error, as if the failed operation had not begun: the disk was full.
    pub fn is_usable(&self) -> bool {
        !self.has_failed
    }

    /// Which part of the store is certainly on disk, for [`Store::reopen`] after a failure.
    pub fn trust(&self) -> Trust {
        self.log.trust
    }

    fn append(&mut self, batch: &Batch) -> Result<Vec<Change>, StoreFault> {
        let Self { log, contents, cleaner, .. } = self;
        let mut changes = Vec::with_capacity(batch.keys.len());
        for persisted in &batch.keys {
            let key = Fingerprint::of(&log.store, persisted.key.as_bytes());
            if !entry::is_removal(persisted) {
                let place = log.push(Kind::State, |out| entry::write_key(persisted, out))?;
                changes.push(Change::State(key, place));
            } else if contents.index.find(key).is_some() {
                let place = log.push(Kind::Removal, |out| out.extend_from_slice(persisted.key.as_bytes()))?;
                changes.push(Change::Removal(key, place));
            }
        }
        for pack in &batch.packs {
            if !pack.tombstones.is_empty() {
                let place = log.push(Kind::Pack, |out| entry::write_pack(pack, out))?;
                changes.push(Change::Pack(pack.id, place));
            } else if contents.packs.contains_key(&pack.id) {
                let place = log.push(Kind::PackRemoval, |out| entry::write_pack_id(pack.id, out))?;
                changes.push(Change::PackRemoval(pack.id, place));
            }
        }
        if let Some(contacts) = &batch.contacts {
            let place = log.push(Kind::Contacts, |out| entry::write_contacts(contacts, out))?;
            changes.push(Change::Contacts(place));
        }
        cleaner.note_written(changes.iter().map(|change| u64::from(change.place().size)).sum());
        Ok(changes)
    }

    /// Runs `act`; notes if it fails.
    fn act<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, StoreFault>) -> Result<T, StoreError> {
        assert!(!self.has_failed, "a store that has failed is opened again");
        self.log.room = Room::Enough;
        let result = act(self);
        result.map_err(|fault| {
            let is_undone = fault.is_full() && self.log.room == Room::None && self.log.withdraw().is_ok();
            self.has_failed = !is_undone;
            // A file that was deleted makes other calls fail too.
            match self.log.expect_in_place() {
                Err(gone) if gone.is_damage() => {
                    self.has_failed = true;
                    self.error(gone)
                }
                _ => self.error(fault),
            }
        })
    }

    fn error(&self, fault: impl Into<StoreFault>) -> StoreError {
        StoreError::new(&self.path, fault)
    }
}

/// Renames what has the name `name`, if anything has, to a name that no file has; returns that name.
fn set_aside(files: &dyn Files, name: &str) -> io::Result<Option<String>> {
    let mut aside = format!("{name}.aside");
    for number in 1_u64.. {
        if !files.exists(&aside)? {
            break;
        }
        aside = format!("{name}.aside.{number}");
    }
    match files.rename(name, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path `path` with `extension`, and with a number if needed: one that no file has.
pub(super) fn free_name(path: &Path, extension: &str) -> PathBuf {
    let first = path.with_added_extension(extension);
    let further = (1_u64..).map(|number| first.with_added_extension(number.to_string()));
    let mut names = std::iter::once(first.clone()).chain(further);
    names.find(|name| !name.exists()).expect("there are more names than files")
}

/// The id of a store that takes the place of another one.
fn next_id(id: StoreId) -> StoreId {
    *Sha256::digest(id).first_chunk().expect("16 of 32 bytes")
}

/// After a regular end, all of the store is known to be on disk.
impl Drop for Store {
    fn drop(&mut self) {
        if !self.has_failed
            && let Err(error) = self.log.close()
        {
            warn!("store not closed cleanly: {}", self.error(error));
        }
    }
}

#[cfg(test)]
pub(in crate::disk) mod tests {
    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::disk::tests::Scratch;
    use crate::id::{Key, NodeId};
    use crate::node::persisted::{PackId, PersistedRecord, SavedAt};
    use crate::record::fingerprint::{Epoch, Fingerprint as Fingerprint64, FingerprintKey, OldTombstone};
    use crate::record::{Age, Class, Record, Source, Tombstone, TombstoneClass, Ttl, Version, crc_of};
    use crate::time::WallTime;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    pub(in crate::disk) const ID: StoreId = [7; 16];

    impl Store {
        /// Opens the store on a simulated disk; creates it if there is none.
        pub(in crate::disk) fn on_simulated(disk: &SimulatedDisk, segment_size: u32) -> Result<Self, StoreError> {
            let path = Path::new("records");
            let created = disk
                .exists("records")
                .and_then(|exists| if exists { Ok(()) } else { replay::create(disk, "records", ID) });
            created.map_err(|source| StoreError::new(path, source))?;
            Self::on_again(disk, segment_size, Trust::All)
        }

        /// Opens the store on a simulated disk again.
        pub(in crate::disk) fn on_again(
            disk: &SimulatedDisk,
            segment_size: u32,
            trust: Trust,
        ) -> Result<Self, StoreError> {
            assert_ne!(trust, Trust::Nothing, "no other process changes files of this disk");
            Self::on(Box::new(disk.clone()), Path::new("records"), "records", segment_size, trust)
        }

        /// Begins a store anew on a simulated disk.
        pub(in crate::disk) fn anew_on_simulated(disk: &SimulatedDisk, segment_size: u32) -> Result<Self, StoreError> {
            Self::begin_anew_on(Box::new(disk.clone()), Path::new("records"), "records", segment_size, ID)
        }

        /// All keys, in ascending order.
        pub(in crate::disk) fn all(&self) -> Vec<PersistedKey> {
            in_order(self.try_all().expect("the store is intact"))
        }

        /// All keys, in any order.
        pub(in crate::disk) fn try_all(&self) -> Result<Vec<PersistedKey>, StoreError> {
            let mut keys = Vec::new();
            self.read_keys(|some| keys.extend(some)).map(|()| keys)
        }

        /// All packs, in the order of their ids.
        pub(in crate::disk) fn packs(&self) -> Result<Vec<Pack>, StoreError> {
            let mut packs = Vec::new();
            self.read_packs(|pack| packs.push(pack)).map(|()| packs)
        }

        /// Bytes of the current entries.
        pub(in crate::disk) fn live_bytes(&self) -> u64 {
            self.contents.live_bytes()
        }

        /// Whether the last piece of cleaning ended within a segment.
        pub(in crate::disk) fn is_cleaning(&self) -> bool {
            self.cleaner.is_within_segment()
        }

        pub(in crate::disk) fn segments(&self) -> usize {
            self.log.segments.len()
        }

        /// Drops the store as a killed process does.
        pub(in crate::disk) fn kill(mut self) {
            self.has_failed = true;
        }

        /// Cleans until there is nothing to do; returns the number of pieces.
        pub(in crate::disk) fn clean_all(&mut self, effort: Effort) -> usize {
            let mut pieces = 0;
            while self.clean(effort).expect("the disk works") == Cleaned::Piece {
                pieces += 1;
                assert!(pieces < 100_000, "cleaning ends");
            }
            pieces
        }
    }

    /// A key with the record number `number`, whose value has `size` bytes.
    pub(in crate::disk) fn persisted(number: u64, size: usize) -> PersistedKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let key = Key::new(key);
        let value: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(size).collect();
        let record = Record {
            key,
            class: Class::Plain,
            version: Version::from_bits(number),
            ttl: Ttl::from_secs(3600).expect("not zero"),
            replication: 8,
            crc: crc_of(&value),
            value: value.into(),
        };
        let saved = WallTime::from_millis(1_700_000_000_000 + number);
        PersistedKey {
            key,
            record: Some(PersistedRecord {
                record,
                age: Age(7),
                saved: SavedAt { wall: saved, boot: None },
                source: Source::Peer,
            }),
            tombstone: None,
        }
    }

    /// The pack with this number, with other tombstones for each `version`.
    pub(in crate::disk) fn pack(number: u32, version: u64) -> Pack {
        let tombstone = |nth: u64| OldTombstone {
            fingerprint: Fingerprint64::new((nth << 32 | u64::from(number)).to_be_bytes()),
            class: if nth.is_multiple_of(3) { TombstoneClass::Signed } else { TombstoneClass::Plain },
            version: Version::from_bits(version),
        };
        Pack {
            id: PackId { epoch: Epoch(number % 3), number },
            fingerprint_key: FingerprintKey::new([7; 16]),
            tombstones: (0..=(u64::from(number) + version) % 16).map(tombstone).collect(),
        }
    }

    /// `keys` as a batch.
    pub(in crate::disk) fn batch(keys: impl IntoIterator<Item = PersistedKey>) -> Batch {
        Batch { sync: true, keys: keys.into_iter().collect(), ..Batch::default() }
    }

    /// `keys` in ascending order, as a store returns them.
    pub(in crate::disk) fn in_order(keys: impl IntoIterator<Item = PersistedKey>) -> Vec<PersistedKey> {
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_by_key(|persisted| *persisted.key.as_bytes());
        keys
    }

    #[test]
    fn written_keys_and_contacts_are_read_back_and_removed_keys_are_not() {
        let scratch = Scratch::new("store");
        let path = scratch.0.join("records");
        let contacts = vec![Contact::new(NodeId::new(Key::new([3; 32])), "10.0.0.1:7".parse().expect("a literal"))];
        let tombstone = Tombstone { signed: None, plain: Some(Version::from_bits(9)) };
        let ended = PersistedKey { record: None, tombstone: Some(tombstone), ..persisted(2, 1) };
        {
            let mut store = Store::open(&path, ID).expect("a new store");
            assert!(store.is_empty());
            let first =
                Batch { contacts: Some(contacts.clone()), ..batch((0..4).map(|number| persisted(number, 100))) };
            store.write(&first).expect("the write succeeds");
            let removed = PersistedKey { record: None, tombstone: None, ..persisted(1, 1) };
            store.write(&batch([removed, ended.clone(), persisted(3, 50)])).expect("the write succeeds");
        }
        let store = Store::open(&path, ID).expect("the store is intact");
        assert_eq!(store.all(), in_order([persisted(0, 100), ended, persisted(3, 50)]));
        assert_eq!(store.len(), 3);
        assert_eq!(store.contacts().expect("the store is readable"), contacts);
        for file in ["00000001.log", "state"] {
            let mode = fs::metadata(path.join(file)).expect("the file exists").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn packs_are_read_back_until_they_are_removed() {
        let disk = SimulatedDisk::default();
        let mut store = Store::on_simulated(&disk, 2_000).expect("a new store");
        assert!(store.is_empty());
        let packs = (0..9).map(|number| Arc::new(pack(number, 1))).collect();
        store.write(&Batch { packs, ..batch([persisted(0, 10)]) }).expect("the write succeeds");
        assert_eq!((store.len(), store.is_empty()), (1, false));
        let removed = (1..8).map(|number| Arc::new(Pack::removed(pack(number, 1).id))).collect();
        store.write(&Batch { packs: removed, ..Batch::default() }).expect("the write succeeds");
        let used = disk.used();
        let again = vec![Arc::new(Pack::removed(pack(1, 1).id))];
        store.write(&Batch { packs: again, ..Batch::default() }).expect("the write succeeds");
        assert_eq!(disk.used(), used, "there is no such pack");
        store.clean_all(Effort::Idle);
        store.kill();
        let store = Store::on_simulated(&disk, 2_000).expect("the store is intact");
        assert_eq!(store.packs().expect("the store is intact"), [pack(0, 1), pack(8, 1)]);
        assert_eq!(store.all(), [persisted(0, 10)]);
    }

    /// The files of a store of format 3: the records 1 and 3, the tombstone of the key 2, and the removal of the key 3.
    const FORMAT_3: (&[&str], [(usize, &str); 3]) = (
        &[
            "64687473746f72650000000300000001070707070707070707070707070707070000000000000000b4db384101000048f073",
            "f1b69e3779b97f4a7c15000000000000000000000000000000000000000000000000010782a0abfef9620e10080000000000",
            "0000000100000000000000010000000000000001000000000100002913c73b4f3c6ef372fe94f82a00000000000000000000",
            "0000000000000000000000000000040000000000000009010000397ed8b1f8daa66d2c7ddf743f0000000000000000000000",
            "00000000000000000000000000010786a0abfef9620e10080000000000000000030000000000040000103a1df71a00000001",
            "0000002c000000010000002c020000204404f313daa66d2c7ddf743f00000000000000000000000000000000000000000000",
            "000004000010d1dad81c00000001000001060000000100000106",
        ],
        [
            (0, "000000000000000100000001000000010000002c3fedfc0f"),
            (512, "000000000000000200000001000000010000002c822790c1"),
            (1024, "000000000000000400000001000000010000014696bef61b"),
        ],
    );

    fn bytes_of(hex: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("digits");
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    /// It is changed as little as any other store, and a program that knows the old format alone refuses it then.
    #[test]
    fn a_store_of_format_3_is_read_and_changed() {
        let disk = SimulatedDisk::default();
        drop(Store::on_simulated(&disk, 2_000).expect("a new store"));
        disk.set_content("records/00000001.log", &bytes_of(&FORMAT_3.0.concat()));
        let mut state = vec![0; 1_536];
        for (at, rest) in FORMAT_3.1 {
            let begin = "64687473746f72650000000307070707070707070707070707070707";
            let slot = bytes_of(&[begin, rest].concat());
            state[at..at + slot.len()].copy_from_slice(&slot);
        }
        disk.set_content("records/state", &state);
        let tombstone = Tombstone { signed: None, plain: Some(Version::from_bits(9)) };
        let ended = PersistedKey { record: None, tombstone: Some(tombstone), ..persisted(2, 1) };
        let mut content = vec![persisted(1, 20), ended];
        Store::on_simulated(&disk, 2_000).expect("an old store").kill();
        let mut store = Store::on_simulated(&disk, 2_000).expect("an old store");
        assert_eq!(store.all(), in_order(content.clone()));
        let packs = vec![Arc::new(pack(1, 1))];
        store.write(&Batch { packs, ..batch((4..20).map(|number| persisted(number, 200))) }).expect("the disk works");
        content.extend((4..20).map(|number| persisted(number, 200)));
        drop(store);
        let formats = [0, 512, 1_024].map(|slot| disk.content("records/state")[slot + 11]);
        assert!(formats.contains(&4), "{formats:?}");
        let mut store = Store::on_simulated(&disk, 2_000).expect("the store is intact");
        assert_eq!(store.all(), in_order(content.clone()));
        while disk.exists("records/00000001.log").expect("the disk works") {
            store.write(&batch((4..20).map(|number| persisted(number, 200)))).expect("the disk works");
            store.clean_all(Effort::Idle);
        }
        assert_eq!((store.all(), store.packs().expect("the store is intact")), (in_order(content), vec![pack(1, 1)]));
    }

    #[test]
    fn a_batch_that_is_larger_than_a_segment_is_read_back() {
        let disk = SimulatedDisk::default();
        let all = in_order((0..50).map(|number| persisted(number, 300)));
        let mut store = Store::on_simulated(&disk, 2_000).expect("a new store");
        store.write(&batch(all.clone())).expect("the write succeeds");
        assert!(store.segments() > 5);
        assert_eq!(store.all(), all);
        store.kill();
        assert_eq!(Store::on_simulated(&disk, 2_000).expect("the store is intact").all(), all);
    }

    #[test]
    fn a_removal_of_a_key_that_is_not_stored_writes_nothing() {
        let disk = SimulatedDisk::default();
        let mut store = Store::on_simulated(&disk, 2_000).expect("a new store");
        let removed = PersistedKey { record: None, tombstone: None, ..persisted(1, 1) };
        store.write(&batch([persisted(0, 10)])).expect("the write succeeds");
        let used = disk.used();
        store.write(&batch([removed])).expect("the write succeeds");
        assert_eq!(disk.used(), used);
    }

    #[test]
    fn an_incomplete_new_store_is_ignored_and_replaced() {
        let scratch = Scratch::new("store-interrupted");
        let incomplete = scratch.0.join("records.new");
        fs::create_dir(&incomplete).expect("a directory for this test");
        scratch.write("records.new/state", "cut off in the mid");
        assert!(Store::open(&scratch.0.join("records"), ID).expect("a new store").is_empty());
        assert!(!incomplete.exists());
    }

    #[test]
    fn reopen_does_not_create_a_missing_store() {
        let scratch = Scratch::new("store-gone");
        let path = scratch.0.join("records");
        drop(Store::open(&path, ID).expect("a new store"));
        fs::remove_dir_all(&path).expect("the directory exists");
        let error = Store::reopen(&path, Trust::All).expect_err("the directory was removed");
        assert!(matches!(error.fault(), StoreFault::Io(_)), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn an_error_of_the_system_names_the_file_and_what_was_tried() {
        let scratch = Scratch::new("store-io");
        let path = scratch.0.join("records");
        drop(Store::open(&path, ID).expect("a new store"));
        for file in ["state", "00000001.log"] {
            let away = scratch.0.join("away");
            fs::rename(path.join(file), &away).expect("the file exists");
            fs::create_dir(path.join(file)).expect("the name is free");
            let text = Store::reopen(&path, Trust::All).expect_err("it is a directory").to_string();
            let named = format!("records/{file}: Is a directory");
            assert!(text.contains("cannot ") && text.contains(&named), "{text}");
            fs::remove_dir(path.join(file)).expect("it is empty");
            fs::rename(&away, path.join(file)).expect("the name is free");
        }
        Store::reopen(&path, Trust::All).expect("the store is intact");
    }
}
