//! Joining: a status that ends when a peer has answered (section 2, Settled).

use std::time::Duration;

use dht::id::RpcId;
use dht::limits::{REFRESH_PAUSE, REMEMBERED_DIALS, START_PATIENCE};
use dht::node::Status;
use dht::node::action::{DialError, Origin};
use dht::node::params::{Params, Serving};
use dht::time::Time;
use dht::wire::api::{ApiRequest, Put};
use dht::wire::peer::{PeerMessage, Reply, Request};

use crate::harness::{
    Harness, ME, address, block, bootstrap, confirmed, contact, failure, id, key, millis, nodes, quiet, secs, stored,
    success, synced, value_of,
};
use crate::mini_network::MiniNetwork;

/// The bootstrap answers the self-lookup: the newcomer has joined.
pub(crate) fn join(harness: &mut Harness) -> dht::node::action::ConnId {
    harness.wake();
    let dial = harness.dial_of(1);
    harness.make_automatic(1);
    harness.complete_dial(dial, 1)
}

#[test]
fn attempts_to_join_back_off_from_one_second_to_sixty_and_never_end() {
    let mut harness = Harness::newcomer();
    let mut pauses = Vec::new();
    let mut before = Time::ZERO;
    for _ in 0..40 {
        let next = harness.node.next_deadline().expect("it goes on trying");
        pauses.push(next.since(before));
        before = next;
        harness.pass(next.since(harness.now));
        let dial = harness.dial_of(1);
        harness.fail(dial, DialError::Unreachable);
    }
    assert_eq!(pauses[0], Duration::ZERO, "the first attempt is made at once");
    let expected = |nth: u32| secs(60).min(secs(1) * 2_u32.pow(nth.min(10)));
    for (nth, pause) in (0..).zip(&pauses[1..]) {
        let (least, most) = (expected(nth).mul_f64(0.8), expected(nth).mul_f64(1.2));
        assert!((least..=most).contains(pause), "pause {nth} is {pause:?}, expected {least:?} to {most:?}");
    }
    let last: std::collections::BTreeSet<_> = pauses[10..].iter().collect();
    assert!(last.len() > 20, "with jitter, so that nodes do not stay in step");
    assert_eq!(harness.node.status(), Status::Joining);
}

#[test]
fn a_bootstrap_that_is_being_dialled_is_not_dialled_again() {
    let mut harness = Harness::newcomer();
    harness.wake();
    harness.dial_of(1);
    harness.pass(secs(300));
    assert_eq!(harness.dials(), []);
}

#[test]
fn a_newcomer_has_joined_when_a_peer_has_answered() {
    let mut harness = Harness::newcomer();
    harness.wake();
    let dial = harness.dial_of(1);
    let conn = harness.secure(id(1), address(1), Origin::Dialled(dial));
    harness.send(conn, &crate::harness::hello());
    let (rpc, request) = harness.only_request(conn);
    assert_eq!(request, Request::FindNode { target: *ME.key() }, "it looks itself up");
    assert_eq!(harness.node.status(), Status::Joining);
    harness.reply(conn, rpc, nodes(&[]));
    assert_eq!(harness.node.status(), Status::Settling);
}

#[test]
fn a_lost_self_lookup_is_repeated() {
    let mut harness = Harness::newcomer();
    harness.wake();
    let dial = harness.dial_of(1);
    let conn = harness.complete_dial(dial, 1);
    harness.only_request(conn);
    for _ in 0..30 {
        harness.pass(millis(100));
        harness.ask(conn, Request::Ping);
    }
    harness.forget_actions();
    let mut asked = Vec::new();
    for _ in 0..300 {
        harness.pass(millis(100));
        harness.send(conn, &PeerMessage::Request(RpcId::new([0xaa; 32]), Request::Ping));
        asked.extend(harness.requests(conn));
    }
    assert!(asked.iter().any(|(_, request)| *request == Request::FindNode { target: *ME.key() }));
}

/// All nodes may share one configuration, the bootstrap included.
#[test]
fn a_node_that_is_its_own_only_bootstrap_founds_the_network() {
    let mut harness = Harness::newcomer();
    let writer = harness.put(confirmed(1, b"early"));
    harness.wake();
    let dial = harness.dial_of(1);
    let conn = harness.secure(ME, address(1), Origin::Dialled(dial));
    assert!(harness.has_closed(conn));
    assert_eq!(harness.node.status(), Status::Settled);
    assert_eq!(harness.answer(writer), success(1, b""));
    let client = harness.get(key(7));
    assert_eq!(harness.answer(client), failure(7));
    harness.pass(secs(600));
    assert_eq!(harness.dials(), [], "it does not dial itself again");
}

#[test]
fn a_node_with_another_bootstrap_besides_itself_goes_on_joining() {
    let bootstraps = vec![bootstrap(1, None), bootstrap(2, None)];
    let mut harness = Harness::new(Params { bootstraps, ..Params::default() });
    harness.wake();
    let (own, other) = (harness.dial_of(1), harness.dial_of(2));
    harness.secure(ME, address(1), Origin::Dialled(own));
    harness.fail(other, DialError::Unreachable);
    assert_eq!(harness.node.status(), Status::Joining);
    harness.pass(secs(3));
    assert_eq!(harness.dials().len(), 1, "the other one");
}

#[test]
fn a_pinned_bootstrap_with_another_id_is_tried_without_end() {
    let mut harness = Harness::new(Params { bootstraps: vec![bootstrap(1, Some(id(1)))], ..Params::default() });
    for _ in 0..10 {
        let next = harness.node.next_deadline().expect("it goes on trying");
        harness.pass(next.since(harness.now));
        let dial = harness.dial_of(1);
        harness.fail(dial, DialError::NotAuthentic);
    }
    assert!(harness.node.table().is_empty());
}

/// While a node is joining it stores PUTs itself; it replicates and confirms them once it has joined.
#[test]
fn puts_before_joining_are_stored_locally_and_replicated_afterwards() {
    let mut harness = Harness::newcomer();
    let (waiting, silent) = (harness.put(confirmed(1, b"a")), harness.put(quiet(2, b"b")));
    let reader = harness.get(key(2));
    assert_eq!(harness.answer(reader), success(2, b"b"));
    assert_eq!(harness.answer(waiting), None);
    join(&mut harness);
    harness.pass(secs(1));
    let copies = harness.copies();
    let mut keys: Vec<_> = copies.iter().map(|(_, _, copy)| copy.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys, [key(1), key(2)]);
    for (conn, rpc, copy) in copies {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(waiting), success(1, b""));
    harness.pass(secs(30));
    assert_eq!((harness.answer(silent), harness.copies()), (None, vec![]));
    assert_eq!(harness.node.counters().puts_held, 2);
}

#[test]
fn an_unconfirmed_put_fails_at_its_deadline_and_is_replicated_once_the_node_joins() {
    let mut harness = Harness::newcomer();
    let client = harness.put(confirmed(1, b"a"));
    harness.pass(secs(10));
    assert_eq!(harness.answer(client), failure(1));
    harness.make_automatic(1);
    let dials = harness.dials();
    harness.complete_dial(dials[0].0, 1);
    harness.pass(secs(1));
    assert!(!harness.copies().is_empty());
}

#[test]
fn a_record_that_expired_before_joining_is_not_replicated() {
    let mut harness = Harness::newcomer();
    harness.put(Put { ttl: 1, ..quiet(1, b"brief") });
    harness.pass(secs(2));
    let dials = harness.dials();
    harness.make_automatic(1);
    harness.complete_dial(dials[0].0, 1);
    harness.pass(secs(5));
    assert_eq!(harness.copies(), []);
}

#[test]
fn a_get_before_joining_waits_and_is_relayed_afterwards() {
    let mut harness = Harness::newcomer();
    let client = harness.get(key(7));
    harness.pass(millis(100));
    assert_eq!(harness.answer(client), None);
    let dials = harness.dials();
    harness.make_automatic(1);
    let conn = harness.complete_dial(dials[0].0, 1);
    let found = harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    assert_eq!(found.len(), 1);
    harness.reply(conn, found[0].1, value_of(block(7, b"there")));
    assert_eq!(harness.answer(client), success(7, b"there"));
}

#[test]
fn a_get_before_joining_fails_at_its_deadline() {
    let mut harness = Harness::newcomer();
    let client = harness.get(key(7));
    harness.pass(millis(9_999));
    assert_eq!(harness.answer(client), None);
    harness.pass(millis(1));
    assert_eq!(harness.answer(client), failure(7));
}

/// A node that does not serve stores nothing for others, but must not lose a PUT that comes while it
/// joins.
#[test]
fn a_non_serving_node_queues_puts_until_it_has_joined() {
    let mut harness =
        Harness::new(Params { serving: Serving::No, bootstraps: vec![bootstrap(1, None)], ..Params::default() });
    let client = harness.put(confirmed(1, b"a"));
    harness.put(quiet(2, b"b"));
    let conn = join(&mut harness);
    let copies = harness.copies();
    assert_eq!(copies.len(), 2);
    for (_, rpc, copy) in copies {
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), success(1, b""));
    assert!(harness.node.storage().is_empty());
}

/// A node that loses all contacts is joining again, and goes on to serve its records.
#[test]
fn a_node_that_loses_all_contacts_is_joining_again_and_serves_its_records() {
    let mut harness = Harness::newcomer();
    harness.wake();
    let dial = harness.dial_of(1);
    let conn = harness.complete_dial(dial, 1);
    for reply in [nodes(&[]), synced(&[])] {
        let (rpc, _) = harness.only_request(conn);
        harness.reply(conn, rpc, reply);
        harness.pass(millis(0));
    }
    assert_eq!(harness.node.status(), Status::Settled);
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(dht::wire::peer::RecordBlock { replication: 1, ..block(1, b"held") }));
    harness.send(conn, &dht::wire::peer::PeerMessage::Goodbye);
    assert_eq!(harness.node.status(), Status::Joining);
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"held"));
    assert_eq!(harness.ask(asker, Request::Ping), Reply::Pong);
    assert!(matches!(harness.ask(asker, Request::Store(block(2, b"v"))), Reply::Stored { .. }));
    harness.forget_actions();
    harness.pass(secs(8));
    assert_eq!(harness.dials().len(), 1, "the bootstrap");
}

/// A founder that lost its only contact at the moment of a PUT.
fn founder_left_alone() -> Harness {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    harness.make_scripted(1);
    harness.close(conn);
    harness.put(quiet(1, b"v"));
    let dial = harness.dial_of(1);
    harness.fail(dial, DialError::Unreachable);
    harness
}

#[test]
fn a_founder_whose_contacts_all_become_unresponsive_finds_them_again() {
    let mut harness = founder_left_alone();
    assert_eq!(harness.node.status(), Status::Joining);
    harness.pass(secs(2));
    let dial = harness.dial_of(1);
    harness.make_automatic(1);
    harness.complete_dial(dial, 1);
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled);
    assert!(harness.knows(1));
}

/// A PUT is not lost if the last contact becomes unreachable at the same time.
#[test]
fn a_put_that_reached_no_peer_is_replicated_once_a_peer_is_back() {
    let mut harness = founder_left_alone();
    harness.pass(secs(60));
    harness.make_automatic(1);
    for (dial, ..) in harness.dials() {
        harness.complete_dial(dial, 1);
    }
    harness.pass(secs(1));
    assert!(!harness.want_all_offers().is_empty());
}

pub(crate) fn remembering(remembered: impl IntoIterator<Item = u8>, params: Params) -> Harness {
    let mut harness = Harness::new(params);
    for peer in remembered {
        let now = harness.now();
        harness.node.remember(now, contact(peer));
    }
    harness
}

#[test]
fn a_node_with_remembered_contacts_joins_through_them_instead_of_founding() {
    let mut harness = remembering([5], Params::default());
    assert_eq!(harness.node.status(), Status::Joining);
    harness.wake();
    let dial = harness.dial_of(5);
    harness.make_automatic(5);
    harness.complete_dial(dial, 5);
    harness.pass(millis(0));
    assert_eq!(harness.node.status(), Status::Settled);
}

#[test]
fn remembered_contacts_are_dialled_a_few_at_a_time_beside_dead_bootstraps_without_end() {
    let params = Params { bootstraps: vec![bootstrap(1, None)], ..Params::default() };
    let mut harness = remembering(2..=40, params);
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let next = harness.node.next_deadline().expect("it goes on trying");
        harness.pass(next.since(harness.now));
        let dials = harness.dials();
        assert!(dials.len() <= 1 + REMEMBERED_DIALS);
        for (dial, ..) in dials {
            tried.insert(harness.peer_dialled(dial));
            harness.fail(dial, DialError::Unreachable);
        }
    }
    assert_eq!(tried.len(), 40, "each of them, and the bootstrap");
    assert_eq!(harness.node.status(), Status::Joining);
}

/// Kademlia, section 2.3: a node refreshes a bucket that has seen no lookup for an hour.
#[test]
fn a_bucket_is_refreshed_soon_after_its_first_contact_and_again_after_refresh_interval() {
    let mut harness = Harness::founder();
    harness.add_contact(1);
    let mut lookups_within = |span| {
        harness.transcript.clear();
        harness.pass(span);
        String::from_utf8_lossy(&harness.transcript).matches("FindNode").count()
    };
    assert_eq!(lookups_within(2 * REFRESH_PAUSE), 1);
    assert_eq!(lookups_within(secs(3600).saturating_sub(2 * REFRESH_PAUSE)), 0);
    assert_eq!(lookups_within(4 * REFRESH_PAUSE), 1);
}

#[test]
fn three_nodes_that_join_through_one_another_find_what_each_puts() {
    let through = |other| Params { bootstraps: vec![bootstrap(other, None)], ..Params::default() };
    let mut network = MiniNetwork::new([(1, Params::default()), (60, through(1)), (200, through(60))]);
    network.pass(secs(20));
    for node in network.nodes.values() {
        assert_eq!((node.status(), node.table().live()), (Status::Settled, 2));
    }
    for (n, writer) in [(3, 1), (70, 60), (201, 200)] {
        assert_eq!(network.request(writer, ApiRequest::Put(confirmed(n, b"value"))), success(n, b""));
        for reader in [1, 60, 200] {
            assert_eq!(network.request(reader, ApiRequest::Get { key: key(n) }), success(n, b"value"));
        }
    }
    network.kill(1);
    network.pass(secs(20));
    assert_eq!(network.request(200, ApiRequest::Get { key: key(3) }), success(3, b"value"));
    assert!(network.nodes.values().all(|node| node.counters().faults == 0));
}

/// A node that has just started with a record of an earlier run, and has no contact yet.
fn started_with_a_record() -> Harness {
    let mut harness = Harness::newcomer();
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(block(1, b"old")));
    harness.wake();
    harness
}

#[test]
fn a_restarted_node_without_peers_serves_its_old_records_after_start_patience() {
    let mut harness = started_with_a_record();
    let reader = harness.get(key(1));
    harness.pass(START_PATIENCE.saturating_sub(millis(1)));
    assert_eq!(harness.answer(reader), None, "it may be old");
    harness.pass(millis(1));
    assert_eq!(harness.answer(reader), success(1, b"old"));
    let reader = harness.get(key(1));
    assert_eq!(harness.answer(reader), success(1, b"old"), "at once from then on");
}

#[test]
fn a_restarted_node_with_a_peer_asks_it_before_it_serves_old_records() {
    let mut harness = started_with_a_record();
    let reader = harness.get(key(1));
    let dial = harness.dial_of(1);
    harness.make_automatic(1);
    harness.pass(millis(500));
    let conn = harness.complete_dial(dial, 1);
    harness.pass(START_PATIENCE.saturating_sub(millis(400)));
    assert_eq!(harness.answer(reader), None, "it has its full time from now on");
    let found = harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    let newer = dht::wire::peer::RecordBlock { version: crate::harness::version_at(1), ..block(1, b"new") };
    harness.reply(conn, found[0].1, value_of(newer));
    assert_eq!(harness.answer(reader), success(1, b"new"));
}
