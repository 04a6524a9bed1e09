//! What survives a restart: the node's key, its records and its contacts.
//!
//! Guarantees:
//!
//! * A data directory belongs to one process at a time. The process holds a file lock, which the
//!   system releases when the process ends, also after a crash.
//! * After a crash at any point, each file is complete or does not exist.
//! * This module reads no clock and draws no randomness.
//!
//! Non-goals: this module does not decide what to persist or when. The node does.
//!
//! The files: `key` has the node's key, [`store`] the store of records and contacts, which is verified to the
//! last byte before any of it is used, and names the files that it consists of, and [`writer`] the thread that
//! writes to the store while the event loop runs.

mod ahead;
mod cleaner;
mod contents;
#[cfg(test)]
mod crash_tests;
mod current;
#[cfg(test)]
mod damage_tests;
mod entry;
#[cfg(test)]
mod failure_tests;
mod fault;
mod files;
mod index;
mod key;
mod log;
mod replay;
mod salvage;
mod segment;
#[cfg(test)]
mod simulated;
mod state;
pub mod store;
#[cfg(test)]
mod throughput;
pub mod writer;

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ::log::warn;
pub use key::{HostKey, host_key};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::disk::files::SystemFiles;
pub use crate::disk::salvage::Dropped;
use crate::disk::store::{Store, StoreError, StoreFault, StoreId, free_name};
use crate::node::persisted::Batch;

/// The file that the process with the data directory keeps locked. It contains the pid of the process.
const LOCK_FILE: &str = "lock";

/// The directory of the store of records and contacts.
const STORE: &str = "records";

/// The store of earlier versions of this program.
const SUPERSEDED_STORE: &str = "records.redb";

/// What became of a damaged store.
#[derive(Debug)]
pub struct Salvaged {
    /// The keys of the new store.
    pub keys: usize,
    /// What it has not of the damaged one.
    pub dropped: Dropped,
    /// The damaged store, which was not changed.
    pub original: PathBuf,
}

/// The data directory of a node, locked until this value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory at `path` if it does not exist, and locks it for the process `pid`.
    ///
    /// # Errors
    ///
    /// [`DiskError::InUse`] if another process has the lock, [`DiskError::Io`] if the system refuses.
    pub fn open(path: &Path, pid: u32) -> Result<Self, DiskError> {
        create_directories(path, sync_directory).map_err(io_error(path))?;
        let lock_path = path.join(LOCK_FILE);
        let mut lock = owner_only().truncate(false).open(&lock_path).map_err(io_error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(&lock_path).ok().and_then(|text| text.trim().parse().ok());
                return Err(DiskError::InUse { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(io_error(&lock_path)(source)),
        }
        match writeln!(lock, "{pid}").and_then(|()| lock.stream_position()).and_then(|end| lock.set_len(end)) {
            // The lock works without the pid, and a node on a full disk serves what it has.
            Err(error) if files::is_full(&error) => {
                warn!("pid not written path={} fault=\"{error}\"", lock_path.display());
            }
            written => written.map_err(io_error(&lock_path))?,
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Opens the store of this directory. On the first start it is created, and empty; `id` distinguishes it from
    /// every other store.
    ///
    /// # Errors
    ///
    /// Those of [`Store::open`], and [`StoreFault::Superseded`] if there is only the store of an earlier version.
    pub fn store(&self, id: StoreId) -> Result<Store, StoreError> {
        let (path, superseded) = (self.path.join(STORE), self.path.join(SUPERSEDED_STORE));
        if !path.exists() && superseded.exists() {
            return Err(StoreError::new(&superseded, StoreFault::Superseded));
        }
        Store::open(&path, id)
    }

    /// If the store of this directory is damaged, replaces it by one with the id `id` that has what is intact. The
    /// damaged store stays as it is, under a name that no file has. `None` if the store is intact.
    ///
    /// # Errors
    ///
    /// Those of [`DataDir::store`] about a store of another version; and [`StoreFault::Io`] if the system refuses.
    /// Then nothing is replaced, or a power failure may undo it.
    pub fn salvage(&self, id: StoreId) -> Result<Option<Salvaged>, StoreError> {
        match self.store(id) {
            Ok(_) => return Ok(None),
            Err(error) if !error.fault().is_salvageable() => return Err(error),
            Err(error) => warn!("{error}"),
        }
        let store = self.path.join(STORE);
        let new = free_name(&store, "salvaged");
        // In one step: after a power failure there is one store or the other.
        let exchange = || renameat_with(CWD, &store, CWD, &new, RenameFlags::EXCHANGE).map_err(io::Error::from);
        let copied = self.copy_intact(&new, id).and_then(|copied| Ok(exchange().map(|()| copied)?));
        if copied.is_err() {
            let _ = fs::remove_dir_all(&new); // it takes up space, and the first error says more
        }
        let (keys, dropped) = copied.map_err(|fault| StoreError::new(&self.path, fault))?;
        // From here on, `new` is the damaged store.
        let aside = free_name(&store, "aside");
        let original = if fs::rename(&new, &aside).is_ok() { aside } else { new };
        sync_directory(&self.path).map_err(|source| StoreError::new(&self.path, source))?;
        Ok(Some(Salvaged { keys, dropped, original }))
    }

    /// Copies what is intact in the damaged store to a new one at `new`; returns the number of keys, and what is not
    /// intact.
    fn copy_intact(&self, new: &Path, id: StoreId) -> Result<(usize, Dropped), StoreFault> {
        let mut store = Store::open(new, id).map_err(StoreError::into_fault)?;
        let keep = |batch: &Batch| store.write(batch).map_err(StoreError::into_fault);
        let dropped = salvage::salvage(&SystemFiles(self.path.clone()), STORE, keep)?;
        Ok((store.len(), dropped))
    }

    /// Renames the store to a name that no file has, and returns that path. Its files are not changed.
    ///
    /// # Errors
    ///
    /// [`DiskError::Io`] if the system refuses.
    pub fn set_store_aside(&self) -> Result<PathBuf, DiskError> {
        let path = self.path.join(STORE);
        let aside = Store::set_aside(&path).and_then(|aside| aside.ok_or(io::ErrorKind::NotFound.into()));
        aside.map_err(io_error(&path))
    }
}

/// Options to create, read and write a file that only its owner may access.
fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

/// Creates the directory at `path`, and those above it that do not exist. `sync` makes the names in a directory
/// durable: what is synced in the new directory is lost if a power failure takes its own name.
fn create_directories(path: &Path, mut sync: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<_> = path.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.into_iter().filter_map(Path::parent).try_for_each(&mut sync)
}

/// Waits until the names in a directory are on disk.
fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

/// Moves the complete file `new` to `path`, so that after a crash at any point `path` is complete
/// or does not exist.
fn move_into_place(new: &Path, path: &Path) -> io::Result<()> {
    File::open(new)?.sync_all()?;
    fs::rename(new, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Why a data directory or a key cannot be used.
#[derive(Debug)]
pub enum DiskError {
    /// Another process has locked the directory.
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, if the lock file contains its pid.
        pid: Option<u32>,
    },
    /// The file contains no Ed25519 key.
    NotEd25519 {
        /// The file.
        path: PathBuf,
    },
    /// The id of the key does not solve the network's puzzle.
    Puzzle {
        /// The key's file.
        path: PathBuf,
        /// Leading zero bits of the id.
        found: u8,
        /// Leading zero bits that the network requires.
        expected: u8,
    },
    /// The system refused an operation.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path, pid: Some(pid) } => {
                write!(f, "{} belongs to the running process {pid}", path.display())
            }
            Self::InUse { path, pid: None } => write!(f, "{} belongs to another running process", path.display()),
            Self::NotEd25519 { path } => write!(f, "{} is no Ed25519 key, expected PKCS#8 in PEM", path.display()),
            Self::Puzzle { path, found, expected } => write!(
                f,
                "the id of {} shows {found} zero bits, expected pow_bits = {expected}; move the file away for a new key",
                path.display()
            ),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for DiskError {}

/// Makes a [`DiskError::Io`] about `path`.
fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::store::Trust;
    use crate::disk::store::tests::{batch, persisted};

    /// A directory for one test, removed when the test ends.
    pub(in crate::disk) struct Scratch(pub(in crate::disk) PathBuf);

    impl Scratch {
        pub(in crate::disk) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dht-disk-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory for this test");
            Self(path)
        }

        pub(in crate::disk) fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).expect("a file for this test");
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_second_process_gets_the_pid_of_the_process_with_the_lock() {
        let scratch = Scratch::new("in-use");
        let path = scratch.0.join("data");
        let _first = DataDir::open(&path, 4711).expect("no other process has the lock");
        let error = DataDir::open(&path, 4712).expect_err("the first process has the lock");
        assert!(matches!(error, DiskError::InUse { pid: Some(4711), .. }), "{error}");
    }

    /// The pid is for people, and the next start with another process replaces all of it.
    #[test]
    fn a_directory_on_a_full_disk_is_opened_without_the_pid() {
        let scratch = Scratch::new("full");
        std::os::unix::fs::symlink("/dev/full", scratch.0.join("lock")).expect("a name for this test");
        DataDir::open(&scratch.0, 4711).expect("the lock is free");
        fs::remove_file(scratch.0.join("lock")).expect("the name exists");
        for pid in [4711, 12] {
            drop(DataDir::open(&scratch.0, pid).expect("the lock is free"));
            assert_eq!(fs::read_to_string(scratch.0.join("lock")).expect("a file"), format!("{pid}\n"));
        }
    }

    #[test]
    fn the_name_of_each_new_directory_is_synced() {
        let scratch = Scratch::new("names");
        let path = scratch.0.join("a/b/c");
        let mut synced = Vec::new();
        let mut create = |path: &Path| {
            synced.clear();
            create_directories(path, |directory| {
                synced.push(directory.to_owned());
                sync_directory(directory)
            })
            .expect("the names are free");
            synced.clone()
        };
        assert_eq!(create(&path), [scratch.0.join("a/b"), scratch.0.join("a"), scratch.0.clone()]);
        assert_eq!(create(&path.join("d")), std::slice::from_ref(&path));
        assert_eq!(create(&path), [] as [PathBuf; 0]);
        sync_directory(Path::new("")).expect("the working directory");
    }

    #[test]
    fn set_store_aside_keeps_the_store_intact_and_overwrites_no_file() {
        let scratch = Scratch::new("aside");
        let dir = DataDir::open(&scratch.0, 1).expect("no other process has the lock");
        let mut moved = Vec::new();
        for number in 0..3 {
            let mut store = dir.store([7; 16]).expect("a new store");
            assert!(store.is_empty());
            store.write(&batch([persisted(number, 10)])).expect("the write succeeds");
            drop(store);
            moved.push(dir.set_store_aside().expect("the rename succeeds"));
        }
        for (number, path) in (0..).zip(&moved) {
            assert_eq!(Store::reopen(path, Trust::All).expect("the store is intact").all(), [persisted(number, 10)]);
        }
        assert_eq!(moved[0], scratch.0.join("records.aside"));
    }

    #[test]
    fn the_store_of_an_earlier_version_is_refused_until_it_is_moved_away() {
        let scratch = Scratch::new("superseded");
        let dir = DataDir::open(&scratch.0, 1).expect("no other process has the lock");
        let old = scratch.write("records.redb", "redb");
        let error = dir.store([7; 16]).expect_err("there is only an old store");
        assert!(matches!(error.fault(), StoreFault::Superseded), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("records.redb is the store of an earlier version") && text.contains("move the file away")
        );
        assert!(!scratch.0.join("records").exists());
        fs::rename(&old, scratch.0.join("away")).expect("the way out");
        drop(dir.store([7; 16]).expect("a new store"));
        fs::rename(scratch.0.join("away"), &old).expect("it is put back");
        dir.store([7; 16]).expect("the new store is there");
    }
}
