//! A node that peers cannot dial is a contact of nobody, so PUTs do not find it (section 2, HELLO).

use dht::contact::Contact;
use dht::node::action::Origin;
use dht::wire::api::Put;
use dht::wire::peer::{FLAG_DIALLED, FLAG_SERVING, Hello, PeerMessage, RecordBlock, Request};

use crate::harness::{Harness, address, block, confirmed, contact, greeting, hello, id, key, nodes, stored, success};
use crate::missed::{asker, is_tentative};

/// A node that has dialled its contacts 1 to 3; none of them has dialled it.
fn undialled() -> Harness {
    let mut harness = Harness::founder();
    for peer in 1..=3 {
        let first = harness.accept(peer);
        harness.send(first, &hello());
        let dial = harness.dial_of(peer);
        harness.close(first);
        let conn = harness.secure(id(peer), address(peer), Origin::Dialled(dial));
        harness.send(conn, &PeerMessage::Hello(Hello { flags: FLAG_SERVING, ..greeting() }));
        harness.make_automatic(peer);
    }
    harness.forget_actions();
    harness
}

#[test]
fn a_node_returns_its_records_alone_once_half_of_its_contacts_have_dialled_it() {
    let mut harness = undialled();
    let asker = asker(&mut harness);
    let record = RecordBlock { replication: 4, ..block(1, b"v") };
    assert_eq!(harness.ask(asker, Request::Store(record)), stored(&record));
    for (peer, is_enough) in [(0, false), (1, false), (2, true)] {
        if peer > 0 {
            let conn = harness.accept(peer);
            harness.send(conn, &hello());
        }
        assert_eq!(is_tentative(&mut harness, asker), !is_enough, "{peer}");
        let reader = harness.get(key(1));
        assert_eq!(harness.answer(reader), is_enough.then(|| success(1, b"v").expect("an answer")), "{peer}");
    }
}

#[test]
fn the_copy_of_a_node_that_nobody_has_dialled_does_not_count() {
    let mut harness = undialled();
    let client = harness.put(Put { replication: 3, ..confirmed(128, b"v") }); // this node is the closest
    let copies = harness.copies();
    assert_eq!((copies.len(), harness.node.storage().len()), (3, 0));
    for (conn, rpc, copy) in copies {
        assert_eq!(harness.answer(client), None);
        harness.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(harness.answer(client), success(128, b""));
}

/// A peer that has this node as a contact need not dial it again, for example after a restart.
#[test]
fn a_hello_says_whether_the_receiver_is_a_contact() {
    let mut harness = Harness::with_contacts(dht::node::params::Params::default(), [1]);
    for (peer, is_contact) in [(1, true), (2, false)] {
        let conn = harness.accept(peer);
        let said = harness.sent(conn);
        let Some(PeerMessage::Hello(said)) = said.first() else { panic!("{said:?}") };
        assert_eq!(said.flags & FLAG_DIALLED != 0, is_contact);
    }
}

/// Contacts that peers have named do not answer.
#[test]
fn dials_of_lookups_leave_room_for_those_that_dial_a_newcomer_back() {
    let mut harness = Harness::with_contacts(dht::node::params::Params::default(), [1]);
    harness.make_scripted(1);
    for nth in 0..80 {
        harness.get(key(nth));
        let named: Vec<Contact> = (0..3).map(|other| contact(10 + 3 * nth + other)).collect();
        for (conn, rpc, ()) in harness.all_requests(|asked| matches!(asked, Request::FindValue { .. }).then_some(())) {
            harness.reply(conn, rpc, nodes(&named));
        }
    }
    assert_eq!(harness.dials().len(), 224);
    let newcomer = harness.accept(5);
    harness.send(newcomer, &hello());
    harness.dial_of(5);
}
