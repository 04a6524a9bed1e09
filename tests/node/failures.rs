//! Failures: several real nodes, some of which fail, start, are cut off or return.

use std::collections::BTreeSet;
use std::time::Duration;

use dht::node::action::Actions;
use dht::node::params::Params;
use dht::node::{Node, Status};
use dht::wire::api::{ApiRequest, Put};

use crate::harness::{bootstrap, confirmed, key, millis, quiet, secs, success};
use crate::mini_network::MiniNetwork;

const DAY: u16 = u16::MAX;

/// Keys from all over the key space.
fn keys() -> impl Iterator<Item = u8> {
    (0..32).map(|n| n * 8 + 3)
}

/// Twelve nodes with ids from all over the key space.
fn twelve(params: &Params) -> MiniNetwork {
    MiniNetwork::joined((0..12).map(|n| n * 20 + 5), params)
}

fn of_three() -> Params {
    Params { replication_default: 3, ..Params::default() }
}

fn put(network: &mut MiniNetwork, at: u8, n: u8, value: &'static [u8]) {
    let request = ApiRequest::Put(Put { ttl: DAY, ..confirmed(n, value) });
    assert_eq!(network.request(at, request), success(n, b""), "key {n} at {at}");
}

fn get(network: &mut MiniNetwork, at: u8, n: u8) -> Option<dht::wire::api::ApiReply<'static>> {
    network.request(at, ApiRequest::Get { key: key(n) })
}

/// The three nearest live nodes hold each record.
fn assert_held_by_the_nearest(network: &MiniNetwork, value: &[u8]) {
    for n in keys() {
        let held = network.held(key(n));
        let replicas: BTreeSet<u8> = held.keys().copied().collect();
        let nearest = network.nearest(key(n), 3);
        assert!(nearest.is_subset(&replicas), "key {n} is held by {replicas:?}, not by {nearest:?}");
        assert!(held.values().all(|held| *held == value), "key {n}: {held:?}");
    }
}

#[test]
fn after_a_node_fails_each_record_has_a_replacement_replica() {
    let mut network = twelve(&of_three());
    keys().for_each(|n| put(&mut network, 5, n, b"value"));
    for dead in [45, 165, 205] {
        network.kill(dead);
        network.pass(secs(5));
        assert_held_by_the_nearest(&network, b"value");
    }
}

#[test]
fn the_records_of_a_neighbour_that_fails_silently_are_repaired_within_90_seconds() {
    let mut network = twelve(&of_three());
    keys().for_each(|n| put(&mut network, 5, n, b"value"));
    network.isolate([45]);
    network.pass(secs(90));
    network.kill(45);
    assert_held_by_the_nearest(&network, b"value");
}

#[test]
fn a_newcomer_holds_all_its_records_once_it_has_settled() {
    let mut network = twelve(&of_three());
    keys().for_each(|n| put(&mut network, 5, n, b"value"));
    network.start(50, Params { bootstraps: vec![bootstrap(5, None)], ..of_three() });
    network.pass(secs(5));
    assert_eq!(network.nodes[&50].status(), Status::Settled);
    assert_held_by_the_nearest(&network, b"value");
}

/// The protocol promises that all replicas agree within one round of OFFER after a partition has healed.
#[test]
fn when_a_partition_heals_the_newer_value_wins_everywhere() {
    let params = Params { replicate_interval: Duration::from_mins(10), ..of_three() };
    let mut network = twelve(&params);
    keys().for_each(|n| put(&mut network, 5, n, b"before"));
    network.isolate([25, 65, 105, 145, 185]);
    network.pass(Duration::from_mins(5));
    keys().for_each(|n| put(&mut network, 65, n, b"older"));
    network.pass(secs(1));
    keys().for_each(|n| put(&mut network, 5, n, b"newer"));
    network.isolate([]);
    network.pass(Duration::from_mins(12));
    assert_held_by_the_nearest(&network, b"newer");
}

#[test]
fn after_a_short_partition_all_replicas_agree_within_two_minutes() {
    let mut network = twelve(&of_three());
    keys().for_each(|n| put(&mut network, 5, n, b"before"));
    network.isolate([25, 65, 105, 145, 185]);
    network.pass(secs(90));
    keys().for_each(|n| put(&mut network, 65, n, b"newer"));
    network.isolate([]);
    network.pass(Duration::from_mins(2));
    assert_held_by_the_nearest(&network, b"newer");
}

#[test]
fn a_restarted_node_with_an_old_version_serves_and_learns_the_new_one() {
    let mut network = twelve(&of_three());
    keys().for_each(|n| put(&mut network, 5, n, b"old"));
    network.pass(secs(2));
    network.kill(45);
    network.pass(secs(5));
    keys().for_each(|n| put(&mut network, 5, n, b"new"));
    network.start(45, Params { bootstraps: vec![bootstrap(5, None)], ..of_three() });
    let kept = keys().filter(|n| network.held(key(*n)).contains_key(&45)).count();
    assert!(kept > 0, "it has something old on its disk");
    network.pass(millis(0));
    for n in keys() {
        assert_eq!(get(&mut network, 45, n), success(n, b"new"));
    }
    network.pass(secs(5));
    assert_held_by_the_nearest(&network, b"new");
}

#[test]
fn an_expired_version_is_not_replaced_by_an_older_one_that_returns() {
    let mut network = MiniNetwork::joined([5, 25, 45, 65], &of_three());
    put(&mut network, 5, 46, b"old");
    network.pass(secs(2));
    network.kill(45);
    network.pass(secs(5));
    let brief = Put { ttl: 10, ..quiet(46, b"new") };
    network.request(5, ApiRequest::Put(brief));
    network.pass(secs(20));
    assert!(network.held(key(46)).is_empty());
    network.start(45, Params { bootstraps: vec![bootstrap(5, None)], ..of_three() });
    assert!(!network.held(key(46)).is_empty(), "it has the old one on its disk");
    network.pass(Duration::from_mins(2));
    assert!(network.held(key(46)).is_empty());
}

#[test]
fn a_rolling_restart_loses_no_record_and_each_node_leaves_within_100_ms() {
    let mut network = twelve(&of_three());
    keys().for_each(|n| put(&mut network, 5, n, b"value"));
    network.pass(secs(2));
    for number in network.nodes.keys().copied().collect::<Vec<_>>() {
        network.act(number, |node: &mut Node, now, out: &mut Actions| node.leave(now, out));
        network.pass(millis(100));
        assert!(network.nodes[&number].has_left(), "{number}");
        network.kill(number);
        let through = if number == 5 { 25 } else { 5 };
        network.start(number, Params { bootstraps: vec![bootstrap(through, None)], ..of_three() });
        network.pass(secs(5));
        assert_held_by_the_nearest(&network, b"value");
    }
}

/// In a settled network an unchanged record costs at most 60 bytes per replica and interval.
#[test]
fn unchanged_records_cost_at_most_60_bytes_per_replica_and_interval() {
    let interval = Duration::from_mins(10);
    let mut network = twelve(&Params { replicate_interval: interval, ..Params::default() });
    for n in 0..200 {
        put(&mut network, 5 + 20 * (n % 12), n, b"value");
    }
    network.pass(2 * interval);
    let before = network.counters();
    let copies: usize = network.nodes.values().map(|node| node.storage().len()).sum();
    assert!(copies >= 200 * 8);
    let intervals = 5;
    network.pass(intervals * interval);
    let after = network.counters();
    assert_eq!((after.repairs, after.syncs), (before.repairs, before.syncs), "nothing was missing");
    let bytes = after.upkeep_bytes - before.upkeep_bytes;
    let each = bytes / (copies as u64 * u64::from(intervals));
    assert!(each <= 60, "{each} bytes");
    assert!(each >= 40, "each record is offered once by each replica: {each} bytes");
}
