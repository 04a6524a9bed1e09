//! Which contacts survive a restart: those of the table, and those that have just left.

use dht::node::Node;
use dht::node::action::{ConnId, DialError};
use dht::node::params::Params;
use dht::node::persisted::Saved;
use dht::wire::peer::{ErrorCode, PeerMessage, Reply};

use crate::durability::store;
use crate::harness::{Disk, Harness, block, bootstrap, secs};

/// A founder with `peers` as contacts, which are on disk; from now on the disk waits for the test.
fn with_contacts_on_disk(peers: impl IntoIterator<Item = u8>) -> Harness {
    let mut harness = Harness::with_contacts(Params::default(), peers);
    harness.pass(secs(61));
    harness.disk = Disk::Waits;
    harness
}

/// The contacts in the latest batch that has any.
fn written(harness: &mut Harness) -> Option<Vec<u8>> {
    let batches = harness.batches();
    let contacts = batches.iter().rev().find_map(|batch| batch.contacts.clone())?;
    Some(contacts.iter().map(|contact| contact.id.key().as_bytes()[0]).collect())
}

fn say_goodbye(harness: &mut Harness, peer: u8) {
    let conn = harness.accept(peer);
    harness.send(conn, &crate::harness::hello());
    harness.send(conn, &PeerMessage::Goodbye);
}

/// A founder that is killed in its first minute would otherwise found another network.
#[test]
fn the_first_contacts_of_a_run_are_persisted_within_a_second_and_changes_within_a_minute() {
    let mut harness = Harness::founder();
    harness.disk = Disk::Waits;
    harness.add_contact(1);
    harness.pass(secs(1));
    assert_eq!(written(&mut harness), Some(vec![1]));
    harness.act(|node, now, out| node.on_saved(now, Saved::Durable, out));
    harness.add_contact(2);
    harness.pass(secs(59));
    assert_eq!(written(&mut harness), None);
    harness.pass(secs(1));
    assert_eq!(written(&mut harness), Some(vec![1, 2]));
}

/// All nodes of a network are stopped at the same time.
#[test]
fn contacts_that_said_goodbye_are_persisted_by_a_node_that_stops_right_afterwards() {
    let mut harness = with_contacts_on_disk([1, 2]);
    say_goodbye(&mut harness, 1);
    say_goodbye(&mut harness, 2);
    assert!(harness.node.table().is_empty());
    harness.act(Node::leave);
    assert_eq!(written(&mut harness), Some(vec![2, 1]), "the latest first");
}

#[test]
fn a_contact_that_refuses_requests_because_it_is_leaving_is_persisted_too() {
    let mut harness = with_contacts_on_disk([1]);
    harness.make_scripted(1);
    harness.get(crate::harness::key(7));
    let asked = harness.all_requests(|_| Some(()));
    harness.reply(asked[0].0, asked[0].1, Reply::Error(ErrorCode::LEAVING));
    assert!(harness.node.table().is_empty());
    harness.act(Node::leave);
    assert_eq!(written(&mut harness), Some(vec![1]));
}

#[test]
fn live_contacts_are_persisted_before_those_that_have_left_and_these_for_a_while() {
    let mut harness = with_contacts_on_disk([1, 2, 3]);
    say_goodbye(&mut harness, 1);
    harness.pass(secs(60));
    assert_eq!(written(&mut harness), Some(vec![2, 3, 1]));
    harness.act(|node, now, out| node.on_saved(now, Saved::Durable, out));
    harness.pass(secs(600));
    say_goodbye(&mut harness, 2);
    harness.act(Node::leave);
    assert_eq!(written(&mut harness), Some(vec![3, 2]), "the first one left ten minutes ago");
}

#[test]
fn a_contact_that_comes_back_is_persisted_once() {
    let mut harness = with_contacts_on_disk([1, 2]);
    say_goodbye(&mut harness, 1);
    harness.make_scripted(1);
    harness.close(ConnId(2));
    harness.add_contact(1);
    harness.act(Node::leave);
    let mut contacts = written(&mut harness).expect("they have changed");
    contacts.sort_unstable();
    assert_eq!(contacts, [1, 2]);
}

/// Another node is at the address of the only contact, so nobody is left.
#[test]
fn an_empty_list_of_contacts_never_replaces_an_earlier_one() {
    let mut harness = with_contacts_on_disk([1]);
    harness.make_scripted(1);
    for conn in [1, 2] {
        harness.close(ConnId(conn));
    }
    let dial = harness.dial_of(1);
    harness.fail(dial, DialError::NotAuthentic);
    assert!(harness.node.table().is_empty());
    harness.pass(secs(120));
    harness.act(Node::leave);
    assert_eq!(written(&mut harness), None);
}

#[test]
fn a_node_that_leaves_while_a_batch_is_being_written_persists_its_contacts_with_the_next_one() {
    let mut harness = with_contacts_on_disk([1, 2]);
    let conn = harness.accept_client(9);
    store(&mut harness, conn, block(1, b"v"));
    harness.pass(secs(2));
    assert_eq!(written(&mut harness), None, "the record alone");
    say_goodbye(&mut harness, 1);
    say_goodbye(&mut harness, 2);
    harness.act(Node::leave);
    assert_eq!(written(&mut harness), None, "one batch at a time");
    harness.act(|node, now, out| node.on_saved(now, Saved::Durable, out));
    harness.pass(secs(0));
    assert_eq!(written(&mut harness), Some(vec![2, 1]));
    assert!(!harness.node.has_left());
    harness.act(|node, now, out| node.on_saved(now, Saved::Durable, out));
    assert!(harness.node.has_left());
}

#[test]
fn a_node_without_contacts_does_not_wait_for_its_disk_when_it_leaves() {
    let mut harness = Harness::new(Params { bootstraps: vec![bootstrap(1, None)], ..Params::default() });
    harness.disk = Disk::Waits;
    harness.act(Node::leave);
    assert!(harness.node.has_left());
}
