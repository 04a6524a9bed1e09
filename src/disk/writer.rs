//! The thread that writes to the store while the event loop runs.
//!
//! It receives one batch at a time over a channel and reports the result of each over another.
//!
//! Guarantees:
//!
//! * A batch is reported as durable only if it is on disk. After a failure the thread drops the store
//!   and opens it again before the next batch, so it continues from the last complete commit.
//! * A failing disk is logged once when the failures begin and once when they end.
//! * The thread ends, with the store closed, when the sender of its batches is dropped.
//!   [`DiskWriter::join`] waits for that.
//! * However the thread ends, it calls the waker once more after its ends of the channels are closed, so
//!   that the event loop notices a thread that has panicked.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use log::{error, info};

use crate::disk::store::{Store, StoreError};
use crate::node::persisted::{Batch, Saved};

/// The thread.
#[derive(Debug)]
pub struct DiskWriter {
    thread: JoinHandle<()>,
}

impl DiskWriter {
    /// Starts a thread that writes each of `batches` to `store`, sends the result to `results` in the
    /// same order, and calls `wake` after each.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub fn start(
        store: Store,
        batches: Receiver<Arc<Batch>>,
        results: SyncSender<Saved>,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let path = store.path().to_owned();
        Self::start_with(store, move || Store::reopen(&path), batches, results, wake)
    }

    fn start_with(
        store: Store,
        reopen: impl FnMut() -> Result<Store, StoreError> + Send + 'static,
        batches: Receiver<Arc<Batch>>,
        results: SyncSender<Saved>,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let thread = thread::Builder::new().name("disk".to_owned()).spawn(move || {
            let waker = WakeOnDrop(wake); // declared first, so dropped after all that follows
            let (batches, results) = (batches, results);
            let mut worker = Worker { store: Some(store), reopen, health: Health::Working };
            for batch in batches {
                if results.send(worker.save(&batch)).is_err() {
                    return;
                }
                (waker.0)();
            }
        })?;
        Ok(Self { thread })
    }

    /// Waits until the last batch is written and the store is closed. The caller must have dropped the
    /// other ends of the channels.
    ///
    /// # Errors
    ///
    /// The payload of the thread's panic.
    pub fn join(self) -> thread::Result<()> {
        self.thread.join()
    }
}

/// Calls the waker when it is dropped.
struct WakeOnDrop<W: Fn()>(W);

impl<W: Fn()> Drop for WakeOnDrop<W> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The state of the thread.
struct Worker<R> {
    /// `None` after a failure.
    store: Option<Store>,
    reopen: R,
    health: Health,
}

/// The result of the last batch. Only a change is logged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Working,
    Failing,
}

impl<R: FnMut() -> Result<Store, StoreError>> Worker<R> {
    fn save(&mut self, batch: &Batch) -> Saved {
        match self.write(batch) {
            Ok(()) => {
                if self.health == Health::Failing {
                    info!("saved again keys={}", batch.keys.len());
                }
                self.health = Health::Working;
                Saved::Durable
            }
            Err(error) => {
                if self.health == Health::Working {
                    error!("not saved keys={} fault=\"{error}\"", batch.keys.len());
                }
                self.health = Health::Failing;
                Saved::Failed
            }
        }
    }

    /// Writes `batch`. If that fails, the store is dropped.
    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut store = match self.store.take() {
            Some(store) => store,
            None => (self.reopen)()?,
        };
        store.write(batch)?;
        self.store = Some(store);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::store::tests::{batch, in_order, persisted};
    use crate::node::persisted::PersistedKey;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::sync_channel;
    use std::sync::{Mutex, MutexGuard};

    const PAGE: usize = 4096;

    /// Simulated power failures after each batch, each with another subset of the writes on disk.
    const POWER_FAILURES: usize = 4;

    /// A file on a disk with fault injection, and the page cache of a kernel above it: pages that
    /// could not be written are no longer dirty, but readers still see them.
    #[derive(Clone, Debug, Default)]
    struct FaultyDisk(Arc<Mutex<Pages>>);

    #[derive(Debug, Default)]
    struct Pages {
        cache: Vec<u8>,
        disk: Vec<u8>,
        dirty: BTreeSet<usize>,
        fault: Option<DiskFault>,
    }

    /// Fails every call of one kind after `calls_left` successful ones.
    #[derive(Clone, Copy, Debug)]
    struct DiskFault {
        call: Call,
        calls_left: usize,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Call {
        Write,
        Sync,
    }

    impl Pages {
        /// The injected error of `call`, if it must fail.
        fn inject(&mut self, call: Call) -> io::Result<()> {
            let Some(fault) = self.fault.as_mut().filter(|fault| fault.call == call) else {
                return Ok(());
            };
            if fault.calls_left > 0 {
                fault.calls_left -= 1;
                return Ok(());
            }
            Err(match call {
                Call::Write => ErrorKind::StorageFull.into(),
                Call::Sync => io::Error::from_raw_os_error(5), // EIO
            })
        }

        /// Writes the page `at` to disk.
        fn flush(&mut self, at: usize) {
            let end = self.cache.len().min((at + 1) * PAGE);
            if let Some(page) = self.cache.get(at * PAGE..end) {
                self.disk[at * PAGE..end].copy_from_slice(page);
            }
        }
    }

    impl FaultyDisk {
        fn pages(&self) -> MutexGuard<'_, Pages> {
            self.0.lock().expect("no thread panics with the lock")
        }

        fn inject(&self, fault: DiskFault) {
            self.pages().fault = Some(fault);
        }

        /// Removes the fault; returns whether any call failed.
        fn repair(&self) -> bool {
            self.pages().fault.take().is_some_and(|fault| fault.calls_left == 0)
        }

        /// The disk after a crash of the process: all writes reached the kernel.
        fn after_kill(&self) -> Self {
            let cache = self.pages().cache.clone();
            Self(Arc::new(Mutex::new(Pages { disk: cache.clone(), cache, ..Pages::default() })))
        }

        /// The disk after a power failure: of the pages that were not flushed, the kernel has written
        /// a random subset.
        fn after_power_failure(&self, rng: &mut StdRng) -> Self {
            let pages = self.pages();
            let mut left = Pages { cache: pages.cache.clone(), disk: pages.disk.clone(), ..Pages::default() };
            left.disk.resize(left.cache.len(), 0);
            for at in &pages.dirty {
                if rng.random() {
                    left.flush(*at);
                }
            }
            left.cache.clone_from(&left.disk);
            Self(Arc::new(Mutex::new(left)))
        }
    }

    impl redb::StorageBackend for FaultyDisk {
        fn len(&self) -> io::Result<u64> {
            Ok(self.pages().cache.len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let from = usize::try_from(offset).expect("a small file");
            let pages = self.pages();
            let bytes = pages.cache.get(from..from + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            let mut pages = self.pages();
            pages.inject(Call::Write)?;
            let len = usize::try_from(len).expect("a small file");
            pages.cache.resize(len, 0);
            pages.disk.resize(len, 0);
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            let mut pages = self.pages();
            let dirty = std::mem::take(&mut pages.dirty);
            pages.inject(Call::Sync)?;
            for at in dirty {
                pages.flush(at);
            }
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let mut pages = self.pages();
            pages.inject(Call::Write)?;
            let from = usize::try_from(offset).expect("a small file");
            let to = from + data.len();
            pages.cache.get_mut(from..to).ok_or(ErrorKind::UnexpectedEof)?.copy_from_slice(data);
            pages.dirty.extend(from / PAGE..to.div_ceil(PAGE));
            Ok(())
        }
    }

    /// Starts a writer; returns it with the other ends of its channels.
    fn start(
        store: Store,
        reopen: impl FnMut() -> Result<Store, StoreError> + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> (DiskWriter, SyncSender<Arc<Batch>>, Receiver<Saved>) {
        let (batches, wanted) = sync_channel(1);
        let (results, saved) = sync_channel(1);
        let writer = DiskWriter::start_with(store, reopen, wanted, results, wake).expect("a thread");
        (writer, batches, saved)
    }

    /// A writer on a faulty disk, and the results of its batches.
    struct Harness {
        disk: FaultyDisk,
        writer: DiskWriter,
        batches: SyncSender<Arc<Batch>>,
        saved: Receiver<Saved>,
        /// Records that were reported as durable.
        durable: BTreeSet<u64>,
        /// Batches that were reported as failed.
        failed: Vec<Range<u64>>,
        rng: StdRng,
    }

    impl Harness {
        fn new(seed: u64) -> Self {
            let disk = FaultyDisk::default();
            let store = Store::create_on(disk.clone()).expect("a new store");
            let same_disk = disk.clone();
            let (writer, batches, saved) = start(store, move || Store::reopen_on(same_disk.clone()), || {});
            let rng = StdRng::seed_from_u64(seed);
            Self { disk, writer, batches, saved, durable: BTreeSet::new(), failed: Vec::new(), rng }
        }

        /// Saves the records `numbers`, then verifies the disk after a kill and after power failures.
        fn save(&mut self, numbers: Range<u64>) -> Saved {
            let records = batch(numbers.clone().map(record));
            self.batches.send(Arc::new(records)).expect("the thread runs");
            let saved = self.saved.recv().expect("the thread runs");
            match saved {
                Saved::Durable => self.durable.extend(numbers),
                Saved::Failed => self.failed.push(numbers),
            }
            self.verify(&self.disk.after_kill());
            for _ in 0..POWER_FAILURES {
                let left = self.disk.after_power_failure(&mut self.rng);
                self.verify(&left);
            }
            saved
        }

        /// Every durable record is on `disk`, and each failed batch is there completely or not at all.
        fn verify(&self, disk: &FaultyDisk) {
            let found = Store::reopen_on(disk.clone()).expect("the store is intact").all();
            let is_present = |batch: &&Range<u64>| (*batch).clone().all(|number| found.contains(&record(number)));
            let failed = self.failed.iter().filter(is_present).flat_map(Range::clone);
            let expected: BTreeSet<u64> = self.durable.iter().copied().chain(failed).collect();
            assert!(found == in_order(expected.iter().copied().map(record)), "{} of {:?}", found.len(), self.durable);
        }

        fn end(self) {
            drop(self.batches);
            self.writer.join().expect("no panic");
        }
    }

    fn record(number: u64) -> PersistedKey {
        persisted(number, 700)
    }

    /// Injects `fault` during two batches; returns whether any call failed.
    fn survives(fault: DiskFault) -> bool {
        let mut harness = Harness::new(fault.calls_left as u64);
        assert_eq!(harness.save(0..30), Saved::Durable);
        harness.disk.inject(fault);
        let first = harness.save(30..60);
        let second = harness.save(60..90);
        let failed = harness.disk.repair();
        assert!(failed || first == Saved::Durable && second == Saved::Durable, "a batch failed without a fault");
        assert_eq!(harness.save(60..90), Saved::Durable, "the disk is repaired");
        assert_eq!(harness.save(90..100), Saved::Durable);
        harness.end();
        failed
    }

    /// Fails `call` at the first, the second, … time until a run ends before the fault occurs.
    fn survives_a_fault_at_each(call: Call) {
        let runs = (0..10_000).take_while(|calls_left| survives(DiskFault { call, calls_left: *calls_left })).count();
        assert!((4..10_000).contains(&runs), "the fault occurred in {runs} runs");
    }

    #[test]
    fn a_batch_reported_durable_survives_a_full_disk_at_any_write() {
        survives_a_fault_at_each(Call::Write);
    }

    #[test]
    fn a_batch_reported_durable_survives_a_failure_of_any_flush() {
        survives_a_fault_at_each(Call::Sync);
    }

    #[test]
    fn the_waker_is_called_after_each_batch_and_at_the_end() {
        let store = Store::create_on(FaultyDisk::default()).expect("a new store");
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let wake = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let (writer, batches, saved) = start(store, || unreachable!("no batch fails"), wake);
        for number in 0..3 {
            batches.send(Arc::new(batch([persisted(number, 10)]))).expect("the thread runs");
            assert_eq!(saved.recv(), Ok(Saved::Durable));
        }
        drop(batches);
        assert!(saved.recv().is_err(), "the thread has ended");
        writer.join().expect("no panic");
        assert_eq!(calls.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn a_thread_that_panics_calls_the_waker_after_it_closed_its_channels() {
        let disk = FaultyDisk::default();
        let store = Store::create_on(disk.clone()).expect("a new store");
        let (wake, woken) = std::sync::mpsc::channel();
        let wake = move || wake.send(()).expect("the test receives");
        let (writer, batches, saved) = start(store, || panic!("for this test"), wake);
        disk.inject(DiskFault { call: Call::Sync, calls_left: 0 });
        for expected in [Ok(Saved::Failed), Err(std::sync::mpsc::RecvError)] {
            batches.send(Arc::new(batch([persisted(1, 10)]))).expect("the thread runs");
            woken.recv().expect("the thread calls the waker");
            assert_eq!(saved.recv(), expected);
        }
        assert!(writer.join().is_err());
    }
}
