//! Old tombstones: after an hour a node knows only a fingerprint of the key, and refuses the same records (section 3,
//! Tombstones).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dht::id::Key;
use dht::node::action::ConnId;
use dht::node::params::{Durability, Params};
use dht::node::persisted::{Batch, Pack, PackId, PersistedKey, Saved};
use dht::record::{Tombstone, Ttl, Version};
use dht::wire::api::{ApiReply, ApiRequest, Put};
use dht::wire::peer::{ErrorCode, RecordBlock, Reply, Request};

use crate::harness::{Disk, Harness, block, failure, key, millis, quiet, secs, stored, success, synced, version_at};
use crate::mini_network::MiniNetwork;

const HOUR: u64 = 3_600;

/// A founder that writes its changes twice a second; the test reports the results.
fn founder() -> Harness {
    let mut harness = Harness::new(Params { durability: Durability::Interval(secs(1)), ..Params::default() });
    harness.disk = Disk::Waits;
    harness
}

/// The records 1 to `count` are stored, and end after a minute.
fn store_and_end(harness: &mut Harness, disk: &mut DiskContent, count: u8) {
    for n in 1..=count {
        harness.put(Put { ttl: 60, replication: 1, ..quiet(n, b"v") });
    }
    pass(harness, disk, 62);
    assert!(harness.node.storage().is_empty());
    assert_eq!((young(harness), disk.keys.len()), (count.into(), count.into()));
}

/// What is on the disk.
#[derive(Clone, Default)]
struct DiskContent {
    keys: BTreeMap<Key, PersistedKey>,
    packs: BTreeMap<PackId, Arc<Pack>>,
}

impl DiskContent {
    fn write(&mut self, batch: &Batch) {
        for state in &batch.keys {
            self.keys.insert(state.key, state.clone());
        }
        self.keys.retain(|_, state| state.record.is_some() || state.tombstone.is_some());
        for pack in &batch.packs {
            self.packs.insert(pack.id, Arc::clone(pack));
        }
        self.packs.retain(|_, pack| !pack.tombstones.is_empty());
    }

    /// The tombstones of all packs.
    fn old(&self) -> usize {
        self.packs.values().map(|pack| pack.tombstones.len()).sum()
    }

    /// A node that starts with this disk at the moment of `harness`.
    fn restart(&self, harness: &Harness) -> Harness {
        let mut next = founder();
        next.wall_ahead =
            u64::try_from((harness.now - next.now).as_millis()).expect("a few hours") + harness.wall_ahead;
        next.act(|node, now, _| {
            for pack in self.packs.values() {
                node.restore_pack(now, Pack::clone(pack));
            }
            for state in self.keys.values() {
                node.restore(now, state.clone());
            }
            node.restored(now);
        });
        next
    }
}

/// Lets `seconds` pass; all batches are written to `disk`.
fn pass(harness: &mut Harness, disk: &mut DiskContent, seconds: u64) {
    let end = harness.now + secs(seconds);
    let mut saved = Vec::new();
    while harness.now < end {
        harness.pass(Duration::from_millis(500));
        write_all(harness, disk, &mut saved, Saved::Durable);
    }
}

/// The host reports `result` of each batch that it is asked to write.
fn write_all(harness: &mut Harness, disk: &mut DiskContent, saved: &mut Vec<Arc<Batch>>, result: Saved) {
    loop {
        let batches = harness.batches();
        if batches.is_empty() {
            return;
        }
        for batch in batches {
            if matches!(result, Saved::Durable | Saved::Written) {
                disk.write(&batch);
            }
            saved.push(batch);
            harness.act(|node, now, out| node.on_saved(now, result, out));
        }
        if result == Saved::Failed {
            return;
        }
        harness.wake();
    }
}

fn young(harness: &Harness) -> usize {
    harness.node.storage().tombstones(key(0)..=key(255)).count()
}

fn old(harness: &Harness) -> usize {
    harness.node.storage().old_tombstones(None, usize::MAX).len()
}

/// Whether the node refuses a STORE of `version` of the key `n`.
fn refuses(harness: &mut Harness, conn: ConnId, n: u8, version: Version) -> bool {
    let wall = harness.now().wall;
    let longest = Ttl::from_secs(u16::MAX).expect("not zero");
    let age = dht::record::Age(0).after(wall.since(version.time()));
    let sent = RecordBlock { version, ttl: longest, age, ..block(n, b"other") };
    match harness.ask(conn, Request::Store(sent)) {
        Reply::Error(ErrorCode::GONE) => true,
        reply => {
            assert_eq!(reply, stored(&sent));
            false
        }
    }
}

#[test]
fn after_an_hour_a_tombstone_has_moved_to_a_pack_and_refuses_the_same_versions() {
    let mut harness = founder();
    harness.disk = Disk::Works;
    let mut disk = DiskContent::default();
    let conn = harness.accept_client(99);
    for n in 1..=3 {
        harness.ask(conn, Request::Store(block(n, b"v")));
    }
    harness.pass(secs(61));
    assert_eq!((young(&harness), old(&harness)), (3, 0));
    harness.pass(secs(45 * 60));
    assert_eq!((young(&harness), old(&harness)), (3, 0));
    harness.disk = Disk::Waits;
    pass(&mut harness, &mut disk, 15 * 60);
    assert_eq!((young(&harness), old(&harness), disk.old()), (0, 3, 3));
    assert!(disk.keys.is_empty(), "the packs take the place of the keys");
    let conn = harness.accept_client(98);
    for mut harness in [disk.restart(&harness), harness] {
        let conn = if harness.has_closed(conn) { harness.accept_client(98) } else { harness.accept_client(97) };
        let tombstone = harness.node.storage().tombstone(harness.now(), &key(1));
        assert_eq!(tombstone, Some(Tombstone { signed: None, plain: Some(version_at(0)) }));
        let older = Version::from_bits(version_at(0).bits() - 1);
        for (version, is_refused) in [(older, true), (version_at(0), true), (version_at(1), false)] {
            harness.disk = Disk::Works;
            assert_eq!(refuses(&mut harness, conn, 1, version), is_refused);
        }
        let page = harness.ask(conn, Request::Sync { from: key(2), to: key(2) });
        let Reply::Synced { entries, .. } = page else { panic!("{page:?}") };
        assert_eq!(entries.iter().map(|entry| entry.rank.version).collect::<Vec<_>>(), [version_at(0)], "a probe");
        assert_eq!(harness.ask(conn, Request::Sync { from: key(2), to: key(9) }), synced(&[]), "a page");
        let newer = harness.put(quiet(3, b"newer"));
        assert_eq!(harness.answer(newer), None);
        let reader = harness.get(key(3));
        assert_eq!(harness.answer(reader), success(3, b"newer"));
    }
}

/// Batches with packs fail, or the ones after them: then a power failure takes all that was not synced away.
#[test]
fn a_pack_is_on_disk_no_later_than_the_removals_of_its_keys_whatever_fails() {
    for (failures, is_written_first) in [(0, false), (1, false), (3, false), (1, true), (3, true)] {
        let mut harness = founder();
        let mut disk = DiskContent::default();
        store_and_end(&mut harness, &mut disk, 200);
        let (mut failed, mut is_pack_unsynced) = (0, false);
        let mut synced = disk.clone();
        for _ in 0..2 * HOUR {
            harness.pass(millis(500));
            for batch in harness.batches() {
                let fails =
                    failed < failures && if is_written_first { is_pack_unsynced } else { !batch.packs.is_empty() };
                is_pack_unsynced = !batch.packs.is_empty() && !fails;
                let result = match fails {
                    true => Saved::Failed,
                    false if failed < failures => Saved::Written,
                    false => Saved::Durable,
                };
                match result {
                    Saved::Failed => {
                        failed += 1;
                        disk = synced.clone();
                    }
                    _ => disk.write(&batch),
                }
                if result == Saved::Durable {
                    synced = disk.clone();
                }
                let found = disk.keys.len() + disk.old();
                assert!(found >= 200, "{} keys, {} old", disk.keys.len(), disk.old());
                harness.act(|node, now, out| node.on_saved(now, result, out));
                harness.put(quiet(255, b"v")); // for another batch
            }
        }
        disk.keys.remove(&key(255));
        assert_eq!((old(&harness), disk.old(), disk.keys.len(), failed), (200, 200, 0, failures));
    }
}

#[test]
fn all_old_tombstones_are_written_again_if_the_disk_has_lost_them() {
    let mut harness = founder();
    let mut disk = DiskContent::default();
    store_and_end(&mut harness, &mut disk, 200);
    pass(&mut harness, &mut disk, HOUR);
    assert_eq!((old(&harness), disk.old()), (200, 200));
    harness.put(quiet(255, b"v"));
    harness.pass(secs(1));
    let mut none = DiskContent::default();
    for batch in harness.batches() {
        none.write(&batch);
        harness.act(|node, now, out| node.on_saved(now, Saved::Lost, out));
    }
    let mut disk = DiskContent::default();
    pass(&mut harness, &mut disk, 2);
    assert_eq!((disk.old(), disk.keys.len()), (200, 1));
    let next = disk.restart(&harness);
    assert_eq!(old(&next), 200);
}

#[test]
fn packs_are_removed_when_no_tombstone_of_their_epoch_is_needed() {
    let mut harness = founder();
    let mut disk = DiskContent::default();
    store_and_end(&mut harness, &mut disk, 9);
    pass(&mut harness, &mut disk, HOUR);
    let mut restarted = disk.restart(&harness);
    for harness in [&mut harness, &mut restarted] {
        let lapse = u64::from(u16::MAX) + 1_200 - HOUR;
        pass(harness, &mut disk, lapse - 600);
        assert_eq!((old(harness), disk.old()), (9, 9));
        let mut left = DiskContent { packs: disk.packs.clone(), ..DiskContent::default() };
        pass(harness, &mut left, 700);
        assert_eq!((old(harness), left.old()), (0, 0));
    }
}

/// By the wall clock these versions are in the future; they would refuse records that are newer.
#[test]
fn old_tombstones_are_set_aside_while_the_wall_clock_is_set_back() {
    let mut harness = founder();
    harness.wall_ahead = 5 * HOUR * 1_000;
    harness.disk = Disk::Works;
    harness.wake();
    let ahead = harness.accept_client(99);
    let wrong = RecordBlock { version: version_at(5 * HOUR * 1_000), ..block(1, b"wrong") };
    assert_eq!(harness.ask(ahead, Request::Store(wrong)), stored(&wrong));
    harness.disk = Disk::Waits;
    let mut disk = DiskContent::default();
    pass(&mut harness, &mut disk, HOUR + 120);
    assert_eq!((old(&harness), disk.old()), (1, 1));
    harness.wall_ahead = 0;
    harness.wake();
    pass(&mut harness, &mut disk, 10);
    let mut restarted = disk.restart(&harness);
    for (nth, harness) in [&mut harness, &mut restarted].into_iter().enumerate() {
        assert_eq!((old(harness), disk.old()), (0, 1), "it stays on disk: {nth}");
        harness.disk = Disk::Works;
        let conn = harness.accept_client(98);
        assert!(!refuses(harness, conn, 1, version_at(HOUR * 1_000)));
        harness.wall_ahead += 5 * HOUR * 1_000;
        harness.wake();
        assert_eq!(old(harness), 1);
        assert!(harness.node.storage().is_empty(), "it beats what was stored meanwhile");
        assert!(refuses(harness, conn, 1, version_at(5 * HOUR * 1_000 - 1)));
    }
}

fn put(ttl: u16, value: &[u8]) -> ApiRequest<'_> {
    ApiRequest::Put(Put { ttl, replication: 5, ..quiet(1, value) })
}

/// A node was off while a newer record was stored and ended, and so long that nobody knows the key of the tombstone.
#[test]
fn an_older_record_does_not_come_back_with_a_node_that_was_off_for_hours() {
    let params = Params { replication_min: 1, ..Params::default() };
    let mut network = MiniNetwork::joined(1..=5, &params);
    network.request(1, put(u16::MAX, b"old"));
    network.pass(secs(60));
    assert_eq!(network.held(key(1)).len(), 5);
    network.kill(5);
    network.request(1, put(60, b"new"));
    network.pass(secs(2 * HOUR));
    assert!(network.held(key(1)).is_empty());
    for node in network.nodes.values() {
        assert_eq!(node.storage().tombstones(key(0)..=key(255)).count(), 0, "no page of a SYNC names it");
    }
    // One of those that know it restarts meanwhile.
    network.kill(2);
    let others = Params { bootstraps: vec![crate::harness::bootstrap(1, None)], ..params };
    network.start(2, others.clone());
    network.pass(secs(60));
    network.start(5, others);
    network.pass(secs(120));
    assert!(network.held(key(1)).is_empty(), "{:?}", network.held(key(1)));
    for number in 1..=5 {
        let client = network.ask(number, ApiRequest::Get { key: key(1) });
        network.pass(secs(30));
        let answer: Option<ApiReply<'static>> = network.answer(client);
        assert_eq!(answer, failure(1), "node {number}");
    }
}

/// It has lapsed while the node was off, or a pack has it: a crash came between the pack and the removal of the key.
#[test]
fn the_state_of_a_key_whose_tombstone_is_not_needed_there_is_removed_from_disk_at_the_start() {
    for has_lapsed in [false, true] {
        let mut harness = founder();
        let mut disk = DiskContent::default();
        store_and_end(&mut harness, &mut disk, 3);
        let single = disk.keys.clone();
        if has_lapsed {
            harness.now = harness.now + secs(u64::from(u16::MAX) + 1_300);
        } else {
            pass(&mut harness, &mut disk, HOUR);
            disk.keys = single;
        }
        assert_eq!((disk.keys.len(), disk.old()), (3, if has_lapsed { 0 } else { 3 }));
        let mut next = disk.restart(&harness);
        pass(&mut next, &mut disk, 2);
        assert_eq!((disk.keys.len(), disk.old()), (0, if has_lapsed { 0 } else { 3 }));
    }
}
