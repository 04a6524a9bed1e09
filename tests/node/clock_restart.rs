//! Restarts of a node: how old the records of an earlier run are (section 3, Clocks).

use dht::node::params::Params;
use dht::node::persisted::{PersistedKey, PersistedRecord, SavedAt};
use dht::record::{Age, Source, Version};
use dht::time::{BootTime, Time, WallTime};
use dht::wire::peer::{Entry, Hello, Request};

use crate::clock::{HOUR_MILLIS, got, is_stored, tombstone_of};
use crate::harness::{
    Harness, block, bootstrap, failure, greeting, key, nodes, secs, success, synced, value_of, version_at,
};

/// A record of 60 s, saved when it was 10 s old, 30 s after the boot 7 by a wall clock that showed the start of
/// the test.
fn saved() -> PersistedKey {
    let boot = Some(BootTime { boot: 7, millis: 30_000 });
    let saved = SavedAt { wall: WallTime::from_millis(version_at(0).time().as_millis()), boot };
    let record = block(1, b"v").to_record().expect("it has a value");
    let record = Some(PersistedRecord { record, age: Age(10_000), saved, source: Source::Client });
    PersistedKey { key: key(1), record, tombstone: None }
}

/// The node restarts `since_boot` seconds after the boot `boot`, and its wall clock is `wall_ahead` further.
fn restarted(params: Params, boot: u32, since_boot: u64, wall_ahead: u64) -> Harness {
    restarted_with(saved(), params, boot, since_boot, wall_ahead)
}

/// The same with the record `kept` on disk.
fn restarted_with(kept: PersistedKey, params: Params, boot: u32, since_boot: u64, wall_ahead: u64) -> Harness {
    let mut harness = Harness::new(params);
    harness.wall_ahead = wall_ahead;
    let now = harness.now();
    harness.node.booted(BootTime { boot, millis: since_boot * 1_000 });
    harness.node.restore(now, kept);
    harness.node.restored(now);
    harness
}

fn newcomer() -> Params {
    Params { bootstraps: vec![bootstrap(1, None)], ..Params::default() }
}

#[test]
fn under_the_same_boot_a_record_ages_by_the_monotonic_clock() {
    // 20 s off, whatever the wall clock says.
    for wall_ahead in [0, 20_000, 2 * HOUR_MILLIS] {
        let harness = restarted(newcomer(), 7, 50, wall_ahead);
        let expires = harness.node.storage().find(harness.now, &key(1)).map(|held| held.expires);
        assert_eq!(expires, Some(harness.now + secs(30)), "{wall_ahead}");
    }
    let harness = restarted(newcomer(), 7, 90, 0);
    assert!(harness.node.storage().find(harness.now, &key(1)).is_none(), "its life has certainly ended");
}

#[test]
fn under_another_boot_a_record_ages_by_the_wall_clock() {
    let harness = restarted(newcomer(), 8, 5, 20_000);
    let expires = harness.node.storage().find(harness.now, &key(1)).map(|held| held.expires);
    assert_eq!(expires, Some(harness.now + secs(30)));
}

/// The node joins through peer 1, which stores `entries`; returns what a GET at a peer would learn.
fn joins(harness: &mut Harness, entries: &[Entry]) {
    harness.wake();
    let dial = harness.dial_of(1);
    let conn = harness.complete_dial(dial, 1);
    for _ in 0..10 {
        for (rpc, request) in harness.requests(conn) {
            match request {
                Request::FindNode { .. } => harness.reply(conn, rpc, nodes(&[])),
                Request::Sync { .. } => harness.reply(conn, rpc, synced(entries)),
                Request::FindValue { .. } => harness.reply(conn, rpc, value_of(block(1, b"v"))),
                _ => {}
            }
        }
        harness.pass(secs(0));
    }
    assert!(harness.node.status().is_settled());
}

#[test]
fn a_record_that_seems_to_have_ended_while_the_node_was_off_waits_for_the_neighbours() {
    let mut harness = restarted(newcomer(), 8, 5, 2 * HOUR_MILLIS);
    assert!(harness.node.storage().is_empty());
    assert_eq!(harness.node.storage().tombstone(harness.now(), &key(1)), None, "no tombstone before they were asked");
    harness.wall_ahead = 0; // otherwise the version of the neighbour would be too old for it
    let stored = block(1, b"v").to_record().expect("it has a value");
    joins(&mut harness, &[Entry::of(&stored)]);
    assert_eq!(harness.node.storage().len(), 1, "a neighbour stores it");

    let mut harness = restarted(newcomer(), 8, 5, 2 * HOUR_MILLIS);
    joins(&mut harness, &[]);
    assert!(harness.node.storage().is_empty());
    assert_eq!(harness.node.storage().tombstone(harness.now(), &key(1)), None, "one peer does not confirm the clock");
}

/// The node restarts under another boot with a clock that is 13 hours fast; three peers disagree with it.
#[test]
fn a_record_whose_age_a_wrong_clock_has_told_goes_on_from_the_age_at_the_save() {
    let mut kept = saved();
    kept.record.as_mut().expect("a record").record.ttl = dht::record::Ttl::from_secs(50_000).expect("not zero");
    let mut harness = restarted_with(kept, newcomer(), 8, 5, 13 * HOUR_MILLIS);
    harness.now = harness.now + secs(30);
    join_through_three(&mut harness, greeting().wall);
    let expires = harness.node.storage().find(harness.now, &key(1)).map(|held| held.expires);
    assert_eq!(expires, Some(Time::ZERO + secs(50_000 - 10)));
}

/// The node joins through peers 1 to 3, which store nothing and whose clocks show `wall`.
fn join_through_three(harness: &mut Harness, wall: WallTime) {
    for peer in [1, 2, 3] {
        let at = std::net::SocketAddr::from(([198, 51, peer, 1], 7402));
        harness.add_contact_saying(peer, at, Hello { wall, ..greeting() });
    }
    harness.pass(secs(2));
    assert!(harness.node.status().is_settled());
}

#[test]
fn what_ended_while_the_node_was_off_leaves_a_tombstone_if_three_peers_agree_with_its_clock() {
    for is_right in [true, false] {
        let mut harness = restarted(newcomer(), 8, 5, 2 * HOUR_MILLIS);
        let wall = if is_right { harness.now().wall } else { greeting().wall };
        join_through_three(&mut harness, wall);
        assert_eq!((is_stored(&harness), tombstone_of(&harness).is_some()), (!is_right, is_right));
    }
}

/// Two peers do not tell which clock is wrong. The first three that a node meets may all be wrong.
#[test]
fn a_record_whose_age_is_not_confirmed_leaves_no_tombstone_when_it_ends() {
    for (peers, waits, is_left) in [(2, 1_300, false), (3, 0, false), (3, 1_300, true)] {
        let mut kept = saved();
        let persisted = kept.record.as_mut().expect("a record");
        persisted.record.ttl = dht::record::Ttl::from_secs(3_600).expect("not zero");
        // It has 20 s left after the wait; it was 10 s old when it was saved.
        let saved_at = version_at(0).time().before(secs(3_590 - 20 - waits));
        persisted.saved.wall = saved_at;
        persisted.record.version = Version::draw(saved_at.before(secs(10)), 0, None);
        let mut harness = restarted_with(kept, newcomer(), 8, 5, 0);
        for peer in 1..=peers {
            let at = std::net::SocketAddr::from(([198, 51, peer, 1], 7402));
            harness.add_contact_saying(peer, at, greeting());
        }
        harness.now = harness.now + secs(waits);
        harness.wake();
        harness.pass(secs(19));
        assert!(is_stored(&harness));
        harness.pass(secs(1));
        let has_tombstone = tombstone_of(&harness).is_some();
        assert_eq!((is_stored(&harness), has_tombstone), (false, is_left), "{peers} peers, after {waits} s");
    }
}

/// The first three may have clocks that are wrong by as much.
#[test]
fn three_peers_that_are_no_majority_of_the_contacts_confirm_no_age() {
    let mut harness = restarted(newcomer(), 8, 5, 2 * HOUR_MILLIS);
    let wall = harness.now().wall;
    for peer in 4..=8 {
        // All of one address group, which counts once.
        harness.add_contact_saying(peer, crate::harness::address(peer), Hello { wall, ..greeting() });
    }
    join_through_three(&mut harness, wall);
    assert_eq!(tombstone_of(&harness), None);
}

#[test]
fn a_node_alone_trusts_its_clock_but_leaves_no_tombstone() {
    let mut harness = restarted(Params::default(), 8, 5, 2 * HOUR_MILLIS);
    assert_eq!(got(&mut harness, 1), failure(1));
    assert_eq!(harness.node.storage().tombstone(harness.now(), &key(1)), None);
}

#[test]
fn a_clock_before_the_last_save_hides_records_until_it_is_set() {
    let mut harness = Harness::new(Params::default());
    let mut kept = saved();
    let later = WallTime::from_millis(version_at(HOUR_MILLIS).time().as_millis());
    kept.record.as_mut().expect("a record").saved = SavedAt { wall: later, boot: None };
    let now = harness.now();
    harness.node.restore(now, kept);
    harness.node.restored(now);
    assert_eq!(got(&mut harness, 1), failure(1));
    harness.wall_ahead = HOUR_MILLIS;
    assert_eq!(got(&mut harness, 1), success(1, b"v"));
}

#[test]
fn a_record_that_a_fast_clock_has_drawn_before_a_restart_is_dropped() {
    let mut harness = Harness::new(Params::default());
    let mut kept = saved();
    let record = &mut kept.record.as_mut().expect("a record").record;
    record.version = version_at(HOUR_MILLIS); // an hour ahead when it was saved
    record.ttl = dht::record::Ttl::from_secs(u16::MAX).expect("not zero");
    harness.wall_ahead = 2 * HOUR_MILLIS;
    let now = harness.now();
    harness.node.booted(BootTime { boot: 7, millis: 30_000 + 2 * HOUR_MILLIS });
    harness.node.restore(now, kept);
    harness.node.restored(now);
    assert_eq!(got(&mut harness, 1), failure(1));
}
