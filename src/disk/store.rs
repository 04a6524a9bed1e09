//! The database of a node's records and contacts: one file, used only if all of it is intact.
//!
//! The database engine is redb, an embedded store whose transactions survive a crash of the process
//! and a power failure.
//!
//! Guarantees:
//!
//! * A batch is written in one transaction: all of it survives, or nothing. The commit has two phases,
//!   which costs a second flush of the file. Because of this, a failed commit never becomes visible
//!   later, although the kernel may still show its pages to readers. A successful commit that is damaged
//!   later is refused; with one phase, redb would silently return to the previous commit.
//! * All checksums of the file are verified before the first read, and the CRC of each entry when it is
//!   read (`entry`). Damage is an error that names the file and tells the operator what to do. It never
//!   looks like an empty store: a new file is created under another name and renamed when it is
//!   complete, so an interrupted start leaves no empty or truncated store.
//! * redb asserts its own invariants, which a damaged file can violate. This module catches such a panic
//!   and returns it as the same kind of error. No other module of this crate catches panics.
//!
//! After an error in [`Store::write`] the state is unknown, and the caller must open the store again.

use std::cell::Cell;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::vec;

use log::warn;
use redb::{Builder, Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};

use crate::contact::Contact;
use crate::disk::{entry, move_into_place, owner_only};
use crate::id::{KEY_SIZE, Key};
use crate::node::persisted::{Batch, PersistedKey};
use crate::wire::codec::WireError;

/// One entry for each key: see `entry`.
const KEYS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("keys");

/// One entry with all contacts: see `entry`.
const CONTACTS: TableDefinition<'_, (), &[u8]> = TableDefinition::new("contacts");

/// Identifies the file format: one number under [`FORMAT_KEY`].
const ABOUT: TableDefinition<'_, &str, u32> = TableDefinition::new("about");

const FORMAT_KEY: &str = "dht-server format";

/// The version of the layout of all tables. A store with another version is refused.
const FORMAT: u32 = 1;

/// Memory for redb's page cache. The store is read once, at the start; afterwards each batch touches
/// pages all over the file.
const STORE_CACHE_SIZE: usize = 16 << 20;

/// Keys per read transaction while the store is loaded: 16 MB if all have the largest value.
const STORE_KEYS_PER_READ: usize = 256;

/// The persisted state of a node, open for reading and writing by one process.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` only during drop.
    database: Option<Database>,
}

impl Store {
    /// Opens the store at `path`. Creates an empty store if the file does not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. If the store is damaged, the text tells how to start without it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let exists = path.try_exists().map_err(|source| StoreError::new(path, StoreFault::Io(source)))?;
        if !exists {
            catch_damage(path, || create(path))?;
        }
        Self::reopen(path)
    }

    /// Opens the store at `path` again.
    ///
    /// # Errors
    ///
    /// As [`Store::open`], and also if the file does not exist: then its records are lost.
    pub fn reopen(path: &Path) -> Result<Self, StoreError> {
        catch_damage(path, || {
            let file = OpenOptions::new().read(true).write(true).open(path).map_err(StoreFault::Io)?;
            if file.metadata().map_err(StoreFault::Io)?.len() == 0 {
                return Err(StoreFault::Empty);
            }
            let database = redb(|| Ok(builder().create_file(file)?))?;
            Self::verified(path, database)
        })
    }

    /// Verifies the format and all checksums of `database`.
    fn verified(path: &Path, mut database: Database) -> Result<Self, StoreFault> {
        verify_format(&database)?;
        if !redb(|| Ok(database.check_integrity()?))? {
            warn!("store repaired path={}", path.display());
        }
        Ok(Self { path: path.to_owned(), database: Some(database) })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of keys.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn len(&self) -> Result<u64, StoreError> {
        catch_damage(&self.path, || redb(|| Ok(self.database().begin_read()?.open_table(KEYS)?.len()?)))
    }

    /// Whether the store has no keys.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        self.len().map(|len| len == 0)
    }

    /// All keys in ascending order, read in several transactions. The iterator ends after an error.
    pub fn keys(&self) -> Keys<'_> {
        Keys { store: self, next: Some(Key::new([0; KEY_SIZE])), read: Vec::new().into_iter() }
    }

    /// Reads the contacts.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn contacts(&self) -> Result<Vec<Contact>, StoreError> {
        catch_damage(&self.path, || match redb(|| Ok(self.database().begin_read()?.open_table(CONTACTS)?.get(())?))? {
            None => Ok(Vec::new()),
            Some(entry) => entry::read_contacts(entry.value()).map_err(|error| StoreFault::Entry { key: None, error }),
        })
    }

    /// Writes `batch`. After success it is on disk and survives a crash and a power failure.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. Then nothing of the batch is written, and the caller must open the store again.
    pub fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        catch_damage(&self.path, || redb(|| write(self.database(), batch)))
    }

    /// Reads up to [`STORE_KEYS_PER_READ`] keys, starting at `first`.
    fn read_keys(&self, first: &Key) -> Result<Vec<PersistedKey>, StoreError> {
        catch_damage(&self.path, || {
            let range =
                redb(|| Ok(self.database().begin_read()?.open_table(KEYS)?.range::<&[u8; 32]>(first.as_bytes()..)?))?;
            let mut keys = Vec::with_capacity(STORE_KEYS_PER_READ);
            for item in range.take(STORE_KEYS_PER_READ) {
                let (key, entry) = redb(|| Ok(item?))?;
                let key = Key::new(*key.value());
                let persisted = entry::read_key(key, entry.value());
                keys.push(persisted.map_err(|error| StoreFault::Entry { key: Some(key), error })?);
            }
            Ok(keys)
        })
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("the database is open until drop")
    }
}

/// redb writes to the file when it is closed, which can reveal damage too.
impl Drop for Store {
    fn drop(&mut self) {
        let database = self.database.take();
        let closed = catch_damage(&self.path, move || {
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            warn!("store not closed cleanly: {error}");
        }
    }
}

/// Iterates over the keys of a [`Store`].
#[derive(Debug)]
pub struct Keys<'a> {
    store: &'a Store,
    /// The start of the next read; `None` if there is nothing more to read.
    next: Option<Key>,
    read: vec::IntoIter<PersistedKey>,
}

impl Iterator for Keys<'_> {
    type Item = Result<PersistedKey, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read.len() == 0 {
            let first = self.next.take()?;
            let keys = match self.store.read_keys(&first) {
                Ok(keys) => keys,
                Err(error) => return Some(Err(error)),
            };
            if keys.len() == STORE_KEYS_PER_READ {
                self.next = keys.last().and_then(|persisted| persisted.key.successor());
            }
            self.read = keys.into_iter();
        }
        self.read.next().map(Ok)
    }
}

/// Why a store cannot be used. The text tells the operator how to continue.
#[derive(Debug)]
pub struct StoreError {
    path: PathBuf,
    fault: StoreFault,
}

/// What is wrong with a store.
#[derive(Debug)]
pub enum StoreFault {
    /// The system refused an operation.
    Io(io::Error),
    /// Another process has opened it.
    Held,
    /// The file is empty.
    Empty,
    /// The file is not a redb database.
    NoStore,
    /// The file belongs to another program.
    Foreign,
    /// The file has another format version.
    Format {
        /// The version in the file.
        found: u32,
    },
    /// redb found data that it cannot have written.
    Redb(redb::Error),
    /// An assertion of redb failed; the panic message is on standard error.
    Panic,
    /// An entry is not what was written.
    Entry {
        /// The key of the entry; `None` for the entry of the contacts.
        key: Option<Key>,
        /// What is wrong with the entry.
        error: WireError,
    },
}

impl StoreError {
    fn new(path: &Path, fault: StoreFault) -> Self {
        Self { path: path.to_owned(), fault }
    }

    /// What is wrong.
    pub fn fault(&self) -> &StoreFault {
        &self.fault
    }
}

/// Some kinds of I/O error mean that the bytes are wrong; all others come from the system.
impl From<redb::Error> for StoreFault {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::Held,
            redb::Error::Io(source) => match source.kind() {
                ErrorKind::InvalidData => Self::NoStore,
                ErrorKind::UnexpectedEof => Self::Redb(redb::Error::Io(source)),
                _ => Self::Io(source),
            },
            redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } => Self::Foreign,
            error => Self::Redb(error),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            StoreFault::Io(source) => return write!(f, "{path}: {source}"),
            StoreFault::Held => return write!(f, "{path} is open in another process"),
            StoreFault::Empty => write!(f, "{path} is damaged: it is empty")?,
            StoreFault::NoStore => write!(f, "{path} is damaged or not a store: the file header is wrong")?,
            StoreFault::Foreign => write!(f, "{path} is damaged or the store of another program")?,
            StoreFault::Format { found } => write!(f, "{path} has the format {found}, expected {FORMAT}")?,
            StoreFault::Redb(error) => write!(f, "{path} is damaged: {error}")?,
            StoreFault::Panic => write!(f, "{path} is damaged: its content is inconsistent")?,
            StoreFault::Entry { key: Some(key), error } => write!(f, "{path} is damaged: key {key}: {error}")?,
            StoreFault::Entry { key: None, error } => write!(f, "{path} is damaged: contacts: {error}")?,
        }
        write!(f, "; move the file away to start without it, other nodes then send the records that they store too")
    }
}

impl std::error::Error for StoreError {}

/// Runs `act` on the store at `path` and turns a panic into [`StoreFault::Panic`].
///
/// A panic leaves no inconsistent state behind: `act` owns what it creates, and the caller drops the
/// store after an error.
fn catch_damage<T>(path: &Path, act: impl FnOnce() -> Result<T, StoreFault>) -> Result<T, StoreError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CATCHING.get() {
                print(info);
            }
        }));
    });
    CATCHING.set(true);
    let result = catch_unwind(AssertUnwindSafe(act)).unwrap_or(Err(StoreFault::Panic));
    CATCHING.set(false);
    result.map_err(|fault| StoreError::new(path, fault))
}

thread_local! {
    /// Whether this thread catches panics. Then the error is reported instead of the panic message.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Calls redb, whose methods have different error types.
fn redb<T>(act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreFault> {
    act().map_err(StoreFault::from)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(STORE_CACHE_SIZE);
    builder
}

/// Creates an empty store, so that after a crash at any point it is complete or does not exist.
fn create(path: &Path) -> Result<(), StoreFault> {
    let new = path.with_added_extension("new");
    let file = owner_only().truncate(true).open(&new).map_err(StoreFault::Io)?;
    let database = redb(|| Ok(builder().create_file(file)?))?;
    redb(|| create_tables(&database))?;
    drop(database);
    move_into_place(&new, path).map_err(StoreFault::Io)
}

/// Creates all tables, so that a missing table always means damage.
fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.open_table(ABOUT)?.insert(FORMAT_KEY, FORMAT)?;
    transaction.open_table(KEYS)?;
    transaction.open_table(CONTACTS)?;
    Ok(transaction.commit()?)
}

fn verify_format(database: &Database) -> Result<(), StoreFault> {
    let found = redb(|| Ok(database.begin_read()?.open_table(ABOUT)?.get(FORMAT_KEY)?))?;
    match found.map(|found| found.value()) {
        None => Err(StoreFault::Foreign),
        Some(FORMAT) => Ok(()),
        Some(found) => Err(StoreFault::Format { found }),
    }
}

fn write(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    {
        let mut keys = transaction.open_table(KEYS)?;
        let mut entry = Vec::new();
        for persisted in &batch.keys {
            entry::write_key(persisted, &mut entry);
            if entry.is_empty() {
                keys.remove(persisted.key.as_bytes())?;
            } else {
                keys.insert(persisted.key.as_bytes(), &entry[..])?;
            }
        }
        if let Some(contacts) = &batch.contacts {
            entry::write_contacts(contacts, &mut entry);
            transaction.open_table(CONTACTS)?.insert((), &entry[..])?;
        }
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
pub(in crate::disk) mod tests {
    use super::*;
    use crate::disk::tests::Scratch;
    use crate::id::NodeId;
    use crate::node::persisted::{PersistedRecord, SavedAt};
    use crate::record::{Age, Class, Record, Source, Tombstone, Ttl, Version, crc_of};
    use crate::time::WallTime;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    impl Store {
        /// Creates a store on `backend`.
        pub(in crate::disk) fn create_on(backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
            Self::on(backend, create_tables)
        }

        /// Opens the store on `backend`.
        pub(in crate::disk) fn reopen_on(backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
            Self::on(backend, |_| Ok(()))
        }

        fn on(
            backend: impl redb::StorageBackend,
            prepare: impl FnOnce(&Database) -> Result<(), redb::Error>,
        ) -> Result<Self, StoreError> {
            let path = Path::new("a backend of a test");
            catch_damage(path, || {
                let database = redb(|| Ok(builder().create_with_backend(backend)?))?;
                redb(|| prepare(&database))?;
                Self::verified(path, database)
            })
        }

        /// All keys.
        pub(in crate::disk) fn all(&self) -> Vec<PersistedKey> {
            self.keys().collect::<Result<_, _>>().expect("the store is intact")
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

    /// `keys` as a batch.
    pub(in crate::disk) fn batch(keys: impl IntoIterator<Item = PersistedKey>) -> Batch {
        Batch { keys: keys.into_iter().collect(), contacts: None }
    }

    /// `keys` in ascending order, as a store returns them.
    pub(in crate::disk) fn in_order(keys: impl IntoIterator<Item = PersistedKey>) -> Vec<PersistedKey> {
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_by_key(|persisted| *persisted.key.as_bytes());
        keys
    }

    fn fault_of(path: &Path) -> StoreFault {
        Store::open(path).expect_err("the store is damaged").fault
    }

    #[test]
    fn written_keys_and_contacts_are_read_back_and_removed_keys_are_not() {
        let scratch = Scratch::new("store");
        let path = scratch.0.join("records.redb");
        let contacts = vec![Contact::new(NodeId::new(Key::new([3; 32])), "10.0.0.1:7".parse().expect("a literal"))];
        let tombstone = Tombstone { signed: None, plain: Some(Version::from_bits(9)) };
        let ended = PersistedKey { record: None, tombstone: Some(tombstone), ..persisted(2, 1) };
        {
            let mut store = Store::open(&path).expect("a new store");
            assert!(store.is_empty().expect("the store is readable"));
            let first =
                Batch { contacts: Some(contacts.clone()), ..batch((0..4).map(|number| persisted(number, 100))) };
            store.write(&first).expect("the write succeeds");
            let removed = PersistedKey { record: None, tombstone: None, ..persisted(1, 1) };
            store.write(&batch([removed, ended.clone(), persisted(3, 50)])).expect("the write succeeds");
        }
        let store = Store::open(&path).expect("the store is intact");
        assert_eq!(store.all(), in_order([persisted(0, 100), ended, persisted(3, 50)]));
        assert_eq!(store.contacts().expect("the store is readable"), contacts);
        assert_eq!(fs::metadata(&path).expect("the file exists").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn keys_are_read_in_ascending_order_up_to_the_largest_key() {
        let scratch = Scratch::new("store-order");
        let mut store = Store::open(&scratch.0.join("records.redb")).expect("a new store");
        let last = |record: PersistedKey| {
            let key = Key::new([u8::MAX; 32]);
            let record = record
                .record
                .map(|persisted| PersistedRecord { record: Record { key, ..persisted.record }, ..persisted });
            PersistedKey { key, record, tombstone: None }
        };
        let numbers = 0..u64::try_from(2 * STORE_KEYS_PER_READ).expect("few") - 1;
        let all = in_order(numbers.map(|number| persisted(number, 10)).chain([last(persisted(0, 10))]));
        store.write(&batch(all.clone())).expect("the write succeeds");
        assert_eq!(store.all(), all);
    }

    /// A copy of the open file is what `kill -9` leaves.
    #[test]
    fn a_store_that_was_not_closed_has_every_batch() {
        let scratch = Scratch::new("store-killed");
        let (path, copy) = (scratch.0.join("records.redb"), scratch.0.join("copy.redb"));
        let mut store = Store::open(&path).expect("a new store");
        for number in 0..20 {
            store.write(&batch([persisted(number, 1_000)])).expect("the write succeeds");
            fs::copy(&path, &copy).expect("a copy");
            let killed = Store::open(&copy).expect("the store is intact");
            assert_eq!(killed.all(), in_order((0..=number).map(|number| persisted(number, 1_000))));
        }
    }

    #[test]
    fn an_incomplete_new_store_is_ignored_and_replaced() {
        let scratch = Scratch::new("store-interrupted");
        let incomplete = scratch.write("records.redb.new", "cut off in the mid");
        let store = Store::open(&scratch.0.join("records.redb")).expect("a new store");
        assert!(store.is_empty().expect("the store is readable"));
        assert!(!incomplete.exists());
    }

    #[test]
    fn a_file_that_is_not_a_store_of_this_format_is_refused() {
        let scratch = Scratch::new("store-refused");
        assert!(matches!(fault_of(&scratch.write("empty", "")), StoreFault::Empty));
        assert!(matches!(fault_of(&scratch.write("text", &"text ".repeat(9_000))), StoreFault::NoStore));
        assert!(matches!(fault_of(&scratch.0), StoreFault::Io(_)), "a directory");
        let other = |name: &str, format: Option<u32>| {
            let path = scratch.0.join(name);
            let database = builder().create(&path).expect("a new file");
            let transaction = database.begin_write().expect("no other transaction is open");
            if let Some(format) = format {
                let mut about = transaction.open_table(ABOUT).expect("a new table");
                about.insert(FORMAT_KEY, format).expect("the write succeeds");
            }
            transaction.commit().expect("the write succeeds");
            drop(database);
            fault_of(&path)
        };
        assert!(matches!(other("foreign", None), StoreFault::Foreign));
        assert!(matches!(other("later", Some(FORMAT + 1)), StoreFault::Format { found } if found == FORMAT + 1));
    }

    #[test]
    fn reopen_does_not_create_a_missing_store() {
        let scratch = Scratch::new("store-gone");
        let path = scratch.0.join("records.redb");
        drop(Store::open(&path).expect("a new store"));
        fs::remove_file(&path).expect("the file exists");
        let error = Store::reopen(&path).expect_err("the file was removed");
        assert!(matches!(error.fault, StoreFault::Io(_)), "{error}");
        assert!(!path.exists());
    }

    /// redb's checksums are valid here, as after a change by redb itself; only the CRC of the entry is wrong.
    #[test]
    fn the_error_names_the_key_of_a_changed_entry() {
        let scratch = Scratch::new("store-entry");
        let path = scratch.0.join("records.redb");
        let mut store = Store::open(&path).expect("a new store");
        store.write(&batch([persisted(1, 10)])).expect("the write succeeds");
        let transaction = store.database().begin_write().expect("no other transaction is open");
        {
            let mut keys = transaction.open_table(KEYS).expect("a table");
            keys.insert(persisted(1, 10).key.as_bytes(), &[0; 40][..]).expect("the write succeeds");
        }
        transaction.commit().expect("the write succeeds");
        let error = store.keys().next().expect("one item").expect_err("the entry was changed");
        assert!(
            matches!(error.fault, StoreFault::Entry { key: Some(key), .. } if key == persisted(1, 10).key),
            "{error}"
        );
    }

    #[test]
    fn a_panic_of_redb_becomes_an_error_that_tells_how_to_continue() {
        let error = catch_damage::<()>(Path::new("/data/records.redb"), || panic!("as redb does"))
            .expect_err("the closure panics");
        assert_eq!(
            error.to_string(),
            "/data/records.redb is damaged: its content is inconsistent; move the file away to start without it, \
             other nodes then send the records that they store too"
        );
    }
}
