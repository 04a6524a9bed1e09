//! A simulated disk for tests, below the page cache of a kernel.
//!
//! * What is written but not synced survives a power failure page by page, in any combination; the length of a file
//!   is anything between that on disk and that in the cache.
//! * A changed name that is not synced survives or not, each on its own.
//! * A call can fail: with a full disk, or with an I/O error, and then a part of a write may be done. If that is wanted,
//!   a change of a name or of a length is done too, and the call fails nevertheless. After a failed sync, readers still
//!   see the pages, but no later sync writes them. If that is wanted, it also loses the page at the end of what was
//!   synced before, except the first one of a file.
//! * What is cut off a file may be on disk until the next sync.
//! * From a given call on, every call can fail: that is where a crash is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::disk::files::{FileId, FileStatus, Files, OpenFile, ReadFile};

/// The unit in which the disk writes: a sector.
const PAGE: usize = 512;

/// A failure of calls.
#[derive(Clone, Copy, Debug)]
pub(in crate::disk) struct Fault {
    /// The first call that fails, counted from the start of the disk.
    pub(in crate::disk) from: u64,
    /// The first call that works again.
    pub(in crate::disk) until: u64,
    pub(in crate::disk) kind: ErrorKind,
}

#[derive(Clone, Debug, Default)]
pub(in crate::disk) struct SimulatedDisk(Arc<Mutex<Disk>>);

/// A directory has a name of its own among the names: `records`. The names in it begin with its number.
type Names = BTreeMap<(usize, String), usize>;

#[derive(Clone, Debug)]
struct Disk {
    /// Files and directories.
    nodes: Vec<Node>,
    cached_names: Names,
    names: Names,
    calls: u64,
    /// Where several fail a call, the last one counts.
    faults: Vec<Fault>,
    /// The bytes that fit.
    capacity: usize,
    /// Whether a failed sync loses what was synced before.
    loses_pages: bool,
    /// Whether a failed change of a name or of a length is done.
    acts_before_failure: bool,
    /// The call at which the process is killed: this and later calls do nothing.
    killed_at: u64,
}

#[derive(Clone, Debug, Default)]
struct Node {
    cache: Vec<u8>,
    disk: Vec<u8>,
    dirty: BTreeSet<usize>,
}

/// The data directory.
const ROOT: usize = 0;

impl Default for Disk {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            cached_names: Names::new(),
            names: Names::new(),
            calls: 0,
            faults: Vec::new(),
            capacity: usize::MAX,
            loses_pages: false,
            acts_before_failure: false,
            killed_at: u64::MAX,
        }
    }
}

impl Disk {
    /// Counts a call; fails if it shall.
    fn call(&mut self) -> io::Result<()> {
        let at = self.calls;
        self.calls += 1;
        if self.is_killed() {
            return Err(ErrorKind::Interrupted.into());
        }
        let fault = self.faults.iter().rev().find(|fault| (fault.from..fault.until).contains(&at));
        fault.map_or(Ok(()), |fault| Err(fault.kind.into()))
    }

    /// Whether the process was killed before the current call.
    fn is_killed(&self) -> bool {
        self.calls > self.killed_at
    }

    /// Counts a call that does `act`; fails if it shall.
    fn act<T>(&mut self, act: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        match self.call() {
            Err(error) if !self.acts_before_failure || self.is_killed() => Err(error),
            called => {
                let done = act(self);
                called.and(done)
            }
        }
    }

    /// Lets all calls work from now on.
    fn recover(&mut self) {
        self.faults.clear();
        self.killed_at = u64::MAX;
    }

    fn split<'a>(&self, path: &'a str) -> io::Result<(usize, &'a str)> {
        match path.split_once('/') {
            None => Ok((ROOT, path)),
            Some((directory, name)) => Ok((self.find(directory)?, name)),
        }
    }

    fn find(&self, path: &str) -> io::Result<usize> {
        if path.is_empty() {
            return Ok(ROOT);
        }
        let (directory, name) = self.split(path)?;
        self.cached_names.get(&(directory, name.to_owned())).copied().ok_or(ErrorKind::NotFound.into())
    }

    fn add(&mut self, path: &str) -> io::Result<usize> {
        let (directory, name) = self.split(path)?;
        self.nodes.push(Node::default());
        self.cached_names.insert((directory, name.to_owned()), self.nodes.len() - 1);
        Ok(self.nodes.len() - 1)
    }

    /// The bytes of all files that have names.
    fn used(&self) -> usize {
        self.cached_names.values().map(|node| self.nodes[*node].cache.len()).sum()
    }

    fn write(&mut self, node: usize, offset: usize, bytes: &[u8]) {
        let Node { cache, dirty, .. } = &mut self.nodes[node];
        let end = offset + bytes.len();
        // Also the pages between the old end and the new bytes.
        dirty.extend(offset.min(cache.len()) / PAGE..end.div_ceil(PAGE));
        cache.resize(cache.len().max(end), 0);
        cache[offset..end].copy_from_slice(bytes);
    }
}

impl Node {
    /// Writes a page to disk.
    fn flush(&mut self, page: usize) {
        let (from, to) = (page * PAGE, self.cache.len().min((page + 1) * PAGE));
        if from < to {
            self.disk.resize(self.disk.len().max(to), 0);
            self.disk[from..to].copy_from_slice(&self.cache[from..to]);
        }
    }

    fn lose_power(&mut self, rng: &mut StdRng) {
        let (synced, cached) = (self.disk.len(), self.cache.len());
        let length = if synced == cached { synced } else { rng.random_range(synced.min(cached)..=synced.max(cached)) };
        let (length, share) = if rng.random_range(0..3) > 0 { (synced.max(cached), 0.9) } else { (length, 0.5) };
        for page in std::mem::take(&mut self.dirty) {
            if rng.random_bool(share) {
                self.flush(page);
            }
        }
        self.disk.resize(length, 0);
        self.cache = self.disk.clone();
    }
}

impl SimulatedDisk {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no thread panics with the lock")
    }

    /// How many calls there were.
    pub(in crate::disk) fn calls(&self) -> u64 {
        self.disk().calls
    }

    pub(in crate::disk) fn inject(&self, fault: Option<Fault>) {
        self.disk().faults = fault.into_iter().collect();
    }

    /// Injects several faults.
    pub(in crate::disk) fn inject_all(&self, faults: &[Fault]) {
        self.disk().faults = faults.to_vec();
    }

    /// Kills the process at this call.
    pub(in crate::disk) fn kill_at(&self, call: u64) {
        self.disk().killed_at = call;
    }

    /// Whether the process was killed.
    pub(in crate::disk) fn is_killed(&self) -> bool {
        self.disk().is_killed()
    }

    /// Lets a change of a name or of a length be done although the call fails.
    pub(in crate::disk) fn act_before_failure(&self) {
        self.disk().acts_before_failure = true;
    }

    /// Lets a failed sync lose what was synced before.
    pub(in crate::disk) fn lose_pages(&self) {
        self.disk().loses_pages = true;
    }

    /// Bounds the bytes that fit.
    pub(in crate::disk) fn set_capacity(&self, bytes: usize) {
        self.disk().capacity = bytes;
    }

    /// The bytes of all files.
    pub(in crate::disk) fn used(&self) -> usize {
        self.disk().used()
    }

    /// The disk after a crash of the process: all calls reached the kernel.
    pub(in crate::disk) fn after_kill(&self) -> Self {
        let mut disk = self.disk().clone();
        disk.recover();
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The disk after a power failure.
    pub(in crate::disk) fn after_power_failure(&self, rng: &mut StdRng) -> Self {
        let mut disk = self.disk().clone();
        disk.recover();
        let all: BTreeSet<_> = disk.names.keys().chain(disk.cached_names.keys()).cloned().collect();
        let mut names = Names::new();
        for name in all {
            let (old, new) = (disk.names.get(&name).copied(), disk.cached_names.get(&name).copied());
            let node = if old == new || rng.random_bool(0.3) { old } else { new };
            node.map(|node| names.insert(name, node));
        }
        disk.names.clone_from(&names);
        disk.cached_names = names;
        disk.nodes.iter_mut().for_each(|node| node.lose_power(rng));
        Self(Arc::new(Mutex::new(disk)))
    }

    /// The content of a file.
    pub(in crate::disk) fn content(&self, path: &str) -> Vec<u8> {
        let disk = self.disk();
        disk.nodes[disk.find(path).expect("the file exists")].cache.clone()
    }

    /// Replaces the content of a file, or creates it.
    pub(in crate::disk) fn set_content(&self, path: &str, content: &[u8]) {
        self.create(path).and_then(|file| file.write(0, content)).expect("the disk works");
    }
}

impl Files for SimulatedDisk {
    fn exists(&self, path: &str) -> io::Result<bool> {
        let mut disk = self.disk();
        disk.call()?;
        Ok(disk.find(path).is_ok())
    }

    fn look(&self, path: &str) -> io::Result<Option<(FileId, u64)>> {
        let mut disk = self.disk();
        disk.call()?;
        let id = |node| FileId { device: 0, inode: node as u64 };
        Ok(disk.find(path).ok().map(|node| (id(node), disk.nodes[node].cache.len() as u64)))
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.disk().act(|disk| disk.add(path).map(drop))
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.disk().act(|disk| {
            let node = disk.find(path)?;
            disk.cached_names.retain(|(directory, _), other| *directory != node && *other != node);
            Ok(())
        })
    }

    fn list(&self, directory: &str) -> io::Result<Vec<(String, u64)>> {
        let mut disk = self.disk();
        disk.call()?;
        let node = disk.find(directory)?;
        let names = disk.cached_names.iter().filter(|((of, _), _)| *of == node);
        Ok(names.map(|((_, name), node)| (name.clone(), disk.nodes[*node].cache.len() as u64)).collect())
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn OpenFile>> {
        let node = self.disk().act(|disk| match disk.find(path) {
            Ok(node) => {
                disk.nodes[node].cache.clear();
                Ok(node)
            }
            Err(_) => disk.add(path),
        })?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), node }))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn OpenFile>> {
        let mut disk = self.disk();
        disk.call()?;
        let node = disk.find(path)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), node }))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk().act(|disk| {
            let (directory, name) = disk.split(path)?;
            disk.cached_names.remove(&(directory, name.to_owned())).map(drop).ok_or(ErrorKind::NotFound.into())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk().act(|disk| {
            let (old, new) = (disk.split(from)?, disk.split(to)?);
            let node = disk.cached_names.remove(&(old.0, old.1.to_owned())).ok_or(ErrorKind::NotFound)?;
            disk.cached_names.insert((new.0, new.1.to_owned()), node);
            Ok(())
        })
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        let node = disk.find(directory)?;
        disk.names.retain(|(of, _), _| *of != node);
        let synced: Vec<_> = disk
            .cached_names
            .iter()
            .filter(|((of, _), _)| *of == node)
            .map(|(name, node)| (name.clone(), *node))
            .collect();
        disk.names.extend(synced);
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    node: usize,
}

impl ReadFile for SimulatedFile {
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.call()?;
        let from = usize::try_from(offset).expect("a small file");
        let bytes = disk.nodes[self.node].cache.get(from..from + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}

impl OpenFile for SimulatedFile {
    fn id(&self) -> io::Result<FileId> {
        Ok(FileId { device: 0, inode: self.node as u64 })
    }

    fn len(&self) -> io::Result<u64> {
        let mut disk = self.disk.disk();
        disk.call()?;
        Ok(disk.nodes[self.node].cache.len() as u64)
    }

    fn status(&self) -> io::Result<FileStatus> {
        let mut disk = self.disk.disk();
        disk.call()?;
        let links = disk.cached_names.values().filter(|node| **node == self.node).count();
        Ok(FileStatus { links: links as u64, length: disk.nodes[self.node].cache.len() as u64 })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.disk();
        let offset = usize::try_from(offset).expect("a small file");
        let growth = (offset + bytes.len()).saturating_sub(disk.nodes[self.node].cache.len());
        let result = match disk.call() {
            Ok(()) if disk.used() + growth > disk.capacity => Err(ErrorKind::StorageFull.into()),
            result => result,
        };
        if result.is_err() {
            if disk.is_killed() {
                return result;
            }
            let room = disk.capacity.saturating_sub(disk.used()).min(bytes.len());
            // Any part of it may be done.
            let done = usize::try_from(disk.calls).expect("few calls") * 7_919 % (room + 1);
            disk.write(self.node, offset, &bytes[..done]);
            return result;
        }
        disk.write(self.node, offset, bytes);
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.disk.disk().act(|disk| {
            let length = usize::try_from(length).expect("a small file");
            let node = &mut disk.nodes[self.node];
            for page in node.dirty.split_off(&(length / PAGE)) {
                node.flush(page);
            }
            node.cache.truncate(length);
            node.dirty.insert(length / PAGE);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.disk();
        let (result, loses_pages) = (disk.call(), disk.loses_pages);
        let node = &mut disk.nodes[self.node];
        let dirty = std::mem::take(&mut node.dirty);
        let last = node.disk.len() / PAGE;
        if result.is_err() && loses_pages && last > 0 && dirty.contains(&last) {
            node.disk[last * PAGE..].fill(0);
        }
        result?;
        node.disk.truncate(node.cache.len());
        node.disk.resize(node.cache.len(), 0);
        for page in dirty {
            node.flush(page);
        }
        Ok(())
    }

    fn occupy(&self, bytes: u64) -> io::Result<()> {
        self.write(0, &vec![0; usize::try_from(bytes).expect("a small file")])
    }
}
