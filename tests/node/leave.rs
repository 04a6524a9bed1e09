//! Leaving: a node answers pending requests, then says GOODBYE, within `leave_timeout`.

use dht::node::params::{Durability, Params};
use dht::node::{Node, Status};
use dht::wire::api::ApiReply;
use dht::wire::codec::List;
use dht::wire::peer::{ErrorCode, PeerMessage, Reply, Request};

use crate::harness::{
    Disk, Harness, block, confirmed, contact, failure, key, millis, nodes, quiet, secs, stored, success, value_of,
};

fn leave(harness: &mut Harness) {
    harness.act(Node::leave);
}

#[test]
fn a_node_without_pending_requests_says_goodbye_and_has_left() {
    let mut harness = Harness::founder();
    let (contact, client, unreached) = (harness.add_contact(1), harness.accept_client(2), harness.accept(3));
    harness.sent(unreached);
    leave(&mut harness);
    assert!(harness.node.has_left());
    for conn in [contact, client] {
        assert_eq!(harness.sent(conn), [PeerMessage::Goodbye]);
        assert!(harness.has_closed(conn));
    }
    assert_eq!(harness.sent(unreached), [], "no HELLO came from it");
    assert!(harness.has_closed(unreached));
    assert_eq!(harness.node.connections(), 0);
}

#[test]
fn pending_client_requests_are_answered_before_the_goodbye() {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    let (reader, writer) = (harness.get(key(7)), harness.put(confirmed(1, b"v")));
    leave(&mut harness);
    assert_eq!(harness.node.status(), Status::Leaving);
    assert!(!harness.node.wants_requests());
    let found = harness.all_requests(|request| matches!(request, Request::FindValue { .. }).then_some(()));
    let copies = harness.copies();
    harness.reply(conn, found[0].1, value_of(block(7, b"owed")));
    assert_eq!(harness.answer(reader), success(7, b"owed"));
    assert!(!harness.node.has_left());
    harness.reply(conn, copies[0].1, stored(&copies[0].2));
    assert_eq!(harness.answer(writer), success(1, b""));
    harness.pass(millis(0));
    let [(to, rpc, _)] = harness.offers()[..] else { panic!("it does not ask whether the record is stored") };
    harness.reply(to, rpc, Reply::Wanted(List::lend(&[])));
    assert!(harness.node.has_left(), "what was put is stored by another one");
    assert_eq!(harness.sent(conn), [PeerMessage::Goodbye]);
}

/// A lookup in flight may still have to dial.
#[test]
fn a_pending_get_may_still_dial_while_the_node_leaves() {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    let client = harness.get(key(7));
    leave(&mut harness);
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, nodes(&[contact(6)]));
    let dial = harness.dial_of(6);
    let replica = harness.complete_dial(dial, 6);
    let (rpc, _) = harness.only_request(replica);
    harness.reply(replica, rpc, value_of(block(7, b"owed")));
    assert_eq!(harness.answer(client), success(7, b"owed"));
    assert!(harness.node.has_left());
}

/// Section 1, rule 2: every GET is answered exactly once.
#[test]
fn at_leave_timeout_a_node_fails_its_pending_requests_and_leaves() {
    let mut harness = Harness::new(Params { leave_timeout: secs(1), ..Params::default() });
    let conn = harness.add_contact(1);
    let (reader, writer) = (harness.get(key(7)), harness.put(confirmed(1, b"v")));
    leave(&mut harness);
    harness.pass(millis(999));
    assert!(!harness.node.has_left());
    harness.forget_actions();
    harness.pass(millis(1));
    assert!(harness.node.has_left());
    assert_eq!((harness.answer(reader), harness.answer(writer)), (failure(7), failure(1)));
    assert_eq!(harness.sent(conn), [PeerMessage::Goodbye], "and nothing is asked any more");
    assert_eq!(harness.node.next_deadline(), None, "no timer is left behind");
}

#[test]
fn a_node_that_never_joined_leaves_in_time_too() {
    let mut harness = Harness::newcomer();
    let client = harness.get(key(7));
    leave(&mut harness);
    harness.pass(secs(10));
    assert!(harness.node.has_left());
    assert!(matches!(harness.answer(client), Some(ApiReply::Failure { .. })));
}

#[test]
fn a_leaving_node_says_goodbye_to_new_connections() {
    let mut harness = Harness::founder();
    harness.add_contact(1);
    harness.get(key(7));
    leave(&mut harness);
    let conn = harness.accept(2);
    assert!(matches!(harness.sent(conn)[..], [PeerMessage::Hello(_), PeerMessage::Goodbye]));
}

#[test]
fn a_second_leave_has_no_effect() {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    leave(&mut harness);
    leave(&mut harness);
    assert_eq!(harness.sent(conn), [PeerMessage::Goodbye]);
}

#[test]
fn a_malformed_message_of_the_last_awaited_peer_does_not_delay_the_leave() {
    let mut harness = Harness::founder();
    let conn = harness.add_contact(1);
    let client = harness.get(key(7));
    leave(&mut harness);
    let refusal = Reply::Error(ErrorCode::SERVER_ERROR);
    let (rpc, _) = harness.only_request(conn);
    harness.reply(conn, rpc, refusal);
    harness.make_scripted(1);
    harness.send(conn, &crate::harness::hello());
    assert_eq!(harness.answer(client), failure(7));
    assert!(harness.node.has_left(), "nothing is owed any more");
}

/// A node that holds the only known copy of a record.
fn alone_with_a_record() -> (Harness, dht::node::action::ConnId) {
    let mut harness = Harness::founder();
    let asker = harness.accept_client(9);
    harness.ask(asker, Request::Store(block(1, b"value")));
    let conn = harness.add_contact(2);
    harness.pass(millis(0));
    let offers = harness.offers();
    assert_eq!(offers.len(), 1, "to the new contact");
    harness.reply(conn, offers[0].1, Reply::Error(ErrorCode::SERVER_ERROR));
    (harness, conn)
}

#[test]
fn records_with_too_few_replicas_are_handed_over_before_the_goodbye() {
    let (mut harness, conn) = alone_with_a_record();
    leave(&mut harness);
    harness.pass(millis(0));
    let copies = harness.want_all_offers();
    let [(to, rpc, copy)] = copies[..] else { panic!("{copies:?}") };
    assert_eq!((to, copy.key), (conn, key(1)));
    assert!(!harness.node.has_left(), "it is not held yet");
    harness.reply(to, rpc, stored(&copy));
    harness.pass(millis(0));
    let [(to, rpc, _)] = harness.offers()[..] else { panic!("it does not ask whether the record is stored") };
    harness.reply(to, rpc, Reply::Wanted(List::lend(&[])));
    assert!(harness.node.has_left());
    assert_eq!(harness.sent(conn), [PeerMessage::Goodbye]);
}

#[test]
fn records_that_no_peer_stores_do_not_delay_the_leave_past_leave_timeout() {
    let (mut harness, conn) = alone_with_a_record();
    leave(&mut harness);
    for _ in 0..99 {
        harness.pass(millis(100));
        harness.send(conn, &PeerMessage::Request(dht::id::RpcId::new([1; 32]), Request::Ping));
        for (conn, rpc, entries) in harness.offers() {
            let keys = [entries[0].key];
            harness.reply(conn, rpc, Reply::Wanted(List::lend(&keys)));
        }
    }
    harness.pass(millis(100));
    assert!(harness.node.has_left());
}

/// What a peer was known to store counts for nothing: it may be leaving too.
#[test]
fn a_node_whose_records_have_other_replicas_leaves_once_they_say_so_again() {
    let (mut harness, conn) = alone_with_a_record();
    harness.ask(conn, Request::Store(block(1, b"value")));
    leave(&mut harness);
    harness.pass(millis(0));
    let offers = harness.offers();
    assert_eq!(offers.len(), 1);
    assert!(!harness.node.has_left());
    harness.reply(conn, offers[0].1, Reply::Wanted(List::lend(&[])));
    assert!(harness.node.has_left());
    assert_eq!(harness.node.lost_records(), 0);
}

/// The same node, which begins to leave, with a second contact.
fn leaving_with_two_contacts() -> (Harness, dht::node::action::ConnId) {
    let (mut harness, conn) = alone_with_a_record();
    harness.add_contact(3);
    harness.pass(millis(0));
    for (to, rpc, _) in harness.offers() {
        harness.reply(to, rpc, Reply::Wanted(List::lend(&[])));
    }
    harness.pass(secs(5));
    harness.forget_actions();
    leave(&mut harness);
    harness.pass(millis(0));
    (harness, conn)
}

#[test]
fn records_are_offered_to_the_next_node_if_a_replica_is_leaving_too() {
    let (mut harness, conn) = leaving_with_two_contacts();
    for (to, rpc, _) in harness.offers() {
        harness.reply(to, rpc, Reply::Error(ErrorCode::LEAVING));
    }
    assert!(!harness.knows(2) && !harness.knows(3), "leaving nodes are no contacts");
    assert!(harness.node.has_left(), "no reachable node stays");
    assert_eq!(harness.node.lost_records(), 0, "the record is on disk");
    assert_eq!(harness.sent(conn), [PeerMessage::Goodbye]);
}

#[test]
fn records_are_offered_again_when_a_replica_says_goodbye_after_it_took_them() {
    let (mut harness, conn) = leaving_with_two_contacts();
    for (to, rpc, copy) in harness.want_all_offers() {
        harness.reply(to, rpc, stored(&copy));
    }
    assert!(!harness.node.has_left(), "it asks whether they still stay");
    harness.pass(millis(0));
    harness.send(conn, &PeerMessage::Goodbye);
    for (to, rpc, _) in harness.offers() {
        harness.reply(to, rpc, Reply::Wanted(List::lend(&[])));
    }
    harness.pass(secs(1));
    let [(to, rpc, _)] = harness.offers()[..] else { panic!("not one more offer, to the node that stays") };
    harness.reply(to, rpc, Reply::Wanted(List::lend(&[])));
    assert!(harness.node.has_left());
}

#[test]
fn records_that_are_neither_handed_over_nor_on_disk_are_counted() {
    for (durability, lost) in [(Durability::Always, 1), (Durability::None, 0)] {
        let mut harness = Harness::new(Params { durability, leave_timeout: secs(1), ..Params::default() });
        harness.disk = Disk::Fails;
        harness.put(quiet(1, b"value"));
        leave(&mut harness);
        harness.pass(secs(1));
        assert!(harness.node.has_left());
        assert_eq!(harness.node.lost_records(), lost, "{durability:?}");
    }
}

#[test]
fn a_node_without_contacts_leaves_at_once_despite_its_records() {
    let (mut harness, conn) = alone_with_a_record();
    harness.make_scripted(2);
    harness.send(conn, &PeerMessage::Goodbye);
    leave(&mut harness);
    assert!(harness.node.has_left());
}

/// A peer that wants one record may lack another one, for which it has no room yet.
#[test]
fn a_record_that_is_not_wanted_beside_another_one_does_not_count_as_handed_over() {
    let mut harness = Harness::new(Params { leave_timeout: secs(1), ..Params::default() });
    let asker = harness.accept_client(9);
    for n in [1, 2] {
        harness.ask(asker, Request::Store(block(n, b"value")));
    }
    harness.add_contact(2);
    harness.make_scripted(2);
    harness.disk = Disk::Fails;
    leave(&mut harness);
    harness.pass(millis(0));
    for (conn, rpc, _) in harness.offers() {
        harness.reply(conn, rpc, Reply::Wanted(List::lend(&[key(1)])));
    }
    harness.pass(millis(0));
    for (conn, rpc, copy) in harness.copies() {
        harness.reply(conn, rpc, stored(&copy));
    }
    harness.pass(secs(1));
    assert!(harness.node.has_left());
    assert_eq!(harness.node.lost_records(), 1);
}
