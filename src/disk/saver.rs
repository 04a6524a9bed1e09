//! The thread that writes, while the event loop goes on.
//!
//! It takes one batch at a time and says what became of it; at the other end of its two channels
//! is whoever performs what a node wants saved. What has failed is never said to be durable: the
//! store is dropped and opened anew before the next batch, and begins there with the last commit
//! that is known to be whole. A disk that is full or fails is logged when that begins and when it
//! ends.
//!
//! The thread ends when its batches end, with the store closed; [`Saver::join`] waits for that.
//! However it ends, the waker is called once more after its channels are closed, so that nobody
//! waits for a thread that is gone.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use log::{error, info};

use crate::disk::store::{Store, StoreError};
use crate::node::persisted::{Batch, Saved};

/// The thread.
#[derive(Debug)]
pub struct Saver {
    thread: JoinHandle<()>,
}

impl Saver {
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
            let parting = Parting(wake); // before all that it has to outlive
            let (batches, results) = (batches, results);
            let mut desk = Desk { store: Some(store), reopen, health: Health::Well };
            for batch in batches {
                if results.send(desk.save(&batch)).is_err() {
                    return;
                }
                (parting.0)();
            }
        })?;
        Ok(Self { thread })
    }

    /// Waits until the last batch is written and the store is closed: when the other end of its
    /// channels is gone.
    ///
    /// # Errors
    ///
    /// What the thread has panicked with.
    pub fn join(self) -> thread::Result<()> {
        self.thread.join()
    }
}

/// Calls the waker when everything else of a thread is gone.
struct Parting<W: Fn()>(W);

impl<W: Fn()> Drop for Parting<W> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// What the thread works with.
struct Desk<R> {
    /// None after a failure.
    store: Option<Store>,
    reopen: R,
    health: Health,
}

/// How the last batch went: the log is told of changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    Failing,
}

impl<R: FnMut() -> Result<Store, StoreError>> Desk<R> {
    fn save(&mut self, batch: &Batch) -> Saved {
        match self.write(batch) {
            Ok(()) => {
                if self.health == Health::Failing {
                    info!("saved again keys={}", batch.keys.len());
                }
                self.health = Health::Well;
                Saved::Durable
            }
            Err(error) => {
                if self.health == Health::Well {
                    error!("not saved keys={} fault=\"{error}\"", batch.keys.len());
                }
                self.health = Health::Failing;
                Saved::Failed
            }
        }
    }

    /// Writes `batch`; a store that has failed is dropped.
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

    /// How often the power fails at each point, with another part of the writes done.
    const POWER_LOSSES: usize = 4;

    /// A file on a disk that fails when it is told to, with the page cache of a kernel above it:
    /// what could not be written is forgotten, and still shown to readers.
    #[derive(Clone, Debug, Default)]
    struct FaultyDisk(Arc<Mutex<Pages>>);

    #[derive(Debug, Default)]
    struct Pages {
        cache: Vec<u8>,
        disk: Vec<u8>,
        dirty: BTreeSet<usize>,
        trouble: Option<Trouble>,
    }

    /// What goes wrong after so many calls, and from then on.
    #[derive(Clone, Copy, Debug)]
    struct Trouble {
        with: Call,
        calls_left: usize,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Call {
        Write,
        Sync,
    }

    impl Pages {
        /// Whether `call` goes well.
        fn meet(&mut self, call: Call) -> io::Result<()> {
            let Some(trouble) = self.trouble.as_mut().filter(|trouble| trouble.with == call) else {
                return Ok(());
            };
            if trouble.calls_left > 0 {
                trouble.calls_left -= 1;
                return Ok(());
            }
            Err(match call {
                Call::Write => ErrorKind::StorageFull.into(),
                Call::Sync => io::Error::from_raw_os_error(5), // EIO
            })
        }

        /// Brings the page `at` to disk.
        fn flush(&mut self, at: usize) {
            let end = self.cache.len().min((at + 1) * PAGE);
            if let Some(page) = self.cache.get(at * PAGE..end) {
                self.disk[at * PAGE..end].copy_from_slice(page);
            }
        }
    }

    impl FaultyDisk {
        fn pages(&self) -> MutexGuard<'_, Pages> {
            self.0.lock().expect("nobody panics over it")
        }

        fn begin(&self, trouble: Trouble) {
            self.pages().trouble = Some(trouble);
        }

        /// Ends the trouble; says whether it was met.
        fn end(&self) -> bool {
            self.pages().trouble.take().is_some_and(|trouble| trouble.calls_left == 0)
        }

        /// What is there after the process was killed.
        fn after_kill(&self) -> Self {
            let cache = self.pages().cache.clone();
            Self(Arc::new(Mutex::new(Pages { disk: cache.clone(), cache, ..Pages::default() })))
        }

        /// What is there after the power failed: of what was not flushed, the kernel may have
        /// written any part by then.
        fn after_power_loss(&self, rng: &mut StdRng) -> Self {
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
            pages.meet(Call::Write)?;
            let len = usize::try_from(len).expect("a small file");
            pages.cache.resize(len, 0);
            pages.disk.resize(len, 0);
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            let mut pages = self.pages();
            let dirty = std::mem::take(&mut pages.dirty);
            pages.meet(Call::Sync)?;
            for at in dirty {
                pages.flush(at);
            }
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let mut pages = self.pages();
            pages.meet(Call::Write)?;
            let from = usize::try_from(offset).expect("a small file");
            let to = from + data.len();
            pages.cache.get_mut(from..to).ok_or(ErrorKind::UnexpectedEof)?.copy_from_slice(data);
            pages.dirty.extend(from / PAGE..to.div_ceil(PAGE));
            Ok(())
        }
    }

    /// Starts a saver; returns it with the other ends of its channels.
    fn start(
        store: Store,
        reopen: impl FnMut() -> Result<Store, StoreError> + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> (Saver, SyncSender<Arc<Batch>>, Receiver<Saved>) {
        let (batches, wanted) = sync_channel(1);
        let (results, saved) = sync_channel(1);
        let writer = Saver::start_with(store, reopen, wanted, results, wake).expect("a thread");
        (writer, batches, saved)
    }

    /// A saver on a faulty disk, and what was said of its batches.
    struct Scene {
        disk: FaultyDisk,
        writer: Saver,
        batches: SyncSender<Arc<Batch>>,
        saved: Receiver<Saved>,
        /// Records that were said to be durable.
        durable: BTreeSet<u64>,
        /// Batches of which nothing was promised.
        failed: Vec<Range<u64>>,
        rng: StdRng,
    }

    impl Scene {
        fn new(seed: u64) -> Self {
            let disk = FaultyDisk::default();
            let store = Store::create_on(disk.clone()).expect("a new store");
            let again = disk.clone();
            let (writer, batches, saved) = start(store, move || Store::reopen_on(again.clone()), || {});
            let rng = StdRng::seed_from_u64(seed);
            Self { disk, writer, batches, saved, durable: BTreeSet::new(), failed: Vec::new(), rng }
        }

        /// Has the records `numbers` saved, and judges what would be left if all ended now.
        fn save(&mut self, numbers: Range<u64>) -> Saved {
            let records = batch(numbers.clone().map(record));
            self.batches.send(Arc::new(records)).expect("the thread runs");
            let saved = self.saved.recv().expect("the thread runs");
            match saved {
                Saved::Durable => self.durable.extend(numbers),
                Saved::Failed => self.failed.push(numbers),
            }
            self.judge(&self.disk.after_kill());
            for _ in 0..POWER_LOSSES {
                let left = self.disk.after_power_loss(&mut self.rng);
                self.judge(&left);
            }
            saved
        }

        /// All that was said to be durable is there; of what failed, all of a batch or nothing.
        fn judge(&self, disk: &FaultyDisk) {
            let found = Store::reopen_on(disk.clone()).expect("nothing is damaged").all();
            let is_there = |batch: &&Range<u64>| (*batch).clone().all(|number| found.contains(&record(number)));
            let more = self.failed.iter().filter(is_there).flat_map(Range::clone);
            let expected: BTreeSet<u64> = self.durable.iter().copied().chain(more).collect();
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

    /// Runs one trouble through; says whether it was met at all.
    fn is_survived(trouble: Trouble) -> bool {
        let mut scene = Scene::new(trouble.calls_left as u64);
        assert_eq!(scene.save(0..30), Saved::Durable);
        scene.disk.begin(trouble);
        let first = scene.save(30..60);
        let second = scene.save(60..90);
        let met = scene.disk.end();
        assert!(met || first == Saved::Durable && second == Saved::Durable, "it failed without a cause");
        assert_eq!(scene.save(60..90), Saved::Durable, "the trouble is over");
        assert_eq!(scene.save(90..100), Saved::Durable);
        scene.end();
        met
    }

    fn expect_survival_at_each(with: Call) {
        let met = (0..10_000).take_while(|calls_left| is_survived(Trouble { with, calls_left: *calls_left })).count();
        assert!((4..10_000).contains(&met), "met at {met} calls");
    }

    #[test]
    fn a_disk_that_fills_up_at_any_write_never_makes_a_promise_that_does_not_hold() {
        expect_survival_at_each(Call::Write);
    }

    #[test]
    fn a_disk_that_fails_at_any_flush_never_makes_a_promise_that_does_not_hold() {
        expect_survival_at_each(Call::Sync);
    }

    #[test]
    fn each_batch_wakes_the_loop_and_so_does_the_end() {
        let store = Store::create_on(FaultyDisk::default()).expect("a new store");
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let wake = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let (writer, batches, saved) = start(store, || unreachable!("no batch fails"), wake);
        for number in 0..3 {
            batches.send(Arc::new(batch([persisted(number, 10)]))).expect("the thread runs");
            assert_eq!(saved.recv(), Ok(Saved::Durable));
        }
        drop(batches);
        assert!(saved.recv().is_err(), "it has ended");
        writer.join().expect("no panic");
        assert_eq!(woken.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn a_thread_that_panics_wakes_the_loop_which_finds_it_gone() {
        let disk = FaultyDisk::default();
        let store = Store::create_on(disk.clone()).expect("a new store");
        let (wake, woken) = std::sync::mpsc::channel();
        let wake = move || wake.send(()).expect("the test listens");
        let (writer, batches, saved) = start(store, || panic!("a fault of ours"), wake);
        disk.begin(Trouble { with: Call::Sync, calls_left: 0 });
        for outcome in [Ok(Saved::Failed), Err(std::sync::mpsc::RecvError)] {
            batches.send(Arc::new(batch([persisted(1, 10)]))).expect("the thread runs");
            woken.recv().expect("it wakes the loop");
            assert_eq!(saved.recv(), outcome);
        }
        assert!(writer.join().is_err());
    }
}
