//! Leaving: what is owed is answered, then GOODBYE, within `leave_timeout`.

use dht::node::params::Params;
use dht::node::{Node, Status};
use dht::wire::api::ApiReply;
use dht::wire::peer::{ErrorCode, PeerMessage, Reply, Request};

use crate::harness::{Stage, block, confirmed, contact, failure, key, millis, nodes, secs, stored, success, value_of};

fn leave(stage: &mut Stage) {
    stage.act(Node::leave);
}

#[test]
fn a_node_that_owes_nothing_says_goodbye_to_all_and_has_left() {
    let mut stage = Stage::founder();
    let (contact, client, unreached) = (stage.befriend(1), stage.accept_client(2), stage.accept(3));
    stage.said(unreached);
    leave(&mut stage);
    assert!(stage.node.has_left());
    for conn in [contact, client] {
        assert_eq!(stage.said(conn), [PeerMessage::Goodbye]);
        assert!(stage.has_closed(conn));
    }
    assert_eq!(stage.said(unreached), [], "no HELLO came from it");
    assert!(stage.has_closed(unreached));
    assert_eq!(stage.node.connections(), 0);
}

#[test]
fn what_is_owed_is_answered_before_the_goodbye() {
    let mut stage = Stage::founder();
    let conn = stage.befriend(1);
    let (reader, writer) = (stage.get(key(7)), stage.put(confirmed(1, b"v")));
    leave(&mut stage);
    assert_eq!(stage.node.status(), Status::Leaving);
    assert!(!stage.node.wants_requests());
    let found = stage.all_asked(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    let copies = stage.copies();
    stage.reply(conn, found[0].1, value_of(block(7, b"owed")));
    assert_eq!(stage.answer(reader), success(7, b"owed"));
    assert!(!stage.node.has_left());
    stage.reply(conn, copies[0].1, stored(&copies[0].2));
    assert_eq!(stage.answer(writer), success(1, b""));
    stage.pass(millis(0));
    assert!(stage.node.has_left(), "what was put is held by another one");
    assert_eq!(stage.said(conn), [PeerMessage::Goodbye]);
}

/// A search under way may have to dial yet.
#[test]
fn a_get_that_is_owed_may_still_dial() {
    let mut stage = Stage::founder();
    let conn = stage.befriend(1);
    let client = stage.get(key(7));
    leave(&mut stage);
    let (rpc, _) = stage.asked_once(conn);
    stage.reply(conn, rpc, nodes(&[contact(6)]));
    let dial = stage.dial_of(6);
    let holder = stage.meet(dial, 6);
    let (rpc, _) = stage.asked_once(holder);
    stage.reply(holder, rpc, value_of(block(7, b"owed")));
    assert_eq!(stage.answer(client), success(7, b"owed"));
    assert!(stage.node.has_left());
}

/// Section 1, rule 2: every GET is answered exactly once.
#[test]
fn a_node_leaves_at_leave_timeout_whatever_it_owes_and_answers_it_first() {
    let mut stage = Stage::new(Params { leave_timeout: secs(1), ..Params::default() });
    let conn = stage.befriend(1);
    let (reader, writer) = (stage.get(key(7)), stage.put(confirmed(1, b"v")));
    leave(&mut stage);
    stage.pass(millis(999));
    assert!(!stage.node.has_left());
    stage.forget_deeds();
    stage.pass(millis(1));
    assert!(stage.node.has_left());
    assert_eq!((stage.answer(reader), stage.answer(writer)), (failure(7), failure(1)));
    assert_eq!(stage.said(conn), [PeerMessage::Goodbye], "and nothing is asked any more");
    assert_eq!(stage.node.next_deadline(), None, "no timer is left behind");
}

#[test]
fn a_node_that_never_joined_leaves_in_time_too() {
    let mut stage = Stage::newcomer();
    let client = stage.get(key(7));
    leave(&mut stage);
    stage.pass(secs(10));
    assert!(stage.node.has_left());
    assert!(matches!(stage.answer(client), Some(ApiReply::Failure { .. })));
}

#[test]
fn a_leaving_node_tells_whoever_still_connects() {
    let mut stage = Stage::founder();
    stage.befriend(1);
    stage.get(key(7));
    leave(&mut stage);
    let conn = stage.accept(2);
    assert!(matches!(stage.said(conn)[..], [PeerMessage::Hello(_), PeerMessage::Goodbye]));
}

#[test]
fn leaving_twice_is_leaving_once() {
    let mut stage = Stage::founder();
    let conn = stage.befriend(1);
    leave(&mut stage);
    leave(&mut stage);
    assert_eq!(stage.said(conn), [PeerMessage::Goodbye]);
}

#[test]
fn a_malformed_message_of_the_last_peer_that_is_waited_for_does_not_delay_the_leave() {
    let mut stage = Stage::founder();
    let conn = stage.befriend(1);
    let client = stage.get(key(7));
    leave(&mut stage);
    let refusal = Reply::Error(ErrorCode::TOO_MANY);
    let (rpc, _) = stage.asked_once(conn);
    stage.reply(conn, rpc, refusal);
    stage.script(1);
    stage.tell(conn, &crate::harness::hello());
    assert_eq!(stage.answer(client), failure(7));
    assert!(stage.node.has_left(), "nothing is owed any more");
}

/// A node that holds a record which nobody else was heard to hold.
fn alone_with_a_record() -> (Stage, dht::node::action::ConnId) {
    let mut stage = Stage::founder();
    let asker = stage.accept_client(9);
    stage.ask(asker, Request::Store(block(1, b"value")));
    let conn = stage.befriend(2);
    stage.pass(millis(0));
    let offers = stage.offers();
    assert_eq!(offers.len(), 1, "to whom it has just met");
    stage.reply(conn, offers[0].1, Reply::Error(ErrorCode::SERVER_ERROR));
    (stage, conn)
}

#[test]
fn records_that_few_hold_are_handed_over_before_the_goodbye() {
    let (mut stage, conn) = alone_with_a_record();
    leave(&mut stage);
    stage.pass(millis(0));
    let copies = stage.copies_wanted();
    let [(to, rpc, copy)] = copies[..] else { panic!("{copies:?}") };
    assert_eq!((to, copy.key), (conn, key(1)));
    assert!(!stage.node.has_left(), "it is not held yet");
    stage.reply(to, rpc, stored(&copy));
    assert!(stage.node.has_left());
    assert_eq!(stage.said(conn), [PeerMessage::Goodbye]);
}

#[test]
fn records_that_nobody_takes_do_not_hold_up_the_leave_beyond_its_time() {
    let (mut stage, conn) = alone_with_a_record();
    leave(&mut stage);
    for _ in 0..99 {
        stage.pass(millis(100));
        stage.tell(conn, &PeerMessage::Request(dht::id::RpcId::new([1; 32]), Request::Ping));
        for (conn, rpc, entries) in stage.offers() {
            let keys = [entries[0].key];
            stage.reply(conn, rpc, Reply::Wanted(dht::wire::codec::List::lend(&keys)));
        }
    }
    stage.pass(millis(100));
    assert!(stage.node.has_left());
}

#[test]
fn a_node_whose_records_others_hold_leaves_without_offering_them() {
    let (mut stage, conn) = alone_with_a_record();
    stage.ask(conn, Request::Store(block(1, b"value")));
    leave(&mut stage);
    stage.pass(millis(0));
    assert_eq!(stage.offers(), []);
    assert!(stage.node.has_left());
}

#[test]
fn a_node_that_nobody_is_left_to_hand_records_to_leaves_at_once() {
    let (mut stage, conn) = alone_with_a_record();
    stage.script(2);
    stage.tell(conn, &PeerMessage::Goodbye);
    leave(&mut stage);
    assert!(stage.node.has_left());
}
