//! The thread that writes to the store while the event loop runs.
//!
//! It receives one batch at a time over a channel and reports the result of each over another.
//!
//! Guarantees:
//!
//! * A batch is reported as durable only if it and all earlier ones are on disk, and as written only if the system has
//!   it. After a failure the thread drops the store and opens it again before the next batch, so it continues from the
//!   last complete commit. Only if the disk was full it goes on with the store, so that a retry costs little.
//! * If the store was deleted or replaced, the thread begins an empty one and reports the batch as lost: all has to be
//!   written again.
//! * Between two batches, the thread gives space of outdated entries back. A batch waits for one piece of that at most.
//!   What is not due waits until no batch has come for 200 ms, and is done in pieces with pauses.
//! * A failing disk is logged once when the failures begin and once when they end.
//! * The thread ends, with the store closed, when the sender of its batches is dropped.
//!   [`DiskWriter::join`] waits for that.
//! * However the thread ends, it calls the waker once more after its ends of the channels are closed, so
//!   that the event loop notices a thread that has panicked.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use log::{error, info, warn};

use crate::disk::store::{Cleaned, Effort, Store, StoreError, Trust};
use crate::node::persisted::{Batch, Saved};

/// How long no batch comes before the store settles: while batches come more often, none of them waits for that.
const SETTLE_DELAY: Duration = Duration::from_millis(200);

/// The pause after each piece of that, which takes a millisecond or two, and some more at the end of a segment. So it
/// takes a tenth of a processor and 13 MB/s of the disk at most, and all others go on as before.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

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
        let reopen = reopen(&store);
        Self::start_with(store, reopen, batches, results, wake)
    }

    fn start_with(
        store: Store,
        reopen: impl FnMut(Trust) -> Result<Store, StoreError> + Send + 'static,
        batches: Receiver<Arc<Batch>>,
        results: SyncSender<Saved>,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let thread = thread::Builder::new().name("disk".to_owned()).spawn(move || {
            let waker = WakeOnDrop(wake); // declared first, so dropped after all that follows
            let (batches, results) = (batches, results);
            let mut worker = Worker::new(store, reopen);
            let receive = |patience| match patience {
                Some(patience) => batches.recv_timeout(patience),
                None => batches.recv().map_err(RecvTimeoutError::from),
            };
            while let Some(batch) = worker.next(receive) {
                if results.send(worker.save(&batch)).is_err() {
                    return;
                }
                (waker.0)();
                // Also while batches come without a pause.
                worker.clean(Effort::Due);
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

/// Opens `store` again, or begins another one in its place if nothing of it can be trusted.
fn reopen(store: &Store) -> impl FnMut(Trust) -> Result<Store, StoreError> + Send + use<> {
    let (path, mut id) = (store.path().to_owned(), store.id());
    move |trust| {
        let store = match trust {
            Trust::All | Trust::NotNewest => Store::reopen(&path, trust)?,
            Trust::Nothing => Store::begin_anew(&path, id)?,
        };
        id = store.id();
        Ok(store)
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
    /// What a store that has failed said of itself, until it was opened again.
    trust: Trust,
    health: Health,
    /// The result of the last attempt to give space back.
    cleaning: Health,
}

/// The result of the last attempt. Only a change is logged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Working,
    Failing,
}

impl<R: FnMut(Trust) -> Result<Store, StoreError>> Worker<R> {
    fn new(store: Store, reopen: R) -> Self {
        Self { store: Some(store), reopen, trust: Trust::All, health: Health::Working, cleaning: Health::Working }
    }

    /// The store, which is opened again if it has failed before.
    fn take_store(&mut self) -> Result<Store, StoreError> {
        let store = self.store.take().map_or_else(|| (self.reopen)(self.trust), Ok)?;
        self.trust = Trust::All;
        Ok(store)
    }

    /// Keeps the store if it can be used.
    fn put_back(&mut self, store: Store) {
        self.trust = store.trust();
        self.store = Some(store).filter(Store::is_usable);
    }

    /// Waits for the next batch, and gives space back meanwhile; `None` if there will be no batch. `receive` waits for
    /// a bounded time, or without a bound for `None`.
    fn next(
        &mut self,
        mut receive: impl FnMut(Option<Duration>) -> Result<Arc<Batch>, RecvTimeoutError>,
    ) -> Option<Arc<Batch>> {
        let (mut effort, mut patience) = (Effort::Due, Some(Duration::ZERO));
        loop {
            match receive(patience) {
                Ok(batch) => return Some(batch),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            (effort, patience) = match (effort, self.clean(effort)) {
                (Effort::Due, Cleaned::Piece) => (Effort::Due, Some(Duration::ZERO)),
                (Effort::Due, Cleaned::Nothing) if self.is_healthy() => (Effort::Idle, Some(SETTLE_DELAY)),
                (Effort::Idle, Cleaned::Piece) => (Effort::Idle, Some(SETTLE_PAUSE)),
                (_, Cleaned::Nothing) => (effort, None),
            };
        }
    }

    /// Whether the last attempts have succeeded. Otherwise the next batch tries again.
    fn is_healthy(&self) -> bool {
        self.store.is_some() && self.cleaning == Health::Working
    }

    /// Cleans one piece. On a full disk, batches may fail until that gives space back, so it does not wait for a
    /// batch that is written.
    fn clean(&mut self, effort: Effort) -> Cleaned {
        if self.trust == Trust::Nothing {
            return Cleaned::Nothing; // the next batch learns that
        }
        let Ok(mut store) = self.take_store() else { return Cleaned::Nothing };
        let cleaned = store.clean(effort);
        self.put_back(store);
        match cleaned {
            Ok(cleaned) => {
                self.cleaning = Health::Working;
                cleaned
            }
            Err(error) => {
                if self.cleaning == Health::Working {
                    error!("space not given back fault=\"{error}\"");
                }
                self.cleaning = Health::Failing;
                Cleaned::Nothing
            }
        }
    }

    fn save(&mut self, batch: &Batch) -> Saved {
        let saved = if self.trust == Trust::Nothing { Saved::Lost } else { self.try_to_save(batch) };
        if self.trust != Trust::Nothing {
            return saved;
        }
        match self.take_store() {
            Ok(store) => {
                warn!("store begun anew path={}: all records are written again", store.path().display());
                self.put_back(store);
                Saved::Lost
            }
            Err(error) => {
                if saved == Saved::Lost && self.health == Health::Working {
                    error!("store not begun anew fault=\"{error}\"");
                }
                self.health = Health::Failing;
                Saved::Failed
            }
        }
    }

    fn try_to_save(&mut self, batch: &Batch) -> Saved {
        match self.write(batch) {
            Ok(()) => {
                if self.health == Health::Failing {
                    info!("saved again keys={}", batch.keys.len());
                }
                self.health = Health::Working;
                if batch.sync { Saved::Durable } else { Saved::Written }
            }
            Err(error) => {
                if self.health == Health::Working {
                    let (keys, contacts) = (batch.keys.len(), batch.contacts.as_ref().map_or(0, Vec::len));
                    let (event, effect) = (event_of_failure(batch), effect_of(&error));
                    error!("{event} keys={keys} contacts={contacts} fault=\"{error}\" effect=\"{effect}\"");
                }
                self.health = Health::Failing;
                Saved::Failed
            }
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut store = self.take_store()?;
        let written = store.write(batch);
        self.put_back(store);
        written
    }
}

/// What it is called if `batch` cannot be written: with nothing in it, it would have synced earlier ones.
fn event_of_failure(batch: &Batch) -> &'static str {
    let is_empty = batch.keys.is_empty() && batch.packs.is_empty() && batch.contacts.is_none();
    if is_empty { "earlier batches not synced" } else { "not saved" }
}

/// What `error` means for the operator.
fn effect_of(error: &StoreError) -> &'static str {
    if error.fault().is_full() {
        "until there is space on the disk, nothing is confirmed that must be saved before; reads are answered"
    } else {
        "until the disk works, nothing is confirmed that must be saved before; reads are answered"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::{Fault, SimulatedDisk};
    use crate::disk::store::tests::{batch, in_order, persisted};
    use crate::disk::tests::Scratch;
    use crate::node::persisted::PersistedKey;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::ops::Range;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::sync_channel;

    /// Simulated power failures after each batch, each with another subset of the writes on disk.
    const POWER_FAILURES: usize = 4;

    const SEGMENT_SIZE: u32 = 1 << 16;

    fn open(disk: &SimulatedDisk) -> Result<Store, StoreError> {
        Store::on_simulated(disk, SEGMENT_SIZE)
    }

    fn open_again(disk: &SimulatedDisk, trust: Trust) -> Result<Store, StoreError> {
        Store::on_again(disk, SEGMENT_SIZE, trust)
    }

    /// Starts a writer; returns it with the other ends of its channels.
    fn start(
        store: Store,
        reopen: impl FnMut(Trust) -> Result<Store, StoreError> + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> (DiskWriter, SyncSender<Arc<Batch>>, Receiver<Saved>) {
        let (batches, wanted) = sync_channel(1);
        let (results, saved) = sync_channel(1);
        let writer = DiskWriter::start_with(store, reopen, wanted, results, wake).expect("a thread");
        (writer, batches, saved)
    }

    /// A writer on a simulated disk, and the results of its batches.
    struct Harness {
        disk: SimulatedDisk,
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
            let disk = SimulatedDisk::default();
            let store = open(&disk).expect("a new store");
            let same_disk = disk.clone();
            let (writer, batches, saved) = start(store, move |trust| open_again(&same_disk, trust), || {});
            let rng = StdRng::seed_from_u64(seed);
            Self { disk, writer, batches, saved, durable: BTreeSet::new(), failed: Vec::new(), rng }
        }

        /// Saves the records `numbers`, then verifies the disk after a kill and after power failures.
        fn save(&mut self, numbers: Range<u64>) -> Saved {
            let records = batch(numbers.clone().map(record));
            self.batches.send(Arc::new(records)).expect("the thread runs");
            let saved = self.saved.recv().expect("the thread runs");
            match saved {
                Saved::Durable | Saved::Written => self.durable.extend(numbers),
                Saved::Failed | Saved::Lost => self.failed.push(numbers),
            }
            self.verify(&self.disk.after_kill());
            for _ in 0..POWER_FAILURES {
                let left = self.disk.after_power_failure(&mut self.rng);
                self.verify(&left);
            }
            saved
        }

        /// Every durable record is on `disk`, and each failed batch is there completely or not at all.
        fn verify(&self, disk: &SimulatedDisk) {
            let found = open(disk).expect("the store is intact").all();
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

    /// Fails every call after `calls` more during two batches; returns whether a batch failed.
    fn survives(calls: u64, kind: ErrorKind) -> bool {
        let mut harness = Harness::new(calls);
        assert_eq!(harness.save(0..30), Saved::Durable);
        let from = harness.disk.calls() + calls;
        harness.disk.inject(Some(Fault { from, until: u64::MAX, kind }));
        let first = harness.save(30..60);
        let second = harness.save(60..90);
        harness.disk.inject(None);
        assert_eq!(harness.save(60..90), Saved::Durable, "the disk is repaired");
        assert_eq!(harness.save(90..100), Saved::Durable);
        harness.end();
        first == Saved::Failed || second == Saved::Failed
    }

    /// Fails the first, the second, … call until both batches end before the fault occurs.
    fn survives_a_fault_at_each_call(kind: ErrorKind) {
        let runs = (0..1_000).take_while(|calls| survives(*calls, kind)).count();
        assert!((4..1_000).contains(&runs), "the fault occurred in {runs} runs");
    }

    #[test]
    fn a_batch_reported_durable_survives_a_full_disk_at_any_call() {
        survives_a_fault_at_each_call(ErrorKind::StorageFull);
    }

    #[test]
    fn a_batch_reported_durable_survives_a_failure_of_any_call() {
        survives_a_fault_at_each_call(ErrorKind::Other);
    }

    #[test]
    fn a_full_disk_does_not_make_the_thread_read_the_store_again() {
        let disk = SimulatedDisk::default();
        let mut worker = Worker::new(open(&disk).expect("a new store"), |_| unreachable!("the store is usable"));
        assert_eq!(worker.save(&batch((0..300).map(record))), Saved::Durable);
        disk.set_capacity(disk.used() + 2_000);
        for _ in 0..3 {
            assert_eq!(worker.save(&batch((300..310).map(record))), Saved::Failed);
            assert!(worker.clean(Effort::Due) == Cleaned::Nothing);
        }
        disk.set_capacity(usize::MAX);
        assert_eq!(worker.save(&batch((300..310).map(record))), Saved::Durable);
        assert_eq!(open(&disk.after_kill()).expect("the store is intact").all(), in_order((0..310).map(record)));
    }

    /// Each way in which the files of a running process can get lost, and what the fault is called.
    #[expect(clippy::type_complexity, reason = "a table")]
    const LOSSES: [(&str, fn(&Path) -> io::Result<()>); 7] = [
        ("00000001.log is another file", |path| {
            let copy = path.join("copy");
            fs::copy(path.join("00000001.log"), &copy)?;
            fs::rename(copy, path.join("00000001.log"))
        }),
        ("00000002.log is missing", |path| fs::remove_file(path.join("00000002.log"))),
        ("00000001.log is missing", |path| fs::remove_file(path.join("00000001.log"))),
        ("state is missing", |path| fs::remove_file(path.join("state"))),
        ("it was cut, expected", |path| File::options().write(true).open(path.join("00000002.log"))?.set_len(0)),
        ("is missing", |path| fs::remove_dir_all(path)),
        ("is another file", |path| {
            let old = path.with_added_extension("old");
            fs::rename(path, &old)?;
            fs::create_dir(path)?;
            for entry in fs::read_dir(&old)? {
                let entry = entry?;
                fs::copy(entry.path(), path.join(entry.file_name()))?;
            }
            Ok(())
        }),
    ];

    #[test]
    fn a_store_that_was_deleted_or_replaced_is_begun_anew_and_no_batch_is_durable_before() {
        for (words, lose) in LOSSES {
            let scratch = Scratch::new("lost");
            let path = scratch.0.join("records");
            let mut store = Store::open(&path, [7; 16]).expect("a new store");
            let large = |from: u64| batch((from..from + 60).map(|number| persisted(number, 60_000)));
            for from in 0..2 {
                store.write(&large(60 * from)).expect("the disk works");
            }
            lose(&path).expect("this test may");
            // Not all files are looked for each time.
            let error = (0..2).find_map(|_| store.write(&batch([persisted(900, 10)])).err()).expect(words);
            assert!(error.to_string().contains(words) && !store.is_usable(), "{error}");
            assert_eq!(store.trust(), Trust::Nothing);
            let (id, reopen) = (store.id(), reopen(&store));
            drop(store);
            let fresh = Store::open(&scratch.0.join("other"), [7; 16]).expect("a new store");
            let mut worker = Worker::new(fresh, reopen);
            worker.store = None;
            worker.trust = Trust::Nothing;
            assert!(worker.clean(Effort::Due) == Cleaned::Nothing, "the next batch learns that");
            assert_eq!(worker.save(&batch([persisted(901, 10)])), Saved::Lost);
            assert_eq!(worker.save(&batch([persisted(902, 10)])), Saved::Durable);
            drop(worker);
            let store = Store::reopen(&path, Trust::All).expect("the store is intact");
            assert_eq!((store.all(), store.id() == id), (vec![persisted(902, 10)], false));
        }
    }

    #[test]
    fn a_batch_without_a_sync_looks_once_at_the_open_file_and_writes_once() {
        let disk = SimulatedDisk::default();
        let mut store = open(&disk).expect("a new store");
        store.write(&batch((0..300).map(record))).expect("the disk works");
        assert!(store.segments() > 1);
        let unsynced = Batch { sync: false, ..batch([record(1)]) };
        store.write(&unsynced).expect("the disk works"); // also reserves space
        let calls = disk.calls();
        store.write(&unsynced).expect("the disk works");
        assert_eq!(disk.calls() - calls, 2);
    }

    /// A new store in `scratch` with two segments, and its directory.
    fn of_two_segments(scratch: &Scratch) -> (PathBuf, Store) {
        let path = scratch.0.join("records");
        let mut store = Store::open(&path, [7; 16]).expect("a new store");
        store.write(&batch((0..100).map(|number| persisted(number, 60_000)))).expect("the disk works");
        assert_eq!(store.segments(), 2);
        (path, store)
    }

    #[test]
    fn a_batch_without_a_sync_notices_that_the_newest_segment_was_deleted_or_cut() {
        for (words, lose) in [LOSSES[1], LOSSES[4], LOSSES[5]] {
            let scratch = Scratch::new("unsynced");
            let (path, mut store) = of_two_segments(&scratch);
            lose(&path).expect("this test may");
            let error = store.write(&Batch { sync: false, ..batch([persisted(900, 10)]) }).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(store.trust(), Trust::Nothing);
        }
    }

    #[test]
    fn a_batch_that_looks_notices_that_the_store_was_replaced() {
        for (words, lose) in LOSSES {
            let scratch = Scratch::new("look");
            let (path, mut store) = of_two_segments(&scratch);
            lose(&path).expect("this test may");
            let looks = Batch { sync: false, look: true, ..batch([persisted(900, 10)]) };
            let error = (0..2).find_map(|_| store.write(&looks).err()).expect(words);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(store.trust(), Trust::Nothing);
        }
    }

    /// A batch makes the file long again, so it has to be noticed before.
    #[test]
    fn a_cut_of_what_was_written_and_not_synced_is_noticed_at_the_next_batch() {
        for batches in 1..6 {
            let scratch = Scratch::new("cut");
            let (path, mut store) = of_two_segments(&scratch);
            for number in 0..batches {
                let unsynced = Batch { sync: false, ..batch([persisted(number, 10)]) };
                store.write(&unsynced).expect("the disk works");
            }
            let newest = File::options().write(true).open(path.join("00000002.log")).expect("it is there");
            newest.set_len(newest.metadata().expect("it is there").len() - 1).expect("this test may");
            let error = store.write(&batch([persisted(900, 10)])).expect_err("the file was cut");
            assert!(error.to_string().contains("it was cut, expected"), "{error}");
        }
    }

    /// The thread itself notices it.
    #[test]
    fn a_batch_after_the_store_was_deleted_is_reported_as_lost() {
        let scratch = Scratch::new("deleted");
        let path = scratch.0.join("records");
        let store = Store::open(&path, [7; 16]).expect("a new store");
        let (batches, wanted) = sync_channel(1);
        let (results, saved) = sync_channel(1);
        let writer = DiskWriter::start(store, wanted, results, || {}).expect("a thread");
        let save = |number| {
            batches.send(Arc::new(batch([persisted(number, 10)]))).expect("the thread runs");
            saved.recv().expect("the thread runs")
        };
        assert_eq!(save(1), Saved::Durable);
        for number in [2, 4] {
            fs::remove_dir_all(&path).expect("it is there");
            assert_eq!((save(number), save(number + 1)), (Saved::Lost, Saved::Durable));
        }
        drop(batches);
        writer.join().expect("no panic");
        assert_eq!(Store::reopen(&path, Trust::All).expect("the store is intact").all(), [persisted(5, 10)]);
    }

    /// No batch has to come for that: the thread cleans before it waits for one.
    #[test]
    fn space_is_given_back_before_the_thread_waits_for_a_batch() {
        let disk = SimulatedDisk::default();
        let mut store = open(&disk).expect("a new store");
        for _ in 0..20 {
            store.write(&batch((0..30).map(record))).expect("the disk works");
        }
        assert!(disk.used() > 6 * SEGMENT_SIZE as usize, "{}", disk.used());
        let mut worker = Worker::new(store, |_| unreachable!("no call fails"));
        // Its queue is empty each time it looks, until it waits.
        let mut looks = 0;
        let next = worker.next(|patience| {
            looks += 1;
            Err(if patience == Some(Duration::ZERO) {
                RecvTimeoutError::Timeout
            } else {
                RecvTimeoutError::Disconnected
            })
        });
        assert!(next.is_none() && looks > 6, "{looks}");
        assert!(disk.used() < 3 * SEGMENT_SIZE as usize, "{}", disk.used());
    }

    /// A store of several segments, of which a third is outdated and none is due.
    fn third_outdated(disk: &SimulatedDisk) -> Store {
        let mut store = open(disk).expect("a new store");
        store.write(&batch((0..1_000).map(record))).expect("the disk works");
        store.write(&batch((0..1_000).step_by(2).map(record))).expect("the disk works");
        assert_eq!(store.clean(Effort::Due).expect("the disk works"), Cleaned::Nothing);
        store
    }

    /// The thread waits before each piece, and without a bound when there is nothing left.
    #[test]
    fn the_store_settles_in_pieces_with_pauses_while_no_batch_comes() {
        let disk = SimulatedDisk::default();
        let store = third_outdated(&disk);
        let live = store.live_bytes();
        let mut worker = Worker::new(store, |_| unreachable!("no call fails"));
        let (mut waits, mut pieces) = (Vec::new(), Vec::new());
        let next = worker.next(|patience| {
            waits.push(patience);
            pieces.push(disk.used());
            Err(if patience.is_some() { RecvTimeoutError::Timeout } else { RecvTimeoutError::Disconnected })
        });
        assert!(next.is_none());
        let (last, pauses) = waits.split_last().expect("it waits");
        assert_eq!((pauses[0], pauses[1], *last), (Some(Duration::ZERO), Some(SETTLE_DELAY), None));
        assert!(pauses.len() > 100 && pauses[2..].iter().all(|pause| *pause == Some(SETTLE_PAUSE)), "{pauses:?}");
        let grown = pieces.windows(2).map(|used| used[1].saturating_sub(used[0])).max().expect("pieces");
        assert!(grown < SEGMENT_SIZE as usize / 8, "a piece of {grown} bytes");
        let log = (disk.used() - disk.content("records/spare").len()) as u64;
        assert!(log < live * 102 / 100, "{log} bytes for {live}");
    }

    #[test]
    fn a_batch_is_written_before_the_store_settles_further() {
        let disk = SimulatedDisk::default();
        let mut worker = Worker::new(third_outdated(&disk), |_| unreachable!("no call fails"));
        let mut calls = 0;
        let next = worker.next(|patience| {
            calls = disk.calls();
            if patience == Some(SETTLE_PAUSE) {
                Ok(Arc::new(batch([record(7)])))
            } else {
                Err(RecvTimeoutError::Timeout)
            }
        });
        assert_eq!((next.map(|batch| batch.keys.len()), disk.calls()), (Some(1), calls));
    }

    /// A store on a disk that fails would be read again and again.
    #[test]
    fn after_a_failure_nothing_is_cleaned_until_a_batch_comes() {
        let (zero, delay) = (Some(Duration::ZERO), Some(SETTLE_DELAY));
        for (rounds, fails_at, expected) in [(5, delay, vec![zero, delay, None]), (20, zero, vec![zero, None])] {
            let disk = SimulatedDisk::default();
            let mut store = open(&disk).expect("a new store");
            store.write(&batch((0..300).map(record))).expect("the disk works");
            for _ in 0..rounds {
                store.write(&batch((0..30).map(record))).expect("the disk works");
            }
            let mut worker = Worker::new(store, |_| unreachable!("no batch comes"));
            let mut waits = Vec::new();
            let next = worker.next(|patience| {
                if patience == fails_at {
                    disk.inject(Some(Fault { from: 0, until: u64::MAX, kind: ErrorKind::Other }));
                }
                waits.push(patience);
                Err(if patience.is_some() { RecvTimeoutError::Timeout } else { RecvTimeoutError::Disconnected })
            });
            assert!(next.is_none() && worker.store.is_none());
            assert_eq!(waits, expected);
        }
    }

    #[test]
    fn the_waker_is_called_after_each_batch_and_at_the_end() {
        let store = open(&SimulatedDisk::default()).expect("a new store");
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let wake = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let (writer, batches, saved) = start(store, |_| unreachable!("no batch fails"), wake);
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
        let disk = SimulatedDisk::default();
        let store = open(&disk).expect("a new store");
        let (wake, woken) = std::sync::mpsc::channel();
        let wake = move || wake.send(()).expect("the test receives");
        let (writer, batches, saved) = start(store, |_| panic!("for this test"), wake);
        disk.inject(Some(Fault { from: 0, until: u64::MAX, kind: ErrorKind::Other }));
        batches.send(Arc::new(batch([persisted(1, 10)]))).expect("the thread runs");
        woken.recv().expect("the thread calls the waker");
        assert_eq!(saved.recv(), Ok(Saved::Failed));
        // It opens the store again before it waits for the next batch.
        woken.recv().expect("the thread calls the waker");
        assert!(saved.recv().is_err());
        assert!(writer.join().is_err());
    }
}
