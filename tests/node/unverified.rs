//! A restart with signed and hashed records: they are verified before they are used, and otherwise a few at a time.

use dht::id::Key;
use dht::node::action::ConnId;
use dht::node::params::{Durability, Params};
use dht::node::persisted::{PersistedKey, PersistedRecord, Saved, SavedAt};
use dht::node::{Node, Status};
use dht::record::{Age, Source, Tombstone, crc_of};
use dht::time::{BootTime, WallTime};
use dht::wire::api::{ApiReply, Put};
use dht::wire::codec::List;
use dht::wire::peer::{Content, Entry, ErrorCode, RecordBlock, Reply, Request, Want};

use crate::clock::HOUR_MILLIS;
use crate::harness::{
    Disk, Harness, block, bootstrap, given, hashed, key, millis, nodes, quiet, secs, signed, stored, synced, version_at,
};

/// Records that a turn verifies in the background, and that one message or one scan verifies.
const PER_TURN: usize = 8;

/// The record with another last byte, which its key or its signature does not fit.
fn damaged(record: RecordBlock<'static>) -> RecordBlock<'static> {
    let mut value = record.value().to_vec();
    *value.last_mut().expect("a value") ^= 1;
    let value: &'static [u8] = Vec::leak(value);
    RecordBlock { crc: crc_of(value), content: Content::Value(value), ..record }
}

/// The record as an earlier run has saved it, at this age.
fn saved(record: RecordBlock<'static>, age_millis: u32) -> PersistedKey {
    let saved = SavedAt {
        wall: WallTime::from_millis(version_at(0).time().as_millis()),
        boot: Some(BootTime { boot: 7, millis: 0 }),
    };
    let source = Source::Client;
    let kept = |record| PersistedRecord { record, age: Age(age_millis), saved, source };
    PersistedKey { key: record.key, record: record.to_record().map(kept), tombstone: None }
}

/// A node that has restored `kept`.
fn restarted(params: Params, kept: impl IntoIterator<Item = PersistedKey>) -> Harness {
    restarted_under(7, params, kept)
}

/// The same after so many boots of the host.
fn restarted_under(boot: u32, params: Params, kept: impl IntoIterator<Item = PersistedKey>) -> Harness {
    let mut harness = Harness::new(params);
    harness.disk = Disk::Waits;
    let now = harness.now();
    harness.node.booted(BootTime { boot, millis: 0 });
    for kept in kept {
        harness.node.restore(now, kept);
    }
    harness.node.restored(now);
    harness
}

fn founder(records: &[RecordBlock<'static>]) -> Harness {
    restarted(Params::default(), records.iter().map(|record| saved(*record, 1_000)))
}

/// `n` records of different owners, of which every fourth is damaged.
fn mixed(n: u8) -> Vec<RecordBlock<'static>> {
    let record = |owner| if owner % 4 == 0 { damaged(signed(owner, 0, b"v")) } else { signed(owner, 0, b"v") };
    (1..=n).map(record).collect()
}

fn sound(records: &[RecordBlock<'static>]) -> Vec<Key> {
    let mut keys: Vec<Key> =
        records.iter().zip(1..).filter(|(_, n)| n % 4 != 0).map(|(record, _)| record.key).collect();
    keys.sort_unstable();
    keys
}

fn entry(record: &RecordBlock<'_>) -> Entry {
    Entry { key: record.key, rank: record.rank(), crc: record.crc }
}

/// How many records `step` verifies.
fn verified_by<T>(harness: &mut Harness, step: impl FnOnce(&mut Harness) -> T) -> (usize, T) {
    let before = harness.node.storage().unverified();
    let result = step(harness);
    (before - harness.node.storage().unverified(), result)
}

/// What is to be written to disk.
fn written(harness: &mut Harness) -> Vec<PersistedKey> {
    harness.pass(secs(1));
    harness.batches().iter().flat_map(|batch| batch.keys.clone()).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an answer, which may be missing")]
fn value(record: &RecordBlock<'static>) -> Option<ApiReply<'static>> {
    let Content::Value(value) = record.content else { panic!("a record without a value") };
    Some(ApiReply::Success { key: record.key, value })
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an answer, which may be missing")]
fn none(key: Key) -> Option<ApiReply<'static>> {
    Some(ApiReply::Failure { key })
}

#[test]
fn a_get_is_answered_at_once_and_each_turn_verifies_a_few_of_the_others() {
    let records: Vec<_> = (1..=100).map(|owner| signed(owner, 0, b"v")).collect();
    let mut harness = founder(&records);
    assert_eq!(harness.node.storage().unverified(), 100, "the start verifies none");
    let (verified, client) = verified_by(&mut harness, |harness| harness.get(records[99].key));
    assert_eq!((verified, harness.answer(client)), (1, value(&records[99])));
    let mut turns = 0;
    while harness.node.storage().unverified() > 0 {
        assert_eq!(harness.node.next_deadline(), Some(harness.now), "the node goes on");
        let (verified, ()) = verified_by(&mut harness, Harness::wake);
        assert!((1..=PER_TURN).contains(&verified), "{verified}");
        turns += 1;
    }
    assert_eq!(turns, 99_usize.div_ceil(PER_TURN));
    assert!(harness.node.next_deadline().is_some_and(|deadline| deadline > harness.now), "then it rests");
    assert_eq!((harness.node.storage().len(), harness.node.counters().records_refuted), (100, 0));
    assert_eq!(written(&mut harness), [], "they stay on disk as they are");
}

#[test]
fn the_start_verifies_no_record_after_a_boot_of_the_host_either() {
    let mut harness = restarted_under(8, Params::default(), [saved(signed(1, 0, b"v"), 1_000)]);
    assert_eq!(harness.node.storage().unverified(), 1);
    assert_eq!(written(&mut harness), []);
}

#[test]
fn plain_records_are_not_verified() {
    let harness = founder(&[block(1, b"v")]);
    assert_eq!(harness.node.storage().unverified(), 0);
}

/// A damaged record of a late version, beside what its owner has signed before.
fn damaged_ones() -> [(RecordBlock<'static>, RecordBlock<'static>); 2] {
    let sound = hashed(b"hashed");
    [(damaged(signed(1, 5, b"late")), signed(1, 1, b"early")), (damaged(sound), sound)]
}

/// A node that has restored a damaged record, and a peer that asks it.
fn asked(record: RecordBlock<'static>) -> (Harness, ConnId) {
    let mut harness = founder(&[record]);
    let conn = harness.accept_client(9);
    assert_eq!(harness.node.storage().unverified(), 1, "nothing has asked for it");
    (harness, conn)
}

#[test]
fn a_damaged_record_is_never_served() {
    for (record, _) in damaged_ones() {
        let key = record.key;
        let (mut harness, _) = asked(record);
        let client = harness.get(key);
        assert_eq!(harness.answer(client), none(key));
        for want in [Want::default(), Want { head_only: true, ..Want::default() }] {
            let (mut harness, conn) = asked(record);
            assert_eq!(harness.ask(conn, Request::FindValue { key, want }), nodes(&[]));
        }
        let (mut harness, conn) = asked(record);
        assert_eq!(harness.ask(conn, Request::Sync { from: key, to: key }), synced(&[]));
    }
}

#[test]
fn a_damaged_record_does_not_stop_an_older_one_that_is_sound() {
    for (record, sound) in damaged_ones() {
        let (mut harness, conn) = asked(record);
        let offered = harness.ask(conn, Request::Offer(List::lend(&[entry(&sound)])));
        assert_eq!(offered, Reply::Wanted(List::lend(&[sound.key])), "it is missing here");

        let (mut harness, conn) = asked(record);
        harness.disk = Disk::Works;
        assert_eq!(harness.ask(conn, Request::Store(sound)), stored(&sound));
        let found = harness.node.storage().find(harness.now, &sound.key).map(|held| held.record.crc);
        assert_eq!(found, Some(sound.crc));

        let (mut harness, _) = asked(record);
        let put = Put { class: sound.class, key: sound.key, value: sound.value(), ..quiet(0, b"") };
        harness.put(put);
        let client = harness.get(sound.key);
        assert_eq!(harness.answer(client), value(&sound));
    }
}

/// Section 3, GET: this node would count as one of those that store the largest record.
#[test]
fn a_damaged_record_counts_in_no_quorum() {
    for (record, sound) in damaged_ones() {
        let mut harness = founder(&[record]);
        for peer in [1, 2] {
            harness.add_contact(peer);
            harness.make_scripted(peer);
        }
        let client = harness.get(sound.key);
        harness.answer_find_value(|_, want| Some(given(sound, want)));
        assert_eq!(harness.answer(client), value(&sound));
    }
}

#[test]
fn a_damaged_record_is_dropped_by_the_background_and_on_disk_and_leaves_no_tombstone() {
    for (record, _) in damaged_ones() {
        let mut harness = founder(&[signed(2, 0, b"v"), record]);
        harness.wake();
        assert_eq!((harness.node.storage().len(), harness.node.storage().unverified()), (1, 0));
        assert_eq!(harness.node.counters().records_refuted, 1);
        assert_eq!(written(&mut harness), [PersistedKey { key: record.key, record: None, tombstone: None }]);
    }
}

#[test]
fn a_node_that_leaves_early_hands_over_what_is_sound() {
    let records = mixed(100);
    let params = Params { durability: Durability::None, ..Params::default() };
    let mut harness = restarted(params, records.iter().map(|record| saved(*record, 1_000)));
    harness.disk = Disk::Works;
    let conn = harness.add_contact(1);
    let before = harness.node.storage().unverified();
    assert!(before > 80, "{before}: the node leaves before all is verified");
    harness.act(Node::leave);
    let mut offered = Vec::new();
    for _ in 0..100 {
        let (verified, ()) = verified_by(&mut harness, Harness::wake);
        assert!(verified <= 2 * PER_TURN, "{verified} by the background and the scan");
        for (to, rpc, entries) in harness.offers() {
            assert_eq!(to, conn);
            offered.extend(entries.iter().map(|entry| entry.key));
            harness.reply(to, rpc, Reply::Wanted(List::lend(&[])));
        }
    }
    assert!(harness.node.has_left());
    offered.sort_unstable();
    offered.dedup();
    assert_eq!(offered, sound(&records));
}

/// An OFFER of damaged records alone would not leave, and the node would try again.
#[test]
fn a_node_that_leaves_early_does_not_wait_for_damaged_records() {
    let records: Vec<_> = (1..=100).map(|owner| damaged(signed(owner, 0, b"v"))).collect();
    let params = Params { durability: Durability::None, ..Params::default() };
    let mut harness = restarted(params, records.iter().map(|record| saved(*record, 1_000)));
    harness.disk = Disk::Works;
    harness.add_contact(1);
    harness.act(Node::leave);
    for _ in 0..100 {
        harness.wake();
    }
    assert!(harness.node.has_left());
    assert!(harness.offers().is_empty());
}

#[test]
fn a_page_for_a_neighbour_is_shorter_while_records_are_unverified() {
    let records = mixed(60);
    let over = Some(Tombstone { signed: None, plain: Some(version_at(0)) });
    let ended = (1..=12).map(|n| PersistedKey { key: key(20 * n), record: None, tombstone: over });
    let kept = records.iter().map(|record| saved(*record, 1_000)).chain(ended.clone());
    let mut harness = restarted(Params::default(), kept);
    let conn = harness.accept_client(9);
    let (mut from, mut listed) = (key(0), Vec::new());
    loop {
        let (verified, reply) =
            verified_by(&mut harness, |harness| harness.ask(conn, Request::Sync { from, to: key(255) }));
        assert!(verified <= PER_TURN, "{verified}");
        let Reply::Synced { more, entries } = reply else { panic!("{reply:?}") };
        listed.extend(entries.iter().map(|entry| entry.key));
        let Some(next) = listed.last().and_then(Key::successor).filter(|_| more) else { break };
        from = next;
    }
    let mut expected = sound(&records);
    expected.extend(ended.map(|state| state.key));
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

/// An empty page would end the synchronization of the peer.
#[test]
fn a_page_without_a_sound_record_is_refused_until_all_are_verified() {
    let records: Vec<_> = (1..=20).map(|owner| damaged(signed(owner, 0, b"v"))).collect();
    let mut harness = founder(&records);
    let conn = harness.accept_client(9);
    let page = Request::Sync { from: key(0), to: key(255) };
    assert_eq!(harness.ask(conn, page), Reply::Error(ErrorCode::TOO_MANY));
    harness.pass(secs(0));
    assert_eq!(harness.ask(conn, page), synced(&[]));
}

#[test]
fn an_offer_of_many_records_is_compared_as_far_as_they_are_verified() {
    let records = mixed(60);
    let mut harness = founder(&records);
    let conn = harness.accept_client(9);
    let all: Vec<Entry> = records.iter().map(entry).collect();
    let lent = |entries| Request::Offer(List::lend(entries));
    let (verified, reply) = verified_by(&mut harness, |harness| harness.ask(conn, lent(&all[..3])));
    assert_eq!((verified, reply), (3, Reply::Wanted(List::lend(&[]))));
    let (verified, reply) = verified_by(&mut harness, |harness| harness.ask(conn, lent(&all[4..7])));
    assert_eq!((verified, reply), (3, Reply::Wanted(List::lend(&[]))));
    let many: Vec<Entry> = all.iter().enumerate().filter(|(at, _)| at % 4 != 3).map(|(_, entry)| *entry).collect();
    let (verified, reply) = verified_by(&mut harness, |harness| harness.ask(conn, lent(&many)));
    assert_eq!((verified, reply), (PER_TURN, Reply::Error(ErrorCode::TOO_MANY)));
    harness.pass(secs(0));
    assert_eq!(harness.ask(conn, lent(&many)), Reply::Wanted(List::lend(&[])));
    let Reply::Wanted(wanted) = harness.ask(conn, lent(&all)) else { panic!("no WANT") };
    assert_eq!(wanted.iter().count(), 15, "those that were damaged here");
}

#[test]
fn the_page_of_a_neighbour_is_compared_in_several_turns() {
    let records = mixed(120);
    let params = Params { bootstraps: vec![bootstrap(1, None)], ..Params::default() };
    let mut harness = restarted(params, records.iter().map(|record| saved(*record, 1_000)));
    harness.wake();
    let dial = harness.dial_of(1);
    let conn = harness.complete_dial(dial, 1);
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, nodes(&[]));
    harness.wake();
    let (rpc, request) = harness.only_request(conn);
    assert_eq!(request, Request::Sync { from: key(0), to: key(255) });
    let mut page: Vec<Entry> = records.iter().map(entry).collect();
    page.sort_unstable_by_key(|entry| entry.key);
    let unverified = harness.node.storage().unverified();
    assert!(unverified > 90, "{unverified}");
    let (verified, ()) = verified_by(&mut harness, |harness| harness.reply(conn, rpc, synced(&page)));
    assert!((1..=PER_TURN).contains(&verified), "{verified}");
    let mut fetched = Vec::new();
    for _ in 0..100 {
        let (verified, ()) = verified_by(&mut harness, Harness::wake);
        assert!(verified <= 2 * PER_TURN, "{verified} by the background and the comparison");
        for (rpc, request) in harness.requests(conn) {
            if let Request::FindValue { key, .. } = request {
                fetched.push(key);
                harness.reply(conn, rpc, nodes(&[]));
            }
        }
    }
    assert_eq!(harness.node.status(), Status::Settled);
    fetched.sort_unstable();
    let missing: Vec<Key> = page.iter().map(|entry| entry.key).filter(|key| !sound(&records).contains(key)).collect();
    assert_eq!(fetched, missing, "a damaged record counts as missing");
}

#[test]
fn a_record_that_ended_while_the_node_was_off_leaves_a_tombstone_if_it_is_sound() {
    let (good, bad) = (signed(1, 0, b"v"), damaged(signed(2, 0, b"v")));
    for boot in [7, 8] {
        let mut harness = restarted_under(boot, Params::default(), [saved(good, 60_000), saved(bad, 60_000)]);
        assert_eq!(harness.node.storage().unverified(), 2, "the start verifies none");
        let mut written = written(&mut harness);
        written.sort_unstable_by_key(|state| state.key != good.key);
        let tombstone = Some(Tombstone { signed: Some(good.version), plain: None });
        let state = |key, tombstone| PersistedKey { key, record: None, tombstone };
        assert_eq!(written, [state(good.key, tombstone), state(bad.key, None)], "{boot}");
        assert_eq!(harness.node.counters().records_refuted, 1);
        let conn = harness.accept_client(9);
        assert_eq!(harness.ask(conn, Request::Store(good)), Reply::Error(ErrorCode::GONE));
        assert_eq!(harness.node.storage().tombstone(harness.now(), &bad.key), None);
    }
}

/// By the wall clock their versions are too far ahead, until it is set.
#[test]
fn records_that_were_set_aside_are_verified_when_they_come_back() {
    let late = 2 * HOUR_MILLIS;
    let (good, bad) = (signed(1, late, b"v"), damaged(signed(2, late, b"v")));
    for asks in [false, true] {
        let mut harness = founder(&[good, bad]);
        assert!(harness.node.storage().is_empty(), "they are set aside");
        harness.wall_ahead = late;
        if asks {
            let client = harness.get(bad.key);
            assert_eq!(harness.answer(client), none(bad.key));
        }
        harness.pass(secs(10));
        let client = harness.get(good.key);
        assert_eq!(harness.answer(client), value(&good));
        let client = harness.get(bad.key);
        assert_eq!(harness.answer(client), none(bad.key));
        harness.pass(secs(0));
        assert_eq!((harness.node.storage().len(), harness.node.storage().unverified()), (1, 0));
        assert_eq!(harness.node.counters().records_refuted, 1);
    }
}

#[test]
fn a_damaged_record_that_was_set_aside_does_not_replace_what_came_meanwhile() {
    let late = 2 * HOUR_MILLIS;
    let mut harness = founder(&[damaged(signed(1, late, b"late"))]);
    harness.disk = Disk::Works;
    let sound = signed(1, 0, b"v");
    harness.put(Put { class: sound.class, key: sound.key, value: sound.value(), ..quiet(0, b"") });
    harness.wall_ahead = late;
    harness.pass(secs(1));
    let client = harness.get(sound.key);
    assert_eq!(harness.answer(client), value(&sound));
    assert_eq!(harness.node.counters().records_refuted, 1);
}

/// All that was written before is lost: it is written again, and nothing waits for signatures.
#[test]
fn unverified_records_are_written_again_as_they_are() {
    let records = mixed(100);
    let mut harness = founder(&records);
    harness.put(quiet(9, b"v"));
    while harness.batches().is_empty() {
        harness.now = harness.node.next_deadline().expect("it saves").max(harness.now + millis(500));
        harness.wake();
    }
    assert!(harness.node.storage().unverified() > 80);
    let (verified, ()) = verified_by(&mut harness, |harness| {
        harness.act(|node, now, out| node.on_saved(now, Saved::Lost, out));
        harness.wake();
    });
    assert!(verified <= PER_TURN, "{verified}");
    let written: Vec<_> = harness.batches().iter().flat_map(|batch| batch.keys.clone()).collect();
    let kept = written.iter().filter(|state| state.record.is_some()).count();
    assert!(kept > 80, "{kept}");
}
