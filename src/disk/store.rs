//! The records and contacts of a node in one file, which is believed whole or not at all.
//!
//! Underneath is redb, an embedded store whose transactions survive the end of the process and of
//! the power. Its laws here:
//!
//! * A batch is written in one transaction: all of it survives, or nothing. It is committed in two
//!   phases, which costs a second flush of the file. So a commit that has failed is never taken up
//!   again because the kernel, having failed to write it, still shows it to readers; and a commit
//!   that was reported as done and is damaged later is refused, where one phase would silently go
//!   back to the commit before.
//! * Before anything is read, every checksum of the file is verified; then every entry's own
//!   (`entry`). What fails is an error that names the file and the way out, and
//!   never an empty store: a file is made beside its place and moved there, so a file that is
//!   empty, or cut, was not left so by a start that was interrupted.
//! * redb asserts what it takes for granted, and a file that was tampered with may take that away.
//!   This is the one place of the house that catches a panic, and it turns it into that error.
//!
//! Who writes after an error must open the store anew: nothing is known of the state in between.

use std::cell::Cell;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::vec;

use log::warn;
use redb::{Builder, Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};

use crate::contact::Contact;
use crate::disk::entry;
use crate::id::Key;
use crate::limits::{STORE_CACHE_SIZE, STORE_KEYS_PER_READ};
use crate::node::persisted::{Batch, PersistedKey};
use crate::wire::codec::WireError;

/// The state of each key: see `entry`.
const KEYS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("keys");

/// The contacts, all in one entry: see `entry`.
const CONTACTS: TableDefinition<'_, (), &[u8]> = TableDefinition::new("contacts");

/// What kind of file this is: one number under [`FORMAT_KEY`].
const ABOUT: TableDefinition<'_, &str, u32> = TableDefinition::new("about");

const FORMAT_KEY: &str = "dht-server format";

/// The layout of all tables. One that differs is refused, never guessed at.
const FORMAT: u32 = 1;

/// What a node has kept, open for reading and writing by one process.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// There until it is dropped.
    database: Option<Database>,
}

impl Store {
    /// Opens the store at `path`; makes an empty one, if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`], which says how to start without the store if it cannot be believed.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let exists = path.try_exists().map_err(|source| StoreError::new(path, StoreFault::Io(source)))?;
        if !exists {
            guarded(path, || create(path))?;
        }
        Self::reopen(path)
    }

    /// Opens the store at `path`, which was there before.
    ///
    /// # Errors
    ///
    /// As [`Store::open`], and if there is none: then what it held is not to be had any more.
    pub fn reopen(path: &Path) -> Result<Self, StoreError> {
        guarded(path, || {
            let file = OpenOptions::new().read(true).write(true).open(path).map_err(StoreFault::Io)?;
            if file.metadata().map_err(StoreFault::Io)?.len() == 0 {
                return Err(StoreFault::Empty);
            }
            let database = ask(|| Ok(builder().create_file(file)?))?;
            Self::verified(path, database)
        })
    }

    /// The store in `database`, if all of it is as it was written.
    fn verified(path: &Path, mut database: Database) -> Result<Self, StoreFault> {
        judge_format(&database)?;
        if !ask(|| Ok(database.check_integrity()?))? {
            warn!("store repaired path={}", path.display());
        }
        Ok(Self { path: path.to_owned(), database: Some(database) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many keys it has.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn len(&self) -> Result<u64, StoreError> {
        guarded(&self.path, || ask(|| Ok(self.database().begin_read()?.open_table(KEYS)?.len()?)))
    }

    /// Whether it has none.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        self.len().map(|len| len == 0)
    }

    /// All keys, in their order, read a few at a time. The first error is the last item.
    pub fn keys(&self) -> Keys<'_> {
        Keys { store: self, next: Some([0; 32]), read: Vec::new().into_iter() }
    }

    /// The contacts.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn contacts(&self) -> Result<Vec<Contact>, StoreError> {
        guarded(&self.path, || match ask(|| Ok(self.database().begin_read()?.open_table(CONTACTS)?.get(())?))? {
            None => Ok(Vec::new()),
            Some(entry) => entry::read_contacts(entry.value()).map_err(|error| StoreFault::Entry { key: None, error }),
        })
    }

    /// Writes all of `batch`. When this returns it is on disk, and survives whatever follows.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing of the batch is kept then, and the store is to be opened anew.
    pub fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        guarded(&self.path, || ask(|| write(self.database(), batch)))
    }

    /// Keys from `first` on, as many as are read at a time.
    fn read_keys(&self, first: &[u8; 32]) -> Result<Vec<PersistedKey>, StoreError> {
        guarded(&self.path, || {
            let range = ask(|| Ok(self.database().begin_read()?.open_table(KEYS)?.range::<&[u8; 32]>(first..)?))?;
            let mut keys = Vec::with_capacity(STORE_KEYS_PER_READ);
            for item in range.take(STORE_KEYS_PER_READ) {
                let (key, entry) = ask(|| Ok(item?))?;
                let key = Key::new(*key.value());
                let persisted = entry::read_key(key, entry.value());
                keys.push(persisted.map_err(|error| StoreFault::Entry { key: Some(key), error })?);
            }
            Ok(keys)
        })
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("it is there until it is dropped")
    }
}

/// Closing writes to the file as well, and may meet the same damage.
impl Drop for Store {
    fn drop(&mut self) {
        let database = self.database.take();
        let closed = guarded(&self.path, move || {
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            warn!("store not closed in order: {error}");
        }
    }
}

/// The keys of a [`Store`], one after the other.
#[derive(Debug)]
pub struct Keys<'a> {
    store: &'a Store,
    /// Where the next read begins; `None` when there is nothing more to read.
    next: Option<[u8; 32]>,
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
                self.next = keys.last().and_then(|persisted| successor(*persisted.key.as_bytes()));
            }
            self.read = keys.into_iter();
        }
        self.read.next().map(Ok)
    }
}

/// Why a store cannot be used: for the operator, with the way out.
#[derive(Debug)]
pub struct StoreError {
    path: PathBuf,
    fault: StoreFault,
}

/// What is wrong with a store.
#[derive(Debug)]
pub enum StoreFault {
    /// The system refused.
    Io(io::Error),
    /// Another process has it open.
    Held,
    /// The file has no bytes.
    Empty,
    /// The file is none of redb's.
    NoStore,
    /// The file belongs to another program.
    Foreign,
    /// The file was written in another format.
    Format {
        /// Which.
        found: u32,
    },
    /// redb found what it could not have written.
    Redb(redb::Error),
    /// redb met what it held to be impossible, and has said so on standard error.
    Panic,
    /// An entry is not what was written.
    Entry {
        /// Under which key; none, if it is that of the contacts.
        key: Option<Key>,
        /// What is wrong with it.
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

/// An I/O error is the system's, unless it says that the bytes are wrong.
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
            StoreFault::NoStore => write!(f, "{path} is damaged, or no store at all: it does not begin as one")?,
            StoreFault::Foreign => write!(f, "{path} is damaged, or the store of another program")?,
            StoreFault::Format { found } => write!(f, "{path} has the format {found}, expected {FORMAT}")?,
            StoreFault::Redb(error) => write!(f, "{path} is damaged: {error}")?,
            StoreFault::Panic => write!(f, "{path} is damaged: it contradicts itself")?,
            StoreFault::Entry { key: Some(key), error } => write!(f, "{path} is damaged: key {key}: {error}")?,
            StoreFault::Entry { key: None, error } => write!(f, "{path} is damaged: contacts: {error}")?,
        }
        write!(f, "; move the file away to start without it, other nodes bring back the records that they hold too")
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            StoreFault::Io(source) => Some(source),
            StoreFault::Redb(error) => Some(error),
            StoreFault::Entry { error, .. } => Some(error),
            StoreFault::Held
            | StoreFault::Empty
            | StoreFault::NoStore
            | StoreFault::Foreign
            | StoreFault::Format { .. }
            | StoreFault::Panic => None,
        }
    }
}

/// Does something with the store at `path`, and takes a panic for damage.
///
/// Nothing of ours is left half done by one: `act` owns what it makes, and whoever sees the error
/// drops the store.
fn guarded<T>(path: &Path, act: impl FnOnce() -> Result<T, StoreFault>) -> Result<T, StoreError> {
    static HUSH: Once = Once::new();
    HUSH.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                loud(info);
            }
        }));
    });
    GUARDED.set(true);
    let done = catch_unwind(AssertUnwindSafe(act)).unwrap_or(Err(StoreFault::Panic));
    GUARDED.set(false);
    done.map_err(|fault| StoreError::new(path, fault))
}

thread_local! {
    /// Whether a panic of this thread is caught, and so is told as an error: the trace of it would
    /// only hide that.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Asks redb, whose calls have a type of error each.
fn ask<T>(act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreFault> {
    act().map_err(StoreFault::from)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(STORE_CACHE_SIZE);
    builder
}

/// Makes an empty store so that after a crash at any point it is there whole or not at all.
fn create(path: &Path) -> Result<(), StoreFault> {
    let beside = path.with_added_extension("new");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&beside).map_err(StoreFault::Io)?;
    let database = ask(|| Ok(builder().create_file(file)?))?;
    ask(|| make_tables(&database))?;
    drop(database);
    let put_in_place = || {
        File::open(&beside)?.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    put_in_place().map_err(StoreFault::Io)
}

/// Makes the tables, so that one that is missing later is damage.
fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.open_table(ABOUT)?.insert(FORMAT_KEY, FORMAT)?;
    transaction.open_table(KEYS)?;
    transaction.open_table(CONTACTS)?;
    Ok(transaction.commit()?)
}

fn judge_format(database: &Database) -> Result<(), StoreFault> {
    let found = ask(|| Ok(database.begin_read()?.open_table(ABOUT)?.get(FORMAT_KEY)?))?;
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

/// The key behind `key`, if it is not the last.
fn successor(mut key: [u8; 32]) -> Option<[u8; 32]> {
    let at = key.iter().rposition(|byte| *byte != u8::MAX)?;
    key[at] += 1;
    key[at + 1..].fill(0);
    Some(key)
}

#[cfg(test)]
pub(in crate::disk) mod tests {
    use super::*;
    use crate::disk::tests::Scratch;
    use crate::id::NodeId;
    use crate::node::persisted::PersistedRecord;
    use crate::record::{Age, Class, Record, Source, Tombstone, Ttl, Version, crc_of};
    use crate::time::WallTime;
    use std::os::unix::fs::PermissionsExt;

    impl Store {
        /// A new store on `backend`.
        pub(in crate::disk) fn create_on(backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
            Self::on(backend, make_tables)
        }

        /// The store that is on `backend`.
        pub(in crate::disk) fn reopen_on(backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
            Self::on(backend, |_| Ok(()))
        }

        fn on(
            backend: impl redb::StorageBackend,
            prepare: impl FnOnce(&Database) -> Result<(), redb::Error>,
        ) -> Result<Self, StoreError> {
            let path = Path::new("a backend of a test");
            guarded(path, || {
                let database = ask(|| Ok(builder().create_with_backend(backend)?))?;
                ask(|| prepare(&database))?;
                Self::verified(path, database)
            })
        }

        /// All that it holds.
        pub(in crate::disk) fn all(&self) -> Vec<PersistedKey> {
            self.keys().collect::<Result<_, _>>().expect("nothing is damaged")
        }
    }

    /// The record number `number` of `size` bytes.
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
            record: Some(PersistedRecord { record, age: Age(7), saved, source: Source::Peer }),
            tombstone: None,
        }
    }

    /// `keys` as a batch.
    pub(in crate::disk) fn batch(keys: impl IntoIterator<Item = PersistedKey>) -> Batch {
        Batch { keys: keys.into_iter().collect(), contacts: None }
    }

    /// `keys` in the order in which a store gives them back.
    pub(in crate::disk) fn in_order(keys: impl IntoIterator<Item = PersistedKey>) -> Vec<PersistedKey> {
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_by_key(|persisted| *persisted.key.as_bytes());
        keys
    }

    fn fault_of(path: &Path) -> StoreFault {
        Store::open(path).expect_err("it cannot be believed").fault
    }

    #[test]
    fn what_was_written_is_there_again_and_what_was_forgotten_is_not() {
        let scratch = Scratch::new("store");
        let path = scratch.0.join("records.redb");
        let contacts = vec![Contact::new(NodeId::new(Key::new([3; 32])), "10.0.0.1:7".parse().expect("a literal"))];
        let over = Tombstone { signed: None, plain: Some(Version::from_bits(9)) };
        let ended = PersistedKey { record: None, tombstone: Some(over), ..persisted(2, 1) };
        {
            let mut store = Store::open(&path).expect("a new store");
            assert!(store.is_empty().expect("it can be read"));
            let first =
                Batch { contacts: Some(contacts.clone()), ..batch((0..4).map(|number| persisted(number, 100))) };
            store.write(&first).expect("it is written");
            let forgotten = PersistedKey { record: None, tombstone: None, ..persisted(1, 1) };
            store.write(&batch([forgotten, ended.clone(), persisted(3, 50)])).expect("it is written");
        }
        let store = Store::open(&path).expect("the store of before");
        assert_eq!(store.all(), in_order([persisted(0, 100), ended, persisted(3, 50)]));
        assert_eq!(store.contacts().expect("they can be read"), contacts);
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn many_keys_come_in_their_order_up_to_the_very_last() {
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
        store.write(&batch(all.clone())).expect("it is written");
        assert_eq!(store.all(), all);
    }

    /// The file as `kill -9` leaves it: never closed.
    #[test]
    fn a_store_that_was_never_closed_holds_every_batch() {
        let scratch = Scratch::new("store-killed");
        let (path, copy) = (scratch.0.join("records.redb"), scratch.0.join("copy.redb"));
        let mut store = Store::open(&path).expect("a new store");
        for number in 0..20 {
            store.write(&batch([persisted(number, 1_000)])).expect("it is written");
            fs::copy(&path, &copy).expect("a copy");
            let killed = Store::open(&copy).expect("nothing is damaged");
            assert_eq!(killed.all(), in_order((0..=number).map(|number| persisted(number, 1_000))));
        }
    }

    #[test]
    fn a_start_that_was_interrupted_leaves_no_store() {
        let scratch = Scratch::new("store-interrupted");
        let beside = scratch.write("records.redb.new", "cut off in the mid");
        let store = Store::open(&scratch.0.join("records.redb")).expect("a new store");
        assert!(store.is_empty().expect("it can be read"));
        assert!(!beside.exists());
    }

    #[test]
    fn what_is_no_store_of_this_format_is_refused() {
        let scratch = Scratch::new("store-refused");
        assert!(matches!(fault_of(&scratch.write("empty", "")), StoreFault::Empty));
        assert!(matches!(fault_of(&scratch.write("text", &"text ".repeat(9_000))), StoreFault::NoStore));
        assert!(matches!(fault_of(&scratch.0), StoreFault::Io(_)), "a directory");
        let other = |name: &str, format: Option<u32>| {
            let path = scratch.0.join(name);
            let database = builder().create(&path).expect("a new file");
            let transaction = database.begin_write().expect("nobody writes");
            if let Some(format) = format {
                let mut about = transaction.open_table(ABOUT).expect("a new table");
                about.insert(FORMAT_KEY, format).expect("it is written");
            }
            transaction.commit().expect("it is written");
            drop(database);
            fault_of(&path)
        };
        assert!(matches!(other("foreign", None), StoreFault::Foreign));
        assert!(matches!(other("later", Some(FORMAT + 1)), StoreFault::Format { found } if found == FORMAT + 1));
    }

    #[test]
    fn a_store_that_was_there_is_not_made_anew() {
        let scratch = Scratch::new("store-gone");
        let path = scratch.0.join("records.redb");
        drop(Store::open(&path).expect("a new store"));
        fs::remove_file(&path).expect("it is there");
        let error = Store::reopen(&path).expect_err("it is gone");
        assert!(matches!(error.fault, StoreFault::Io(_)), "{error}");
        assert!(!path.exists());
    }

    /// Behind all checksums of redb: an entry that was changed by whoever can compute them.
    #[test]
    fn an_entry_that_is_not_what_was_written_is_named() {
        let scratch = Scratch::new("store-entry");
        let path = scratch.0.join("records.redb");
        let mut store = Store::open(&path).expect("a new store");
        store.write(&batch([persisted(1, 10)])).expect("it is written");
        let transaction = store.database().begin_write().expect("nobody writes");
        {
            let mut keys = transaction.open_table(KEYS).expect("a table");
            keys.insert(persisted(1, 10).key.as_bytes(), &[0; 40][..]).expect("it is written");
        }
        transaction.commit().expect("it is written");
        let error = store.keys().next().expect("one item").expect_err("it was changed");
        assert!(
            matches!(error.fault, StoreFault::Entry { key: Some(key), .. } if key == persisted(1, 10).key),
            "{error}"
        );
    }

    #[test]
    fn a_panic_over_a_damaged_file_is_a_refusal_with_the_way_out() {
        let error = guarded::<()>(Path::new("/data/records.redb"), || panic!("as redb does")).expect_err("it panics");
        assert_eq!(
            error.to_string(),
            "/data/records.redb is damaged: it contradicts itself; move the file away to start without it, \
             other nodes bring back the records that they hold too"
        );
    }
}
