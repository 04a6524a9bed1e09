//! Why a store cannot be used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::files::is_full;
use crate::disk::segment::{BadEntry, BadHeader, FORMAT};
use crate::id::Key;
use crate::wire::codec::WireError;

/// Why a store cannot be used. The text tells the operator how to continue.
#[derive(Debug)]
pub struct StoreError {
    path: PathBuf,
    fault: Box<StoreFault>,
}

/// What is wrong with a store. A file is named as it is in the directory of the store.
#[derive(Debug)]
pub enum StoreFault {
    /// The system refused an operation.
    Io(io::Error),
    /// The store was written by a version of this program that used one file.
    Superseded,
    /// A file was changed after it was written.
    Damaged {
        /// The file.
        file: String,
        /// Where the first wrong byte is, at the earliest.
        offset: u32,
    },
    /// A file is shorter than what was written.
    Cut {
        /// The file.
        file: String,
        /// Its length.
        length: u64,
        /// What it had when it was last known to be on disk.
        expected: u64,
    },
    /// A file does not exist.
    Missing {
        /// The file.
        file: String,
    },
    /// A file was replaced while this process used it.
    Replaced {
        /// The file.
        file: String,
    },
    /// A file has the content of another segment.
    Misplaced {
        /// The file.
        file: String,
        /// The number of the segment that it contains.
        found: u32,
    },
    /// A file belongs to another store.
    Foreign {
        /// The file.
        file: String,
    },
    /// A segment was removed from this store before, and is there again.
    Stale {
        /// The file.
        file: String,
        /// The number of the oldest segment.
        oldest: u32,
    },
    /// A segment is newer than what the file `state` knows of.
    Ahead {
        /// The file.
        file: String,
        /// The number of the newest segment.
        newest: u32,
    },
    /// A file has another format version.
    Format {
        /// The file.
        file: String,
        /// The version in the file.
        found: u32,
    },
    /// An entry is as it was written, but its content has no meaning.
    Entry {
        /// The file.
        file: String,
        /// Where the entry begins.
        offset: u32,
        /// The key of the entry; `None` for the entry of the contacts.
        key: Option<Key>,
        /// What is wrong with the entry.
        error: WireError,
    },
}

impl StoreFault {
    pub(super) fn of_entry(file: String, bad: BadEntry) -> Self {
        match bad {
            BadEntry::Io(source) => Self::Io(source),
            BadEntry::Damaged(offset) => Self::Damaged { file, offset },
        }
    }

    pub(super) fn of_header(file: String, bad: BadHeader) -> Self {
        match bad {
            BadHeader::Damaged => Self::Damaged { file, offset: 0 },
            BadHeader::Format(found) => Self::Format { file, found },
        }
    }

    /// Whether the disk is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io(source) if is_full(source))
    }

    /// Whether a part of the store may be intact, and this version can read it.
    pub(super) fn is_salvageable(&self) -> bool {
        !matches!(self, Self::Superseded | Self::Format { .. })
    }

    /// Whether the content of the store is wrong, rather than that the system refused an operation.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Io(_))
    }
}

impl From<io::Error> for StoreFault {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

impl StoreError {
    pub(super) fn new(path: &Path, fault: impl Into<StoreFault>) -> Self {
        Self { path: path.to_owned(), fault: Box::new(fault.into()) }
    }

    /// What is wrong.
    pub fn fault(&self) -> &StoreFault {
        &self.fault
    }

    /// The same without the path of the store.
    pub(super) fn into_fault(self) -> StoreFault {
        *self.fault
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &*self.fault {
            StoreFault::Io(source) => return write!(f, "{path}: {source}"),
            StoreFault::Superseded => {
                return write!(
                    f,
                    "{path} is the store of an earlier version, which this version cannot read; move the file away to \
                     start without it, other nodes then send the records that they store too"
                );
            }
            StoreFault::Damaged { file, offset } => {
                write!(f, "{path}/{file} is damaged at offset {offset}: it is not what was written there")?;
            }
            StoreFault::Cut { file, length, expected } => {
                write!(f, "{path}/{file} is damaged at offset {length}: it was cut, expected {expected} bytes")?;
            }
            StoreFault::Missing { file } => write!(f, "{path}/{file} is missing")?,
            StoreFault::Replaced { file } => {
                write!(f, "{path}/{file} is another file than the one that this process has written")?;
            }
            StoreFault::Misplaced { file, found } => {
                write!(f, "{path}/{file} is the segment {found} under a wrong name: files were swapped or copied")?;
            }
            StoreFault::Foreign { file } => write!(f, "{path}/{file} belongs to another store")?,
            StoreFault::Stale { file, oldest } => {
                write!(f, "{path}/{file} is stale: the store begins with segment {oldest}")?;
            }
            StoreFault::Ahead { file, newest } => {
                write!(f, "{path}/{file} is newer than the file state, where the store ends with segment {newest}")?;
            }
            StoreFault::Format { file, found } => {
                write!(
                    f,
                    "{path}/{file} has the format {found} of another version of this program, expected {FORMAT}"
                )?;
            }
            StoreFault::Entry { file, offset, key: Some(key), error } => {
                write!(f, "{path}/{file} is damaged at offset {offset}: key {key}: {error}")?;
            }
            StoreFault::Entry { file, offset, key: None, error } => {
                write!(f, "{path}/{file} is damaged at offset {offset}: contacts: {error}")?;
            }
        }
        let salvage =
            if self.fault.is_salvageable() { "start once with --salvage to keep what is intact, or " } else { "" };
        write!(
            f,
            "; {salvage}move the directory {path} away to start without it, other nodes then send the records that they \
             store too"
        )
    }
}

impl std::error::Error for StoreError {}
