//! What survives a restart: the node's key, and what it held and knew.
//!
//! A data directory belongs to one process at a time, held by a lock that the system lets go of
//! when the process ends, however it ends. What is written in it is there whole or not at all,
//! after a crash at any point. Nothing in here reads a clock or draws randomness.
//!
//! The files: `key` the node's key; [`store`] the records and contacts, in one file that is
//! checked to the last byte before any of it is believed; `entry` the layout of what is in there;
//! [`saver`] the thread that writes while the event loop goes on.

mod entry;
mod key;
pub mod saver;
pub mod store;

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use key::{HostKey, host_key};

use crate::disk::store::{Store, StoreError};

/// The file that the holder of a data directory keeps locked; its text is the holder's pid.
const LOCK_FILE: &str = "lock";

/// What the node held and knew.
const STORE_FILE: &str = "records.redb";

/// A node's directory, held as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory at `path`, unless it is there, and takes hold of it for the process `pid`.
    ///
    /// # Errors
    ///
    /// [`DiskError::Held`] if another process holds it, [`DiskError::Io`] if the system refuses.
    pub fn open(path: &Path, pid: u32) -> Result<Self, DiskError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let lock_path = path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let mut lock = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&lock_path).ok().and_then(|text| text.trim().parse().ok());
                return Err(DiskError::Held { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{pid}")).map_err(at(&lock_path))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// What the node held and knew when it was last here; nothing, if this is its first start.
    ///
    /// # Errors
    ///
    /// Those of [`Store::open`].
    pub fn store(&self) -> Result<Store, StoreError> {
        Store::open(&self.path.join(STORE_FILE))
    }

    /// Moves the store out of the way, unharmed, to a name that nothing has; says where it is.
    ///
    /// # Errors
    ///
    /// [`DiskError::Io`] if the system refuses.
    pub fn set_store_aside(&self) -> Result<PathBuf, DiskError> {
        let path = self.path.join(STORE_FILE);
        let first = path.with_added_extension("aside");
        let further = (1_u64..).map(|number| first.with_added_extension(number.to_string()));
        let mut names = std::iter::once(first.clone()).chain(further);
        let aside = names.find(|name| !name.exists()).expect("there are more names than files");
        fs::rename(&path, &aside).map_err(at(&path))?;
        Ok(aside)
    }
}

/// Why a data directory or a key cannot be used.
#[derive(Debug)]
pub enum DiskError {
    /// The directory belongs to another process.
    Held {
        /// The directory.
        path: PathBuf,
        /// The other process, if it has said who it is.
        holder: Option<u32>,
    },
    /// The file is no Ed25519 key.
    NotEd25519 {
        /// The file.
        path: PathBuf,
    },
    /// The id of the key does not solve the puzzle of the network.
    Puzzle {
        /// The key's file.
        path: PathBuf,
        /// Zero bits that its id has to show.
        found: u8,
        /// Zero bits that the network asks for.
        expected: u8,
    },
    /// The system refused.
    Io {
        /// What it was about.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { path, holder: Some(pid) } => {
                write!(f, "{} belongs to the running process {pid}", path.display())
            }
            Self::Held { path, holder: None } => write!(f, "{} belongs to another running process", path.display()),
            Self::NotEd25519 { path } => {
                write!(f, "{} is no Ed25519 key, expected PKCS#8 in PEM", path.display())
            }
            Self::Puzzle { path, found, expected } => write!(
                f,
                "the id of {} shows {found} zero bits, expected pow_bits = {expected}; move the file away for a new key",
                path.display()
            ),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Held { .. } | Self::NotEd25519 { .. } | Self::Puzzle { .. } => None,
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::store::tests::{batch, persisted};

    /// A directory of this test alone, gone when the test ends.
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
    fn a_second_process_learns_who_holds_the_directory() {
        let scratch = Scratch::new("held");
        let path = scratch.0.join("data");
        let _held = DataDir::open(&path, 4711).expect("nobody holds it");
        let error = DataDir::open(&path, 4712).expect_err("it is held");
        assert!(matches!(error, DiskError::Held { holder: Some(4711), .. }), "{error}");
    }

    #[test]
    fn a_store_is_moved_aside_unharmed_and_never_onto_another() {
        let scratch = Scratch::new("aside");
        let dir = DataDir::open(&scratch.0, 1).expect("nobody holds it");
        let mut moved = Vec::new();
        for number in 0..3 {
            let mut store = dir.store().expect("a new store");
            assert!(store.is_empty().expect("it can be read"));
            store.write(&batch([persisted(number, 10)])).expect("it is written");
            drop(store);
            moved.push(dir.set_store_aside().expect("there are free names"));
        }
        for (number, path) in (0..).zip(&moved) {
            assert_eq!(Store::open(path).expect("it is unharmed").all(), [persisted(number, 10)]);
        }
        assert_eq!(moved[0], scratch.0.join("records.redb.aside"));
    }
}
