//! The file operations of the store, behind one trait, so that tests run the store on a simulated disk.
//!
//! A path is relative to the data directory: `records` or `records/00000001.log`.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use crate::disk::owner_only;

/// What distinguishes a file from every other one, whatever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// What an open file shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStatus {
    /// How many names it has: 0 if it was deleted.
    pub(super) links: u64,
    pub(super) length: u64,
}

/// Operations on the names of a data directory. A change of names is on disk only after
/// [`Files::sync_directory`].
pub(super) trait Files: Debug + Send + Sync {
    /// Whether something has the name `path`.
    fn exists(&self, path: &str) -> io::Result<bool>;

    /// Which file has the name `path`, and its length; `None` if there is none.
    fn look(&self, path: &str) -> io::Result<Option<(FileId, u64)>>;

    /// Creates a directory.
    fn create_directory(&self, path: &str) -> io::Result<()>;

    /// Removes a directory and everything in it.
    fn remove_directory(&self, path: &str) -> io::Result<()>;

    /// The names in a directory, and the length of each file.
    fn list(&self, directory: &str) -> io::Result<Vec<(String, u64)>>;

    /// Creates an empty file, or makes an existing one empty.
    fn create(&self, path: &str) -> io::Result<Box<dyn OpenFile>>;

    /// Opens a file that exists.
    fn open(&self, path: &str) -> io::Result<Box<dyn OpenFile>>;

    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Renames a file or a directory, in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Waits until the names in a directory are on disk. The data directory itself is "".
    fn sync_directory(&self, directory: &str) -> io::Result<()>;
}

/// Reading of the content of a file.
pub(super) trait ReadFile: Debug + Send + Sync {
    /// Reads exactly the bytes at `offset`.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

/// Operations on a file. What is written is on disk only after [`OpenFile::sync`].
pub(super) trait OpenFile: ReadFile {
    /// Which file this is.
    fn id(&self) -> io::Result<FileId>;

    /// The length of the file.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file still has a name, and its length, in one call.
    fn status(&self) -> io::Result<FileStatus>;

    /// Writes all of `bytes` at `offset`. After an error some of them may be written.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file to `length`.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Waits until the content is on disk.
    fn sync(&self) -> io::Result<()>;

    /// Takes up `bytes` on the disk.
    fn occupy(&self, bytes: u64) -> io::Result<()>;
}

/// The files of the system, below a data directory.
#[derive(Debug)]
pub(super) struct SystemFiles(pub(super) PathBuf);

impl SystemFiles {
    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.0.clone() } else { self.0.join(path) }
    }
}

impl Files for SystemFiles {
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.at(path).try_exists().map_err(naming("look for", path))
    }

    fn look(&self, path: &str) -> io::Result<Option<(FileId, u64)>> {
        match fs::metadata(self.at(path)) {
            Ok(metadata) => Ok(Some((id_of(&metadata), metadata.len()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(naming("look for", path)(error)),
        }
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(self.at(path)).map_err(naming("create", path))
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        fs::remove_dir_all(self.at(path)).map_err(naming("remove", path))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<(String, u64)>> {
        let list = || {
            let entries = fs::read_dir(self.at(directory))?.map(|entry| {
                let entry = entry?;
                Ok((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()))
            });
            entries.collect::<io::Result<_>>()
        };
        list().map_err(naming("list", directory))
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn OpenFile>> {
        SystemFile::open(self, path, "create", owner_only().truncate(true))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn OpenFile>> {
        SystemFile::open(self, path, "open", owner_only().create(false))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path)).map_err(naming("remove", path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to)).map_err(naming("rename", from))
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        File::open(self.at(directory)).and_then(|open| open.sync_all()).map_err(naming("sync the directory", directory))
    }
}

/// Makes an error say what was tried with which file.
fn naming(attempt: &'static str, path: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |source| io::Error::new(source.kind(), format!("cannot {attempt} {path}: {source}"))
}

/// An open file of the system.
#[derive(Debug)]
struct SystemFile {
    file: File,
    path: String,
}

impl SystemFile {
    fn open(
        files: &SystemFiles,
        path: &str,
        attempt: &'static str,
        options: &OpenOptions,
    ) -> io::Result<Box<dyn OpenFile>> {
        let file = options.open(files.at(path)).map_err(naming(attempt, path))?;
        Ok(Box::new(Self { file, path: path.to_owned() }))
    }
}

fn id_of(metadata: &Metadata) -> FileId {
    FileId { device: metadata.dev(), inode: metadata.ino() }
}

impl ReadFile for SystemFile {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset).map_err(naming("read", &self.path))
    }
}

impl OpenFile for SystemFile {
    fn id(&self) -> io::Result<FileId> {
        Ok(id_of(&self.file.metadata().map_err(naming("look at", &self.path))?))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata().map_err(naming("read the length of", &self.path))?.len())
    }

    fn status(&self) -> io::Result<FileStatus> {
        let metadata = self.file.metadata().map_err(naming("look at", &self.path))?;
        Ok(FileStatus { links: metadata.nlink(), length: metadata.len() })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset).map_err(naming("write to", &self.path))
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length).map_err(naming("truncate", &self.path))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(naming("sync", &self.path))
    }

    fn occupy(&self, bytes: u64) -> io::Result<()> {
        // A signal interrupts it, unlike the calls of the standard library.
        let occupied = match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), 0, bytes)) {
            // Not every file system can do it.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => occupy_with_zeros(&self.file, bytes),
            other => other.map_err(io::Error::from),
        };
        occupied.map_err(naming("reserve space with", &self.path))
    }
}

/// Takes up `bytes` on a file system that cannot allocate them without data.
fn occupy_with_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = [0; 1 << 12];
    for offset in (0..bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    Ok(())
}

/// Whether the error says that the disk is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// The data directory of the store at `path`, and the name of the store in it.
pub(super) fn split(path: &Path) -> io::Result<(PathBuf, String)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(ErrorKind::InvalidInput)?;
    Ok((path.parent().unwrap_or(Path::new("")).to_owned(), name.to_owned()))
}
