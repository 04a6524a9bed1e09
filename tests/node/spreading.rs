//! Handing records over to nodes that were newly met (Kademlia, section 2.5).

use dht::id::RpcId;
use dht::limits::{HANDOVERS_UNDER_WAY_MAX, UPKEEP_RECORDS_PER_TURN_MAX};
use dht::record::Age;
use dht::wire::peer::{ErrorCode, PeerMessage, RecordBlock, Reply, Request};

use crate::stage::{Stage, block, id, key, millis, quiet, secs, stored};

/// A founder that holds a record of the key `n`, sent with an age of five seconds.
fn holding(n: u8) -> Stage {
    let mut stage = Stage::founder();
    let asker = stage.accept_client(99);
    stage.ask(asker, Request::Store(RecordBlock { age: Age(5_000), ..block(n, b"value") }));
    stage
}

#[test]
fn a_newly_met_node_that_is_nearer_is_handed_the_record_with_its_age() {
    let mut stage = holding(1);
    stage.pass(secs(2));
    let conn = stage.befriend(2);
    stage.pass(millis(0));
    let copies = stage.copies();
    let [(to, rpc, copy)] = copies[..] else { panic!("{copies:?}") };
    assert_eq!((to, copy), (conn, RecordBlock { age: Age(7_000), ..block(1, b"value") }));
    stage.reply(to, rpc, stored(&copy));
    stage.pass(secs(30));
    assert_eq!(stage.copies(), [], "once");
    assert_eq!(stage.node.storage().len(), 1, "a copy, not the record itself");
}

#[test]
fn a_newly_met_node_that_is_farther_is_handed_nothing() {
    let mut stage = holding(128);
    stage.befriend(2);
    stage.pass(secs(10));
    assert_eq!(stage.copies(), []);
}

#[test]
fn a_node_is_handed_only_what_it_shall_hold() {
    let mut stage = holding(1);
    for nearest in [1, 3, 2] {
        stage.befriend(nearest);
        stage.pass(millis(0));
        let copies = stage.copies();
        assert_eq!(copies.len(), 1, "{nearest} is among the three nearest");
        stage.reply(copies[0].0, copies[0].1, stored(&copies[0].2));
    }
    stage.befriend(5);
    stage.pass(secs(10));
    assert_eq!(stage.copies(), [], "three are nearer than it");
}

#[test]
fn a_node_that_refuses_a_record_keeps_its_place_and_is_not_offered_it_again() {
    let mut stage = holding(1);
    stage.befriend(2);
    stage.pass(millis(0));
    let (conn, rpc, _) = stage.copies()[0];
    stage.reply(conn, rpc, Reply::Error(ErrorCode::FULL));
    stage.pass(secs(30));
    assert_eq!(stage.copies(), []);
    assert!(stage.knows(2));
}

/// Handing over never fills an outbox, and never stops before all is handed.
#[test]
fn many_records_are_handed_over_a_few_at_a_time() {
    let mut stage = Stage::founder();
    let many = 5 * u8::try_from(UPKEEP_RECORDS_PER_TURN_MAX).expect("a small bound") / 2;
    for n in 3..3 + many {
        stage.put(quiet(n, b"value"));
    }
    stage.befriend(2);
    let mut handed = Vec::new();
    for _ in 0..many {
        stage.pass(millis(10));
        let copies = stage.copies();
        assert!(copies.len() <= HANDOVERS_UNDER_WAY_MAX);
        for (conn, rpc, copy) in copies {
            handed.push(copy.key);
            stage.reply(conn, rpc, stored(&copy));
        }
    }
    handed.sort_unstable();
    assert_eq!(handed, (3..3 + many).map(key).collect::<Vec<_>>());
}

#[test]
fn nothing_more_is_handed_to_a_node_that_is_gone() {
    let mut stage = Stage::founder();
    for n in 3..100 {
        stage.put(quiet(n, b"value"));
    }
    let conn = stage.befriend(2);
    stage.pass(millis(0));
    assert_eq!(stage.copies().len(), HANDOVERS_UNDER_WAY_MAX);
    stage.script(2);
    stage.tell(conn, &PeerMessage::Goodbye);
    stage.pass(secs(60));
    assert_eq!(stage.copies(), []);
    assert_eq!(stage.dials(), []);
    assert!(!stage.node.table().contains(&id(2)));
}

/// Whoever comes back may have lost what it held.
#[test]
fn a_contact_that_wakes_up_is_handed_what_belongs_to_it() {
    let mut stage = holding(1);
    let conn = stage.befriend(2);
    stage.pass(millis(0));
    for (conn, rpc, copy) in stage.copies() {
        stage.reply(conn, rpc, stored(&copy));
    }
    stage.script(2);
    stage.close(conn);
    stage.get(key(77));
    let dial = stage.dial_of(2);
    stage.fail(dial, dht::node::action::DialError::Unreachable);
    assert!(!stage.knows(2));

    let again = stage.accept(2);
    stage.tell(again, &crate::stage::hello());
    stage.tell(again, &PeerMessage::Request(RpcId::new([1; 32]), Request::Ping));
    let dial = stage.dial_of(2);
    stage.make_polite(2);
    stage.meet(dial, 2);
    stage.pass(millis(0));
    assert_eq!(stage.copies().len(), 1);
}
