//! Joining: a state that ends when somebody has answered (section 2, Settled).

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
    ME, Stage, address, block, bootstrap, confirmed, contact, failure, id, key, millis, nodes, quiet, secs, stored,
    success, value_of,
};
use crate::mini_network::Company;

/// Answers the search for the own id that follows a meeting: the newcomer has joined.
fn join(stage: &mut Stage) -> dht::node::action::ConnId {
    stage.wake();
    let dial = stage.dial_of(1);
    stage.make_polite(1);
    stage.meet(dial, 1)
}

#[test]
fn attempts_to_join_back_off_from_one_second_to_sixty_and_never_end() {
    let mut stage = Stage::newcomer();
    let mut pauses = Vec::new();
    let mut before = Time::ZERO;
    for _ in 0..40 {
        let next = stage.node.next_deadline().expect("it goes on trying");
        pauses.push(next.since(before));
        before = next;
        stage.pass(next.since(stage.now));
        let dial = stage.dial_of(1);
        stage.fail(dial, DialError::Unreachable);
    }
    assert_eq!(pauses[0], Duration::ZERO, "the first attempt is made at once");
    let expected = |nth: u32| secs(60).min(secs(1) * 2_u32.pow(nth.min(10)));
    for (nth, pause) in (0..).zip(&pauses[1..]) {
        let (least, most) = (expected(nth).mul_f64(0.8), expected(nth).mul_f64(1.2));
        assert!((least..=most).contains(pause), "pause {nth} is {pause:?}, expected {least:?} to {most:?}");
    }
    let last: std::collections::BTreeSet<_> = pauses[10..].iter().collect();
    assert!(last.len() > 20, "with jitter, so that nodes do not stay in step");
    assert_eq!(stage.node.status(), Status::Joining);
}

#[test]
fn a_bootstrap_that_is_being_dialled_is_not_dialled_again() {
    let mut stage = Stage::newcomer();
    stage.wake();
    stage.dial_of(1);
    stage.pass(secs(300));
    assert_eq!(stage.dials(), []);
}

#[test]
fn a_newcomer_has_joined_when_a_peer_has_answered() {
    let mut stage = Stage::newcomer();
    stage.wake();
    let dial = stage.dial_of(1);
    let conn = stage.secure(id(1), address(1), Origin::Dialled(dial));
    stage.tell(conn, &crate::harness::hello());
    let (rpc, request) = stage.asked_once(conn);
    assert_eq!(request, Request::FindNode { target: *ME.key() }, "it looks itself up");
    assert_eq!(stage.node.status(), Status::Joining);
    stage.reply(conn, rpc, nodes(&[]));
    assert_eq!(stage.node.status(), Status::Settling);
}

#[test]
fn a_lost_search_for_the_own_id_is_made_again() {
    let mut stage = Stage::newcomer();
    stage.wake();
    let dial = stage.dial_of(1);
    let conn = stage.meet(dial, 1);
    stage.asked_once(conn);
    for _ in 0..30 {
        stage.pass(millis(100));
        stage.ask(conn, Request::Ping);
    }
    stage.forget_deeds();
    let mut asked = Vec::new();
    for _ in 0..300 {
        stage.pass(millis(100));
        stage.tell(conn, &PeerMessage::Request(RpcId::new([0xaa; 32]), Request::Ping));
        asked.extend(stage.asked(conn));
    }
    assert!(asked.iter().any(|(_, request)| *request == Request::FindNode { target: *ME.key() }));
}

/// A configuration may be shared by all nodes, the bootstrap among them.
#[test]
fn a_node_that_is_its_own_only_bootstrap_founds_the_network() {
    let mut stage = Stage::newcomer();
    let writer = stage.put(confirmed(1, b"early"));
    stage.wake();
    let dial = stage.dial_of(1);
    let conn = stage.secure(ME, address(1), Origin::Dialled(dial));
    assert!(stage.has_closed(conn));
    assert_eq!(stage.node.status(), Status::Settled);
    assert_eq!(stage.answer(writer), success(1, b""));
    let client = stage.get(key(7));
    assert_eq!(stage.answer(client), failure(7));
    stage.pass(secs(600));
    assert_eq!(stage.dials(), [], "it does not dial itself again");
}

#[test]
fn a_node_with_another_bootstrap_besides_itself_goes_on_joining() {
    let bootstraps = vec![bootstrap(1, None), bootstrap(2, None)];
    let mut stage = Stage::new(Params { bootstraps, ..Params::default() });
    stage.wake();
    let (own, other) = (stage.dial_of(1), stage.dial_of(2));
    stage.secure(ME, address(1), Origin::Dialled(own));
    stage.fail(other, DialError::Unreachable);
    assert_eq!(stage.node.status(), Status::Joining);
    stage.pass(secs(3));
    assert_eq!(stage.dials().len(), 1, "the other one");
}

#[test]
fn a_pinned_bootstrap_that_is_somebody_else_is_tried_for_ever() {
    let mut stage = Stage::new(Params { bootstraps: vec![bootstrap(1, Some(id(1)))], ..Params::default() });
    for _ in 0..10 {
        let next = stage.node.next_deadline().expect("it goes on trying");
        stage.pass(next.since(stage.now));
        let dial = stage.dial_of(1);
        stage.fail(dial, DialError::NotAuthentic);
    }
    assert!(stage.node.table().is_empty());
}

/// While it is joining, PUTs are kept here and spread once it has joined, a confirm waits.
#[test]
fn what_is_put_before_joining_is_kept_and_spread_afterwards() {
    let mut stage = Stage::newcomer();
    let (waiting, silent) = (stage.put(confirmed(1, b"a")), stage.put(quiet(2, b"b")));
    let reader = stage.get(key(2));
    assert_eq!(stage.answer(reader), success(2, b"b"));
    assert_eq!(stage.answer(waiting), None);
    join(&mut stage);
    stage.pass(secs(1));
    let copies = stage.copies();
    let mut keys: Vec<_> = copies.iter().map(|(_, _, copy)| copy.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys, [key(1), key(2)]);
    for (conn, rpc, copy) in copies {
        stage.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(stage.answer(waiting), success(1, b""));
    stage.pass(secs(30));
    assert_eq!((stage.answer(silent), stage.copies()), (None, vec![]));
    assert_eq!(stage.node.counters().puts_held, 2);
}

#[test]
fn a_confirm_that_waited_in_vain_is_failed_and_the_record_spread_when_the_node_joins() {
    let mut stage = Stage::newcomer();
    let client = stage.put(confirmed(1, b"a"));
    stage.pass(secs(10));
    assert_eq!(stage.answer(client), failure(1));
    stage.make_polite(1);
    let dials = stage.dials();
    stage.meet(dials[0].0, 1);
    stage.pass(secs(1));
    assert!(!stage.copies().is_empty());
}

#[test]
fn a_record_that_expired_before_joining_is_not_spread() {
    let mut stage = Stage::newcomer();
    stage.put(Put { ttl: 1, ..quiet(1, b"brief") });
    stage.pass(secs(2));
    let dials = stage.dials();
    stage.make_polite(1);
    stage.meet(dials[0].0, 1);
    stage.pass(secs(5));
    assert_eq!(stage.copies(), []);
}

#[test]
fn a_get_before_joining_waits_and_is_relayed_afterwards() {
    let mut stage = Stage::newcomer();
    let client = stage.get(key(7));
    stage.pass(millis(100));
    assert_eq!(stage.answer(client), None);
    let dials = stage.dials();
    stage.make_polite(1);
    let conn = stage.meet(dials[0].0, 1);
    let found = stage.all_asked(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    assert_eq!(found.len(), 1);
    stage.reply(conn, found[0].1, value_of(block(7, b"there")));
    assert_eq!(stage.answer(client), success(7, b"there"));
}

#[test]
fn a_get_that_nobody_joined_for_is_failed_in_time() {
    let mut stage = Stage::newcomer();
    let client = stage.get(key(7));
    stage.pass(millis(9_999));
    assert_eq!(stage.answer(client), None);
    stage.pass(millis(1));
    assert_eq!(stage.answer(client), failure(7));
}

/// A client holds nothing, but it may not lose what it is told while it joins.
#[test]
fn what_a_client_is_told_to_put_before_it_has_joined_waits() {
    let mut stage =
        Stage::new(Params { serving: Serving::No, bootstraps: vec![bootstrap(1, None)], ..Params::default() });
    let client = stage.put(confirmed(1, b"a"));
    stage.put(quiet(2, b"b"));
    let conn = join(&mut stage);
    let copies = stage.copies();
    assert_eq!(copies.len(), 2);
    for (_, rpc, copy) in copies {
        stage.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(stage.answer(client), success(1, b""));
    assert!(stage.node.storage().is_empty());
}

/// A node that loses all contacts is joining again, and goes on serving what it holds.
#[test]
fn a_node_that_loses_everybody_is_joining_again_and_serves_what_it_holds() {
    let mut stage = Stage::newcomer();
    let conn = join(&mut stage);
    let asker = stage.accept_client(9);
    stage.ask(asker, Request::Store(dht::wire::peer::RecordBlock { replication: 1, ..block(1, b"held") }));
    stage.script(1);
    stage.tell(conn, &dht::wire::peer::PeerMessage::Goodbye);
    assert_eq!(stage.node.status(), Status::Joining);
    let reader = stage.get(key(1));
    assert_eq!(stage.answer(reader), success(1, b"held"));
    assert_eq!(stage.ask(asker, Request::Ping), Reply::Pong);
    assert!(matches!(stage.ask(asker, Request::Store(block(2, b"v"))), Reply::Stored { .. }));
    stage.forget_deeds();
    stage.pass(secs(8));
    assert_eq!(stage.dials().len(), 1, "the bootstrap");
}

/// A founder whose only contact could not be reached when a record was put.
fn founder_left_alone() -> Stage {
    let mut stage = Stage::founder();
    let conn = stage.befriend(1);
    stage.script(1);
    stage.close(conn);
    stage.put(quiet(1, b"v"));
    let dial = stage.dial_of(1);
    stage.fail(dial, DialError::Unreachable);
    stage
}

#[test]
fn a_founder_whose_contacts_all_fall_asleep_finds_them_again() {
    let mut stage = founder_left_alone();
    assert_eq!(stage.node.status(), Status::Joining);
    stage.pass(secs(2));
    let dial = stage.dial_of(1);
    stage.make_polite(1);
    stage.meet(dial, 1);
    stage.pass(millis(0));
    assert_eq!(stage.node.status(), Status::Settled);
    assert!(stage.knows(1));
}

/// What was put while the last contact was being lost is not forgotten.
#[test]
fn a_put_that_reached_nobody_is_spread_when_somebody_is_back() {
    let mut stage = founder_left_alone();
    stage.pass(secs(60));
    stage.make_polite(1);
    for (dial, ..) in stage.dials() {
        stage.meet(dial, 1);
    }
    stage.pass(secs(1));
    assert!(!stage.copies_wanted().is_empty());
}

fn remembering(remembered: impl IntoIterator<Item = u8>, params: Params) -> Stage {
    let mut stage = Stage::new(params);
    for peer in remembered {
        let now = stage.now();
        stage.node.remember(now, contact(peer));
    }
    stage
}

#[test]
fn a_node_that_remembers_others_is_no_founder_and_finds_its_way_back_through_them() {
    let mut stage = remembering([5], Params::default());
    assert_eq!(stage.node.status(), Status::Joining);
    stage.wake();
    let dial = stage.dial_of(5);
    stage.make_polite(5);
    stage.meet(dial, 5);
    stage.pass(millis(0));
    assert_eq!(stage.node.status(), Status::Settled);
}

#[test]
fn remembered_contacts_are_dialled_beside_dead_bootstraps_a_few_at_a_time_and_for_ever() {
    let params = Params { bootstraps: vec![bootstrap(1, None)], ..Params::default() };
    let mut stage = remembering(2..=40, params);
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let next = stage.node.next_deadline().expect("it goes on trying");
        stage.pass(next.since(stage.now));
        let dials = stage.dials();
        assert!(dials.len() <= 1 + REMEMBERED_DIALS);
        for (dial, ..) in dials {
            tried.insert(stage.peer_dialled(dial));
            stage.fail(dial, DialError::Unreachable);
        }
    }
    assert_eq!(tried.len(), 40, "each of them, and the bootstrap");
    assert_eq!(stage.node.status(), Status::Joining);
}

/// Kademlia, section 2.3: a bucket that saw no lookup for an hour is refreshed.
#[test]
fn a_bucket_is_looked_up_soon_after_the_first_meeting_and_again_after_refresh_interval() {
    let mut stage = Stage::founder();
    stage.befriend(1);
    let mut lookups_within = |span| {
        stage.transcript.clear();
        stage.pass(span);
        String::from_utf8_lossy(&stage.transcript).matches("FindNode").count()
    };
    assert_eq!(lookups_within(2 * REFRESH_PAUSE), 1);
    assert_eq!(lookups_within(secs(3600).saturating_sub(2 * REFRESH_PAUSE)), 0);
    assert_eq!(lookups_within(4 * REFRESH_PAUSE), 1);
}

#[test]
fn three_nodes_that_join_through_one_another_find_what_each_puts() {
    let through = |other| Params { bootstraps: vec![bootstrap(other, None)], ..Params::default() };
    let mut company = Company::new([(1, Params::default()), (60, through(1)), (200, through(60))]);
    company.pass(secs(20));
    for node in company.nodes.values() {
        assert_eq!((node.status(), node.table().live()), (Status::Settled, 2));
    }
    for (n, writer) in [(3, 1), (70, 60), (201, 200)] {
        assert_eq!(company.request(writer, ApiRequest::Put(confirmed(n, b"value"))), success(n, b""));
        for reader in [1, 60, 200] {
            assert_eq!(company.request(reader, ApiRequest::Get { key: key(n) }), success(n, b"value"));
        }
    }
    company.kill(1);
    company.pass(secs(20));
    assert_eq!(company.request(200, ApiRequest::Get { key: key(3) }), success(3, b"value"));
    assert!(company.nodes.values().all(|node| node.counters().faults == 0));
}

/// A node that has just started with a record of an earlier run, and has met nobody yet.
fn started_with_a_record() -> Stage {
    let mut stage = Stage::newcomer();
    let asker = stage.accept_client(9);
    stage.ask(asker, Request::Store(block(1, b"old")));
    stage.wake();
    stage
}

#[test]
fn a_node_that_has_just_started_serves_what_it_held_when_nobody_was_met_for_a_while() {
    let mut stage = started_with_a_record();
    let reader = stage.get(key(1));
    stage.pass(START_PATIENCE.saturating_sub(millis(1)));
    assert_eq!(stage.answer(reader), None, "it may be old");
    stage.pass(millis(1));
    assert_eq!(stage.answer(reader), success(1, b"old"));
    let reader = stage.get(key(1));
    assert_eq!(stage.answer(reader), success(1, b"old"), "at once from then on");
}

#[test]
fn a_node_that_has_just_started_and_meets_somebody_asks_before_it_serves_what_it_held() {
    let mut stage = started_with_a_record();
    let reader = stage.get(key(1));
    let dial = stage.dial_of(1);
    stage.make_polite(1);
    stage.pass(millis(500));
    let conn = stage.meet(dial, 1);
    stage.pass(START_PATIENCE.saturating_sub(millis(400)));
    assert_eq!(stage.answer(reader), None, "it has its full time from now on");
    let found = stage.all_asked(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    let newer = dht::wire::peer::RecordBlock { version: crate::harness::version_at(1), ..block(1, b"new") };
    stage.reply(conn, found[0].1, value_of(newer));
    assert_eq!(stage.answer(reader), success(1, b"new"));
}
