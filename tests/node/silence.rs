//! All other nodes fall silent: that says nothing of the key of a request in flight, which waits until they answer
//! again, or until its deadline (section 1, rules 2 and 3).

use dht::id::Key;
use dht::node::Status;
use dht::node::action::ClientId;
use dht::node::params::Params;
use dht::wire::api::ApiRequest;

use crate::harness::{confirmed, failure, key, millis, secs, success};
use crate::mini_network::MiniNetwork;

const NODES: u8 = 6;
const REPLICAS: usize = 3;

/// A network in which the key 2 is stored, and a node that does not store it.
fn network() -> (MiniNetwork, u8) {
    let params = Params { replication_default: 3, ..Params::default() };
    let mut network = MiniNetwork::joined(1..=NODES, &params);
    let replicas = network.nearest(key(2), REPLICAS);
    let alone = (2..=NODES).find(|number| !replicas.contains(number)).expect("more nodes than replicas");
    let writer = *replicas.first().expect("some");
    assert_eq!(network.request(writer, ApiRequest::Put(confirmed(2, b"v"))), success(2, b""));
    assert!(!network.held(key(2)).contains_key(&alone));
    (network, alone)
}

fn get(network: &mut MiniNetwork, at: u8, key: Key) -> ClientId {
    network.ask(at, ApiRequest::Get { key })
}

#[test]
fn a_get_that_no_node_answers_waits_and_gets_the_value_when_they_answer_again() {
    for silent in [1, 3, 5] {
        let (mut network, alone) = network();
        network.isolate([alone]);
        let client = get(&mut network, alone, key(2));
        network.pass(secs(silent));
        assert_eq!(network.answer(client), None, "{silent} s");
        network.isolate([]);
        network.pass(millis(9_999 - 1_000 * silent));
        assert_eq!(network.answer(client), success(2, b"v"), "{silent} s");
    }
}

#[test]
fn a_get_that_no_node_answers_fails_at_its_deadline_and_no_earlier() {
    let (mut network, alone) = network();
    network.isolate([alone]);
    let client = get(&mut network, alone, key(2));
    network.pass(millis(9_999));
    assert_eq!(network.answer(client), None);
    network.pass(secs(1));
    assert_eq!(network.answer(client), failure(2));
    assert_eq!(network.nodes[&alone].status(), Status::Joining);
}

#[test]
fn a_put_that_no_other_node_answers_is_not_confirmed_by_the_own_copy() {
    for silent in [1, 3, 5] {
        let (mut network, alone) = network();
        network.isolate([alone]);
        let client = network.ask(alone, ApiRequest::Put(confirmed(3, b"w")));
        network.pass(secs(silent));
        assert_eq!(network.answer(client), None, "{silent} s");
        network.isolate([]);
        network.pass(secs(10 - silent));
        assert_eq!(network.answer(client), success(3, b""), "{silent} s");
        assert!(network.held(key(3)).len() >= REPLICAS, "{silent} s");
    }
}

#[test]
fn a_put_that_no_other_node_answers_fails_at_its_deadline_and_is_stored_when_they_answer_again() {
    let (mut network, alone) = network();
    network.isolate([alone]);
    let client = network.ask(alone, ApiRequest::Put(confirmed(3, b"w")));
    network.pass(secs(30));
    assert_eq!(network.answer(client), failure(3));
    network.isolate([]);
    network.pass(secs(60));
    assert!(network.held(key(3)).len() >= REPLICAS);
}
