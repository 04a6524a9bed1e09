//! A node alone with its store, for days of virtual time: records come and end all the time, and neither the store
//! nor the memory grows.
//!
//! The node runs in virtual time. The store is a real one, with its thread, and a batch is written at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use dht::disk::store::Store;
use dht::disk::writer::DiskWriter;
use dht::id::{Key, NodeId};
use dht::node::action::{Action, Actions, ClientId};
use dht::node::params::{Durability, Params};
use dht::node::persisted::{Batch, Saved};
use dht::node::{Me, Node};
use dht::record::Class;
use dht::time::{Now, Time, WallTime};
use dht::wire::api::{ApiRequest, Confirm, Put};

const EPOCH: u64 = 1_700_000_000_000;
const VALUE: [u8; 100] = [7; 100];

/// Bytes of a segment of the store (README.md).
const SEGMENT: u64 = 4 << 20;

/// A node with its store.
struct Host {
    node: Node,
    now: Time,
    out: Actions,
    requests: u64,
    path: PathBuf,
    batches: SyncSender<Arc<Batch>>,
    saved: Receiver<Saved>,
    writer: DiskWriter,
}

impl Host {
    fn start(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dht-endurance-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for this test");
        let store = Store::open(&path.join("records"), [7; 16]).expect("a new store");
        let (batches, wanted) = sync_channel(1);
        let (results, saved) = sync_channel(1);
        let writer = DiskWriter::start(store, wanted, results, || {}).expect("a thread");
        let me = Me { id: NodeId::new(Key::new([128; 32])), port: 7402 };
        let params = Params { durability: Durability::Interval(Duration::from_mins(1)), ..Params::default() };
        let mut host = Self {
            node: Node::new(me, params, [7; 32], now_at(Time::ZERO)),
            now: Time::ZERO,
            out: Actions::new(),
            requests: 0,
            path,
            batches,
            saved,
            writer,
        };
        host.pass(Duration::ZERO);
        host
    }

    fn act(&mut self, verb: impl FnOnce(&mut Node, Now, &mut Actions)) {
        verb(&mut self.node, now_at(self.now), &mut self.out);
        loop {
            let wanted: Vec<Arc<Batch>> = self.out.iter().map(batch_of).collect();
            self.out.clear();
            for batch in wanted {
                self.batches.send(batch).expect("the thread runs");
                let saved = self.saved.recv().expect("the thread runs");
                assert!(matches!(saved, Saved::Written | Saved::Durable), "{saved:?}");
                self.node.on_saved(now_at(self.now), saved, &mut self.out);
            }
            if self.out.is_empty() {
                return;
            }
        }
    }

    fn put(&mut self, number: u64, ttl: u16) {
        let key = Key::new(std::array::from_fn(|at| number.to_be_bytes()[at % 8]));
        let put = Put { ttl, replication: 1, confirm: Confirm::No, class: Class::Plain, key, value: &VALUE };
        let client = ClientId { connection: 1, request: self.requests };
        self.requests += 1;
        self.act(|node, now, out| {
            node.on_request(now, client, ApiRequest::Put(put), out);
        });
    }

    /// Lets `span` pass, and wakes the node at each of its deadlines.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(deadline) = self.node.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.act(Node::on_timeout);
        }
        self.now = end;
    }

    fn disk(&self) -> u64 {
        let files = fs::read_dir(self.path.join("records")).expect("the store");
        files.map(|file| file.and_then(|file| file.metadata()).map_or(0, |metadata| metadata.len())).sum()
    }

    /// Ends the node; returns the number of keys in its store, and the number of tombstones in each pack.
    fn stop(self) -> (usize, Vec<usize>) {
        drop((self.batches, self.saved));
        self.writer.join().expect("the thread ends");
        let store = Store::open(&self.path.join("records"), [7; 16]).expect("the store is intact");
        let mut packs = Vec::new();
        store.read_packs(|pack| packs.push(pack.tombstones.len())).expect("the store is intact");
        fs::remove_dir_all(&self.path).expect("the directory of this test");
        (store.len(), packs)
    }
}

fn now_at(mono: Time) -> Now {
    let millis = u64::try_from((mono - Time::ZERO).as_millis()).expect("a few days");
    Now { mono, wall: WallTime::from_millis(EPOCH + millis) }
}

/// A lone node has nothing else to ask its host for.
fn batch_of(action: &Action) -> Arc<Batch> {
    match action {
        Action::Save { batch } => Arc::clone(batch),
        other => panic!("{other:?}"),
    }
}

/// The memory of this process.
fn resident(path: &Path) -> u64 {
    let pages = fs::read_to_string(path).expect("the system's figures");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4_096
}

/// Stores `rate` records a second, each for `ttl` seconds, for `hours` hours. Expects that the disk has a bounded part
/// of what is not live from the moment on from which as much ends as begins.
fn run(name: &str, rate: u64, ttl: u16, hours: u64) {
    let mut host = Host::start(name);
    let mut number = 0;
    for hour in 1..=hours {
        for _ in 0..3_600 * rate {
            host.put(number, ttl);
            number += 1;
            host.pass(Duration::from_millis(1_000 / rate));
        }
        let (records, stored) = (host.node.storage().len() as u64, host.node.storage().bytes() as u64);
        let (disk, resident) = (host.disk(), resident(Path::new("/proc/self/statm")));
        println!("hour={hour} records={records} stored={stored} disk={disk} resident={resident}"); // for --nocapture
        assert!(records <= rate * (u64::from(ttl) + 2), "hour {hour}: {records} records");
        // Each tombstone takes less on disk than in memory, and each record less than its memory.
        assert!(disk * 10 <= stored * 22 + 2 * SEGMENT * 10, "hour {hour}: {disk} on disk, {stored} in memory");
    }
    let (young, old) = tombstones_of(&host.node);
    let records = host.node.storage().len();
    let (keys, packs) = host.stop();
    let (packs, in_packs) = (packs.len(), packs.into_iter().sum::<usize>());
    println!("young={young} old={old} records={records} keys={keys} packs={packs} in_packs={in_packs}");
    let per_hour = usize::try_from(rate * 3_600).expect("a small number");
    assert!(young <= per_hour + per_hour / 30, "a tombstone is young for an hour");
    // A batch with changes of the last minute may not be written.
    assert!(keys <= records + young + per_hour / 10, "only young ones have keys on disk");
    assert!(in_packs >= old && in_packs <= old + per_hour * 5, "packs are removed with their epoch");
    assert!(packs * 40 <= in_packs, "{packs} packs of {in_packs} tombstones");
}

/// How many tombstones are young, and how many old.
fn tombstones_of(node: &Node) -> (usize, usize) {
    let all = Key::new([0; 32])..=Key::new([0xff; 32]);
    (node.storage().tombstones(all).count(), node.storage().old_tombstones(None, usize::MAX).len())
}

#[test]
fn the_store_of_a_node_whose_records_end_after_minutes_stays_small() {
    run("hours", 2, 300, 6);
}

#[test]
#[ignore = "long: a week at 10 PUTs a second; scripts/check.sh --long runs it"]
fn the_store_of_a_node_whose_records_end_after_an_hour_stays_small_for_a_week() {
    run("week", 10, 3_600, 7 * 24);
}
